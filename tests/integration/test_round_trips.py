"""What a request costs, counted exactly on a real server: commands, round trips, events, and what stays behind.

What runs in the background only ever adds, so the least of a few requests is what one costs by itself.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

from starlette.applications import Starlette

from evsession import CachePolicy, Session, SessionManager
from evsession.stores.redis import RedisStore
from tests.conftest import until
from tests.integration.apps import KEY, Browser, app_of, setting
from tests.servers import Proxy, Server

TRIES = 5
REQUESTS = 50
QUIET = CachePolicy(max_staleness=timedelta(minutes=1))
"""Leaves of the heartbeats, one of which runs every third of it, none within these tests."""

Step = Callable[[], Awaitable[object]]


@dataclass
class Worker:
    """A manager whose every byte to the server goes through a proxy of its own."""

    manager: SessionManager
    app: Starlette
    proxy: Proxy

    def counted(self) -> tuple[int, int]:
        """Return the commands and the writes on the wire so far."""
        assert isinstance(self.manager.worker.store, RedisStore)
        return self.manager.worker.store.calls, self.proxy.client_writes

    async def cost(self, step: Step, *before_each: Step) -> tuple[int, int]:
        """Return how many commands and how many writes on the wire a step takes, after other steps not counted."""
        costs = []
        for _ in range(TRIES):
            for other in before_each:
                await other()
            calls, writes = self.counted()
            await step()
            costs.append((self.counted()[0] - calls, self.counted()[1] - writes))
        return min(commands for commands, _ in costs), min(trips for _, trips in costs)


@asynccontextmanager
async def worker_on(server: Server, **options: Any) -> AsyncIterator[Worker]:
    """Start a worker on a server, and return once it follows the feed and misses nothing."""
    async with Proxy(server.url) as proxy:
        manager = SessionManager.from_url(proxy.url, secret_key=KEY, namespace="shop", cache=QUIET, **options)

        async def is_in_step() -> bool:
            await manager.create()
            views = manager.worker.cache.views.values()
            return manager.stats().cache.messages > 0 and not any(view.gap or view.is_waiting for view in views)

        async with manager:
            await until(is_in_step, "the feed brings what was created")
            yield Worker(manager, app_of(manager), proxy)


def alice() -> Callable[[Session], None]:
    """Return a handler that signs alice in and sets three keys."""

    def act(session: Session) -> None:
        session.login("alice")
        session.update(theme="dark", language="en", cart=[])

    return act


async def test_a_cached_read_sends_nothing(server: Server) -> None:
    """What this worker wrote or read before is served without any I/O."""
    browser = Browser()
    async with worker_on(server) as worker:
        await browser.visit(worker.app, setting(name="alice"))
        fills = worker.manager.stats().counts.fills
        assert await worker.cost(lambda: browser.visit(worker.app, lambda session: session["name"])) == (0, 0)
        assert worker.manager.stats().counts.fills == fills


async def test_a_cold_read_is_one_round_trip(server: Server) -> None:
    """A session that another worker began costs one command, once."""
    browser = Browser()
    async with worker_on(server) as one, worker_on(server) as two:

        async def begin() -> None:
            browser.token = None
            await browser.visit(one.app, setting(name="alice"))

        async def read() -> None:
            assert (await browser.visit(two.app, lambda session: session["name"])).json == "alice"

        assert await two.cost(read, begin) == (1, 1)
        assert await two.cost(read) == (0, 0)


async def test_a_write_is_one_round_trip(server: Server) -> None:
    """One command for event, snapshot, index and message, also when the data is nested."""
    browser, numbers = Browser(), count()
    async with worker_on(server) as worker:
        await browser.visit(worker.app, alice())
        assert await worker.cost(lambda: browser.visit(worker.app, setting(number=next(numbers)))) == (1, 1)
        append = worker.cost(lambda: browser.visit(worker.app, lambda session: session["cart"].append(1)))
        assert await append == (1, 1)


async def test_what_a_worker_wrote_it_knows_when_it_comes_back(server: Server) -> None:
    """Cookie and feed message: neither is checked anew, and the next request is served from memory at once."""
    async with worker_on(server) as worker:
        manager, app, browser = worker.manager, worker.app, Browser()
        before = len(manager.worker.cache._sent)  # of what was written before the feed was there
        for number in range(3):
            await browser.visit(app, setting(n=number))
        await until(lambda: len(manager.worker.cache._sent) == before, "own messages")
        memo, stats = dict(manager._memo), manager.stats()
        await browser.visit(app)
        cached = manager.worker.cache.newest(browser.session_id)
        assert cached is not None
        assert (manager._memo, manager.stats().counts.fills, stats.cache.forged) == (memo, stats.counts.fills, 0)
        assert cached.touch_at > manager.clock()


async def test_a_value_that_stays_is_no_write(server: Server) -> None:
    """To set what is there already sends nothing."""
    browser = Browser()
    async with worker_on(server) as worker:
        await browser.visit(worker.app, setting(name="alice"))
        assert await worker.cost(lambda: browser.visit(worker.app, setting(name="alice"))) == (0, 0)


async def test_a_login_with_all_that_it_sets_is_one_round_trip(server: Server) -> None:
    """Together with its entrance into the user's index; so is the beginning of a session, and its end."""
    browser = Browser()
    async with worker_on(server) as worker:

        async def forget() -> None:
            browser.token = None

        async def begin() -> None:
            await browser.visit(worker.app, setting(theme="dark"))

        async def log_in() -> None:
            await browser.visit(worker.app, alice())

        assert await worker.cost(begin, forget) == (1, 1)
        assert await worker.cost(log_in, forget, begin) == (2, 1)
        assert await worker.cost(lambda: browser.visit(worker.app, Session.logout), forget, log_in) == (1, 1)


async def test_every_change_is_one_event(server: Server) -> None:
    """However many keys a request changes."""
    browser = Browser()
    async with worker_on(server) as worker:
        await browser.visit(worker.app, setting(theme="dark"))
        await browser.visit(worker.app, alice())
        await browser.visit(worker.app, setting(a=1, b=2, c=3))
        await browser.visit(worker.app, lambda session: session["theme"])
        events = await worker.manager.audit.history(browser.session_id)
        assert [event.type for event in events] == ["created", "authenticated", "updated"]


async def test_who_has_no_session_sends_nothing(server: Server) -> None:
    """Nor does a forged cookie, whoever reads the session."""
    async with worker_on(server) as worker:
        forged = f"00{'A' * 22}.{'A' * 43}.{'A' * 22}"
        for browser in (Browser(), Browser(forged)):
            read = partial(browser.visit, worker.app, lambda session: session.get("name"))
            assert await worker.cost(read) == (0, 0)


async def test_a_request_leaves_no_cycle(server: Server) -> None:
    """Nothing waits for the garbage collector: it would run more often, and the cookie would stay in memory."""
    browser, numbers = Browser(), count()
    async with worker_on(server) as worker:
        await browser.visit(worker.app, alice())
        gc.collect()
        gc.disable()
        try:
            for _ in range(REQUESTS):
                await browser.visit(worker.app, lambda session: session["theme"])
                await browser.visit(worker.app, setting(number=next(numbers)))
            assert gc.collect() < REQUESTS
        finally:
            gc.enable()
