"""All events of a span of time, of every shard, in the order of time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from evsession.audit.cursor import Cursor
from evsession.audit.pages import PAGE
from evsession.audit.reader import LAST_ID, Reader
from evsession.audit.selection import Selection, Sieve
from evsession.audit.stream import Stream
from evsession.audit.together import together
from evsession.events import RecordedEvent
from evsession.view import CONTROL
from evsession.wire import Entry, StreamId

IN_MEMORY: Final = 8 * PAGE
"""Entries of all shards together that are held at once: a few MB."""

LEAST_PAGE: Final = 64


async def read_span(
    reader: Reader, selection: Selection, since: Cursor, until: StreamId, *, strict: bool
) -> AsyncIterator[RecordedEvent]:
    """Yield the events of a span of time; see `Audit.replay`."""
    await reader.worker.ensure_open()
    sieve = Sieve(reader, selection)
    async for entries in in_order(reader, await selection.shards(reader), since, until, strict=strict):
        await sieve.prepare(entries)
        for entry in entries:
            if (event := sieve.passed(entry)) is not None:
                yield event


def end_of(until: datetime | None) -> StreamId:
    """Return the last id before a time.

    Raises:
        ConfigError: the time has no zone.
    """
    return LAST_ID if until is None else Cursor.at_time(until).elsewhere.id


async def in_order(
    reader: Reader, shards: Sequence[str], since: Cursor, until: StreamId, *, strict: bool
) -> AsyncIterator[Sequence[Entry]]:
    """Yield the entries of several shards from a cursor up to an id, ordered by time, some at once.

    It ends where the logs ended when it began. A memory of `IN_MEMORY` entries does, however long the logs are.

    Raises:
        LogTrimmed: it is strict, what came after the cursor was removed from a log, and there is no archive.
        StoreUnavailable: store or archive did not answer.
    """
    size = max(LEAST_PAGE, min(PAGE, IN_MEMORY // len(shards)))
    # Revocations by name leave the log long before sessions do, and the last one read is mostly the one that has gone.
    streams = [
        Stream(reader, shard, since.at(shard), strict=strict and shard != CONTROL, page=size) for shard in shards
    ]
    counters = await together(reader.worker.store.counters(shard) for shard in shards)
    ends = {stream: min(until, counter.last) for stream, counter in zip(streams, counters, strict=True)}
    waiting: dict[Stream, deque[Entry]] = {stream: deque() for stream in streams}
    while waiting:
        empty = [stream for stream, entries in waiting.items() if not entries]
        pages = await together(stream.page() for stream in empty)
        if len(streams) == 1:  # nothing to merge
            page, end = pages[0], ends[streams[0]]
            is_last = not page or page[-1].id > end
            if wanted := [entry for entry in page if entry.id <= end] if is_last else page:
                yield wanted
            if is_last:
                return
            continue
        for stream, entries in zip(empty, pages, strict=True):
            waiting[stream].extend(entry for entry in entries if entry.id <= ends[stream])
            if not waiting[stream]:
                del waiting[stream]
        if waiting:
            horizon = min(entries[-1].id for entries in waiting.values())
            yield sorted(_taken(waiting.values(), horizon), key=_by_time)


def _taken(waiting: Iterable[deque[Entry]], horizon: StreamId) -> Iterator[Entry]:
    for entries in waiting:
        while entries and entries[0].id <= horizon:
            yield entries.popleft()


def _by_time(entry: Entry) -> tuple[StreamId, str]:
    return entry.id, entry.sid[:2]
