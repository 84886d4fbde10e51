"""`evsession diff`: what lies between two moments of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evsession.cli.connect import App, AsJson, SessionId, fail, reading, run
from evsession.cli.history import check_session_id
from evsession.cli.when import moment_of

if TYPE_CHECKING:
    from evsession.audit import Difference


def diff(
    session: SessionId,
    a: Annotated[
        str, typer.Argument(metavar="FROM", help="A version, 0 being before the first event; a time; or an age.")
    ],
    b: Annotated[
        str,
        typer.Argument(metavar="TO", help="A version, a time such as 2026-11-21T08:30:00, an age such as 2h, or now."),
    ],
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Print which keys changed between two versions or moments of a session.

    evsession diff 00c3RhcmZpc2hzdGFyZmlzaA 3 7

    evsession diff 00c3RhcmZpc2hzdGFyZmlzaA 2026-11-21T08:00 2026-11-21T09:00 --json

    evsession diff 00c3RhcmZpc2hzdGFyZmlzaA 2h now
    """
    from evsession.cli.rendering import plain_difference, print_difference, print_json

    difference = run(_difference(app, session, a, b))
    if difference.before is None and difference.after is None:
        fail(f"session {session} existed at neither, as far as the log tells; see `evsession history {session}`")
    for text, state in ((a, difference.before), (b, difference.after)):
        if state is not None and isinstance(wanted := moment_of(text), int) and state.version < wanted:
            fail(f"session {session} has no version {wanted}; its last is {state.version}")
    if as_json:
        print_json(plain_difference(difference))
    else:
        print_difference(difference)


async def _difference(app: str | None, session: str, a: str, b: str) -> Difference:
    check_session_id(session)
    moments = moment_of(a), moment_of(b)
    async with reading(app) as manager:
        return await manager.audit.diff(session, *moments)
