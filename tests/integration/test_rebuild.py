"""Bringing lost snapshots back: what they were, for the cookies that there are, and nobody who was signed out."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import anyio

from evsession import Actor, SessionManager, SessionPolicy
from evsession.archive import open_archive
from evsession.audit.rebuild import Rebuilt, rebuild
from evsession.stores.memory import MemoryStore
from tests.integration.apps import Browser, app_of
from tests.integration.test_command_line import KEY, command, settings
from tests.integration.test_verify import LOG, filled, manager_on
from tests.integration.test_verify_archive import archive_all
from tests.servers import Server

HOUR_MS = 3_600_000


def lose_snapshots(server: Server, *, with_index: bool = False) -> None:
    """Delete all snapshots, as an eviction does."""
    server.cli("DEL", *server.cli("KEYS", "{cli:00}:s:*"))
    if with_index:
        server.cli("DEL", "{cli:00}:exp")


def refused(rebuilt: Rebuilt) -> dict[str, str]:
    """Return why which sessions were not restored."""
    return dict(rebuilt.refused)


async def test_sessions_come_back_as_they_were(server: Server) -> None:
    """Data, user, times; the log verifies, and says who brought them back. Ended ones stay ended."""
    async with manager_on(server) as manager:
        ids = await filled(manager, 9)
        before = {sid: await manager.get(sid) for sid in ids}
        lose_snapshots(server)
    async with manager_on(server) as manager:
        rebuilt = await rebuild(manager, writes=True)
        living = [sid for sid, info in before.items() if info is not None]
        assert {one.session_id for one in rebuilt.restored} == set(living)
        assert (rebuilt.restored_count, rebuilt.ended, rebuilt.refused) == (6, 3, {})
        assert {one.lost for one in rebuilt.restored} == {("/token",)}
        for sid, info in before.items():
            now = await manager.get(sid)
            assert (now is None) == (info is None)
            if now is not None and info is not None:
                assert (now.user_id, now.created_at, now.authenticated_at, now.version) == (
                    info.user_id, info.created_at, info.authenticated_at, info.version + 1
                )  # fmt: skip
                assert now.expires_at is not None
                async with manager.edit(sid) as data:
                    assert data == {"n": 3}
                last = (await manager.audit.history(sid))[-1]
                assert (last.actor, last.unset) == (Actor.system("rebuild"), ("token",))
        report = await manager.audit.verify()
        assert report.ok, report.faults
        again = await rebuild(manager, writes=True)
        assert (again.restored_count, again.living, again.ended) == (0, 6, 3)


async def test_the_cookie_that_a_browser_has_is_good_again(server: Server) -> None:
    """The log has the digest of its secret."""
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="cli") as manager:
        browser = Browser()
        await browser.visit(
            app_of(manager), lambda session: session.login(7, facts={"amr": "pwd"}) or session.update(n=1)
        )
        lose_snapshots(server)
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="cli") as manager:
        await rebuild(manager, writes=True)
        assert (await browser.visit(app_of(manager))).json == {"n": 1}
        await browser.visit(app_of(manager), lambda session: session.update(n=2))
        assert (await browser.visit(app_of(manager))).json == {"n": 2}
        assert (await manager.audit.verify()).ok


async def test_nested_secrets_are_cut_out(server: Server) -> None:
    """What is beside them stays."""
    async with manager_on(server) as manager:
        data = {
            "bank": {"iban": "DE1", "name": "x"},
            "list": [{"pin": 1, "password": "p"}],
            "a/b~c": {"secret": 1, "k": 2},
        }
        session = await manager.create(data=data)
        lose_snapshots(server)
    async with manager_on(server) as manager:
        (restored,) = (await rebuild(manager, writes=True)).restored
        assert set(restored.lost) == {"/bank/iban", "/list/0/password", "/a~1b~0c/secret"}
        async with manager.edit(session.id) as found:
            assert found == {"bank": {"name": "x"}, "list": [{"pin": 1}], "a/b~c": {"k": 2}}
        assert (await manager.audit.verify()).ok


async def test_without_yes_nothing_is_written(server: Server) -> None:
    """It says what it would do."""
    async with manager_on(server) as manager:
        await filled(manager, 3)
        lose_snapshots(server)
        length = server.cli("XLEN", LOG)
        rebuilt = await rebuild(manager, writes=False)
        assert rebuilt.restored_count == 2
        assert server.cli("KEYS", "{cli:00}:s:*") == []
        assert server.cli("XLEN", LOG) == length


async def test_a_session_that_is_there_is_left_alone(server: Server) -> None:
    """Two who rebuild at once do it once, and what a browser wrote meanwhile stays."""
    async with manager_on(server) as one, manager_on(server) as two:
        ids = await filled(one, 30)
        lose_snapshots(server)
        found: list[Rebuilt] = []

        async def run(manager: SessionManager) -> None:
            found.append(await rebuild(manager, writes=True))

        async with anyio.create_task_group() as both:
            both.start_soon(run, one)
            both.start_soon(run, two)
        first, second = found
        assert first.restored_count + second.restored_count == 20
        restored = {one.session_id for one in (*first.restored, *second.restored)}
        assert len(restored) == 20
        assert set(refused(first).values()) | set(refused(second).values()) <= {"present"}
        assert {sid for sid in ids if await one.get(sid)} == restored
        assert (await one.audit.verify()).ok


async def test_what_was_revoked_or_has_expired_does_not_come_back() -> None:
    """By the index of deadlines; without it by the last event, or by the absolute timeout alone."""
    now = [1_760_000_000_000]
    store = MemoryStore(clock=lambda: now[0])
    policy = SessionPolicy(idle_timeout=timedelta(minutes=30), absolute_timeout=timedelta(hours=12))
    async with SessionManager(store, secret_key=KEY, policy=policy) as manager:
        old = await manager.create(user_id=1)
        now[0] += 20 * HOUR_MS
        idle = await manager.create(user_id=2)
        now[0] += HOUR_MS
        fresh = await manager.create(user_id=3)
        gone = await manager.create(user_id=4)
        await manager.revoke(gone.id)
        shard = store._shard("00")
        packed = dict(shard.snapshots)
        for with_index, lenient, expected in (
            (True, False, {fresh.id}), (False, False, {fresh.id}), (False, True, {fresh.id, idle.id}),
        ):  # fmt: skip
            shard.snapshots.clear()
            for sid in packed:
                shard.lapses.remove(sid)
                if not with_index:
                    shard.expiry.remove(sid)
            rebuilt = await rebuild(manager, writes=False, idle_from_now=lenient)
            assert {one.session_id for one in rebuilt.restored} == expected
            assert rebuilt.ended == 1
            assert refused(rebuilt).get(old.id) == "expired"


async def test_a_touched_session_lives_as_long_as_the_index_says() -> None:
    """Reading leaves no event, but it moves the deadline there."""
    now = [1_760_000_000_000]
    store = MemoryStore(clock=lambda: now[0])
    async with SessionManager(store, secret_key=KEY) as manager:
        session = await manager.create(user_id=1)
        now[0] += 25 * 60_000
        await store.touch(session.id, 1_800_000)
        now[0] += 20 * 60_000
        shard = store._shard("00")
        shard.snapshots.clear()
        shard.lapses.remove(session.id)
        assert (await rebuild(manager, writes=True)).restored_count == 1


async def test_what_does_not_verify_does_not_come_back(server: Server) -> None:
    """Whoever can write to Redis must not be able to make a session by deleting one."""
    async with manager_on(server) as manager:
        session = await manager.create(user_id=1, data={"role": "user"})
        other = await manager.create(user_id=2)
        ((_, fields), _) = server.cli("XRANGE", LOG, "-", "+")
        forged = [value.replace(b'"user":"1"', b'"user":"2"') for value in fields]
        server.cli("DEL", LOG)
        server.cli("XADD", LOG, "*", *forged)
        lose_snapshots(server)
        rebuilt = await rebuild(manager, writes=True)
        assert (refused(rebuilt), rebuilt.restored_count) == ({session.id: "faulty"}, 0)
        assert await manager.get(other.id) is None


async def test_a_session_whose_beginning_is_nowhere_does_not_come_back(server: Server, tmp_path: Path) -> None:
    """Unless the archive has it."""
    async with manager_on(server) as manager:
        session = await manager.create(data={"n": 0})
        await filled(manager, 40)
        await manager.update(session.id, lambda data: data.update(n=1))
        await archive_all(manager, tmp_path)
        lose_snapshots(server)
        assert refused(await rebuild(manager, writes=True))[session.id] == "incomplete"
        archive = open_archive(str(tmp_path), "cli")
        rebuilt = await rebuild(manager, writes=True, archive=archive)
        assert session.id in {one.session_id for one in rebuilt.restored}
        async with manager.edit(session.id) as data:
            assert data == {"n": 1}


async def test_a_lost_server_is_rebuilt_from_the_archive(server: Server, tmp_path: Path) -> None:
    """Nothing is left in Redis; what was archived lives again, and verifies with the archive."""
    async with manager_on(server) as manager:
        ids = await filled(manager, 9)
        await archive_all(manager, tmp_path)
    server.cli("FLUSHALL")
    done = await command("rebuild", "--json", "--yes", "--archive", str(tmp_path), **settings(server))
    assert done.exit_code == 0, done.output
    rebuilt = json.loads(done.stdout)
    assert (rebuilt["restored_count"], rebuilt["ended"]) == (6, 3)
    async with manager_on(server) as manager:
        assert len([sid for sid in ids if await manager.get(sid)]) == 6
        history = await manager.audit.history(rebuilt["restored"][0]["session_id"])
        assert history[-1].actor == Actor.system("rebuild")


async def test_a_forced_logout_survives_the_loss_of_the_server(server: Server, tmp_path: Path) -> None:
    """The archive has the control log too; that no sweeper had ended the sessions yet changes nothing."""
    async with manager_on(server) as manager:
        early, late = await manager.create(user_id=1), await manager.create(user_id=2)
        await manager.revoke_user(1, timeout=timedelta(0))
        await archive_all(manager, tmp_path)
    server.cli("FLUSHALL")
    async with manager_on(server) as manager:
        rebuilt = await rebuild(manager, writes=True, archive=open_archive(str(tmp_path), "cli"))
        assert early.id not in {one.session_id for one in rebuilt.restored}
        assert await manager.get(early.id) is None
        assert await manager.get(late.id) is not None


async def test_a_mistyped_namespace_is_said_and_stays_unused(server: Server) -> None:
    """Without an archive there can be nothing to bring back."""
    done = await command("rebuild", **settings(server, "typo"))
    assert done.exit_code == 1
    assert "nothing was ever written under this namespace" in done.stderr
    assert server.cli("KEYS", "{typo:*") == []


async def test_the_command_says_what_it_would_do_and_does_it(server: Server) -> None:
    """A person reads the counts and the reasons."""
    async with manager_on(server) as manager:
        await filled(manager, 6)
        lose_snapshots(server)
    done = await command("rebuild", **settings(server))
    assert done.exit_code == 0, done.output
    assert "4 sessions would be restored; --yes does it" in done.output
    assert "/token" in done.output
    done = await command("rebuild", "--yes", **settings(server))
    assert "4 sessions were restored" in done.output
    done = await command("rebuild", "--yes", **settings(server))
    assert "0 sessions were restored" in done.output
    assert "4 have their snapshots, 2 have ended" in done.output
