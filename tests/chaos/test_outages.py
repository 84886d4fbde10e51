"""What clients see while the server is killed, hung, emptied, out of memory or away, and how all comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from evsession import CachePolicy, SessionManager, SessionMiddleware
from tests.chaos.apps import BRISK, HASTY, LONGEST, Answer, Browser, RunningClock, app_of, manager_of
from tests.chaos.conftest import tasks_of_evsession
from tests.chaos.logs import snapshot_and_log
from tests.chaos.traffic import Traffic
from tests.conftest import until
from tests.lateness import Lateness
from tests.servers import NAMES, Proxy, Server, find_binaries

MARGIN = 1.0
"""Seconds that a busy machine may add to what the time-outs allow, beside what this event loop is seen to be late."""

TURNS = 20
"""Turns of the event loop within which all is done that waits for nothing but its turn."""

LEASE = timedelta(minutes=1)
"""Longer than any of these tests, whose workers are told when it is over."""


@dataclass(frozen=True)
class Fault:
    """One way to harm a server, what of it the clients must notice, and what they must not."""

    name: str
    strike: Callable[[Server, Traffic], Awaitable[None]]
    is_refused: bool
    keeps_data: bool


async def _kill_and_restart_empty(server: Server, traffic: Traffic) -> None:
    server.kill()
    await traffic.is_refused()
    server.restart(empty=True)


async def _kill_and_restart_with_data(server: Server, traffic: Traffic) -> None:
    server.kill()
    await traffic.is_refused()
    server.restart(empty=False)


async def _restart_before_anybody_notices(server: Server, traffic: Traffic) -> None:
    server.restart(empty=True)


async def _pause_and_resume(server: Server, traffic: Traffic) -> None:
    server.pause()
    await traffic.is_refused()
    server.resume()


async def _flush_all(server: Server, traffic: Traffic) -> None:
    server.cli("FLUSHALL")


async def _flush_scripts(server: Server, traffic: Traffic) -> None:
    server.cli("SCRIPT", "FLUSH")


async def _kill_subscriptions(server: Server, traffic: Traffic) -> None:
    assert server.cli("CLIENT", "KILL", "TYPE", "pubsub") > 0


async def _kill_commands(server: Server, traffic: Traffic) -> None:
    assert server.cli("CLIENT", "KILL", "TYPE", "normal") > 0


async def _fill_memory(server: Server, traffic: Traffic) -> None:
    server.cli("CONFIG", "SET", "maxmemory", "1mb")
    await traffic.is_refused()
    server.cli("CONFIG", "SET", "maxmemory", "0")


FAULTS = [
    Fault("killed and restarted empty", _kill_and_restart_empty, is_refused=True, keeps_data=False),
    Fault("killed and restarted with its AOF", _kill_and_restart_with_data, is_refused=True, keeps_data=True),
    Fault("restarted empty in a moment", _restart_before_anybody_notices, is_refused=False, keeps_data=False),
    Fault("hung and resumed", _pause_and_resume, is_refused=True, keeps_data=True),
    Fault("FLUSHALL", _flush_all, is_refused=False, keeps_data=False),
    Fault("SCRIPT FLUSH", _flush_scripts, is_refused=False, keeps_data=True),
    Fault("CLIENT KILL TYPE pubsub", _kill_subscriptions, is_refused=False, keeps_data=True),
    Fault("CLIENT KILL TYPE normal", _kill_commands, is_refused=False, keeps_data=True),
    Fault("maxmemory reached", _fill_memory, is_refused=True, keeps_data=True),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_clients_see_a_503_and_then_their_sessions_again(fault: Fault) -> None:
    """Each fault: 503 with Retry-After or nothing; no 500, nobody else's session, no hang, and no restart needed."""
    config = {"appendonly": "yes", "appendfsync": "always"}
    with Server.start(find_binaries()[NAMES[0]], config=config) as server:
        async with manager_of(server.url, patience=HASTY) as manager, Traffic(app_of(manager)) as traffic:
            logins = sum(visitor.logins for visitor in traffic.visitors)
            await fault.strike(server, traffic)
            await traffic.flows()
            assert traffic.problems == []
            assert traffic.longest < LONGEST + MARGIN
            assert (sum(visitor.logins for visitor in traffic.visitors) == logins) is fault.keeps_data
            if fault.is_refused:
                assert traffic.statuses[503] >= len(traffic.visitors)
            if fault.keeps_data:
                assert traffic.lost == 0
            await until(_is_ready(manager), "the worker is ready")
            await until(lambda: _feed_is_heard(manager), "the feed brings messages again")
        await until(lambda: not tasks_of_evsession(), "no task is left")


def _feed_is_heard(manager: SessionManager) -> bool:
    view = manager.worker.cache.views["00"]
    return view.position is not None and not view.gap and not view.is_waiting


@pytest.mark.parametrize("name", NAMES)
async def test_nothing_is_half_written_when_memory_runs_out(name: str) -> None:
    """On every server a refused commit leaves snapshot and log as they were, and what was answered stands in both."""
    if name not in find_binaries():
        pytest.skip(f"{name} is not on this machine")
    with Server.start(find_binaries()[name]) as server:
        async with manager_of(server.url) as manager:
            async with Traffic(app_of(manager)) as traffic:
                for _ in range(2):
                    await _fill_memory(server, traffic)
                    await traffic.flows()
                assert traffic.problems == []
                assert traffic.lost == 0
            for visitor in traffic.visitors:
                await snapshot_and_log(manager, str(visitor.browser.cookie)[:24])


@pytest.mark.parametrize("fault", [_kill_and_restart_empty, _flush_all], ids=["restarted", "FLUSHALL"])
async def test_after_a_restart_with_nothing_the_feed_follows_the_new_channel(
    own_server: Server, fault: Callable[[Server, Traffic], Awaitable[None]]
) -> None:
    """The incarnation changes, the old session is gone, and two workers see each other's writes within moments."""
    options = {"patience": BRISK}
    async with manager_of(own_server.url, **options) as one, manager_of(own_server.url, **options) as other:
        old = Browser(app_of(one))
        await old.get("/login/ann")
        before = one.worker.cache.views["00"].incarnation
        async with Traffic(app_of(one), 2) as traffic:
            await fault(own_server, traffic)
            await traffic.flows()
        view = one.worker.cache.views["00"]
        await until(lambda: view.incarnation not in (None, before), "the log's incarnation is another")
        await until(_is_gone(old), "the old session is gone")
        ann = Browser(app_of(one))
        await ann.get("/login/ann")
        away = Browser(app_of(other), ann.cookie)
        await until(_is_from_memory(away), "the other worker has it in memory")
        folded = other.worker.cache.stats.folded
        without_fence = Browser(app_of(other), str(ann.cookie).partition("~")[0])
        written = 0

        async def is_folded() -> bool:
            nonlocal written
            is_written = (await ann.get(f"/set/n/{written + 1}")).status == 200
            written += is_written
            return is_written and other.worker.cache.stats.folded > folded

        await until(is_folded, "a write comes by the feed")
        await until(_holds(without_fence, {"me": "ann", "n": written}), "the other worker has them all")


def _is_gone(browser: Browser) -> Callable[[], Awaitable[bool]]:
    async def is_gone() -> bool:
        answer = await browser.get("/read")
        return answer.status == 200 and answer.held == {}

    return is_gone


def _is_from_memory(browser: Browser) -> Callable[[], Awaitable[bool]]:
    async def is_from_memory() -> bool:
        answer = await browser.get("/read")
        return answer.status == 200 and answer.source == "memory" and answer.held != {}

    return is_from_memory


def _holds(browser: Browser, expected: dict[str, object]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        answer = await browser.get("/read")
        return answer.status == 200 and answer.held == expected

    return holds


async def test_a_log_entry_that_somebody_else_wrote_stops_nothing(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A repair passes over it with an alarm; reads, writes, history and heartbeats go on."""
    async with manager_of(own_server.url) as manager:
        async with Traffic(app_of(manager), 2) as traffic:
            own_server.cli("XADD", "{chaos:00}:log", "*", "foo", "bar")
            await traffic.flows()
            own_server.cli("XADD", "{chaos:00}:log", "*", "s", b"\xff", "n", "one")
            own_server.cli("CLIENT", "KILL", "TYPE", "pubsub")
            await traffic.flows()
            assert traffic.problems == []
        await until(lambda: "is none of ours" in caplog.text, "the alarm")
        await until(_is_ready(manager), "the worker is ready")
        for visitor in traffic.visitors:
            await snapshot_and_log(manager, str(visitor.browser.cookie)[:24])


# ── what the policies say ────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _signed_in(server: Server, **options: object) -> AsyncIterator[tuple[SessionManager, Browser]]:
    settings: dict[str, object] = {
        "patience": BRISK,
        "cache": CachePolicy(max_staleness=LEASE),
        "clock": RunningClock(),
    }
    async with manager_of(server.url, **(settings | options)) as manager:
        browser = Browser(app_of(manager))
        await browser.get("/login/ann")
        assert (await browser.get("/read")).held == {"me": "ann"}
        yield manager, browser


def _let_pass(manager: SessionManager, by: timedelta) -> None:
    """Let time pass for a worker that `_signed_in` has given."""
    assert isinstance(manager.clock, RunningClock)
    manager.clock.advance(by)


async def test_refuse_is_the_default(own_server: Server) -> None:
    """Within the lease reads are served from memory; past it 503 with Retry-After; without a cookie all goes on."""
    async with _signed_in(own_server) as (manager, browser):
        own_server.kill()
        assert (await browser.get("/read")).source == "memory"
        _let_pass(manager, LEASE)
        answer = await browser.get("/read")
        assert (answer.status, answer.headers[b"retry-after"]) == (503, b"1")
        assert b"set-cookie" not in answer.headers
        assert (await Browser(browser.app).get("/read")).status == 200


async def test_stale_serves_safe_methods_for_a_while_longer(own_server: Server) -> None:
    """Past the lease a marked copy is served, for `stale_for` and not longer; writes are refused all the time."""
    cache = CachePolicy(max_staleness=LEASE, on_outage="stale", stale_for=LEASE)
    async with _signed_in(own_server, cache=cache) as (manager, browser):
        own_server.kill()
        _let_pass(manager, LEASE)
        answer = await browser.get("/read")
        assert (answer.status, answer.source, answer.held) == (200, "stale", {"me": "ann"})
        assert (await browser.get("/set/n/1")).status == 503
        _let_pass(manager, LEASE)
        assert (await browser.get("/read")).status == 503
        own_server.restart(empty=True)
        await until(_is_gone(browser), "the server is back, and the truth with it")


async def test_anonymous_goes_on_without_a_session_and_leaves_the_cookie_alone(own_server: Server) -> None:
    """Past the lease a signed-in visitor is nobody; no cookie is set or cleared, so that they are back afterwards."""
    config = {"appendonly": "yes", "appendfsync": "always"}
    cache = CachePolicy(max_staleness=LEASE, on_outage="anonymous")
    with Server.start(find_binaries()[NAMES[0]], config=config) as server:
        async with _signed_in(server, cache=cache) as (manager, browser):
            server.kill()
            _let_pass(manager, LEASE)
            answer = await browser.get("/read")
            assert (answer.status, answer.held, answer.headers.get(b"set-cookie")) == (200, {}, None)
            assert (await browser.get("/set/n/1")).status == 503

            async def meanwhile_it_is_back(scope: Scope, receive: Receive, send: Send) -> None:
                server.restart(empty=False)
                await until(_is_ready(manager), "the server is back")
                scope["session"]["n"] = 1
                await send({"type": "http.response.start", "status": 200})

            answer = await Browser(SessionMiddleware(meanwhile_it_is_back, manager), browser.cookie).get("/")
            assert (answer.status, answer.headers.get(b"set-cookie")) == (503, None)
            await until(_holds(browser, {"me": "ann"}), "the visitor is known again")


def _is_ready(manager: SessionManager) -> Callable[[], Awaitable[bool]]:
    async def is_ready() -> bool:
        return (await manager.health()).ready

    return is_ready


async def test_a_write_during_an_outage_is_refused_named_and_counted(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets 503 and no cookie; the log names the key and not the value; the counter moves."""
    async with _signed_in(own_server) as (manager, browser):
        own_server.kill()
        answer = await browser.get("/set/colour/%22canary%22")
        assert (answer.status, answer.headers[b"retry-after"]) == (503, b"1")
        assert b"set-cookie" not in answer.headers
        assert manager.stats().counts.dropped_changes == 1
        assert 'dropped changes of keys ["colour"]' in caplog.text
        assert "canary" not in caplog.text


async def test_many_writers_of_one_session_do_not_wait_for_each_other_in_an_outage(own_server: Server) -> None:
    """Twenty writers on a hung server are all refused within the time-outs of one."""
    async with _signed_in(own_server) as (_, ann), manager_of(own_server.url, patience=HASTY) as manager:
        browser = Browser(app_of(manager), ann.cookie)
        await until(_holds(browser, {"me": "ann"}), "the worker knows her")
        own_server.pause()
        async with Lateness() as lateness:
            began = time.monotonic()
            answers = await asyncio.gather(*(browser.get(f"/set/key{number}/1") for number in range(20)))
            assert time.monotonic() - began < LONGEST + MARGIN + lateness.seconds
        assert [answer.status for answer in answers] == [503] * 20
        own_server.resume()


async def test_an_open_breaker_costs_a_request_no_waiting(own_server: Server) -> None:
    """A request to a server that never answers is answered without waiting, and opens no connection of its own."""
    options = {"clock": RunningClock(), "cache": CachePolicy(max_staleness=LEASE), "patience": HASTY}
    async with (
        _signed_in(own_server) as (_, ann),
        Proxy(own_server.url) as proxy,
        manager_of(proxy.url, **options) as manager,
    ):
        browser = Browser(app_of(manager), ann.cookie)
        await until(_holds(browser, {"me": "ann"}), "the worker knows her")
        proxy.pause()
        proxy.cut()
        _let_pass(manager, LEASE)
        for _ in range(2):  # of the old connection, and of a new one
            assert (await browser.get("/read")).status == 503
        attempts, began = proxy.connections, time.monotonic()
        while time.monotonic() - began < 1.0:
            assert (await _at_once(browser.get("/read"))).status == 503
        seconds = time.monotonic() - began
        # Two connections, one for commands and one for the feed, each probed at most once in `probe_every`, which is
        # also the longest back-off of the feed, and of which half may be drawn at random.
        assert proxy.connections - attempts <= 2 + seconds / 0.1 + seconds / 0.05


async def _at_once(request: Coroutine[Any, Any, Answer]) -> Answer:
    """Return what a request is answered that waits for no timer and for nobody else: within turns of the event loop."""
    task = asyncio.create_task(request)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert task.done(), "the request waits"
    return task.result()


async def test_a_server_that_is_away_at_start_is_no_reason_not_to_start(own_server: Server) -> None:
    """The application starts, says that it is not ready, refuses those with a cookie, and is ready later."""
    async with manager_of(own_server.url) as manager:
        ann = Browser(app_of(manager))
        await ann.get("/login/ann")
    own_server.kill()
    began = time.monotonic()
    async with Lateness() as lateness, manager_of(own_server.url) as manager:
        assert time.monotonic() - began < LONGEST + MARGIN + lateness.seconds
        health = await manager.health()
        assert not health.ready
        assert "unavailable" in health.problems[0]
        assert (await Browser(app_of(manager), ann.cookie).get("/read")).status == 503
        assert (await Browser(app_of(manager)).get("/read")).status == 200
        own_server.restart(empty=True)

        async def is_ready() -> bool:
            return (await manager.health()).ready

        await until(is_ready, "the worker is ready")
        assert (await Browser(app_of(manager)).get("/login/bob")).status == 200


async def test_a_hung_server_at_start_delays_it_by_one_time_out(own_server: Server) -> None:
    """An application starts although its server accepts connections and never answers; it is ready soon after."""
    own_server.pause()
    began = time.monotonic()
    async with Lateness() as lateness, manager_of(own_server.url, patience=HASTY) as manager:
        assert time.monotonic() - began < LONGEST + MARGIN + lateness.seconds
        own_server.resume()

        async def is_ready() -> bool:
            return (await manager.health()).ready

        await until(is_ready, "the worker is ready")
