"""`evsession diff`: what lies between two moments of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evsession.cli.connect import App, AsJson, SessionId, reading, run
from evsession.cli.history import check_session_id

if TYPE_CHECKING:
    from evsession.audit import Difference


def diff(
    session: SessionId,
    a: Annotated[str, typer.Argument(metavar="FROM", help="A version, 0 being before the first event, or a time.")],
    b: Annotated[str, typer.Argument(metavar="TO", help="A version, or a time such as 2026-11-21T08:30:00.")],
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Print which keys changed between two versions or moments of a session.

    evsession diff 00c3RhcmZpc2hzdGFyZmlzaA 3 7

    evsession diff 00c3RhcmZpc2hzdGFyZmlzaA 2026-11-21T08:00 2026-11-21T09:00 --json
    """
    from evsession.cli.rendering import plain_difference, print_difference, print_json

    difference = run(_difference(app, session, a, b))
    if as_json:
        print_json(plain_difference(difference))
    else:
        print_difference(difference)


async def _difference(app: str | None, session: str, a: str, b: str) -> Difference:
    from evsession.audit.travel import parse_moment

    check_session_id(session)
    moments = parse_moment(a), parse_moment(b)
    async with reading(app) as manager:
        return await manager.audit.diff(session, *moments)
