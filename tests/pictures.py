"""Draw docs/pictures: `tail` and `explain` as a person sees them. `python -m tests.pictures`."""

from __future__ import annotations

import asyncio
import io
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from starlette.applications import Starlette
from starlette.routing import Route

from evsession import Actor, Session, SessionMiddleware
from evsession.cli.rendering import event_line, print_explanation
from tests.integration.apps import Browser, Clock, in_memory, perform, setting

FOLDER: Final = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH: Final = 120
ROUTES: Final = {
    "/cart": "POST", "/login": "POST", "/support/as/{user}": "POST", "/settings": "PUT", "/logout": "POST",
}  # fmt: skip


def main() -> None:
    """Write both pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, picture in asyncio.run(pictures()).items():
        (FOLDER / name).write_text(picture)
        print(f"written: {FOLDER / name}")


async def pictures() -> dict[str, str]:
    """Return each picture under the name of its file."""
    clock, ada, bob = Clock(), Browser(), Browser()
    manager = in_memory(clock=clock)
    routes = [Route(path, perform, methods=[method]) for path, method in ROUTES.items()]
    app = SessionMiddleware(Starlette(routes=routes), manager=manager)
    visits = (
        (ada, setting(cart=["assam"]), "/cart", "POST"),
        (ada, partial(Session.login, user_id="ada"), "/login", "POST"),
        (bob, partial(Session.login, user_id="bob", actor=Actor.admin("joe")), "/support/as/bob", "POST"),
        (ada, setting(cart=["assam", "sencha"], card_number="4111"), "/cart", "POST"),
        (bob, setting(theme="dark"), "/settings", "PUT"),
        (bob, Session.logout, "/logout", "POST"),
    )
    for browser, act, path, method in visits:
        clock.advance(seconds=3.7)
        answer = await browser.visit(app, act, path=path, method=method)
        assert answer.status == 200
    clock.advance(seconds=41)
    with manager.acting_as(Actor.admin("joe"), ticket="OPS-12"):
        await manager.revoke(ada.session_id, reason="lost phone")
    lines = _console()
    for event in [event async for event in manager.audit.replay()]:
        line = event_line(event)
        line.truncate(WIDTH, overflow="ellipsis")
        lines.print(line)
    why = _console()
    history = await manager.audit.history(ada.session_id)
    print_explanation(await manager.audit.explain(ada.session_id), history, why)
    return {
        "tail.svg": lines.export_svg(title="evsession tail --since 15m"),
        "explain.svg": why.export_svg(title=f"evsession explain {ada.session_id}"),
    }


def _console() -> Console:
    return Console(record=True, width=WIDTH, highlight=False, file=io.StringIO(), force_terminal=True)


if __name__ == "__main__":
    main()
