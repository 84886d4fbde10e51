"""How events look in a terminal and as JSON; what clients wrote never steers a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evsession.canonical import dumps

if TYPE_CHECKING:
    from evsession.events import Actor, RecordedEvent

MOST_SHOWN: Final = 90
"""Characters of an event's changes in a table; `--json` has all of them."""


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    print(dumps(value).decode())


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal is."""
    Console(highlight=False).print(table)


def plain(event: RecordedEvent) -> dict[str, Any]:
    """Return an event as JSON can hold it."""
    return {
        "id": event.id,
        "session_id": event.session_id,
        "version": event.version,
        "type": event.type,
        "at": event.at.isoformat(timespec="milliseconds"),
        "actor": plain_actor(event.actor),
        "user_id": event.user_id,
        "context": dict(event.context),
        "set": dict(event.set),
        "unset": list(event.unset),
        "cause": event.cause,
        "reason": event.reason,
    }


def plain_actor(actor: Actor | None) -> dict[str, str] | None:
    """Return an actor as JSON can hold it."""
    return None if actor is None else {"kind": actor.kind, "id": actor.id}


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
