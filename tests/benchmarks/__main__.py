"""Measure evsession against its peers: `python -m tests.benchmarks`, or `make bench`.

Writes docs/reference/performance.md and its plot. With --quick it takes seconds and writes nothing but --json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks import hotspots, inprocess, memory, network, trips
from tests.benchmarks.plot import draw
from tests.benchmarks.report import PLOT, write_page
from tests.benchmarks.results import Results, machine, targets, versions
from tests.servers import Binary, Server, find_binaries

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "performance.md"
PEERS_ON: Final = "redis-8.2"
"""The server for all peers.  Source: fastapi-redis-sdk needs Redis 7.4 or later, not Valkey."""

WEIGHED_ON: Final = ("valkey-9.1", "redis-8.2")


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    rounds_over_http: int
    weighed: int
    profiled: int


WHOLE: Final = Effort(rounds=60, rounds_over_http=25, weighed=10_000, profiled=4_000)
QUICK: Final = Effort(rounds=3, rounds_over_http=1, weighed=300, profiled=200)


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds of everything, in seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all rounds there as well")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # evsession warns of a server that keeps nothing on disk, which is meant here
    binaries = find_binaries()
    if missing := [name for name in {PEERS_ON, *WEIGHED_ON} if name not in binaries]:
        sys.exit(f"no {', '.join(missing)} on this machine; pip install -e '.[dev,bench]'")
    results = asyncio.run(run(QUICK if arguments.quick else WHOLE, binaries))
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(results), indent=1))
    if not arguments.quick:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(write_page(results))
        draw(results, PAGE.with_name(PLOT))
        print(f"written: {PAGE} and {PLOT}")
    for target in targets(results):
        mark = "reached" if target.is_reached else "MISSED "
        print(f"{mark}  {target.what}: {target.figure:.3g}{target.unit} (limit {target.limit:g})")


async def run(effort: Effort, binaries: dict[str, Binary]) -> Results:
    """Measure everything."""
    binary, measured_on = binaries[PEERS_ON], machine()
    with Server.start(binary, tcp=True) as server:
        in_process = await inprocess.measure(server.url, effort.rounds, progress)
        over_http = await network.measure(server.url, effort.rounds_over_http, progress)
        progress("round trips", 0, 1)
        trip_counts = await trips.count(server.url)
        spots = {
            case.name: await hotspots.find(server.url, case, effort.profiled)
            for case in inprocess.CASES
            if case.name in ("cached read", "write, 100 concurrent")
        }
    weights = [await memory.weigh(binaries[name], effort.weighed, progress) for name in WEIGHED_ON]
    progress("", 0, 0)
    return Results(
        machine=measured_on,
        versions=versions(),
        server=f"Redis {binary.version}",
        rounds=effort.rounds,
        in_process=in_process,
        over_http=over_http,
        trips=trip_counts,
        memory=[one for weight in weights for one in weight],
        hotspots=spots,
    )


_began: Final = time.monotonic()


def progress(what: str, done: int, of: int) -> None:
    """Show what is being measured: on one line of a terminal, or a line for each thing elsewhere."""
    text = f"{time.monotonic() - _began:5.0f} s  {what}  {done}/{of}" if what else ""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif what and done == 0:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
