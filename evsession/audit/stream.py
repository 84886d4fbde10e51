"""One shard's entries in the order of the log, from a position on: from the archive first, then as the log grows."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from evsession.audit.cursor import after, is_proof
from evsession.audit.pages import PAGE
from evsession.audit.reader import Reader
from evsession.audit.together import together
from evsession.errors import LogTrimmed
from evsession.info import time_of
from evsession.store import Counters
from evsession.wire import START, Entry, Line, Position, StreamId, entry_of, id_text, line_of, parse_id

REMEMBERED: Final = 64
"""Ends of pages that are kept, to find after a failover where the new history leaves the old one."""

REWIND_MS: Final = 600_000
"""How far back a reader goes that remembers no position of the new history.

Source: a replica that lags by ten minutes is broken; what is read again comes twice, which at least once allows.
"""

BEGINNING: Final = Position(START.id, b"")
"""Before the first entry; there is nothing that could prove it."""

log = logging.getLogger("evsession.audit")


class Stream:
    """Reads one shard page by page; `position` is where the next page begins, excluded.

    Without an archive a strict one raises where the log was trimmed past its position, and one that `follows` where it
    was trimmed past an entry that it has read; others go on where the log begins.
    """

    def __init__(
        self, reader: Reader, shard: str, position: Position, *, strict: bool, follows: bool = False, page: int = PAGE
    ) -> None:
        self.shard = shard
        self.position = position if position.id != START.id else BEGINNING
        self.rewinds = 0
        """How often a failover made it go back."""
        self._reader = reader
        self._strict = strict
        self._follows = follows
        self._page = page
        self._after = position.id
        self._recent: deque[Position] = deque(maxlen=REMEMBERED)
        self._fetched: Sequence[Entry] = ()
        self._lines: Sequence[Line] = ()
        self._is_decoding = True
        self._past: AsyncIterator[Entry] | None = None
        self._archived_until: StreamId | None = None
        self._has_begun = False

    async def page(self) -> Sequence[Entry]:
        """Return the next entries, none at the end of the log.

        Raises:
            LogTrimmed: what comes next was removed from the log, and there is no archive.
            StoreUnavailable: store or archive did not answer; the next call goes on from the same place.
        """
        await self.fetch()
        return self.take()

    async def lines(self) -> Sequence[Line]:
        """Return the next entries as they lie in the log, none at its end; whoever calls this calls nothing else.

        Raises:
            LogTrimmed, StoreUnavailable: as `page` does.
        """
        self._is_decoding = False
        await self.fetch()
        lines, self._lines = self._lines, ()
        return lines or [line_of(entry) for entry in self.take()]

    def take(self) -> Sequence[Entry]:
        """Return what was fetched, once."""
        fetched, self._fetched = self._fetched, ()
        return fetched

    async def fetch(self) -> None:
        """Read the next entries, unless some are fetched already; whoever is cancelled meanwhile has lost nothing.

        Raises:
            LogTrimmed, StoreUnavailable: as `page` does.
        """
        if not self._has_begun:
            await self._begin()
        while not (self._fetched or self._lines):
            if self._archived_until is not None:
                self._fetched = await self._from_archive(self._archived_until)
                continue
            lines = await self._next()
            if lines is not None:
                ours = _ours(lines)
                if self._is_decoding:
                    self._fetched = _decoded(ours)
                else:
                    self._lines = ours
                self._advance(lines, ours)
                if not lines:
                    break

    async def _begin(self) -> None:
        counters = await self._reader.worker.store.counters(self.shard)
        if counters.length and self.position.id < counters.first and (counters.trimmed or self.position.event):
            self._continue_from_archive(counters)
        self._has_begun = True

    async def _next(self) -> Sequence[Line] | None:
        """Return what the log has next; None if its history is not the one that this stream has read."""
        store, position = self._reader.worker.store, self.position
        if not position.event:
            return await store.lines(self.shard, self._after, self._page)
        if position.id == self._after:
            proof, *lines = await store.lines(self.shard, before(position.id), self._page + 1) or ((),)
        else:  # what is none of ours stands in between; what stood before it now, is still there then
            lines = list(await store.lines(self.shard, self._after, self._page))
            (proof,) = await store.lines(self.shard, before(position.id), 1) or ((),)
        if len(proof) > 1 and parse_id(proof[0]) == position.id and is_proof(position, proof[5]):
            return lines
        counters = await store.counters(self.shard)
        if not counters.length:
            return ()  # emptied, or a server that has not loaded its data yet: what comes next tells
        if position.id < counters.first:
            self._continue_from_archive(counters)
        else:
            await self._rewind()
        return None

    def _advance(self, lines: Sequence[Line], ours: Sequence[Line]) -> None:
        if lines:
            self._after = parse_id(lines[-1][0])
        if ours:
            self.position = Position(parse_id(ours[-1][0]), ours[-1][5])
            self._recent.append(self.position)

    # ── where the log was trimmed ────────────────────────────────────────────────────────────────────────────────────

    def _continue_from_archive(self, counters: Counters) -> None:
        first, has_read = counters.first, bool(self.position.event)
        if self._reader.archive is not None:
            self._archived_until = before(first)
        elif self._strict or (self._follows and has_read and counters.trimmed):
            raise LogTrimmed(f"shard {self.shard} after {id_text(self.position.id)}", time_of(first[0]))
        else:
            self._move_to(Position(before(first), b""))

    async def _from_archive(self, until: StreamId) -> Sequence[Entry]:
        if self._past is None and self._reader.archive is not None:
            ms, seq = self.position.id
            self._past = aiter(self._reader.archive.between(self.shard, (ms, seq + 1), until))
        entries: list[Entry] = []
        try:
            while self._past is not None and len(entries) < self._page:
                entries.append(await anext(self._past))
        except StopAsyncIteration:
            self._past = None
        except BaseException:
            self._past = None  # the next call begins after what was returned last
            raise
        if entries:
            self._move_to(entries[-1].position)
        else:
            self._archived_until = None
            self._move_to(Position(until, b""))
        return entries

    def _move_to(self, position: Position) -> None:
        self.position, self._after = position, position.id

    # ── where a failover replaced the history ────────────────────────────────────────────────────────────────────────

    async def _rewind(self) -> None:
        """Go back to the last position that the new history has too, or by `REWIND_MS`."""
        known = list(self._recent)
        store, shard = self._reader.worker.store, self.shard
        proofs = await together(store.read(shard, position, 1) for position in known)
        standing = [
            position
            for position, proof in zip(known, proofs, strict=True)
            if proof and proof[0].id == position.id and is_proof(position, proof[0].event_id)
        ]
        oldest = known[0] if known else self.position
        found = standing[-1] if standing else after(oldest.id[0] - REWIND_MS)
        log.warning(
            "shard %s: the history after %s was replaced by a failover; reading again from %s on",
            shard, id_text(self.position.id), id_text(found.id),
        )  # fmt: skip
        self._recent.clear()
        self._recent.extend(standing)
        self._move_to(found)
        self.rewinds += 1


# What somebody else wrote into the log is passed over, with loud words: better than to stop there for good.


def _ours(lines: Sequence[Line]) -> Sequence[Line]:
    """Return the entries that have the fields of ours."""
    if min(map(len, lines), default=2) > 1:
        return lines
    for line in lines:
        if len(line) == 1:
            _warn(line)
    return [line for line in lines if len(line) > 1]


def _decoded(lines: Sequence[Line]) -> Sequence[Entry]:
    """Return entries decoded, without those that are none of ours."""
    try:
        return [entry_of(line) for line in lines]
    except ValueError:
        return list(_one_by_one(lines))


def _one_by_one(lines: Sequence[Line]) -> Iterator[Entry]:
    for line in lines:
        try:
            yield entry_of(line)
        except ValueError:
            _warn(line)


def _warn(line: Line) -> None:
    log.critical("the log entry %s is none of ours; find out who can write to Redis", line[0].decode())


def before(id_: StreamId) -> StreamId:
    """Return the id right before another."""
    ms, seq = id_
    return (ms, seq - 1) if seq else (ms - 1, 2**64 - 1)
