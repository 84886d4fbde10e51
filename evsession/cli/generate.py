"""`evsession generate`: made-up visitors, to measure with and to try the other commands on."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from evsession.cli.connect import App, AsJson, joined, reading, run
from evsession.errors import ConfigError

if TYPE_CHECKING:
    from evsession.audit.generate import Generated


def generate(
    events: Annotated[int, typer.Option(min=1, help="How many events, at least.")] = 100_000,
    seed: Annotated[int, typer.Option(help="The same seed, the same visitors.")] = 0,
    may_add: Annotated[bool, typer.Option("--add", help="Also where there are events already.")] = False,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Write the events of made-up visitors of a shop, by ordinary commits. Give it a namespace of its own.

    EVSESSION_NAMESPACE=trial evsession generate --events 2000000

    EVSESSION_NAMESPACE=trial evsession verify
    """
    from evsession.cli.rendering import print_json

    started = monotonic()
    made = run(_generated(app, events, seed, may_add=may_add))
    seconds = monotonic() - started
    if as_json:
        print_json({"events": made.events, "sessions": made.sessions, "ended": made.ended, "seconds": seconds})
    else:
        typer.echo(
            f"{made.events:,} events of {made.sessions:,} sessions, {made.ended:,} of them over, in {seconds:.0f} s"
        )


async def _generated(app: str | None, events: int, seed: int, *, may_add: bool) -> Generated:
    from evsession.audit.generate import generate as write
    from evsession.cli.progress import bar

    async with joined(app) as manager:
        store = manager.worker.store
        await manager.worker.ensure_open()
        if not may_add and any([(await store.counters(shard)).length for shard in store.shards]):
            msg = "there are events in this namespace; give another one, EVSESSION_NAMESPACE=trial, or pass --add"
            raise ConfigError(msg)
    async with reading(app) as manager:  # not as a worker, who would be told of each commit by the feed
        with bar() as tell:
            return await write(manager.worker, events, seed=seed, progress=tell)
