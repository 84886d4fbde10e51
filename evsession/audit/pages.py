"""A shard's entries as they lie in the log, page by page, after those that only the archive still has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from evsession.audit.entries import Entries
from evsession.store import Store
from evsession.wire import Line, StreamId, line_of, parse_id

PAGE: Final = 500
"""Entries that are read at once.

Source: 200 KB and 1 ms of the server's time, which requests wait for; of 1,000, the first have left the processor's
caches when the last are there."""

LAST_ID: Final[StreamId] = (2**64 - 1, 2**64 - 1)

Differs = Callable[[Line, str], None]
"""Told of an entry of which log and archive say different things, and what."""


async def log_pages(store: Store, shard: str, end: StreamId) -> AsyncIterator[Sequence[Line]]:
    """Yield the entries of a log, up to and a little beyond an id."""
    after = (0, 0)
    while after < end and (page := await store.lines(shard, after, PAGE)):
        after = parse_id(page[-1][0])
        yield page


async def all_pages(
    store: Store, archive: Entries, shard: str, end: StreamId, differs: Differs
) -> AsyncIterator[Sequence[Line]]:
    """Yield the entries of archive and log, each once; what both have must be the same.

    An entry that the log has otherwise is yielded as the log has it, one that it lacks as the archive has it.

    Raises:
        StoreUnavailable: store or archive did not answer.
    """
    merge = _Merge(archive, shard, differs)
    await merge.next()
    async for page in log_pages(store, shard, end):
        merged: list[Line] = []
        for line in page:
            id_ = parse_id(line[0])
            while (old := merge.before(id_)) is not None:
                merged.append(old)
                await merge.next()
                if len(merged) >= PAGE:
                    yield merged
                    merged = []
            if merge.compare(id_, line):
                await merge.next()
            merged.append(line)
        yield merged
    while (old := merge.before(LAST_ID)) is not None:
        yield (old,)
        await merge.next()


class _Merge:
    """The archive's side: its next line, and what is to be said of the log where the two differ."""

    def __init__(self, archive: Entries, shard: str, differs: Differs) -> None:
        self._entries = archive.between(shard, (0, 0), LAST_ID)
        self._differs = differs
        self._next: Line | None = None
        self._id: StreamId = LAST_ID
        self._first: StreamId | None = None
        self._has_log_begun = False

    async def next(self) -> None:
        """Go on to the next archived entry."""
        entry = await anext(self._entries, None)
        self._next, self._id = (None, LAST_ID) if entry is None else (line_of(entry), entry.id)
        self._first = self._first or self._id

    def before(self, id_: StreamId) -> Line | None:
        """Return the next archived entry if it comes before an id: trimmed from the log, or missing there."""
        if self._next is None or self._id >= id_:
            return None
        if self._has_log_begun or id_ == LAST_ID:
            self._differs(self._next, "the log lacks an entry that the archive has")
        return self._next

    def compare(self, id_: StreamId, line: Line) -> bool:
        """Compare an entry of the log; True if the archive has it too, so that its next one is to be taken."""
        self._has_log_begun = True
        if self._next is None or self._first is None or id_ < self._first:
            return False
        if self._id == id_:
            if self._next != line:
                self._differs(line, "the archive has another entry here")
            return True
        self._differs(line, "the archive goes on after this entry and has it not")
        return False
