"""One file of events: lines, compressed, with what the manifest says of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final

import zstandard

from evsession.archive.lines import from_line, to_lines
from evsession.archive.manifest import Checkpoint, Manifest, Start, file_name
from evsession.errors import CorruptArchive
from evsession.wire import Entry, Line, Position, parse_id

CHUNK: Final = 1024 * 1024
"""Bytes decompressed at once."""

log = logging.getLogger("evsession.archive")


class Segment:
    """A file in the making. Only its compressed form is held, and of a page what a thread is compressing now."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.first: Position | None = None
        self.last = start.after
        self.boundaries = [start.after] if start.is_proven else []
        """Where the pages that it was read in end: if the log still has them all, it has the whole segment."""
        self.count = 0
        self.size = 0
        self._digest = sha256()
        self._compressor = zstandard.ZstdCompressor().compressobj()
        self._chunks: list[bytes] = []
        self._packing: asyncio.Future[None] | None = None

    async def add(self, page: Sequence[Line], room: int | None = None) -> None:
        """Append log entries, at most `room`, which follow what is there in the order of the log.

        What is none of ours is left out and does not count. Returns while the page is still being compressed.
        """
        lines = to_lines(page)
        if not all(lines):
            page, lines = _ours(page, lines)
        page, lines = page[:room], lines[:room]
        if not page:
            return
        text = b"".join(lines)
        self.first = self.first or _position(page[0])
        self.last = _position(page[-1])
        self.boundaries.append(self.last)
        self.count += len(page)
        self.size += len(text)
        await self.settle()
        self._packing = asyncio.ensure_future(asyncio.to_thread(self._pack, text))

    def _pack(self, text: bytes) -> None:
        self._digest.update(text)
        self._chunks.append(self._compressor.compress(text))

    async def settle(self) -> None:
        """Wait until all that was added is compressed; only then is there a manifest."""
        if self._packing is not None:
            packing, self._packing = self._packing, None
            await packing

    def finish(self) -> bytes:
        """Return the file, once settled."""
        self._chunks.append(self._compressor.flush())
        return b"".join(self._chunks)

    def manifest(self, namespace: str, shard: str, checkpoint: Checkpoint) -> Manifest:
        """Return the manifest of the file, not signed yet, as the next one after a checkpoint."""
        return Manifest(
            namespace=namespace,
            shard=shard,
            number=checkpoint.number + 1,
            after=self.start.after,
            first=self.first or self.start.after,
            last=self.last,
            count=self.count,
            size=self.size,
            sha256=self._digest.hexdigest(),
            previous=checkpoint.digest,
            forks=self.start.forks,
            is_gap=self.start.is_gap,
        )


def _position(entry: Line) -> Position:
    return Position(parse_id(entry[0]), entry[5])


def _ours(page: Sequence[Line], lines: Sequence[bytes]) -> tuple[list[Line], list[bytes]]:
    """Leave out the entries that have no line, aloud."""
    for entry, line in zip(page, lines, strict=True):
        if not line:
            log.critical("the log entry %s is none of ours; find out who can write to Redis", entry[0].decode())
    return [entry for entry, line in zip(page, lines, strict=True) if line], [line for line in lines if line]


def check_file(manifest: Manifest, compressed: bytes | None) -> None:
    """Raise unless a file holds what its manifest says; unlike `lines_of`, in little memory.

    Raises:
        CorruptArchive: the file is missing, or holds something else.
    """
    digest, size = sha256(), 0
    for chunk in _chunks_of(manifest, compressed):
        digest.update(chunk)
        size += len(chunk)
    _agree(manifest, size, digest.hexdigest())


def lines_of(manifest: Manifest, compressed: bytes | None) -> list[bytes]:
    """Return the lines of a file, without their newlines, if they are those of its manifest.

    Raises:
        CorruptArchive: the file is missing, or holds something else.
    """
    text = b"".join(_chunks_of(manifest, compressed))
    _agree(manifest, len(text), sha256(text).hexdigest())
    return text.split(b"\n")[:-1]


def _chunks_of(manifest: Manifest, compressed: bytes | None) -> Iterator[bytes]:
    """Yield what a file holds, and at most a byte more than its manifest says, whatever it claims to hold."""
    if compressed is None:
        raise CorruptArchive(_name_of(manifest), "is missing")
    left = manifest.size + 1
    try:
        with zstandard.ZstdDecompressor().stream_reader(compressed) as reader:
            while left > 0 and (chunk := reader.read(min(left, CHUNK))):
                left -= len(chunk)
                yield chunk
    except zstandard.ZstdError as error:
        raise CorruptArchive(_name_of(manifest), f"cannot be decompressed ({error})") from error


def _agree(manifest: Manifest, size: int, digest: str) -> None:
    if (size, digest) != (manifest.size, manifest.sha256):
        raise CorruptArchive(_name_of(manifest), "holds other events than its manifest says")


def _name_of(manifest: Manifest) -> str:
    return f"{manifest.shard}/{file_name(manifest.number)}"


def entry_of(manifest: Manifest, line: bytes) -> Entry:
    """Return the entry of a line.

    Raises:
        CorruptArchive: it is none, although the manifest vouches for it.
    """
    try:
        return from_line(line)
    except ValueError as error:
        raise CorruptArchive(_name_of(manifest), str(error)) from error
