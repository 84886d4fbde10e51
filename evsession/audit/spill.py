"""Sorting more records than memory should hold into parts, on disk.

A record is a tuple of bytes, and comes from somewhere: the log of a shard, or the snapshots. On disk many of the same
source stand together as Python marshals them, which takes a sixth of the time of any other form at hand (measured).
Nobody else can open the files, so nothing foreign is ever read back.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from struct import Struct
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Final, Self

Record = tuple[bytes, ...]

SNAPSHOTS: Final = b""
"""The source of snapshots; that of entries is the name of their shard."""

Batch = tuple[bytes, list[Record]]
"""A source, and records from there."""

TOGETHER: Final = 128
"""Records of a part that are collected before they are written.  Source: 128 parts take 15 MB."""

CHUNK: Final = 1 << 16
"""Bytes that are read of a part's file at once.  Source: what a pipe takes on Linux."""

_FORM: Final = 2
"""The version of the form: later ones look for objects that come twice, and take thrice as long."""
SIZE: Final = Struct("<I")
"""The number of bytes of what follows."""


class Spill:
    """Records in parts, which go to nameless files that nobody else can open.

    Raises:
        OSError: the disk is full; set TMPDIR to one that is not.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.waiting: list[list[Record]] = [[] for _ in range(parts)]
        """Where to append each part's records; call `relieve` now and then."""
        self._source = SNAPSHOTS
        self._stack = ExitStack()
        self._files = [self._opened() for _ in range(parts)]

    def _opened(self) -> IO[bytes]:
        return self._stack.enter_context(TemporaryFile(prefix="evsession-"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def begin(self, source: bytes) -> None:
        """Say where the records that come from now on are from.

        Raises:
            OSError: the disk is full.
        """
        self.relieve(1)
        self._source = source

    def relieve(self, least: int = TOGETHER) -> None:
        """Write the records of parts where at least so many wait.

        Raises:
            OSError: the disk is full.
        """
        for records, file in zip(self.waiting, self._files, strict=True):
            if len(records) >= least:
                file.write(framed((self._source, records)))
                records.clear()

    def finish(self) -> int:
        """Write what is waiting, and return how many bytes there are in all; nothing may be added any more.

        Raises:
            OSError: the disk is full.
        """
        self.relieve(1)
        for file in self._files:
            file.flush()
        return sum(file.tell() for file in self._files)

    def chunks(self, part: int) -> Iterator[bytes]:
        """Yield the records of a part, after `finish`, as `unframed` reads them."""
        file = self._files[part]
        file.seek(0)
        while chunk := file.read(CHUNK):
            yield chunk

    def batches(self, part: int) -> Iterator[Batch]:
        """Yield the records of a part, after `finish`, in the order in which they came."""
        self._files[part].seek(0)
        with suppress(EOFError):
            while True:
                yield unframed(self._files[part])


def framed(value: Any) -> bytes:
    """Return a value of plain types as bytes, after their number."""
    data = marshal.dumps(value, _FORM)
    return SIZE.pack(len(data)) + data


def unframed(file: IO[bytes]) -> Any:
    """Return the next value of a file or pipe.

    Raises:
        EOFError: there is none, or not all of it.
    """
    size = file.read(SIZE.size)
    if len(size) < SIZE.size:
        raise EOFError
    return marshal.loads(file.read(*SIZE.unpack(size)))
