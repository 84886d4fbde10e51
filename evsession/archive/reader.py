"""Reading an archive: what `evsession.audit` continues into where the log in Redis begins."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Self

from evsession.archive.lines import id_of_line
from evsession.archive.manifest import (
    JOB,
    Checkpoint,
    Fork,
    Manifest,
    bound_of,
    file_name,
    manifest_name,
    unpack_manifest,
)
from evsession.archive.mark import NAME as MARK
from evsession.archive.mark import Mark, unpack_mark
from evsession.archive.segment import entry_of, lines_of
from evsession.archive.target import Target
from evsession.errors import ConfigError, CorruptArchive
from evsession.store import Store
from evsession.wire import Entry, StreamId

log = logging.getLogger("evsession.archive")


class Archive:
    """The archive of one namespace, read only.

    Manifests are remembered, as they never change, and the lines of the file read last, because a session's links lead
    into the same file again and again. Files are checked against their manifests whenever they are read; who signed the
    manifests is `evsession.archive.check`'s matter. The `store`, if there is one, knows what was archived: a mistyped
    place would else read like an archive to which nothing has come yet.
    """

    def __init__(self, target: Target, namespace: str, store: Store | None = None) -> None:
        self.target = target
        self.namespace = namespace
        self._store = store
        self._has_warned = False
        self._manifests: dict[tuple[str, int], Manifest] = {}
        self._newest: dict[str, int] = {}
        self._marks: dict[str, Mark] = {}
        self._last_read: tuple[str, list[bytes]] = ("", [])

    @classmethod
    def at(cls, url: str, namespace: str, store: Store | None = None) -> Self:
        """Return the archive of a namespace in a folder or at a URL of fsspec; see `Archive` for the rest.

        Raises:
            ConfigError: no file system has that scheme, or its package is missing.
        """
        return cls(Target.of(url), namespace, store)

    def path(self, shard: str, name: str) -> str:
        """Return the name of a shard's file within the target."""
        return f"{self.namespace}/{shard}/{name}"

    async def between(self, shard: str, first: StreamId, last: StreamId) -> AsyncIterator[Entry]:
        """Yield the entries of a shard from `first` to `last`, both included, in the order of the log.

        What a failover took back from the log is left out. One file's lines are held at a time.

        Raises:
            ArchiveUnavailable: the archive cannot be reached.
            ConfigError: it has nothing of the shard, although the store knows that some was archived.
            CorruptArchive: a file is not what its manifest says.
        """
        newest = self._manifests.get((shard, self._newest.get(shard, 0)))
        if newest is None or newest.last.id < last:
            newest = await self.newest(shard)
        newest = newest or await self._sought(shard)
        if newest is None:
            return
        begin = max(await self._file_with(shard, first, newest), await self._first_kept(shard))
        for number in range(begin, newest.number + 1):
            manifest = await self._known(shard, number)
            if manifest.first.id > last and not newest.forks:
                return
            async for entry in self._entries(manifest, newest.forks, first, last):
                yield entry

    async def _sought(self, shard: str) -> Manifest | None:
        """Look again for a shard of which nothing was there, and doubt the place if others know of something."""
        files = 0 if self._store is None else Checkpoint.unpack(await self._store.checkpoint(shard, JOB)).number
        if files:
            newest = await self.newest(shard)  # the archiver may have come meanwhile
            if newest is None:
                raise ConfigError(self._nothing(f", although {files:,} files of shard {shard} were archived"))
            return newest
        if not self._has_warned and await self.is_empty():
            self._has_warned = True
            log.warning("%s", self._nothing(" yet, and events are asked for that the log has no more"))
        return None

    def _nothing(self, doubt: str = "") -> str:
        return (
            f"at {self.target} there is nothing of the namespace {self.namespace!r}{doubt};"
            " name the place that `evsession archive --to` was given, or bring its files back from a copy"
        )

    async def is_empty(self) -> bool:
        """Tell whether nothing of the namespace is there; raises `ArchiveUnavailable`."""
        return not await self.shards()

    async def require(self) -> None:
        """Raise unless there is anything of the namespace.

        Raises:
            ArchiveUnavailable: the archive cannot be reached.
            ConfigError: there is nothing, or nothing yet.
        """
        if await self.is_empty():
            raise ConfigError(self._nothing())

    async def _entries(
        self, manifest: Manifest, forks: tuple[Fork, ...], first: StreamId, last: StreamId
    ) -> AsyncIterator[Entry]:
        bound = bound_of(manifest.number, forks)
        last = last if bound is None else min(last, bound)
        if manifest.last.id < first or manifest.first.id > last:
            return
        lines = await self._read_again(manifest)
        for at in range(bisect_left(lines, first, key=id_of_line), len(lines)):
            entry = entry_of(manifest, lines[at])
            if entry.id > last:
                return
            yield entry

    async def lines(self, manifest: Manifest) -> list[bytes]:
        """Return the lines of a file that is what its manifest says.

        Raises:
            ArchiveUnavailable: it cannot be reached.
            CorruptArchive: it is missing, or something else.
        """
        return lines_of(manifest, await self.target.get(self.path(manifest.shard, file_name(manifest.number))))

    async def has_file(self, manifest: Manifest) -> bool:
        """Tell whether the file of a manifest is there; raises `ArchiveUnavailable`."""
        return await self.target.has(self.path(manifest.shard, file_name(manifest.number)))

    async def _first_kept(self, shard: str) -> int:
        """Return the number of the first file that was not removed on purpose."""
        mark = self._marks.get(shard)
        if mark is None:
            mark = await self.mark(shard)
        if mark is None or await self.target.has(self.path(shard, file_name(mark.number))):
            return 1
        self._marks[shard] = mark
        return mark.number + 1

    async def mark(self, shard: str) -> Mark | None:
        """Return the mark of a shard's files that were removed on purpose, None without one.

        Raises:
            ArchiveUnavailable: the archive cannot be reached.
            CorruptArchive: it is no mark.
        """
        name = self.path(shard, MARK)
        raw = await self.target.get(name)
        return None if raw is None else unpack_mark(name, raw, self.namespace, shard)

    async def _read_again(self, manifest: Manifest) -> list[bytes]:
        digest, lines = self._last_read
        if digest != manifest.digest:
            self._last_read = ("", [])  # before the next one comes, so that only one is held
            lines = await self.lines(manifest)
            self._last_read = (manifest.digest, lines)
        return lines

    async def _file_with(self, shard: str, first: StreamId, newest: Manifest) -> int:
        """Return the number of the first file that can hold an id, by halving; after a failover, of the very first."""
        if newest.forks:
            return 1
        low, high = 1, newest.number
        while low < high:
            middle = (low + high) // 2
            if (await self._known(shard, middle)).last.id < first:
                low = middle + 1
            else:
                high = middle
        return low

    async def newest(self, shard: str) -> Manifest | None:
        """Return the last manifest of a shard, None without any; found by doubling and halving, without a listing.

        Raises:
            ArchiveUnavailable: the archive cannot be reached.
            CorruptArchive: a manifest is none.
        """
        low, step = self._newest.get(shard, 0), 1
        while await self.manifest(shard, low + step) is not None:
            low, step = low + step, step * 2
        while step > 1:
            step //= 2
            if await self.manifest(shard, low + step) is not None:
                low += step
        self._newest[shard] = low
        return await self.manifest(shard, low) if low else None

    async def shards(self) -> list[str]:
        """Return the shards that the archive has anything of; raises `ArchiveUnavailable`."""
        return await self.target.names(self.namespace)

    async def highest(self, shard: str) -> int:
        """Return the highest number of a manifest, 0 without any, by a listing; raises `ArchiveUnavailable`.

        Unlike `newest` it does not take a missing one for the end.
        """
        names = [PurePosixPath(name) for name in await self.target.names(self.path(shard, ""))]
        return max((int(name.stem) for name in names if name.suffix == ".json" and name.stem.isdigit()), default=0)

    async def manifest(self, shard: str, number: int) -> Manifest | None:
        """Return a manifest, None if there is none of that number.

        Raises:
            ArchiveUnavailable: the archive cannot be reached.
            CorruptArchive: it is no manifest, or that of another file.
        """
        if known := self._manifests.get((shard, number)):
            return known
        manifest = await self.found(shard, number)
        if manifest is not None:
            self._manifests[shard, number] = manifest
        return manifest

    async def found(self, shard: str, number: int) -> Manifest | None:
        """Return a manifest as it stands there now, None if there is none; raises what `manifest` does."""
        name = self.path(shard, manifest_name(number))
        raw = await self.target.get(name)
        if raw is None:
            return None
        manifest = unpack_manifest(name, raw)
        if (manifest.namespace, manifest.shard, manifest.number) != (self.namespace, shard, number):
            raise CorruptArchive(name, "is the manifest of another file")
        return manifest

    async def _known(self, shard: str, number: int) -> Manifest:
        manifest = await self.manifest(shard, number)
        if manifest is None:
            raise CorruptArchive(self.path(shard, manifest_name(number)), "is missing, and later ones are there")
        return manifest
