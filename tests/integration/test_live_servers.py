"""What is open closes with its session, on every worker, whichever way it learns of that. On real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Scope

from evsession import CachePolicy, SessionManager, SessionMiddleware, SessionPolicy, StorePolicy
from evsession.config import OnLostLease
from evsession.control import Revocation
from evsession.events import Event, Renewed
from evsession.state import Snapshot
from evsession.stores.redis import RedisStore
from evsession.wire import Position
from tests.conftest import until
from tests.integration.apps import Browser, app_of, two_workers
from tests.integration.lines import echo, line, request, signed_in, silent, socket, ticking
from tests.lateness import Lateness
from tests.servers import NAMES, Proxy, Server, find_binaries

STALENESS = 0.5
QUICK = CachePolicy(max_staleness=timedelta(seconds=STALENESS))
PATIENCE = StorePolicy(
    command_timeout=timedelta(seconds=1),  # less, and a busy machine is an outage
    connect_timeout=timedelta(seconds=1),
    commit_timeout=timedelta(seconds=1),
    probe_every=timedelta(seconds=0.05),
    resubscribe_at_most=timedelta(seconds=0.05),
)

End = Callable[[SessionManager, Browser], Awaitable[Any]]


async def revoke(manager: SessionManager, browser: Browser) -> None:
    await manager.revoke(browser.session_id)


async def log_in(manager: SessionManager, browser: Browser) -> None:
    await browser.twin().visit(app_of(manager), lambda session: session.login("ann"))


async def rotate(manager: SessionManager, browser: Browser) -> None:
    await browser.twin().visit(app_of(manager), lambda session: session.rotate())


async def log_in_with_a_secret(manager: SessionManager, browser: Browser) -> None:
    """Sign in, and set what no message and no log entry shows."""
    await browser.twin().visit(app_of(manager), lambda session: session.login("ann") or session.update(token="t"))


async def expire(manager: SessionManager, browser: Browser) -> None:
    """Wait: two workers sweep."""


ENDS = [(revoke, "revoked"), (log_in, "replaced"), (rotate, "replaced"), (log_in_with_a_secret, "replaced")]


@dataclass
class Watch:
    """How many seconds a block took, and how much more than on an idle machine that may be."""

    took: float = 0.0
    margin: float = 0.3


@asynccontextmanager
async def stopwatch(server: Server) -> AsyncIterator[Watch]:
    """Time a block, and how late this event loop and the server are meanwhile."""
    loop, watch = asyncio.get_running_loop(), Watch()
    async with Lateness(server) as lateness:
        began = loop.time()
        yield watch
        watch.took = loop.time() - began
        watch.margin += lateness.seconds


def deafen(manager: SessionManager) -> None:
    """Have a worker miss every message of the feed, and every gap."""
    replica = manager.worker.replica
    replica.on_message = lambda shard, message: None  # type: ignore[method-assign]


def dull(manager: SessionManager) -> None:
    """Have a worker learn of commits by the log alone."""
    deafen(manager)
    manager.worker.replica.on_gap = lambda shard: None  # type: ignore[method-assign]


@pytest.mark.parametrize("spoil", [None, deafen, dull], ids=["message", "repair", "heartbeat"])
@pytest.mark.parametrize(("end", "reason"), ENDS)
async def test_another_workers_sockets_and_streams_close(
    server: Server, end: End, reason: str, spoil: Callable[[SessionManager], None] | None
) -> None:
    """By message at once; without any, within `max_staleness`. Nobody else's do."""
    async with two_workers(server.url, cache=QUICK) as (one, two):
        ann, joe = await signed_in(one), await signed_in(one, "joe")
        async with AsyncExitStack() as stack:
            mine = [await stack.enter_async_context(socket(two, ann, echo)) for _ in range(3)]
            theirs = await stack.enter_async_context(socket(two, joe, echo))
            stream = await stack.enter_async_context(request(two, ann, silent))
            await stream.say({"type": "http.request"})
            for each in (*mine, theirs, stream):
                await each.accepted()
            await until(lambda: two.stats().open == 5, "all are registered")
            if spoil is not None:
                spoil(two)
            async with stopwatch(server) as watch:
                await end(one, ann)
                for each in (*mine, stream):
                    await each.over()
            assert {each.last["reason"] for each in mine} == {reason}
            assert not stream.last["more_body"]
            assert watch.took < STALENESS + watch.margin
            await theirs.say("still here")
            await until(lambda: theirs.texts == ["still here"], "another user's socket is untouched")
            assert (two.stats().open, two.stats().closed, one.stats().closed) == (1, 4, 0)


async def test_sockets_close_while_all_subscriptions_are_killed_again_and_again(any_server: Server) -> None:
    """Each of 20, within the bound."""
    async with two_workers(any_server.url, cache=QUICK) as (one, two), AsyncExitStack() as stack:

        async def kill_for_ever() -> None:
            while True:
                await asyncio.to_thread(any_server.cli, "CLIENT", "KILL", "TYPE", "pubsub")
                await asyncio.sleep(0.02)

        killing = asyncio.create_task(kill_for_ever())
        try:
            for _ in range(20):
                ann = await signed_in(one)
                mine = await stack.enter_async_context(socket(two, ann, echo))
                await mine.accepted()
                async with stopwatch(any_server) as watch:
                    await revoke(one, ann)
                    await mine.over()
                assert watch.took < STALENESS + watch.margin
        finally:
            killing.cancel()
        assert (two.stats().open, two.stats().closed) == (0, 20)


async def test_an_expiry_closes_on_every_worker(server: Server) -> None:
    """A cached deadline is asked about; sockets of who is active elsewhere stay open."""
    policy = SessionPolicy(idle_timeout=timedelta(seconds=2))
    async with two_workers(server.url, cache=QUICK, policy=policy) as (one, two):
        ann, joe = await signed_in(one), await signed_in(one, "joe")
        async with socket(two, ann, echo) as mine, socket(two, joe, echo) as theirs:
            while not mine.is_over:
                await joe.visit(app_of(one))
                await asyncio.sleep(0.05)
            assert mine.last["reason"] == "idle"
            assert not theirs.is_over
            await theirs.say("still here")
            await until(lambda: theirs.texts == ["still here"], "an active user's socket is untouched")


async def append(manager: SessionManager, sid: str, *events: Event) -> None:
    """Append events as they are, whatever they mean."""
    worker = manager.worker
    for event in events:
        cached = await worker.replica.fill(sid)
        assert cached is not None

        def decide(_: Snapshot | None, event: Event = event) -> Event:
            return event

        await worker.committer.append(sid, cached.stored, decide, worker.stamp())


@pytest.mark.parametrize("spoil", [None, dull], ids=["message", "fill"])
async def test_a_renewal_closes_nothing(server: Server, spoil: Callable[[SessionManager], None] | None) -> None:
    """Not even when this worker only sees what came of it; a login after it does."""
    async with two_workers(server.url, cache=QUICK) as (one, two):
        ann = await signed_in(one)
        async with socket(two, ann, echo) as mine:
            await mine.accepted()
            if spoil is not None:
                spoil(two)
            renewed = [Renewed(secret="n" * 43, phase="issued"), Renewed(secret="n" * 43, phase="used")]
            await append(one, ann.session_id, *renewed)
            await two.fetch(ann.session_id)
            await mine.say("still here")
            await until(lambda: mine.texts == ["still here"], "it is open")
            await append(one, ann.session_id, Renewed(secret="o" * 43, phase="rotated"))
            await mine.over()
            assert mine.last["reason"] == "replaced"


async def test_a_body_that_arrives_after_the_end_never_reaches_its_handler(server: Server) -> None:
    """Another worker's logout cuts it in the middle; one that this worker has not heard of is found out at the end."""
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(await Request(scope, receive).body())
        await JSONResponse("done")(scope, receive, send)

    async with two_workers(server.url, cache=QUICK) as (one, two):
        for is_deaf in (False, True):
            ann = await signed_in(one)
            async with line(SessionMiddleware(app, two), ann.scope("/", method="POST")) as mine:
                await mine.say({"type": "http.request", "body": b"x", "more_body": True})
                await until(lambda: two.stats().open == 1, "the body is awaited")
                if is_deaf:
                    dull(two)
                await revoke(one, ann)
                if is_deaf:
                    await asyncio.sleep(STALENESS)
                    await mine.say({"type": "http.request", "body": b"y"})
                await mine.over()
            assert (seen, mine.sent[0]["status"]) == ([], 503)


async def test_a_register_with_nothing_cached_is_looked_after(server: Server) -> None:
    """Heartbeats go on for a shard of which only sockets are left, and every copy may be evicted."""
    cache = CachePolicy(max_staleness=timedelta(seconds=STALENESS), max_entries=1)
    async with two_workers(server.url, cache=cache) as (one, two):
        ann, joe = await signed_in(one), await signed_in(one, "joe")
        async with socket(two, ann, echo) as mine, socket(two, joe, echo) as theirs:
            await mine.accepted()
            await theirs.accepted()
            assert two.stats().entries == 1
            dull(two)
            await asyncio.sleep(2 * STALENESS)
            await revoke(one, ann)
            await mine.over()
            assert mine.last["reason"] == "revoked"
            await theirs.say("still here")
            await until(lambda: theirs.texts, "another user's socket is untouched")


def _note(told: list[tuple[str, str]], sid: str, cause: str) -> None:
    told.append((sid, cause))


async def test_everybody_is_told_of_every_end(server: Server) -> None:
    """Once on each worker, whether it knew the session or not."""
    told: dict[int, list[tuple[str, str]]] = {0: [], 1: []}
    async with two_workers(server.url, cache=QUICK) as workers:
        for number, manager in enumerate(workers):
            manager.on_ended(partial(_note, told[number]))
        one, two = workers
        ann, joe = await signed_in(one), await signed_in(one, "joe")
        sid = joe.session_id
        async with socket(two, ann, echo) as mine:
            await mine.accepted()
            await revoke(one, ann)
            await mine.over()
        await joe.visit(app_of(two), lambda session: session.logout())
        expected = [(ann.session_id, "revoked"), (sid, "logout")]
        await until(lambda: told == {0: expected, 1: expected}, "both workers have told of both")


# ── the control log ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_revocation_by_name_closes_and_is_settled(server: Server) -> None:
    """`settle` returns once the closes are on their way."""
    async with two_workers(server.url, cache=QUICK) as (one, two):
        ann, joe = await signed_in(one), await signed_in(one, "joe")
        async with AsyncExitStack() as stack:
            mine = [await stack.enter_async_context(socket(two, ann, echo)) for _ in range(10)]
            theirs = await stack.enter_async_context(socket(two, joe, echo))
            for each in (*mine, theirs):
                await each.accepted()
            later = Position((9_000_000_000_000, 0), bytes(16))
            two.worker.cache.control.apply(Revocation(later, "user:ann"))
            await two.worker.connections.settle()
            assert {each.last.get("reason") for each in mine} == {"revoked"}
            assert two.stats().open == 1
            for each in mine:
                await each.over()
            assert not theirs.is_over


# ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def behind_a_proxy(
    server: Server, on_lost_lease: OnLostLease, grace: float
) -> AsyncIterator[tuple[SessionManager, SessionManager, Proxy]]:
    """Start two workers, the second behind a proxy."""
    cache = CachePolicy(
        max_staleness=timedelta(seconds=STALENESS), on_lost_lease=on_lost_lease, lease_grace=timedelta(seconds=grace)
    )
    make = partial(SessionManager.from_url, secret_key="k" * 32, namespace="shop", cache=cache, patience=PATIENCE)
    async with Proxy(server.url) as proxy, make(server.url) as one, make(proxy.url) as two:
        yield one, two, proxy


def without_lease(manager: SessionManager) -> bool:
    """Tell whether a worker can prove nothing any more."""
    return not manager.worker.cache.may_serve(manager.worker.store.shards[0], manager.clock())


async def test_a_worker_that_can_prove_nothing_holds_back(server: Server) -> None:
    """Neither way passes anything; once it has proved itself, it goes on where it was, or closes what was revoked."""
    async with behind_a_proxy(server, "close", 30) as (one, two, proxy):
        ann, joe = await signed_in(one), await signed_in(one, "joe")
        async with (
            socket(two, ann, echo) as mine,
            socket(two, joe, echo) as theirs,
            request(two, joe, ticking()) as ticks,
        ):
            await ticks.say({"type": "http.request"})
            await until(lambda: len(ticks.sent) > 2, "it ticks")
            await mine.accepted()
            await theirs.accepted()
            proxy.pause()
            await revoke(one, ann)
            await until(lambda: without_lease(two), "the lease is over")
            count = len(ticks.sent)
            await mine.say("hello")
            await theirs.say("hello")
            await asyncio.sleep(STALENESS)
            assert mine.texts == theirs.texts == []
            assert len(ticks.sent) <= count + 1
            proxy.resume()
            await mine.over()
            assert (mine.texts, mine.last["reason"]) == ([], "revoked")
            await until(lambda: theirs.texts == ["hello"], "it goes on")
            await until(lambda: len(ticks.sent) > count + 3, "it ticks again")


async def test_a_worker_that_stays_without_a_lease_closes(server: Server) -> None:
    """After the grace, so that clients try another worker; it is no logout."""
    told: list[str] = []
    async with behind_a_proxy(server, "close", 0.3) as (one, two, proxy):
        two.on_ended(lambda sid, cause: told.append(cause))
        ann = await signed_in(one)
        async with socket(two, ann, echo) as mine, request(two, ann, silent) as stream:
            await stream.say({"type": "http.request"})
            await until(lambda: two.stats().open == 2, "both are registered")
            proxy.pause()
            await mine.over()
            await stream.over()
            assert mine.last == {"type": "websocket.close", "code": 1013, "reason": "unproven"}
            assert not stream.last["more_body"]
        proxy.resume()
        assert (await ann.visit(app_of(one))).status == 200
    assert told == []


async def test_a_body_that_arrives_while_nothing_can_be_proved_is_refused(server: Server) -> None:
    """Requests are not held back: this one is answered as one that begins now."""
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(await Request(scope, receive).body())
        await JSONResponse("done")(scope, receive, send)

    async with behind_a_proxy(server, "keep", 30) as (one, two, proxy):
        ann = await signed_in(one)
        async with line(SessionMiddleware(app, two), ann.scope("/", method="POST")) as mine:
            await until(lambda: two.stats().open == 1, "the body is awaited")
            proxy.pause()
            await revoke(one, ann)
            await until(lambda: without_lease(two), "the lease is over")
            await mine.say({"type": "http.request", "body": b"x"})
            await mine.over()
            assert (seen, mine.sent[0]["status"]) == ([], 503)
        proxy.resume()


async def test_a_worker_may_keep_what_it_cannot_prove(server: Server) -> None:
    """Held back for as long as it takes."""
    async with behind_a_proxy(server, "keep", 0) as (one, two, proxy):
        ann = await signed_in(one)
        async with socket(two, ann, echo) as mine:
            await mine.accepted()
            proxy.pause()
            await until(lambda: without_lease(two), "the lease is over")
            await mine.say("hello")
            await asyncio.sleep(2 * STALENESS)
            assert (mine.texts, mine.is_over) == ([], False)
            proxy.resume()
            await until(lambda: mine.texts == ["hello"], "it goes on")


async def test_a_history_that_lost_a_session_closes_what_it_held() -> None:
    """A server that comes back empty holds nobody's session; who is open must be asked about, and is closed."""
    with Server.start(find_binaries()[NAMES[0]]) as server:
        make = partial(SessionManager.from_url, secret_key="k" * 32, namespace="shop", cache=QUICK, patience=PATIENCE)
        async with make(server.url) as one, make(server.url) as two:
            ann = await signed_in(one)
            async with socket(two, ann, echo) as mine:
                await mine.accepted()
                await asyncio.to_thread(server.restart, empty=True)
                await mine.over()
                assert mine.last["code"] == 4401


async def test_a_manager_that_stops_leaves_nothing_open(server: Server) -> None:
    """No handler waits for ever for a worker that is gone."""
    async with two_workers(server.url, cache=QUICK) as (one, two):
        ann = await signed_in(one)
        async with socket(two, ann, echo) as mine:
            await mine.accepted()
            await two.stop()
            await mine.over()
            assert (mine.last["code"], mine.last["reason"]) == (1013, "restarted")


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────────


def is_in_step(manager: SessionManager) -> bool:
    """Tell whether a worker misses nothing that it knows of."""
    return not any(view.gap or view.is_waiting for view in manager.worker.cache.views.values())


async def test_open_connections_cost_no_commands(server: Server) -> None:
    """Of a session that is cached: neither to open, nor to talk, nor to be closed. What a sweep costs only adds."""
    costs = []
    quiet = CachePolicy(max_staleness=timedelta(minutes=1))
    async with two_workers(server.url, cache=quiet) as (one, two):
        store = two.worker.store
        assert isinstance(store, RedisStore)
        for _ in range(5):
            ann = await signed_in(one)
            assert (await ann.visit(app_of(two))).status == 200
            await until(lambda: is_in_step(two), "it is in step")
            calls = store.calls
            async with socket(two, ann, echo) as mine:
                for _ in range(20):
                    await mine.say("hello")
                await until(lambda: len(mine.texts) == 20, "it echoes")
                await ann.twin().visit(app_of(one), lambda session: session.logout())
                await mine.over()
            costs.append(store.calls - calls)
    assert min(costs) == 0


def test_what_ends_elsewhere_is_told_of_under_plain_asyncio(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """As uvicorn runs it: nothing has told anyio of the event loop when the feed's message comes in."""
    told: list[str] = []

    async def serve() -> None:
        async with two_workers(server.url) as (one, two):
            two.on_ended(lambda sid, cause: told.append(sid))
            for _ in range(5):
                created = await one.create()
                await one.revoke(created.id, timeout=timedelta(0))
                await until(lambda sid=created.id: sid in told, "the other worker to tell")  # type: ignore[misc]

    asyncio.run(serve())
    assert len(told) == 5
    assert not [record for record in caplog.records if record.name == "asyncio"], "the feed's connection broke"
