"""Three worker processes, lost messages, killed subscriptions, a worker cut off: no read is older than the bound."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any, Final

import pytest

from evsession import CachePolicy, SessionPolicy
from evsession.cache import _Floor
from evsession.store import FillReply
from tests.chaos.apps import Browser, app_of, manager_of
from tests.chaos.nodes import nodes
from tests.conftest import until
from tests.servers import Proxy, Server

SECONDS: Final = float(os.environ.get("EVSESSION_CHAOS_SECONDS", "15"))
STALENESS: Final = 0.5
SESSIONS: Final = 2_000
HARM: Final = {"drop": 0.05, "delay": 0.1}
"""One of twenty messages is lost; one of four fills is answered up to 100 ms late."""


@dataclass
class Findings:
    """What the files of a run say. A lag is the age of the oldest acknowledged write that a read did not show."""

    reads: int = 0
    lags: list[float] = field(default_factory=list)

    @property
    def worst(self) -> float:
        """The longest lag in seconds."""
        return max(self.lags, default=0.0)

    @property
    def too_old(self) -> int:
        """How many reads missed a write that was acknowledged more than the bound before they began."""
        return sum(lag > STALENESS for lag in self.lags)


def find(files: Iterable[Path]) -> Findings:
    """Compare every read with every write that was acknowledged before it began."""
    writes: dict[int, dict[int, float]] = defaultdict(dict)
    reads: list[tuple[int, float, int]] = []
    for file in files:
        for line in file.read_text().splitlines():
            kind, *numbers = line.split()
            index, at, n = int(numbers[0]), float(numbers[1]), int(numbers[2])
            if kind == "w":
                writes[index][n] = at
            else:
                reads.append((index, at, n))
    findings = Findings(len(reads))
    earliest = {index: _earliest_from(acknowledged) for index, acknowledged in writes.items()}
    for index, at, n in reads:
        known = earliest.get(index, [])
        if n + 1 < len(known) and known[n + 1] < at:
            findings.lags.append(at - known[n + 1])
    return findings


def _earliest_from(acknowledged: dict[int, float]) -> list[float]:
    """Return for each n the earliest time at which a write of n or more was acknowledged."""
    times = [acknowledged.get(n, float("inf")) for n in range(max(acknowledged) + 1)]
    return list(accumulate(reversed(times), min))[::-1]


async def storm(server: Server, folder: Path, seconds: float, **harm: Any) -> tuple[Findings, list[dict[str, Any]]]:
    """Let three processes read and write while subscriptions are killed each second and one worker is cut off."""
    files = [folder / f"{number}.txt" for number in range(3)]
    async with Proxy(server.url) as proxy:
        urls = [server.url, server.url, proxy.url]
        async with nodes(*({"url": url, "staleness": STALENESS, "hasty": True, **harm} for url in urls)) as workers:
            sessions = await _created(server.url, SESSIONS)
            mischief = asyncio.create_task(_mischief(server, proxy))
            try:
                stats = await asyncio.gather(
                    *(
                        worker.call("storm", sessions=sessions, seconds=seconds, path=str(file))
                        for worker, file in zip(workers, files, strict=True)
                    )
                )
            finally:
                mischief.cancel()
                proxy.resume()
                await asyncio.gather(mischief, return_exceptions=True)
    return find(files), stats


async def _created(url: str, number: int) -> list[tuple[str, str]]:
    """Create sessions before anybody is hasty; return the id and the token of each."""
    policy = SessionPolicy(anonymous_per_second=100_000)
    async with manager_of(url, policy=policy) as manager:
        made = await asyncio.gather(*(manager.create(data={"n": 0, "at": 0.0}) for _ in range(number)))
    return [(session.id, session.token.value) for session in made]


async def _mischief(server: Server, proxy: Proxy) -> None:
    while True:
        await asyncio.sleep(1)
        server.cli("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.sleep(1)
        server.cli("CLIENT", "KILL", "TYPE", "pubsub")
        proxy.pause()
        await asyncio.sleep(1)
        server.cli("CLIENT", "KILL", "TYPE", "pubsub")
        proxy.resume()


@pytest.mark.timeout(SECONDS + 180)
async def test_no_read_is_older_than_the_bound(own_server: Server, tmp_path: Path) -> None:
    """Whatever is lost, a read shows every write that was acknowledged `max_staleness` before it began."""
    findings, stats = await storm(own_server, tmp_path, SECONDS, **HARM)
    counts = {name: sum(one["counts"][name] for one in stats) for name in stats[0]["counts"]}
    behind = sorted(findings.lags) or [0.0]
    print(
        f"\nstaleness over {SECONDS:g} s: {findings.reads} reads, {counts['writes']} writes,"
        f" hit rate {counts['hits'] / max(1, counts['reads']):.1%}, {counts['refused']} refused;"
        f" {len(findings.lags) / max(1, findings.reads):.2%} of the reads behind:"
        f" median {median(behind) * 1000:.1f} ms, max {findings.worst * 1000:.1f} ms"
        f" (bound {STALENESS * 1000:g} ms)"
    )
    assert findings.reads > 20 * SECONDS
    assert counts["writes"] > 2 * SECONDS
    assert counts["hits"] > 0.1 * counts["reads"]
    assert counts["refused"] > 0
    assert all(one["cache"]["gaps"] > 0 and one["cache"]["repaired"] > 0 for one in stats)
    assert findings.too_old == 0


@pytest.mark.parametrize("guard", ["lease", "gap"])
async def test_the_bound_breaks_without(guard: str, own_server: Server, tmp_path: Path) -> None:
    """Take one guard away, and a few seconds of the same show reads that are too old."""
    for _ in range(3):
        findings, _ = await storm(own_server, tmp_path, 4.5, without_guard=guard, **HARM)
        if findings.too_old:
            break
    print(f"\nwithout the {guard}: {findings.too_old} of {findings.reads} reads too old, worst {findings.worst:.2f} s")
    assert findings.too_old > 0


@pytest.mark.parametrize("guard", ["with", "without"])
async def test_a_fill_that_the_feed_overtook_is_asked_for_again(
    guard: str, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply of a cold read is held back while another worker writes; without the floor it would be kept."""
    if guard == "without":
        monkeypatch.setattr(_Floor, "rise", lambda *_: None)
    cache = CachePolicy(max_staleness=timedelta(minutes=1))  # heartbeats come only where this test sends them
    async with manager_of(own_server.url, cache=cache) as one, manager_of(own_server.url, cache=cache) as other:
        session = await other.create(data={"n": 0})
        feed = one.worker.cache.stats
        fill, held, release = one.worker.store.fill, asyncio.Event(), asyncio.Event()

        async def fill_late(*arguments: Any) -> FillReply:
            reply = await fill(*arguments)
            held.set()
            await release.wait()
            return reply

        await until(lambda: feed.messages > 0, "the feed has brought the creation")
        monkeypatch.setattr(one.worker.store, "fill", fill_late)
        browser = Browser(app_of(one), session.token.value)
        reading = asyncio.create_task(browser.get("/read"))
        await held.wait()
        await other.update(session.id, lambda data: data.update(n=1))
        await until(lambda: feed.messages > 1, "the feed has brought the write")
        release.set()
        assert (await reading).held == {"n": 1 if guard == "with" else 0}
        await one.worker.replica.prove(["00"])
        answer = await browser.get("/read")
        assert (answer.source, answer.held) == ("memory", {"n": 1 if guard == "with" else 0})
