"""Measure the archiver: `python -m tests.benchmarks.archive [--events N]`.

It writes N events by `evsession generate` into a server of its own, archives the first quarter and then all of it by
`evsession archive`, each in a process of its own, and checks what was written. CPU time counts as well as the clock, so
that the figure means something on a machine with other work; memory must not grow with the log.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.servers import Server, find_binaries

WHOLE: Final = 2_000_000
SERVER: Final = "redis-8.2"
LEAST: Final = 50_000
"""Events a second that one process has to archive, of its own CPU time."""

MOST_GROWTH: Final = 1.25
"""How much more memory four times the log may take."""


@dataclass(frozen=True)
class Figures:
    """One run of the archiver; memory in MiB at its peak."""

    events: int
    seconds: float
    cpu_seconds: float
    memory: float
    bytes_an_event: float

    @property
    def rate(self) -> float:
        """Events a second of CPU time."""
        return self.events / self.cpu_seconds


def measure(events: int) -> tuple[Figures, Figures]:
    """Return the figures of a quarter of the events and of all of them."""
    with Server.start(find_binaries()[SERVER]) as server, TemporaryDirectory() as folder:
        environment = {
            "EVSESSION_URL": server.url,
            "EVSESSION_NAMESPACE": "bench",
            "EVSESSION_SECRET_KEY": "the-key-of-a-benchmark-32-characters",
        }
        _run(environment, "generate", "--events", str(events // 4), "--json")
        quarter = _archived(environment, Path(folder) / "quarter")
        server.cli("DEL", "{bench:00}:archive")
        _run(environment, "generate", "--events", str(events - events // 4), "--seed", "1", "--add", "--json")
        whole = _archived(environment, Path(folder) / "whole")
    return quarter, whole


def _archived(environment: Mapping[str, str], folder: Path) -> Figures:
    output, seconds, usage = _run(environment, "archive", "--to", str(folder), "--json")
    events = sum(json.loads(line)["events"] for line in output.splitlines())
    size = sum(path.stat().st_size for path in folder.rglob("*.zst"))
    return Figures(events, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, size / events)


def _run(environment: Mapping[str, str], *arguments: str) -> tuple[str, float, Any]:
    """Return the output of a command, how long it took, and what it used."""
    began = time.monotonic()
    command = [sys.executable, "-m", "evsession.cli", *arguments]
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"evsession {' '.join(arguments)} failed with {process.returncode}")
    return output, time.monotonic() - began, usage


def main() -> None:
    """Measure, print, and exit with 1 if a figure misses its limit."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.archive", description=__doc__)
    parser.add_argument("--events", type=int, default=WHOLE)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    quarter, whole = measure(arguments.events)
    growth = whole.memory / quarter.memory
    if arguments.json:
        print(json.dumps({"quarter": asdict(quarter), "whole": asdict(whole), "rate": whole.rate, "growth": growth}))
    else:
        for run in (quarter, whole):
            times = f"{run.seconds:.1f} s, {run.cpu_seconds:.1f} s of CPU: {run.rate:,.0f} a second"
            print(f"{run.events:,} events in {times}; {run.memory:.0f} MiB; {run.bytes_an_event:.0f} bytes an event")
    if whole.rate < LEAST or growth > MOST_GROWTH:
        sys.exit(
            f"MISSED: {whole.rate:,.0f} events a second (limit {LEAST:,}), memory × {growth:.2f} (limit {MOST_GROWTH})"
        )


if __name__ == "__main__":
    main()
