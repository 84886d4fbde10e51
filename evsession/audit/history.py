"""The audit trail: what happened to a session, as the log has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, overload

from evsession.codec import unpack_event
from evsession.context import parse_actor, parse_context
from evsession.events import Authenticated, Ended, RecordedEvent
from evsession.info import time_of
from evsession.tokens import is_sid
from evsession.wire import Entry, id_text, parse_id

if TYPE_CHECKING:
    from evsession.worker import Worker

MAX_HISTORY: Final = 10_000
"""Events that one call reads at most.  Source: a walk of that many holds the server for about 20 ms."""


class History(Sequence[RecordedEvent]):
    """Events of one session, oldest first. `is_complete` tells whether the first one is the session's first."""

    def __init__(self, events: Sequence[RecordedEvent]) -> None:
        self._events = tuple(events)

    @property
    def is_complete(self) -> bool:
        """Whether nothing came before the first event here."""
        return bool(self._events) and self._events[0].version == 1

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RecordedEvent]: ...
    def __getitem__(self, index: int | slice) -> RecordedEvent | Sequence[RecordedEvent]:
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[RecordedEvent]:
        return iter(self._events)


class Audit:
    """Reads the log of one manager's namespace."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def history(self, session_id: str, limit: int = 1000, before: str | None = None) -> History:
        """Return the last `limit` events of a session, 1 to 10,000, oldest first, in one round trip.

        `before` is the `id` of an event: only earlier ones are returned. An ended session is found
        for ten minutes after its end.

        Raises:
            StoreUnavailable: the store did not answer.
            UnknownFormat: a newer version wrote one of them.
        """
        worker = self._worker
        if not is_sid(session_id):
            return History(())
        await worker.ensure_open()
        limit = max(1, min(limit, MAX_HISTORY))
        if before is None:
            entries = await worker.store.walk(session_id, limit)
        else:
            entries = (await worker.store.walk(session_id, limit + 1, parse_id(before.encode())))[:-1]
        return History(list(_recorded(entries)))


def _recorded(entries: Sequence[Entry]) -> Iterator[RecordedEvent]:
    user: str | None = None
    for entry in entries:
        event = unpack_event(entry.type, entry.data)
        if isinstance(event, Authenticated):
            user = event.user_id
        id_ = id_text(entry.id)
        yield RecordedEvent(
            id=id_,
            session_id=entry.sid,
            version=entry.version,
            type=entry.type,
            at=time_of(entry.id[0]),
            actor=parse_actor(entry.actor),
            user_id=user,
            context=parse_context(entry.context),
            set=event.set_,
            unset=event.unset,
            cause=event.cause if isinstance(event, Ended) else None,
            reason=event.reason if isinstance(event, Ended) else "",
            cursor=f"{entry.sid[:2]}:{id_}",
            event=event,
        )
