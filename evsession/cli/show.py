"""`evsession show`: a session as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evsession.cli.connect import App, AsJson, SessionId, fail, reading, run
from evsession.cli.history import check_session_id
from evsession.cli.when import moment_of
from evsession.errors import ConfigError

if TYPE_CHECKING:
    from evsession.audit import PastState


def show(
    session: SessionId,
    version: Annotated[int | None, typer.Option(min=1, help="After this event of it.")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="WHEN", help="At this moment: 2026-11-21T08:30:00, or so long ago: 15m, 2h.")
    ] = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Print a session as it was after an event or at a moment; without either, as it is.

    evsession show 00c3RhcmZpc2hzdGFyZmlzaA --version 3

    evsession show 00c3RhcmZpc2hzdGFyZmlzaA --at 2026-11-21T08:30:00+01:00
    """
    from evsession.cli.rendering import plain_state, print_json, print_state

    state = run(_state(app, session, version, at))
    if state is None:
        fail(f"session {session} did not exist then, as far as the log tells; see `evsession history {session}`")
    if version is not None and state.version < version:
        fail(f"session {session} has no version {version}; its last is {state.version}")
    if as_json:
        print_json(plain_state(state))
    else:
        print_state(state)


async def _state(app: str | None, session: str, version: int | None, at: str | None) -> PastState | None:
    from evsession.audit.travel import MAX_VERSION

    check_session_id(session)
    if version is not None and at is not None:
        msg = "--version and --at contradict each other; pass one of them"
        raise ConfigError(msg)
    moment = moment_of(at) if at is not None else version or MAX_VERSION
    async with reading(app) as manager:
        if isinstance(moment, int):
            return await manager.audit.state_at(session, version=moment)
        return await manager.audit.state_at(session, at=moment)
