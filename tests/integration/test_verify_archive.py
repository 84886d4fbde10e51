"""Verifying with an archive, on a real server: files, signatures, and log and archive as one."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from evsession import AuditPolicy, SessionManager
from evsession.archive import open_archive
from evsession.archive.archiver import Archiver
from evsession.archive.signing import Signer, Trusted
from tests.integration.test_command_line import KEY, command, settings
from tests.integration.test_verify import LOG, filled, manager_on
from tests.servers import Server


async def archive_all(manager: SessionManager, place: Path, signer: Signer | None = None) -> None:
    """Archive the log and trim all that may go."""
    keys = manager.worker.keys
    signer = signer or Signer.of(keys)
    await Archiver(
        store=manager.worker.store, archive=open_archive(str(place), keys.namespace), signer=signer,
        trusted=Trusted.of(keys).with_signer(signer), keep=timedelta(seconds=-1), most_events=50,
    ).run()  # fmt: skip


@pytest.fixture
async def place(server: Server, tmp_path: Path) -> Path:
    """Return where sessions of several events were archived, and trimmed from the log; some go on after it."""
    async with manager_on(server) as manager:
        ids = await filled(manager, 60)
        await archive_all(manager, tmp_path)
        assert server.cli("XLEN", LOG) < 200
        for sid in ids[-8:]:
            if await manager.get(sid):
                await manager.update(sid, lambda data: data.update(later=True))
    return tmp_path


async def test_sessions_are_checked_from_their_first_event_on(server: Server, place: Path) -> None:
    """Which the log alone no longer has."""
    done = await command("verify", "--json", **settings(server))
    without = json.loads(done.stdout)
    assert (done.exit_code, without["not_checkable_count"] > 0) == (0, True)
    done = await command("verify", "--json", "--archive", str(place), **settings(server))
    report = json.loads(done.stdout)
    assert done.exit_code == 0, report["faults"]
    assert (report["sessions"], report["not_checkable_count"]) == (60, 0)
    assert report["events"] > report["archived"] >= 300
    done = await command("verify", EVSESSION_ARCHIVE=str(place), **settings(server))
    assert "events in the archive, its files checked" in done.output


def forge_first_file(place: Path) -> Path:
    """Change the end of the first file of events."""
    first = sorted(place.rglob("*.zst"))[0]
    first.write_bytes(first.read_bytes()[:-9] + b"forgeries")
    return first


async def test_a_file_that_was_changed_is_a_fault(server: Server, place: Path) -> None:
    """And what it says is not believed."""
    first = forge_first_file(place)
    done = await command("verify", "--json", "--archive", str(place), **settings(server))
    report = json.loads(done.stdout)
    assert done.exit_code == 2
    assert [fault["kind"] for fault in report["faults"]] == ["archive"]
    assert (report["faults"][0]["id"], report["faults"][0]["shard"]) == (first.name, "00")
    assert report["not_checkable_count"] > 0


async def test_a_session_that_was_rolled_back_is_found(server: Server, place: Path) -> None:
    """Its snapshot is one that it really had, and the log has no trace of what came after; the archive has."""
    async with manager_on(server, audit=AuditPolicy(archive=str(place))) as manager:
        session = await manager.create(data={"n": 1})
        before = server.cli("GET", f"{{cli:00}}:s:{session.id}")
        await manager.update(session.id, lambda data: data.update(n=2))
        await archive_all(manager, place)
        server.cli("SET", f"{{cli:00}}:s:{session.id}", before)
        report = await manager.audit.verify()
    assert {fault.kind for fault in report.faults} == {"snapshot_stale"}


async def test_the_key_of_who_signs_can_be_named(server: Server, tmp_path: Path) -> None:
    """An archiver with a key of its own is trusted by who is given its public key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    signer = Signer(Ed25519PrivateKey.generate())
    (tmp_path / "archive.pub").write_text(signer.public_pem)
    async with manager_on(server) as manager:
        await filled(manager, 6)
        await archive_all(manager, tmp_path / "files", signer)
    asked = ("verify", "--json", "--archive", str(tmp_path / "files"))
    done = await command(*asked, **settings(server))
    assert done.exit_code == 2
    assert "signature" in json.loads(done.stdout)["faults"][0]["detail"]
    done = await command(*asked, "--key", str(tmp_path / "archive.pub"), **settings(server))
    assert done.exit_code == 0, done.output
    assert KEY not in done.output
