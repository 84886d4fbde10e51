"""How the commands find their manager, read without a trace, and say what they cannot do."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio.to_thread
import pytest
from typer.testing import CliRunner, Result

from evsession import Actor, SessionManager, StoreUnavailable
from evsession.cli import main
from evsession.cli.app import app
from evsession.cli.connect import reading
from tests.servers import Server

KEY = "a-secret-key-for-tests-32-characters"
NOBODY = "00" + "A" * 22


async def command(*arguments: str, **environment: str) -> Result:
    """Return what a command did, run as in a process of its own: in a thread without an event loop."""
    settable = ("URL", "NAMESPACE", "SECRET_KEY", "AUDIT_KEY", "ARCHIVE", "APP")
    bare = {f"EVSESSION_{name}": "" for name in settable}
    names: dict[str, str | None] = {name: value or None for name, value in (bare | environment).items()}
    return await anyio.to_thread.run_sync(lambda: CliRunner().invoke(app, list(arguments), env=names))


def settings(server: Server, namespace: str = "cli") -> dict[str, str]:
    """Return the environment that names a store on a server."""
    return {"EVSESSION_URL": server.url, "EVSESSION_SECRET_KEY": KEY, "EVSESSION_NAMESPACE": namespace}


@pytest.fixture
async def manager(server: Server) -> AsyncIterator[SessionManager]:
    """Return a manager whose worker runs beside the commands."""
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="cli") as manager:
        yield manager


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Iterator[str]:
    """Return the name of an application's module in the working directory, with a manager in it."""
    name = f"shop_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(
        "from evsession import SessionManager\n"
        f"manager = SessionManager.from_url({server.url!r}, secret_key={KEY!r}, namespace='cli')\n"
        "def make():\n    return manager\n"
        "class Sessions:\n    manager = manager\n"
        "number = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield name
    sys.path[:] = path


@pytest.mark.parametrize("path", ["manager", "make", "Sessions.manager"])
async def test_the_manager_of_an_application_is_found(manager: SessionManager, module: str, path: str) -> None:
    """By the module in the working directory and its name there, a function that makes it, or a member."""
    session = await manager.create(user_id="ada")
    done = await command("history", session.id, "--json", "--app", f"{module}:{path}")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["user_id"] == "ada"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("{}", "write it like shop.main:manager"),
        ("{}:", "write it like shop.main:manager"),
        ("{}:nothing", "there is no 'nothing'"),
        ("{}:number", "name a SessionManager"),
        ("no_such_module:manager", "cannot be imported"),
    ],
)
async def test_an_application_that_is_not_found_is_said(module: str, path: str, says: str) -> None:
    """In one line with the way out, and exit code 1."""
    done = await command("history", NOBODY, "--app", path.format(module))
    assert done.exit_code == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


async def test_without_a_store_the_fix_is_named() -> None:
    """Both ways."""
    done = await command("history", NOBODY)
    assert done.exit_code == 1
    assert "pass --app module:manager, or set EVSESSION_URL" in done.stderr


async def test_a_server_that_is_away_is_said(server: Server) -> None:
    """And not waited for."""
    server.kill()
    done = await command("history", NOBODY, **settings(server))
    assert done.exit_code == 1
    assert "the session store is unavailable" in done.stderr


async def test_a_reading_that_was_cut_off_warns_of_no_half_a_change(
    server: Server, manager: SessionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever only looks on is not asked to find out what was written."""
    for name, value in settings(server).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreUnavailable, match="connection lost; try again in 1 s"):
        async with reading(None):
            raise StoreUnavailable(timedelta(seconds=1), "connection lost", outcome_unknown=True)


async def test_another_key_or_namespace_is_said(manager: SessionManager, server: Server) -> None:
    """Neither is taken for an empty log."""
    wrong = await command("history", NOBODY, **settings(server) | {"EVSESSION_SECRET_KEY": KEY[::-1]})
    assert wrong.exit_code == 1
    assert "none of the secret keys given" in wrong.stderr
    unknown = await command("history", NOBODY, **settings(server, "nobodys"))
    assert unknown.exit_code == 1
    assert "nothing was ever written under this namespace" in unknown.stderr


async def test_reading_leaves_no_trace(manager: SessionManager, server: Server) -> None:
    """No record that a receipt would wait for, no subscription, no key; not even under a namespace that is unused."""
    session = await manager.create(user_id="ada")
    (record,) = await manager.worker.store.records("00")
    keys = sorted(server.cli("KEYS", "*"))
    assert (await command("history", session.id, **settings(server))).exit_code == 0
    assert list(await manager.worker.store.records("00")) == [record]
    assert list(await manager.worker.store.records("ctl")) == [record]
    await command("history", session.id, **settings(server, "nobodys"))
    assert sorted(server.cli("KEYS", "*")) == keys


async def test_a_started_manager_goes_on_when_its_reading_ends(manager: SessionManager) -> None:
    """`reading` closes only what it opened."""
    session = await manager.create(user_id="ada")
    async with manager.reading() as same:
        assert same is manager
    assert await manager.get(session.id) is not None
    assert (await manager.health()).ready


async def test_a_manager_that_has_read_can_start_as_a_worker(server: Server, manager: SessionManager) -> None:
    """Reading is over when its block is."""
    session = await manager.create(user_id="ada")
    other = SessionManager.from_url(server.url, secret_key=KEY, namespace="cli")
    async with other.reading():
        assert len(await other.audit.history(session.id)) == 1
    async with other:
        assert len(await manager.worker.store.records("00")) == 2


# ── one session ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def session_id(manager: SessionManager) -> str:
    """Return a session with a past: a canary in a redacted key, control characters, and an end by an operator."""
    data = {"cart": ["tea"], "api_token": "canary", "note": "\x1b[2J\x9b"}
    session = await manager.create(user_id="ada", data=data)
    await manager.update(session.id, lambda data: data.update(cart=["tea", "milk"], theme="dark"))
    await manager.update(session.id, lambda data: data.pop("theme") and None)
    await manager.revoke(session.id, reason="lost phone \x1b[31m", actor=Actor.admin("joe"))
    return session.id


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["history"], [f"{datetime.now(UTC):%Y-%m-}", "authenticated", "user ada", "lost phone", "admin joe"]),
        (["show"], ["ended", "revoked", "ada"]),
        (["show", "--version", "2"], ['["tea","milk"]', "version", "theme", '"dark"']),
        (["diff", "--", "1", "2"], ['- cart = ["tea"]', '+ cart = ["tea","milk"]', '+ theme = "dark"']),
        (["diff", "--", "2", "3"], ['- theme = "dark"']),
        (["diff", "--", "3", "3"], ["no difference"]),
        (["diff", "--", "0", "now"], ["no difference"]),
        (["show", "--at", "now"], ["ended", "revoked"]),
        (["explain"], ["of user ada was revoked by admin joe at", "because: lost phone", "by", "authenticated"]),
    ],
)
async def test_a_session_is_printed_for_people(
    server: Server, session_id: str, arguments: list[str], expected: list[str]
) -> None:
    """Nothing that a client wrote steers the terminal, and no redacted value is there."""
    name, *more = arguments
    done = await command(name, session_id, *more, **settings(server))
    assert done.exit_code == 0, done.output
    for text in expected:
        assert text in done.stdout
    assert not {"\x1b", "\x9b"} & set(done.output)
    assert "canary" not in done.output


async def test_a_session_is_printed_for_programs(server: Server, session_id: str) -> None:
    """Each reading as JSON, complete and without the canary."""

    async def told(*arguments: str) -> list[dict[str, Any]]:
        done = await command(*arguments, "--json", **settings(server))
        assert done.exit_code == 0, done.output
        assert "canary" not in done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    events = await told("history", session_id)
    assert [(event["version"], event["type"]) for event in events] == [
        (1, "authenticated"), (2, "updated"), (3, "updated"), (4, "ended"),
    ]  # fmt: skip
    (state,) = await told("show", session_id, "--version", "3")
    assert (state["version"], state["user_id"], state["ended"]) == (3, "ada", None)
    assert state["data"]["cart"] == ["tea", "milk"]
    assert state["redacted"] == ["/api_token"]
    (then,) = await told("show", session_id, "--at", events[0]["at"])
    assert then["version"] >= 1
    (difference,) = await told("diff", session_id, "1", "2")
    assert difference == {"from": 1, "to": 2, "set": {"cart": ["tea", "milk"], "theme": "dark"}, "unset": []}
    (why,) = await told("explain", session_id)
    assert (why["status"], why["cause"], why["actor"]) == ("ended", "revoked", {"kind": "admin", "id": "joe"})
    assert why["event"]["id"] == events[-1]["id"]


def test_ctrl_c_while_it_is_loading_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first third of a second is spent on imports, and whoever sees the typing error presses it then."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evsession.cli.app.app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


@pytest.mark.parametrize("arguments", [["show", "--version", "5"], ["diff", "5", "1"], ["diff", "1", "5"]])
async def test_a_version_that_is_yet_to_come_is_said(server: Server, session_id: str, arguments: list[str]) -> None:
    """What the newest one looks like would be the answer to another question."""
    name, *more = arguments
    done = await command(name, session_id, *more, **settings(server))
    assert done.exit_code == 1
    assert "has no version 5; its last is 4" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", NOBODY], "did not exist then"),
        (["show", NOBODY, "--version", "1", "--at", "2026-11-21"], "contradict each other"),
        (["show", NOBODY, "--at", "yesterday"], "neither a version nor a time"),
        (["diff", NOBODY, "1", "x"], "neither a version nor a time"),
        (["diff", NOBODY, "1", "2"], "existed at neither"),
        (["show", NOBODY, "--at", "999999999d"], "an age such as 15m"),
        (["replay", "--since", "999999999d"], "an age such as 15m"),
        (["replay", "--until", "999999999d"], "an age such as 15m"),
        (["stats", "--every", "0s"], "write 1s or more"),
        (["archive", "--to", "x", "--every", "0s"], "write 1s or more"),
        (["explain", NOBODY], "Nothing is known of a session"),
        (["explain", "cookie.and.more"], "pass the public id"),
    ],
)
async def test_what_cannot_be_printed_is_said(
    server: Server, manager: SessionManager, arguments: list[str], says: str
) -> None:
    """In one line, with exit code 1."""
    done = await command(*arguments, **settings(server))
    assert done.exit_code == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
