"""Every position of a log, packed: 26 bytes each, found by bisection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evsession.wire import START, Position, StreamId

RECORD: Final = 26
"""Bytes of a record: 6 of milliseconds, 4 of the sequence number, both big-endian, and 16 of the event id.

Source: bytes compare as ids then; 48 bits of milliseconds last until the year 10889.
"""

ID: Final = 10


class Positions:
    """The positions of a log in its order, first to last."""

    __slots__ = ("_packed",)

    def __init__(self, packed: bytes = b"") -> None:
        self._packed = bytearray(packed)

    def __len__(self) -> int:
        return len(self._packed) // RECORD

    @property
    def first(self) -> Position:
        """The first position held; the start of the log if there is none."""
        return self._at(0) if self._packed else START

    @property
    def last(self) -> Position:
        """The last position held; the start of the log if there is none."""
        return self._at(len(self) - 1) if self._packed else START

    def has(self, position: Position) -> bool:
        """Tell whether this very entry is in the log."""
        at = self._index(pack_id(position.id)) * RECORD
        return self._packed[at : at + RECORD] == pack_position(position)

    def add(self, position: Position) -> None:
        """Take in a position; mostly the last one."""
        at = self._index(pack_id(position.id)) * RECORD
        self._packed[at:at] = pack_position(position)

    def trim(self, first: StreamId) -> int:
        """Forget the positions before an id; return how many went."""
        went = self._index(pack_id(first))
        del self._packed[: went * RECORD]
        return went

    def after(self, id_: StreamId) -> Iterator[Position]:
        """Yield the positions past an id."""
        start = self._index(pack_id((id_[0], id_[1] + 1)))
        return (self._at(number) for number in range(start, len(self)))

    def common_with(self, other: Positions) -> StreamId:
        """Return the last id up to which two logs are one, of which either may have lost its beginning."""
        if not self._packed or not other._packed:
            return START.id
        since = max(self._packed[:ID], other._packed[:ID])
        mine, theirs = (memoryview(held._packed)[held._index(since) * RECORD :] for held in (self, other))
        low, high = 0, min(len(mine), len(theirs)) // RECORD
        while low < high:
            middle = (low + high + 1) // 2
            if mine[: middle * RECORD] == theirs[: middle * RECORD]:
                low = middle
            else:
                high = middle - 1
        return id_of(mine[(low - 1) * RECORD :]) if low else START.id

    def _at(self, number: int) -> Position:
        record = self._packed[number * RECORD : (number + 1) * RECORD]
        return Position(id_of(record), bytes(record[ID:]))

    def _index(self, id_: bytes | bytearray) -> int:
        """Return how many records come before an id."""
        packed, low, high = self._packed, 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if packed[middle * RECORD : middle * RECORD + ID] < id_:
                low = middle + 1
            else:
                high = middle
        return low


def pack_position(position: Position) -> bytes:
    """Return the record of a position."""
    return pack_id(position.id) + position.event


def pack_id(id_: StreamId) -> bytes:
    """Return an id such that bytes compare as ids do; those that no clock will ever give are all the last one."""
    return min(id_[0], 2**48 - 1).to_bytes(6, "big") + min(id_[1], 2**32 - 1).to_bytes(4, "big")


def id_of(record: bytes | bytearray | memoryview) -> StreamId:
    """Return the id that a record begins with."""
    return int.from_bytes(record[:6], "big"), int.from_bytes(record[6:ID], "big")
