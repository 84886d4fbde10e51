"""Round trips, counted on the wire: a proxy stands between each library and the server, and counts what is written.

A request that waits for an answer before it asks again writes once for each round trip, however many commands a
pipeline has. What runs in the background only adds, so the least of several runs is the request's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.benchmarks.figures import BARE, LIMIT
from tests.benchmarks.inprocess import CASES, Case, Contender, contenders
from tests.benchmarks.peers import PEERS
from tests.servers import Proxy

RUNS: Final = 6
REQUESTS: Final = 50
COUNTED: Final = tuple(case for case in CASES if "concurrent" not in case.name)
NAMES: Final = tuple(name for name in PEERS if name not in (BARE, LIMIT))


async def count(url: str, cases: Sequence[Case] = COUNTED) -> dict[str, dict[str, float]]:
    """Return the round trips of one request, by case and peer."""
    async with Proxy(url) as proxy, contenders(proxy.url, NAMES) as all_:
        return {case.name: {one.peer.name: await _trips(proxy, case, one) for one in all_} for case in cases}


async def _trips(proxy: Proxy, case: Case, contender: Contender) -> float:
    counts = []
    for _ in range(RUNS):
        before = proxy.client_writes
        await case.block(contender, REQUESTS)
        counts.append((proxy.client_writes - before) / REQUESTS)
    return round(min(counts), 1)
