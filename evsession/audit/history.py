"""The events of one session, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, overload

from evsession.audit.reader import MAX_WALK, Reader
from evsession.audit.record import recorded_in_turn
from evsession.events import RecordedEvent
from evsession.wire import parse_id

MAX_HISTORY: Final = MAX_WALK
"""Events that one call returns at most."""


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


async def read_history(reader: Reader, session_id: str, limit: int, before: str | None) -> History:
    """Return a page of a session's events; see `Audit.history`."""
    limit = max(1, min(limit, MAX_HISTORY))
    if before is None:
        entries = await reader.newest(session_id, limit)
    else:
        entries = await reader.before(session_id, parse_id(before.encode()), limit)
    if not entries:
        return History(())
    return History(tuple(recorded_in_turn(entries, await reader.user_before(entries[0]))))
