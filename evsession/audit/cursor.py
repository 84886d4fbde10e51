"""Where a reader of all shards stands, as one opaque text that can be kept anywhere."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from evsession.errors import ConfigError
from evsession.info import milliseconds_of
from evsession.wire import START, Position, parse_id

PROOF: Final = 8
"""Bytes of an event id that a cursor keeps, to know the event again.  Source: one id is compared, so 64 bits do."""

SKEW_MS: Final = 60_000
"""How far the clocks of two shards' servers may be apart: where only one shard's position is known, the others are read
from so much earlier.  Source: thousands of times what NTP keeps."""

_SIGN: Final = "ev1_"
_EVENT: Final = re.compile(r"(\w{2,3}):(\d{1,19}-\d{1,19}):([0-9a-f]{16})", re.ASCII)
_MS: Final = 7
_SEQ: Final = 8


def after(ms: int) -> Position:
    """Return the position before all entries of a millisecond, which no entry has to prove."""
    return Position((ms - 1, 2**63 - 1), b"") if ms > 0 else START


def is_proof(position: Position, event_id: bytes) -> bool:
    """Tell whether an entry with the position's id is the one that stood there."""
    return event_id[: len(position.event)] == position.event


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last position read in each shard; `elsewhere` stands for the shards that it does not name."""

    positions: Mapping[str, Position]
    elsewhere: Position = START

    def at(self, shard: str) -> Position:
        """Return the position in a shard."""
        return self.positions.get(shard, self.elsewhere)

    @classmethod
    def at_time(cls, time: datetime) -> Cursor:
        """Return the cursor before all that happened at a time and later.

        Raises:
            ConfigError: the time has no zone.
        """
        return cls({}, after(milliseconds_of(time)))

    def text(self) -> str:
        """Return the cursor as text: 35 characters for each shard that has events."""
        everywhere = {"": self.elsewhere} | {shard: at for shard, at in self.positions.items() if at != self.elsewhere}
        known = ((shard, at) for shard, at in sorted(everywhere.items()) if shard or at.id != START.id)
        packed = b"".join(_packed(shard, at) for shard, at in known)
        return _SIGN + urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor that a text stands for: that of a follower, or of one event.

        Raises:
            ConfigError: it is no cursor.
        """
        if match := _EVENT.fullmatch(text):
            id_ = parse_id(match[2].encode())
            return cls({match[1]: Position(id_, bytes.fromhex(match[3]))}, after(id_[0] - SKEW_MS))
        try:
            positions = dict(_unpacked(text))
            return cls(positions, positions.pop("", START))
        except ValueError as error:
            msg = "this is no cursor; pass follower.cursor or event.cursor as it was, or 'start', 'now' or a datetime"
            raise ConfigError(msg) from error


def _packed(shard: str, position: Position) -> bytes:
    (ms, seq), event = position
    name = shard.encode()
    proof = event[:PROOF]
    return bytes((len(name) << 4 | len(proof),)) + name + ms.to_bytes(_MS, "big") + seq.to_bytes(_SEQ, "big") + proof


def _unpacked(text: str) -> Iterator[tuple[str, Position]]:
    sign, packed = text[: len(_SIGN)], text[len(_SIGN) :]
    if sign != _SIGN:
        raise ValueError(text)
    raw = urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
    while raw:
        ms = 1 + (raw[0] >> 4)
        seq, event = ms + _MS, ms + _MS + _SEQ
        end = event + (raw[0] & 15)
        if len(raw) < end:
            raise ValueError(text)
        id_ = int.from_bytes(raw[ms:seq], "big"), int.from_bytes(raw[seq:event], "big")
        yield raw[1:ms].decode("ascii"), Position(id_, raw[event:end])
        raw = raw[end:]
