"""`evsession users`, `sessions` and `revoke`, beside an application's worker on a real server."""

from __future__ import annotations

import getpass
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import pytest
from typer.testing import CliRunner, Result

from evsession import Actor, SessionManager
from evsession.cli.app import app
from evsession.cli.revoke import actor_of
from evsession.view import CONTROL
from tests.conftest import until
from tests.servers import Server

KEY: Final = "a-secret-key-for-tests-32-characters"
NOBODY: Final = "00" + "A" * 22
ROOT: Final = Path(__file__).parents[2]
GHOST: Final = "gone"
"""A worker whose record says that it may serve for a minute, and that never answers."""


async def command(*arguments: str, **environment: str) -> Result:
    """Return what a command did, run as in a process of its own: in a thread without an event loop."""
    names: dict[str, str | None] = {"EVSESSION_APP": None, "EVSESSION_ARCHIVE": None, **environment}
    return await anyio.to_thread.run_sync(lambda: CliRunner().invoke(app, list(arguments), env=names))


def settings(server: Server, namespace: str = "cli") -> dict[str, str]:
    """Return the environment that names a store on a server."""
    return {"EVSESSION_URL": server.url, "EVSESSION_SECRET_KEY": KEY, "EVSESSION_NAMESPACE": namespace}


@pytest.fixture
async def manager(server: Server) -> AsyncIterator[SessionManager]:
    """Return a manager whose worker runs beside the commands, in a namespace that is not new."""
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="cli") as manager:
        for shard in (CONTROL, "00"):
            born_at, incarnation = server.cli("GET", f"{{cli:{shard}}}:birth").decode().split(" ")
            server.cli("SET", f"{{cli:{shard}}}:birth", f"{int(born_at) - 3_600_000} {incarnation}")
        yield manager


async def living(manager: SessionManager, user: str) -> list[str | None]:
    """Return the ids of a user's living sessions."""
    return [info.id for info in await manager.sessions_of(user)]


def join_ghost(server: Server, bound: int = 60_000) -> None:
    """Leave the record of a worker that never answers; `bound` in ms."""
    server.cli("HSET", f"{{cli:{CONTROL}}}:workers", GHOST, f"0-0 0 {bound}")
    server.cli("HSET", "{cli:meta}", f"bound:{bound}", "1")


async def test_users_are_listed(manager: SessionManager, server: Server) -> None:
    """One a line; as JSON too; as many as were asked for, and without becoming a worker."""
    for user in ("ada", "bob", "eve"):
        await manager.create(user_id=user)
    plain = await command("users", **settings(server))
    assert sorted(plain.stdout.splitlines()) == ["ada", "bob", "eve"]
    listed = await command("users", "--json", "--limit", "2", **settings(server))
    assert [set(json.loads(line)) for line in listed.stdout.splitlines()] == [{"user_id"}] * 2


async def test_the_sessions_of_a_user_are_listed(manager: SessionManager, server: Server) -> None:
    """Those that live, with all that is known of them; the command leaves no record."""
    first, second = await manager.create(user_id="ada"), await manager.create(user_id="ada")
    await manager.create(user_id="bob")
    before = {shard: set(await manager.worker.store.records(shard)) for shard in (CONTROL, "00")}
    done = await command("sessions", "ada", "--json", **settings(server))
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["session_id"] for one in found} == {first.id, second.id}
    assert found[0]["names"] == ["user:ada"]
    await manager.revoke(first.id, timeout=timedelta(0))
    table = await command("sessions", "ada", **settings(server))
    assert second.id in table.stdout
    assert first.id not in table.stdout
    assert {shard: set(await manager.worker.store.records(shard)) for shard in (CONTROL, "00")} == before


async def test_a_user_without_sessions_is_said(manager: SessionManager, server: Server) -> None:
    """On standard error, so that a program that reads the list gets an empty one."""
    done = await command("sessions", "nobody", **settings(server))
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "user nobody has no living session\n"


async def revoked(server: Server, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Return the receipt of a revocation as JSON."""
    done = await command("revoke", *arguments, "--json", **settings(server))
    assert done.exit_code == code, done.output
    receipt: dict[str, Any] = json.loads(done.stdout)
    return receipt


async def test_a_session_is_revoked(manager: SessionManager, server: Server) -> None:
    """That one alone; the receipt names the worker of the application and not the command's own."""
    lost, kept = await manager.create(user_id="ada"), await manager.create(user_id="ada")
    receipt = await revoked(server, lost.id, "--reason", "lost phone")
    assert (receipt["complete"], receipt["target"]) == (True, f"session {lost.id}")
    assert receipt["confirmed"] + receipt["fenced"] == [manager.worker.id]
    assert await living(manager, "ada") == [kept.id]
    ended = (await manager.audit.history(lost.id))[-1]
    assert (ended.cause, ended.reason, ended.actor) == ("revoked", "lost phone", Actor.admin(getpass.getuser()))


async def test_a_user_is_revoked(manager: SessionManager, server: Server) -> None:
    """With the actor and the ticket of the command, and in a sentence for people."""
    session, other = await manager.create(user_id="ada"), await manager.create(user_id="bob")
    arguments = ("--user", "ada", "--reason", "left", "--actor", "service:hr", "--ticket", "OPS-12")
    done = await command("revoke", *arguments, **settings(server))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("user ada: 1 of 1 workers in ")
    assert (await living(manager, "ada"), await living(manager, "bob")) == ([], [other.id])
    why = await manager.audit.explain(session.id)
    assert (why.cause, why.reason, why.actor, why.ticket) == ("revoked", "left", Actor.service("hr"), "OPS-12")
    assert set(await manager.worker.store.records(CONTROL)) == {manager.worker.id}


async def test_a_name_is_revoked(manager: SessionManager, server: Server) -> None:
    """Both parts of the name are said, and the receipt is as complete as for a user."""
    receipt = await revoked(server, "--named", "tenant", "acme", "--timeout", "10s")
    assert (receipt["target"], receipt["complete"]) == ("tenant acme", True)
    assert manager.worker.cache.control.newest_of(["tenant:acme"], NOBODY) > (0, 0)


async def test_everyone_is_revoked_only_by_those_who_mean_it(manager: SessionManager, server: Server) -> None:
    """Without a terminal to ask at, `--yes` is needed."""
    session = await manager.create(user_id="ada")
    refused = await command("revoke", "--everyone", **settings(server))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "pass --yes" in refused.stderr
    assert await living(manager, "ada") == [session.id]
    receipt = await revoked(server, "--everyone", "--yes", "--no-wait")
    assert receipt["target"] == "everyone"
    assert await living(manager, "ada") == []


def started(server: Server, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Start a revocation in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "evsession.cli", "revoke", *arguments],
        cwd=ROOT,
        env=os.environ | settings(server),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
async def test_everyone_is_asked_for_at_a_terminal(
    manager: SessionManager, server: Server, answer: str, code: int
) -> None:
    """The question names the namespace; only yes does it."""
    session = await manager.create(user_id="ada")
    ours, theirs = pty.openpty()
    process = started(server, "--everyone", "--no-wait", stdin=theirs)
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    out, question = await anyio.to_thread.run_sync(process.communicate)
    os.close(ours)
    assert process.returncode == code, out + question
    assert "namespace cli" in question
    assert (await living(manager, "ada") == [session.id]) is (answer == "n")


async def test_nobody_is_waited_for(manager: SessionManager, server: Server) -> None:
    """`--no-wait` is done when the entry stands, and says so."""
    session = await manager.create(user_id="ada")
    join_ghost(server)
    done = await command("revoke", "--user", "ada", "--no-wait", **settings(server))
    assert (done.exit_code, done.stdout) == (0, "user ada: in force; nobody was waited for\n")
    assert session.id not in await living(manager, "ada")


async def test_what_is_not_complete_in_time_has_a_code_of_its_own(manager: SessionManager, server: Server) -> None:
    """It is in force, and who has not answered is named."""
    await manager.create(user_id="ada")
    join_ghost(server)
    done = await command("revoke", "--user", "ada", "--timeout", "1s", **settings(server))
    assert done.exit_code == 3, done.output
    assert f"pending: {GHOST}" in done.stdout
    assert "in force, but not complete in time" in done.stderr
    receipt = await revoked(server, "--user", "ada", "--timeout", "1s", code=3)
    assert (receipt["complete"], receipt["pending"], receipt["confirmed"]) == (False, [GHOST], [manager.worker.id])
    assert await living(manager, "ada") == []


async def test_a_silent_worker_is_waited_for_until_it_is_fenced(manager: SessionManager, server: Server) -> None:
    """Without `--timeout` that is long enough: whatever its bound, in meta, is."""
    join_ghost(server, 1_000)
    receipt = await revoked(server, "--user", "ada")
    assert (receipt["complete"], receipt["fenced"]) == (True, [GHOST])


async def test_a_record_that_no_worker_left_keeps_no_receipt_from_being_complete(
    manager: SessionManager, server: Server
) -> None:
    """Nobody knows its bound, but that it is not above the longest; then it is taken for a worker that is fenced."""
    server.cli("HSET", f"{{cli:{CONTROL}}}:workers", "junk", "x y z", b"\xff", "", "short", "1-0 2000")
    server.cli("HSET", "{cli:meta}", "bound:60000", "1")
    hasty = await revoked(server, "--user", "ada", "--timeout", "1s", code=3)
    assert (hasty["complete"], hasty["pending"]) == (False, ["\\xff", "junk", "short"])
    server.cli("HDEL", "{cli:meta}", "bound:60000")
    receipt = await revoked(server, "--user", "ada")
    assert (receipt["complete"], receipt["confirmed"]) == (True, [manager.worker.id])
    assert receipt["fenced"] == ["\\xff", "junk", "short"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "pass exactly one of SESSION"),
        ((NOBODY, "--user", "ada"), "pass exactly one of SESSION"),
        ((NOBODY,), "does not live and has not ended lately"),
        ((f"{NOBODY}.{'B' * 43}",), "never the whole cookie"),
        (("--named", "user", "ada"), "--user ID for a user"),
        (("--user", ""), "pass a str, an int or a UUID"),
        (("--user", "ada", "--timeout", "soon"), "such as 60s or 7d"),
        (("--user", "ada", "--actor", "user:"), "a text of 1 to 256 characters"),
    ],
)
async def test_what_cannot_be_revoked_is_said(
    manager: SessionManager, server: Server, arguments: tuple[str, ...], says: str
) -> None:
    """One line, exit code 1, the way out, and nothing is written."""
    done = await command("revoke", *arguments, **settings(server))
    assert done.exit_code == 1, done.output
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert server.cli("EXISTS", "{cli:ctl}:log") == 0


async def test_a_namespace_that_nobody_uses_is_refused(server: Server) -> None:
    """A slip of the pen would be a complete receipt that means nothing."""
    done = await command("revoke", "--user", "ada", **settings(server, "typo"))
    assert done.exit_code == 1
    assert "nothing was ever written under this namespace" in done.stderr
    assert server.cli("KEYS", "*") == []


async def test_an_interrupted_command_leaves_no_record(manager: SessionManager, server: Server) -> None:
    """Ctrl-C while it waits: the revocation is in force, and no later receipt waits for the command."""
    await manager.create(user_id="ada")
    join_ghost(server)
    with started(server, "--user", "ada", "--timeout", "1m") as process:
        await until(lambda: manager.worker.cache.control.newest_of(["user:ada"], NOBODY) > (0, 0), "it")
        process.send_signal(signal.SIGINT)
        assert await anyio.to_thread.run_sync(process.wait, 60) == 130
    assert await living(manager, "ada") == []
    assert set(await manager.worker.store.records(CONTROL)) == {manager.worker.id, GHOST}


@pytest.mark.parametrize(
    ("text", "actor"),
    [("joe", Actor.admin("joe")), ("service:cron", Actor.service("cron")), ("ad:joe", Actor.admin("ad:joe"))],
)
def test_an_actor_is_an_admin_unless_it_says_otherwise(text: str, actor: Actor) -> None:
    """Kinds are named before a colon; any other colon belongs to the id."""
    assert actor_of(text) == actor
