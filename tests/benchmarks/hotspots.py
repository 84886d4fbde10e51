"""Where the microseconds go: the functions of this project's own code that take longest, under cProfile.

A profiler makes calls dearer than they are, so its shares only rank; the tables of times are measured without it.
"""

from __future__ import annotations

import cProfile
import pstats
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.figures import OURS
from tests.benchmarks.inprocess import Case, contenders

SHOWN: Final = 14


@dataclass(frozen=True, slots=True)
class Hotspot:
    """One function: calls a request, and its share of the profiled time, what it calls not included."""

    function: str
    calls: float
    share: float


async def find(url: str, case: Case, requests: int) -> list[Hotspot]:
    """Return the functions that take most of one case, the harness and Starlette's own left out."""
    async with contenders(url, (OURS,)) as (contender,):
        await case.block(contender, 2 * len(contender.flat))
        profile = cProfile.Profile()
        profile.enable()
        await case.block(contender, requests)
        profile.disable()
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    spots = [
        Hotspot(_name(path, function), calls / requests, own / total)
        for (path, _, function), (_, calls, own, _, _) in stats.items()
        if "benchmarks" not in path and "starlette" not in path
    ]
    return sorted(spots, key=lambda spot: -spot.share)[:SHOWN]


def _name(path: str, function: str) -> str:
    return function.strip("{}").replace("built-in method ", "") if path == "~" else f"{Path(path).name}: {function}"
