"""`evsession verify`: is the log what was written, and are the snapshots what the log makes?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evsession.archive import open_archive, require
from evsession.cli.connect import FAULTY, App, AsJson, fail, reading, run

if TYPE_CHECKING:
    from evsession.archive.signing import Trusted
    from evsession.audit import Report
    from evsession.keys import Keyring


def verify(
    archive: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="An archive to check as well. Default: EVSESSION_ARCHIVE, or the --app's own."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A PEM file with the public key of who signs the archive, if not the application."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many processes work at it. Default: one for each processor."),
    ] = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Check every event and every snapshot, and exit with 2 if there is a fault.

    evsession verify

    evsession verify --app shop.main:manager --archive s3://shop-audit --key archive.pub
    """
    from evsession.cli.rendering import print_json

    report = run(_verified(app, archive, key, jobs))
    if as_json:
        print_json(plain_report(report))
    else:
        show_report(report)
    if not report.ok:
        raise typer.Exit(FAULTY)


async def _verified(app: str | None, archive: str | None, key: Path | None, jobs: int | None) -> Report:
    from evsession.audit.processes import processors
    from evsession.cli.progress import bar

    async with reading(app) as manager:
        keys = manager.worker.keys
        if archive is not None:
            manager.audit.archive = place = open_archive(archive, keys.namespace, manager.worker.store)
            await place.require()
        try:
            with bar() as tell:
                return await manager.audit.verify(tell, trusted=_trusted(keys, key), jobs=jobs or processors())
        except OSError as error:
            fail(f"the log cannot be sorted: {error}; set TMPDIR to a place with 300 bytes for each event")


def _trusted(keys: Keyring, key: Path | None) -> Trusted | None:
    if key is None:
        return None
    require()
    from evsession.archive.signing import Trusted

    return Trusted.of(keys).with_file(key)


def plain_report(report: Report) -> dict[str, Any]:
    """Return a report as JSON can hold it."""
    return {"ok": report.ok} | asdict(report)


def show_report(report: Report) -> None:
    """Print a report for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from evsession.cli.rendering import printable

    console = Console(highlight=False)
    if report.faults:
        table = Table("fault", "session", "event", "version", "what")
        for one in report.faults:
            table.add_row(
                one.kind, Text(printable(one.session_id) or f"log {one.shard}"), Text(printable(one.id)),
                str(one.version or ""), Text(printable(one.detail)),
            )  # fmt: skip
        console.print(table)
    for line in lines_of(report):
        console.print(Text(line))


def lines_of(report: Report) -> list[str]:
    """Return what a report says beside its list of faults, a line for each thing."""
    lines = [
        f"{report.events:,} events and {report.snapshots:,} snapshots of {report.sessions:,} sessions"
        f" in {report.seconds:.1f} s"
    ]
    lines += [
        f"log {one.shard}: {one.entries:,} entries were trimmed, it begins at {one.first}" for one in report.trimmed
    ]
    if report.archived:
        lines.append(f"{report.archived:,} events in the archive, its files checked")
    if report.not_checkable_count:
        lines.append(f"{report.not_checkable_count:,} sessions began before that, so their state could not be checked")
    if report.uncounted:
        lines.append("this server does not count what was deleted (Redis 7.0 does), so that was not checked")
    if (more := report.fault_count - len(report.faults)) > 0:
        lines.append(f"{more:,} more faults are not listed")
    return [*lines, "no fault was found" if report.ok else f"{report.fault_count:,} faults"]
