"""`evsession users`: who has sessions."""

from __future__ import annotations

from typing import Annotated

import typer

from evsession.cli.connect import App, AsJson, reading, run


def users(
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Print the ids of all users that have sessions, or had some a moment ago; one a line, in no order.

    evsession users

    evsession users --json --limit 100
    """
    run(_print_users(app, limit, as_json=as_json))


async def _print_users(app: str | None, limit: int | None, *, as_json: bool) -> None:
    from evsession.cli.rendering import print_json, printable

    count = 0
    async with reading(app) as manager:
        async for user in manager.users():
            print_json({"user_id": user}) if as_json else print(printable(user))
            count += 1
            if count == limit:
                return
