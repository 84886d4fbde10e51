"""`evsession export`: events for other systems, once, since the last time, or as they happen."""

from __future__ import annotations

import os
import sys
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evsession.cli.connect import INTERRUPTED, App, fail, reading, run
from evsession.cli.when import time_of
from evsession.errors import ConfigError

if TYPE_CHECKING:
    from evsession.audit.follow import Since
    from evsession.export.output import Output
    from evsession.export.source import Wanted
    from evsession.manager import SessionManager

Format = Literal["jsonl", "ocsf", "parquet"]


def export(
    *,
    format_: Annotated[
        Format, typer.Option("--format", help="JSON lines, OCSF 1.8 as JSON lines, or a Parquet file.")
    ] = "jsonl",
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="ISO 8601, or how long ago: 24h, 7d. Default: the beginning.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only what was before this time.")] = None,
    is_following: Annotated[
        bool, typer.Option("--follow", help="Go on as events happen; without --since or --cursor from now on.")
    ] = False,
    cursor: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Go on where the last export with this file ended, and write down where."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write there instead of to standard output.")] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only these: authenticated, ended, named_revoked, …")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Only events of this user.")] = None,
    app: App = None,
) -> None:
    """Write the events of all sessions, and the revocations by name, in the order of time.

    evsession export --since 24h > audit.jsonl

    evsession export --format ocsf --follow --cursor /var/lib/siem/cursor | vector

    evsession export --format parquet --out audit.parquet --app shop.main:manager
    """
    from evsession.export.source import Wanted

    try:
        begin, end = (None if text is None else time_of(text) for text in (since, until))
        if is_following and (format_ == "parquet" or end is not None):
            msg = "--follow has no end, as --until and a Parquet file do; leave it out and export again with --cursor"
            raise ConfigError(msg)
    except ConfigError as error:
        fail(str(error))
    wanted = Wanted(types=None if not types else frozenset(types), user_id=user)
    try:
        work = Export(app, format_, out, cursor, wanted, begin, end, is_following).run()
        run(work, interrupted=0 if is_following else INTERRUPTED)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = error.filename or out or "the output"
        fail(f"{where} cannot be written: {error.strerror}; mend that, or pass --out and --cursor elsewhere")


@dataclass(frozen=True, slots=True)
class Export:
    """One run of the command. The cursor is written down only after the events before it are out."""

    app: str | None
    format: Format
    out: Path | None
    kept: Path | None
    wanted: Wanted
    since: datetime | None
    until: datetime | None
    is_following: bool

    async def run(self) -> None:
        """Write all that is wanted."""
        from evsession.export.output import opened

        begin, goes_on = self._begin(), self.is_following or self._has_begun
        async with reading(self.app) as manager:
            application = manager.worker.keys.namespace
            with opened(self.format, self.out, application, is_appended=goes_on) as output:
                last = await (self._follow if self.is_following else self._replay)(manager, begin, output)
            if last is not None:
                self._keep(last)

    @property
    def _has_begun(self) -> bool:
        return self.kept is not None and self.kept.exists()

    def _begin(self) -> Since:
        """Return where to begin. What was written down last time counts more than a time."""
        from evsession.audit.cursor import Cursor

        if self.kept is not None:
            self.kept.parent.stat()  # before anything is written, not after
            if self._has_begun:
                return Cursor.parse(self.kept.read_text().strip()).text()
        if self.since is not None:
            return self.since
        return "now" if self.is_following else "start"

    async def _replay(self, manager: SessionManager, begin: Since, output: Output) -> str | None:
        from evsession.audit.follow import cursor_of
        from evsession.export.source import Mark, end_of_logs, replayed

        mark, end = Mark(cursor_of(begin)), await end_of_logs(manager)
        async with aclosing(replayed(manager, self.wanted, begin, self.until)) as records:
            async for record in records:
                output.add(record)
                mark.move(record)
        if self.until is None:
            mark.reach(end)
        return mark.cursor.text()

    async def _follow(self, manager: SessionManager, begin: Since, output: Output) -> str | None:
        from evsession.export.source import Following

        async for record, cursor in Following(manager, self.wanted, begin):
            if record is not None:
                output.add(record)
                output.flush()
            self._keep(cursor)
        return None

    def _keep(self, cursor: str) -> None:
        """Write a cursor down, whole or not at all."""
        if self.kept is not None:
            part = self.kept.with_name(f"{self.kept.name}.part")
            part.write_text(f"{cursor}\n")
            part.replace(self.kept)
