"""What one worker knows of one shard's log: its position, its lease, and whether anything may be missing.

Only the feed and repairs move the position. Only a heartbeat whose log end the position has reached extends the lease.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from evsession.wire import START, Position, StreamId, parse_id

CONTROL: Final = "ctl"
"""The name of the control log's shard; longer than a session's shard, so that no session can live there."""

REMEMBERED: Final = 256
"""How many applied positions are kept to tell a duplicate from a gap, and to know the end that a heartbeat named.

Source: a feed in disorder spans a few; a heartbeat's round trip of 10 ms spans 160 commits of 61 µs each.
"""


_RECORD: Final = re.compile(rb"(\d{1,15}-\d{1,20}) (\d{1,15}) (\d{1,15})").fullmatch


class WorkerRecord(NamedTuple):
    """What a worker's last heartbeat left: its position, the time of the heartbeat and its bound, both in ms."""

    position: StreamId
    at: int
    bound: int


def worker_record(raw: bytes) -> WorkerRecord | None:
    """Return a worker's record; None for what none of ours has left."""
    found = _RECORD(raw)
    if found is None:
        return None
    position, at, bound = found.groups()
    return WorkerRecord(parse_id(position), int(at), int(bound))


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat sends; without a position it asks for the end of the log to adopt."""

    shard: str
    position: Position | None


@dataclass(frozen=True, slots=True)
class BeatReply:
    """What a heartbeat brings: whether the position is in the log, and the log's incarnation and end."""

    status: Literal["ok", "fork", "trimmed"]
    incarnation: str
    end: Position


class View:
    """The position, generation and lease of one shard. Times are local seconds, given by the caller."""

    __slots__ = (
        "_pending", "_recent", "gap", "generation", "incarnation", "lease_until", "position", "serve_until", "shard",
        "unloaded",
    )  # fmt: skip

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.position: Position | None = None
        self.incarnation: str | None = None
        self.generation = 0
        self.lease_until = float("-inf")
        self.serve_until = float("-inf")
        """The end of this lease or of the control log's, whichever is first; the cache keeps it."""
        self.gap = False
        """Whether entries may have been missed, so that a repair is due; whoever begins one clears it first."""
        self.unloaded: Position | None = None
        """Of the control log, the end that a heartbeat named before anything was loaded: all up to there is missing."""
        self._recent: deque[Position] = deque(maxlen=REMEMBERED)
        self._pending: dict[Position, float] = {}
        """Leases, each of which begins to count once the position has reached its end of the log."""

    @property
    def is_waiting(self) -> bool:
        """Whether a heartbeat named an end that is not reached yet."""
        return bool(self._pending)

    def beat(self) -> Beat:
        """Return the heartbeat that would prove the present position."""
        return Beat(self.shard, self.position)

    def adopt(self, reply: BeatReply) -> None:
        """Begin at the end of the log; of the control log all counts, so unless it is empty it must be loaded first."""
        self.generation += 1
        self.incarnation = reply.incarnation
        if self.shard == CONTROL and reply.end != START:
            self.unloaded, self.gap = reply.end, True
        else:
            self._begin(reply.end)
            self.gap = False

    def loaded(self, end: Position) -> None:
        """Begin at a position up to which all was loaded; it proves nothing before the next heartbeat."""
        self._begin(end)
        self.expire()

    def _begin(self, position: Position) -> None:
        self.unloaded = None
        self.position = position
        self._recent.append(position)

    def promise(self, end: Position, until: float) -> None:
        """Extend the lease to `until`, at once or when the position reaches `end`.

        The position must have stood at `end` itself: a later id alone may belong to a history that a failover ended.
        Several ends may be waited for: each heartbeat of a busy log names a later one.
        """
        self._pending[end] = max(until, self._pending.get(end, until))
        if self.has_applied(end):
            self._redeem(end)

    def advance(self, position: Position) -> None:
        """Take the next entry of the log as applied."""
        self.position = position
        self._recent.append(position)
        if self._pending and position in self._pending:
            self._redeem(position)

    def _redeem(self, end: Position) -> None:
        self.lease_until = max(self.lease_until, self._pending[end])
        self._pending = {later: until for later, until in self._pending.items() if until > self.lease_until}

    def has_applied(self, position: Position) -> bool:
        """Tell whether a position is among the last ones applied."""
        return position in self._recent

    def expire(self) -> None:
        """Give up the lease and those that were promised, and nothing else."""
        self.lease_until = self.serve_until = float("-inf")
        self._pending = {}

    def forget(self) -> None:
        """Give up all that was known of the log: another history has taken its place."""
        self.generation += 1
        self.position = self.incarnation = self.unloaded = None
        self.expire()
        self.gap = False
        self._recent.clear()
