"""From an entry of the log to the event that a reader of the trail sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from evsession.codec import unpack_event
from evsession.context import parse_actor, parse_context
from evsession.events import Authenticated, Ended, RecordedEvent
from evsession.info import time_of
from evsession.wire import Entry, id_text


def recorded(entry: Entry, user_id: str | None) -> RecordedEvent:
    """Return an entry decoded; `user_id` is who was signed in before it.

    Raises:
        UnknownFormat: a newer version wrote it.
    """
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
        cursor=f"{entry.sid[:2]}:{id_}:{entry.event_id[:8].hex()}",
        event=event,
    )


def recorded_in_turn(entries: Iterable[Entry], user_id: str | None) -> Iterator[RecordedEvent]:
    """Yield the events of one session, given who was signed in before the first of them.

    Raises:
        UnknownFormat: a newer version wrote one of them.
    """
    for entry in entries:
        event = recorded(entry, user_id)
        user_id = event.user_id
        yield event
