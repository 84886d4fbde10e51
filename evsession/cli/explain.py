"""`evsession explain`: why a session is over, or until when it lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evsession.cli.connect import App, AsJson, SessionId, fail, reading, run
from evsession.cli.history import check_session_id

if TYPE_CHECKING:
    from evsession.audit import Explanation, History


def explain(
    session: SessionId,
    events: Annotated[int, typer.Option(min=0, max=100, help="How many of its last events to print with it.")] = 5,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Say when, why, by whom and from where a session ended, or until when it lives.

    evsession explain 00c3RhcmZpc2hzdGFyZmlzaA

    evsession explain 00c3RhcmZpc2hzdGFyZmlzaA --app shop.main:manager --json
    """
    from evsession.cli.rendering import plain_explanation, print_explanation, print_json

    why, history = run(_explained(app, session, events))
    if why.status == "unknown":
        fail(f"{why.sentence[:-1]}; check the id, the namespace and the server")
    if as_json:
        print_json(plain_explanation(why))
    else:
        print_explanation(why, history[-events:] if events else ())


async def _explained(app: str | None, session: str, events: int) -> tuple[Explanation, History]:
    check_session_id(session)
    async with reading(app) as manager:
        return await manager.audit.explain(session), await manager.audit.history(session, max(events, 1))
