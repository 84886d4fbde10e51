"""`evsession doctor`: what is wrong with the server, the workers or the archiver, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

import typer

from evsession.cli.connect import FAULTY, App, AsJson, reading, run

if TYPE_CHECKING:
    from evsession.cli.census import Census

PROBES: Final = 20
SLOW_FEED: Final = 0.05
"""Seconds that a message of the feed may take.  Source: its p99 is 1.1 ms on one machine; 50 ms is abroad."""

LATE_SWEEP_MS: Final = 60_000
"""How long a passed deadline may wait for the sweeper, which looks every second and ends 200 sessions each time."""

LATE_ARCHIVE_MS: Final = 86_400_000
"""How much of the log the archive may lack: a day, of the seven that the log is kept by default."""

FULL: Final = 0.9
"""Part of `maxmemory` from which on the server is about to refuse writes."""

OLDEST: Final = (6, 2)
COUNTING: Final = (7, 0)


class Check(NamedTuple):
    """One thing that was looked at: what was found, and, if that is a problem, what to do."""

    what: str
    found: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return not self.fix


def doctor(app: App = None, as_json: AsJson = False) -> None:
    """Check the server, the workers and the archiver; exit with 2 if something is wrong, and say how to mend it.

    evsession doctor

    evsession doctor --app shop.main:manager --json
    """
    from evsession.cli.rendering import print_json

    checks = run(_checked(app))
    if as_json:
        for check in checks:
            print_json(check._asdict() | {"ok": check.ok})
    else:
        _show(checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(FAULTY)


async def _checked(app: str | None) -> Sequence[Check]:
    from evsession.cli.census import redis_of, take_census

    async with reading(app) as manager:
        census = await take_census(manager)
        latencies = await redis_of(manager).feed_latency(PROBES)
        retention = round(manager.worker.retention.total_seconds() * 1000)
        return list(judged(census, latencies, retention))


def judged(census: Census, latencies: Sequence[float], retention: int) -> Iterator[Check]:
    """Yield every check; `retention` in ms."""
    yield _version(census)
    yield from _settings(census)
    yield _memory(census)
    yield _feed(latencies)
    yield _workers(census)
    yield _sweeper(census)
    yield _trimming(census, retention)
    yield _archiver(census)


def _version(census: Census) -> Check:
    told = census.server.get("valkey_version") or census.server.get("redis_version", "")
    version = tuple(int(part) for part in told.split(".")[:2] if part.isdigit())
    if not version:
        return Check("server", "does not tell its version")
    if version < OLDEST:
        return Check("server", census.server_name, "upgrade to Redis 6.2 or later, or to Valkey")
    note = "" if version >= COUNTING else "; before 7.0 it does not count what was deleted, so `verify` sees less"
    return Check("server", f"{census.server_name}{note}")


def _settings(census: Census) -> Iterator[Check]:
    from evsession.stores.redis.advice import problems

    for problem in problems(census.server):
        found, _, fix = problem.rpartition("; ")
        yield Check("settings", found, fix)
    eviction = census.server.get("maxmemory-policy", "not told")
    saves = census.server.get("save", "not told") or "none"
    kept = "appendonly" if census.server.get("appendonly") == "yes" else saves
    role, replicas = census.server.get("role", "not told"), census.server.get("connected_slaves", "not told")
    yield Check("settings", f"eviction {eviction}, persistence {kept}, role {role}, replicas {replicas}")


def _memory(census: Census) -> Check:
    from evsession.cli.stats import size

    used, limit = int(census.server.get("used_memory", 0)), int(census.server.get("maxmemory", 0))
    parts = ", ".join(f"{name} {size(bytes_)}" for name, bytes_ in census.sizes.items())
    found = f"{size(used)} used in all, of {size(limit) if limit else 'no limit'}; {parts} (of {census.users.users:,})"
    is_full = limit and used > FULL * limit
    fix = "give it more memory, or shorten StorePolicy(retention=…) with an archive" if is_full else ""
    return Check("memory", found, fix)


def _feed(latencies: Sequence[float]) -> Check:
    middle = median(latencies)
    found = f"median {middle * 1000:.1f} ms, worst {max(latencies) * 1000:.1f} ms of {len(latencies)} messages"
    fix = "look for slow commands with SLOWLOG GET, and run this beside the workers" if middle > SLOW_FEED else ""
    return Check("feed", found, fix)


def _workers(census: Census) -> Check:
    from evsession.cli.stats import age

    alive = [one for one in census.workers if one.is_alive]
    names = {one.worker for one in alive}
    if not names:
        return Check("workers", "none is running", "start the application, or check --app and the namespace")
    found = f"{len(names)} running, the furthest behind by {age(max(one.behind for one in alive))}"
    late = sorted({one.worker for one in alive if one.behind > one.bound})
    fix = f"look at the log and the load of the process of {', '.join(late)}" if late else ""
    return Check("workers", found, fix)


def _sweeper(census: Census) -> Check:
    from evsession.cli.stats import age

    surveys = [part.survey for part in census.parts]
    overdue = max((survey.now - survey.overdue for survey in surveys if survey.overdue), default=0)
    found = f"the longest overdue session waits for {age(overdue)}" if overdue else "nothing waits"
    fix = "" if overdue <= LATE_SWEEP_MS else "let at least one worker run all the time; it sweeps by itself"
    return Check("sweeper", found, fix)


def _trimming(census: Census, retention: int) -> Check:
    from evsession.cli.stats import age

    ages = [part.survey.now - part.counters.first[0] for part in census.parts if part.counters.length > 1]
    oldest = max(ages, default=0)
    is_late = oldest > 2 * retention and all(part.archive_lag is None for part in census.parts)
    fix = "let at least one worker run all the time; it trims by itself" if is_late else ""
    return Check("log", f"reaches back {age(oldest)}, to be kept for {age(retention)}", fix)


def _archiver(census: Census) -> Check:
    from evsession.cli.stats import age

    lags = [part.archive_lag for part in census.parts if part.archive_lag is not None]
    if not lags:
        return Check("archive", "there is none: what leaves the log is gone")
    fix = "run `evsession archive --to … --every 5m`" if max(lags) > LATE_ARCHIVE_MS else ""
    return Check("archive", f"lacks the last {age(max(lags))}" if max(lags) else "has all that is in the log", fix)


def _show(checks: Sequence[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    from evsession.cli.rendering import printable, terminal

    table = Table(box=None, show_header=False, padding=(0, 1))
    for check in checks:
        mark = Text("✓", "green") if check.ok else Text("✗", "bold red")
        table.add_row(mark, Text(check.what, "bold"), Text(printable(check.found)))
        if check.fix:
            table.add_row("", "", Text(printable(f"→ {check.fix}"), "yellow"))
    terminal().print(table)
