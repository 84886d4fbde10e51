"""What `evsession history` reads and prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evsession.canonical import dumps
from evsession.errors import ConfigError
from evsession.events import RecordedEvent
from evsession.manager import SessionManager

MOST_SHOWN: Final = 90
"""Characters of an event's changes in the table; `--json` has all of them."""

_SID: Final = re.compile(r"[0-9a-z]{2}[\w-]{22}", re.ASCII)


async def read_history(session_id: str, limit: int) -> Sequence[RecordedEvent]:
    """Return the last events of a session from the store that the environment names.

    Raises:
        ConfigError: the environment names none, or the argument is no session's id.
        StoreUnavailable: it did not answer.
    """
    if not _SID.fullmatch(session_id):
        msg = "this is no session id; pass the public id, 24 characters such as session.info.id, never the whole cookie"
        raise ConfigError(msg)
    async with SessionManager.from_env() as manager:
        return await manager.audit.history(session_id, limit)


def show_history(events: Iterable[RecordedEvent], *, as_json: bool) -> None:
    """Print events as a table, or as one JSON object a line."""
    console = Console(highlight=False)
    if as_json:
        for event in events:
            console.out(dumps(plain(event)).decode(), highlight=False)
    else:
        console.print(history_table(events))


def plain(event: RecordedEvent) -> dict[str, Any]:
    """Return an event as JSON can hold it."""
    actor = event.actor
    return {
        "id": event.id,
        "session_id": event.session_id,
        "version": event.version,
        "type": event.type,
        "at": event.at.isoformat(timespec="milliseconds"),
        "actor": None if actor is None else {"kind": actor.kind, "id": actor.id},
        "user_id": event.user_id,
        "context": dict(event.context),
        "set": dict(event.set),
        "unset": list(event.unset),
        "cause": event.cause,
        "reason": event.reason,
    }


def history_table(events: Iterable[RecordedEvent], title: str | None = None) -> Table:
    """Return a table of events."""
    table = Table("version", "at (UTC)", "event", "what", "route", title=title, title_justify="left")
    for event in events:
        at = event.at.strftime("%H:%M:%S.%f")[:-3]
        route = str(event.context.get("route", ""))
        table.add_row(str(event.version), at, event.type, Text(what_of(event)), Text(printable(route)))
    return table


def what_of(event: RecordedEvent) -> str:
    """Return in one line what an event did."""
    parts = [f"{key} = {dumps(value).decode()}" for key, value in event.set.items()]
    parts += [f"without {key}" for key in event.unset]
    if event.type == "authenticated":
        parts.insert(0, f"user {event.user_id}")
    if event.cause is not None:
        parts.append(f"cause {event.cause}")
    if event.reason:
        parts.append(event.reason)
    line = printable(", ".join(parts))
    return line if len(line) <= MOST_SHOWN else f"{line[: MOST_SHOWN - 1]}…"


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: clients wrote parts of it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
