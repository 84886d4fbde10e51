"""What this worker holds open for sessions: WebSockets, event streams, requests whose body is still arriving.

All of it closes by itself when its session is over or is not the same person's any more, whichever way this worker
learns of that: by message, repair, fill, own commit, the control log, a deadline. While nothing can be proved, it is
held back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final, Protocol

import anyio
import anyio.lowlevel

from evsession.cache import Cache, Cached
from evsession.codec import unpack_event
from evsession.config import CachePolicy
from evsession.endings import Endings
from evsession.errors import CorruptSnapshot, StoreUnavailable, UnknownFormat
from evsession.events import CAUSES, Event
from evsession.home import home
from evsession.replica import Replica
from evsession.standing import Standing, Verdict
from evsession.state import Snapshot
from evsession.store import Store
from evsession.view import View
from evsession.wire import Entry

WALKED: Final = 64
"""Events that are read to tell a renewal from a login where the feed has not told: 64 are one small reply."""

ASK_AGAIN_AFTER: Final = 0.5
"""Seconds between two tries of a connection to ask a store that is away: the pace of the breaker's own probes."""

HANGING_UP_TAKES: Final = 5.0
"""Seconds that a handler which is through waits for its connection's close to get to the client."""

SETTLED_WITHIN: Final = 0.05
"""Seconds that `settle` waits for closes to be on their way.  Source: one pass of the event loop, with room."""

log = logging.getLogger("evsession.connections")


class Peer(Protocol):
    """Who speaks to the client."""

    def interrupt(self) -> None:
        """Wake whoever waits for the client."""

    async def hang_up(self, verdict: Verdict) -> None:
        """Tell the client that it is over."""


class Connection:
    """One socket, stream or arriving body. Whoever passes something on, either way, asks first whether it may.

    `verdict` says why it was closed; `touch_at` is the local time from which on a message of the client keeps the
    session alive.
    """

    __slots__ = (
        "_connections", "_guard", "_home", "_peer", "deadline", "generation", "standing", "touch_at", "verdict", "view",
    )  # fmt: skip

    def __init__(self, connections: Connections, peer: Peer, standing: Standing, view: View) -> None:
        self.standing = standing
        self.verdict: Verdict | None = None
        self.view = view
        self.generation = -1
        self.deadline = float("-inf")
        self.touch_at = float("inf")
        self._connections = connections
        self._peer = peer
        self._home = home()
        self._guard: Guard | None = None

    @property
    def sid(self) -> str:
        """The session."""
        return self.standing.snapshot.sid

    @property
    def is_held(self) -> bool:
        """Whether something waits for a proof."""
        return self._guard is not None and self._guard.is_held

    def is_proven(self) -> bool:
        """Tell whether something may pass at this moment."""
        now = self._connections.clock()
        return self.verdict is None and now < self.view.serve_until and not self.must_ask(now)

    def must_ask(self, now: float) -> bool:
        """Tell whether only the store can say how the session stands."""
        return self.standing.doubtful or self.generation != self.view.generation or now >= self.deadline

    async def prove(self) -> bool:
        """Return whether something may pass, once that can be told; hold it back until then. Only when watched."""
        guard = self.watch()
        while self.verdict is None:
            turned = guard.turned
            if self.is_proven():
                return True
            guard.is_held = True
            try:
                await self._connections.prove(self, turned)
            except StoreUnavailable:
                await turned.wait()
        return False

    async def ask(self) -> None:
        """Ask the store how the session stands, and close if that says so.

        Raises:
            StoreUnavailable: it could not be told.
        """
        await self._connections.ask(self)

    def close(self, verdict: Verdict) -> None:
        """Let nothing pass any more, from this moment on, and tell both sides."""
        if self.verdict is None:
            self.verdict = verdict
            self._connections.closed(self, verdict)
            self._home.call(self._wake_all)

    def stir(self) -> None:
        """Have the connection look again at how things stand."""
        if self._guard is not None:
            self._home.call(self._guard.turn)

    def _wake_all(self) -> None:
        self._peer.interrupt()
        if self._guard is not None:
            self._guard.turn()

    def watch(self, *, is_passive: bool = True) -> Guard:
        """Have it looked after in the background; unless passive, messages of its client keep the session alive."""
        if self._guard is None:
            self.standing.outlast()
            self._guard = Guard(self, self._peer)
            self._home.spawn(self._guard.run(), "connection")
            if not is_passive:
                self.touch_at = self._connections.clock() + self._connections.touch_every
        return self._guard

    async def hung_up(self) -> None:
        """Return once the close is on its way; at once if there is nobody to be told."""
        if self._guard is not None:
            await self._guard.begun.wait()

    def leave(self) -> None:
        """Be over, whatever becomes of the session."""
        self._connections.forget(self)
        if self._guard is not None and not self._guard.begun.is_set():
            self._guard.life.cancel()

    async def finish(self) -> None:
        """Be over, after the close has got to the client if there is one."""
        if self._guard is not None:
            if self.verdict is not None:
                await _first_of(self._guard.over, HANGING_UP_TAKES)
            self._guard.life.cancel()
        self._connections.forget(self)

    async def look(self, turned: anyio.Event) -> None:
        """Wait for a turn or for the deadline, or do what either calls for: ask."""
        now = self._connections.clock()
        if not self.must_ask(now):
            await _first_of(turned, self.deadline - now)
            return
        try:
            await self.ask()
        except StoreUnavailable:
            await _first_of(turned, ASK_AGAIN_AFTER)


class Guard:
    """Looks after a connection in the background: asks when in doubt or past its deadline, hangs up once it is closed.

    `turned` is set, and replaced, at each change of how things stand; `begun` when the client is being told, `over`
    after that.
    """

    __slots__ = ("_connection", "_peer", "begun", "is_held", "life", "over", "turned")

    def __init__(self, connection: Connection, peer: Peer) -> None:
        self._connection = connection
        self._peer = peer
        self.is_held = False
        self.turned = anyio.Event()
        self.begun = anyio.Event()
        self.over = anyio.Event()
        self.life = anyio.CancelScope()

    def turn(self) -> None:
        """Wake whoever waits for a change of how things stand."""
        self.is_held = False
        turned, self.turned = self.turned, anyio.Event()
        turned.set()

    async def run(self) -> None:
        """Stay with the connection to its end."""
        connection = self._connection
        with self.life:
            while (verdict := connection.verdict) is None:
                await connection.look(self.turned)
            self.begun.set()
            await self._peer.hang_up(verdict)
        self.over.set()
        connection.leave()


async def _first_of(event: anyio.Event, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await event.wait()


class Connections:
    """All that is open in one worker, by session; the watcher of its cache.

    What is closed stays here until its client was told, so that `settle` can wait for that.
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        clock: Callable[[], float],
        policy: CachePolicy,
        endings: Endings,
        *,
        touch_every: float,
    ) -> None:
        self.clock = clock
        self.touch_every = touch_every
        self.closed_count = 0
        self._store = store
        self._replica = replica
        self._cache: Cache = replica.cache
        self._endings = endings
        self._closes_unproven = policy.on_lost_lease == "close"
        self._grace: timedelta = policy.lease_grace
        self._staleness = policy.max_staleness.total_seconds()
        self._of: dict[str, set[Connection]] = {}
        self._epoch = self._cache.control.epoch
        self._lost_at: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(connection.verdict is None for connection in self._all())

    def _all(self) -> Iterator[Connection]:
        for connections in tuple(self._of.values()):
            yield from tuple(connections)

    def _open(self) -> list[Connection]:
        return [connection for connection in self._all() if connection.verdict is None]

    # ── a connection's life ──────────────────────────────────────────────────────────────────────────────────────────

    def open(self, peer: Peer, snapshot: Snapshot, secret: str) -> Connection:
        """Register a connection of a session that was opened under a secret, given as its hash."""
        connection = Connection(self, peer, Standing(snapshot, secret), self._cache.view(snapshot.sid[:2]))
        self._of.setdefault(snapshot.sid, set()).add(connection)
        known = self._cache.newest(snapshot.sid)
        if known is not None and known.stored.snapshot.version >= snapshot.version:
            connection.generation, connection.deadline = known.generation, self._asked_again_at(known)
            self._meet(connection, known.stored.snapshot)
        if self._cache.control.is_dead(connection.standing.snapshot):
            connection.close("revoked")
        return connection

    def forget(self, connection: Connection) -> None:
        """Take a connection that is over out of the register."""
        connections = self._of.get(connection.sid)
        if connections is not None:
            connections.discard(connection)
            if not connections:
                del self._of[connection.sid]

    def closed(self, connection: Connection, verdict: Verdict) -> None:
        """Note that a connection was closed."""
        self.closed_count += 1
        log.debug("a connection of session %s closes: %s", connection.sid, verdict)
        if verdict in CAUSES:
            self._endings.tell(connection.sid, verdict)  # type: ignore[arg-type]  # the causes among the verdicts

    def close_all(self, verdict: Verdict) -> None:
        """Close whatever is open."""
        for connection in self._open():
            connection.close(verdict)

    # ── what the cache tells ─────────────────────────────────────────────────────────────────────────────────────────

    def on_event(self, sid: str, version: int, event: Event | None) -> None:
        """Close what an event of the log closes."""
        self._endings.heed(sid, event)
        for connection in tuple(self._of.get(sid, ())):
            self._judge(connection, connection.standing.heed(version, event))

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Close what a newer state closes."""
        for connection in tuple(self._of.get(snapshot.sid, ())):
            self._meet(connection, snapshot)

    def _meet(self, connection: Connection, snapshot: Snapshot) -> None:
        self._judge(connection, connection.standing.meet(snapshot))

    def on_lost(self, sid: str) -> None:
        """Ask about what rested on a state that a failover has lost."""
        for connection in tuple(self._of.get(sid, ())):
            connection.standing.doubtful = True
            connection.stir()

    def on_control(self) -> None:
        """Close what the control log kills."""
        self.judge()

    @staticmethod
    def _judge(connection: Connection, verdict: Verdict | None) -> None:
        if verdict is not None:
            connection.close(verdict)
        elif connection.standing.doubtful:
            connection.stir()

    def judge(self) -> None:
        """Close all that the control log, as far as it was applied, has revoked; nothing of it passes any more."""
        control = self._cache.control
        if self._epoch != control.epoch:
            self._epoch = control.epoch
            for connection in self._open():
                if control.is_dead(connection.standing.snapshot):
                    connection.close("revoked")

    async def settle(self) -> None:
        """Close all that was revoked or has ended, and return once the closes are on their way to the clients."""
        self.judge()
        closing = [connection for connection in self._all() if connection.verdict is not None]
        with anyio.move_on_after(SETTLED_WITHIN):
            for connection in closing:
                await connection.hung_up()

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def prove(self, connection: Connection, turned: anyio.Event) -> None:
        """Do what can be done for a proof that a connection may go on, or wait for whoever does it.

        Raises:
            StoreUnavailable: nothing can be done now.
        """
        if connection.must_ask(self.clock()):
            await self.ask(connection)
        elif self._store.is_remote:
            await turned.wait()  # heartbeats run in the background, for all connections together
        else:
            await self._replica.ensure_lease(connection.sid[:2])

    async def ask(self, connection: Connection) -> None:
        """Find out how the session of a connection stands, and close it if that says so.

        Raises:
            StoreUnavailable: it could not be told.
        """
        verdict: Verdict | None
        try:
            cached = await self._replica.fill(connection.sid)
            verdict = await self._verdict(connection, cached)
        except (CorruptSnapshot, UnknownFormat):
            verdict = "unproven"
        else:
            if verdict is None and cached is not None:
                connection.generation, connection.deadline = cached.generation, self._asked_again_at(cached)
        self._judge(connection, verdict)

    async def _verdict(self, connection: Connection, cached: Cached | None) -> Verdict | None:
        if cached is None:
            return "absolute"
        stored, standing = cached.stored, connection.standing
        if stored.snapshot.ended is None:
            if cached.dead:
                return "revoked"
            if self.clock() >= cached.deadline:
                return "absolute" if stored.absolute_at <= stored.idle_at else "idle"
            if not standing.is_known_by(stored.snapshot):
                return standing.confirm(stored.snapshot, await self._history(connection.sid))
        return standing.confirm(stored.snapshot)

    def _asked_again_at(self, cached: Cached) -> float:
        """Return the local time of the next look: the deadline, or sooner where no feed tells what happens."""
        if self._store.has_log:
            return cached.deadline
        return min(cached.deadline, self.clock() + self._staleness)

    async def _history(self, sid: str) -> list[tuple[int, Event | None]]:
        if not self._store.has_log:
            return []
        return [(entry.version, _read(entry)) for entry in await self._store.walk(sid, WALKED)]

    # ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def tend(self) -> None:
        """After a heartbeat, or instead of one: let go what was held back, close what was unproven for too long."""
        now = self.clock()
        for connection in self._open():
            view = connection.view
            if now < view.serve_until:
                self._lost_at.pop(view.shard, None)
                if connection.is_held or connection.must_ask(now):
                    connection.stir()
            elif self._closes_unproven:
                # Counted from when it was noticed: after a pause of the whole process it may prove itself first.
                lost_at = self._lost_at.setdefault(view.shard, now)
                if now - lost_at >= self._grace.total_seconds():
                    connection.close("unproven")


def _read(entry: Entry) -> Event | None:
    try:
        return unpack_event(entry.type, entry.data)
    except UnknownFormat:
        return None
