"""The worker's side of the store: fills, heartbeats and repairs keep the cache in step with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from evsession.cache import Cache, Cached, Flight, Verdict
from evsession.codec import Stored, check_head, unpack
from evsession.errors import CorruptSnapshot, EvsessionError, StoreUnavailable
from evsession.keys import Keyring
from evsession.operations import Operation, Operations
from evsession.patience import RETRY_AFTER
from evsession.store import FillReply, Store
from evsession.view import CONTROL, Beat, BeatReply, View
from evsession.wire import Position

PAGE: Final = 512
"""Entries a repair reads at once.  Source: about 100 KB, a millisecond or two of the server's time."""

QUICK_ROUNDS: Final = 10
MAX_ROUNDS: Final = 500
"""How often a fill that was overtaken asks again at once, and at all, as long as `PATIENCE` lasts.

Source: each needs another write within one round trip; with 100 writers on two workers one fill in 2,000 was overtaken
ten times in a row (measured).
"""

LEASE_ROUNDS: Final = 3
"""Heartbeats until a lease at most.  Source: one names the control log's end, one follows its loading, one to spare."""

PATIENCE: Final = 1.0
"""Seconds after which a fill that was overtaken again and again gives up: as long as a command may take."""

PAUSE: Final = 0.001
"""Seconds between the later rounds.  Source: two round trips (0.45 ms, measured)."""

log = logging.getLogger("evsession.replica")


@dataclass(slots=True, eq=False)
class _Filling:
    done: anyio.Event
    result: Cached | None = None
    is_good: bool = False


class Replica:
    """Keeps one cache in step with one store; told by the feed, in the event loop's thread.

    `clock` is local time in seconds that runs on while the machine sleeps.
    """

    def __init__(
        self,
        store: Store,
        cache: Cache,
        keys: Keyring,
        clock: Callable[[], float],
        operations: Operations | None = None,
    ) -> None:
        self.cache = cache
        self.operations = operations or Operations(clock)
        self.forked: set[str] = set()
        """Shards whose history was replaced, and whose known ends are to be written again."""
        self.wake: Callable[[], None] = lambda: None
        """Called when a repair is due; the owner of the background work sets it."""
        self.ahead = 0
        """How far the server's clock was ahead of this worker's when it last answered, in ms."""
        self._store = store
        self._keys = keys
        self._clock = clock
        self._filling: dict[str, _Filling] = {}
        self._repairing: dict[str, anyio.Lock] = {}
        self._ahead = float("inf")

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def fill(self, sid: str, *, may_join: bool = True) -> Cached | None:
        """Return the newest snapshot from the store, proved by both leases; None if there is none.

        With `may_join` a fill that is under way already will do. An ended or expired session is returned as such.

        Raises:
            StoreUnavailable: the store cannot be reached, or the proof cannot be had.
            CorruptSnapshot: the body does not match its head.
            UnknownFormat: a newer version wrote it.
        """
        with self.operations.fill(sid) as operation:
            cached = await self._fill_or_join(sid, operation, may_join=may_join)
            operation.note("session.version", 0 if cached is None else cached.stored.snapshot.version)
            return cached

    async def _fill_or_join(self, sid: str, operation: Operation, *, may_join: bool) -> Cached | None:
        filling = self._filling.get(sid)
        if may_join and filling is not None:
            await filling.done.wait()
            if filling.is_good:
                operation.note("joined", True)
                return filling.result
        filling = self._filling[sid] = _Filling(anyio.Event())
        try:
            filling.result = await self._fill(sid, operation)
            filling.is_good = True
        finally:
            filling.done.set()
            if self._filling.get(sid) is filling:
                del self._filling[sid]
        return filling.result

    async def _fill(self, sid: str, operation: Operation) -> Cached | None:
        shard, give_up_at = sid[:2], self._clock() + PATIENCE
        for number in range(MAX_ROUNDS):
            if number >= QUICK_ROUNDS:
                if self._clock() >= give_up_at:
                    break
                await anyio.sleep(PAUSE)
            operation.count("attempts")
            verdict = await self._fill_once(sid)
            await self._catch_up(self.cache.view(CONTROL), self.cache.view(shard))
            if verdict == "outdated" or not self.cache.may_serve(shard, self._clock()):
                continue
            cached = self.cache.newest(sid)
            if cached is not None:
                if self._clock() >= cached.proven_until:
                    continue
                await self._judge(cached)
            if cached is not None or verdict == "gone":
                return cached
        raise StoreUnavailable(RETRY_AFTER, f"session {sid} changes faster than it can be read")

    async def _judge(self, cached: Cached) -> None:
        if not self.cache.judge(cached):
            view = self.cache.view(CONTROL)
            view.gap = True
            await self.repair(view)
            self.cache.judge(cached, is_final=True)

    async def _fill_once(self, sid: str) -> Verdict:
        sent_at = self._clock()
        flight = self.cache.begin(sid)
        views = self._without_lease(sid[:2], sent_at)
        beats = [view.beat() for view in views]
        generations = [view.generation for view in views]
        try:
            reply = await self._store.fill(sid, beats)
            for view, beat, answer, generation in zip(views, beats, reply.beats, generations, strict=True):
                if self._beaten(view, beat, answer, generation, sent_at) and view is flight.view:
                    self.cache.adopted(flight)
            stored = self.read(sid, reply)
        except BaseException:
            self.cache.abandon(flight)
            raise
        return self.settle(flight, stored, sent_at, reply.now)

    def settle(self, flight: Flight, stored: Stored | None, sent_at: float, now: int, touch_at: float = 0.0) -> Verdict:
        """Hand the cache what an operation brought that was sent at `sent_at` and executed at `now`, server time.

        `touch_at` is the local time until which the idle deadline needs no look, where the operation has moved it.
        """
        self._ahead = now - sent_at * 1000
        self.ahead = now - round(sent_at * 1000)
        deadline = self.deadline(stored, sent_at, now) if stored is not None else 0.0
        return self.cache.finish(flight, stored, deadline, sent_at=sent_at, now=self._clock(), touch_at=touch_at)

    @staticmethod
    def deadline(stored: Stored, sent_at: float, now: int) -> float:
        """Return the local time until which a session lives at least."""
        if stored.snapshot.ended is not None:
            return float("inf")
        return sent_at + (stored.deadline - now) / 1000

    def server_time(self) -> float:
        """Return what the server's clock shows by now at most, in ms since 1970; infinity before its first reply.

        It showed `now` after `sent_at`, so it cannot be further than `now` and what has passed here since `sent_at`.
        """
        return self._clock() * 1000 + self._ahead

    def _without_lease(self, shard: str, now: float) -> list[View]:
        views = (self.cache.view(CONTROL), self.cache.view(shard))
        return [view for view in views if now >= view.lease_until]

    def read(self, sid: str, reply: FillReply) -> Stored | None:
        """Return the snapshot in a reply, once its body was found to match its head."""
        return None if reply.packed is None else self.checked(sid, reply.packed)

    def checked(self, sid: str, packed: bytes) -> Stored:
        """Return a snapshot from its bytes.

        Raises:
            CorruptSnapshot: somebody without the key wrote it.
            UnknownFormat: a newer version wrote it.
        """
        try:
            stored = unpack(sid, packed)
            head_key, redact_key = self._keys.head(stored.key_id), self._keys.redact(stored.key_id)
            if head_key is None or redact_key is None:
                raise CorruptSnapshot(sid)
            check_head(head_key, redact_key, stored, packed)
        except EvsessionError as error:
            log.critical("%s", error)
            raise
        return stored

    # ── heartbeats and repairs ───────────────────────────────────────────────────────────────────────────────────────

    async def prove(self, shards: Iterable[str]) -> None:
        """Send heartbeats for the control log and for these shards, in one round trip, and take in the answers.

        Raises:
            StoreUnavailable: the store cannot be reached; no lease was extended.
        """
        views = [self.cache.view(shard) for shard in dict.fromkeys((CONTROL, *shards))]
        beats = [view.beat() for view in views]
        generations = [view.generation for view in views]
        sent_at = self._clock()
        replies: Sequence[BeatReply] = await self._store.heartbeat(beats)
        for view, beat, reply, generation in zip(views, beats, replies, generations, strict=True):
            self._beaten(view, beat, reply, generation, sent_at)

    def _beaten(self, view: View, beat: Beat, reply: BeatReply, generation: int, sent_at: float) -> bool:
        if view.generation != generation and view.position is not None:
            return False  # the view began anew meanwhile: the answer speaks of what it was before
        incarnation, forks = view.incarnation, self.cache.stats.forks
        adopted = self.cache.beaten(view, beat, reply, sent_at)
        if self.cache.stats.forks != forks:
            self.forked.add(view.shard)
        if view.incarnation is not None and view.incarnation != incarnation:
            self._store.follow(view.shard, view.incarnation)
        return adopted

    async def ensure_lease(self, shard: str) -> None:
        """Have valid leases of a shard and of the control log, by heartbeats if there are none.

        Raises:
            StoreUnavailable: the store cannot be reached, or the proof cannot be had.
        """
        for _ in range(LEASE_ROUNDS):
            if self.cache.may_serve(shard, self._clock()):
                return
            await self.prove([shard])
            await self._catch_up(self.cache.view(CONTROL), self.cache.view(shard))
        if not self.cache.may_serve(shard, self._clock()):
            raise StoreUnavailable(RETRY_AFTER, f"what shard {shard} holds could not be proved")

    async def _catch_up(self, *views: View) -> None:
        for view in views:
            if view.gap or view.is_waiting:
                await self.repair(view)

    async def repair(self, view: View) -> None:
        """Read from the log what the feed has not brought, until nothing is missing.

        Raises:
            StoreUnavailable: the store cannot be reached; the gap remains.
        """
        async with self._repairing.setdefault(view.shard, anyio.Lock()):
            if view.unloaded is not None:
                await self._load(view, view.unloaded)
            more = view.gap or view.is_waiting
            while more and view.position is not None:
                view.gap, start, generation = False, view.position, view.generation
                try:
                    entries = await self._store.read(view.shard, start, PAGE)
                except BaseException:
                    view.gap = True
                    raise
                if view.generation == generation and not self.cache.repaired(view, start, entries):
                    self.forked.add(view.shard)
                more = view.gap or len(entries) >= PAGE

    async def _load(self, view: View, end: Position) -> None:
        """Load the whole control log, which had reached `end` before."""
        view.gap, generation = False, view.generation
        try:
            image = await self._store.image()
            if view.generation == generation:
                self.cache.loaded(end, image)
        except ValueError as error:
            log.critical("the control log holds what none of us wrote: %s; find out who can write to Redis", error)
            raise StoreUnavailable(RETRY_AFTER, "the control log cannot be read") from error
        finally:
            view.gap = True

    async def repair_all(self) -> None:
        """Repair every shard that has a gap or waits for an end that a heartbeat named.

        Raises:
            StoreUnavailable: the store cannot be reached; the gaps remain.
        """
        await self._catch_up(*self.cache.views.values())

    # ── the feed ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_message(self, shard: str, message: bytes) -> None:
        """Take in one message of the feed."""
        if self.cache.message(shard, message):
            self.wake()

    def on_gap(self, shard: str) -> None:
        """Learn that messages may have been missed."""
        self.cache.missed(shard)
        self.wake()
