"""`evsession tail` and `evsession replay`: events as they happen, and as they happened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import typer

from evsession.cli.connect import App, AsJson, reading, run
from evsession.cli.when import OneSession, Route, Since, Types, Until, User, since_of, time_of

if TYPE_CHECKING:
    from evsession.events import RecordedEvent


def tail(
    *,
    since: Since = None,
    user: User = None,
    session: OneSession = None,
    type_: Types = None,
    route: Route = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Show events as they happen, until Ctrl-C, which says where to go on. An outage is waited out.

    evsession tail --since 15m --user 42

    evsession tail --type ended --route '/admin/*' --json
    """
    options = {"user_id": user, "session_id": session, "types": type_}
    run(_tail(app, since, route, options, as_json=as_json), interrupted=0)


async def _tail(
    app: str | None, since: str | None, route: str | None, options: dict[str, Any], *, as_json: bool
) -> None:
    begin, show = since_of(since, "now"), _printer(as_json=as_json, flush=True)
    async with reading(app) as manager:
        follower = manager.audit.follow(since=begin, **options)
        try:
            await _show(follower, route, show)
        finally:
            typer.echo(f"go on with: evsession tail --since {follower.cursor}", err=True)


def replay(
    *,
    since: Since = None,
    until: Until = None,
    user: User = None,
    session: OneSession = None,
    type_: Types = None,
    route: Route = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Print what happened in all sessions, in the order of time, as far back as log and archive reach.

    evsession replay --since 2h --type authenticated --type ended

    evsession replay --user 42 --since 2026-11-20 --until 2026-11-21 --json
    """
    options = {"user_id": user, "session_id": session, "types": type_}
    run(_replay(app, since, until, route, options, as_json=as_json))


async def _replay(
    app: str | None, since: str | None, until: str | None, route: str | None, options: dict[str, Any], *, as_json: bool
) -> None:
    begin, end = since_of(since, "start"), None if until is None else time_of(until)
    async with reading(app) as manager:
        events = manager.audit.replay(since=begin, until=end, **options)
        await _show(events, route, _printer(as_json=as_json))


async def _show(events: AsyncIterator[RecordedEvent], route: str | None, show: Callable[[RecordedEvent], None]) -> None:
    async for event in events:
        if route is None or fnmatchcase(str(event.context.get("route", "")), route):
            show(event)


def _printer(*, as_json: bool, flush: bool = False) -> Callable[[RecordedEvent], None]:
    from evsession.cli.rendering import line_printer, plain, print_json

    return (lambda event: print_json(plain(event), flush=flush)) if as_json else line_printer(flush=flush)
