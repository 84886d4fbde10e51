"""`evsession stats`: how many sessions and events there are, what they take, and how far the workers are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evsession.cli.connect import INTERRUPTED, App, AsJson, reading, run
from evsession.cli.when import pause_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evsession.cli.census import Census, Part


def stats(
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stay, and look again this often: 2s, 1m; until Ctrl-C.")
    ] = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Print how many sessions and events there are, what they take, and how far the workers are.

    evsession stats

    evsession stats --every 2s
    """
    run(_stats(app, every, as_json=as_json), interrupted=INTERRUPTED if every is None else 0)


async def _stats(app: str | None, every: str | None, *, as_json: bool) -> None:
    from rich.live import Live

    from evsession.cli.census import take_census
    from evsession.cli.rendering import print_json, terminal

    pause = None if every is None else pause_of(every).total_seconds()
    async with reading(app) as manager:
        if as_json or pause is None:
            while True:
                census = await take_census(manager)
                print_json(plain_census(census), flush=True) if as_json else terminal().print(shown(census))
                if pause is None:
                    return
                await asyncio.sleep(pause)
        with Live(shown(await take_census(manager)), console=terminal(), auto_refresh=False) as live:
            while True:
                await asyncio.sleep(pause)
                live.update(shown(await take_census(manager)), refresh=True)


def plain_census(census: Census) -> dict[str, Any]:
    """Return a census as JSON can hold it; times in ms, sizes in bytes."""
    return {
        "namespace": census.namespace,
        "server": census.server_name,
        "sessions": census.sessions,
        "users": census.users._asdict(),
        "shards": [_plain_part(part) for part in census.parts],
        "workers": [working._asdict() | {"alive": working.is_alive} for working in census.workers],
    }


def _plain_part(part: Part) -> dict[str, Any]:
    counters, survey = part.counters, part.survey
    return {
        "shard": part.shard,
        "events": counters.length,
        "added": counters.added,
        "trimmed": counters.trimmed,
        "first_at": counters.first[0] or None,
        "last_at": counters.end.id[0] or None,
        "sessions": survey.sessions,
        "ended": survey.ended,
        "bytes": part.sizes,
        "archive_lag": part.archive_lag,
    }


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────────


def shown(census: Census) -> RenderableType:
    """Return a census as a person sees it."""
    from rich.console import Group
    from rich.text import Text

    events, bytes_ = sum(part.counters.length for part in census.parts), sum(census.sizes.values())
    where = f" on {census.server_name} at {census.address}: "
    living = (f"{census.sessions:,} sessions", "bold green")
    held = f", {events:,} events, {census.users.users:,} users, {size(bytes_)}"
    title = Text.assemble((census.namespace, "bold"), where, living, held)
    workers = _worker_table(census) if census.workers else Text("no worker is running", "red")
    return Group(title, _shard_table(census), workers)


def _shard_table(census: Census) -> RenderableType:
    from rich.table import Table

    table = Table("shard", title_justify="left")
    for name in ("sessions", "ended", "events", "since", "log", "snapshots", "indexes", "not archived"):
        table.add_column(name, justify="right")
    for part in census.parts:
        counters, lag = part.counters, part.archive_lag
        since = age(part.survey.now - counters.first[0]) if counters.length else "-"
        table.add_row(
            part.shard, f"{part.survey.sessions:,}", f"{part.survey.ended:,}", f"{counters.length:,}", since,
            *(size(part.sizes[name]) for name in ("log", "snapshots", "indexes")), "-" if lag is None else age(lag),
        )  # fmt: skip
    return table


def _worker_table(census: Census) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from evsession.cli.rendering import printable

    table = Table("worker", "shard")
    for name in ("heartbeat", "behind", "bound"):
        table.add_column(name, justify="right")
    for one in census.workers:
        style = None if one.is_alive else "red"
        table.add_row(
            Text(printable(one.worker)), one.shard, age(one.silent), age(one.behind), age(one.bound), style=style
        )
    return table


def age(ms: int) -> str:
    """Return a span of time as a person says it."""
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms >= length:
            return f"{ms / length:.1f} {unit}"
    return f"{ms} ms"


def size(bytes_: float) -> str:
    """Return a size as a person says it."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if bytes_ >= length:
            return f"{bytes_ / length:.1f} {unit}"
    return f"{bytes_:.0f} B"
