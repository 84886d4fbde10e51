"""Sorting more records than memory should hold into parts, on disk.

A record is a tuple of bytes. On disk it has the form in which Redis speaks, because its parser in C is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Final, Self, cast

import hiredis

BUFFER: Final = 65_536
"""Bytes of a part that are collected before they are written.  Source: 128 parts take 8 MB."""


_pack: Final[Callable[[tuple[bytes, ...]], bytes]] = cast(Any, hiredis.pack_command)


class Spill:
    """Records in parts; one part stays in memory, several go to nameless files that nobody else can open.

    Raises:
        OSError: the disk is full; set TMPDIR to one that is not.
    """

    def __init__(self, parts: int) -> None:
        self._memory: list[tuple[bytes, ...]] | None = [] if parts == 1 else None
        self._stack = ExitStack()
        self._files = [self._opened() for _ in range(parts if parts > 1 else 0)]
        self._buffers = [bytearray() for _ in self._files]

    def _opened(self) -> IO[bytes]:
        return self._stack.enter_context(TemporaryFile(prefix="evsession-"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def add(self, part: int, record: tuple[bytes, ...]) -> None:
        """Append a record to a part."""
        if self._memory is not None:
            self._memory.append(record)
            return
        buffer = self._buffers[part]
        buffer += _pack(record)
        if len(buffer) >= BUFFER:
            self._files[part].write(buffer)
            buffer.clear()

    def records(self, part: int) -> Iterator[Any]:
        """Yield the records of a part in the order in which they came, as sequences of bytes."""
        if self._memory is not None:
            yield from self._memory
            return
        file = self._files[part]
        file.write(self._buffers[part])
        self._buffers[part].clear()
        file.seek(0)
        reader = hiredis.Reader(notEnoughData=None)
        while chunk := file.read(BUFFER):
            reader.feed(chunk)
            while (record := reader.gets()) is not None:
                yield record
