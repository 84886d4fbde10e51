"""The Store protocol: where sessions live. A store carries bytes; the core encodes and decodes them.

A store promises:

1. `commit` is atomic: the entry, the snapshot, the expiry index, the log's end and the feed message come all or not at
   all, in the order of the log, and every check precedes the first write.
2. `fill`, `commit` and `heartbeat` read what the primary holds at that moment, never a replica's or an own copy.
3. Times are the store's own clock, milliseconds since 1970; nobody else's clock decides a deadline.
4. What cannot be reached raises `StoreUnavailable` within the command time-out, with `outcome_unknown` set when the
   command may have been executed. Nothing is retried by the store itself.
5. Each reply names its session; a store that mixed replies up would hand a person somebody else's session.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

from evsession.control import Image
from evsession.view import Beat, BeatReply
from evsession.wire import Entry, Line, Position, StreamId

EVENT_KEY: Final = 12
"""How many bytes of an event id say which event it is; the other four count the attempts whose reply was lost.

An event that is appended anew after a failover must not stand at the position that it had in the lost history: the same
id and event id would then prove a past that is another.
"""

CommitStatus = Literal["ok", "gone", "alive", "ended", "conflict"]
Condition = str
"""When an `ended` event may be appended: ``"idle"`` or ``"absolute"``, once that deadline has passed; digits, from that
time on, in ms on the server's clock; empty, at any time.
"""


class Member(NamedTuple):
    """A session that a user may have: when it entered the index, in ms on the server's clock, and from what device."""

    sid: str
    at: int
    device: bytes = b""


class Indexed(NamedTuple):
    """The index of a user at `now` on the server's clock; who entered first is at the front.

    `was_there` says whether the session that entered was in it already.
    """

    now: int
    members: Sequence[Member]
    was_there: bool = True


def in_order(members: Iterable[Member]) -> list[Member]:
    """Return members of an index in the order in which they entered."""
    return sorted(members, key=lambda member: (member.at, member.sid))


class Users(NamedTuple):
    """A page of users, and the cursor of the next one; empty after the last."""

    users: Sequence[str]
    cursor: str


@dataclass(slots=True)
class Entrance:
    """What a login asks of its user's index: for the session to be in it before the commit, for `keep` ms at least.

    `device` is what `device.pack` wrote. With `counts` the session enters once more right after the commit, and `found`
    is the index as it was then. `in_doubt` says that the session may have been missing before the commit.
    """

    user: str
    sid: str
    keep: int
    device: bytes = b""
    counts: bool = False
    found: Indexed | None = None
    in_doubt: bool = False


class Commit(NamedTuple):
    """One event and the snapshot that it produces.

    `expected` is the head it builds on, empty to create. `first_version` is set when a reply to an earlier attempt was
    lost: the lowest version attempted, from which on the log is searched for the first `EVENT_KEY` bytes of `event_id`.
    `absolute` is the time to the absolute deadline in ms, 0 to leave it; `idle` likewise, always set. `condition` names
    the deadline that must have passed for an `ended` event that says so. `notice` is the worker's part of the feed
    message. `entrance` is what a login asks of the index of its user.
    """

    sid: str
    expected: bytes
    event_id: bytes
    first_version: int
    prefix: bytes
    body: bytes
    idle: int
    absolute: int
    type: str
    condition: Condition
    actor: bytes
    context: bytes
    data: bytes
    worker_time: int
    notice: bytes
    entrance: Entrance | None = None


class CommitReply(NamedTuple):
    """What became of a commit.

    `ok` carries the new stream id and the `tail` of the header, which the store wrote, or, when the event was found to
    have happened already, the whole snapshot as it is now. `conflict`, `ended` and `alive` carry the current snapshot.
    `found` is the index of an entrance that counts, as it was after the commit; its `was_there` is of before.
    """

    status: CommitStatus
    sid: str
    now: int
    id: StreamId | None = None
    tail: bytes = b""
    packed: bytes = b""
    found: Indexed | None = None


class FillReply(NamedTuple):
    """A packed snapshot, None if there is none, with the answers of the heartbeats that were executed before it."""

    sid: str
    now: int
    packed: bytes | None
    beats: Sequence[BeatReply] = ()


class TouchReply(NamedTuple):
    """The deadlines after a touch; None for a session that is not there or no longer lives."""

    sid: str
    now: int
    deadlines: tuple[int, int] | None


class Turn(NamedTuple):
    """The right to do a background job of one shard, and what its last holder left.

    `fence` grows with every change of the holder, so that one who was paused and comes back late can be told from the
    one who holds the turn now. `checkpoint` is empty before the first; `end` is the log's end.
    """

    fence: int
    checkpoint: bytes
    end: Position


class Counters(NamedTuple):
    """What a shard's log counts of itself, all at one moment.

    `now` is the server's time. `length` entries are there, the first of them at `first`. `end` is where the last commit
    said that the log stands, `last` the last id that it has given out. `added` entries were appended ever, `trimmed` of
    them removed by `trim`; `deleted` is the highest id that somebody took out of the middle. `added` and `deleted` are
    None where the server does not count (before Redis 7.0).
    """

    now: int
    length: int
    first: StreamId
    last: StreamId
    end: Position
    trimmed: int
    added: int | None
    deleted: StreamId | None


class NamedRevoked(NamedTuple):
    """One entry for the control log: a name is revoked, and one session perhaps excepted.

    `highest` is the highest id that the caller has seen; the entry gets one above it, whatever the store's clock says.
    `since` is the id from which on the log is searched for the first `EVENT_KEY` bytes of `event_id`, since an attempt
    that was given up may still arrive, also after the next. `is_again` says that a failover lost the entry, which is
    then issued only once.
    """

    event_id: bytes
    name: str
    keep: str | None
    highest: StreamId
    since: StreamId
    is_again: bool
    actor: bytes
    context: bytes
    data: bytes
    worker_time: int
    key_id: str
    tag: bytes
    notice: bytes


class RevokeReply(NamedTuple):
    """Where the entry stands, this attempt's or the earlier one's that was found."""

    position: Position
    now: int


class Witness(NamedTuple):
    """What the workers have applied of a shard's log; times in ms of the store's clock.

    `stands` tells whether the entry that was asked for is in the log. `records` are those of `Store.records`.
    """

    now: int
    birth: int
    stands: bool
    records: Mapping[str, bytes]


class FeedListener(Protocol):
    """Who is told of what the feed brings, in the order of the log, always in the event loop's thread."""

    def on_message(self, shard: str, message: bytes) -> None:
        """Take in one message."""

    def on_gap(self, shard: str) -> None:
        """Learn that messages may have been missed: a new subscription, a lost one, an error, silence."""


class Store(Protocol):
    """Where sessions live; see the module's promises."""

    @property
    def shards(self) -> Sequence[str]:
        """The shards that new sessions are spread over; two characters each."""

    @property
    def is_remote(self) -> bool:
        """Whether other processes write here too, so that heartbeats, feed and sweeps must run in the background."""

    @property
    def has_log(self) -> bool:
        """Whether there is a log with a feed. Without, every request asks the store, and no history is kept."""

    async def open(self, worker: str, bound: int, listener: FeedListener) -> None:
        """Connect, under a worker id and with its bound of staleness in ms for the records of heartbeats."""

    async def close(self) -> None:
        """Release all connections and tasks; opening it again is possible."""

    def abandon(self) -> None:
        """Drop all connections at once, without waiting: the event loop is about to end."""

    async def claim(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        """Set the fields of `{ns:meta}` that are not there yet, and return all of them as they stand."""

    async def raise_to(self, field: str, number: int) -> int:
        """Set a number of `{ns:meta}` unless it is as high already, and return what stands there."""

    def commit(self, commit: Commit) -> Coroutine[Any, Any, CommitReply]:
        """Append one event with the snapshot it produces, or say why not.

        With an entrance the session enters the index first, in the same round trip. If the index refuses, it is unknown
        whether the event was appended.
        """

    async def fill(self, sid: str, beats: Sequence[Beat] = ()) -> FillReply:
        """Return a snapshot; the heartbeats given are executed before it, in the same round trip."""

    async def restore(self, commit: Commit, header: bytes) -> CommitReply:
        """Append an event to a session whose snapshot was lost, and whose header was the one given.

        It goes on from there as if that snapshot were there. One that is there is a conflict, and stays as it is.
        """

    async def deadline(self, sid: str) -> int | None:
        """Return the next deadline of a session as the expiry index has it, None if it is not there."""

    async def heartbeat(self, beats: Sequence[Beat]) -> Sequence[BeatReply]:
        """Check each position against its log, write the worker's record, return the log's end."""

    async def touch(self, sid: str, idle: int) -> TouchReply:
        """Move the idle deadline of a living session to `idle` ms from now, never back."""

    async def read(self, shard: str, start: Position, count: int) -> Sequence[Entry]:
        """Return up to `count` entries of a log, the one at `start` included."""

    async def lines(self, shard: str, after: StreamId, count: int) -> Sequence[Line]:
        """Return up to `count` entries of a log as they lie there, those of strangers included, after an id."""

    async def counters(self, shard: str) -> Counters:
        """Return what a shard's log counts of itself."""

    async def snapshots(self, cursor: int, count: int) -> tuple[int, Sequence[tuple[str, bytes]]]:
        """Return about `count` packed snapshots of all shards, and the cursor to go on with; begin at 0, end at 0.

        What is there from the first call to the last is returned at least once.
        """

    async def walk(self, sid: str, limit: int, before: StreamId | None = None) -> Sequence[Entry]:
        """Return the last `limit` entries of one session, oldest first, following its links on the server.

        Also of a session that has ended, as long as the log holds its end.
        """

    async def due(self, shard: str, limit: int) -> Sequence[str]:
        """Return sessions of a shard whose next deadline has passed, or nothing when another worker sweeps it now."""

    async def settle(self, shard: str, sid: str) -> None:
        """Bring the expiry index in line with a session's header, or drop it there if it has none."""

    async def trim(self, shard: str, keep: int) -> int:
        """Remove the entries older than `keep` ms; return how many went.

        The last one stays, and where there is an archive, the one at its checkpoint and all that follow.
        """

    async def take_turn(self, shard: str, job: str, holder: str, length: int) -> Turn | None:
        """Take or keep the turn at a job for `length` ms; None while another holder has it."""

    async def give_turn(self, shard: str, job: str, holder: str, fence: int) -> None:
        """Let another take the turn at once, if it still is this one's."""

    async def advance(self, shard: str, job: str, holder: str, fence: int, checkpoint: bytes) -> bool:
        """Leave a checkpoint for the next holder of the turn; False, and nothing done, if another has taken it since.

        The checkpoint of ``"archive"`` begins with the id of the last entry that is safe, and a space: see `trim`.
        """

    async def checkpoint(self, shard: str, job: str) -> bytes:
        """Return what the job's last holder left; nothing before the first."""

    async def enter(self, user: str, sid: str, keep: int, device: bytes = b"", *, anew: bool = True) -> Indexed:
        """Put a session into the index of its user, kept for `keep` ms at least, and return it as it is then.

        A session that is there already enters `anew`, at a later time than before, or stays as it is.
        """

    async def leave(self, user: str, sid: str, at: int | None = None) -> bool:
        """Take a session out of the index; with `at` only if it entered then and not since. Return whether it went."""

    async def members(self, user: str) -> Indexed:
        """Return the sessions that a user may have: every living one, and some that are over or never began."""

    async def users(self, cursor: str = "", count: int = 1000) -> Users:
        """Return some of the users that have an index, about `count`; one may come twice, or have no living session."""

    async def records(self, shard: str) -> Mapping[str, bytes]:
        """Return the record that each worker's last heartbeat left: ``position time bound``, times in ms."""

    async def forget(self, shard: str, worker: str, record: bytes) -> None:
        """Remove a worker's record if it still is the one given."""

    async def revoke(self, entry: NamedRevoked) -> RevokeReply:
        """Append one entry to the control log, or find the one that an earlier attempt appended."""

    async def image(self) -> Image:
        """Return the whole control log as a worker needs it that starts; what comes meanwhile may be in it or not."""

    async def expunge(self, keep: int) -> int:
        """Remove the entries of the control log that are older than `keep` ms, as `trim` does; return how many went."""

    async def witness(self, shard: str, position: Position) -> Witness:
        """Return what the workers have applied, as one answer of the primary."""

    async def replicated(self, timeout: int) -> int:
        """Return how many replicas hold all that was written, after `timeout` ms at most; 0 if nobody tells."""

    async def primary_for(self) -> float:
        """Return for how many seconds the present primary has been it for certain; infinite where there is only one."""

    async def advise(self) -> None:
        """Log a warning for each setting of the server that can lose sessions."""

    def follow(self, shard: str, incarnation: str) -> None:
        """Subscribe to the feed of a shard whose log has this incarnation."""
