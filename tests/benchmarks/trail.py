"""Measure the reading of the trail: `python -m tests.benchmarks.trail [--events N]`.

The history of one session of 100 events among N others, beside a scan of its shard, with its round trips counted on the
wire; and the whole log through `fold` by `audit.states`, of a quarter of the events and of all of them (the median of
five times), each time in a process of its own, beside a pass that only reads. CPU time counts as well as the clock, so
that a figure means something on a machine with other work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from evsession import SessionManager
from evsession.audit.collector import collector_relaxed
from evsession.audit.cursor import Cursor
from evsession.audit.generate import generate
from evsession.audit.pages import PAGE
from evsession.audit.reader import LAST_ID, Reader
from evsession.audit.replay import in_order
from evsession.wire import START, Line, parse_id
from tests.servers import Proxy, Server, find_binaries

WHOLE: Final = 1_000_000
SERVER: Final = "redis-8.2"
OWN_EVENTS: Final = 100
PART: Final = 11
"""After so many of its own events, a ninth of all others come."""
RUNS: Final = 15
FOLDS: Final = 5
"""Times that the whole log is folded; the median counts. Source: on a shared machine one took half as long again."""

LEAST: Final = 100_000
"""Events a second of CPU time that go through `fold`."""

MOST_TRIPS: Final = 2
MOST_OF_A_SCAN: Final = 0.1
MOST_FOR_A_SESSION: Final = 4
"""KiB that memory may grow for each session that lives: it holds their states, and nothing of the log."""

KEY: Final = "the-key-of-a-benchmark-32-characters"


@dataclass(frozen=True)
class Finding:
    """Seconds of one history and of one scan, and round trips of the history."""

    events: int
    history: float
    scan: float
    trips: int


@dataclass(frozen=True)
class Folding:
    """One log through `fold`; memory in MiB at its peak, `living` sessions at its end.

    `reading` are the seconds of CPU time of a pass that only reads.
    """

    events: int
    living: int
    seconds: float
    cpu_seconds: float
    memory: float
    reading: float

    @property
    def rate(self) -> float:
        """Events a second of CPU time."""
        return self.events / self.cpu_seconds


def manager_of(url: str) -> SessionManager:
    """Return a manager of the benchmark's namespace."""
    return SessionManager.from_url(url, secret_key=KEY, namespace="bench")


async def measure(events: int) -> tuple[Finding, Folding, Folding]:
    """Return the figures of a session's history, of a quarter of the log and of the whole log."""
    with Server.start(find_binaries()[SERVER], tcp=True) as server:
        async with manager_of(server.url) as manager:
            sid = (await manager.create(user_id="ada")).id
        others = 0
        for n in range(1, OWN_EVENTS):
            async with manager_of(server.url) as manager:
                await manager.update(sid, partial(dict.update, n=n))
            if n % PART == 0:
                looking = manager_of(server.url)
                async with looking.reading():
                    others += (await generate(looking.worker, events // 9, seed=n)).events
            if n == PART * 2:
                quarter = folded_in_a_process(server.url)
        folded = [folded_in_a_process(server.url) for _ in range(FOLDS)]
        return await find(server.url, sid, others), quarter, sorted(folded, key=lambda one: one.cpu_seconds)[FOLDS // 2]


async def find(url: str, sid: str, others: int) -> Finding:
    """Return how a session's history compares to a scan of its shard, both on warm connections."""
    async with Proxy(url) as proxy:
        manager = manager_of(proxy.url)
        async with manager.reading():
            assert len(await manager.audit.history(sid)) == OWN_EVENTS
            before = proxy.client_writes
            await manager.audit.history(sid)
            trips = proxy.client_writes - before
    manager = manager_of(url)
    async with manager.reading():
        history = await _seconds(lambda: manager.audit.history(sid))
        scan = await _seconds(lambda: _scan(manager, sid), runs=3)
    return Finding(others, history, scan, trips)


async def _seconds(work: Callable[[], Awaitable[object]], runs: int = RUNS) -> float:
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        await work()
        found.append(time.perf_counter() - began)
    return median(found)


async def _scan(manager: SessionManager, sid: str) -> list[int]:
    pages = in_order(Reader(manager.worker), (sid[:2],), Cursor({}), LAST_ID, strict=False)
    return [entry.version async for page in pages for entry in page if entry.sid == sid]


# ── the whole log through fold ───────────────────────────────────────────────────────────────────────────────────────


def folded_in_a_process(url: str) -> Folding:
    """Fold the whole log in a process of its own, and return what it said."""
    command = [sys.executable, "-m", "tests.benchmarks.trail", "--fold", url]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    return Folding(**json.loads(done.stdout))


async def fold(url: str) -> Folding:
    """Ask for the states of all sessions that live, and read the log once more without folding it."""
    manager = manager_of(url)
    async with manager.reading():
        began, used = time.perf_counter(), time.process_time()
        living = sum([1 async for _ in manager.audit.states()])
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        used = time.process_time()
        with collector_relaxed():
            events = sum([len(page) async for page in _pages(manager)])
        return Folding(events, living, seconds, cpu, memory, time.process_time() - used)


async def _pages(manager: SessionManager) -> AsyncIterator[Sequence[Line]]:
    store = manager.worker.store
    for shard in store.shards:
        after = START.id
        while page := await store.lines(shard, after, PAGE):
            yield page
            after = parse_id(page[-1][0])


def lines_of(finding: Finding, quarter: Folding, whole: Folding) -> list[tuple[bool, str]]:
    """Return each figure as a line, and whether it reaches its target."""
    part = finding.history / finding.scan
    a_session = (whole.memory - quarter.memory) * 1024 / max(whole.living - quarter.living, 1)
    among, at = f"history of {OWN_EVENTS} events among {finding.events:,}", f"{finding.history * 1000:.1f} ms"
    reading, rest = whole.reading / whole.events, (whole.cpu_seconds - whole.reading) / whole.events
    parts = f"{reading * 1e6:.1f} µs each to read, {rest * 1e6:.1f} to fold and return"
    memory = f"{whole.memory:.0f} MiB, {quarter.memory:.0f} for {quarter.events:,}"
    return [
        (finding.trips <= MOST_TRIPS, f"{among}: {finding.trips} round trips"),
        (part <= MOST_OF_A_SCAN, f"{among}: {at}, {part:.5f} of a scan ({finding.scan:.1f} s)"),
        (whole.rate >= LEAST, f"{whole.events:,} events through fold: {whole.rate:,.0f} a second of CPU, {parts}"),
        (a_session < MOST_FOR_A_SESSION, f"at {memory}: {a_session:.1f} KiB for each session that lives"),
    ]


def main() -> None:
    """Measure, print, and exit with 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.trail", description=__doc__)
    parser.add_argument("--events", type=int, default=WHOLE)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    parser.add_argument("--fold", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.fold:
        print(json.dumps(asdict(asyncio.run(fold(arguments.fold)))))
        return
    found = asyncio.run(measure(arguments.events))
    figures: list[Any] = [asdict(one) for one in found]
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))
    lines = lines_of(*found)
    for is_reached, line in lines:
        print(f"{'reached' if is_reached else 'MISSED '}  {line}")
    sys.exit(not all(is_reached for is_reached, _ in lines))


if __name__ == "__main__":
    main()
