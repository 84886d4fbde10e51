"""How events look in a terminal and as JSON; what clients wrote never steers a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evsession.canonical import dumps

if TYPE_CHECKING:
    from evsession.audit import Difference, Explanation, PastState
    from evsession.events import Actor, RecordedEvent

_DIGEST: Final = re.compile(r'"redacted:[0-9a-f]{32}"')

COLOURS: Final = {
    "created": "cyan",
    "authenticated": "green",
    "updated": "blue",
    "renewed": "magenta",
    "ended": "red",
    "named_revoked": "bold red",
}

MOST_SHOWN: Final = 90
"""Characters of an event's changes in a table; `--json` has all of them."""


def print_json(value: object, *, flush: bool = False) -> None:
    """Print a value as one line of JSON."""
    print(dumps(value).decode(), flush=flush)


def terminal() -> Console:
    """Return the terminal; where the output is no terminal, lines are as long as they need to be."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, 160))


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal is."""
    terminal().print(table)


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
        "name": event.name,
        "cursor": event.cursor,
    }


def plain_actor(actor: Actor | None) -> dict[str, str] | None:
    """Return an actor as JSON can hold it."""
    return None if actor is None else {"kind": actor.kind, "id": actor.id}


def plain_state(state: PastState) -> dict[str, Any]:
    """Return a state of a session as JSON can hold it."""
    return {
        "session_id": state.session_id,
        "version": state.version,
        "at": state.at.isoformat(timespec="milliseconds"),
        "user_id": state.user_id,
        "names": list(state.names),
        "facts": dict(state.facts),
        "ended": state.ended,
        "data": dict(state.data),
        "redacted": list(state.redacted),
        "last": plain(state.last),
    }


def plain_difference(difference: Difference) -> dict[str, Any]:
    """Return a difference as JSON can hold it."""
    before, after = difference.before, difference.after
    return {
        "from": None if before is None else before.version,
        "to": None if after is None else after.version,
        "set": dict(difference.set),
        "unset": list(difference.unset),
    }


def plain_explanation(why: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON can hold it."""
    names = (
        "session_id",
        "status",
        "sentence",
        "user_id",
        "cause",
        "reason",
        "address",
        "method",
        "route",
        "name",
        "ticket",
    )
    return {name: getattr(why, name) for name in names} | {
        "at": _iso(why.at),
        "until": _iso(why.until),
        "actor": plain_actor(why.actor),
        "signed_in_by": plain_actor(why.signed_in_by),
        "event": None if why.event is None else plain(why.event),
    }


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="milliseconds")


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────────


def print_state(state: PastState) -> None:
    """Print a session as it was: who and when, then its data key by key."""
    facts = {
        "session": state.session_id,
        "version": f"{state.version}, since {_seconds(state.at)} ({state.last.type})",
        "user": state.user_id or "nobody",
        "names": ", ".join(state.names),
        "ended": state.ended,
    }
    console = terminal()
    console.print(_fact_table(facts))
    console.print(_data_table(state.data))


def print_difference(difference: Difference) -> None:
    """Print what was removed and set, line by line."""
    console, before = terminal(), difference.before.data if difference.before else {}
    for key in difference.unset:
        console.print(Text(f"- {_line(key, before.get(key))}", "red"))
    for key, value in difference.set.items():
        if key in before:
            console.print(Text(f"- {_line(key, before[key])}", "red"))
        console.print(Text(f"+ {_line(key, value)}", "green"))
    if not difference.set and not difference.unset:
        console.print("no difference in its data")


def print_explanation(why: Explanation, events: Iterable[RecordedEvent], console: Console | None = None) -> None:
    """Print the sentence, what it is made of, and the session's last events."""
    console = console or terminal()
    console.print(Text(printable(why.sentence), "bold green" if why.status == "alive" else "bold red"))
    by, login = why.actor, why.signed_in_by
    facts = {
        "cause": why.cause,
        "reason": why.reason,
        "revoked": why.name,
        "when": _seconds(why.at) if why.at else None,
        "until": _seconds(why.until) if why.until else None,
        "by": f"{by.kind} {by.id}" if by else None,
        "ticket": why.ticket,
        "signed in by": f"{login.kind} {login.id}" if login else None,
        "from": why.address,
        "request": f"{why.method or ''} {why.route}".strip() if why.route else None,
    }
    console.print(_fact_table(facts))
    if events := list(events):
        console.print(history_table(events))


def _seconds(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def _fact_table(facts: Mapping[str, object]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(style="dim")
    for name, value in facts.items():
        if value:
            table.add_row(name, Text(printable(str(value))))
    return table


def _data_table(data: Mapping[str, Any]) -> Table:
    table = Table("key", "value")
    for key, value in data.items():
        table.add_row(Text(printable(key)), Text(printable(dumps(value).decode())))
    return table


def _line(key: str, value: object) -> str:
    return printable(f"{key} = {dumps(value).decode()}")


def line_printer(*, flush: bool = False) -> Callable[[RecordedEvent], None]:
    """Return a function that prints an event as one line: in a terminal coloured, and no wider than it."""
    console, day = Console(highlight=False), ""

    def show(event: RecordedEvent) -> None:
        nonlocal day
        lines = [event_line(event)]
        if day != (day := event.at.strftime("%Y-%m-%d")):
            lines.insert(0, Text(f"── {day} (UTC) ──", "dim"))
        for line in lines:
            if console.is_terminal:
                line.truncate(console.width, overflow="ellipsis")
                console.print(line, soft_wrap=True)
            else:
                print(line.plain, flush=flush)

    return show


def event_line(event: RecordedEvent) -> Text:
    """Return an event as one line: when, what, of which session and user, where, by whom, the changes."""
    line = Text()
    line.append(f"{event.at.strftime('%H:%M:%S.%f')[:-3]}  ", "dim")
    line.append(f"{printable(event.type):<13}  ", COLOURS.get(event.type, "white"))
    line.append(f"{printable(event.session_id):<24}  ", "dim")
    line.append(f"{printable(event.user_id or '-'):<8}  ", "bold")
    if route := event.context.get("route"):
        line.append(printable(f"{event.context.get('method', '')} {route}  "), "cyan")
    if event.actor is not None:
        line.append(f"by {who_of(event)}  ", "yellow")
    line.append(what_of(event))
    return line


def history_table(events: Iterable[RecordedEvent], title: str | None = None) -> Table:
    """Return a table of events: when, what, by whom and from where; the date where it changes."""
    table, day = Table(title=title, title_justify="left"), ""
    table.add_column("version")
    table.add_column("at (UTC)", no_wrap=True)
    table.add_column("event")
    rows = [(event, (what_of(event), *_whence(event))) for event in events]
    told = [at == 0 or any(texts[at] for _, texts in rows) for at in range(4)]
    for name in compress(("what", "by", "route", "address"), told):
        table.add_column(name, overflow="fold")
    for event, texts in rows:
        if day != (day := event.at.strftime("%Y-%m-%d")):
            table.add_row("", Text(day, "dim"))
        type_ = Text(event.type, COLOURS.get(event.type, "white"))
        table.add_row(
            str(event.version), event.at.strftime("%H:%M:%S.%f")[:-3], type_, *map(Text, compress(texts, told))
        )
    return table


def _whence(event: RecordedEvent) -> tuple[str, ...]:
    """Return by whom, by what route and from which address it came, empty where the event does not say."""
    return who_of(event), *(printable(str(event.context.get(name) or "")) for name in ("route", "address"))


def who_of(event: RecordedEvent) -> str:
    """Return who did it if it was not the session's own user, with the ticket if there is one; else nothing."""
    if event.actor is None:
        return ""
    ticket = f" ({event.context['ticket']})" if event.context.get("ticket") else ""
    return printable(f"{event.actor.kind} {event.actor.id}{ticket}")


def what_of(event: RecordedEvent) -> str:
    """Return in one line what an event did."""
    parts = [f"{key} = {dumps(value).decode()}" for key, value in event.set.items()]
    parts += [f"without {key}" for key in event.unset]
    if event.type == "authenticated":
        parts.insert(0, f"user {event.user_id}")
    if event.name is not None:
        return printable(": ".join(filter(None, (f"all sessions of {event.name}", event.reason))))
    if event.cause is not None:
        parts.append(f"cause {event.cause}")
    if event.reason:
        parts.append(event.reason)
    line = printable(_DIGEST.sub("•••", ", ".join(parts)))
    return line if len(line) <= MOST_SHOWN else f"{line[: MOST_SHOWN - 1]}…"


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: clients wrote parts of it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
