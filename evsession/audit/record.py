"""From an entry of the log to the event that a reader of the trail sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from evsession.canonical import loads
from evsession.codec import unpack_event
from evsession.context import parse_actor, parse_context
from evsession.control import Revocation, revocation_of
from evsession.errors import UnknownFormat
from evsession.events import Authenticated, Ended, RecordedEvent
from evsession.info import time_of
from evsession.view import CONTROL
from evsession.wire import Entry, id_text

REVOKED: Final = "named_revoked"
"""The type of the control log's entries."""


def recorded(entry: Entry, user_id: str | None) -> RecordedEvent:
    """Return an entry decoded; `user_id` is who was signed in before it.

    Raises:
        UnknownFormat: a newer version wrote it.
    """
    if entry.type == REVOKED:
        return _revoked(entry)
    event = unpack_event(entry.type, entry.data)
    end = event if isinstance(event, Ended) else None
    id_ = id_text(entry.id)
    return RecordedEvent(
        id=id_,
        session_id=entry.sid,
        version=entry.version,
        type=entry.type,
        at=time_of(entry.id[0]),
        actor=parse_actor(entry.actor),
        user_id=event.user_id if isinstance(event, Authenticated) else user_id,
        context=parse_context(entry.context),
        set=event.set_,
        unset=event.unset,
        cause=None if end is None else end.cause,
        reason="" if end is None else end.reason,
        cursor=_cursor(entry),
        event=event,
    )


def _revoked(entry: Entry) -> RecordedEvent:
    revoked = said_by(entry)
    reason, whose = reason_of(revoked), revoked.name.partition(":")
    return RecordedEvent(
        id=id_text(entry.id),
        session_id="",
        version=0,
        type=entry.type,
        at=time_of(entry.id[0]),
        actor=parse_actor(entry.actor),
        user_id=whose[2] if whose[0] == "user" else None,
        context=parse_context(entry.context) | ({"kept": revoked.keep} if revoked.keep else {}),
        set={},
        unset=(),
        cause="revoked",
        reason=reason,
        cursor=_cursor(entry),
        event=Ended(cause="revoked", reason=reason, by=id_text(entry.id)),
        name=revoked.name,
    )


def said_by(entry: Entry) -> Revocation:
    """Return what an entry of the control log says.

    Raises:
        UnknownFormat: it is not of the form that this version reads.
    """
    try:
        return revocation_of(entry.position, entry.data)
    except ValueError as error:
        raise UnknownFormat(what=f"{entry.type} event", found="unreadable", known="its own fields") from error


def reason_of(revoked: Revocation) -> str:
    """Return the operator's sentence of a revocation by name."""
    return str(loads(revoked.data).get("reason", ""))


def shard_of(entry: Entry) -> str:
    """Return the shard in whose log an entry stands."""
    return CONTROL if entry.type == REVOKED else entry.sid[:2]


def _cursor(entry: Entry) -> str:
    return f"{shard_of(entry)}:{id_text(entry.id)}:{entry.event_id[:8].hex()}"


def recorded_in_turn(entries: Iterable[Entry], user_id: str | None) -> Iterator[RecordedEvent]:
    """Yield the events of one session, given who was signed in before the first of them.

    Raises:
        UnknownFormat: a newer version wrote one of them.
    """
    for entry in entries:
        event = recorded(entry, user_id)
        user_id = event.user_id
        yield event


@contextmanager
def readable() -> Iterator[None]:
    """Name what nobody with the key wrote by the error that all readers of a log know."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise UnknownFormat(what="log entry", found="unreadable", known="its own fields") from error
