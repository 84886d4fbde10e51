"""Verifying on real servers: while sessions change, after what operators and intruders do, and on the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from evsession import AuditPolicy, ConfigError, SessionManager, StorePolicy
from evsession.audit import verify as verification
from evsession.audit.report import Report
from evsession.cli.verify import lines_of
from evsession.proof import Fault
from tests.integration.test_command_line import KEY, command, settings
from tests.servers import Server

LOG = "{cli:00}:log"


def manager_on(server: Server, **options: Any) -> SessionManager:
    """Return a manager in the namespace of the commands."""
    return SessionManager.from_url(server.url, secret_key=KEY, namespace="cli", **options)


@pytest.fixture
async def manager(any_server: Server) -> AsyncIterator[SessionManager]:
    """Return a manager on each server in turn."""
    async with manager_on(any_server) as manager:
        yield manager


async def filled(manager: SessionManager, sessions: int = 6) -> list[str]:
    """Make sessions of several events, every third of them ended; return their ids."""
    made = []
    for number in range(sessions):
        session = await manager.create(user_id=number if number % 2 else None, data={"token": "t", "n": 0})
        for n in range(4):
            await manager.update(session.id, lambda data, n=n: data.update(n=n, token=str(n)))  # type: ignore[misc]
        if number % 3 == 0:
            await manager.revoke(session.id, reason="lost phone")
        made.append(session.id)
    return made


def kinds(report: Report) -> set[str]:
    """Return which kinds of faults a report has."""
    return {fault.kind for fault in report.faults}


async def test_what_commits_wrote_verifies(manager: SessionManager, any_server: Server) -> None:
    """On every server; Redis 6.2 does not count, and the report says so."""
    await filled(manager)
    report = await manager.audit.verify()
    assert report.ok, report.faults
    assert (report.sessions, report.snapshots, report.events) == (6, 6, 32)
    assert bool(report.uncounted) == any_server.binary.name.endswith("6.2")


async def test_sessions_that_change_meanwhile_are_no_fault(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Created, changed, ended and swept while snapshots and log are read, in parts and in several passes."""
    monkeypatch.setattr(verification, "PAGE", 20)
    monkeypatch.setattr(verification, "PART", 50)
    monkeypatch.setattr(verification, "MAX_PARTS", 3)
    async with manager_on(server) as manager:
        ids = await filled(manager, 12)
        is_over = False

        async def write() -> None:
            n = 0
            while not is_over:
                n += 1
                living = [sid for sid in ids[-8:] if (await manager.get(sid)) is not None]
                for sid in living[1:]:
                    await manager.update(sid, lambda data, n=n: data.update(n=n))  # type: ignore[misc]
                if living:
                    await manager.revoke(living[0])
                ids.append((await manager.create(data={"n": n})).id)
                await anyio.sleep(0.002)  # the writers shall not outrun whom they run beside

        async with anyio.create_task_group() as writers:
            for _ in range(3):
                writers.start_soon(write)
            for _ in range(4):
                report = await manager.audit.verify()
                assert report.ok, report.faults
            is_over = True
        report = await manager.audit.verify()
        assert report.ok, report.faults
        assert report.sessions == len(set(ids)) > 20


async def test_trimming_is_named_and_is_no_fault(server: Server) -> None:
    """Sessions that began before are not checkable; those that began after are checked as ever."""
    async with manager_on(server, patience=StorePolicy(retention=timedelta(days=1))) as manager:
        (old, *_) = await filled(manager, 50)
        went = await manager.worker.store.trim("00", 0)
        assert went >= 100
        new = await manager.create()
        report = await manager.audit.verify()
        assert report.ok, report.faults
        (trimmed,) = report.trimmed
        assert (trimmed.shard, trimmed.entries, trimmed.first) == ("00", went, _ids(server)[0].decode())
        assert old in report.not_checkable
        assert new.id not in report.not_checkable


TAMPERED: dict[str, tuple[Callable[[Server, str], object], set[str]]] = {
    "an entry deleted by hand": (
        lambda server, _: server.cli("XDEL", LOG, _ids(server)[2]),
        {"removed", "deleted", "hole"},
    ),
    "a log trimmed by hand": (lambda server, _: server.cli("XTRIM", LOG, "MAXLEN", 3), {"removed"}),
    "an entry appended by hand": (lambda server, _: server.cli("XADD", LOG, "*", "hello", "world"), {"foreign", "cut"}),
    "an entry appended again": (lambda server, _: _append_again(server), {"repeated", "cut"}),
    "a snapshot deleted": (lambda server, sid: server.cli("DEL", f"{{cli:00}}:s:{sid}"), {"snapshot_missing"}),
    "a snapshot changed": (lambda server, sid: server.cli("APPEND", f"{{cli:00}}:s:{sid}", "x"), {"snapshot_altered"}),
    "the log deleted": (lambda server, _: server.cli("DEL", LOG), {"cut", "snapshot_ahead"}),
    "an end that was moved": (lambda server, _: server.cli("XSETID", LOG, "9999999999999-0"), {"cut"}),
}


def _ids(server: Server) -> list[bytes]:
    return [id_ for id_, _ in server.cli("XRANGE", LOG, "-", "+")]


def _append_again(server: Server) -> None:
    ((_, fields),) = server.cli("XRANGE", LOG, "-", "+", "COUNT", 1)
    server.cli("XADD", LOG, "*", *fields)


@pytest.mark.parametrize("name", TAMPERED)
async def test_what_somebody_does_by_hand_is_found(server: Server, name: str) -> None:
    """With the commands that everybody has."""
    async with manager_on(server) as manager:
        *_, living = await filled(manager, 3)
        assert (await manager.audit.verify()).ok
    act, expected = TAMPERED[name]
    act(server, living)
    async with manager_on(server).reading() as reader:
        assert expected <= kinds(await reader.audit.verify())


async def test_an_end_without_time_to_live_left_is_no_fault(server: Server) -> None:
    """An ended snapshot goes after ten minutes."""
    async with manager_on(server) as manager:
        first, *_ = await filled(manager, 3)
        server.cli("DEL", f"{{cli:00}}:s:{first}")
        assert (await manager.audit.verify()).ok


async def test_snapshots_of_shards_that_were_not_named_are_verified(server: Server) -> None:
    """The command does not know how many shards the application has, so it looks."""
    from evsession.stores.redis import RedisStore

    store = RedisStore(server.url, namespace="cli", shards=4)
    async with SessionManager(store, secret_key=KEY, namespace="cli") as manager:
        ids = await filled(manager, 40)
    assert len({sid[:2] for sid in ids}) == 4
    async with manager_on(server).reading() as reader:
        report = await reader.audit.verify()
    assert report.ok, report.faults
    assert report.events > 4 * 40


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_command_says_that_all_is_well(server: Server) -> None:
    """In two lines and exit code 0; as JSON too; and it leaves no trace."""
    async with manager_on(server) as manager:
        await filled(manager, 3)
    workers = server.cli("HGETALL", "{cli:00}:workers")
    done = await command("verify", **settings(server))
    assert done.exit_code == 0, done.output
    assert "16 events and 3 snapshots of 3 sessions" in done.output
    assert "no fault was found" in done.output
    done = await command("verify", "--json", **settings(server))
    report = json.loads(done.stdout)
    assert (done.exit_code, report["ok"], report["events"], report["faults"]) == (0, True, 16, [])
    assert len(server.cli("HGETALL", "{cli:00}:workers")) == len(workers)


async def test_the_command_ends_with_2_when_there_are_faults(server: Server) -> None:
    """It names the session and the event; what an intruder wrote does not steer the terminal."""
    async with manager_on(server) as manager:
        *_, sid = await filled(manager, 3)
    ((_, fields),) = server.cli("XREVRANGE", LOG, "+", "-", "COUNT", 1)
    server.cli("XADD", LOG, "*", *[b"\x1b[2Jboo" if value == b"updated" else value for value in fields])
    done = await command("verify", **settings(server))
    assert done.exit_code == 2, done.output
    assert "faults" in done.output
    assert "\x1b[2J" not in done.output
    done = await command("verify", "--json", **settings(server))
    assert done.exit_code == 2
    assert sid in {fault["session_id"] for fault in json.loads(done.stdout)["faults"]}


AUDIT_KEY = "a-key-for-the-audit-alone-32-characters"


async def test_an_auditor_needs_no_more_than_the_audit_key(server: Server) -> None:
    """Who has it verifies; who has it cannot make a token, nor work in the place of the application."""
    async with manager_on(server, audit=AuditPolicy(key=AUDIT_KEY)) as manager:
        await filled(manager, 3)
    auditor = {"EVSESSION_URL": server.url, "EVSESSION_NAMESPACE": "cli", "EVSESSION_AUDIT_KEY": AUDIT_KEY}
    done = await command("verify", **auditor)
    assert done.exit_code == 0, done.output
    assert "no fault was found" in done.output
    with pytest.raises(ConfigError, match="none of the secret keys"):
        async with SessionManager.from_url(server.url, namespace="cli", secret_key=AUDIT_KEY):
            pass
    done = await command("verify", **auditor | {"EVSESSION_AUDIT_KEY": "another-key-for-the-audit-32-characters"})
    assert done.exit_code == 1
    done = await command("verify", **settings(server))
    assert done.exit_code == 2
    assert "unknown_key" in done.output


async def test_a_running_namespace_begins_with_an_audit_key(server: Server) -> None:
    """With the secret key as its old one, everything verifies, before and after."""
    async with manager_on(server) as manager:
        *_, sid = await filled(manager, 3)
    async with manager_on(server, audit=AuditPolicy(key=(AUDIT_KEY, KEY))) as manager:
        await manager.update(sid, lambda data: data.update(n=99))
        assert (await manager.audit.verify()).ok
    done = await command("verify", **settings(server), EVSESSION_AUDIT_KEY=f"{AUDIT_KEY} {KEY}")
    assert done.exit_code == 0, done.output


async def test_the_command_without_a_server_ends_with_1(server: Server) -> None:
    """Not being able to verify is another thing than a fault."""
    done = await command("verify", EVSESSION_URL="redis://127.0.0.1:1", EVSESSION_SECRET_KEY=KEY)
    assert done.exit_code == 1
    assert done.output.startswith("evsession: ")


def test_a_report_lists_so_many_faults_and_counts_the_others() -> None:
    """A log under another key would fill the memory and the terminal."""
    report = Report(uncounted=["00"])
    for number in range(1_500):
        report.add(Fault(kind="altered", shard="00", session_id=str(number), detail=""))
        report.add_not_checkable(str(number))
    assert (len(report.faults), report.fault_count, len(report.not_checkable)) == (1_000, 1_500, 1_000)
    told = " ".join(lines_of(report))
    for expected in ("1,500 faults", "500 more faults are not listed", "1,500 sessions began before", "Redis 7.0"):
        assert expected in told
