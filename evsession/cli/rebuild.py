"""`evsession rebuild`: snapshots that were lost come back from log and archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from evsession.archive import open_archive
from evsession.cli.connect import App, AsJson, joined, manager_of, run, visiting

if TYPE_CHECKING:
    from evsession.audit.rebuild import Rebuilt, Refusal

WHY: Final[dict[Refusal, str]] = {
    "incomplete": "their first events are in neither log nor archive",
    "faulty": "their events do not verify: see evsession verify",
    "revoked": "a revocation by name has ended them, or that cannot be ruled out",
    "expired": "a deadline has passed, as far as is known",
    "present": "they were restored meanwhile",
}


def rebuild(
    writes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without this it is only said what would be done.")
    ] = False,
    idle_from_now: Annotated[
        bool,
        typer.Option(
            "--idle-from-now",
            help="Let idle timeouts begin anew, where nobody knows when the session was last looked at.",
        ),
    ] = False,
    archive: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Where the archive is. Default: EVSESSION_ARCHIVE, or the --app's own."),
    ] = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Restore the snapshots of living sessions that have none, from their events. Nobody who was signed out comes back.

    evsession rebuild

    evsession rebuild --yes --archive s3://shop-audit
    """
    from evsession.cli.rendering import print_json

    rebuilt = run(_rebuilt(app, archive, writes=writes, idle_from_now=idle_from_now))
    if as_json:
        print_json(plain_rebuilt(rebuilt))
    else:
        show_rebuilt(rebuilt, writes=writes)


async def _rebuilt(app: str | None, archive: str | None, *, writes: bool, idle_from_now: bool) -> Rebuilt:
    from evsession.audit.rebuild import rebuild as restore
    from evsession.cli.progress import bar

    # Only an archive can have what a server knows nothing of any more.
    has_archive = archive is not None or manager_of(app).audit.archive is not None
    async with (joined if has_archive else visiting)(app) as manager:
        if archive is not None:
            manager.audit.archive = place = open_archive(archive, manager.worker.keys.namespace, manager.worker.store)
            await place.require()
        with bar() as tell:
            return await restore(
                manager, writes=writes, idle_from_now=idle_from_now, archive=manager.audit.archive, progress=tell
            )


def plain_rebuilt(rebuilt: Rebuilt) -> dict[str, Any]:
    """Return what a rebuild did as JSON can hold it."""
    return {
        "restored": [one._asdict() for one in rebuilt.restored],
        "restored_count": rebuilt.restored_count,
        "refused": rebuilt.refused,
        "refused_counts": rebuilt.refused_counts,
        "living": rebuilt.living,
        "ended": rebuilt.ended,
    }


def show_rebuilt(rebuilt: Rebuilt, *, writes: bool) -> None:
    """Print what a rebuild did for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from evsession.cli.rendering import printable

    console = Console(highlight=False)
    if rebuilt.restored:
        table = Table("session", "user", "version", "lost values")
        for one in rebuilt.restored:
            lost = Text(printable(" ".join(one.lost)))
            table.add_row(one.session_id, Text(printable(one.user_id or "")), str(one.version), lost)
        console.print(table)
    done = "were restored" if writes else "would be restored; --yes does it"
    lines = [f"{rebuilt.restored_count:,} sessions {done}"]
    lines += [f"{count:,} not: {WHY[why]}" for why, count in rebuilt.refused_counts.items()]
    lines.append(f"{rebuilt.living:,} have their snapshots, {rebuilt.ended:,} have ended")
    for line in lines:
        console.print(Text(line))
