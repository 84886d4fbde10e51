"""RedisStore: the Store protocol on one Redis or Valkey server."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from hiredis import ReplyError

from evsession.config import StorePolicy
from evsession.control import Image
from evsession.errors import StoreUnavailable
from evsession.store import (
    Commit,
    CommitReply,
    Counters,
    Entrance,
    FeedListener,
    FillReply,
    Indexed,
    NamedRevoked,
    RevokeReply,
    TouchReply,
    Turn,
    Users,
    Witness,
)
from evsession.stores.redis import advice, checkup, inspection
from evsession.stores.redis.address import Address
from evsession.stores.redis.checkup import Survey, UserIndex
from evsession.stores.redis.connection import unavailable
from evsession.stores.redis.feed import Feed
from evsession.stores.redis.index import RedisIndex
from evsession.stores.redis.keys import Keys, check_namespace, meta_key
from evsession.stores.redis.link import Link
from evsession.stores.redis.scripts import (
    ADVANCE,
    COMMIT,
    DUE,
    EXPUNGE,
    FILL,
    GIVE,
    HEARTBEAT,
    PRUNE,
    RAISE,
    REVOKE,
    SETTLE,
    TAKE,
    TOUCH,
    TRIM,
    WALK,
    WITNESS,
    Call,
)
from evsession.view import CONTROL, Beat, BeatReply
from evsession.wire import Entry, Line, Position, StreamId, entry_of, id_text, known_id, parse_id

ENDED_KEPT_MS: Final = 600_000
"""How long an ended, emptied snapshot stays: ten minutes.  Source: longer than any request in flight may last."""

KEPT_PAST_ABSOLUTE_MS: Final = 86_400_000
"""How long past its absolute deadline a session waits for a sweeper: a day.  Source: an outage of a whole night."""

NAMES_AT_ONCE: Final = 2_000
"""Names of the control log read at once by a worker that starts.  Source: about 100 KB, a millisecond's work."""

EXPUNGED_AT_ONCE: Final = 1_000
"""Entries of the control log removed at once.  Source: a few milliseconds of the server's time."""

MAX_KINDS: Final = 1_024
"""How many kinds of commits are kept packed, in a process.  Source: four kinds in each of 256 shards, 1 KB a kind."""

SWEEP_TURN_MS: Final = 5_000
"""How long one worker sweeps a shard before another may.  Source: a few pauses between sweeps."""

log = logging.getLogger("evsession.redis")


class RedisStore:
    """Sessions on one server.

    `shards` is the number of shards that new sessions are spread over, 1 to 256; raising it is safe at any time.
    State belongs to the event loop in which `open` was called.
    """

    is_remote: bool = True
    has_log: bool = True

    def __init__(
        self, url: str, *, namespace: str = "evsession", shards: int = 1, policy: StorePolicy | None = None
    ) -> None:
        check_namespace(namespace)
        self.namespace = namespace
        self.policy = policy or StorePolicy()
        self.shards = tuple(f"{number:02x}" for number in range(shards))
        self._address = Address.parse(url)
        self._keys: dict[str, Keys] = {}
        self._index = RedisIndex(namespace, self._connected)
        self._worker = ""
        self._bound = 0
        self._link: Link | None = None
        self._waiting: Link | None = None
        self._feed: Feed | None = None

    def __repr__(self) -> str:
        return f"RedisStore({self._address}, namespace={self.namespace!r})"

    @property
    def address(self) -> Address:
        """Where the server is."""
        return self._address

    @property
    def calls(self) -> int:
        """How many commands this store has sent in this loop; the feed's are not among them."""
        return self._connected().calls

    def keys(self, shard: str) -> Keys:
        """Return the names of a shard's keys."""
        keys = self._keys.get(shard)
        if keys is None:
            keys = self._keys[shard] = Keys(self.namespace, shard)
        return keys

    async def open(self, worker: str, bound: int, listener: FeedListener) -> None:
        self._worker, self._bound = worker, bound
        self._link = Link(self._address, self.policy, f"evsession-{worker}")
        self._feed = Feed(self._address, self.policy, f"evsession-{worker}-feed", listener)

    async def close(self) -> None:
        feed, links = self._feed, (self._link, self._waiting)
        self._feed = self._link = self._waiting = None
        if feed is not None:
            await feed.close()
        for link in links:
            if link is not None:
                await link.close()

    def abandon(self) -> None:
        for link in (self._link, self._waiting):
            if link is not None:
                link.abandon()

    def _connected(self) -> Link:
        if self._link is None:
            raise unavailable("the store is not open; start the manager first", outcome_unknown=False)
        return self._link

    def follow(self, shard: str, incarnation: str) -> None:
        if self._feed is not None:
            self._feed.follow(shard, self.keys(shard).channel + incarnation.encode())

    async def claim(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        link, key = self._connected(), meta_key(self.namespace)
        for name, value in fields.items():
            await link.call(b"HSETNX", key, name, value)
        stored = await link.call(b"HGETALL", key)
        pairs = iter(field.decode() for field in stored)
        return dict(zip(pairs, pairs, strict=True))

    async def raise_to(self, field: str, number: int) -> int:
        return int(await self._connected().run(RAISE, (meta_key(self.namespace),), field, number))

    def commit(self, commit: Commit) -> Coroutine[Any, Any, CommitReply]:
        return self._commit(commit) if commit.entrance is None else self._enter_and_commit(commit, commit.entrance)

    async def _enter_and_commit(self, commit: Commit, entrance: Entrance) -> CommitReply:
        # The link keeps the order of calls, and one flush takes all: entrance and commit are one round trip.
        link, enters = self._connected(), self._enters(commit.sid, entrance)
        resent, last = link.resent, (self._enters(commit.sid, entrance),) if entrance.counts else ()
        answers: list[Any] = await asyncio.gather(enters, self._commit(commit), *last, return_exceptions=True)
        entered, reply, *found = answers
        if not isinstance(reply, CommitReply):
            raise reply
        for answer in (entered, *found):
            if isinstance(answer, BaseException):
                raise unavailable(str(answer), outcome_unknown=True) from answer
        if found and link.resent != resent:  # the last entrance may have come before the commit
            found = [await self._enters(commit.sid, entrance)]
        return reply._replace(found=found[0]._replace(was_there=entered.was_there)) if found else reply

    async def _enters(self, sid: str, entrance: Entrance) -> Indexed:
        return await self._index.enter(
            entrance.user, sid, entrance.keep, entrance.device, anew=True, lists=entrance.counts
        )

    async def _commit(self, commit: Commit) -> CommitReply:
        (
            sid, expected, event_id, first_version, prefix, body, idle, absolute, type_, condition, actor, context,
            data, worker_time, notice, _,
        ) = commit  # fmt: skip
        keys, name = self.keys(sid[:2]), sid.encode()
        call = _call_of(keys, (first_version, idle, absolute), type_, condition)
        words = (
            keys.snapshots + name,
            name, expected, event_id, prefix, body, actor, context, data, b"%d" % worker_time, notice,
        )  # fmt: skip
        link = self._connected()
        reply = await link.begin(call.pack(words))
        if isinstance(reply, ReplyError):
            reply = await link.send_again(reply, call.pack_text(words))
        status, answered, now, *found = reply
        _same_sid(sid, answered)
        id_, tail, packed = found or (b"", b"", b"")
        return CommitReply(status.decode(), sid, now, known_id(id_) if id_ else None, tail, packed)

    async def fill(self, sid: str, beats: Sequence[Beat] = ()) -> FillReply:
        # The link keeps the order of calls, and one flush takes all: heartbeats and fill are one round trip.
        link, key = self._connected(), self.keys(sid[:2]).snapshot(sid)
        if not beats:
            return _fill_reply(sid, await link.run(FILL, (key,), sid), ())
        resent = link.resent
        *answers, filled = await _together(*(self._heartbeat(beat) for beat in beats), link.run(FILL, (key,), sid))
        if link.resent != resent:
            # A heartbeat may have run after the fill, and named an end that the fill has not seen.
            filled = await link.run(FILL, (key,), sid)
        return _fill_reply(sid, filled, answers)

    async def heartbeat(self, beats: Sequence[Beat]) -> Sequence[BeatReply]:
        return await _together(*(self._heartbeat(beat) for beat in beats))

    async def _heartbeat(self, beat: Beat) -> BeatReply:
        keys = self.keys(beat.shard)
        id_ = b"" if beat.position is None else id_text(beat.position.id).encode()
        event = b"" if beat.position is None else beat.position.event
        status, incarnation, end = await self._connected().run(
            HEARTBEAT,
            (keys.log, keys.end, keys.birth, keys.workers),
            self._worker,
            id_,
            event,
            self._bound,
            _new_incarnation(),
        )
        return BeatReply(status.decode(), incarnation.decode(), _position(end))

    async def touch(self, sid: str, idle: int) -> TouchReply:
        keys = self.keys(sid[:2])
        sid_, now, *deadlines = await self._connected().run(TOUCH, (keys.snapshot(sid), keys.expiry), sid, idle)
        _same_sid(sid, sid_)
        return TouchReply(sid, now, (int(deadlines[0]), int(deadlines[1])) if deadlines else None)

    async def read(self, shard: str, start: Position, count: int) -> Sequence[Entry]:
        reply = await self._connected().call(b"XRANGE", self.keys(shard).log, id_text(start.id), b"+", b"COUNT", count)
        return list(_entries(reply))

    async def lines(self, shard: str, after: StreamId, count: int) -> Sequence[Line]:
        return await inspection.lines(self._connected(), self.keys(shard), after, count)

    async def restore(self, commit: Commit, header: bytes) -> CommitReply:
        ttls = (ENDED_KEPT_MS, KEPT_PAST_ABSOLUTE_MS)
        return await inspection.restore(self._connected(), self.keys(commit.sid[:2]), commit, header, ttls)

    async def deadline(self, sid: str) -> int | None:
        return await inspection.deadline(self._connected(), self.keys(sid[:2]), sid)

    async def counters(self, shard: str) -> Counters:
        return await inspection.counters(self._connected(), self.keys(shard))

    async def snapshots(self, cursor: int, count: int) -> tuple[int, Sequence[tuple[str, bytes]]]:
        return await inspection.snapshots(self._connected(), self.namespace, cursor, count)

    async def survey(self, shard: str) -> Survey:
        """Return how much a shard holds, and how far those are who work at it."""
        return await checkup.survey(self._connected(), self.keys(shard))

    async def survey_users(self) -> UserIndex:
        """Return how much the index of users holds."""
        return await checkup.survey_users(self._connected(), self.namespace)

    async def server(self) -> Mapping[str, str]:
        """Return what the server tells of itself: INFO, and the settings that matter here."""
        return await advice.settings_of(self._connected().call, "server", "memory", "replication", "persistence")

    async def feed_latency(self, probes: int) -> Sequence[float]:
        """Return the seconds that each of some messages took from here through the server and back."""
        return await checkup.feed_latency(self._connected(), self._address, self.policy, self.keys("00"), probes)

    async def walk(self, sid: str, limit: int, before: StreamId | None = None) -> Sequence[Entry]:
        keys = self.keys(sid[:2])
        start = "" if before is None else id_text(before)
        named, *entries = await self._connected().run(
            WALK, (keys.snapshot(sid), keys.log, keys.ended), sid, limit, start
        )
        _same_sid(sid, named)
        return list(_entries(reversed(entries)))

    async def due(self, shard: str, limit: int) -> Sequence[str]:
        keys = self.keys(shard)
        reply = await self._connected().run(DUE, (keys.expiry, keys.sweep_turn), limit, self._worker, SWEEP_TURN_MS)
        if foreign := [name for name in reply if not name.isascii()]:
            log.critical("%s names none of our sessions; find out who can write to Redis", keys.expiry.decode())
            await self._connected().call(b"ZREM", keys.expiry, *foreign)
        return [sid.decode() for sid in reply if sid.isascii()]

    async def settle(self, shard: str, sid: str) -> None:
        keys = self.keys(shard)
        await self._connected().run(SETTLE, (keys.snapshot(sid), keys.expiry), sid)

    async def trim(self, shard: str, keep: int) -> int:
        keys = self.keys(shard)
        touched = (keys.log, keys.end, keys.archive, keys.ended, keys.trimmed)
        removed: int = await self._connected().run(TRIM, touched, keep)
        return removed

    async def take_turn(self, shard: str, job: str, holder: str, length: int) -> Turn | None:
        keys = self.keys(shard)
        reply = await self._connected().run(TAKE, (keys.turn(job), keys.checkpoint(job), keys.end), holder, length)
        if not reply:
            return None
        fence, checkpoint, end = reply
        return Turn(fence, checkpoint, _position(end))

    async def give_turn(self, shard: str, job: str, holder: str, fence: int) -> None:
        await self._connected().run(GIVE, (self.keys(shard).turn(job),), holder, fence)

    async def advance(self, shard: str, job: str, holder: str, fence: int, checkpoint: bytes) -> bool:
        keys = self.keys(shard)
        done = await self._connected().run(ADVANCE, (keys.turn(job), keys.checkpoint(job)), holder, fence, checkpoint)
        return bool(done)

    async def checkpoint(self, shard: str, job: str) -> bytes:
        found: bytes | None = await self._connected().call(b"GET", self.keys(shard).checkpoint(job))
        return found or b""

    async def enter(self, user: str, sid: str, keep: int, device: bytes = b"", *, anew: bool = True) -> Indexed:
        return await self._index.enter(user, sid, keep, device, anew=anew, lists=True)

    async def leave(self, user: str, sid: str, at: int | None = None) -> bool:
        return await self._index.leave(user, sid, at)

    async def members(self, user: str) -> Indexed:
        return await self._index.members(user)

    async def users(self, cursor: str = "", count: int = 1000) -> Users:
        return await self._index.users(cursor, count)

    async def records(self, shard: str) -> Mapping[str, bytes]:
        return checkup.records_of(await self._connected().call(b"HGETALL", self.keys(shard).workers))

    async def forget(self, shard: str, worker: str, record: bytes) -> None:
        await self._connected().run(PRUNE, (self.keys(shard).workers,), worker, record)

    async def revoke(self, entry: NamedRevoked) -> RevokeReply:
        keys = self.keys(CONTROL)
        id_, event_id, now = await self._connected().run(
            REVOKE,
            (keys.log, keys.end, keys.birth, keys.latest, keys.held, keys.again),
            entry.name,
            entry.event_id,
            entry.keep or "",
            id_text(entry.highest),
            id_text(entry.since),
            int(entry.is_again),
            entry.actor,
            entry.context,
            entry.data,
            entry.worker_time,
            entry.key_id,
            entry.tag,
            entry.notice,
            keys.channel,
            b"PUBLISH",
            _new_incarnation(),
        )
        return RevokeReply(Position(parse_id(id_), event_id), now)

    async def image(self) -> Image:
        link, keys = self._connected(), self.keys(CONTROL)
        names: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:  # the names before the rest, see `Image`
            cursor, found = await link.call(b"HSCAN", keys.latest, cursor, b"COUNT", NAMES_AT_ONCE)
            pairs = iter(found)
            names.update(zip(pairs, pairs, strict=True))
            if cursor == b"0":
                break
        held, again = await _together(link.call(b"GET", keys.held), link.call(b"HGETALL", keys.again))
        return Image(names, held or b"", [_issued_again(*pair) for pair in zip(again[::2], again[1::2], strict=True)])

    async def expunge(self, keep: int) -> int:
        keys = self.keys(CONTROL)
        names = (keys.log, keys.end, keys.archive, keys.latest, keys.held, keys.again, keys.trimmed)
        removed: int = await self._connected().run(EXPUNGE, names, keep, EXPUNGED_AT_ONCE)
        return removed

    async def witness(self, shard: str, position: Position) -> Witness:
        keys = self.keys(shard)
        now, birth, stands, records = await self._connected().run(
            WITNESS, (keys.workers, keys.birth, keys.log), id_text(position.id), position.event
        )
        return Witness(int(now), int(birth), bool(stands), checkup.records_of(records))

    async def replicated(self, timeout: int) -> int:
        """Return how many replicas hold all that was written until now.

        A connection of its own, or others would wait behind it. WAIT speaks of what its own connection has written,
        so that one writes first.
        """
        if self._waiting is None:
            self._waiting = Link(self._address, self.policy, f"evsession-{self._worker}-wait")
        link = self._waiting
        try:
            kind, *rest = await link.call(b"ROLE")
            if kind != b"master" or not rest[1]:
                return 0
            _, replicas = await _together(
                link.call(b"SET", self.keys(CONTROL).turn("wait"), self._worker, b"PX", 1000),
                link.call(b"WAIT", len(rest[1]), timeout),
            )
            return int(replicas)
        except StoreUnavailable:  # a server that does not tell, or a rule that forbids to ask
            return 0

    async def primary_for(self) -> float:
        return await self._connected().primary_for()

    async def advise(self) -> None:
        await advice.warn(self._connected().call)


@lru_cache(MAX_KINDS)
def _call_of(keys: Keys, numbers: tuple[int, int, int], type_: str, condition: str) -> Call:
    """Return what packs the commits that have all these in common: first version and timeouts, type and condition."""
    first_version, idle, absolute = (b"%d" % number for number in numbers)
    return Call(
        COMMIT,
        (keys.log, keys.expiry, keys.end, keys.birth, keys.ended),
        (
            first_version, idle, absolute, type_.encode(), condition.encode(), keys.channel, b"PUBLISH",
            b"%d" % ENDED_KEPT_MS, b"%d" % KEPT_PAST_ABSOLUTE_MS,
        ),
    )  # fmt: skip


def _new_incarnation() -> str:
    # A new one each time, or a log that this worker begins anew after a FLUSHALL would pass for the old one.
    return secrets.token_hex(4)


async def _together(*calls: Any) -> list[Any]:
    """Await several calls that were all sent before the first answer; raise the first error once all are done."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)


def _issued_again(event_id: bytes, value: bytes) -> tuple[Position, bytes]:
    id_, _, data = value.partition(b" ")
    return Position(parse_id(id_), event_id), data


def _same_sid(asked: str, answered: bytes) -> None:
    if answered != asked.encode():
        raise unavailable(f"the reply for session {asked} names another session", outcome_unknown=True)


def _position(raw: bytes) -> Position:
    id_, _, event = raw.partition(b" ")
    return Position(parse_id(id_), event)


def _fill_reply(sid: str, reply: Any, beats: Sequence[BeatReply]) -> FillReply:
    named, now, *packed = reply
    _same_sid(sid, named)
    return FillReply(sid, now, packed[0] if packed else None, beats)


def _entries(raw: Iterable[tuple[bytes, list[bytes]]]) -> Iterator[Entry]:
    """Pass over what somebody else wrote into the log: no event of ours, and no reason to stop."""
    for id_, fields in raw:
        try:
            yield entry_of(inspection.line_of(id_, fields))
        except ValueError:
            log.critical("the log entry %s is none of ours; find out who can write to Redis", id_.decode())
