"""One file of events: lines, compressed, with what the manifest says of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import sha256

import zstandard

from evsession.archive.lines import from_line, to_line
from evsession.archive.manifest import Checkpoint, Manifest, Start, file_name
from evsession.errors import CorruptArchive
from evsession.wire import Entry, Line, Position, parse_id

log = logging.getLogger("evsession.archive")


class Segment:
    """A file in the making. Only its compressed form is held."""

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

    def add(self, page: Sequence[Line], room: int | None = None) -> None:
        """Append log entries, at most `room`, which follow what is there in the order of the log.

        What is none of ours is left out and does not count.
        """
        ours = [(entry, line) for entry in page if (line := _line_of(entry))][:room]
        if not ours:
            return
        lines = b"".join(line for _, line in ours)
        self.first = self.first or _position(ours[0][0])
        self.last = _position(ours[-1][0])
        self.boundaries.append(self.last)
        self.count += len(ours)
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


def _position(entry: Line) -> Position:
    return Position(parse_id(entry[0]), entry[5])


def _line_of(entry: Line) -> bytes:
    """Return the line of an entry, nothing for what is none of ours."""
    try:
        return to_line(entry)
    except ValueError:  # too few fields, or what stands in them is of no form of ours
        log.critical("the log entry %s is none of ours; find out who can write to Redis", entry[0].decode())
        return b""


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
