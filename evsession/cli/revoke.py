"""`evsession revoke`: sign out a session, a user, everybody of a name, or everyone, and see who has applied it."""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from evsession.cli.connect import UNPROVED, App, AsJson, fail, reading, run, visiting
from evsession.cli.history import check_session_id
from evsession.cli.when import duration
from evsession.errors import ConfigError
from evsession.events import Actor

if TYPE_CHECKING:
    from evsession.audit.report import Progress as Told
    from evsession.manager import SessionManager
    from evsession.revocation import Receipt, Tally

NOT_AT_ALL: Final = timedelta(0)

SPARE: Final = timedelta(seconds=1)
"""How much longer than the longest bound is waited: the time to start and to append, with plenty of room."""


class Target(NamedTuple):
    """Whom to sign out: exactly one of these."""

    session: str | None
    user: str | None
    named: tuple[str, str] | None
    everyone: bool

    def check(self) -> None:
        """Raise unless it is exactly one.

        Raises:
            ConfigError: it is none, or more, or no session's id.
        """
        if sum((self.session is not None, self.user is not None, self.named is not None, self.everyone)) != 1:
            msg = "whom to sign out? pass exactly one of SESSION, --user ID, --named KIND VALUE and --everyone"
            raise ConfigError(msg)
        if self.session is not None:
            check_session_id(self.session)
        if self.named is not None:
            check_name(*self.named)

    def __str__(self) -> str:
        if self.session is not None:
            return f"session {self.session}"
        if self.user is not None:
            return f"user {self.user}"
        return "everyone" if self.named is None else " ".join(self.named)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done, by whom and why; `timeout` is None for as long as the workers' bounds take."""

    target: Target
    reason: str
    actor: Actor
    ticket: str | None
    timeout: timedelta | None


def revoke(
    session: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="The public id of one session.", show_default=False)
    ] = None,
    *,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="All sessions of this user.")] = None,
    named: Annotated[
        tuple[str, str] | None,
        typer.Option("--named", metavar="KIND VALUE", help="All with a name given at login, such as: tenant acme."),
    ] = None,
    everyone: Annotated[bool, typer.Option("--everyone", help="All sessions there are, anonymous ones too.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="A sentence for the audit trail.")] = "",
    actor: Annotated[
        str | None, typer.Option(metavar="[KIND:]ID", help="Who does it. Default: the login name, as an admin.")
    ] = None,
    ticket: Annotated[str | None, typer.Option(help="The number under which it was asked for.")] = None,
    waits: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is complete.")] = True,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long to wait, such as 5s. Default: until a silent worker is fenced."),
    ] = None,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask before --everyone.")] = False,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Sign out a session, a user, everybody of a name, or everyone, and tell which workers have applied it.

    Exits with 0 if nobody serves them any more, with 3 if it is in force but that is not proved yet.

    evsession revoke 00c3RhcmZpc2hzdGFyZmlzaA --reason "lost phone"

    evsession revoke --user 42 --reason "left the company" --ticket OPS-12

    evsession revoke --named tenant acme --timeout 10s --json
    """
    try:
        order = _order(Target(session, user, named, everyone), reason, actor, ticket, timeout, waits=waits)
    except ConfigError as error:
        fail(str(error))
    if everyone and not is_sure:
        _ask(run(_namespace(app)))
    receipt = run(_revoked(app, order))
    if receipt is None:
        fail(f"{order.target} does not live and has not ended lately; check the id, the namespace and the server")
    _show(order.target, receipt, is_waited_for=order.timeout != NOT_AT_ALL, as_json=as_json)


def check_name(kind: str, value: str) -> None:
    """Raise unless sessions can have such a name.

    Raises:
        ConfigError: they cannot.
    """
    from evsession.control import name_of

    try:
        name_of(kind, value)
    except ValueError as error:
        msg = f"{kind!r} and {value!r} make no name; write --named tenant acme, or --user ID for a user"
        raise ConfigError(msg) from error


def _order(
    target: Target, reason: str, actor: str | None, ticket: str | None, timeout: str | None, *, waits: bool
) -> Order:
    target.check()
    wait = None if timeout is None else duration(timeout)
    return Order(target, reason, actor_of(actor), ticket, wait if waits else NOT_AT_ALL)


def actor_of(text: str | None) -> Actor:
    """Return whom a text such as ``joe`` or ``service:cron`` names; without one, who is logged in to the shell.

    Raises:
        ConfigError: nobody can have this name.
    """
    if text is None:
        return Actor.admin(_login_name())
    kind, colon, id_ = text.partition(":")
    made = {"user": Actor.user, "admin": Actor.admin, "service": Actor.service, "system": Actor.system}
    return made[kind](id_) if colon and kind in made else Actor.admin(text)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number that has no name
        return f"uid {os.getuid()}"


def _ask(namespace: str) -> None:
    from evsession.cli.rendering import printable

    question = f"Sign out everyone, each session of the namespace {printable(namespace)}, and logins under way?"
    if not sys.stdin.isatty():
        fail("nobody is there to be asked whether to sign out everyone; pass --yes")
    if not typer.confirm(question, err=True):
        fail("nobody was signed out; pass exactly whom to, or say yes")


async def _namespace(app: str | None) -> str:
    async with reading(app) as manager:
        return manager.worker.keys.namespace


# ── doing it ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _revoked(app: str | None, order: Order) -> Receipt | None:
    """Return the receipt without this command's own worker, which serves nobody; None if there was no such session."""
    from evsession.cli.progress import bar
    from evsession.revocation import longest_bound

    async with visiting(app) as manager:
        timeout = order.timeout
        if timeout is None:
            bound = longest_bound(await manager.worker.store.claim({}))
            timeout = timedelta(seconds=bound) + SPARE
        with bar() as tell:
            manager.worker.revoker.on_tally = lambda tally: _tell(tell, tally)
            with manager.acting_as(order.actor, ticket=order.ticket):
                receipt = await _revoke(manager, order, timeout)
        return _without(receipt, manager.worker.id) if receipt.id else None


def _tell(tell: Told, tally: Tally) -> None:
    done = len(tally.confirmed) + len(tally.fenced)
    what = "workers" if tally.pending or tally.is_proved else "workers; making sure that these are all"
    tell(what, done, done + len(tally.pending))


async def _revoke(manager: SessionManager, order: Order, timeout: timedelta) -> Receipt:
    target, reason = order.target, order.reason
    if target.session is not None:
        return await manager.revoke(target.session, reason=reason, timeout=timeout)
    if target.user is not None:
        return await manager.revoke_user(target.user, reason=reason, timeout=timeout)
    if target.named is not None:
        return await manager.revoke_named(*target.named, reason=reason, timeout=timeout)
    return await manager.revoke_everyone(reason=reason, timeout=timeout)


def _without(receipt: Receipt, worker: str) -> Receipt:
    confirmed = tuple(one for one in receipt.confirmed if one != worker)
    pending = tuple(one for one in receipt.pending if one != worker)
    return replace(receipt, confirmed=confirmed, pending=pending)


# ── telling it ───────────────────────────────────────────────────────────────────────────────────────────────────────


def plain_receipt(target: Target, receipt: Receipt) -> dict[str, Any]:
    """Return a receipt as JSON can hold it."""
    return {
        "target": str(target),
        "id": receipt.id,
        "complete": receipt.complete,
        "confirmed": list(receipt.confirmed),
        "fenced": list(receipt.fenced),
        "pending": list(receipt.pending),
        "replicas": receipt.replicas,
        "elapsed_ms": round(receipt.elapsed.total_seconds() * 1000, 1),
    }


def _show(target: Target, receipt: Receipt, *, is_waited_for: bool, as_json: bool) -> None:
    from evsession.cli.rendering import print_json, printable

    if as_json:
        print_json(plain_receipt(target, receipt))
    else:
        typer.echo(f"{printable(str(target))}: {receipt if is_waited_for else 'in force; nobody was waited for'}")
    if is_waited_for and not receipt.complete:
        typer.echo(
            "in force, but not complete in time; the same command again may wait for longer: --timeout", err=True
        )
        raise typer.Exit(UNPROVED)
