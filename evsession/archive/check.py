"""Checking an archive: every file, every manifest, the chain between them, and who vouches for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from evsession.archive.manifest import Checkpoint, Fork, Manifest, file_name, manifest_name
from evsession.archive.mark import NAME as MARK
from evsession.archive.reader import Archive
from evsession.archive.segment import entry_of
from evsession.archive.signing import Trusted
from evsession.errors import CorruptArchive

ArchiveFaultKind = Literal["missing", "manifest", "chain", "order", "gap", "signature", "content", "truncated"]


class ArchiveFault(NamedTuple):
    """The first place in a shard's archive where something of one kind is wrong.

    missing: a manifest between others is gone.   manifest: it is none.   chain: it does not follow the one before.
    order: it does not go on where the one before ended.   gap: events were trimmed before they were archived.
    signature: nobody trusted vouches for it.   content: its file is gone or holds other events.
    truncated: Redis knows of a later file than the archive has, or of another one.
    """

    shard: str
    number: int
    kind: ArchiveFaultKind
    detail: str


async def check_archive(
    archive: Archive,
    trusted: Trusted,
    checkpoints: Mapping[str, bytes],
    on_file: Callable[[str, int, int], None] = lambda shard, number, events: None,
) -> AsyncIterator[ArchiveFault]:
    """Yield what is wrong with an archive, one fault for each shard and kind, in the order of shards and files.

    `checkpoints` are those that Redis holds, by shard; without them the end of the archive cannot be missed by anybody.
    `on_file` is told of each file that was read. Memory does not grow with the archive.

    A manifest whose key is not known is vouched for by a later one that is, since the chain covers its digest: after a
    rotation only the newest key is needed.

    Raises:
        ArchiveUnavailable: the archive cannot be reached.
        UnknownFormat: a newer version wrote it.
    """
    for shard in sorted({*await archive.shards(), *checkpoints}):
        check = _Check(archive, trusted, shard)
        async for fault in check.all(Checkpoint.unpack(checkpoints.get(shard, b"")), on_file):
            if fault.kind not in check.seen:
                check.seen.add(fault.kind)
                yield fault


class _Check:
    """The check of one shard, file by file; only the manifest before is remembered."""

    def __init__(self, archive: Archive, trusted: Trusted, shard: str) -> None:
        self._archive = archive
        self._trusted = trusted
        self._shard = shard
        self._before: Manifest | None = None
        self._unvouched: Manifest | None = None
        self.seen: set[ArchiveFaultKind] = set()

    async def all(self, known: Checkpoint, on_file: Callable[[str, int, int], None]) -> AsyncIterator[ArchiveFault]:
        """Yield what is wrong with the shard, every place of each kind."""
        digest, expired = "", 0
        try:
            mark = await self._archive.mark(self._shard)
            expired = 0 if mark is None else mark.number
            if mark is not None and not self._trusted.vouches(mark):
                yield self._fault(expired, "signature", f"{MARK} was signed by nobody who is trusted")
        except CorruptArchive as error:
            yield self._fault(0, "manifest", error.problem)
        for number in range(1, max(await self._archive.highest(self._shard), known.number) + 1):
            manifest = None
            try:
                manifest = await self._archive.found(self._shard, number)
            except CorruptArchive as error:
                yield self._fault(number, "manifest", error.problem)
            else:
                if manifest is None:
                    yield self._fault(number, "missing", f"{manifest_name(number)} is missing")
            async for fault in self._one(number, manifest, is_expired=number <= expired):
                yield fault
            if manifest is not None:
                on_file(self._shard, number, manifest.count)
                digest = manifest.digest if number == known.number else digest
            self._before = manifest
        for fault in self._abandoned():
            yield fault
        if digest != known.digest:
            yield self._fault(known.number, "truncated", "Redis knows of this file; the archive has none, or another")

    async def _one(self, number: int, manifest: Manifest | None, *, is_expired: bool) -> AsyncIterator[ArchiveFault]:
        before = self._before
        if manifest is None or (before is not None and manifest.previous != before.digest):
            for fault in self._abandoned():
                yield fault
        if manifest is None:
            return
        if manifest.previous != ("" if before is None else before.digest) and (before is not None or number == 1):
            yield self._fault(number, "chain", "it does not name the digest of the manifest before")
        if before is not None and not _follows(before, manifest):
            yield self._fault(number, "order", "it does not begin where the file before ended, and names no failover")
        if manifest.is_gap:
            yield self._fault(number, "gap", "the log was trimmed, or began anew, before all of it was archived")
        if not self._trusted.knows(manifest):
            self._unvouched = self._unvouched or manifest
        elif self._trusted.vouches(manifest):
            self._unvouched = None
        else:
            yield self._fault(number, "signature", f"its signature is not that of the key {manifest.key_id}")
        if is_expired and not await self._archive.has_file(manifest):
            return
        try:
            _check_ends(manifest, await self._archive.lines(manifest))
        except CorruptArchive as error:
            yield self._fault(number, "content", error.problem)

    def _abandoned(self) -> Iterator[ArchiveFault]:
        """Give up hope that a later file vouches for those whose key is not known: the chain ends or is broken here."""
        manifest, self._unvouched = self._unvouched, None
        if manifest is not None:
            detail = f"the key {manifest.key_id} is not among those trusted, and no later file vouches for it"
            yield self._fault(manifest.number, "signature", detail)

    def _fault(self, number: int, kind: ArchiveFaultKind, detail: str) -> ArchiveFault:
        return ArchiveFault(self._shard, number, kind, detail)


def _follows(before: Manifest, manifest: Manifest) -> bool:
    """Tell whether a file goes on where another ended, or after a failover at the place that it names."""
    if manifest.after == before.last:
        return manifest.forks == before.forks
    return manifest.forks == (*before.forks, Fork(manifest.number, manifest.after.id))


def _check_ends(manifest: Manifest, lines: list[bytes]) -> None:
    ends = [entry_of(manifest, line).position for line in (lines[0], lines[-1])] if lines else []
    if len(lines) != manifest.count or ends != [manifest.first, manifest.last]:
        raise CorruptArchive(file_name(manifest.number), "does not begin, end or count as its manifest says")
