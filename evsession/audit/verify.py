"""Verifying a namespace: all snapshots, then all logs, in a memory that does not grow with them.

Order is what makes it right while sessions change: first where each log ends is noted, then the snapshots are read,
then the logs. So each snapshot is at least as new as the noted end, and the log read at least as new as the snapshot.
Snapshots and entries are sorted into parts by session; then each part is proved by `Prover`, here one after the other,
or in several processes beside each other: what is found is the same, and in the same order.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import timedelta
from functools import partial
from math import ceil
from time import monotonic
from typing import Final, NamedTuple
from zlib import crc32

import anyio.lowlevel

from evsession.audit.collector import collector_relaxed
from evsession.audit.entries import Entries
from evsession.audit.pages import LAST_ID, PAGE, all_pages, log_pages
from evsession.audit.part import Terms, finished, may_have_lapsed, take_in
from evsession.audit.processes import Processes
from evsession.audit.report import Progress, Report, Trimmed
from evsession.audit.revocations import revocation_faults
from evsession.audit.spill import Spill
from evsession.audit.together import together
from evsession.keys import Keyring
from evsession.proof import Fault, FaultKind, Prover, Reach, Trace, counter_faults
from evsession.store import Store
from evsession.view import CONTROL
from evsession.wire import START, Line, StreamId, id_text, parse_id

PART: Final = 50_000
"""Entries that one part is to have at most: about 50 MB while it is proved, if each is of another session."""

SMALL_PART: Final = 25_000
"""Entries that one part has while there are not too many.  Source: with 12,500 an event takes 19 µs, with 50,000 22,
because more lies in the processor's caches (measured)."""

MAX_PARTS: Final = 128
"""Parts that are filled at once, so that at most as many files are open; for more, the log is read again."""


class Proved(NamedTuple):
    """A session, what is known of it, and what was found wrong with it."""

    sid: str
    trace: Trace
    faults: frozenset[FaultKind]


class Verification:
    """One run. `absolute` is the absolute timeout, after which a snapshot is kept for a day.

    With an archive of `archived` entries, sessions are checked from there on, and what both have is compared.
    """

    def __init__(
        self,
        store: Store,
        keys: Keyring,
        *,
        absolute: timedelta,
        archive: Entries | None = None,
        archived: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.report = Report()
        self._archive = archive
        self._archived = archived
        self._differing: set[bytes] = set()
        self._store = store
        self._keys = keys
        self._absolute = absolute // timedelta(milliseconds=1)
        self._progress = progress or (lambda what, done, of: None)
        self._shards = list(store.shards)
        self._lengths: dict[str, int] = {}
        self._scanned: dict[str, StreamId] = {}
        self._firsts: dict[str, StreamId] = {}
        self._started = 0.0
        self.now = 0

    async def sessions(self, parts: int = 0) -> AsyncGenerator[Proved, None]:
        """Verify everything, and yield each session once its events and its snapshot were proved.

        `parts` is what `_begin` returned, if it was asked already.

        Raises:
            StoreUnavailable: the store did not answer.
            OSError: the disk is full.
        """
        with collector_relaxed():
            parts = parts or await self._begin()
            for first in range(0, parts, MAX_PARTS):
                with Spill(min(MAX_PARTS, parts - first)) as spill:
                    pile = await self._read(spill, first, parts)
                    for part in range(pile.size):
                        async for proved in self._prove(pile, part):
                            yield proved
            await self._end()

    async def run(self, jobs: int) -> None:
        """Verify everything, the parts beside each other in at most so many processes; see `Processes`.

        Raises:
            StoreUnavailable: the store did not answer.
            ProcessDied: a process was killed.
            OSError: the disk is full.
        """
        parts = await self._begin()
        if min(jobs, parts) == 1:
            async for _ in self.sessions(parts):
                pass
            return
        with collector_relaxed():
            async with Processes(min(jobs, parts)) as processes:
                for first in range(0, parts, MAX_PARTS):
                    with Spill(min(MAX_PARTS, parts - first)) as spill:
                        pile = await self._read(spill, first, parts)
                        for report in await processes.prove(spill, self._terms(), self._handed_over(pile)):
                            self.report.add_part(report)
            await self._end()

    def _handed_over(self, pile: _Pile) -> Callable[[int], None]:
        total, so_far = max(1, pile.bytes), 0

        def told(size: int) -> None:
            nonlocal so_far
            so_far += size
            self._progress("proving", min(pile.records, pile.records * so_far // total), pile.records)

        return told

    async def _begin(self) -> int:
        """Note where each log ends, and return the number of parts."""
        self._started = monotonic()
        await self._note_ends()
        entries = self._archived + sum(self._lengths.values())
        return max(1, ceil(entries / PART), min(MAX_PARTS, ceil(entries / SMALL_PART)))

    async def _read(self, spill: Spill, first: int, of: int) -> _Pile:
        pile = _Pile(spill, first, of)
        if first:
            await self._note_ends()
        await self._read_snapshots(pile)
        for shard in self._shards:
            spill.begin(shard.encode())
            await self._read_log(shard, pile)
        pile.bytes = spill.finish()
        return pile

    async def _end(self) -> None:
        for shard in (CONTROL, *self._shards):
            await self._check_counters(shard)
        async for fault in revocation_faults(self._store, self._keys):
            self.report.add(fault)
        self.report.seconds = monotonic() - self._started

    async def _note_ends(self) -> None:
        for shard in self._shards:
            counters = await self._store.counters(shard)
            self._lengths[shard], self._scanned[shard], self.now = counters.length, counters.last, counters.now

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read_snapshots(self, pile: _Pile) -> None:
        cursor, is_first = 0, True
        while cursor or is_first:
            cursor, page = await self._store.snapshots(cursor, PAGE)
            is_first = False
            for sid, packed in page:
                if sid[:2] not in self._lengths:  # of a shard that this manager was not told of
                    self._shards.append(sid[:2])
                    self._lengths[sid[:2]] = 0
                self.report.snapshots += pile.add_snapshot(sid.encode(), packed)
            pile.spill.relieve()

    async def _read_log(self, shard: str, pile: _Pile) -> None:
        end = (await self._store.counters(shard)).last
        expected = self._archived + sum(self._lengths.values())
        self._firsts.pop(shard, None)
        pages = self._pages(shard, end)
        page = await anext(pages, None)
        while page is not None:
            self._firsts.setdefault(shard, parse_id(page[0][0]))
            page, _ = await together((anext(pages, None), self._take_in(pile, page, expected)))
        if end == START.id:  # an empty log: whatever the archive has was there before the snapshots were read
            self._scanned[shard] = LAST_ID
        self._firsts.setdefault(shard, end)

    async def _take_in(self, pile: _Pile, page: Sequence[Line], expected: int) -> None:
        for _ in range(2):  # let the next page be asked for, which the server reads meanwhile
            await anyio.lowlevel.checkpoint()
        self.report.events += pile.add_lines(page)
        self._progress("reading", self.report.events, max(self.report.events, expected))

    def _pages(self, shard: str, end: StreamId) -> AsyncIterator[Sequence[Line]]:
        if self._archive is None:
            return log_pages(self._store, shard, end)
        return all_pages(self._store, self._archive, shard, end, partial(self._differs, shard))

    def _differs(self, shard: str, line: Line, detail: str) -> None:
        """Report the first difference between log and archive of each session."""
        sid = line[2] if len(line) > 2 else shard.encode()
        if sid not in self._differing:
            self._differing.add(sid)
            version = int(line[3]) if len(line) > 3 and line[3].isdigit() else 0
            name, id_ = sid.decode("ascii", "replace"), line[0].decode()
            self.report.add(
                Fault(kind="archive_differs", shard=shard, session_id=name, id=id_, version=version, detail=detail)
            )

    # ── proving ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _prove(self, pile: _Pile, part: int) -> AsyncIterator[Proved]:
        terms = self._terms()
        prover = Prover(terms.keys, terms.reaches, self.report.add)
        for batch in pile.spill.batches(part):
            pile.proved += len(batch[1])
            take_in(prover, batch)
            self._progress("proving", pile.proved, pile.records)
            await anyio.lowlevel.checkpoint()
        for sid, trace in finished(prover, terms, self.report):
            yield Proved(sid, trace, prover.faults_of(sid))

    def _terms(self) -> Terms:
        reaches = {shard: Reach(self._firsts[shard], self._scanned.get(shard, (0, 0))) for shard in self._shards}
        return Terms(self._keys.for_audit(), reaches, self.now, self._absolute)

    def may_have_lapsed(self, trace: Trace) -> bool:
        """Tell whether a snapshot's time to live may be over, because no sweeper was at work for a day."""
        return may_have_lapsed(trace, self.now, self._absolute)

    async def _check_counters(self, shard: str) -> None:
        counters = await self._store.counters(shard)
        (ms, seq), _ = counters.end
        page = await self._store.lines(shard, (ms, seq - 1) if seq else (ms - 1, 2**64 - 1), 1) if ms else ()
        last = next((line for line in page if parse_id(line[0]) == counters.end.id), None)
        for fault in counter_faults(shard, counters, last):
            self.report.add(fault)
        if counters.added is None:
            self.report.uncounted.append(shard)
        if counters.trimmed:
            self.report.trimmed.append(Trimmed(shard=shard, entries=counters.trimmed, first=id_text(counters.first)))


class _Pile:
    """What was read, sorted by session into `of` parts; `size` of them, from `first` on, are kept."""

    def __init__(self, spill: Spill, first: int, of: int) -> None:
        self.spill = spill
        self.size = min(MAX_PARTS, of - first)
        self.records = 0
        self.proved = 0
        self.bytes = 0
        self._first = first
        self._of = of

    def add_snapshot(self, sid: bytes, packed: bytes) -> bool:
        """Take in a snapshot; False if it is of a part that comes later, or came before."""
        part = crc32(sid) % self._of - self._first
        if not 0 <= part < self.size:
            return False
        self.spill.waiting[part].append((sid, packed))
        self.records += 1
        return True

    def add_lines(self, page: Sequence[Line]) -> int:
        """Take in entries; return how many are of parts that come neither later, nor came before."""
        first, of, size, waiting, taken = self._first, self._of, self.size, self.spill.waiting, 0
        for line in page:
            part = crc32(line[2] if len(line) > 2 else b"") % of - first
            if 0 <= part < size:
                waiting[part].append(line)
                taken += 1
        self.spill.relieve()
        self.records += taken
        return taken


async def verify(
    store: Store,
    keys: Keyring,
    *,
    absolute: timedelta,
    archive: Entries | None = None,
    archived: int = 0,
    progress: Progress | None = None,
    jobs: int = 1,
) -> Report:
    """Verify everything that a store holds; see `Verification`. With more `jobs`, in as many processes more.

    Raises:
        StoreUnavailable: store or archive did not answer.
        ProcessDied: a process was killed.
        OSError: the disk is full.
    """
    verification = Verification(store, keys, absolute=absolute, archive=archive, archived=archived, progress=progress)
    await verification.run(jobs)
    return verification.report
