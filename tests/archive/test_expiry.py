"""Files whose time is over: removed on purpose, under a signed mark; the chain stays."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from evsession.archive.archiver import ShardReport
from evsession.archive.signing import Signer, Trusted
from evsession.archive.target import Target
from evsession.errors import ArchiveUnavailable, CorruptArchive
from evsession.keys import Keyring
from evsession.stores.memory import MemoryStore
from tests.archive.logs import RING, SHARDS, archive_in, archived, archiver, files_in, lived
from tests.archive.test_check import STRANGER, faults

DAY = 86_400_000


class Calendar:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Calendar:
    """The store's clock."""
    return Calendar()


@pytest.fixture
async def store(clock: Calendar, tmp_path: Path) -> MemoryStore:
    """A store that was archived on three days: files 1 to 6 of shard 00 hold 50 events a day."""
    store = MemoryStore(shards=len(SHARDS), clock=clock)
    for _ in range(3):
        await lived(store, 2, 50)
        await archiver(store, archive_in(tmp_path)).run()
        clock.now += DAY
    return store


async def expired(store: MemoryStore, folder: Path, days: float, **options: object) -> ShardReport:
    """Run an archiver of shard 00 that keeps files for some days."""
    options = {"retention": timedelta(days=days), **options}
    return await archiver(store, archive_in(folder), **options).run_shard("00")


async def test_old_files_go_and_their_manifests_stay(store: MemoryStore, tmp_path: Path) -> None:
    """What is left is read as before, the archive is sound, and it goes on."""
    before = await archived(archive_in(tmp_path))
    assert (await expired(store, tmp_path, 1.5)).expired == 4
    assert sorted(files_in(tmp_path / "shop" / "00", "*")) == [
        "00000001.json", "00000002.json", "00000003.json", "00000004.json",
        "00000005.json", "00000005.jsonl.zst", "00000006.json", "00000006.jsonl.zst", "expired.json",
    ]  # fmt: skip
    assert await archived(archive_in(tmp_path)) == before | {"00": before["00"][100:]}
    assert await faults(tmp_path / "shop" / "00", store) == []
    assert (await expired(store, tmp_path, 1.5)).expired == 0
    await lived(store, 2, 10)
    assert (await expired(store, tmp_path, 1.5)).events == 10
    assert await faults(tmp_path / "shop" / "00", store) == []


async def test_the_newest_file_stays(store: MemoryStore, clock: Calendar, tmp_path: Path) -> None:
    """Whatever its age: the archive goes on from it."""
    clock.now += 1_000 * DAY
    assert (await expired(store, tmp_path, 1)).expired == 5
    assert len((await archived(archive_in(tmp_path)))["00"]) == 10


async def test_without_a_retention_everything_stays(store: MemoryStore, clock: Calendar, tmp_path: Path) -> None:
    """That is the default."""
    clock.now += 1_000 * DAY
    assert (await archiver(store, archive_in(tmp_path)).run_shard("00")).expired == 0
    assert len((await archived(archive_in(tmp_path)))["00"]) == 150


async def test_killed_between_mark_and_removal_it_goes_on(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run removes what the mark says."""

    async def fails(self: Target, name: str) -> None:
        raise ArchiveUnavailable(str(self), f"cannot be removed: {name}")

    with monkeypatch.context() as patch:
        patch.setattr(Target, "remove", fails)
        with pytest.raises(ArchiveUnavailable):
            await expired(store, tmp_path, 1.5)
    assert len((await archived(archive_in(tmp_path)))["00"]) == 150
    assert await faults(tmp_path / "shop" / "00", store) == []
    assert (await expired(store, tmp_path, 1.5)).expired == 4


async def test_a_file_that_went_without_a_mark_is_missing(store: MemoryStore, tmp_path: Path) -> None:
    """Or whoever can delete could say that its time was over."""
    await expired(store, tmp_path, 1.5)
    (tmp_path / "shop" / "00" / "00000005.jsonl.zst").unlink()
    assert await faults(tmp_path / "shop" / "00", store) == ["00/5 content"]
    with pytest.raises(CorruptArchive, match=r"00000005\.jsonl\.zst .* is missing"):
        await archived(archive_in(tmp_path))


async def test_a_mark_that_nobody_trusted_signed_is_found(store: MemoryStore, tmp_path: Path) -> None:
    """And the archiver stops before it removes anything more."""
    await expired(store, tmp_path, 1.5, signer=STRANGER)
    folder = tmp_path / "shop" / "00"
    assert await faults(folder, store) == ["00/4 signature"]
    with pytest.raises(CorruptArchive, match="signed by nobody who is trusted"):
        await expired(store, tmp_path, 0.5)
    (folder / "expired.json").write_bytes(b"{}")
    assert await faults(folder, store) == ["00/0 manifest", "00/1 content"]


async def test_a_new_key_signs_the_mark_again(store: MemoryStore, tmp_path: Path) -> None:
    """So that the newest key is enough to check it."""
    await expired(store, tmp_path, 1.5)
    both = Keyring(
        ["a newer key of those who archive in tests", "the key of those who archive in tests"], namespace="shop"
    )
    new = Keyring("a newer key of those who archive in tests", namespace="shop")
    await lived(store, 2, 10)
    await expired(store, tmp_path, 1.5, signer=Signer.of(both), trusted=Trusted.of(both))
    folder = tmp_path / "shop" / "00"
    assert [fault for fault in await faults(folder, store, Trusted.of(new)) if fault.startswith("00")] == []
    assert await faults(folder, store, Trusted.of(RING)) == ["00/4 signature"]
