"""Twenty thousand strangers write at once, and those who are signed in do not notice."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections import Counter
from datetime import timedelta

import pytest

from evsession import CachePolicy, SessionManager, SessionPolicy, StorePolicy
from tests.chaos.apps import STALENESS, Browser, app_of, manager_of
from tests.chaos.traffic import Traffic
from tests.servers import Server

STRANGERS = 20_000
"""Most of them are refused: there is a cap on what has no user."""

WRITERS = int(os.environ.get("EVSESSION_WRITERS", "4000"))
"""First writes that nothing refuses; 20,000 in `make bench`."""

AT_ONCE = 100


async def _flood(manager: SessionManager, number: int) -> tuple[Counter[int], list[bytes | None]]:
    """Let strangers write for the first time, many at once; return the statuses, and Retry-After of the refused."""
    statuses: Counter[int] = Counter()
    waits: list[bytes | None] = []
    left = iter(range(number))
    app = app_of(manager)

    async def strangers() -> None:
        for stranger in left:
            answer = await Browser(app).get(f"/set/cart/{stranger}")
            statuses[answer.status] += 1
            if answer.status == 503:
                waits.append(answer.headers.get(b"retry-after"))
            await asyncio.sleep(0)

    await asyncio.gather(*(strangers() for _ in range(AT_ONCE)))
    return statuses, waits


async def test_an_anonymous_flood_is_capped_and_signed_in_users_are_served(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the cap 503 with Retry-After; users are served all the time; Redis grows by the cap and no more."""
    caplog.set_level(logging.ERROR, "evsession.request")  # twenty thousand lines would be kept here
    relaxed = {"patience": StorePolicy(), "cache": CachePolicy()}  # of a loop that is flooded no quick answers are due
    async with manager_of(own_server.url, **relaxed) as manager, Traffic(app_of(manager)) as traffic:
        began = manager.clock()
        before = traffic.statuses[200]
        statuses, waits = await _flood(manager, STRANGERS)
        seconds = manager.clock() - began
        assert set(statuses) == {200, 503}
        assert set(waits) == {b"1"}
        assert statuses[200] <= manager.policy.anonymous_per_second * (seconds + 1) + 1
        assert traffic.problems == []
        assert traffic.statuses[503] == 0
        assert traffic.statuses[200] - before > 50
        assert own_server.cli("ZCARD", "{chaos:00}:exp") <= statuses[200] + len(traffic.visitors)
        assert (await Browser(app_of(manager)).get("/login/zoe")).status == 200


async def test_memory_levels_off_in_a_flood(own_server: Server) -> None:
    """Even without the cap a worker's memory has its bound: what comes after the first tenth costs no more."""
    policy = SessionPolicy(anonymous_per_second=1_000_000)
    cache = CachePolicy(max_staleness=STALENESS, max_bytes=500_000)
    async with manager_of(own_server.url, policy=policy, cache=cache, patience=StorePolicy()) as manager:
        found = []
        for _ in range(10):
            statuses, _ = await _flood(manager, WRITERS // 10)
            assert statuses == {200: WRITERS // 10}
            gc.collect()
            found.append(sys.getallocatedblocks())
        stats = manager.stats()
        print(f"\n{stats.entries} entries, {stats.bytes} bytes; allocated blocks {found}")
        assert stats.cache.evicted > 0
        assert stats.bytes <= 500_000
        assert stats.entries < 300
        assert found[-1] - found[0] < WRITERS / 10  # not one block for ten of them


async def test_who_never_writes_costs_nothing(own_server: Server) -> None:
    """A thousand strangers that only read send no command to the server and leave nothing in the cache."""
    cache = CachePolicy(max_staleness=timedelta(seconds=30))
    async with manager_of(own_server.url, cache=cache) as manager:
        app, costs = app_of(manager), []
        for _ in range(10):
            calls = manager.worker.store.calls  # type: ignore[attr-defined]
            for _ in range(100):
                assert (await Browser(app).get("/read")).status == 200
            costs.append(manager.worker.store.calls - calls)  # type: ignore[attr-defined]
        assert min(costs) == 0  # what a sweep costs meanwhile only adds
        assert manager.stats().entries == 0
