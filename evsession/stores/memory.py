"""MemoryStore: the Store protocol within one process, for tests, demonstrations and programs of a single worker.

It does what the Lua scripts of `stores/redis/lua` do, check by check and byte by byte. Its coroutines never suspend, so
each is as atomic as a script, under asyncio and trio alike; it is not safe to use from several threads. What it holds
levels off by itself, although nobody may ever sweep or trim it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, takewhile
from typing import Final

from evsession.codec import HEADER_LENGTH, PREFIX_LENGTH
from evsession.control import Image
from evsession.errors import ConfigError
from evsession.store import (
    EVENT_KEY,
    Commit,
    CommitReply,
    CommitStatus,
    Counters,
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
from evsession.stores import revocations
from evsession.stores.shard import (
    ABSOLUTE,
    AUTHENTICATED,
    CREATED,
    HEAD,
    IDLE,
    NEW_SECRET,
    SECRET,
    Held,
    Shard,
    deadlines_of,
    has_ended,
    last_id_of,
)  # fmt: skip
from evsession.stores.users import MemoryIndex
from evsession.view import CONTROL, Beat, BeatReply
from evsession.wire import START, Entry, Line, Position, StreamId, id_text, line_of

ENDED_KEPT_MS: Final = 600_000
"""How long an ended, emptied snapshot stays: ten minutes.  Source: longer than any request in flight may last."""

KEPT_PAST_ABSOLUTE_MS: Final = 86_400_000
"""How long past its absolute deadline a session waits for a sweeper: a day.  Source: an outage of a whole night."""

MAX_ENTRIES: Final = 100_000
"""Entries that a shard's log keeps at most: about 70 MB.  Source: tracemalloc, 680 B for an update of two keys."""

MAX_SHARDS: Final = 256
"""Two hexadecimal digits name a shard."""


class MemoryStore:
    """Sessions in the memory of this process.

    `shards` is the number of shards that new sessions are spread over, 1 to 256. `clock` returns milliseconds since
    1970; one of your own is for tests and time travel. `max_entries` bounds the log of each shard, at least 1.

    Several managers may open one store. Each commit is told to all their listeners, and a heartbeat speaks for all of
    them, before it returns; their last `close` ends that. There are no gaps: `on_gap` is never called.

    Raises:
        ConfigError: a number is out of its range.
    """

    is_remote: bool = False
    has_log: bool = True

    def __init__(
        self, *, shards: int = 1, clock: Callable[[], int] | None = None, max_entries: int = MAX_ENTRIES
    ) -> None:
        _check_range("shards", shards, 1, MAX_SHARDS)
        _check_range("max_entries", max_entries, 1, None)
        self.shards = tuple(f"{number:02x}" for number in range(shards))
        self._clock = clock or _wall_clock
        self._max_entries = max_entries
        self._incarnation = secrets.token_hex(4)
        self._tags: dict[str, Shard] = {}
        self._users = MemoryIndex()
        self._meta: dict[str, str] = {}
        self._openers: dict[str, tuple[int, FeedListener]] = {}
        self._closed = 0

    def __repr__(self) -> str:
        return f"MemoryStore(shards={len(self.shards)})"

    @property
    def held(self) -> int:
        """How many snapshots are in memory, ended ones included."""
        return sum(len(shard.snapshots) for shard in self._tags.values())

    def _shard(self, name: str) -> Shard:
        shard = self._tags.get(name)
        if shard is None:
            shard = self._tags[name] = Shard()
        return shard

    async def open(self, worker: str, bound: int, listener: FeedListener) -> None:
        self._openers[worker] = (bound, listener)

    async def close(self) -> None:
        # `close` does not say who closes, so all are told until the last has gone: a message too many does no harm.
        self._closed += 1
        if self._closed >= len(self._openers):
            self._closed = 0
            for worker in self._openers:
                for shard in self._tags.values():
                    shard.workers.pop(worker, None)
            self._openers.clear()

    def abandon(self) -> None:
        """Do nothing: there is no connection, and `close` may still come."""

    def follow(self, shard: str, incarnation: str) -> None:
        """Do nothing: every listener is told of every shard."""

    async def claim(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        self._meta = {**fields, **self._meta}
        return dict(self._meta)

    async def raise_to(self, field: str, number: int) -> int:
        highest = max(number, int(self._meta.get(field, "0")))
        self._meta[field] = str(highest)
        return highest

    async def commit(self, commit: Commit) -> CommitReply:
        if (entrance := commit.entrance) is None:
            return self._commit(commit)
        entered = await self.enter(entrance.user, commit.sid, entrance.keep, entrance.device)
        reply = self._commit(commit)
        if not entrance.counts:
            return reply
        found = await self.enter(entrance.user, commit.sid, entrance.keep, entrance.device)
        return reply._replace(found=found._replace(was_there=entered.was_there))

    def _commit(self, commit: Commit) -> CommitReply:
        now, shard = self._clock(), self._shard(commit.sid[:2])
        shard.purge(now)
        old = shard.snapshot(commit.sid, now)
        if refusal := _refusal(shard, commit, old, now):
            return refusal
        previous = shard.end
        entry = _entry(commit, old, shard.next_id(now), now)
        shard.append(entry, self._max_entries)
        packed = commit.prefix + _tail(commit, old, entry.id, now) + commit.body
        kept = ENDED_KEPT_MS if commit.type == "ended" else deadlines_of(packed)[1] - now + KEPT_PAST_ABSOLUTE_MS
        shard.keep(commit.sid, packed, now + kept)
        self._tell(commit.sid[:2], previous, entry.id, commit.notice)
        return CommitReply("ok", commit.sid, now, entry.id, packed[PREFIX_LENGTH:HEADER_LENGTH])

    def _tell(self, shard: str, previous: Position, id_: StreamId, notice: bytes) -> None:
        head = f"{id_text(previous.id)} {id_text(id_)} {len(notice)}\n".encode()
        message = head + previous.event + notice
        for _, listener in tuple(self._openers.values()):
            listener.on_message(shard, message)

    async def fill(self, sid: str, beats: Sequence[Beat] = ()) -> FillReply:
        answers = [self._heartbeat(beat) for beat in beats]
        now = self._clock()
        return FillReply(sid, now, self._shard(sid[:2]).snapshot(sid, now), answers)

    async def heartbeat(self, beats: Sequence[Beat]) -> Sequence[BeatReply]:
        return [self._heartbeat(beat) for beat in beats]

    def _heartbeat(self, beat: Beat) -> BeatReply:
        shard, now = self._shard(beat.shard), self._clock()
        status = shard.status_of(beat.position)
        proven = beat.position.id if status == "ok" and beat.position else START.id
        for worker, (bound, _) in self._openers.items():
            shard.workers[worker] = f"{id_text(proven)} {now} {bound}".encode()
        return BeatReply(status, self._incarnation, shard.end)

    async def touch(self, sid: str, idle: int) -> TouchReply:
        now, shard = self._clock(), self._shard(sid[:2])
        packed = shard.snapshot(sid, now)
        if packed is None or has_ended(packed) or now >= min(deadlines_of(packed)):
            return TouchReply(sid, now, None)
        idle_at, absolute_at = deadlines_of(packed)
        if now + idle > idle_at:
            idle_at = now + idle
            packed = b"%b%013d%b" % (packed[: IDLE.start], idle_at, packed[IDLE.stop :])
            shard.snapshots[sid] = packed
            shard.index_expiry(sid, packed)
        return TouchReply(sid, now, (idle_at, absolute_at))

    async def read(self, shard: str, start: Position, count: int) -> Sequence[Entry]:
        log, at = self._shard(shard).log, self._shard(shard).index(start.id)
        return log[at : at + count]

    async def lines(self, shard: str, after: StreamId, count: int) -> Sequence[Line]:
        home = self._shard(shard)
        at = home.index((after[0], after[1] + 1))
        return [line_of(entry) for entry in home.log[at : at + count]]

    async def restore(self, commit: Commit, header: bytes) -> CommitReply:
        now, shard = self._clock(), self._shard(commit.sid[:2])
        packed = shard.snapshot(commit.sid, now)
        if packed is not None:
            return CommitReply("conflict", commit.sid, now, packed=packed)
        shard.snapshots[commit.sid] = header
        shard.lapses.set(commit.sid, max(now + 1, deadlines_of(header)[1] + KEPT_PAST_ABSOLUTE_MS))
        reply = await self.commit(commit)
        if reply.status != "ok":
            shard.lapses.remove(commit.sid)
            del shard.snapshots[commit.sid]
        return reply

    async def deadline(self, sid: str) -> int | None:
        return self._shard(sid[:2]).expiry.at(sid)

    async def counters(self, shard: str) -> Counters:
        home = self._shard(shard)
        first = home.log[0].id if home.log else START.id
        return Counters(self._clock(), len(home.log), first, home.end.id, home.end, home.trimmed, home.added, START.id)

    async def snapshots(self, cursor: int, count: int) -> tuple[int, Sequence[tuple[str, bytes]]]:
        now = self._clock()
        found = [(sid, home.snapshot(sid, now)) for home in self._tags.values() for sid in home.snapshots]
        return 0, [(sid, packed) for sid, packed in found if packed is not None]

    async def walk(self, sid: str, limit: int, before: StreamId | None = None) -> Sequence[Entry]:
        shard = self._shard(sid[:2])
        packed = shard.snapshot(sid, self._clock())
        start = before or (last_id_of(packed) if packed else shard.ended.get(sid, START.id))
        own = takewhile(lambda entry: entry.sid == sid, shard.links(start))
        return list(islice(own, limit))[::-1]

    async def due(self, shard: str, limit: int) -> Sequence[str]:
        return self._shard(shard).expiry.passed(self._clock(), limit)

    async def settle(self, shard: str, sid: str) -> None:
        home = self._shard(shard)
        home.index_expiry(sid, home.snapshot(sid, self._clock()))

    async def trim(self, shard: str, keep: int) -> int:
        return self._shard(shard).trim((self._clock() - keep, 0))

    async def take_turn(self, shard: str, job: str, holder: str, length: int) -> Turn | None:
        home = self._shard(shard)
        fence = home.take(job, holder, self._clock(), length)
        return None if fence is None else Turn(fence, home.checkpoints.get(job, b""), home.end)

    async def give_turn(self, shard: str, job: str, holder: str, fence: int) -> None:
        home = self._shard(shard)
        if home.holds(job, holder, fence):
            home.turns[job] = Held("", fence, 0)

    async def advance(self, shard: str, job: str, holder: str, fence: int, checkpoint: bytes) -> bool:
        home = self._shard(shard)
        if not home.holds(job, holder, fence):
            return False
        home.checkpoints[job] = checkpoint
        return True

    async def checkpoint(self, shard: str, job: str) -> bytes:
        return self._shard(shard).checkpoints.get(job, b"")

    async def enter(self, user: str, sid: str, keep: int, device: bytes = b"", *, anew: bool = True) -> Indexed:
        return self._users.enter(user, sid, keep, self._clock(), device, anew=anew)

    async def leave(self, user: str, sid: str, at: int | None = None) -> bool:
        return self._users.leave(user, sid, at)

    async def members(self, user: str) -> Indexed:
        return self._users.members(user, self._clock())

    async def users(self, cursor: str = "", count: int = 1000) -> Users:
        return self._users.users(cursor, count)

    async def records(self, shard: str) -> Mapping[str, bytes]:
        return dict(self._shard(shard).workers)

    async def forget(self, shard: str, worker: str, record: bytes) -> None:
        workers = self._shard(shard).workers
        if workers.get(worker) == record:
            del workers[worker]

    async def revoke(self, entry: NamedRevoked) -> RevokeReply:
        now, shard = self._clock(), self._shard(CONTROL)
        if there := revocations.found(shard, entry):
            return RevokeReply(there, now)
        previous, appended = shard.end, revocations.appended(shard, entry, now)
        shard.append(appended, self._max_entries)
        self._tell(CONTROL, previous, appended.id, entry.notice)
        return RevokeReply(appended.position, now)

    async def image(self) -> Image:
        return revocations.image_of(self._shard(CONTROL).log)

    async def expunge(self, keep: int) -> int:
        return await self.trim(CONTROL, keep)

    async def witness(self, shard: str, position: Position) -> Witness:
        home = self._shard(shard)
        entry = home.entry(position.id)
        stands = entry is not None and entry.event_id == position.event
        return Witness(self._clock(), 0, stands, dict(home.workers))

    async def replicated(self, timeout: int) -> int:
        return 0

    async def primary_for(self) -> float:
        return float("inf")

    async def advise(self) -> None:
        """Do nothing: there is no server whose settings could be wrong."""


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


def _check_range(name: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        msg = f"{name}={value} is out of range; pass {allowed}"
        raise ConfigError(msg)


def _refusal(shard: Shard, commit: Commit, old: bytes | None, now: int) -> CommitReply | None:
    """Return why a commit must not happen, or that it has happened already; None lets it."""
    if old is None:
        return CommitReply("gone", commit.sid, now) if commit.expected else None
    status = _standing(shard, commit, old, now)
    return None if status is None else CommitReply(status, commit.sid, now, packed=old)


def _standing(shard: Shard, commit: Commit, old: bytes, now: int) -> CommitStatus | None:
    if old[HEAD] != commit.expected:
        if commit.first_version and _has_happened(shard, commit, old):
            return "ok"
        return "ended" if has_ended(old) else "conflict"
    idle_at, absolute_at = deadlines_of(old)
    if has_ended(old):
        return "ended"
    if commit.type != "ended":
        return "ended" if now >= min(idle_at, absolute_at) else None
    named = {"": now, "idle": idle_at, "absolute": absolute_at}
    awaited = named[commit.condition] if commit.condition in named else int(commit.condition)
    return "alive" if now < awaited else None


def _has_happened(shard: Shard, commit: Commit, old: bytes) -> bool:
    for entry in shard.links(last_id_of(old)):
        if entry.event_id[:EVENT_KEY] == commit.event_id[:EVENT_KEY]:
            return True
        if entry.version <= commit.first_version:
            return False
    return False


def _entry(commit: Commit, old: bytes | None, id_: StreamId, now: int) -> Entry:
    return Entry(
        id=id_,
        sid=commit.sid,
        version=int(commit.prefix[39:49]),
        type=commit.type,
        previous=id_text(last_id_of(old) if old else START.id),
        event_id=commit.event_id,
        offset=commit.worker_time - now,
        actor=commit.actor,
        context=_snug(commit.context),
        data=_snug(commit.data),
        key_id=commit.prefix[2:6].decode(),
        head=commit.prefix[HEAD],
    )


def _snug(json: bytes) -> bytes:
    # What orjson returns holds 4 KiB, however short it is (measured), and here it stays for days.
    return bytes(memoryview(json))


def _tail(commit: Commit, old: bytes | None, id_: StreamId, now: int) -> bytes:
    """Return the store's part of a header, on the store's clock."""
    stamp = b"%013d" % id_[0]
    created = old[CREATED] if old else stamp
    kept = old[AUTHENTICATED] if old else b"0" * 13
    authenticated = stamp if commit.type == "authenticated" else kept
    secret = stamp if commit.type in NEW_SECRET or not old else old[SECRET]
    absolute_at = now + commit.absolute if commit.absolute or not old else int(old[ABSOLUTE])
    last_id = id_text(id_).encode()
    return b"%b%b%013d%013d%-24b%b" % (created, authenticated, now + commit.idle, absolute_at, last_id, secret)
