"""`evsession export` against a real server: every event once, in order, in each format, and on from where it ended."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest

from evsession import Actor, SessionManager
from evsession.audit.follow import cursor_of
from evsession.canonical import dumps
from evsession.export.source import Following, Wanted, replayed
from evsession.view import CONTROL
from tests.archive.logs import files_in
from tests.conftest import until
from tests.integration.apps import logged
from tests.integration.test_command_line import KEY, command, settings
from tests.servers import Server


@pytest.fixture
async def manager(server: Server) -> AsyncIterator[SessionManager]:
    """A manager whose worker runs beside the command."""
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="cli") as manager:
        yield manager


async def lived(manager: SessionManager, user: str = "ada", password: str = "hunter2") -> str:
    """Let a session begin, change and end; three events."""
    session = await manager.create(user_id=user, data={"password": password})
    await manager.update(session.id, partial(dict.update, cart=["tea"]))
    await manager.revoke(session.id, reason="lost phone", actor=Actor.admin("joe"))
    return session.id


def revoke_by_name(server: Server, name: str) -> None:
    """Write an entry into the control log, as a revocation by name does."""
    fields: dict[str, str | bytes | int] = {
        "t": "named_revoked", "s": name, "n": 1, "p": "0-0", "i": os.urandom(16), "o": 0, "a": "admin joe",
        "c": b'{"w":"ab12"}', "d": dumps({"name": name, "reason": "left"}), "k": "abcd", "m": bytes(16),
    }  # fmt: skip
    id_ = server.cli("XADD", "{cli:ctl}:log", "*", *(part for pair in fields.items() for part in pair))
    server.cli("SET", "{cli:ctl}:end", id_ + b" " + bytes(fields["i"]))  # type: ignore[arg-type]


async def exported(server: Server, *arguments: str) -> list[dict[str, Any]]:
    """Return the lines of an export."""
    done = await command("export", *arguments, **settings(server))
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_every_event_comes_in_the_order_of_time(server: Server, manager: SessionManager) -> None:
    """Those of sessions and the revocations by name, with OWASP's terms; what is secret only as a digest."""
    first = await lived(manager)
    revoke_by_name(server, "user:bob")
    second = await lived(manager, "bob")
    events = await exported(server)
    assert [(one["session_id"], one["type"]) for one in events] == [
        (first, "authenticated"), (first, "updated"), (first, "ended"),
        (None, "named_revoked"),
        (second, "authenticated"), (second, "updated"), (second, "ended"),
    ]  # fmt: skip
    assert [one["owasp"] for one in events[:4]] == [
        "authn_login_success:ada", None, "session_expired:ada,revoked", "authn_token_revoked:user_bob,all",
    ]  # fmt: skip
    assert events[2]["actor"] == {"kind": "admin", "id": "joe"}
    assert (events[3]["shard"], events[3]["name"], events[3]["reason"]) == (CONTROL, "user:bob", "left")
    assert "hunter2" not in json.dumps(events)
    assert events[0]["set"]["password"].startswith("redacted:")
    assert datetime.fromisoformat(events[0]["at"]).tzinfo is not None


async def test_ocsf_comes_as_lines(server: Server, manager: SessionManager) -> None:
    """Their form is tested event by event elsewhere."""
    await lived(manager)
    events = await exported(server, "--format", "ocsf")
    assert [one["type_uid"] for one in events] == [300201, 300403, 300202]
    assert events[0]["service"] == {"name": "cli"}


async def test_a_parquet_file_appears_when_it_is_complete(
    server: Server, manager: SessionManager, tmp_path: Path
) -> None:
    """And DuckDB reads it."""
    await lived(manager)
    out = tmp_path / "audit.parquet"
    assert await exported(server, "--format", "parquet", "--out", str(out)) == []
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT type, user_id FROM '{out}' ORDER BY id").fetchall()
    assert rows == [("authenticated", "ada"), ("updated", "ada"), ("ended", "ada")]
    assert list(files_in(tmp_path, "*")) == ["audit.parquet"]


async def test_only_what_is_wanted_comes(server: Server, manager: SessionManager) -> None:
    """By type, by user, by time."""
    await lived(manager)
    revoke_by_name(server, "user:bob")
    await lived(manager, "bob")
    assert [one["type"] for one in await exported(server, "--type", "ended", "--type", "named_revoked")] == [
        "ended", "named_revoked", "ended",
    ]  # fmt: skip
    assert [one["type"] for one in await exported(server, "--type", "named_revoked")] == ["named_revoked"]
    assert [one["type"] for one in await exported(server, "--user", "bob")] == [
        "named_revoked", "authenticated", "updated", "ended",
    ]  # fmt: skip
    assert len(await exported(server, "--since", "1h")) == 7
    assert await exported(server, "--until", "1h") == []
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert await exported(server, "--since", later) == []
    assert len(await exported(server, "--until", later)) == 7


async def test_with_a_cursor_it_goes_on_where_it_ended(server: Server, manager: SessionManager, tmp_path: Path) -> None:
    """Nothing twice, nothing left out, whatever shard or log it is in."""
    cursor = ("--cursor", str(tmp_path / "cursor"))
    assert await exported(server, *cursor) == []
    await lived(manager)
    assert len(await exported(server, *cursor)) == 3
    assert await exported(server, *cursor) == []
    revoke_by_name(server, "tenant:acme")
    await lived(manager)
    assert [one["type"] for one in await exported(server, *cursor)] == [
        "named_revoked", "authenticated", "updated", "ended",
    ]  # fmt: skip
    assert await exported(server, *cursor) == []


async def test_what_was_exported_before_stays_in_the_file(
    server: Server, manager: SessionManager, tmp_path: Path
) -> None:
    """A cursor says that the events before it are out, so the next export adds to them; half a line is made good."""
    out = tmp_path / "events.jsonl"
    more = ("--cursor", str(tmp_path / "cursor"), "--out", str(out))
    await lived(manager)
    await exported(server, *more)
    with out.open("ab") as file:
        file.write(b'{"half":')
    await lived(manager)
    await exported(server, *more)
    assert [json.loads(line) for line in out.read_text().splitlines()] == await exported(server)
    out.write_text("x" * 200_000)  # no line at all
    await lived(manager)
    await exported(server, *more)
    assert len(read(out)) == 3


async def test_a_cursor_behind_the_trimmed_end_says_so(server: Server, manager: SessionManager, tmp_path: Path) -> None:
    """A SIEM must not miss events without being told; with the archive there is nothing to miss."""
    out, cursor = tmp_path / "events.jsonl", ("--cursor", str(tmp_path / "cursor"))
    await lived(manager)
    assert len(await exported(server, *cursor, "--out", str(out))) == 0
    session = await manager.create(user_id="ada")
    for n in range(200):
        await manager.update(session.id, partial(dict.update, n=n))
    done = await command("archive", "--to", str(tmp_path / "archive"), "--keep", "0s", **settings(server))
    assert done.exit_code == 0, done.output
    for arguments in (["export", *cursor], ["replay", "--since", (tmp_path / "cursor").read_text().strip()]):
        done = await command(*arguments, **settings(server))
        assert done.exit_code == 1, done.output
        assert "give the archive as well" in done.stderr
    done = await command("export", *cursor, **settings(server), EVSESSION_ARCHIVE=str(tmp_path / "archive"))
    assert len(done.stdout.splitlines()) == 201


@pytest.mark.parametrize(("type_", "is_told"), [("named_revoked", True), ("ended", False)])
async def test_an_export_tells_of_revocations_that_it_may_have_missed(
    manager: SessionManager, caplog: pytest.LogCaptureFixture, type_: str, is_told: bool
) -> None:
    """They leave Redis before the events of sessions do; whoever does not want them is not told."""
    wanted, soon = Wanted(types=frozenset({type_})), timedelta(0)
    await manager.revoke_user("eve", timeout=soon)
    end = await manager.audit.end()
    for tenant in ("acme", "umbrella"):
        await manager.revoke_named("tenant", tenant, timeout=soon)
    assert [record.name async for record in replayed(manager, Wanted(), end, None)] == [
        "tenant:acme",
        "tenant:umbrella",
    ]
    assert logged(caplog) == []
    assert await manager.worker.store.expunge(-1_000) == 2
    assert len([record async for record in replayed(manager, wanted, end, None)]) == is_told
    following = aiter(Following(manager, wanted, end, idle=0.05))
    assert ((await anext(following))[0] is not None) is is_told
    await following.aclose()  # type: ignore[attr-defined]
    messages = [record.getMessage() for record in logged(caplog)]
    assert ["revocations by name between" in message for message in messages] == [True, True] * is_told


async def test_the_cursor_of_a_filtered_export_moves_with_the_log(
    server: Server, manager: SessionManager, tmp_path: Path
) -> None:
    """Else the log would be trimmed past an event long gone, as the next one that is wanted may be far away."""
    cursor = tmp_path / "cursor"
    await lived(manager)
    assert await exported(server, "--type", "created", "--cursor", str(cursor)) == []
    assert cursor.read_text().strip() == await manager.audit.end()
    await lived(manager)
    revoke_by_name(server, "user:bob")
    end, began = await manager.audit.end(), cursor_of(cursor.read_text().strip())
    nothing = aiter(Following(manager, Wanted(types=frozenset({"created"})), began.text(), idle=0.05))
    told = [cursor_of((await anext(nothing))[1]) for _ in range(10)]
    assert told[-1] == cursor_of(end)
    await nothing.aclose()  # type: ignore[attr-defined]


async def test_an_export_that_fails_leaves_no_half_a_file(
    server: Server, manager: SessionManager, tmp_path: Path
) -> None:
    """What has begun of a Parquet file goes; one with a cursor needs a name of its own each time."""
    out, cursor = tmp_path / "audit.parquet", tmp_path / "cursor"
    arguments = ("export", "--format", "parquet", "--out", str(out), "--cursor", str(cursor))
    await lived(manager)
    assert (await command(*arguments, **settings(server))).exit_code == 0
    done = await command(*arguments, **settings(server))
    assert (done.exit_code, "name another --out" in done.stderr) == (1, True)
    other = tmp_path / "other.parquet"
    done = await command("export", "--format", "parquet", "--out", str(other), "--type", "eaten", **settings(server))
    assert done.exit_code == 1
    assert not other.with_name("other.parquet.part").exists()
    done = await command("export", "--cursor", str(tmp_path / "nowhere" / "cursor"), **settings(server))
    assert (done.exit_code, done.stdout) == (1, "")


async def test_an_export_goes_on_in_the_archive(server: Server, manager: SessionManager, tmp_path: Path) -> None:
    """What has left Redis comes from there."""
    session = await manager.create(user_id="ada")
    for n in range(200):
        await manager.update(session.id, partial(dict.update, n=n))
    whole = await exported(server)
    done = await command("archive", "--to", str(tmp_path), "--keep", "0s", **settings(server))
    assert done.exit_code == 0, done.output
    assert len(await exported(server)) < 201
    done = await command("export", **settings(server), EVSESSION_ARCHIVE=str(tmp_path))
    assert [json.loads(line) for line in done.stdout.splitlines()] == whole


def read(path: Path) -> list[tuple[str, str]]:
    """Return shard and id of each whole line of a file that may still be written."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [(event["shard"], event["id"]) for event in map(json.loads, lines)]


def has(path: Path, count: int) -> bool:
    """Tell whether a file has that many events."""
    return len(set(read(path))) >= count


async def test_a_follower_that_is_killed_goes_on(server: Server, manager: SessionManager, tmp_path: Path) -> None:
    """kill -9 in the middle of things, and start again with the same cursor: every event comes, in order."""
    out = tmp_path / "events.jsonl"
    arguments = ("--follow", "--since", "1h", "--cursor", str(tmp_path / "cursor"), "--out", str(out))
    for n in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "evsession.cli", "export", *arguments, env=os.environ | settings(server)
        )
        try:
            for _ in range(10):
                await lived(manager)
                revoke_by_name(server, "everyone")
            await until(partial(has, out, 30 + 50 * n), "the events to be exported", 20)
        finally:
            process.kill()
            await process.wait()
    expected = [(one["shard"], one["id"]) for one in await exported(server)]
    found = list(dict.fromkeys(read(out)))
    assert sorted(found) == sorted(expected)
    assert [one for one in found if one[0] == "00"] == [one for one in expected if one[0] == "00"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "parquet"], "pass --out audit.parquet"),
        (["--format", "parquet", "--out", "x", "--follow"], "export again with --cursor"),
        (["--follow", "--until", "1h"], "export again with --cursor"),
        (["--since", "yesterday"], "2026-11-21T08:30:00"),
        (["--since", "7"], "or an age such as 15m, 2h or 7d"),
        (["--type", "eaten"], "created, authenticated, updated, renewed, ended"),
        (["--out", "/nonexistent/x"], "pass --out and --cursor elsewhere"),
    ],
)
async def test_what_cannot_be_done_ends_with_the_way_out(
    server: Server, manager: SessionManager, arguments: list[str], says: str
) -> None:
    """One line and code 1."""
    await lived(manager)
    done = await command("export", *arguments, **settings(server))
    assert done.exit_code == 1, done.output
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
