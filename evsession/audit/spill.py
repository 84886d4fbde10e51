"""Sorting more records than memory should hold into parts, on disk.

A record is a tuple of bytes. On disk many of them stand together as Python marshals them, which takes a sixth of the
time of any other form at hand (measured). Nobody else can open the files, so nothing foreign is ever read back.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from struct import Struct
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Final, Self

Record = tuple[bytes, ...]

TOGETHER: Final = 128
"""Records of a part that are collected before they are written.  Source: 128 parts take 15 MB."""

CHUNK: Final = 1 << 16
"""Bytes that are read of a part's file at once.  Source: what a pipe takes on Linux."""

_FORM: Final = 2
"""The version of the form: later ones look for objects that come twice, and take thrice as long."""
SIZE: Final = Struct("<I")
"""The number of bytes of what follows."""


class Spill:
    """Records in parts; one part stays in memory, several go to nameless files that nobody else can open.

    Raises:
        OSError: the disk is full; set TMPDIR to one that is not.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._stack = ExitStack()
        self._waiting: list[list[Record]] = [[] for _ in range(parts)]
        self._files = [self._opened() for _ in range(parts if parts > 1 else 0)]

    def _opened(self) -> IO[bytes]:
        return self._stack.enter_context(TemporaryFile(prefix="evsession-"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def add(self, part: int, record: Record) -> None:
        """Append a record to a part."""
        waiting = self._waiting[part]
        waiting.append(record)
        if len(waiting) >= TOGETHER and self._files:
            self._write(part)

    def _write(self, part: int) -> None:
        self._files[part].write(framed(self._waiting[part]))
        self._waiting[part].clear()

    def finish(self) -> int:
        """Write what is waiting, and return how many bytes there are in all; nothing may be added any more.

        Raises:
            OSError: the disk is full.
        """
        for part, file in enumerate(self._files):
            if self._waiting[part]:
                self._write(part)
            file.flush()
        return sum(file.tell() for file in self._files)

    def chunks(self, part: int) -> Iterator[bytes]:
        """Yield the records of a part, after `finish`, as `unframed` reads them."""
        if not self._files:
            yield from map(framed, self.batches(part))
            return
        file = self._files[part]
        file.seek(0)
        while chunk := file.read(CHUNK):
            yield chunk

    def batches(self, part: int) -> Iterator[Sequence[Record]]:
        """Yield the records of a part in the order in which they came, some at once."""
        if self._files:
            self._write(part)
            self._files[part].seek(0)
            with suppress(EOFError):
                while True:
                    yield unframed(self._files[part])
        else:
            waiting = self._waiting[part]
            for start in range(0, len(waiting), TOGETHER):
                yield waiting[start : start + TOGETHER]


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
    return unmarshalled(file.read(*SIZE.unpack(size)))


def unmarshalled(data: bytes) -> Any:
    """Return a value that this process, or one that it started, has marshalled.

    Raises:
        EOFError: a part of it is missing.
    """
    return marshal.loads(data)
