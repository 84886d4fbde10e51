"""Everything that one run found, and what it was to reach."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from tests.benchmarks.figures import OURS, SIGNED, STARSESSIONS, Series
from tests.benchmarks.hotspots import Hotspot
from tests.benchmarks.memory import Footprint

PACKAGES: Final = (
    "starlette", "uvicorn", "redis", "hiredis", "orjson", "itsdangerous", "starsessions", "fastapi-redis-sdk"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Results:
    """The figures of one run. `trips` are round trips a request, by case and peer."""

    machine: str
    versions: str
    server: str
    rounds: int
    in_process: Sequence[Series]
    over_http: Sequence[Series]
    trips: dict[str, dict[str, float]]
    memory: Sequence[Footprint]
    hotspots: dict[str, list[Hotspot]]

    def series(self, case: str) -> Series:
        """Return what was measured in process for one case."""
        return next(series for series in self.in_process if series.case == case)


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that was promised, and what it is."""

    what: str
    limit: float
    figure: float
    unit: str

    @property
    def is_reached(self) -> bool:
        """Whether the figure keeps its limit."""
        return self.figure <= self.limit


def targets(results: Results) -> list[Target]:
    """Return every target with the median of this run."""
    return [*_of_time(results), _of_types(results), *_of_trips(results), *_of_memory(results)]


def _of_time(results: Results) -> list[Target]:
    wanted = (
        ("cached read", SIGNED, 0.35), ("cached read", STARSESSIONS, 0.045),
        ("write alone", STARSESSIONS, 0.95), ("write, 100 concurrent", STARSESSIONS, 0.6),
    )  # fmt: skip
    return [
        Target(f"{case}, overhead against {other}", limit, results.series(case).ratio(OURS, other).middle, " ×")
        for case, other, limit in wanted
    ]


def _of_types(results: Results) -> Target:
    plain, typed = (
        results.series(case).overhead(OURS).middle for case in ("cached read", "cached read, typed session")
    )
    return Target("cached read of a typed session, overhead against a plain one", 2, typed / plain, " ×")


def _of_trips(results: Results) -> list[Target]:
    wanted = (("cached read", 0), ("cold read", 1), ("write alone", 1))
    return [Target(f"{case}, round trips", limit, results.trips[case][OURS], "") for case, limit in wanted]


def _of_memory(results: Results) -> list[Target]:
    limits = {2: 1.3, 10: 2.8}
    return [
        Target(f"memory after {one.events} events, {one.server}", limits[one.events], one.bytes / 1000, " KB")
        for one in results.memory
    ]


def machine() -> str:
    """Return what this runs on."""
    kernel = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} CPUs ({_processor()}), {kernel}, load average {os.getloadavg()[0]:.1f} before the run"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123 -- not a path of this project
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> str:
    """Return which versions were measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{platform.python_implementation()} {platform.python_version()}, {packages}"
