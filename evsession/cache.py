"""The cache of one worker, without I/O: it receives messages, replies and the time, and answers.

An entry is served only while the leases of its shard and of the control log are valid, so that every read reflects what
the server had executed `max_staleness` earlier. Whatever cannot be proved is dropped, never guessed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final, Literal, Protocol

from evsession.canonical import dumps_to_keep, is_flat
from evsession.chain import control_tag
from evsession.codec import Stored, unpack_event
from evsession.config import CachePolicy
from evsession.control import Control, Image, Revocation, revocation_of
from evsession.errors import UnknownFormat
from evsession.events import Cause, Ended, Event
from evsession.state import Snapshot, evolve
from evsession.view import CONTROL, Beat, BeatReply, View
from evsession.watcher import CLOSING, HARMLESS, Nobody, Watcher
from evsession.wire import (
    START,
    Entry,
    Notice,
    Position,
    StreamId,
    id_text,
    known_id,
    notice_key_id,
    notice_tag_is_good,
    split_message,
    unpack_notice,
)

TOUCHES: Final = 10
"""How often in an idle timeout the deadline of a session in use is moved.  Source: design, ten at most."""

ENTRY_OVERHEAD: Final = 2_000
"""Bytes a cached session takes beside three times its JSON.  Source: tracemalloc over 10,000 entries."""

MAX_TOMBSTONES: Final = 4_096
"""How many ended sessions of a shard are remembered, to end them again should a failover lose that."""

MAX_SENT: Final = 512
MAX_SENT_BYTES: Final = 2_048
"""How many own messages are known by their bytes at a time, and how long one may be; others are read as anybody's.

Source: a few hundred commits are under way in a busy worker, most of 250 B; what never comes back takes 3 MB at most.
"""

INFINITY: Final = float("inf")

Verdict = Literal["kept", "outdated", "gone"]
"""What became of what a fill or commit brought; `outdated` was not kept, and must be asked for again."""


class MessageKeys(Protocol):
    """Where the keys of feed messages come from: `Keyring`."""

    def message(self, key_id: str) -> bytes | None:
        """Return the key of messages with that id, or None where there is none."""

    def head(self, key_id: str) -> bytes | None:
        """Return the key of heads with that id, or None where there is none."""


class Cached:
    """One cached session. `deadline` is local time; `dead` says that the control log has revoked it.

    `touch_at` is the local time of the next look at the idle deadline; its users keep it. `proven_until` is the local
    time until which the reply that brought it proves it; for ever once the feed has told of the same state.
    """

    __slots__ = (
        "dead", "deadline", "epoch", "flat", "generation", "proven_until", "secrets", "size", "stored", "touch_at",
        "used", "version", "view",
    )  # fmt: skip

    def __init__(self, stored: Stored, view: View, deadline: float) -> None:
        snapshot = stored.snapshot
        self.stored = stored
        # What each read asks for stands here too: an attribute of a tuple takes ten times as long as a slot.
        self.version = snapshot.version
        self.secrets = snapshot.secrets if snapshot.ended is None else ()
        """The hashes of the secrets that open it; none once it has ended."""
        self.flat = snapshot.data if is_flat(snapshot.data) else None
        """Its data, if a copy of the top level is a copy of all."""
        self.view = view
        self.generation = view.generation
        self.deadline = deadline
        self.size = ENTRY_OVERHEAD + 3 * len(stored.raw)
        self.dead = False
        self.epoch = -1
        self.used = True
        self.touch_at = 0.0
        self.proven_until = INFINITY

    @property
    def sid(self) -> str:
        """The session."""
        return self.stored.snapshot.sid


def _revocation(id_: StreamId, change: Notice | Entry) -> Revocation | None:
    if change.type != "named_revoked":
        return None
    try:
        return revocation_of(Position(id_, change.event_id), change.data)
    except ValueError:
        return None


def _stand_alike(one: Cached, other: Cached) -> bool:
    """Tell whether the control log says the same of two states of a session, as it does unless somebody signed in."""
    left, right = one.stored.snapshot, other.stored.snapshot
    return left.control == right.control and left.user_id == right.user_id and left.names == right.names


@dataclass(slots=True, eq=False)
class Flight:
    """A fill or commit under way; what it brings counts only in the generation it began in.

    `since` is the position and `known` the copy that the worker had when it began.
    """

    sid: str
    view: View
    generation: int
    event_id: bytes | None
    since: Position | None
    known: Cached | None


@dataclass(slots=True)
class _Floor:
    """The newest version that the feed told of, in one generation, while operations on a session are in flight."""

    flights: int = 0
    version: int = 0
    head: bytes = b""
    generation: int = 0

    def rise(self, change: Notice | Entry, generation: int) -> None:
        if generation != self.generation or change.version >= self.version:
            self.version, self.head, self.generation = change.version, change.head, generation

    def at(self, generation: int) -> tuple[int, bytes]:
        return (self.version, self.head) if generation == self.generation else (0, b"")


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A state that a reply brought before the feed: under which head, and when (local time)."""

    head: bytes
    view: View
    kept_at: float


@dataclass(slots=True)
class CacheStats:
    """Counts since start."""

    hits: int = 0
    messages: int = 0
    folded: int = 0
    dropped: int = 0
    evicted: int = 0
    gaps: int = 0
    forged: int = 0
    unreadable: int = 0
    repaired: int = 0
    forks: int = 0
    revocations: int = 0


class Cache:
    """Snapshots of this worker, what is known of each shard, and the rules by which both may be used."""

    def __init__(self, policy: CachePolicy, keys: MessageKeys) -> None:
        self.policy = policy
        self.control = Control()
        self.stats = CacheStats()
        self.watcher: Watcher = Nobody()
        self.bytes = 0
        self.asked: set[str] = set()
        """Shards of which somebody waits to hear that a revocation was applied here; who answers takes them out."""
        self._keys = keys
        self._staleness = policy.max_staleness.total_seconds()
        self._entries: dict[str, Cached] = {}
        self._views: dict[str, View] = {CONTROL: View(CONTROL)}
        self._floors: dict[str, _Floor] = {}
        self._own: set[bytes] = set()
        self._sent: dict[bytes, Notice] = {}
        self._ahead: dict[str, _Ahead] = {}
        self._tombs: dict[str, OrderedDict[str, Cause]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def views(self) -> Mapping[str, View]:
        """All shards that this worker knows anything of, the control log included."""
        return self._views

    def view(self, shard: str) -> View:
        """Return what is known of a shard."""
        view = self._views.get(shard)
        if view is None:
            view = self._views[shard] = View(shard)
        return view

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def lookup(self, sid: str, now: float) -> Cached | None:
        """Return a session that may be served at this moment; None calls for a fill."""
        cached = self._entries.get(sid)
        if cached is None or now >= cached.view.serve_until or now >= cached.proven_until:
            return None
        if not self._is_usable(cached, now):
            return None
        self.stats.hits += 1
        return cached

    def proves(self, sid: str, secret: str, now: float) -> bool:
        """Tell whether a session may be served at this moment, from memory, to whoever has the secret of this hash."""
        cached = self._entries.get(sid)
        if cached is None or now >= cached.view.serve_until or now >= cached.proven_until:
            return False
        return self._is_usable(cached, now) and not cached.dead and secret in cached.secrets

    def lookup_stale(self, sid: str, now: float) -> Cached | None:
        """Return a session that the policy `stale_for` allows to be served past its lease."""
        cached = self._entries.get(sid)
        if cached is None or not self._is_usable(cached, now):
            return None
        until = min(cached.view.serve_until, cached.proven_until)
        return cached if now < until + self.policy.stale_for.total_seconds() else None

    def _is_usable(self, cached: Cached, now: float) -> bool:
        if now >= cached.deadline or cached.generation != cached.view.generation:
            return False
        if cached.epoch != self.control.epoch and not self.judge(cached):
            return False
        cached.used = True
        return True

    def judge(self, cached: Cached, *, is_final: bool = False) -> bool:
        """Bring `dead` up to date with the control log; return False if entries are missing here to tell.

        With `is_final`, when a repair has found none, the session's history is not this one, and it is dead.
        """
        verdict = self.control.verdict(cached.stored.snapshot)
        if verdict == "ahead" and not is_final:
            cached.epoch = -1
            return False
        cached.epoch = self.control.epoch
        cached.dead = verdict != "alive"
        return True

    def is_dead(self, snapshot: Snapshot) -> bool:
        """Tell whether a session is revoked for certain; of the cached one that is known already."""
        cached = self._entries.get(snapshot.sid)
        if cached is not None and cached.stored.snapshot is snapshot and cached.epoch == self.control.epoch:
            return cached.dead
        return self.control.is_dead(snapshot)

    def may_serve(self, shard: str, now: float) -> bool:
        """Tell whether the leases of a shard and of the control log are valid."""
        return now < self.view(shard).serve_until

    def newest(self, sid: str) -> Cached | None:
        """Return the cached copy whatever its lease, as the base of a commit (which the server checks)."""
        cached = self._entries.get(sid)
        return cached if cached is not None and cached.generation == cached.view.generation else None

    # ── fills and commits ────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, sid: str, event_id: bytes | None = None) -> Flight:
        """Register a fill, or a commit with its event id, before its request is sent."""
        floor = self._floors.get(sid)
        if floor is None:
            floor = self._floors[sid] = _Floor()
        floor.flights += 1
        if event_id is not None:
            self._own.add(event_id)
        view = self.view(sid[:2])
        return Flight(sid, view, view.generation, event_id, view.position, self.newest(sid))

    def expect(self, part: bytes, notice: Notice) -> None:
        """Know the message of an own commit by its bytes, once, instead of checking its tag and reading it.

        Where it stands in the log is what the message will tell; `prev` and `id` of the notice are not looked at.
        """
        if len(self._sent) >= MAX_SENT:
            self._sent.clear()
        if len(part) <= MAX_SENT_BYTES:
            self._sent[part] = notice

    def retract(self, part: bytes) -> None:
        """Expect a message no more, because its commit was refused."""
        self._sent.pop(part, None)

    def abandon(self, flight: Flight) -> None:
        """Unregister an operation that brought nothing; of a commit nobody knows whether it happened."""
        self._land(flight)
        if flight.event_id is not None:
            self._drop(flight.sid)

    def finish(
        self,
        flight: Flight,
        stored: Stored | None,
        deadline: float,
        *,
        sent_at: float = INFINITY,
        now: float = INFINITY,
        touch_at: float = 0.0,
    ) -> Verdict:
        """Take in what an operation brought; `outdated` means that it must be asked for again.

        `deadline` is the local time until which the session lives at least. What the feed has not told of yet is
        proven for `max_staleness` only, from `sent_at` on, when it was asked for: a failover may lose it and leave no
        trace at this worker's position.
        """
        floor, head = self._land(flight)
        if flight.generation != flight.view.generation or flight.view.position is None:
            return "outdated"
        if (stored.snapshot.version if stored is not None else 0) < floor:
            return "outdated"
        if stored is None:
            self._drop(flight.sid)
            return "gone"
        if self.newest(flight.sid) is flight.known:  # then this is the later answer, whatever its version
            self._drop(flight.sid)
        cached = Cached(stored, flight.view, deadline)
        cached.touch_at = touch_at
        is_told = flight.since is not None and known_id(stored.last_id.encode()) <= flight.since.id
        self._keep(cached, flight.known)
        if not is_told and stored.head != head and self._entries.get(flight.sid) is cached:
            cached.proven_until = sent_at + self._staleness
            self._ahead[flight.sid] = _Ahead(stored.head, flight.view, now)
        return "kept"

    def _land(self, flight: Flight) -> tuple[int, bytes]:
        floor = self._floors[flight.sid]
        floor.flights -= 1
        if not floor.flights:
            del self._floors[flight.sid]
        if flight.event_id is not None:
            self._own.discard(flight.event_id)
        return floor.at(flight.view.generation)

    def _keep(self, cached: Cached, before: Cached | None) -> None:
        snapshot = cached.stored.snapshot
        known = self.newest(snapshot.sid)
        if known is not None and known.stored.snapshot.version > snapshot.version:
            return
        if snapshot.ended is not None:
            self._bury(cached.view.shard, snapshot.sid, snapshot.ended)
        if before is not None and before.epoch == self.control.epoch and _stand_alike(before, cached):
            cached.epoch, cached.dead = before.epoch, before.dead
        else:
            self.judge(cached)
        replaced = self._entries.get(snapshot.sid)
        self._entries[snapshot.sid] = cached
        self.bytes += cached.size - (replaced.size if replaced is not None else 0)
        self.watcher.on_snapshot(snapshot)
        self._evict()

    def _drop(self, sid: str) -> None:
        cached = self._entries.pop(sid, None)
        if cached is not None:
            self.bytes -= cached.size

    def _evict(self) -> None:
        while len(self._entries) > 1 and self._is_over():
            sid, cached = next(iter(self._entries.items()))
            self._drop(sid)
            if cached.used and cached.generation == cached.view.generation:
                cached.used = False
                self._entries[sid] = cached
                self.bytes += cached.size
            else:
                self.stats.evicted += 1

    def _is_over(self) -> bool:
        return len(self._entries) > self.policy.max_entries or self.bytes > self.policy.max_bytes

    def _bury(self, shard: str, sid: str, cause: Cause) -> None:
        tombs = self._tombs.setdefault(shard, OrderedDict())
        tombs[sid] = cause
        if len(tombs) > MAX_TOMBSTONES:
            tombs.popitem(last=False)

    # ── the feed ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def message(self, shard: str, message: bytes) -> bool:
        """Take in one message of the feed, and return whether a repair is due, or an answer to a revocation."""
        view = self.view(shard)
        self.stats.messages += 1
        lease = view.lease_until
        try:
            for prev, id_, part in split_message(message):
                self._take(view, prev, id_, part)
        except ValueError:
            self._reject(view)
        if view.lease_until != lease or view.shard == CONTROL:
            self._settle(view)
        return view.gap or bool(self.asked)

    def missed(self, shard: str) -> None:
        """Learn that messages may have been lost, own ones too: a repair is due."""
        self.stats.gaps += 1
        self.view(shard).gap = True
        self._sent.clear()

    def _take(self, view: View, prev: Position, id_: StreamId, part: bytes) -> None:
        if view.position is None:
            return
        notice = self._sent.pop(part, None) or self._read_notice(prev, id_, part)
        if notice is None:
            self._reject(view)
            return
        position = Position(id_, notice.event_id)
        if prev == view.position and not (view.shard == CONTROL and self.control.knows(notice.event_id)):
            self._apply(view, id_, notice)
            view.advance(position)
        elif not view.has_applied(position):
            self.stats.gaps += 1
            view.gap = True

    def _read_notice(self, prev: Position, id_: StreamId, part: bytes) -> Notice | None:
        key = self._keys.message(notice_key_id(part))
        if key is None or not notice_tag_is_good(key, part):
            return None
        return unpack_notice(prev, id_, part)

    def _reject(self, view: View) -> None:
        self.stats.forged += 1
        view.gap = True

    def _apply(self, view: View, id_: StreamId, notice: Notice) -> None:
        if view.shard == CONTROL:
            self._apply_control(id_, notice)
            return
        known = self._outdated(view, notice)
        if known is None:
            return
        folded = self._fold(known.stored, id_, notice)
        if folded is None:
            self._discard(known)
            return
        self.stats.folded += 1
        newer = Cached(folded, view, known.deadline if folded.snapshot.ended is None else float("inf"))
        newer.used, newer.touch_at = known.used, known.touch_at
        self._keep(newer, known)

    def _discard(self, outdated: Cached) -> None:
        self.stats.dropped += 1
        self._drop(outdated.sid)

    def _outdated(self, view: View, change: Notice | Entry) -> Cached | None:
        """Raise the floor for a change, and return the cached copy that it makes old."""
        if change.type not in HARMLESS:
            self._heed(view, change)
        if change.sid in self._floors:
            self._floors[change.sid].rise(change, view.generation)
        if change.sid in self._ahead and self._ahead[change.sid].head == change.head:
            del self._ahead[change.sid]
        known = self.newest(change.sid)
        if known is None:
            return None
        if known.stored.head == change.head:
            known.proven_until = INFINITY
            return None
        return None if known.stored.snapshot.version > change.version else known

    def _fold(self, stored: Stored, id_: StreamId, notice: Notice) -> Stored | None:
        if notice.previous_head != stored.head or not notice.data or notice.event_id in self._own:
            return None
        if notice.type == "authenticated":  # it moves the absolute deadline, perhaps back; a message does not say where
            return None
        event = self._read(notice)
        if event is None:
            return None
        snapshot = evolve(stored.snapshot, event)
        return stored._replace(
            snapshot=snapshot,
            raw=dumps_to_keep(snapshot.data),
            head=notice.head,
            link=notice.link,
            last_id=id_text(id_),
            secret_at=id_[0] if notice.type == "renewed" else stored.secret_at,
        )

    def _read(self, change: Notice | Entry) -> Event | None:
        try:
            return unpack_event(change.type, change.data)
        except UnknownFormat:
            self.stats.unreadable += 1
            return None

    def _heed(self, view: View, change: Notice | Entry) -> None:
        event = self._read(change) if change.data and change.type in CLOSING else None
        if isinstance(event, Ended):
            self._bury(view.shard, change.sid, event.cause)
            if event.cause == "revoked" and not event.by:
                self.asked.add(view.shard)
        self.watcher.on_event(change.sid, change.version, event)

    def _apply_control(self, id_: StreamId, change: Notice | Entry) -> None:
        entry = _revocation(id_, change)
        if entry is None:
            self.stats.unreadable += 1
            return
        self.control.apply(entry)
        self.stats.revocations += 1
        if entry.waits:
            self.asked.add(CONTROL)

    def _is_ours(self, entry: Entry) -> bool:
        """Tell whether an entry of the control log was written by somebody who has the key."""
        key = self._keys.head(entry.key_id)
        if key is None:
            return False
        return compare_digest(control_tag(key, entry.event_id, entry.actor, entry.context, entry.data), entry.head)

    def _settle(self, view: View) -> None:
        if view.shard == CONTROL:
            self.watcher.on_control()
        self._serve(view)

    # ── repairs, heartbeats and leases ───────────────────────────────────────────────────────────────────────────────

    def repaired(self, view: View, start: Position, entries: Sequence[Entry]) -> bool:
        """Take in what the log holds from `start` on, that entry included; `start` was the position when it was asked.

        The feed may have moved the position meanwhile. Returns False if `start` is not in the log: the view has been
        forgotten, and a heartbeat must adopt the end.
        """
        if view.position is None:
            return False
        if not self._is_one_history(start, view.position, entries):
            self.fork(view)
            return False
        if start == START:
            self._distrust(view)
        for entry in entries:
            if entry.id > view.position.id:
                self._apply_entry(view, entry)
                view.advance(entry.position)
                self.stats.repaired += 1
        self._settle(view)
        return True

    @staticmethod
    def _is_one_history(start: Position, position: Position, entries: Sequence[Entry]) -> bool:
        if start != START and (not entries or entries[0].position != start):
            return False
        # What the feed brought after `start` may be of a history that a failover ended before the log was read.
        is_ahead = not entries or position.id > entries[-1].id
        return position == start or is_ahead or any(entry.position == position for entry in entries)

    def _distrust(self, view: View) -> None:
        # The position of an empty log proves nothing about what was trimmed since, so nothing cached may rest on it.
        if view.shard != CONTROL and view.position == START:
            view.generation += 1

    def _apply_entry(self, view: View, entry: Entry) -> None:
        if view.shard == CONTROL:
            if self._is_ours(entry):
                self._apply_control(entry.id, entry)
            else:
                self.stats.forged += 1
                self.control.pass_over(entry.position)
        elif (known := self._outdated(view, entry)) is not None:
            self._discard(known)

    def beaten(self, view: View, beat: Beat, reply: BeatReply, sent_at: float) -> bool:
        """Take in the answer of a heartbeat that was sent at `sent_at`, local time.

        Returns whether the view has adopted the end of the log: whatever was under way before the heartbeat was
        executed counts no more, what the server executed after it does (`adopted`).
        """
        if reply.status != "ok" or view.incarnation not in (None, reply.incarnation):
            self.fork(view)
        adopts = view.position is None
        if adopts:
            view.adopt(reply)
            if view.unloaded is not None:
                return True
            if view.shard == CONTROL:
                self.control.load(Image({}, b""))
        elif beat.position is None:
            return False  # somebody else adopted meanwhile: this reply proves nothing about that position
        view.promise(reply.end, sent_at + self._staleness)
        self._drop_lost(view)
        self._serve(view)
        return adopts

    def _drop_lost(self, view: View) -> None:
        """Drop what the log has not brought although it was there before the heartbeat of this lease was sent."""
        applied_until = view.lease_until - self._staleness
        lost = [sid for sid, ahead in self._ahead.items() if ahead.view is view and ahead.kept_at < applied_until]
        for sid in lost:
            head = self._ahead.pop(sid).head
            known = self.newest(sid)
            if known is not None and known.stored.head == head:
                self._drop(sid)
            self.watcher.on_lost(sid)
        self.stats.forks += bool(lost)

    def loaded(self, end: Position, image: Image) -> None:
        """Take in the whole control log as the store has it, which had reached `end` before it was read.

        The next heartbeat tells whether that history still stands.

        Raises:
            ValueError: somebody else wrote into it.
        """
        view = self.view(CONTROL)
        self.control.load(image)
        view.loaded(end)
        view.gap = True
        self._settle(view)

    def adopted(self, flight: Flight) -> None:
        """Let a fill count although it began before its own heartbeats, executed ahead of it, adopted the log's end."""
        flight.generation = flight.view.generation
        flight.since = flight.view.position

    def fork(self, view: View) -> None:
        """Forget a shard whose history was replaced, or all of them if it was the control log's."""
        self.stats.forks += 1
        view.forget()
        self._ahead = {sid: ahead for sid, ahead in self._ahead.items() if ahead.view is not view}
        if view.shard == CONTROL:
            for other in self._views.values():
                other.expire()
        self._serve(view)

    def tombstones(self, shard: str) -> Mapping[str, Cause]:
        """Return the sessions of a shard that this worker knows to have ended, newest last."""
        return self._tombs.get(shard, {})

    def _serve(self, changed: View) -> None:
        """Bring `serve_until` up to date after a lease may have changed; the only place where it is extended."""
        limit = self._views[CONTROL].lease_until
        for view in self._views.values() if changed.shard == CONTROL else (changed,):
            view.serve_until = min(view.lease_until, limit)


class UnfedCache(Cache):
    """The cache over a store without a feed: it never serves, because nobody would tell it what has changed."""

    def lookup(self, sid: str, now: float) -> Cached | None:
        """Return None: every request asks the store."""
        return None
