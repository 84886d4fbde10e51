"""The archiver: copies each shard's log into files before anything of it is trimmed.

For one file, in this order, so that it can be killed between any two steps:

1. Read the log from the checkpoint on; a thread compresses each page while the next one is read.
2. Write into the checkpoint which event is the file's last. Whoever takes over now makes the very same file, so two
   archivers, one of them late, only ever write the same bytes to the same place.
3. Store the file, read it back, compare.
4. Store the manifest, read it back, compare.
5. Move the checkpoint on; refused if another archiver has taken the turn meanwhile.
6. Trim what is old enough and before the checkpoint.

The log entry at the checkpoint is read again each time: it is the proof that the log is the one that was archived.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal, NamedTuple

from anyio import to_thread

from evsession.archive.expiry import expire
from evsession.archive.manifest import JOB, Checkpoint, Manifest, Start, file_name, manifest_name
from evsession.archive.reader import Archive
from evsession.archive.rejoin import stand, start_of
from evsession.archive.segment import Segment, check_file
from evsession.archive.signing import Signer, Trusted
from evsession.errors import ConfigError, CorruptArchive, StoreUnavailable
from evsession.store import Store, Turn
from evsession.view import CONTROL
from evsession.wire import Line, StreamId, parse_id

PAGE: Final = 1_000
"""Entries read at once.  Source: they hold the server for 1 ms (measured)."""

MOST_EVENTS: Final = 100_000
MOST_BYTES: Final = 64 * 1024 * 1024
"""What one file holds before it is closed, uncompressed, so that a reader can hold one in memory."""

Step = Literal["read", "intended", "stored", "described", "advanced", "trimmed"]
STEPS: Final[tuple[Step, ...]] = ("read", "intended", "stored", "described", "advanced", "trimmed")

log = logging.getLogger("evsession.archive")


class Progress(NamedTuple):
    """What has just been done to a shard.

    `events` counts those of this run that are safe, `share` (0 to 1) is how much of the time between the first of them
    and the log's end they cover.
    """

    shard: str
    step: Step
    events: int
    share: float


class ShardReport(NamedTuple):
    """What one run did to one shard.

    `events` in `files` were archived, `trimmed` events removed from the log, `expired` files from the archive. It
    `is_busy` when another archiver is at it.
    """

    shard: str
    events: int = 0
    files: int = 0
    trimmed: int = 0
    expired: int = 0
    is_busy: bool = False


class TurnLost(Exception):
    """Another archiver has taken the turn; what this one has written is what that one writes too."""


def _untold(progress: Progress) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class Archiver:
    """Archives the logs of one namespace into one target.

    trusted: whose files it takes in after an archiver was killed; the signer is among them.
    retention: how long the archive keeps a file; None, the default, for ever.
    keep: how much of the log stays in Redis although it is archived: 7 days, as `StorePolicy.retention`.
    turn: how long the turn at a shard outlasts a holder that was killed; a living one renews it.
    on_progress: told of each step before the next begins.
    shards: those of sessions, if the store does not know of all: an archiver need not know how many there are.
    """

    store: Store
    archive: Archive
    signer: Signer
    trusted: Trusted
    keep: timedelta = timedelta(days=7)
    retention: timedelta | None = None
    turn: timedelta = timedelta(seconds=30)
    on_progress: Callable[[Progress], None] = _untold
    shards: Sequence[str] | None = None
    most_events: int = MOST_EVENTS
    holder: str = field(default_factory=lambda: secrets.token_hex(8))

    async def run(self) -> list[ShardReport]:
        """Archive every shard up to the end that its log has now.

        A shard that another archiver is at is tried again until its turn would have lapsed: that one may have been
        killed.

        Raises:
            ArchiveUnavailable: the target cannot be written or read back; the log keeps everything.
            ConfigError: the target is not the one that was archived into before.
            CorruptArchive: what was read back is not what was written, or the archive is not this namespace's.
            StoreUnavailable: the store did not answer; running it again goes on from there.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + 1.5 * self.turn.total_seconds()
        reports = {shard: await self.run_shard(shard) for shard in (CONTROL, *(self.shards or self.store.shards))}
        while (busy := [shard for shard, report in reports.items() if report.is_busy]) and loop.time() < give_up_at:
            await asyncio.sleep(min(0.25, self.turn.total_seconds() / 4))
            reports |= {shard: await self.run_shard(shard) for shard in busy}
        return list(reports.values())

    async def run_shard(self, shard: str) -> ShardReport:
        """Archive one shard up to the end that its log has now, unless another archiver is at it.

        Raises what `run` does.
        """
        turn = await self._take(shard)
        if turn is None:
            return ShardReport(shard, is_busy=True)
        try:
            async with self._kept(shard, turn):
                return await Run(self, shard, turn).all()
        except TurnLost:
            log.warning("another archiver has taken over shard %s from this one, which was too slow; no harm", shard)
            return ShardReport(shard, is_busy=True)

    async def _take(self, shard: str) -> Turn | None:
        return await self.store.take_turn(shard, JOB, self.holder, round(self.turn.total_seconds() * 1000))

    @asynccontextmanager
    async def _kept(self, shard: str, turn: Turn) -> AsyncIterator[None]:
        """Renew the turn while there is work, then give it back."""
        renewal = asyncio.create_task(self._renew(shard), name=f"evsession-archive-{shard}")
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.wait([renewal])
            with suppress(StoreUnavailable):
                await self.store.give_turn(shard, JOB, self.holder, turn.fence)

    async def _renew(self, shard: str) -> None:
        while True:
            await asyncio.sleep(self.turn.total_seconds() / 3)
            with suppress(StoreUnavailable):
                await self._take(shard)


class Run:
    """One archiver at one shard, for as long as it holds the turn."""

    def __init__(self, archiver: Archiver, shard: str, turn: Turn) -> None:
        self._archiver = archiver
        self._store = archiver.store
        self._archive = archiver.archive
        self._shard = shard
        self._turn = turn
        self._checkpoint = Checkpoint.unpack(turn.checkpoint)
        self._began: StreamId | None = None
        self._events = 0
        self._files = 0

    async def all(self) -> ShardReport:
        """Write files until the log's end is in one of them, then trim."""
        await self._require_last()
        await self._archive.target.tidy(self._archive.path(self._shard, ""))
        while await self._adopt() or await self._write():
            pass
        return ShardReport(self._shard, self._events, self._files, await self._trim(), await self._expire())

    async def _require_last(self) -> None:
        """Refuse a place without the file that was archived last, before the chain is torn into two places."""
        number, place = self._checkpoint.number, self._archive
        if number == 0 or await place.found(self._shard, number) is not None:
            return
        msg = (
            f"at {place.target} there is no {place.path(self._shard, manifest_name(number))}, which was archived last:"
            " is the place mistyped, or not mounted? If its files were lost, bring them back from a copy, or delete the"
            f" key {{{place.namespace}:{self._shard}}}:{JOB} to begin anew with what the log still has"
        )
        raise ConfigError(msg)

    # ── a file that is there already ─────────────────────────────────────────────────────────────────────────────────

    async def _adopt(self) -> bool:
        """Take in the next file if it is there: its archiver was killed, or a failover took the checkpoint back."""
        number = self._checkpoint.number + 1
        name = self._archive.path(self._shard, manifest_name(number))
        try:
            manifest = await self._archive.found(self._shard, number)
        except CorruptArchive as error:
            log.warning("written again, as no checkpoint knows of it: %s", error)
            return False
        if manifest is None:
            return False
        if not self._archiver.trusted.vouches(manifest):
            log.warning("%s is signed by none of our keys, so it is written again", name)
            return False
        if manifest.previous != self._checkpoint.digest:
            raise CorruptArchive(name, "follows another file than the last one that Redis knows of")
        await self._archive.lines(manifest)
        await self._advance(manifest)
        return True

    # ── a new file ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _write(self) -> bool:
        """Write the next file; False when there are no more events."""
        segment = await self._read()
        if segment is None:
            return False
        self._tell("read")
        unsigned = segment.manifest(self._archive.namespace, self._shard, self._checkpoint)
        manifest = self._archiver.signer.sign(unsigned)
        await self._intend(manifest)
        written = await self._put(file_name(manifest.number), segment.finish())
        await to_thread.run_sync(check_file, manifest, written)
        self._tell("stored")
        name = manifest_name(manifest.number)
        if await self._put(name, manifest.pack()) != manifest.pack():
            raise CorruptArchive(self._archive.path(self._shard, name), "is not what was just written")
        self._tell("described")
        await self._advance(manifest)
        return True

    async def _read(self) -> Segment | None:
        """Return the events of the next file; None when there are none.

        A failover while they are read could mix two histories; then they are read again.
        """
        while (start := await start_of(self._store, self._archive, self._shard, self._checkpoint)) is not None:
            segment = await self._segment(start)
            if await stand(self._store, self._shard, segment.boundaries):
                return segment if segment.count else None
            log.warning("a failover has taken back what was being read of shard %s: reading again", self._shard)
        return None

    async def _segment(self, start: Start) -> Segment:
        """Read one file's events. A file that was begun ends where it was said to end, whatever the limits are here."""
        pending, segment, end = self._checkpoint.pending, Segment(start), self._turn.end.id
        if pending is not None and not start.after.id < pending <= end:
            pending = None  # a failover took that back
        try:
            async with aclosing(self._pages(start, pending or end)) as pages:
                async for page in pages:
                    await segment.add(page, self._archiver.most_events - segment.count if pending is None else None)
                    if pending is None and (segment.count >= self._archiver.most_events or segment.size >= MOST_BYTES):
                        break
        finally:
            await segment.settle()
        return segment

    async def _pages(self, start: Start, until: StreamId) -> AsyncGenerator[Sequence[Line], None]:
        """Yield the entries that follow up to an id; the server looks for the next ones meanwhile."""
        after = start.after.id
        ahead = asyncio.ensure_future(self._store.lines(self._shard, after, PAGE))
        try:
            while after < until and (page := await ahead):
                after = parse_id(page[-1][0])
                if after < until:
                    ahead = asyncio.ensure_future(self._store.lines(self._shard, after, PAGE))
                    await asyncio.sleep(0)  # it is sent now
                yield page if after <= until else [line for line in page if parse_id(line[0]) <= until]
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def _intend(self, manifest: Manifest) -> None:
        if self._checkpoint.pending != manifest.last.id:
            await self._leave(self._checkpoint._replace(pending=manifest.last.id))
        self._tell("intended")

    async def _put(self, name: str, data: bytes) -> bytes | None:
        """Store a file, unless it is there as it should be, and return what is there now."""
        path, target = self._archive.path(self._shard, name), self._archive.target
        if await target.get(path) != data:
            await target.put(path, data)
        return await target.get(path)

    # ── after a file ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _advance(self, manifest: Manifest) -> None:
        self._began = self._began or manifest.first.id
        await self._leave(Checkpoint(manifest.last, manifest.number, manifest.digest))
        self._events += manifest.count
        self._files += 1
        self._tell("advanced")

    async def _leave(self, checkpoint: Checkpoint) -> None:
        holder, fence = self._archiver.holder, self._turn.fence
        if not await self._store.advance(self._shard, JOB, holder, fence, checkpoint.pack()):
            raise TurnLost
        self._checkpoint = checkpoint

    async def _trim(self) -> int:
        """Trim what is old and safe; the control log is trimmed by the workers, who know how long it is needed."""
        if self._shard == CONTROL:
            return 0
        trimmed = await self._store.trim(self._shard, round(self._archiver.keep.total_seconds() * 1000))
        self._tell("trimmed")
        return trimmed

    async def _expire(self) -> int:
        """Remove the files that are past the archive's own retention, by the server's clock."""
        archiver, retention = self._archiver, self._archiver.retention
        if retention is None:
            return 0
        now = (await self._store.counters(self._shard)).now
        horizon = now - round(retention.total_seconds() * 1000)
        return await expire(self._archive, self._shard, archiver.signer, archiver.trusted, horizon)

    def _tell(self, step: Step) -> None:
        self._archiver.on_progress(Progress(self._shard, step, self._events, self._share()))

    def _share(self) -> float:
        if self._began is None:
            return 0.0
        begin, end, now = self._began[0], self._turn.end.id[0], self._checkpoint.position.id[0]
        return 1.0 if end <= begin else min(1.0, max(0.0, (now - begin) / (end - begin)))
