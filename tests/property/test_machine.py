"""Promise 2 as a machine: workers, a model server, and a network that loses, delays and doubles whatever it likes.

Invariant: whatever `lookup` serves at time t is a state that a log really had, and reflects every commit that the
server had executed before t - max_staleness and has not lost since, revocations included. And once the network has
healed, every worker serves exactly what the server holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import product
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from evsession.cache import Cache, Cached, Flight
from evsession.codec import Stored
from evsession.config import CachePolicy
from evsession.events import Authenticated, Ended, Event, Renewed, Updated
from evsession.view import CONTROL
from evsession.wire import Entry, Position
from tests.property.model import KEYRING, Log, event_id, sid

STALENESS: Final = 2.0
SHARD: Final = "00"
SESSIONS: Final = (sid(1), sid(2))
NO_DEADLINE: Final = float("inf")

sessions = st.sampled_from(SESSIONS)
shards = st.sampled_from((SHARD, CONTROL))
workers = st.integers(0, 1)
picks = st.integers(0, 3)
happenings: st.SearchStrategy[Event] = st.sampled_from(
    (
        Updated(set_={"a": 1}),
        Updated(set_={"b": 2}, unset=("a",)),
        Updated(set_={"password": "x"}, redacted=("/password",)),
        Renewed(secret="s3", phase="rotated"),
        Ended(cause="logout"),
    )
)


class Server:
    """Both logs, what each of their states was, and when it came about."""

    def __init__(self) -> None:
        self.logs = {SHARD: Log(SHARD), CONTROL: Log(CONTROL)}
        self.now = 0.0
        self.executed_at: dict[bytes, float] = {}
        self.states: dict[tuple[str, bytes], bytes] = {}
        self.contains: dict[tuple[str, bytes], frozenset[bytes]] = {}

    def commit(self, session: str, event: Event, own: bytes | None = None) -> bytes:
        """Append an event and record what the session now holds, and by which events."""
        log, before = self.logs[SHARD], self.logs[SHARD].stored(session)
        known = frozenset[bytes]() if before is None else self.contains[session, before.head]
        message = log.commit(session, event, own=own)
        after = log.stored(session)
        assert after is not None
        self.states[session, after.head] = after.raw
        self.contains[session, after.head] = known | {log.end.event}
        self.executed_at[log.end.event] = self.now
        return message

    def revoke(self, keep: str | None) -> bytes:
        """Append a revocation of the one user."""
        message = self.logs[CONTROL].revoke("user:42", keep)
        self.executed_at[self.logs[CONTROL].end.event] = self.now
        return message

    def login(self) -> Event:
        """Return a login that stands at the end of the control log."""
        return Authenticated(user_id="42", secret="s2", control=self.logs[CONTROL].end.text())

    def due(self, shard: str) -> list[Entry]:
        """Return the entries that nobody may miss any more."""
        late = self.now - STALENESS
        return [entry for entry in self.logs[shard].entries if self.executed_at[entry.event_id] < late]

    def until(self, shard: str, position: Position | None) -> list[Entry]:
        """Return the entries up to a position; none if it is not, or no longer, in the log."""
        entries = self.logs[shard].entries
        if not any(entry.position == position for entry in entries):
            return []
        return [entry for entry in entries if position is not None and entry.id <= position.id]

    def lacks(self, cached: Cached, entries: list[Entry]) -> bool:
        """Tell whether a copy does not contain what some entries did to its session."""
        session, head = cached.stored.snapshot.sid, cached.stored.head
        return not {entry.event_id for entry in entries if entry.sid == session} <= self.contains[session, head]

    @staticmethod
    def revokes(entries: list[Entry], cached: Cached) -> bool:
        """Tell whether entries of the control log revoke a session."""
        snapshot = cached.stored.snapshot
        if snapshot.user_id is None:
            return False
        since = Position.parse(snapshot.control).id
        return any(entry.id > since and snapshot.sid.encode() not in entry.data for entry in entries)


@dataclass(eq=False)
class Call:
    """One request under way: `run` is what the server does with it, `take` what its reply does to the cache."""

    run: Callable[[], Any]
    take: Callable[[Any], None]
    fail: Callable[[], None] = lambda: None
    reply: Any = None
    is_executed: bool = False


@dataclass(eq=False)
class Worker:
    """One process: a cache, the messages on their way to it, and the calls under way."""

    server: Server
    cache: Cache
    feed: dict[str, list[bytes]] = field(default_factory=lambda: {SHARD: [], CONTROL: []})
    calls: list[Call] = field(default_factory=list)

    def beats(self) -> Call:
        """Return heartbeats for both logs."""
        sent_at = self.server.now
        views = [self.cache.view(shard) for shard in (CONTROL, SHARD)]
        beats = [view.beat() for view in views]

        def run() -> Any:
            return [self.server.logs[beat.shard].beat(beat.position) for beat in beats]

        def take(replies: Any) -> None:
            for view, beat, reply in zip(views, beats, replies, strict=True):
                self.cache.beaten(view, beat, reply, sent_at)

        return Call(run, take)

    def fill(self, session: str) -> Call:
        """Return a fill with heartbeats ahead of it."""
        sent_at = self.server.now
        flight = self.cache.begin(session)
        views = [self.cache.view(shard) for shard in (CONTROL, SHARD)]
        beats = [view.beat() for view in views if view.lease_until <= sent_at]

        def run() -> Any:
            replies = [self.server.logs[beat.shard].beat(beat.position) for beat in beats]
            return replies, self.server.logs[SHARD].stored(session)

        def take(reply: Any) -> None:
            replies, stored = reply
            for beat, answer in zip(beats, replies, strict=True):
                view = self.cache.view(beat.shard)
                if self.cache.beaten(view, beat, answer, sent_at) and view is flight.view:
                    self.cache.adopted(flight)
            self.cache.finish(flight, stored, NO_DEADLINE, sent_at=sent_at, now=self.server.now)

        return Call(run, take, lambda: self.cache.abandon(flight))

    def commit(self, session: str, event: Event, base: Stored, own: bytes) -> Call:
        """Return a commit; a conflict brings the current snapshot."""
        sent_at = self.server.now
        flight: Flight = self.cache.begin(session, own)

        def run() -> Any:
            stored = self.server.logs[SHARD].stored(session)
            if stored is not None and stored.head == base.head and stored.snapshot.ended is None:
                return self.server.commit(session, event, own), self.server.logs[SHARD].stored(session)
            return b"", stored

        def take(reply: Any) -> None:
            self.cache.finish(flight, reply[1], NO_DEADLINE, sent_at=sent_at, now=self.server.now)

        return Call(run, take, lambda: self.cache.abandon(flight))

    def load(self) -> Call:
        """Return a read of the whole control log."""
        view = self.cache.view(CONTROL)
        end, generation = view.unloaded, view.generation
        assert end is not None

        def take(image: Any) -> None:
            if view.generation == generation:
                self.cache.loaded(end, image)

        return Call(self.server.logs[CONTROL].image, take)

    def repair(self, shard: str) -> Call:
        """Return a read of what a log holds since the position, of the control log perhaps all of it."""
        if self.cache.view(shard).unloaded is not None:
            return self.load()
        view, start = self.cache.view(shard), self.cache.view(shard).position
        assert start is not None
        view.gap = False

        def take(entries: Any) -> None:
            self.cache.repaired(view, start, entries)

        return Call(lambda: self.server.logs[shard].read(start), take)


class CacheMachine(RuleBasedStateMachine):
    """Two workers, two sessions, one shard and the control log."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        policy = CachePolicy(max_staleness=timedelta(seconds=STALENESS))
        self.workers = [Worker(self.server, Cache(policy, KEYRING)) for _ in range(2)]
        self.own = 10**6

    # ── the world ────────────────────────────────────────────────────────────────────────────────────────────────────

    @initialize()
    def begin(self) -> None:
        """Begin with two sessions that everybody has cached."""
        for session in SESSIONS:
            self.create(session)
        self.heal()

    @rule(seconds=st.sampled_from((0.1, 0.7, 1.1)))
    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.server.now += seconds

    @rule()
    def time_passes_with_heartbeats(self) -> None:
        """Let more than `max_staleness` pass, while every heartbeat but no message arrives."""
        for _ in range(3):
            self.server.now += 0.75
            for worker in self.workers:
                self.start(worker, worker.beats(), at_once=True)
                self.what_is_served_is_true_and_fresh()

    def publish(self, shard: str, message: bytes) -> None:
        """Send a message to everybody."""
        for worker in self.workers:
            worker.feed[shard].append(message)

    def create(self, session: str) -> None:
        """Begin a session."""
        self.publish(SHARD, self.server.commit(session, self.server.login()))

    @rule(session=sessions, event=happenings)
    def somebody_commits(self, session: str, event: Event) -> None:
        """Change a session from elsewhere, or create it where a failover has lost it."""
        stored = self.server.logs[SHARD].stored(session)
        if stored is None:
            self.create(session)
        elif stored.snapshot.ended is None:
            self.publish(SHARD, self.server.commit(session, event))

    @rule(session=sessions)
    def somebody_signs_in(self, session: str) -> None:
        """Make a session stand at the end of the control log."""
        self.somebody_commits(session, self.server.login())

    @rule(keep=st.sampled_from((None, *SESSIONS)))
    def somebody_revokes(self, keep: str | None) -> None:
        """Append to the control log."""
        self.publish(CONTROL, self.server.revoke(keep))

    @rule(shard=shards, count=st.sampled_from((1, 1, 2, 3)), takes_feed=st.booleans())
    def the_server_fails_over(self, shard: str, count: int, takes_feed: bool) -> None:
        """Lose the last entries, whose ids will be handed out again, and perhaps what was still to be told."""
        self.server.logs[shard].lose(count)
        for worker in self.workers if takes_feed else ():
            worker.feed[shard] = []

    @rule(count=st.integers(1, 3))
    def the_log_is_trimmed(self, count: int) -> None:
        """Remove the oldest entries."""
        self.server.logs[SHARD].trim(count)

    # ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(worker=workers, shard=shards, pick=picks, copies=st.sampled_from((1, 1, 1, 0, 2)))
    def a_message_arrives(self, worker: int, shard: str, pick: int, copies: int) -> None:
        """Deliver, lose or double a message; mostly the first one."""
        feed = self.workers[worker].feed[shard]
        if feed:
            message = feed.pop(max(pick - 2, 0) % len(feed))
            for _ in range(copies):
                self.workers[worker].cache.message(shard, message)

    @rule(worker=workers, shard=shards)
    def all_messages_arrive(self, worker: int, shard: str) -> None:
        """Deliver everything in order."""
        messages, self.workers[worker].feed[shard] = self.workers[worker].feed[shard], []
        for message in messages:
            self.workers[worker].cache.message(shard, message)

    @rule(worker=workers, pick=picks)
    def the_server_executes_a_call(self, worker: int, pick: int) -> None:
        """Run one of the calls that are on their way."""
        waiting = [call for call in self.workers[worker].calls if not call.is_executed]
        if waiting:
            self.execute(waiting[pick % len(waiting)])

    def execute(self, call: Call) -> None:
        """Run a call, and publish what it committed."""
        call.reply, call.is_executed = call.run(), True
        if isinstance(call.reply, tuple) and isinstance(call.reply[0], bytes) and call.reply[0]:
            self.publish(SHARD, call.reply[0])

    @rule(worker=workers, pick=picks, is_lost=st.sampled_from((False, False, False, True)))
    def a_reply_arrives(self, worker: int, pick: int, is_lost: bool) -> None:
        """Deliver or lose one of the replies that are on their way."""
        answered = [call for call in self.workers[worker].calls if call.is_executed]
        if answered:
            call = answered[pick % len(answered)]
            self.workers[worker].calls.remove(call)
            call.fail() if is_lost else call.take(call.reply)

    # ── the workers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, worker: Worker, call: Call, at_once: bool) -> None:
        """Send a call, and answer it at once if the network is quick."""
        if at_once:
            self.execute(call)
            call.take(call.reply)
        else:
            worker.calls.append(call)

    @rule(worker=workers, at_once=st.booleans())
    def a_worker_beats(self, worker: int, at_once: bool) -> None:
        """Send heartbeats."""
        self.start(self.workers[worker], self.workers[worker].beats(), at_once)

    @rule(worker=workers, session=sessions, at_once=st.booleans())
    def a_worker_fills(self, worker: int, session: str, at_once: bool) -> None:
        """Load a session."""
        self.start(self.workers[worker], self.workers[worker].fill(session), at_once)

    @rule(worker=workers, session=sessions, event=happenings, at_once=st.booleans())
    def a_worker_commits(self, worker: int, session: str, event: Event, at_once: bool) -> None:
        """Change a session that is cached."""
        base = self.workers[worker].cache.newest(session)
        if base is not None and base.stored.snapshot.ended is None:
            self.own += 1
            call = self.workers[worker].commit(session, event, base.stored, event_id(self.own))
            self.start(self.workers[worker], call, at_once)

    @rule(worker=workers, shard=shards, at_once=st.booleans())
    def a_worker_repairs(self, worker: int, shard: str, at_once: bool) -> None:
        """Read a log."""
        view = self.workers[worker].cache.view(shard)
        if view.position is not None or view.unloaded is not None:
            self.start(self.workers[worker], self.workers[worker].repair(shard), at_once)

    @rule(worker=workers, session=sessions, event=happenings)
    def a_fill_is_overtaken(self, worker: int, session: str, event: Event) -> None:
        """Let a fill be answered only after a later change was told of."""
        reader = self.workers[worker]
        call = reader.fill(session)
        self.execute(call)
        self.somebody_commits(session, event)
        self.all_messages_arrive(worker, SHARD)
        call.take(call.reply)

    @rule(worker=workers, session=sessions, event=happenings)
    def a_fill_outlives_a_failover(self, worker: int, session: str, event: Event) -> None:
        """Let a fill be answered only after its history was lost and the worker has begun anew."""
        reader = self.workers[worker]
        self.somebody_commits(session, event)
        self.all_messages_arrive(worker, SHARD)
        call = reader.fill(session)
        self.execute(call)
        self.the_server_fails_over(SHARD, 1, takes_feed=True)
        self.start(reader, reader.beats(), at_once=True)
        call.take(call.reply)

    @rule()
    def heal(self) -> None:
        """Let everything arrive, beat, and repair what needs it: then all serve exactly what the server holds."""
        self.server.now += 0.1
        for number, worker in enumerate(self.workers):
            for shard in (CONTROL, SHARD):
                self.all_messages_arrive(number, shard)
            for call in worker.calls:
                call.fail()
            worker.calls = []
            for _ in range(3):
                self.start(worker, worker.beats(), at_once=True)
                for shard, view in worker.cache.views.items():
                    if view.gap or view.is_waiting:
                        self.start(worker, worker.repair(shard), at_once=True)
            self.check_the_truth(worker)

    def check_the_truth(self, worker: Worker) -> None:
        """Check that a healed worker serves the truth, from memory or after one fill."""
        for session in SESSIONS:
            truth = self.server.logs[SHARD].stored(session)
            for _ in range(2):
                cached = worker.cache.lookup(session, self.server.now)
                assert cached is None or (truth is not None and cached.stored.head == truth.head)
                self.start(worker, worker.fill(session), at_once=True)
                cached = worker.cache.newest(session)
                if cached is not None:
                    worker.cache.judge(cached, is_final=True)
            assert (worker.cache.lookup(session, self.server.now) is None) == (truth is None)

    def teardown(self) -> None:
        """End every story well."""
        self.heal()

    # ── what must always hold ────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def what_is_served_is_true_and_fresh(self) -> None:
        """See the module."""
        for worker, session in product(self.workers, SESSIONS):
            cached = worker.cache.lookup(session, self.server.now)
            if cached is not None:
                key = (session, cached.stored.head)
                assert self.server.states[key] == cached.stored.raw, "a state that no log ever had"
                assert not self.server.lacks(cached, self.server.due(SHARD)), "a change is missing"
                assert cached.dead or not self.server.revokes(self.server.due(CONTROL), cached), (
                    "a revocation is missing"
                )

    @invariant()
    def what_was_applied_is_in_every_copy(self) -> None:
        """Hold what the bound rests on: a copy that the log has told of contains all up to the position."""
        for worker, session in product(self.workers, SESSIONS):
            cached = worker.cache.newest(session)
            if cached is not None and cached.proven_until == float("inf"):
                known = self.server.until(SHARD, worker.cache.view(SHARD).position)
                assert not self.server.lacks(cached, known), "a change was applied to the position only"
                worker.cache.judge(cached)
                known = self.server.until(CONTROL, worker.cache.view(CONTROL).position)
                assert cached.dead or not self.server.revokes(known, cached), "a revocation was not applied"


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=100, stateful_step_count=40)
