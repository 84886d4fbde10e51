"""`evsession history`: the events of one session."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from evsession.cli.connect import App, AsJson, SessionId, fail, reading, run
from evsession.errors import ConfigError

if TYPE_CHECKING:
    from evsession.events import RecordedEvent

_SID: Final = re.compile(r"[0-9a-z]{2}[\w-]{22}", re.ASCII)


def history(
    session: SessionId,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many of the last events.")] = 1000,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Print the events of a session, oldest first, as the log has them.

    evsession history 00c3RhcmZpc2hzdGFyZmlzaA

    evsession history 00c3RhcmZpc2hzdGFyZmlzaA --app shop.main:manager --json
    """
    from evsession.cli.rendering import history_table, plain, print_json, print_table

    events = run(_events(app, session, limit))
    if not events:
        fail(f"the log has no events of session {session!r}; check the id, the namespace and the server")
    if not as_json:
        print_table(history_table(events))
        return
    for event in events:
        print_json(plain(event))


async def _events(app: str | None, session: str, limit: int) -> Sequence[RecordedEvent]:
    check_session_id(session)
    async with reading(app) as manager:
        return await manager.audit.history(session, limit)


def check_session_id(text: str) -> None:
    """Raise unless a text has the form of a session's id; it is not quoted, as it may be a whole cookie.

    Raises:
        ConfigError: it has not.
    """
    if not _SID.fullmatch(text):
        msg = "this is no session id; pass the public id, 24 characters such as session.info.id, never the whole cookie"
        raise ConfigError(msg)
