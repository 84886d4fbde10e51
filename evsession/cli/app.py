"""The list of commands. Each is a function in a module of its own, which imports what is slow when it is called."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from evsession.cli.archive import archive
from evsession.cli.demo import demo
from evsession.cli.diff import diff
from evsession.cli.doctor import doctor
from evsession.cli.explain import explain
from evsession.cli.export import export
from evsession.cli.generate import generate
from evsession.cli.history import history
from evsession.cli.rebuild import rebuild
from evsession.cli.revoke import revoke
from evsession.cli.sessions import sessions
from evsession.cli.show import show
from evsession.cli.stats import stats
from evsession.cli.tail import replay, tail
from evsession.cli.users import users
from evsession.cli.verify import verify

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


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


app.command()(demo)
app.command()(tail)
app.command()(replay)
app.command()(history)
app.command()(show)
app.command()(diff)
app.command()(explain)
app.command()(users)
app.command()(sessions)
app.command()(revoke)
app.command()(stats)
app.command()(doctor)
app.command()(archive)
app.command()(verify)
app.command()(rebuild)
app.command()(export)
app.command()(generate)
