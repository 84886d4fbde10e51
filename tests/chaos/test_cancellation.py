"""Requests cancelled at random points, with everything coalesced: nobody gets another's reply, nothing is left."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from functools import partial

from evsession import CachePolicy, SessionManager
from evsession.stores.redis.connection import Connection
from tests.chaos.apps import Browser, app_of, manager_of
from tests.chaos.conftest import tasks_of_evsession
from tests.chaos.logs import snapshot_and_log
from tests.conftest import until
from tests.servers import Server

VISITORS = 50
CANCELLATIONS = 1_000


class Impatient:
    """A visitor whose requests are cut off at random moments; its session names its owner."""

    def __init__(self, manager: SessionManager, name: str, cookie: str) -> None:
        self.manager = manager
        self.name = name
        self.cookie = cookie
        self.cancelled = 0
        self.answered = 0
        self.problems: list[str] = []

    async def visit(self, seed: int) -> None:
        """Send one request and give up after a while, often before it is answered."""
        chance = random.Random(seed)
        path = chance.choice(["/read", "/read", f"/set/{chance.choice('abc')}/{seed}"])
        request = asyncio.create_task(self._ask(path))
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.004)
        if request.cancel():
            self.cancelled += 1
        await asyncio.gather(request, return_exceptions=True)
        if not request.cancelled() and (error := request.exception()) is not None:
            self.problems.append(repr(error))

    async def _ask(self, path: str) -> None:
        answer = await Browser(app_of(self.manager), self.cookie).get(path)
        self.answered += 1
        if answer.status != 200 or answer.held.get("me") != self.name:
            self.problems.append(f"{self.name} got {answer.status} {answer.body!r}")


async def test_a_thousand_cancellations_tear_nothing(own_server: Server) -> None:
    """No reply reaches a foreign session, the connection is whole, and cache and committer remember no one."""
    # A tiny cache, so that most reads ask the server; a second worker, so that commits conflict.
    cache = CachePolicy(max_staleness=timedelta(seconds=0.5), max_entries=10)
    async with manager_of(own_server.url, cache=cache) as one, manager_of(own_server.url, cache=cache) as other:
        made = [await one.create(data={"me": f"visitor{number}"}) for number in range(VISITORS)]
        visitors = [
            Impatient(manager, f"visitor{number}", session.token.value)
            for number, session in enumerate(made)
            for manager in (one, other)
        ]
        links = [manager.worker.store._link for manager in (one, other)]  # type: ignore[attr-defined]
        connections = [link._connection for link in links]
        seed = 0
        while sum(visitor.cancelled for visitor in visitors) < CANCELLATIONS:
            await asyncio.gather(*(visitor.visit(seed + number) for number, visitor in enumerate(visitors)))
            seed += len(visitors)
        assert [problem for visitor in visitors for problem in visitor.problems] == []
        assert sum(visitor.answered for visitor in visitors) > CANCELLATIONS / 10
        for manager, link, connection in zip((one, other), links, connections, strict=True):
            assert link._connection is connection
            await until(partial(_is_quiet, connection), "every reply has come")
            _nothing_is_remembered(manager)
        for session in made:
            snapshot, _ = await snapshot_and_log(one, session.id)
            assert snapshot.data["me"] == f"visitor{made.index(session)}"
    assert tasks_of_evsession() == set()


def _is_quiet(connection: Connection) -> bool:
    return not connection._pending


def _nothing_is_remembered(manager: SessionManager) -> None:
    worker = manager.worker
    assert worker.cache._floors == {}
    assert worker.cache._own == set()
    assert worker.committer._turns == {}
    assert worker.replica._filling == {}
    assert worker.cache.bytes == sum(cached.size for cached in worker.cache._entries.values())


async def test_cancelled_commits_happen_once_or_not_at_all(own_server: Server) -> None:
    """Increments that are cut off count at most once, those that were answered exactly once."""
    async with manager_of(own_server.url) as manager:
        session = await manager.create(data={"n": 0})
        chance = random.Random(1)

        async def count() -> bool:
            task = asyncio.create_task(manager.update(session.id, _bump))
            await asyncio.sleep(chance.random() * 0.03)
            task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
            return not isinstance(results[0], asyncio.CancelledError)

        for _ in range(10):
            answered = sum(await asyncio.gather(*(count() for _ in range(30))))
            snapshot, log = await snapshot_and_log(manager, session.id)
            assert answered <= snapshot.data["n"] <= 300
            assert [event.set["n"] for event in log] == list(range(len(log)))
        assert await manager.update(session.id, _bump) == snapshot.data["n"] + 1
        _nothing_is_remembered(manager)


def _bump(data: dict[str, int]) -> int:
    data["n"] += 1
    return data["n"]
