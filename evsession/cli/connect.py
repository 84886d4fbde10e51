"""How every command finds its manager, and how it fails: one line that ends with the way out.

A command is a function in a module of its own; `evsession.cli.app` lists it. What it needs from here::

    def explain(session: …, app: App = None, as_json: AsJson = False) -> None:
        found = run(_explained(app, session))

    async def _explained(app: str | None, session: str) -> Explanation:
        async with reading(app) as manager:
            return await manager.audit.explain(session)

Exit codes: 0 it was done; 1 it could not be done; 2 it was done and found faults, or the command was called wrongly;
3 it was done, and what proves it was not had in time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from evsession.errors import ConfigError, EvsessionError, StoreUnavailable

if TYPE_CHECKING:
    from evsession.manager import SessionManager

T = TypeVar("T")

FAILED: Final = 1
FAULTY: Final = 2
UNPROVED: Final = 3
INTERRUPTED: Final = 130
"""What shells report after Ctrl-C."""

App = Annotated[
    str | None,
    typer.Option(
        "--app",
        metavar="MODULE:MANAGER",
        envvar="EVSESSION_APP",
        help="The application's SessionManager, such as shop.main:manager. Without it: EVSESSION_URL, "
        "EVSESSION_NAMESPACE and EVSESSION_SECRET_KEY.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, one object a line.")]
SessionId = Annotated[
    str, typer.Argument(metavar="SESSION", help="The session's public id: the cookie's value up to the first dot.")
]


def manager_of(app: str | None) -> SessionManager:
    """Return the manager that `module:name` names, or the one of the environment.

    Raises:
        ConfigError: there is none; the text names the fix.
    """
    from evsession.manager import SessionManager

    if app is None:
        if "EVSESSION_URL" not in os.environ:
            msg = "which store? pass --app module:manager, or set EVSESSION_URL, as in redis://localhost:6379/0"
            raise ConfigError(msg)
        return SessionManager.from_env()
    found = _imported(app)
    if not isinstance(found, SessionManager) and callable(found):
        found = found()
    if not isinstance(found, SessionManager):
        msg = f"--app {app} is a {type(found).__name__}; name a SessionManager, or a function that returns one"
        raise ConfigError(msg)
    return found


def _imported(app: str) -> Any:
    module, colon, path = app.partition(":")
    if not (module and colon and path):
        msg = f"--app {app} names no object; write it like shop.main:manager"
        raise ConfigError(msg)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = import_module(module)
    except ImportError as error:
        msg = f"--app {app} cannot be imported ({error}); run it where your application's imports work"
        raise ConfigError(msg) from error
    for name in path.split("."):
        if not hasattr(found, name):
            msg = f"--app {app} leads nowhere: there is no {name!r} in {module}; name the SessionManager in it"
            raise ConfigError(msg)
        found = getattr(found, name)
    return found


@asynccontextmanager
async def reading(app: str | None) -> AsyncIterator[SessionManager]:
    """Open the manager to read, without a trace: no worker's record, no heartbeat, no subscription.

    Raises:
        ConfigError: there is no such manager, or nothing to read.
        StoreUnavailable: the store did not answer.
    """
    try:
        async with manager_of(app).reading() as manager:
            yield manager
    except StoreUnavailable as error:
        if not error.outcome_unknown:
            raise
        raise StoreUnavailable(error.retry_after, error.detail) from error  # what only reads may be repeated


@asynccontextmanager
async def joined(app: str | None) -> AsyncIterator[SessionManager]:
    """Open the manager as a worker, for commands that change something.

    Raises:
        ConfigError: there is no such manager, or the namespace is not its own.
    """
    async with manager_of(app) as manager:
        yield manager


@asynccontextmanager
async def visiting(app: str | None) -> AsyncIterator[SessionManager]:
    """Open the manager as a worker for a moment, in a namespace that an application uses already.

    Its record goes when it closes, so that nobody waits for it.

    Raises:
        ConfigError: there is no such manager, or nobody has ever used its namespace.
        StoreUnavailable: the store did not answer.
    """
    manager = manager_of(app)
    async with manager.reading():
        pass
    async with manager:
        yield manager


def run(work: Coroutine[Any, Any, T], *, interrupted: int = INTERRUPTED) -> T:
    """Run a command's work and return its result; an error of evsession ends the process with one line and code 1.

    `interrupted` is the exit code after Ctrl-C: 0 for a command that nothing else ends.
    """
    try:
        return asyncio.run(work)
    except EvsessionError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None


def fail(message: str) -> NoReturn:
    """Say in one line of printable text why a command cannot be carried out, and end with code 1."""
    from evsession.cli.rendering import printable

    typer.echo(f"evsession: {printable(message)}", err=True)
    raise typer.Exit(FAILED)
