"""`evsession sessions`: where a user is signed in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evsession.cli.connect import App, AsJson, run, visiting

if TYPE_CHECKING:
    from rich.table import Table

    from evsession.info import SessionInfo


def sessions(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 100,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Print the living sessions of a user, who signed in last first. Each was asked for: none is shown that is over.

    evsession sessions 42

    evsession sessions 42 --json
    """
    from evsession.cli.rendering import print_json, print_table, printable

    found = run(_sessions(app, user, limit))
    if as_json:
        for info in found:
            print_json(plain_info(info))
    elif found:
        print_table(_table(found))
    else:
        typer.echo(f"user {printable(user)} has no living session", err=True)


async def _sessions(app: str | None, user: str, limit: int) -> Sequence[SessionInfo]:
    async with visiting(app) as manager:
        return await manager.sessions_of(user, limit=limit)


def plain_info(info: SessionInfo) -> dict[str, Any]:
    """Return what is known of a session as JSON can hold it."""
    return {
        "session_id": info.id,
        "version": info.version,
        "user_id": info.user_id,
        "names": list(info.names),
        "created_at": _iso(info.created_at),
        "authenticated_at": _iso(info.authenticated_at),
        "last_seen": _iso(info.last_seen),
        "expires_at": _iso(info.expires_at),
        "address": info.address,
        "user_agent": info.user_agent,
        "device": info.device,
    }


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="milliseconds")


def _table(found: Sequence[SessionInfo]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from evsession.cli.rendering import printable

    table = Table("session", "browser", "from", "signed in (UTC)", "last seen", "lives until", "names")
    table.columns[0].overflow = "fold"  # to be copied
    for info in found:
        others = ", ".join(name for name in info.names if not name.startswith("user:"))
        texts = (info.id, info.device, info.address, _minute(info.authenticated_at), _minute(info.last_seen))
        row = (*texts, _minute(info.expires_at), others)
        table.add_row(*(Text(printable(text or "-")) for text in row))
    return table


def _minute(time: datetime | None) -> str | None:
    return None if time is None else time.strftime("%Y-%m-%d %H:%M")
