"""Requests inside one process: the ASGI applications called directly, all in one event loop, round after round."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Final

from evsession.view import CONTROL
from tests.benchmarks.browser import Browser, WrongAnswer, running
from tests.benchmarks.figures import LIMIT, Series
from tests.benchmarks.peers import CART_QUANTITY, PEERS, Peer

SESSIONS: Final = 100
"""Sessions of each peer, used in turn, and the number of requests under way at once in the concurrent case."""

ATTEMPTS: Final = 5
"""How often a block is measured again because the machine stood still for longer than a lease."""

PAUSE: Final = 0.002
"""Seconds before each block, in which the event loop does what the block before has left: heartbeats, messages."""

Progress = Callable[[str, int, int], None]
"""Told the name of what is measured, the round and the number of rounds."""


@dataclass(slots=True)
class Contender:
    """One peer with its clients, all signed in."""

    peer: Peer
    flat: list[Browser] = field(default_factory=list)
    nested: list[Browser] = field(default_factory=list)
    visits: list[int] = field(default_factory=list)
    """How often each of the flat sessions was written."""
    turn: int = 0

    async def begin(self, sessions: int) -> None:
        """Sign all clients in, and check that each has a session of its own."""
        self.flat = [Browser(self.peer.app, self.peer.cookie) for _ in range(sessions)]
        self.nested = [Browser(self.peer.app, self.peer.cookie) for _ in range(sessions)]
        self.visits = [0] * sessions
        for path, browsers in (("/flat", self.flat), ("/nested", self.nested)):
            for browser in browsers:
                await browser.get(path, "begun" if self.peer.has_session else None)
        if self.peer.has_session and not all(browser.value for browser in self.flat + self.nested):
            msg = f"{self.peer.name} set no cookie"
            raise WrongAnswer(msg)

    def next(self) -> int:
        """Return whose turn it is among the sessions."""
        self.turn = (self.turn + 1) % len(self.flat)
        return self.turn

    async def visit(self, number: int) -> int:
        """Write one session, and return the nanoseconds that took."""
        self.visits[number] += 1
        return await self.flat[number].get("/write", self.expected(str(self.visits[number])))

    def expected(self, answer: str) -> str:
        """Return what a right answer is; bare Starlette says the same to all."""
        return answer if self.peer.has_session else "alice"

    @property
    def fills(self) -> int:
        """Reads that this peer's cache could not serve, as far as it has one."""
        return self.peer.manager.stats().counts.fills if self.peer.manager is not None else 0

    def forget(self) -> None:
        """Empty what the cache holds, as a fork of the shard does."""
        if self.peer.manager is not None:
            for shard, view in self.peer.manager.worker.cache.views.items():
                view.generation += shard != CONTROL


# ── the cases ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def ignored(contender: Contender, requests: int) -> float:
    """Measure requests that carry a session and never look at it."""
    return await _warm(contender, contender.flat, "/ignore", "alice", requests)


async def cached(contender: Contender, requests: int) -> float:
    """Measure reads of a session with six plain values."""
    return await _warm(contender, contender.flat, "/read", "alice", requests)


async def typed(contender: Contender, requests: int) -> float:
    """Measure reads of the same values as an object; only evsession has such, so the others read as before."""
    return await _warm(contender, contender.flat, "/typed", "alice", requests)


async def cached_cart(contender: Contender, requests: int) -> float:
    """Measure reads of a session that holds a cart of five items, each with a list in it."""
    return await _warm(contender, contender.nested, "/cart", str(CART_QUANTITY), requests)


async def cold(contender: Contender, requests: int) -> float:
    """Measure reads that find the cache empty."""
    took, fills = 0, contender.fills
    for _ in range(requests):
        contender.forget()
        took += await contender.flat[contender.next()].get("/read", "alice")
    if contender.peer.manager is not None and contender.fills - fills < requests:
        msg = "a read that was to be cold came from memory"
        raise WrongAnswer(msg)
    return took / requests / 1000


async def write(contender: Contender, requests: int) -> float:
    """Measure writes one after the other."""
    return sum([await contender.visit(contender.next()) for _ in range(requests)]) / requests / 1000


async def concurrent(contender: Contender, requests: int) -> float:
    """Measure writes of so many sessions at once, each of another session."""
    took, left = 0, requests
    while left > 0:
        at_once = min(left, len(contender.flat))
        start = perf_counter_ns()
        await asyncio.gather(*(contender.visit(contender.next()) for _ in range(at_once)))
        took, left = took + perf_counter_ns() - start, left - at_once
    return took / requests / 1000


async def _warm(contender: Contender, browsers: Sequence[Browser], path: str, answer: str, requests: int) -> float:
    turns = [contender.next() for _ in range(requests)]
    for _ in range(ATTEMPTS):
        fills, took = contender.fills, 0
        for number in turns:
            took += await browsers[number].get(path, contender.expected(answer))
        if contender.fills == fills:
            return took / requests / 1000
    msg = f"{contender.peer.name} went to the server for a read that was to be cached"
    raise WrongAnswer(msg)


@dataclass(frozen=True)
class Case:
    """What is measured: in each round so many blocks of so many requests; the limit study takes part in two cases."""

    name: str
    block: Callable[[Contender, int], Awaitable[float]]
    blocks: int = 5
    requests: int = 20
    has_limit: bool = False


CASES: Final = (
    Case("session ignored", ignored, 8, 25, has_limit=True),
    Case("cached read", cached, 8, 25, has_limit=True),
    Case("cached read, typed session", typed, 8, 25),
    Case("cached read, nested cart", cached_cart, 8, 25),
    Case("cold read", cold),
    Case("write alone", write),
    Case("write, 100 concurrent", concurrent, 1, SESSIONS),
)


# ── running them ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def measure(url: str, rounds: int, progress: Progress, cases: Sequence[Case] = CASES) -> list[Series]:
    """Measure all cases with all peers against one server, and check that what was written is there."""
    async with contenders(url) as all_:
        series = [await _interleaved(case, all_, rounds, progress) for case in cases]
        for contender in all_:
            await _check_written(contender)
    return series


@asynccontextmanager
async def contenders(url: str, names: Sequence[str] = tuple(PEERS)) -> AsyncIterator[list[Contender]]:
    """Run the named peers side by side, their clients signed in."""
    async with AsyncExitStack() as stack:
        found = [Contender(PEERS[name](url)) for name in names]
        for contender in found:
            await stack.enter_async_context(running(contender.peer.app))
            await contender.begin(SESSIONS)
        yield found


async def _interleaved(case: Case, all_: Sequence[Contender], rounds: int, progress: Progress) -> Series:
    taking = [contender for contender in all_ if case.has_limit or contender.peer.name != LIMIT]
    times: dict[str, list[float]] = {contender.peer.name: [] for contender in taking}
    for number in range(rounds + 1):
        progress(case.name, number, rounds)
        gc.collect()
        took = await _round(case, taking, number)
        if number:  # the first round only warms up
            for name, time in took.items():
                times[name].append(time)
    return Series(case.name, times)


async def _round(case: Case, taking: Sequence[Contender], number: int) -> dict[str, float]:
    """Return the mean time with each peer: block by block in a turning order, so that a slow moment hits all alike."""
    took = dict.fromkeys((contender.peer.name for contender in taking), 0.0)
    for block in range(case.blocks):
        first = (number + block) % len(taking)
        for contender in (*taking[first:], *taking[:first]):
            await asyncio.sleep(PAUSE)
            took[contender.peer.name] += await case.block(contender, case.requests) / case.blocks
    return took


async def _check_written(contender: Contender) -> None:
    if not contender.peer.has_session or contender.peer.name == LIMIT:
        return
    for browser, visits in zip(contender.flat, contender.visits, strict=True):
        contender.forget()
        await browser.get("/visits", str(visits))
