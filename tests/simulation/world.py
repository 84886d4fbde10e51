"""One schedule: workers with the real middleware, browsers that use them, an adversary, and what must always hold."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from evsession.codec import Stored
from evsession.config import CachePolicy, CookiePolicy, SessionPolicy, StorePolicy
from evsession.errors import SessionEnded, SessionLimitReached, StoreUnavailable
from evsession.keys import Keyring
from evsession.manager import SessionManager
from evsession.middleware import SessionMiddleware
from evsession.session import Session
from evsession.store import EVENT_KEY
from evsession.tokens import Ticket, parse
from tests.simulation.model import SHARD, Operation, Primary, Truth, Violation
from tests.simulation.network import CALM, Link, Network, Weather
from tests.simulation.scheduler import VirtualLoop, seeded

SECRET: Final = "the secret of the simulation, long enough"
NAMESPACE: Final = "simulation"
KEYS: Final = Keyring(SECRET, namespace=NAMESPACE)
COOKIE: Final = CookiePolicy(name="s", secure=False)

STALENESS: Final = 0.3
"""Seconds; long beside a round trip and short beside a schedule, as two seconds are in a day."""

DURATION: Final = 4 * STALENESS
PATIENCE: Final = 0.4
RETENTION: Final = 0.9
"""Seconds of the log that no trim takes away: longer than a commit is retried and its last attempt under way."""
TOLERANCE: Final = 1e-6
USERS: Final = ("42", "43")

WATCHED_EVERY: Final = 0.005
"""Seconds between two looks at every worker's memory."""

EXPECTED: Final = (SessionEnded, StoreUnavailable, SessionLimitReached)
KINDS: Final = ("read",) * 5 + ("write",) * 8 + ("login",) * 3 + ("logout",) * 2 + ("rotate", "steal", "sweep")


@dataclass(slots=True, eq=False)
class Browser:
    """What one browser holds: its cookie now, and those it had before (which a thief may have)."""

    user: str
    cookie: bytes = b""
    former: list[bytes] = field(default_factory=list)

    def take(self, cookie: bytes) -> None:
        """Take the cookie that a response sets; empty to remove it."""
        if self.cookie:
            self.former.append(self.cookie)
        self.cookie = cookie


@dataclass(frozen=True, slots=True)
class _Route:
    path: str


class Worker:
    """One process: the real manager and middleware on a link of its own, with a clock of its own."""

    def __init__(self, world: World, number: int) -> None:
        self.name = f"w{number}"
        self.link = Link(world.network, self.name)
        self.offset = 1000.0 * number
        self.applied: set[bytes] = set()
        """The revocations that it has applied at some time: from then on they are in force here, whatever is lost."""
        self.manager = SessionManager(
            self.link, secret_key=SECRET, namespace=NAMESPACE, policy=world.policy, cookie=COOKIE,
            cache=CachePolicy(max_staleness=timedelta(seconds=STALENESS), max_entries=world.entries),
            patience=StorePolicy(command_timeout=timedelta(seconds=0.15), commit_timeout=timedelta(seconds=PATIENCE)),
            clock=lambda: world.loop.now + self.offset,
        )  # fmt: skip
        self.middleware = SessionMiddleware(world.handle, self.manager)


class World:
    """Everything of one schedule; `run` raises `Violation` where a promise is broken."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.loop = VirtualLoop(chance)  # type: ignore[abstract]  # what the code under test never calls is missing
        self.policy = self._policy()
        self.primary = Primary(chance, self.loop.time, is_crowded=chance.random() < 0.7)
        self.network = Network(self.loop, self.primary, chance)
        self.browsers = [Browser(chance.choice(USERS)) for _ in range(chance.choice((1, 2, 2)))]
        self.entries = chance.choice((1, 100, 100))
        self.workers = [Worker(self, number) for number in range(chance.choice((2, 2, 3)))]
        self.acknowledged: dict[bytes, bytes] = {}
        """The head that each cookie's response acknowledged."""
        self._watched_at = 0.0
        self._revoking: list[asyncio.Task[None]] = []
        self.loop.watch = self._watch
        self._count = 0

    def _policy(self) -> SessionPolicy:
        return SessionPolicy(idle_timeout=timedelta(seconds=self.chance.choice((0.5, 1800, 1800))))

    def run(self) -> None:
        """Run the schedule to its end."""
        self.loop.run(self._live())

    async def _live(self) -> None:
        for worker in self.workers:
            await self._as(worker, worker.manager.start())
        for browser in self.browsers:
            await self._request(browser, self.workers[0], "login" if self.chance.random() < 0.5 else "write")
        self.network.weather = Weather.drawn(self.chance)
        tasks = [self.loop.create_task(self._use(at)) for at in self._moments(8, 18)]
        tasks += [self.loop.create_task(self._disturb(at)) for at in self._moments(0, 4)]
        for task in tasks:
            await task
        await asyncio.gather(*self._revoking)
        await self._settle()
        self._check_end()

    def _moments(self, least: int, most: int) -> list[float]:
        return [self.chance.random() * DURATION for _ in range(self.chance.randint(least, most))]

    async def _as(self, worker: Worker, work: Any) -> Any:
        return await self.loop.create_task(work, context=self.loop.context_of(worker.name))

    # ── what users do ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _use(self, at: float) -> None:
        await asyncio.sleep(at)
        browser, worker, other = self.chance.choice(self.browsers), *self.chance.sample(self.workers, 2)
        if self.chance.random() < 0.3:
            early = self.loop.create_task(self._request(browser, other, "read"))
            await asyncio.sleep(0.01 * self.chance.random())
            await self._request(browser, worker, "write")
            await self._request(browser, other, "read")
            await early
        else:
            await self._request(browser, worker, self.chance.choice(KINDS))

    async def _request(self, browser: Browser, worker: Worker, kind: str) -> int:
        if kind == "sweep":
            with suppress(*EXPECTED):
                await self._as(worker, worker.manager.sweep())
            return 0
        self._count += 1
        operation = Operation(f"op{self._count}", kind)
        cookie = browser.cookie
        if kind == "steal":
            cookie = self.chance.choice(browser.former) if browser.former else cookie
        status = 0
        new: bytes | None = None

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, new
            if message["type"] == "http.response.start":
                status = message["status"]
                cookies = (value for name, value in message["headers"] if name == b"set-cookie")
                new = next((value.partition(b";")[0].removeprefix(b"s=") for value in cookies), None)
                if new and (base := scope["session"].base) is not None:
                    self.acknowledged[new] = base.head

        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": "/", "scheme": "https", "route": _Route(operation.name),
            "headers": [(b"cookie", b"s=" + cookie)] if cookie else [], "operation": operation, "cookie": cookie,
            "browser": browser, "worker": worker, "seen": self.acknowledged.get(cookie),
        }  # fmt: skip
        self.primary.operations[operation.name] = operation
        request = self.loop.create_task(
            worker.middleware(scope, receive, send), context=self.loop.context_of(worker.name)
        )
        if self.network.happens(self.network.weather.hung_up):
            self.loop.call_later(self.chance.random() * 0.02, request.cancel)
        with suppress(*EXPECTED, asyncio.CancelledError):
            await request
        if new is not None and kind != "steal":
            browser.take(new)
        return status

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """The application: see what is served, think, do one thing, answer."""
        operation, session = scope["operation"], scope["session"]
        operation.began_at = self.loop.now
        ticket = parse(KEYS, "cookie", "s", scope["cookie"])
        self._check_served(scope["worker"], session, ticket, scope["seen"])
        operation.secret = ticket.secret_hash if ticket is not None else ""
        if operation.kind != "read":
            await asyncio.sleep(self.chance.choice((0.0, 0.0, 0.005, 0.1, 1.0)) * self.chance.random())
            self._act(operation, session, scope["browser"])
            is_event = session.base is not None or operation.kind != "rotate"
            await session.save()
            operation.is_acknowledged = is_event
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _act(self, operation: Operation, session: Session, browser: Browser) -> None:
        key = f"k{self.chance.randrange(4)}"
        match operation.kind:
            case "write" | "steal":
                self._set(operation, session, key)
            case "login":
                other = self.chance.random() < 0.2
                session.login(USERS[0] if other else browser.user)
                self._set(operation, session, key)
            case "logout":
                session.logout()
            case "rotate":
                session.rotate()

    @staticmethod
    def _set(operation: Operation, session: Session, key: str) -> None:
        session[key] = operation.sets[key] = operation.name

    # ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _disturb(self, at: float) -> None:
        await asyncio.sleep(at)
        chance, primary = self.chance, self.primary
        worker = chance.choice(self.workers)
        disturbances: list[Callable[[], Any]] = [
            lambda: primary.fail_over(chance.randrange(5), chance.choice((0, 0, -300, 50))),
            self._fail_over_slowly,
            lambda: self._revoke(worker, self._kept()),
            lambda: self._revoke(worker, None),
            lambda: self._revoke(worker, None),
            lambda: self._revoke(worker, None),
            lambda: self.loop.pause(worker.name, chance.random() * 3 * STALENESS),
            lambda: primary.cut(SHARD, self.loop.now - RETENTION),
            lambda: worker.link.cut_feed(is_noticed=True),
            lambda: self._silence(worker),
        ]
        if chance.random() < 0.03:
            disturbances = [primary.restart_empty]
        chance.choice(disturbances)()

    def _revoke(self, worker: Worker, keep: str | None) -> None:
        """Have a worker revoke a user, or everyone, as an operator does who does not wait."""
        users = [f"user:{user}" for user in USERS]
        name = self.chance.choice((*users, *users, "everyone"))
        core = worker.manager.worker

        async def revoke() -> None:
            with suppress(*EXPECTED):
                await core.ensure_open()
                await core.revoker.append(name, core.stamp(), keep=keep, reason="", waits=self.chance.random() < 0.5)

        self._revoking.append(self.loop.create_task(revoke(), context=self.loop.context_of(worker.name)))

    def _fail_over_slowly(self) -> None:
        self.network.down_until = self.loop.now + self.chance.random() * STALENESS
        self.primary.fail_over(self.chance.randrange(4), self.chance.choice((0, -300)))
        for worker in self.workers:
            worker.link.cut_feed(is_noticed=self.chance.random() < 0.7)

    def _silence(self, worker: Worker) -> None:
        worker.link.cut_feed(is_noticed=False)
        self.loop.call_later(self.chance.random() * DURATION, worker.link.resubscribe)

    def _kept(self) -> str | None:
        ticket = parse(KEYS, "cookie", "s", self.chance.choice(self.browsers).cookie)
        return ticket.sid if ticket is not None else None

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────────

    def _fail(self, text: str) -> None:
        self.loop.failures.append(Violation(text))

    def _watch(self) -> None:
        """See what each worker would serve from memory at this moment."""
        if self.loop.now < self._watched_at + WATCHED_EVERY:
            return
        self._watched_at = self.loop.now
        for worker in self.workers:
            worker.applied.update(worker.manager.worker.cache.control._recent)
            if not self.loop.is_paused(worker.name):
                for sid in self.primary.truths:
                    cached = worker.manager.worker.cache.lookup(sid, worker.manager.clock())
                    if cached is not None:
                        self._check_state(worker, cached.stored, is_dead=cached.dead, source="memory")

    def _has_phantoms(self, worker: Worker) -> bool:
        """Tell whether a late message may have told of something that a failover took back."""
        since = self.loop.now - STALENESS - TOLERANCE
        return any(at > since and head in self.primary.lost_heads for head, at in worker.link.heard.items())

    def _check_state(self, worker: Worker, stored: Stored, *, is_dead: bool, source: str) -> None:
        snapshot, since = stored.snapshot, self.loop.now - STALENESS - TOLERANCE
        identity = (snapshot.version, stored.head)
        if self.primary.truth(snapshot.sid).identity != identity:
            truths = self.primary.truths_since(snapshot.sid, since)
            # What a failover took back may be seen for as long after a late message has told of it.
            is_phantom = stored.head in self.primary.lost_heads and worker.link.heard.get(stored.head, 0.0) > since
            if not is_phantom and not any(truth.identity == identity for truth in truths):
                served = f"version {snapshot.version} {stored.head.hex()[:4]} was served at {self.loop.now:.4f}"
                self._fail(f"{worker.name}'s {source}: {served}, when the truth was {'; '.join(map(str, truths))}")
        if not is_dead and snapshot.ended is None and (killer := self.primary.killer_of(snapshot, since)):
            self._fail(f"{worker.name}'s {source} at {self.loop.now:.4f}: a session that {killer} had revoked")
        if not is_dead and snapshot.ended is None and (killer := self.primary.killer_among(snapshot, worker.applied)):
            self._fail(f"{worker.name}'s {source} at {self.loop.now:.4f}: a session that it knew {killer} to revoke")

    def _check_served(self, worker: Worker, session: Session, ticket: Ticket | None, seen: bytes | None) -> None:
        source = session.info.source
        if ticket is None:
            if session.base is not None:
                self._fail("a session was served without a token")
            return
        if session.base is None:
            truths = self.primary.truths_since(ticket.sid, self.loop.now - STALENESS - TOLERANCE)
            if not any(self._refuses(truth, ticket) for truth in truths) and not self._has_phantoms(worker):
                self._fail(f"{worker.name}'s {source}: a good token of a living session was refused")
            return
        snapshot = session.base.snapshot
        identity = (snapshot.version, session.base.head)
        if snapshot.sid != ticket.sid or ticket.secret_hash not in snapshot.secrets:
            self._fail(f"{source}: a session was served to whom it is not")
        self._check_state(worker, session.base, is_dead=False, source=source)
        self._check_fence(snapshot.version, ticket, seen)
        self._check_deadline(ticket.sid, identity)

    def _refuses(self, truth: Truth, ticket: Ticket) -> bool:
        if truth.stored is None or truth.stored.snapshot.ended is not None:
            return True
        snapshot = truth.stored.snapshot
        is_late = self.primary.server_ms + 500 >= truth.stored.deadline  # deadlines are lower bounds, by a round trip
        if ticket.secret_hash not in snapshot.secrets or is_late:
            return True
        return self.primary.may_be_dead(snapshot)

    def _check_fence(self, version: int, ticket: Ticket, seen: bytes | None) -> None:
        if version < ticket.fence and seen is not None and seen not in self.primary.lost_heads:
            self._fail(f"a browser that had seen version {ticket.fence} was served version {version}")

    def _check_deadline(self, sid: str, identity: tuple[int, bytes]) -> None:
        deadline = self.primary.deadline_ms(sid)
        if self.primary.epoch or deadline is None or self.primary.truth(sid).identity != identity:
            return
        if self.primary.server_ms > deadline + 5:
            self._fail(f"session {sid} was served {self.primary.server_ms - deadline} ms past its deadline")

    async def _settle(self) -> None:
        """Let all heal, and see that every worker then serves the truth."""
        self.network.weather = CALM
        await asyncio.sleep(max(0.0, self.network.down_until - self.loop.now))
        for worker in self.workers:
            worker.link.resubscribe()
        await asyncio.sleep(3 * STALENESS)
        for worker in self.workers:
            for browser in self.browsers:
                if await self._request(browser, worker, "read") != 200:
                    self._fail(f"{worker.name} does not serve although nothing is wrong any more")

    def _check_end(self) -> None:
        self.primary.verify(KEYS)
        for worker in self.workers:
            if lost := worker.manager.worker.cache.control.lost:
                self._fail(f"{worker.name} knows of revocations that nobody has issued again: {list(lost.values())}")
            for sid in worker.manager.worker.cache._tombs.get(SHARD, ()):
                truth = self.primary.truth(sid).stored
                if truth is not None and truth.snapshot.ended is None:
                    self._fail(f"{worker.name} knows that {sid} has ended, and it lives")
        held = {revocation.position.event[:EVENT_KEY] for revocation in self.primary.revocations}
        applied = {event[:EVENT_KEY] for worker in self.workers for event in worker.applied}
        if lost_for_good := applied - held:
            self._fail(f"nobody has issued again what a worker had applied: {lost_for_good}")
        logged = {self.primary._name_of(entry) for entry in self.primary.history}
        for operation in self.primary.operations.values():
            is_due = operation.is_acknowledged and operation.kind in ("write", "login", "rotate")
            if is_due and operation.name not in logged | self.primary.lost_names:
                self._fail(f"{operation.kind} {operation.name} was acknowledged and is not in the log")


def simulate(seed: int, prepare: Callable[[World], None] = lambda world: None) -> None:
    """Run the schedule of a seed; `prepare` may look into its world before it begins.

    Raises:
        Violation: a promise was broken.
    """
    logging.disable(logging.CRITICAL)
    try:
        with seeded(seed) as chance:
            world = World(chance)
            prepare(world)
            world.run()
    finally:
        logging.disable(logging.NOTSET)
