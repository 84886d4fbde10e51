"""`tail`, `replay`, `stats` and `doctor` as a person runs them, on a real server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evsession import Actor, Session, SessionManager, StoreUnavailable
from evsession.cli.census import redis_of, take_census
from evsession.cli.doctor import judged
from evsession.cli.stats import size
from evsession.stores.redis import RedisStore, checkup
from evsession.stores.redis.keys import user_key
from tests.conftest import until
from tests.integration.apps import Browser, app_of
from tests.integration.test_command_line import KEY, command, settings
from tests.pictures import FOLDER, pictures
from tests.servers import NAMES, Server, find_binaries


@pytest.fixture
async def manager(server: Server) -> AsyncIterator[SessionManager]:
    """Return a manager of two shards, of which the commands do not know."""
    store = RedisStore(server.url, namespace="cli", shards=2)
    async with SessionManager(store, secret_key=KEY, namespace="cli") as manager:
        yield manager


async def told(server: Server, *arguments: str) -> list[dict[str, Any]]:
    """Return what a command prints for programs."""
    done = await command(*arguments, "--json", **settings(server))
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


async def story(manager: SessionManager) -> list[str]:
    """Let two users visit, with a canary in a redacted key and control characters, and sign one out by force."""
    app, sids = app_of(manager), []
    for user in ("ada", "bob"):
        browser = Browser()
        await browser.visit(app, partial(Session.login, user_id=user), path="/login", method="POST")
        await browser.visit(app, lambda session: session.update(api_token="canary", note="\x1b[2J\x9b"), path="/cart")
        sids.append(browser.session_id)
    await manager.revoke(sids[0], reason="lost phone", actor=Actor.admin("joe"))
    return sids


# ── replay ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_replay_prints_what_happened(server: Server, manager: SessionManager) -> None:
    """Of all shards in the order of time, on one line each, with nothing that steers a terminal and no canary."""
    sids = await story(manager)
    done = await command("replay", **settings(server))
    assert done.exit_code == 0
    day, *lines = done.stdout.splitlines()
    assert "(UTC)" in day
    for sid, user, types in (
        (sids[0], "ada", ["authenticated", "updated", "ended"]), (sids[1], "bob", ["authenticated", "updated"]),
    ):  # fmt: skip
        mine = [line.split() for line in lines if sid in line]
        assert [words[1:4] for words in mine] == [[type_, sid, user] for type_ in types]
    assert any(line.endswith("by admin joe  cause revoked, lost phone") for line in lines)
    assert "POST /{path}" in lines[0]
    assert not {"\x1b", "\x9b"} & set(done.output)
    assert "canary" not in done.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--user", "ada"], 3),
        (["--type", "ended"], 1),
        (["--type", "ended", "--type", "updated"], 3),
        (["--route", "/{p*"], 4),
        (["--route", "/nowhere"], 0),
        (["--since", "1h"], 5),
        (["--until", "1h"], 0),
        (["--since", "2000-01-01", "--until", "2100-01-01T00:00:00+01:00"], 5),
    ],
)
async def test_replay_can_be_narrowed(
    server: Server, manager: SessionManager, options: list[str], expected: int
) -> None:
    """By user, type, route and time."""
    await story(manager)
    assert len(await told(server, "replay", *options)) == expected


async def test_who_writes_to_the_log_cannot_steer_the_terminal_of_an_auditor(
    server: Server, manager: SessionManager
) -> None:
    """Nor stop who reads by a context that is none."""
    await story(manager)
    shard = (await manager.create()).id[:2]
    ((_, fields),) = server.cli("XREVRANGE", f"{{cli:{shard}}}:log", "+", "-", "COUNT", 1)
    forged = dict(zip(fields[::2], fields[1::2], strict=True))
    for name, value in (
        (b"s", b"\x1b]0;pwn\x07"),
        (b"c", b'{"r":"GET \xc2\x9b31m"}'),
        (b"c", b"\x1b[2J"),
        (b"a", b"admin \x1b"),
    ):
        entry = forged | {b"i": os.urandom(16), name: value}
        server.cli("XADD", f"{{cli:{shard}}}:log", "*", *(part for pair in entry.items() for part in pair))
    for arguments in (["replay"], ["export"]):
        done = await command(*arguments, **settings(server))
        assert done.exit_code == 0, done.output
        assert "pwn" in done.stdout
        assert not {"\x1b", "\x07"} & set(done.stdout)
        assert arguments == ["export"] or "\x9b" not in done.stdout


async def test_replay_of_one_session_is_its_history(server: Server, manager: SessionManager) -> None:
    """And goes on from a cursor."""
    sid, _ = await story(manager)
    events = await told(server, "replay", "--session", sid)
    assert events == await told(server, "history", sid)
    assert await told(server, "replay", "--session", sid, "--since", events[0]["cursor"]) == events[1:]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay", "--since", "yesterday"], "an age such as 15m"),
        (["replay", "--type", "deleted"], "there are created, authenticated"),
        (["replay", "--session", "x"], "pass the public id"),
        (["tail", "--since", "ev1_A"], "is no time"),
        (["stats", "--every", "often"], "write a number and s, m, h or d"),
    ],
)
async def test_a_wrong_option_is_said(server: Server, manager: SessionManager, arguments: list[str], says: str) -> None:
    """In one line, with exit code 1."""
    done = await command(*arguments, **settings(server))
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert says in done.stderr


# ── tail ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Tail:
    """A running `evsession tail`, and the lines that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """Return the next line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C, and return the exit code and what was said on standard error."""
        self.process.send_signal(signal.SIGINT)
        _, said = await self.process.communicate()
        return self.process.returncode or 0, said.decode()


@asynccontextmanager
async def tailing(server: Server, *options: str) -> AsyncIterator[Tail]:
    """Run `evsession tail` in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "evsession.cli", "tail", *options,
        env=os.environ | settings(server), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Tail(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_tail_shows_events_as_they_happen_and_says_where_to_go_on(
    server: Server, manager: SessionManager
) -> None:
    """Ctrl-C is its end, not a failure; nothing is lost between two of them, and nothing comes twice."""
    first = await manager.create(user_id="ada")
    async with tailing(server, "--since", "start", "--json") as tail:
        assert json.loads(await tail.line())["session_id"] == first.id
        second = await manager.create(user_id="bob")
        assert json.loads(await tail.line())["session_id"] == second.id
        code, said = await tail.interrupt()
    assert code == 0, said
    *_, cursor = said.split()
    third = await manager.create(user_id="eve")
    async with tailing(server, "--since", cursor) as tail:
        assert "(UTC)" in await tail.line()
        assert third.id in await tail.line()


async def test_tail_filters_and_waits_an_outage_out(manager: SessionManager, server: Server) -> None:
    """A server that is away for a while is no end."""
    with Server.start(find_binaries()[NAMES[0]]) as own:
        async with SessionManager.from_url(own.url, secret_key=KEY, namespace="cli") as shop:
            await shop.create(user_id="ada")
            async with tailing(own, "--since", "start", "--user", "bob", "--json") as tail:
                bob = await shop.create(user_id="bob")
                assert json.loads(await tail.line())["session_id"] == bob.id
                own.restart(empty=False)

                async def is_back() -> bool:
                    try:
                        await shop.create(user_id="ada")
                        await shop.create(user_id="bob", data={"again": True})
                    except StoreUnavailable:
                        return False
                    return True

                await until(is_back, "the worker is back")
                assert json.loads(await tail.line())["set"] == {"again": True}


async def test_the_pictures_of_the_docs_can_be_drawn() -> None:
    """Of `tail` and `explain`, without the canary; those in docs/ are of this kind."""
    drawn = await pictures()
    for name, words in (("tail.svg", ["authenticated", "lost&#160;phone"]), ("explain.svg", ["ada", "OPS-12"])):
        for picture in (drawn[name], (FOLDER / name).read_text()):
            assert picture.startswith("<svg")
            assert all(word in picture for word in words)
            assert "4111" not in picture


@pytest.mark.parametrize("arguments", [["export", "--follow", "--since", "1h"], ["archive", "--every", "1m", "--to"]])
async def test_ctrl_c_is_how_a_service_ends(
    server: Server, manager: SessionManager, tmp_path: Path, arguments: list[str]
) -> None:
    """With 0, as it is no failure, and without a traceback."""
    await story(manager)
    place = [str(tmp_path)] if arguments[-1] == "--to" else []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "evsession.cli", *arguments, *place,
        env=os.environ | settings(server), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    service = Tail(process)
    assert await service.line()
    assert await service.interrupt() == (0, "")


# ── stats, doctor ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_stats_tell_what_there_is(server: Server, manager: SessionManager) -> None:
    """Of every shard, the control log included, with all workers."""
    await story(manager)
    (found,) = await told(server, "stats")
    assert (found["namespace"], found["sessions"]) == ("cli", 1)
    assert [shard["shard"] for shard in found["shards"]] == ["00", "01", "ctl"]
    assert sum(shard["events"] for shard in found["shards"]) == 5
    assert sum(shard["ended"] for shard in found["shards"]) == 1
    assert found["users"]["bytes"] > 0
    assert found["users"]["users"] == len([user async for user in manager.users()])
    assert all(shard["bytes"]["log"] > 100 for shard in found["shards"] if shard["events"])
    assert {(one["worker"], one["alive"]) for one in found["workers"]} == {(manager.worker.id, True)}
    done = await command("stats", **settings(server))
    assert "1 sessions, 5 events" in done.stdout
    assert manager.worker.id in done.stdout


async def test_a_record_that_no_worker_of_ours_left_stops_neither_stats_nor_doctor(
    server: Server, manager: SessionManager
) -> None:
    """One of no form of ours is passed over, and a name of any kind steers no terminal."""
    await story(manager)
    for name, record in ((b"junk", b"0-0 0 0 2000"), (b"more", b"x y z"), (b"\x1b[31mred[blink]", b"0-0 1 2000")):
        server.cli("HSET", "{cli:00}:workers", name, record)
    (found,) = await told(server, "stats")
    assert {one["worker"] for one in found["workers"]} == {manager.worker.id, "\x1b[31mred[blink]"}
    for what in ("stats", "doctor"):
        done = await command(what, **settings(server))
        assert done.exit_code in (0, 2)
        assert "\x1b" not in done.output
    assert "\\x1b[31mred[blink]" in (await command("stats", **settings(server))).stdout


async def test_stats_can_stay(server: Server, manager: SessionManager) -> None:
    """One look after the other."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "evsession.cli", "stats", "--every", "1s", "--json",
        env=os.environ | settings(server), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    tail = Tail(process)
    assert [json.loads(await tail.line())["sessions"] for _ in range(2)] == [0, 0]
    assert (await tail.interrupt())[0] == 0


async def test_the_doctor_names_each_problem_with_its_fix(server: Server, manager: SessionManager) -> None:
    """A server that keeps nothing on disk is one; exit code 2."""
    done = await command("doctor", "--json", **settings(server))
    assert done.exit_code == 2
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    (problem,) = [check for check in checks if not check["ok"]]
    assert "a restart loses all sessions" in problem["found"]
    assert problem["fix"] == "set appendonly yes"
    assert {check["what"] for check in checks} == {
        "server", "settings", "memory", "feed", "workers", "sweeper", "log", "archive",
    }  # fmt: skip
    for people in ("→ set appendonly yes", "1 running", "messages", "persistence none"):
        assert people in (await command("doctor", **settings(server))).stdout


async def test_the_doctor_finds_a_healthy_patient(manager: SessionManager) -> None:
    """Exit code 0; and without a worker it says that none runs."""
    with Server.start(find_binaries()[NAMES[0]], config={"appendonly": "yes"}) as own:
        async with SessionManager.from_url(own.url, secret_key=KEY, namespace="cli") as shop:
            await shop.create()
            done = await command("doctor", **settings(own))
            assert done.exit_code == 0, done.output
        await asyncio.sleep(0)
        own.cli("DEL", "{cli:00}:workers", "{cli:ctl}:workers")
        sick = await command("doctor", **settings(own))
        assert sick.exit_code == 2
        assert "→ start the application" in sick.stdout


@pytest.mark.parametrize("sampled", [20_000, 500], ids=["all", "sample"])
async def test_the_index_of_users_is_weighed(any_server: Server, monkeypatch: pytest.MonkeyPatch, sampled: int) -> None:
    """Beside log, snapshots and expiry index; of this namespace alone, and by a sample where there is much."""
    monkeypatch.setattr(checkup, "SAMPLED", sampled)
    monkeypatch.setattr(checkup, "_PAGE", 100)
    async with SessionManager.from_url(any_server.url, secret_key=KEY, namespace="cli") as manager:
        store = redis_of(manager)
        assert (await take_census(manager)).users == (0, 0)
        await asyncio.gather(*(store.enter(f"user {n}", "s" * 24, 3_600_000, bytes(20)) for n in range(1_500)))
        any_server.cli("SET", "a key of another application", 1)
        any_server.cli("HSET", "{cli-2:u00}:u:a user of another namespace", "sid", "1 ")
        census = await take_census(manager)
        weight = int(any_server.cli("MEMORY", "USAGE", user_key("cli", "user 7")))
        off = 0.01 if sampled > 2_000 else 0.2
        assert census.users.users == pytest.approx(1_500, rel=off)
        assert census.users.bytes == census.sizes["users"] == pytest.approx(1_500 * weight, rel=off + 0.1)
        (memory,) = (one for one in judged(census, [0.001], 0) if one.what == "memory")
        assert f"users {size(census.users.bytes)} (of {census.users.users:,})" in memory.found


async def test_what_is_on_no_server_has_no_doctor() -> None:
    """Memory has nothing to look into."""
    for name in ("doctor", "stats"):
        done = await command(name, EVSESSION_URL="memory://")
        assert done.exit_code == 1
        assert "give the URL of a Redis or Valkey server" in done.stderr
