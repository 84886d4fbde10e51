"""One worker's running parts: store, cache, replica, committer, and the background work of one event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import anyio

from evsession.cache import Cache, Cached, UnfedCache
from evsession.canonical import loads
from evsession.codec import FORMAT
from evsession.committer import Committer
from evsession.config import AuditPolicy, CachePolicy, SessionPolicy, StorePolicy
from evsession.connections import Connections
from evsession.draft import Drafter, Stamp
from evsession.endings import Endings
from evsession.errors import ConfigError, EvsessionError, SessionError, StoreUnavailable
from evsession.events import Cause, Ended, Event
from evsession.keys import Keyring
from evsession.operations import Operations
from evsession.redaction import Redactor
from evsession.replica import Replica
from evsession.revocation import Revoker
from evsession.state import Snapshot
from evsession.store import Condition, Store
from evsession.view import CONTROL, worker_record
from evsession.wire import START, Position, id_text, parse_id

CATCH_UP_AFTER: Final = 0.02
"""Seconds that the feed gets to bring what a heartbeat named, before the log is read.  Source: its p99 is 1 ms."""

ANSWER_EVERY: Final = 0.01
"""Seconds between two answers to those who wait for a revocation.  Source: in a storm, 100 heartbeats a second."""

SWEEP_EVERY: Final = 1.0
"""Seconds between looks at the expiry index, and at most `SWEEP_BATCH` sessions ended at each."""

SWEEP_BATCH: Final = 200
TRIM_EVERY: Final = 60.0

LONGEST_ABSOLUTE: Final = "longest_absolute"
"""The field of `{ns:meta}` that says how long a session may live at most, in ms."""

log = logging.getLogger("evsession.worker")

_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


local_clock: Final[Callable[[], float]] = partial(
    time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
)
"""Returns local seconds that run on while the machine sleeps; a partial, because every request asks."""


@dataclass(slots=True)
class Counts:
    """What one worker did since its start."""

    fills: int = 0
    commits: int = 0
    created: int = 0
    dropped_changes: int = 0
    swept: int = 0
    touches: int = 0
    unavailable: int = 0


class Worker:
    """The parts of one manager in one process. Whatever belongs to an event loop is made anew in another one."""

    def __init__(
        self,
        store: Store,
        keys: Keyring,
        *,
        application: str,
        session: SessionPolicy,
        cache: CachePolicy,
        audit: AuditPolicy,
        patience: StorePolicy,
        clock: Callable[[], float] = local_clock,
    ) -> None:
        self.store = store
        self.keys = keys
        self.session_policy = session
        self.audit_policy = audit
        self.clock = clock
        self.counts = Counts()
        self.operations = Operations(time.perf_counter)
        self.retention = patience.retention
        self.endings = Endings()
        self.idle_ms = milliseconds(session.idle_timeout.total_seconds())
        self.is_reader = False
        """Whether it only reads: it then writes no record, sends no heartbeat, sweeps nothing and follows no feed."""
        self._application = application
        self._patience = patience
        self.cache_policy = cache
        self._redactor = Redactor(audit.redact)
        self._reset()
        _workers.add(self)

    def _reset(self) -> None:
        """Begin as a new worker: with an id of its own, an empty cache, and nothing open."""
        self.id = secrets.token_urlsafe(4)
        policy = self.session_policy
        self.cache = (Cache if self.store.has_log else UnfedCache)(self.cache_policy, self.keys)
        self.replica = Replica(self.store, self.cache, self.keys, self.clock, self.operations)
        self.connections = self.cache.watcher = Connections(
            self.store, self.replica, self.clock, self.cache_policy, self.endings, touch_every=self.idle_ms / 10_000
        )
        self.drafter = Drafter(
            self.keys,
            self._redactor,
            policy,
            idle=self.idle_ms,
            absolute=milliseconds(policy.absolute_timeout.total_seconds()),
        )
        patience = self._patience.commit_timeout.total_seconds()
        self.committer = Committer(self.store, self.replica, self.drafter, self.clock, patience=patience)
        self.committer.on_left = self.forget_quietly
        self.revoker = Revoker(self.store, self.replica, self.keys, self.clock, patience=patience)
        self.control = self.cache.view(CONTROL)
        self.problem: EvsessionError | None = None
        self._loop: object = None
        self._gate = anyio.Lock()
        self._is_open = False
        self._longest = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._due = asyncio.Event()
        self._swept_at = self._trimmed_at = self.clock()
        self._buried: set[str] = set()
        self.revoked_users: deque[str] = deque()
        """Users that were revoked here, the ends of whose sessions are to be written: a batch at each sweep."""
        self._condemned: deque[str] = deque()
        self._answered_at = float("-inf")
        self._records: dict[tuple[str, str], tuple[bytes, float]] = {}

    # ── opening and closing ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_started(self) -> bool:
        """Whether some event loop has opened it."""
        return self._loop is not None

    async def ensure_open(self) -> None:
        """Have the store open in this event loop.

        Raises:
            ConfigError: the namespace belongs to another application or to other keys.
            StoreUnavailable: the store cannot be reached; the next call tries again.
        """
        loop: object = asyncio.get_running_loop() if self.store.is_remote else self.store
        if self._loop is not loop:
            if self._loop is not None:
                self.connections.close_all("restarted")
                self._reset()
            self._loop = loop
            await self._begin()
        if not self._is_open:
            async with self._gate:
                if not self._is_open:
                    await (self._check_known() if self.is_reader else self._check_meta())
                    self._is_open = True

    @property
    def _bound(self) -> int:
        """How long this worker may serve without a heartbeat, in ms."""
        bound = self.cache_policy.max_staleness + self.cache_policy.stale_for
        return milliseconds(bound.total_seconds())

    async def _begin(self) -> None:
        await self.store.open(self.id, self._bound, self.replica)
        if self.store.is_remote and not self.is_reader:
            self.replica.wake = self._due.set
            # What runs on has nothing of the request that happened to come first: neither its span nor its actor.
            self.spawn(self._keep_in_step(), "heartbeat", Context())
            self.spawn(self._keep_swept(), "sweeper", Context())

    async def _check_meta(self) -> None:
        shards = f"shards:{len(self.store.shards)}"  # for who only reads, and does not know how many there are
        known = await self.store.claim({"format": str(FORMAT), "application": self._application, shards: "1"})
        check_meta(known, self._application, self.keys)
        ours = [f"key:{fingerprint}" for fingerprint in self.keys.fingerprints()]
        ours += [f"audit:{fingerprint}" for fingerprint in self.keys.audit_fingerprints()]
        await self.store.claim(dict.fromkeys((*ours, f"bound:{self._bound}"), "1"))
        await self.grant(self.drafter.absolute)
        await self.store.advise()

    async def grant(self, absolute: int) -> None:
        """Have the longest absolute timeout ever granted, in ms, stand in `{ns:meta}` before another one is.

        No session is older than that, so a revocation that is needs to be known no longer.

        Raises:
            StoreUnavailable: the store did not take it.
        """
        if absolute > self._longest:
            self._longest = await self.store.raise_to(LONGEST_ABSOLUTE, absolute)

    async def _check_known(self) -> None:
        """Raise unless there is something to read, and leave no trace."""
        known = await self.store.claim({})
        if known:
            check_meta(known, known["application"], self.keys, may_only_audit=True)
        elif self.store.is_remote:
            msg = (
                "nothing was ever written under this namespace on this server;"
                " give the URL and the namespace= of the application that is to be looked at"
            )
            raise ConfigError(msg)

    async def close(self) -> None:
        """Close what is open, end the background work and close the store."""
        if self._loop is None:
            return
        self.connections.close_all("restarted")
        await self.connections.settle()
        self.endings.stop()
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._leave()
        await self.store.close()
        self._reset()

    async def _leave(self) -> None:
        """Remove this worker's records: it serves nothing any more, and no receipt needs to wait for it."""
        with suppress(StoreUnavailable):
            for shard in self.cache.views if self._is_open else ():
                record = (await self.store.records(shard)).get(self.id)
                if record is not None:
                    await self.store.forget(shard, self.id, record)

    def spawn(self, work: Coroutine[Any, Any, None], name: str, context: Context | None = None) -> None:
        """Run background work that ends with the worker, in a copy of the caller's context unless another is given."""
        task = asyncio.get_running_loop().create_task(work, name=f"evsession-{name}", context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def spawn_or_run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work in the background; at once where the store never waits, so that no event loop is needed."""
        if self.store.is_remote:
            self.spawn(work, "errand")
            return
        try:
            work.send(None)
        except StopIteration:
            return
        work.close()

    # ── background work ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_in_step(self) -> None:
        period = self.cache_policy.max_staleness.total_seconds() / 3
        beat_at = self.clock()
        try:
            while True:
                try:
                    if self.clock() >= beat_at:
                        beat_at = self.clock() + period
                        await self._beat()
                    elif self._due.is_set():
                        self._due.clear()
                        await self.replica.repair_all()
                        await self.answer()
                except StoreUnavailable as error:
                    self.problem = error
                    self.counts.unavailable += 1
                    self.connections.tend()
                    await asyncio.sleep(CATCH_UP_AFTER)
                except ConfigError as error:
                    self.problem = error
                    log.error("%s", error)
                await self._until_due(beat_at - self.clock())
        finally:
            self.replica.wake = lambda: None
            self.store.abandon()

    async def _until_due(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._due.wait()
        except TimeoutError:
            return

    async def _beat(self) -> None:
        await self.ensure_open()
        shards = list(self.cache.views) if len(self.cache.views) > 1 else self.store.shards[:1]
        await self.replica.prove(shards)
        self.problem = None
        if self.control.unloaded is not None:
            await self.replica.repair_all()
            await self.replica.prove(shards)
        if any(view.is_waiting for view in self.cache.views.values()):
            await asyncio.sleep(CATCH_UP_AFTER)
            await self.replica.repair_all()
        self.connections.tend()
        await self.answer()
        await self.revoker.issue_again()
        await self._end_again()

    async def answer(self) -> None:
        """Let whoever revoked something and waits know that it is in force here."""
        if not self.cache.asked:
            return
        asked = set(self.cache.asked)
        if self.store.is_remote:
            await asyncio.sleep(max(0.0, self._answered_at + ANSWER_EVERY - self.clock()))
        self._answered_at = self.clock()
        await self.connections.settle()
        await self.replica.prove(asked)
        self.cache.asked -= asked

    async def _end_again(self) -> None:
        """After a failover, write the ends that this worker knows and the new history has lost."""
        while self.replica.forked:
            shard = self.replica.forked.pop()
            for sid, cause in list(self.cache.tombstones(shard).items()):
                try:
                    await self.end(sid, cause, actor=b"system failover")
                except StoreUnavailable:
                    self.replica.forked.add(shard)
                    raise
                except EvsessionError as error:
                    log.error("session %s could not be ended again: %s", sid, error)

    async def _keep_swept(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            try:
                await self.sweep()
            except EvsessionError as error:
                log.warning("sweep: %s", error)

    async def sweep(self) -> int:
        """End sessions whose deadline has passed, at most a batch of each shard, and trim the logs; return how many."""
        ended = 0
        self._swept_at = self.clock()
        for shard in self.store.shards:
            ended += await self._sweep_shard(shard)
        if self.revoked_users or self._condemned:
            ended += await self._bury_condemned()
        if self.clock() - self._trimmed_at > TRIM_EVERY:
            self._trimmed_at = self.clock()
            for shard in self.store.shards:
                await self.store.trim(shard, milliseconds(self.retention.total_seconds()))
            await self._expunge()
            for shard in (CONTROL, *self.store.shards):
                await self._prune(shard)
        self.counts.swept += ended
        return ended

    async def _sweep_shard(self, shard: str) -> int:
        due = await self.store.due(shard, SWEEP_BATCH)
        if not due:
            return 0
        with self.operations.sweep() as sweep:
            ended = sum([await self._sweep_one(shard, sid) for sid in due])
            sweep.note("shard", shard)
            sweep.note("sessions.ended", ended)
            return ended

    async def _bury_condemned(self) -> int:
        ended = 0
        with self.operations.sweep() as sweep:
            while self.revoked_users:
                index = await self.store.members(self.revoked_users[0])
                self._condemned.extend(member.sid for member in index.members)
                self.revoked_users.popleft()
            for _ in range(min(len(self._condemned), SWEEP_BATCH)):
                cached = await self.replica.fill(self._condemned[0])
                if cached is not None and cached.dead and cached.stored.snapshot.ended is None:
                    ended += await self._end_revoked(cached.stored.snapshot)
                self._condemned.popleft()
            sweep.note("sessions.ended", ended)
        return ended

    async def _expunge(self) -> None:
        """Remove revocations that are older than any living session can be."""
        if not self.store.has_log:
            return
        meta = await self.store.claim({})
        await self.store.expunge(int(meta[LONGEST_ABSOLUTE]))
        for entry in await self.store.read(CONTROL, START, 1):
            self.cache.control.trim(entry.position)

    async def _prune(self, shard: str) -> None:
        """Remove records of workers that this one saw unchanged for ten of their bounds, on its own clock."""
        now, seen = self.clock(), self._records
        for worker, record in (await self.store.records(shard)).items():
            known, since = seen.get((shard, worker), (b"", now))
            found = worker_record(record)
            if known != record:
                seen[shard, worker] = (record, now)
            elif now - since > 10 * (self._bound if found is None else found.bound) / 1000:
                await self.store.forget(shard, worker, record)
                del seen[shard, worker]

    def forget_quietly(self, user: str, sid: str, at: int | None = None) -> None:
        """Take a session that is over out of its user's index, in the background; with `at` only if it entered then.

        Whoever reads the index mends what was missed here.
        """
        self.spawn_or_run(self._forget(user, sid, at))

    async def _forget(self, user: str, sid: str, at: int | None) -> None:
        try:
            await self.store.leave(user, sid, at)
        except StoreUnavailable as error:
            log.debug("session %s stays in the index of its user until that is read: %s", sid, error)

    async def sweep_if_due(self) -> None:
        """Sweep, where no background work does, at most once in a while."""
        if not self.store.is_remote and self.clock() - self._swept_at > SWEEP_EVERY:
            await self.sweep()

    async def _sweep_one(self, shard: str, sid: str) -> bool:
        cached = await self.replica.fill(sid)
        if cached is None or cached.stored.snapshot.ended is not None or self.clock() < cached.deadline:
            await self.store.settle(shard, sid)
            return False
        if cached.dead:
            return await self._end_revoked(cached.stored.snapshot)
        stored = cached.stored
        cause: Literal["idle", "absolute"] = "absolute" if stored.absolute_at <= stored.idle_at else "idle"
        return await self.end(sid, cause, actor=b"system sweeper", condition=cause)

    async def end(
        self,
        sid: str,
        cause: Cause,
        *,
        reason: str = "",
        actor: bytes = b"",
        context: bytes = b"",
        condition: Condition = "",
        by: str = "",
    ) -> bool:
        """End a session whoever holds it; return whether this call did it.

        Raises:
            StoreUnavailable: it is not known whether the session has ended.
        """
        cached = await self.replica.fill(sid)
        if cached is None or cached.stored.snapshot.ended is not None:
            return False

        ended: Ended | None = None

        def decide(snapshot: Snapshot | None) -> Event | None:
            nonlocal ended
            ended = None
            if snapshot is not None and snapshot.ended is None and (not by or self.cache.control.is_dead(snapshot)):
                ended = Ended(cause=cause, reason=reason, by=by)
            return ended

        try:
            stored = await self.committer.append(
                sid, cached.stored, decide, self.stamp(actor, context), condition=condition
            )
        except SessionError:
            return False
        # Another call of this worker may have ended it while this one waited for its turn.
        return ended is not None and stored is not None and stored.snapshot.ended == cause

    async def place_of_end(self, sid: str) -> Position | None:
        """Return where the end of a session stands in its log; None if it has none, or that is long ago."""
        cached = await self.replica.fill(sid) if self.store.has_log else None
        if cached is None or cached.stored.snapshot.ended is None:
            return None
        id_ = parse_id(cached.stored.last_id.encode())
        entries = await self.store.read(sid[:2], Position(id_, b""), 1)
        return entries[0].position if entries and entries[0].id == id_ else None

    def bury(self, cached: Cached) -> None:
        """Write the end of a session that was met and that a revocation by name has killed, in the background."""
        sid = cached.stored.snapshot.sid
        if cached.dead and cached.stored.snapshot.ended is None and sid not in self._buried:
            self._buried.add(sid)
            self.spawn_or_run(self._bury(cached.stored.snapshot))

    async def _bury(self, snapshot: Snapshot) -> None:
        try:
            await self._end_revoked(snapshot)
        except EvsessionError as error:
            log.warning("the end of session %s, which is revoked, is left to the sweeper: %s", snapshot.sid, error)
        finally:
            self._buried.discard(snapshot.sid)

    async def _end_revoked(self, snapshot: Snapshot) -> bool:
        """Write the end of a session with the reason and the actor of the entry that revoked it."""
        killer = self.cache.control.killer(snapshot)
        if killer is None:
            lost = "what had been revoked when it began was lost in a failover"
            return await self.end(snapshot.sid, "revoked", reason=lost, actor=b"system failover", by="0-0")
        for entry in await self.store.read(CONTROL, Position(killer, b""), 1):
            if entry.id == killer:
                reason = str(loads(entry.data).get("reason", ""))
                return await self.end(snapshot.sid, "revoked", reason=reason, actor=entry.actor, by=id_text(killer))
        return False

    def stamp(self, actor: bytes = b"", context: bytes = b"") -> Stamp:
        """Return who, where and when for a new event."""
        return Stamp(event_id=os.urandom(16), actor=actor, context=context, worker_time=time.time_ns() // 1_000_000)


def check_meta(known: dict[str, str] | Any, application: str, keys: Keyring, *, may_only_audit: bool = False) -> None:
    """Raise unless a namespace is this application's; who only audits may have no more than a key for heads.

    Raises:
        ConfigError: another application or format uses it, or none of the keys seen there is ours.
    """
    if known["application"] != application:
        msg = (
            f"this namespace belongs to the application {known['application']!r}, not {application!r};"
            " give each application a namespace= of its own"
        )
        raise ConfigError(msg)
    if int(known["format"]) > FORMAT:
        msg = f"this namespace is of format {known['format']}, and this version reads up to {FORMAT}; upgrade evsession"
        raise ConfigError(msg)
    seen = {name.removeprefix("key:") for name in known if name.startswith("key:")}
    is_auditor = may_only_audit and any(f"audit:{fingerprint}" in known for fingerprint in keys.audit_fingerprints())
    if seen and not seen & set(keys.fingerprints()) and not is_auditor:
        msg = (
            "none of the secret keys given was ever used in this namespace; give the old one as well,"
            " secret_key=[new, old], or use another namespace="
        )
        raise ConfigError(msg)


def milliseconds(seconds: float) -> int:
    """Return seconds as whole milliseconds."""
    return round(seconds * 1000)


def _begin_anew_after_fork() -> None:
    for worker in list(_workers):
        worker._reset()


os.register_at_fork(after_in_child=_begin_anew_after_fork)
