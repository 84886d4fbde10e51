"""The archiver on a real server: whatever is done to it, archive and log together hold each event exactly once."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from evsession.archive.archiver import STEPS, Progress, ShardReport
from evsession.archive.manifest import JOB, Checkpoint
from evsession.archive.reader import Archive
from evsession.archive.signing import Signer
from evsession.archive.target import PART, Target
from evsession.errors import ArchiveUnavailable, CorruptArchive
from evsession.keys import Keyring
from evsession.stores.redis import RedisStore
from evsession.view import CONTROL
from evsession.wire import START, Line, StreamId, line_of
from tests.archive.logs import (
    LAST,
    RING,
    SHARDS,
    archive_in,
    archived,
    archiver,
    either,
    files_in,
    lived,
    logged,
    opened,
)
from tests.contract.builder import Heard
from tests.contract.conftest import PATIENT
from tests.servers import Server

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    """A store with 2 shards."""
    async with opened(server.url, "shop") as store:
        yield store


async def test_archive_and_trimmed_log_make_up_the_whole(store: RedisStore, tmp_path: Path) -> None:
    """Byte by byte and in order, in files of at most 40 events; the log keeps what the workers need of it."""
    await lived(store, 4, 120)
    before, archive = await logged(store), archive_in(tmp_path)
    reports = await archiver(store, archive).run()
    assert [(report.shard, report.events, report.files) for report in reports] == [
        (CONTROL, 0, 0), ("00", 240, 6), ("01", 240, 6),
    ]  # fmt: skip
    after = await logged(store)
    assert sum(report.trimmed for report in reports) == sum(len(before[s]) - len(after[s]) for s in SHARDS) > 0
    assert await archived(archive) == before
    assert await either(store, archive) == before
    assert all(after[shard][-1] == before[shard][-1] for shard in SHARDS)


async def test_a_second_run_goes_on_from_the_first(store: RedisStore, tmp_path: Path) -> None:
    """From its own checkpoint: nothing is written twice, and no event makes no file."""
    await lived(store, 2, 30)
    archive = archive_in(tmp_path)
    await archiver(store, archive).run()
    await lived(store, 2, 5)
    before = await either(store, archive)
    reports = await archiver(store, archive).run()
    assert [report.events for report in reports] == [0, 5, 5]
    assert [report.files for report in await archiver(store, archive).run()] == [0, 0, 0]
    assert await archived(archive) == before


async def test_an_empty_log_makes_no_file(store: RedisStore, tmp_path: Path) -> None:
    """Nothing is there to be safe."""
    assert await archiver(store, archive_in(tmp_path)).run() == [ShardReport(s) for s in (CONTROL, *SHARDS)]
    assert not files_in(tmp_path, "*")


async def test_files_have_the_same_names_and_bytes_wherever_they_are_made(store: RedisStore, tmp_path: Path) -> None:
    """Two archives of one log, made from the start, are equal: whoever takes over writes what was begun."""
    await lived(store, 2, 50)
    for folder in ("one", "two"):
        await archiver(store, archive_in(tmp_path / folder), keep=timedelta(days=1)).run()
        for shard in SHARDS:
            store_key = store.keys(shard).archive
            await store._connected().call(b"DEL", store_key)
    one, two = files_in(tmp_path / "one", "*"), files_in(tmp_path / "two", "*")
    assert one == two
    assert "shop/00/00000001.jsonl.zst" in one
    assert "shop/01/00000002.json" in one


async def test_readings_begin_and_end_anywhere(store: RedisStore, tmp_path: Path) -> None:
    """At the first event of a file, its last, and between files, both ends included."""
    await lived(store, 1, 100)
    archive = archive_in(tmp_path)
    await archiver(store, archive).run()
    entries = (await archived(archive))["00"]
    fresh = archive_in(tmp_path)
    for first, last in [(0, 0), (0, 99), (39, 40), (40, 40), (41, 79), (79, 81), (99, 99), (5, 3)]:
        found = [e async for e in fresh.between("00", entries[first].id, entries[last].id)]
        assert found == entries[first : last + 1]
    assert [e async for e in fresh.between("00", (entries[-1].id[0] + 1, 0), LAST)] == []
    assert [e async for e in fresh.between("07", START.id, LAST)] == []


KILLS: Final = [*(f"{step}:{nth}" for step in STEPS[:-1] for nth in (1, 3)), "trimmed:1", "trimmed:2"]
TEARS: Final = ["torn:1", "torn:2", "torn:5"]


async def test_killed_at_any_step_it_goes_on_without_loss(server: Server, tmp_path: Path) -> None:
    """kill -9 after each step and in the middle of files: the next run takes up what was begun."""
    before, kills = {}, [*KILLS, *TEARS]
    for at in range(len(kills)):
        async with opened(server.url, f"kill{at}") as store:
            await lived(store, 2, 100)
            before[at] = await logged(store)
    program = (sys.executable, "-m", "tests.archive.victim", server.url, str(tmp_path), *kills)
    victims = await asyncio.create_subprocess_exec(*program, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    output, _ = await victims.communicate()
    assert output.split() == [b"-9"] * len(kills)
    for at, kill in enumerate(kills):
        async with opened(server.url, f"kill{at}") as store:
            archive = archive_in(tmp_path, namespace=f"kill{at}")
            assert await either(store, archive) == before[at], f"after {kill}"
            reports = await archiver(store, archive).run()
            assert not any(report.is_busy for report in reports)
            assert await archived(archive) == before[at], f"recovered from {kill}"
            assert await either(store, archive) == before[at], f"recovered from {kill}"
    assert not files_in(tmp_path, f"*{PART}*")


class Full(LocalFileSystem):  # type: ignore[misc]
    """A disk that has room for some files only."""

    cachable = False
    room = 3

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if self.room == 0:
            super().pipe_file(path, value[:9])
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= 1
        super().pipe_file(path, value)


async def test_a_full_disk_loses_nothing(store: RedisStore, tmp_path: Path) -> None:
    """The error names the place, the log keeps everything, and with room again it goes on."""
    await lived(store, 2, 100)
    before, disk = await logged(store), Full()
    archive = archive_in(tmp_path, disk)
    with pytest.raises(ArchiveUnavailable, match="No space left on device") as caught:
        await archiver(store, archive).run()
    assert caught.value.place == str(tmp_path)
    assert await either(store, archive) == before
    assert not files_in(tmp_path, f"*{PART}*")
    disk.room = 1_000
    await archiver(store, archive).run()
    assert await archived(archive) == before


class Slow(LocalFileSystem):  # type: ignore[misc]
    """A disk that writes nothing until it is let."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = threading.Event(), threading.Event()

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.asked.set()
        self.let.wait(60)
        super().pipe_file(path, value)


async def test_a_slow_target_does_not_lose_the_turn(store: RedisStore, tmp_path: Path) -> None:
    """It is renewed again and again, nobody else gets in meanwhile, and the event loop is free."""
    await lived(store, 1, 30)
    before, disk = await logged(store), Slow()
    turn = timedelta(seconds=2)  # it is renewed at thirds, of which two may be late on a busy machine
    work = asyncio.create_task(archiver(store, archive_in(tmp_path, disk), turn=turn).run_shard("00"))
    await asyncio.to_thread(disk.asked.wait, 60)
    other, ends = archiver(store, archive_in(tmp_path), turn=turn), set[bytes]()
    while len(ends) < 5:
        assert (await other.run_shard("00")).is_busy
        ends.add(await store._connected().call(b"HGET", store.keys("00").turn("archive"), b"until"))
        await asyncio.sleep(0.02)
    disk.let.set()
    assert (await work).events == 30
    assert await archived(archive_in(tmp_path)) == before


async def test_two_archivers_at_once_do_the_work_of_one(server: Server, store: RedisStore, tmp_path: Path) -> None:
    """While events go on coming: each file is written by one of them, and each event stands in one file."""
    archive, stop = archive_in(tmp_path), asyncio.Event()

    async def works(url: str) -> int:
        async with opened(url, "shop") as own:
            done = 0
            while not stop.is_set():
                done += sum(report.events for report in await archiver(own, archive_in(tmp_path)).run())
            return done

    both = [asyncio.create_task(works(server.url)) for _ in range(2)]
    await lived(store, 4, 80)
    await asyncio.sleep(0)
    stop.set()
    done = sum(await asyncio.gather(*both))
    done += sum(report.events for report in await archiver(store, archive).run())
    assert done == 4 * 80
    entries = await archived(archive)
    assert sum(map(len, entries.values())) == 4 * 80
    assert all(len({e.event_id for e in entries[shard]}) == len(entries[shard]) for shard in SHARDS)
    assert await either(store, archive) == entries


async def test_one_who_comes_back_late_does_no_harm(store: RedisStore, tmp_path: Path) -> None:
    """Paused in the middle of a file, overtaken, let go: it writes what is there already, and its turn is over.

    The log has grown meanwhile, and the one that takes over makes the file that was begun, not a longer one.
    """
    await lived(store, 1, 30)
    before, disk = await logged(store), Slow()
    late = archiver(store, archive_in(tmp_path, disk), turn=timedelta(seconds=60))
    work = asyncio.create_task(late.run_shard("00"))
    await asyncio.to_thread(disk.asked.wait, 60)
    await store._connected().call(b"HSET", store.keys("00").turn("archive"), b"until", 0)  # as if paused that long
    await lived(store, 1, 20)
    other = archiver(store, archive_in(tmp_path))
    report = await other.run_shard("00")
    assert (report.events, report.files) == (50, 2)
    disk.let.set()
    assert (await work).is_busy
    entries = await archived(archive_in(tmp_path))
    assert entries["00"][:30] == before["00"]
    assert len(entries["00"]) == 50
    assert await either(store, archive_in(tmp_path)) == entries


async def test_entries_that_are_none_of_ours_stop_nothing(store: RedisStore, tmp_path: Path) -> None:
    """Thousands in a row are looked over, said aloud by the store, and not archived."""
    await lived(store, 1, 10)
    log, end = store.keys("00").log, store.keys("00").end
    for _ in range(2_500):
        await store._connected().call(b"XADD", log, b"*", b"x", b"y")
    assert await store._connected().call(b"GET", end)
    await lived(store, 1, 10)
    before, archive = await logged(store), archive_in(tmp_path)
    assert len(before["00"]) == 20
    assert (await archiver(store, archive).run_shard("00")).events == 20
    assert await archived(archive) == before


async def test_an_object_store_needs_no_folders(store: RedisStore) -> None:
    """Whatever fsspec reaches will do; here it is its own in memory."""
    await lived(store, 2, 60)
    before = await logged(store)
    archive = Archive(Target(MemoryFileSystem(), "/bucket/archive"), "shop")
    await archiver(store, archive).run()
    assert await archived(archive) == before
    assert str(archive.target) == "memory:///bucket/archive"
    MemoryFileSystem.store.clear()


async def test_a_trim_before_the_archive_is_said_aloud(
    store: RedisStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else trims the log: the next manifest has the gap, and archiving goes on."""
    await lived(store, 1, 30)
    archive = archive_in(tmp_path)
    await archiver(store, archive).run_shard("00")
    await lived(store, 1, 30)
    await store._connected().call(b"XTRIM", store.keys("00").log, b"MAXLEN", 10)
    with caplog.at_level(logging.CRITICAL, "evsession.archive"):
        assert (await archiver(store, archive).run_shard("00")).events == 10
    assert "what lay between is lost" in caplog.text
    newest = await archive.newest("00")
    assert newest is not None
    assert newest.is_gap
    assert len((await archived(archive))["00"]) == 40


async def test_a_failover_that_takes_events_back_is_marked(
    store: RedisStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They stay in the archive as they were, and readings follow the history that the log has now."""
    await lived(store, 1, 100)
    archive = archive_in(tmp_path)
    kept = (await logged(store))["00"][:55]
    await archiver(store, archive, keep=timedelta(days=1)).run_shard("00")
    await _fall_back(store, 55)
    assert (await archiver(store, archive, keep=timedelta(days=1)).run_shard("00")).events == 0
    await lived(store, 1, 60)
    before = await logged(store)
    assert before["00"][:55] == kept
    with caplog.at_level(logging.CRITICAL, "evsession.archive"):
        assert (await archiver(store, archive).run_shard("00")).events == 60
    assert "a failover has taken back" in caplog.text
    fresh = archive_in(tmp_path)
    assert await archived(fresh) == before
    assert await either(store, fresh) == before
    assert [e async for e in fresh.between("00", before["00"][50].id, before["00"][60].id)] == before["00"][50:61]
    manifests = [await fresh.manifest("00", number) for number in range(1, 6)]
    assert sum(m.count for m in manifests if m) == 160, "what was lost is still there"


async def test_a_failover_while_a_file_is_read_mixes_no_histories(
    server: Server, store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second page comes from another history than the first, with the same ids: both are read again."""
    monkeypatch.setattr("evsession.archive.archiver.PAGE", 20)
    await lived(store, 1, 38)
    calls = 0

    class Failing(RedisStore):
        async def lines(self, shard: str, after: StreamId, count: int) -> Sequence[Line]:
            nonlocal calls
            calls += count == 20
            if calls == 2:
                await _replace(store, 15)
            return await super().lines(shard, after, count)

    failing = Failing(server.url, namespace="shop", shards=2, policy=PATIENT)
    await failing.open("failing", 2_000, Heard())
    assert (await archiver(failing, archive_in(tmp_path), keep=timedelta(days=1)).run_shard("00")).events == 38
    await failing.close()
    assert calls > 2
    assert await archived(archive_in(tmp_path)) == await logged(store)


async def _replace(store: RedisStore, length: int) -> None:
    """Have other events where the newest entries of shard 00 stood, under the same ids, as after a failover."""
    call, log, entries = store._connected().call, store.keys("00").log, (await logged(store))["00"]
    await call(b"DEL", log)
    for number, entry in enumerate(entries):
        id_, type_, sid, version, previous, event_id, offset, actor, context, data, key_id, head = line_of(entry)
        event_id = event_id if number < length else secrets.token_bytes(16)
        await call(
            b"XADD", log, id_, b"t", type_, b"s", sid, b"n", version, b"p", previous, b"i", event_id, b"o", offset,
            b"a", actor, b"c", context, b"d", data, b"k", key_id, b"m", head,
        )  # fmt: skip
        await call(b"SET", store.keys("00").end, id_ + b" " + event_id)


async def _fall_back(store: RedisStore, length: int) -> None:
    """Take the newest entries of shard 00 back, the end included, as a failover to a late replica does."""
    entries = (await logged(store))["00"]
    for entry in entries[length:]:
        await store._connected().call(b"XDEL", store.keys("00").log, b"%d-%d" % entry.id)
    last = entries[length - 1]
    await store._connected().call(b"SET", store.keys("00").end, b"%d-%d %b" % (*last.id, last.event_id))


async def test_a_checkpoint_that_a_failover_took_back_is_found_again(store: RedisStore, tmp_path: Path) -> None:
    """The archive's own files say how far it has come: they are taken in, not written again."""
    await lived(store, 1, 100)
    before, archive = await logged(store), archive_in(tmp_path)
    await archiver(store, archive, keep=timedelta(days=1)).run()
    await store._connected().call(b"DEL", store.keys("00").archive)
    disk = Full()
    disk.room = 0
    report = await archiver(store, archive_in(tmp_path, disk)).run_shard("00")
    assert (report.events, report.files) == (100, 3)
    assert await archived(archive) == before


async def test_a_damaged_file_is_not_taken_in(store: RedisStore, tmp_path: Path) -> None:
    """Its manifest is ours, but events would be trimmed that nobody has any more."""
    await lived(store, 1, 30)
    archive = archive_in(tmp_path)
    await archiver(store, archive, keep=timedelta(days=1)).run_shard("00")
    await store._connected().call(b"DEL", store.keys("00").archive)
    (tmp_path / "shop" / "00" / "00000001.jsonl.zst").write_bytes(b"dust")
    with pytest.raises(CorruptArchive, match=r"00000001\.jsonl\.zst"):
        await archiver(store, archive_in(tmp_path)).run_shard("00")
    assert len((await logged(store))["00"]) == 30


async def test_an_intention_that_a_failover_took_back_binds_nobody(store: RedisStore, tmp_path: Path) -> None:
    """The event that a file was to end with is in no log any more: files end as always."""
    await lived(store, 1, 100)
    turn = await store.take_turn("00", JOB, "somebody", 1)
    assert turn is not None
    assert await store.advance("00", JOB, "somebody", turn.fence, Checkpoint(pending=LAST).pack())
    await store.give_turn("00", JOB, "somebody", turn.fence)
    report = await archiver(store, archive_in(tmp_path)).run_shard("00")
    assert (report.events, report.files) == (100, 3)


class Lying(LocalFileSystem):  # type: ignore[misc]
    """A disk that stores something else than it was given, now and then."""

    cachable = False

    def __init__(self, suffix: str) -> None:
        super().__init__()
        self.suffix = suffix

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        is_hit = self.suffix in path
        super().pipe_file(path, value[:-9] + bytes(9) if is_hit else value)


@pytest.mark.parametrize("suffix", [".zst", ".json."])
async def test_what_is_read_back_wrong_is_not_trimmed(store: RedisStore, tmp_path: Path, suffix: str) -> None:
    """File or manifest: the checkpoint stays, the log keeps everything, and a good disk makes it good."""
    await lived(store, 1, 150)
    before = await logged(store)
    with pytest.raises(CorruptArchive):
        await archiver(store, archive_in(tmp_path, Lying(suffix))).run_shard("00")
    assert Checkpoint.unpack(await store.checkpoint("00", JOB)).number == 0
    assert await store.trim("00", -1_000) == 0
    assert (await archiver(store, archive_in(tmp_path)).run_shard("00")).events == 150
    assert (await archived(archive_in(tmp_path)))["00"] == before["00"]


async def test_a_planted_file_is_not_taken_in(store: RedisStore, tmp_path: Path) -> None:
    """Who can write to the archive's place, but has no key, cannot have the log trimmed by a forged manifest."""
    await lived(store, 1, 30)
    before, archive = await logged(store), archive_in(tmp_path)
    stranger = Signer.of(Keyring("another secret, of at least 32 characters", namespace="shop"))
    await archiver(store, archive_in(tmp_path), signer=stranger, keep=timedelta(days=1)).run_shard("00")
    planted = await archive.found("00", 1)
    assert planted is not None
    await store._connected().call(b"DEL", store.keys("00").archive)
    await lived(store, 1, 5)
    await archiver(store, archive).run_shard("00")
    first = await archive.found("00", 1)
    assert first is not None
    assert first.key_id != planted.key_id
    assert (await archived(archive))["00"][:30] == before["00"]


async def test_another_archive_in_the_same_place_is_refused(store: RedisStore, tmp_path: Path) -> None:
    """The next file there follows another one than ours: nothing is mixed, nothing trimmed."""
    await lived(store, 1, 30)
    archive = archive_in(tmp_path)
    await archiver(store, archive, keep=timedelta(days=1)).run_shard("00")
    first = await archive.found("00", 1)
    assert first is not None
    other = Signer.of(RING).sign(replace(first, number=2, previous="ab" * 32))
    (tmp_path / "shop" / "00" / "00000002.json").write_bytes(other.pack())
    with pytest.raises(CorruptArchive, match="follows another file"):
        await archiver(store, archive).run_shard("00")


async def test_a_file_that_was_changed_is_never_read(store: RedisStore, tmp_path: Path) -> None:
    """One byte is enough."""
    await lived(store, 1, 30)
    archive = archive_in(tmp_path)
    await archiver(store, archive).run_shard("00")
    file = tmp_path / "shop" / "00" / "00000001.jsonl.zst"
    whole = file.read_bytes()
    for damaged in (whole[:-20], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], b"", b"what"):
        file.write_bytes(damaged)
        with pytest.raises(CorruptArchive, match=r"00/00000001\.jsonl\.zst"):
            await archived(archive)
    file.unlink()
    with pytest.raises(CorruptArchive, match="is missing"):
        await archived(archive)


async def test_progress_is_told_step_by_step(store: RedisStore, tmp_path: Path) -> None:
    """Each before the next begins, so that a bar and a test can follow."""
    await lived(store, 1, 50)
    told: list[Progress] = []
    await archiver(store, archive_in(tmp_path), on_progress=told.append).run_shard("00")
    assert [one.step for one in told] == [*STEPS[:5], *STEPS[:5], "trimmed"]
    assert [one.events for one in told if one.step == "advanced"] == [40, 50]
    shares = [one.share for one in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
