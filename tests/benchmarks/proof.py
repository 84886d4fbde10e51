"""Measure the proof of the log: `python -m tests.benchmarks.proof [--events N]`.

`evsession generate` writes events, `evsession verify` proves them, after a quarter of them and after all: by the clock
with a process for each processor, CPU time, and memory of all its processes at its peak. And what the trail costs a
commit: with heads, digests of secret values and contexts, and without, in turns.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Final
from unittest.mock import patch

from evsession import AuditPolicy, SessionManager
from evsession.audit.processes import processors
from evsession.chain import Heads
from evsession.context import context_of
from evsession.events import Changes, Created, Updated
from evsession.tokens import new_sid
from tests.servers import Server, find_binaries

WHOLE: Final = 2_000_000
SERVER: Final = "redis-8.2"
KEY: Final = "the-key-of-a-benchmark-32-characters"
LEAST: Final = 50_000
"""Events a second that are verified, by the clock, with a process for each of two processors."""

MOST_GROWTH: Final = 1.5
"""Times the memory for a quarter of the events, beyond which it would grow with the log."""

MOST_OVERHEAD: Final = 0.15
AT_ONCE: Final = 100
ROUNDS: Final = 60
COMMITS: Final = 5
"""Of each session in a round."""


@dataclass(frozen=True)
class Verified:
    """One run of `evsession verify` in `jobs` processes and the one that reads.

    `cpu_seconds` are of all; memory in MiB at its peak: of the one that reads, and of the largest of the others.
    """

    jobs: int
    events: int
    seconds: float
    cpu_seconds: float
    memory: float
    memory_of_others: float

    @property
    def rate(self) -> float:
        """Events a second by the clock."""
        return self.events / self.seconds


@dataclass(frozen=True)
class Overhead:
    """Microseconds of a commit with the trail's parts and without them, CPU and by the clock."""

    whole: float
    bare: float
    whole_by_clock: float
    bare_by_clock: float

    @property
    def part(self) -> float:
        """What the parts take of a commit without them: by the clock, as a request waits for it."""
        return self.whole_by_clock / self.bare_by_clock - 1


def measure(events: int) -> tuple[Verified, Verified, Overhead]:
    """Return how a quarter of the events and all of them are verified, and what the trail costs a commit."""
    with Server.start(find_binaries()[SERVER], tcp=True) as server:
        _command(server.url, "generate", "--events", str(events // 4))
        quarter = verified(server.url)
        _command(server.url, "generate", "--add", "--seed", "1", "--events", str(events - events // 4))
        whole = verified(server.url)
        server.cli("FLUSHALL")
        return quarter, whole, asyncio.run(overhead(server.url, ROUNDS if events >= 100_000 else 3))


def _command(url: str, *arguments: str) -> dict[str, Any]:
    environment = {"EVSESSION_URL": url, "EVSESSION_SECRET_KEY": KEY, "EVSESSION_NAMESPACE": "bench"}
    command = [sys.executable, "-m", "evsession.cli", *arguments, "--json"]
    done = subprocess.run(command, env=dict(os.environ) | environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def verified(url: str) -> Verified:
    """Verify in a process of its own, and return what it said."""
    command = [sys.executable, "-m", "tests.benchmarks.proof", "--verify", url]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    return Verified(**json.loads(done.stdout))


async def verify(url: str) -> Verified:
    """Verify the whole namespace here."""
    manager = SessionManager.from_url(url, secret_key=KEY, namespace="bench")
    async with manager.reading():
        began, used, jobs = time.perf_counter(), time.process_time(), processors()
        report = await manager.audit.verify(jobs=jobs)
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
    assert report.ok, report.faults
    here, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu += others.ru_utime + others.ru_stime
    return Verified(jobs, report.events, seconds, cpu, here.ru_maxrss / 1024, others.ru_maxrss / 1024)


# ── what the trail costs a commit ────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def without_heads() -> Iterator[None]:
    """Make heads that are no digests: a commit still needs one to compare."""
    number = count(1)

    def cheap(*_: object) -> bytes:
        return next(number).to_bytes(16, "big")

    with patch.object(Heads, "link", cheap), patch.object(Heads, "head", cheap):
        yield


async def overhead(url: str, rounds: int) -> Overhead:
    """Commit in turns with all parts of the trail and without, many sessions at once."""
    whole = SessionManager.from_url(url, secret_key=KEY, namespace="whole")
    bare = SessionManager.from_url(url, secret_key=KEY, namespace="bare", audit=AuditPolicy(redact=()))
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    async with whole, bare:
        for number in range(rounds + 1):
            for is_whole in (True, False) if number % 2 else (False, True):
                took = await _round(whole if is_whole else bare, is_whole=is_whole)
                if number:  # the first round only warms up
                    times[is_whole].append(took)
    middle = {which: [median(column) for column in zip(*found, strict=True)] for which, found in times.items()}
    return Overhead(middle[True][0], middle[False][0], middle[True][1], middle[False][1])


async def _round(manager: SessionManager, *, is_whole: bool) -> tuple[float, float]:
    began, used = time.perf_counter(), time.process_time()
    if is_whole:
        await asyncio.gather(*(_session(manager, n, is_whole=True) for n in range(AT_ONCE)))
    else:
        with without_heads():
            await asyncio.gather(*(_session(manager, n, is_whole=False) for n in range(AT_ONCE)))
    commits = AT_ONCE * COMMITS
    return (time.process_time() - used) / commits * 1e6, (time.perf_counter() - began) / commits * 1e6


async def _session(manager: SessionManager, number: int, *, is_whole: bool) -> None:
    worker = manager.worker
    sid, stored = new_sid("00", os.urandom(16)), None
    scope = {"method": "POST", "client": (f"10.0.0.{number}", 1), "route": None, "headers": ()}
    for n in range(COMMITS):
        context = context_of(scope, manager.audit_policy, worker.id) if is_whole else b""
        values = {"csrf_token": "x" * 32} if n == 0 else {"cart": [{"tea": "assam", "grams": 50 * n}], "seen": n}
        changes = worker.drafter.changes(Changes(set_=values))
        facts: dict[str, Any] = {"set_": changes.set_, "redacted": changes.redacted}
        event = Created(**facts, secret="s" * 43, control="") if n == 0 else Updated(**facts)
        stored = await worker.committer.append(sid, stored, lambda _, event=event: event, worker.stamp(b"", context))  # type: ignore[misc]


def lines_of(quarter: Verified, whole: Verified, cost: Overhead) -> list[tuple[bool, str]]:
    """Return each figure as a line, and whether it reaches its target."""
    memory = (
        f"{whole.memory:.0f} MiB and {whole.memory_of_others:.0f} for each of {whole.jobs} processes;"
        f" {quarter.memory:.0f} and {quarter.memory_of_others:.0f} for {quarter.events:,}"
    )
    used = whole.cpu_seconds / whole.events * 1e6
    is_flat = (
        whole.memory <= MOST_GROWTH * quarter.memory
        and whole.memory_of_others <= MOST_GROWTH * quarter.memory_of_others
    )
    commit = (
        f"{cost.whole_by_clock:.0f} µs, {cost.bare_by_clock:.0f} without (CPU {cost.whole:.0f} and {cost.bare:.0f})"
    )
    return [
        (
            whole.rate >= LEAST,
            f"{whole.events:,} events verified: {whole.rate:,.0f} a second, CPU {used:.1f} µs an event",
        ),
        (is_flat, f"at {memory}"),
        (cost.part <= MOST_OVERHEAD, f"heads, digests and contexts: {cost.part:.1%} of a commit: {commit}"),
    ]


def main() -> None:
    """Measure, print, and exit with 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.proof", description=__doc__)
    parser.add_argument("--events", type=int, default=WHOLE)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    parser.add_argument("--verify", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.verify:
        print(json.dumps(asdict(asyncio.run(verify(arguments.verify)))))
        return
    found = measure(arguments.events)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    lines = lines_of(*found)
    for is_reached, line in lines:
        print(f"{'reached' if is_reached else 'MISSED '}  {line}")
    sys.exit(not all(is_reached for is_reached, _ in lines))


if __name__ == "__main__":
    main()
