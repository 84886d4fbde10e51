"""A mistyped place is not taken for an empty archive, and a namespace that nobody has archived yet reads as ever."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evsession import AuditPolicy, ConfigError, SessionManager
from evsession.archive import open_archive
from evsession.stores.redis import RedisStore
from evsession.tokens import new_sid
from evsession.wire import START
from tests.archive.logs import LAST
from tests.contract.builder import Heard
from tests.contract.conftest import PATIENT
from tests.integration.test_command_line import KEY, command, settings
from tests.servers import Server

WAY_OUT = "name the place that `evsession archive --to` was given"
UNKNOWN = new_sid("00", bytes(16))


@pytest.fixture
async def manager(server: Server) -> AsyncIterator[SessionManager]:
    """A manager whose worker runs beside the command."""
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="cli") as manager:
        yield manager


def reader(server: Server, place: str) -> SessionManager:
    """Return a manager that reads on in an archive."""
    audit = AuditPolicy(archive=place)
    return SessionManager.from_url(server.url, secret_key=KEY, namespace="cli", audit=audit)


async def lived(manager: SessionManager) -> str:
    """Return a session of so many events that the log is trimmed of some."""
    session = await manager.create(user_id="ada")
    for n in range(150):
        await manager.update(session.id, partial(_count, n))
    return session.id


def _count(n: int, data: dict[str, Any]) -> None:
    data["n"] = n


async def test_a_place_without_what_was_archived_is_refused(
    server: Server, manager: SessionManager, tmp_path: Path
) -> None:
    """By every reading that needs it: what the log has no more would else be missing without a word."""
    sid = await lived(manager)
    done = await command("archive", "--to", str(tmp_path / "audit"), "--keep", "0s", **settings(server))
    assert done.exit_code == 0, done.output
    (tmp_path / "empty").mkdir()
    for place in (str(tmp_path / "typo"), str(tmp_path / "empty"), "memory://typo"):
        async with reader(server, place).reading() as wrong:
            with pytest.raises(ConfigError, match=f"although 1 files of shard 00 were archived; {WAY_OUT}"):
                await wrong.audit.history(sid)
            with pytest.raises(ConfigError, match=WAY_OUT):
                [event async for event in wrong.audit.replay()]
    shown = await command("history", sid, **settings(server), EVSESSION_ARCHIVE=str(tmp_path / "typo"))
    assert shown.exit_code == 1
    assert WAY_OUT in shown.stderr
    async with reader(server, str(tmp_path / "audit")).reading() as right:
        assert len(await right.audit.history(sid)) == 151


async def test_an_archiver_goes_on_only_where_its_last_file_is(
    server: Server, manager: SessionManager, tmp_path: Path
) -> None:
    """Nothing is written elsewhere; a place that has lost the last file is filled again from what the log still has."""
    audit, last = tmp_path / "audit", tmp_path / "audit" / "cli" / "00" / "00000002.json"
    for _ in range(2):
        await lived(manager)
        done = await command("archive", "--to", str(audit), **settings(server))
        assert done.exit_code == 0, done.output
    await lived(manager)
    done = await command("archive", "--to", str(tmp_path / "typo"), **settings(server))
    assert (done.exit_code, (tmp_path / "typo").exists()) == (1, False)
    assert "is the place mistyped, or not mounted?" in done.stderr
    last.rename(tmp_path / last.name)
    done = await command("archive", "--to", str(audit), **settings(server))
    assert done.exit_code == 1
    assert "delete the key {cli:00}:archive to begin anew" in done.stderr
    server.cli("DEL", "{cli:00}:archive")
    done = await command("archive", "--to", str(audit), **settings(server))
    assert done.exit_code == 0, done.output
    done = await command("verify", "--json", "--archive", str(audit), **settings(server))
    assert (done.exit_code, json.loads(done.stdout)["archived"]) == (0, 3 * 151)


@pytest.mark.parametrize("place", [lambda folder: folder / "later", lambda folder: folder, lambda folder: "memory://x"])
async def test_what_nobody_has_archived_yet_reads_as_ever(
    server: Server, manager: SessionManager, tmp_path: Path, place: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A folder that the first run will make, an empty one, a bucket: one warning, once something is not found."""
    sid = await lived(manager)
    async with reader(server, str(place(tmp_path))).reading() as early:
        assert len(await early.audit.history(sid)) == 151
        assert len([event async for event in early.audit.replay()]) == 151
        assert "nothing" not in caplog.text
        with caplog.at_level(logging.WARNING, "evsession.archive"):
            assert not await early.audit.history(UNKNOWN)
            assert not await early.audit.history(UNKNOWN)
    assert caplog.text.count(WAY_OUT) == 1


@pytest.mark.parametrize("name", ["verify", "rebuild"])
async def test_a_command_that_is_given_an_archive_wants_one(
    server: Server, manager: SessionManager, tmp_path: Path, name: str
) -> None:
    """Whatever Redis knows, as it may have lost everything: nothing is checked or restored without it."""
    await manager.create(user_id="ada")
    done = await command(name, "--archive", str(tmp_path / "typo"), **settings(server))
    assert done.exit_code == 1, done.output
    assert f"there is nothing of the namespace 'cli'; {WAY_OUT}" in done.stderr


async def test_an_archiver_that_comes_meanwhile_raises_no_doubt(
    server: Server, manager: SessionManager, tmp_path: Path
) -> None:
    """The first file is stored after the archive was looked at and before the checkpoint was."""
    await manager.create(user_id="ada")

    class Slow(RedisStore):
        async def checkpoint(self, shard: str, job: str) -> bytes:
            done = await command("archive", "--to", str(tmp_path), **settings(server))
            assert done.exit_code == 0, done.output
            return await super().checkpoint(shard, job)

    slow = Slow(server.url, namespace="cli", shards=1, policy=PATIENT)
    await slow.open("slow", 2_000, Heard())
    archive = open_archive(str(tmp_path), "cli", slow)
    assert len([entry async for entry in archive.between("00", START.id, LAST)]) == 1
    await slow.close()
