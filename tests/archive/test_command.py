"""`evsession archive` against a real server, and the readings that go on in what it wrote."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from evsession import AuditPolicy, SessionManager
from evsession.archive import open_archive
from evsession.archive.check import check_archive
from evsession.archive.signing import Signer, Trusted
from tests.archive.logs import files_in
from tests.integration.test_command_line import KEY, command, settings
from tests.servers import Server


@pytest.fixture
async def manager(server: Server) -> AsyncIterator[SessionManager]:
    """A manager whose worker runs beside the command."""
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="cli") as manager:
        yield manager


async def test_it_archives_what_the_application_wrote(server: Server, manager: SessionManager, tmp_path: Path) -> None:
    """Once, with one line that says what was done; again, with nothing to do; as JSON, a line for each shard."""
    for n in range(30):
        session = await manager.create(user_id=f"user{n}")
        await manager.update(session.id, lambda data: data.update(a=1))
    done = await command("archive", "--to", str(tmp_path), **settings(server))
    assert done.exit_code == 0, done.output
    assert done.stdout == "archived 60 events in 1 files, trimmed 0 from the log\n"
    again = await command("archive", "--json", **settings(server), EVSESSION_ARCHIVE=str(tmp_path))
    assert [json.loads(line)["events"] for line in again.stdout.splitlines()] == [0, 0]
    assert sorted(files_in(tmp_path, "*")) == ["cli/00/00000001.json", "cli/00/00000001.jsonl.zst"]
    points = {"00": await manager.worker.store.checkpoint("00", "archive")}
    check = check_archive(open_archive(str(tmp_path), "cli"), Trusted.of(manager.worker.keys), points)
    assert [fault async for fault in check] == []


async def test_readings_go_on_in_the_archive(server: Server, manager: SessionManager, tmp_path: Path) -> None:
    """A history whose events have left Redis is read as if they had not."""
    session = await manager.create(user_id="ada", data={"n": 0})
    for _ in range(150):
        await manager.update(session.id, lambda data: data.update(n=data["n"] + 1))
    whole = list(await manager.audit.history(session.id))
    done = await command("archive", "--to", str(tmp_path), "--keep", "0s", **settings(server))
    assert done.exit_code == 0, done.output
    assert len(await manager.worker.store.walk(session.id, 1_000)) < 151
    reader = SessionManager.from_url(
        server.url, secret_key=KEY, namespace="cli", audit=AuditPolicy(archive=str(tmp_path))
    )
    async with reader.reading():
        assert list(await reader.audit.history(session.id)) == whole
        state = await reader.audit.state_at(session.id, version=7)
        assert state is not None
        assert state.data == {"n": 6}
    shown = await command("history", session.id, "--json", **settings(server), EVSESSION_ARCHIVE=str(tmp_path))
    assert len(shown.stdout.splitlines()) == 151


async def test_a_key_of_ones_own_signs(server: Server, manager: SessionManager, tmp_path: Path) -> None:
    """And the public half of whichever signs is printed for the auditors."""
    await manager.create(user_id="ada")
    derived = await command("archive", "--public-key", **settings(server))
    assert derived.stdout == Signer.of(manager.worker.keys).public_pem
    key = tmp_path / "archive.pem"
    openssl = await asyncio.create_subprocess_exec("openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key))
    assert await openssl.wait() == 0
    done = await command("archive", "--to", str(tmp_path), "--key", str(key), **settings(server))
    assert done.exit_code == 0, done.output
    own = await command("archive", "--public-key", **settings(server), EVSESSION_ARCHIVE_KEY=str(key))
    assert own.stdout == Signer.load(key).public_pem
    archive = open_archive(str(tmp_path), "cli")
    assert [f.kind async for f in check_archive(archive, Trusted.of(manager.worker.keys), {})] == ["signature"]
    assert [f async for f in check_archive(archive, Trusted([]).with_file(key), {})] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "pass --to with a folder or a URL"),
        (["--to", "nowhere://x"], "write a folder, or such as s3://bucket/folder"),
        (["--to", "/tmp/x", "--every", "often"], "such as 60s or 7d"),
        (["--to", "/tmp/x", "--keep", "1w"], "such as 60s or 7d"),
        (["--to", "/tmp/x", "--key", "/nonexistent.pem"], "openssl genpkey -algorithm ed25519"),
        (["--to", "/proc/nowhere"], "nothing is lost or half done, so mend that and run it again"),
    ],
)
async def test_what_cannot_be_done_ends_with_the_way_out(
    server: Server, manager: SessionManager, arguments: list[str], says: str
) -> None:
    """One line and code 1."""
    await manager.create(user_id="ada")
    done = await command("archive", *arguments, **settings(server))
    assert done.exit_code == 1, done.output
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


async def test_as_a_service_it_stays(server: Server, manager: SessionManager, tmp_path: Path) -> None:
    """It takes up what comes in between, survives an outage of the target, and may simply be killed."""
    await manager.create(user_id="ada")
    target = tmp_path / "later" / "archive"
    (tmp_path / "later").write_text("in the way")
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "evsession.cli", "archive", "--to", str(target), "--every", "1s",
        env=os.environ | settings(server), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert service.stderr is not None
        assert service.stdout is not None
        assert b"run it again" in await service.stderr.readline()
        (tmp_path / "later").unlink()
        assert b"archived 1 events" in await service.stdout.readline()
        await manager.create(user_id="bob")
        while b"archived 1 events" not in (line := await service.stdout.readline()):
            assert b"archived 0 events" in line
    finally:
        service.kill()
        await service.wait()
    archiver = await command("archive", "--to", str(target), **settings(server))
    assert archiver.exit_code == 0, archiver.output
    newest = await open_archive(str(target), "cli").newest("00")
    assert newest is not None
    assert newest.number == 2


async def test_workers_trim_up_to_the_checkpoint_only(server: Server, manager: SessionManager, tmp_path: Path) -> None:
    """However short the retention is: what no archive has stays in the log."""
    session = await manager.create(user_id="ada")
    await command("archive", "--to", str(tmp_path), **settings(server))
    for n in range(300):
        await manager.update(session.id, partial(dict.update, n=n))
    worker = manager.worker
    assert await worker.store.trim("00", -1_000) == 0
    await command("archive", "--to", str(tmp_path), **settings(server))
    assert await worker.store.trim("00", -1_000) > 0


async def test_a_secret_value_is_nowhere_in_archive_and_exports(
    server: Server, manager: SessionManager, tmp_path: Path
) -> None:
    """Set at first, changed, nested: files, lines, Parquet and what the commands print have digests only."""
    canary = "canary-7d1f"
    session = await manager.create(user_id="ada", data={"password": canary, "cart": {"card_number": canary}})
    await manager.update(session.id, partial(dict.update, api_key=[canary]))
    await manager.revoke(session.id, reason="done")
    outputs = [(await command("archive", "--to", str(tmp_path / "a"), "--keep", "0s", **settings(server))).output]
    for kind in ("jsonl", "ocsf", "parquet"):
        out = tmp_path / f"events.{kind}"
        where = settings(server) | {"EVSESSION_ARCHIVE": str(tmp_path / "a")}
        outputs.append((await command("export", "--format", kind, "--out", str(out), **where)).output)
    files = files_in(tmp_path, "*")
    lines = b"".join(zstandard.decompress(data, max_output_size=2**20) for data in files_in(tmp_path, "*.zst").values())
    rows = pq.read_table(tmp_path / "events.parquet").to_pylist()
    everything = "".join(outputs) + str(rows) + lines.decode() + str(list(files.values()))
    assert everything.count("redacted:") >= 12
    assert canary not in everything
