"""Sorting more records than memory should hold into parts, on disk.

A record is a tuple of bytes. On disk many of them stand together as Python marshals them, which takes a sixth of the
time of any other form at hand (measured). Nobody else can open the files, so nothing foreign is ever read back.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from struct import Struct
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Final, Self

Record = tuple[bytes, ...]

TOGETHER: Final = 128
"""Records of a part that are collected before they are written.  Source: 128 parts take 15 MB."""

_FORM: Final = 2
"""The version of the form: later ones look for objects that come twice, and take thrice as long."""
_SIZE: Final = Struct("<I")


class Spill:
    """Records in parts; one part stays in memory, several go to nameless files that nobody else can open.

    Raises:
        OSError: the disk is full; set TMPDIR to one that is not.
    """

    def __init__(self, parts: int) -> None:
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
        batch = marshal.dumps(self._waiting[part], _FORM)
        self._files[part].write(_SIZE.pack(len(batch)) + batch)
        self._waiting[part].clear()

    def batches(self, part: int) -> Iterator[Sequence[Record]]:
        """Yield the records of a part in the order in which they came, some at once."""
        if self._files:
            self._write(part)
            yield from batches_of(self._files[part])
        else:
            waiting = self._waiting[part]
            for start in range(0, len(waiting), TOGETHER):
                yield waiting[start : start + TOGETHER]


def batches_of(file: IO[bytes]) -> Iterator[Sequence[Record]]:
    """Yield the records that a part's file holds, some at once."""
    file.seek(0)
    while size := file.read(_SIZE.size):
        yield marshal.loads(file.read(*_SIZE.unpack(size)))
