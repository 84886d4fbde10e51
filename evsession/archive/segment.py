"""One file of events: lines, compressed, with what the manifest says of them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import zstandard

from evsession.archive.lines import from_line, to_line
from evsession.archive.manifest import Checkpoint, Manifest, Start, file_name
from evsession.errors import CorruptArchive
from evsession.wire import Entry, Position


class Segment:
    """A file in the making. Only its compressed form is held."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.first: Position | None = None
        self.last = start.after
        self.count = 0
        self.size = 0
        self._digest = sha256()
        self._compressor = zstandard.ZstdCompressor().compressobj()
        self._chunks: list[bytes] = []

    def add(self, entries: Sequence[Entry]) -> None:
        """Append entries, which follow what is there in the order of the log."""
        if not entries:
            return
        lines = b"".join(map(to_line, entries))
        self.first = self.first or entries[0].position
        self.last = entries[-1].position
        self.count += len(entries)
        self.size += len(lines)
        self._digest.update(lines)
        self._chunks.append(self._compressor.compress(lines))

    def finish(self) -> bytes:
        """Return the file."""
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


def lines_of(manifest: Manifest, compressed: bytes | None) -> list[bytes]:
    """Return the lines of a file, without their newlines, if they are those of its manifest.

    Raises:
        CorruptArchive: the file is missing, or holds something else.
    """
    name = f"{manifest.shard}/{file_name(manifest.number)}"
    if compressed is None:
        raise CorruptArchive(name, "is missing")
    try:
        with zstandard.ZstdDecompressor().stream_reader(compressed) as reader:
            text = reader.read(manifest.size + 1)  # no more, whatever the file claims to hold
    except zstandard.ZstdError as error:
        raise CorruptArchive(name, f"cannot be decompressed ({error})") from error
    if len(text) != manifest.size or sha256(text).hexdigest() != manifest.sha256:
        raise CorruptArchive(name, "holds other events than its manifest says")
    return text.split(b"\n")[:-1]


def entry_of(manifest: Manifest, line: bytes) -> Entry:
    """Return the entry of a line.

    Raises:
        CorruptArchive: it is none, although the manifest vouches for it.
    """
    try:
        return from_line(line)
    except ValueError as error:
        raise CorruptArchive(f"{manifest.shard}/{file_name(manifest.number)}", str(error)) from error
