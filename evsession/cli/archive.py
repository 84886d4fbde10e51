"""`evsession archive`: copy what is in the log into files before it is trimmed, once or as a service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evsession.cli.connect import INTERRUPTED, App, AsJson, fail, manager_of, reading, run
from evsession.cli.when import duration, pause_of
from evsession.errors import ArchiveUnavailable, ConfigError, StoreUnavailable

if TYPE_CHECKING:
    from evsession.archive.archiver import Archiver, Progress, ShardReport
    from evsession.archive.signing import Signer
    from evsession.manager import SessionManager


def archive(
    *,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="PLACE",
            envvar="EVSESSION_ARCHIVE",
            help="A folder, or whatever fsspec reaches, such as s3://bucket/folder.",
        ),
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stay, and archive again this often: 60s, 5m, 1h.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How much of the log stays in Redis although it is archived. Default: StorePolicy.retention.",
        ),
    ] = None,
    expire: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Remove files from the archive whose events are all older: 400d. Default: never."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="EVSESSION_ARCHIVE_KEY",
            help="A PEM file with an Ed25519 key to sign with. Default: one derived from the audit key or secret key.",
        ),
    ] = None,
    is_public_key: Annotated[
        bool, typer.Option("--public-key", help="Print the public key that auditors need, and do nothing else.")
    ] = False,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Copy the log of every shard into signed files, verify them, then trim what is old enough.

    It goes on where it ended, may be killed at any time, and several at once do no harm.

    evsession archive --to /var/lib/shop-audit

    evsession archive --to s3://shop-audit --every 5m --app shop.main:manager
    """
    from evsession.archive import require

    try:
        require()
        if is_public_key:
            typer.echo(_signer(manager_of(app), key).public_pem, nl=False)
            return
        pause = None if every is None else pause_of(every)
        kept, retained = (None if text is None else duration(text) for text in (keep, expire))
    except ConfigError as error:
        fail(str(error))
    if to is None:
        fail("where to? pass --to with a folder or a URL such as s3://bucket/folder, or set EVSESSION_ARCHIVE")
    work = _Task(app, to, key, kept, retained, pause, as_json).run()
    run(work, interrupted=INTERRUPTED if pause is None else 0)


def _signer(manager: SessionManager, key: Path | None) -> Signer:
    from evsession.archive.signing import Signer

    return Signer.of(manager.worker.keys) if key is None else Signer.load(key)


@dataclass(frozen=True, slots=True)
class _Task:
    app: str | None
    to: str
    key: Path | None
    keep: timedelta | None
    retention: timedelta | None
    pause: timedelta | None
    as_json: bool

    async def run(self) -> None:
        """Archive once, or again and again; then an outage is told and waited out."""
        from evsession.audit.collector import collector_relaxed
        from evsession.audit.reader import Reader

        async with reading(self.app) as manager:
            with _shown(as_json=self.as_json) as show, collector_relaxed():
                archiver = self._archiver(manager, show)
                while True:
                    try:
                        shards = await Reader(manager.worker).shards()  # there may be new ones
                        _report(await replace(archiver, shards=shards).run(), as_json=self.as_json)
                    except (ArchiveUnavailable, StoreUnavailable) as error:
                        if self.pause is None:
                            raise
                        typer.echo(f"evsession: {error}", err=True)
                    if self.pause is None:
                        return
                    await asyncio.sleep(self.pause.total_seconds())

    def _archiver(self, manager: SessionManager, show: Callable[[Progress], None]) -> Archiver:
        from evsession.archive import open_archive
        from evsession.archive.archiver import Archiver
        from evsession.archive.signing import Trusted

        worker, signer = manager.worker, _signer(manager, self.key)
        return Archiver(
            store=worker.store,
            archive=open_archive(self.to, worker.keys.namespace),
            signer=signer,
            trusted=Trusted.of(worker.keys).with_signer(signer),
            keep=worker.retention if self.keep is None else self.keep,
            retention=self.retention,
            on_progress=show,
        )


def _report(reports: list[ShardReport], *, as_json: bool) -> None:
    from evsession.cli.rendering import print_json

    if as_json:
        for report in reports:
            print_json(report._asdict())
        return
    events, files, trimmed = (sum(getattr(one, name) for one in reports) for name in ("events", "files", "trimmed"))
    expired, busy = sum(one.expired for one in reports), sum(one.is_busy for one in reports)
    removed = f", removed {expired} old files" if expired else ""
    others = f"; {busy} of {len(reports)} shards are another archiver's at the moment" if busy else ""
    typer.echo(f"archived {events:,} events in {files} files, trimmed {trimmed:,} from the log{removed}{others}")


@contextmanager
def _shown(*, as_json: bool) -> Iterator[Callable[[Progress], None]]:
    """Show a bar for each shard with something to do, if there is a terminal to show it on."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if as_json or not console.is_terminal:
        yield lambda progress: None
        return
    columns = (TextColumn("shard {task.description}"), BarColumn(), TextColumn("{task.fields[events]:,} events"))
    with Bars(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        tasks = {}

        def show(progress: Progress) -> None:
            if progress.shard not in tasks and progress.step != "trimmed":
                tasks[progress.shard] = bars.add_task(progress.shard, total=1.0, events=0)
            if progress.shard in tasks:
                bars.update(tasks[progress.shard], completed=progress.share, events=progress.events)

        yield show
