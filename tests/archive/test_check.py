"""Checking an archive: each way to change it is found, by its kind and at its first place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import zstandard

from evsession.archive.check import check_archive
from evsession.archive.lines import from_line
from evsession.archive.manifest import Checkpoint, Manifest, unpack_manifest
from evsession.archive.signing import Signer, Trusted
from evsession.keys import Keyring
from evsession.stores.memory import MemoryStore
from tests.archive.logs import RING, SHARDS, archive_in, archived, archiver, lived

STRANGER = Signer.of(Keyring("somebody else's secret, 32 characters", namespace="shop"))


@pytest.fixture
async def store() -> MemoryStore:
    """A store in memory: the archive does not care."""
    store = MemoryStore(shards=len(SHARDS))
    await lived(store, 2, 150)
    return store


@pytest.fixture
async def folder(store: MemoryStore, tmp_path: Path) -> Path:
    """The folder of shard 00 of an archive of four files."""
    await archiver(store, archive_in(tmp_path)).run()
    return tmp_path / "shop" / "00"


async def faults(folder: Path, store: MemoryStore | None = None, trusted: Trusted | None = None) -> list[str]:
    """Return what is wrong, as ``shard/number kind``; with a store, its checkpoints count."""
    points = {shard: await store.checkpoint(shard, "archive") for shard in SHARDS} if store else {}
    found = check_archive(archive_in(folder.parents[1]), trusted or Trusted.of(RING), points)
    return [f"{fault.shard}/{fault.number} {fault.kind}" async for fault in found]


async def test_an_untouched_archive_is_sound(folder: Path, store: MemoryStore) -> None:
    """Each file is read, and told of."""
    told: list[tuple[str, int, int]] = []
    points = {shard: await store.checkpoint(shard, "archive") for shard in SHARDS}
    archive = archive_in(folder.parents[1])
    found = [f async for f in check_archive(archive, Trusted.of(RING), points, lambda *one: told.append(one))]
    assert found == []
    assert told == [(shard, number, 30 if number == 4 else 40) for shard in SHARDS for number in (1, 2, 3, 4)]


def _edit(path: Path, change: Callable[[Manifest], Manifest]) -> None:
    path.write_bytes(change(unpack_manifest(path.name, path.read_bytes())).pack())


def _remove(folder: Path, number: int) -> None:
    for path in folder.glob(f"{number:08d}.*"):
        path.unlink()


def _lines(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    lines = zstandard.decompress(path.read_bytes(), max_output_size=2**26).splitlines(keepends=True)
    path.write_bytes(zstandard.compress(b"".join(change(lines))))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_a_changed_inserted_deleted_or_moved_event_is_found(folder: Path, number: int) -> None:
    """Whatever is done to the lines of a file, it holds other events than its manifest says."""
    file = folder / f"{number:08d}.jsonl.zst"
    whole = file.read_bytes()
    edits: list[Callable[[list[bytes]], list[bytes]]] = [
        lambda lines: [lines[0].replace(b"tea", b"gin").replace(b"created", b"updated"), *lines[1:]],
        lambda lines: lines[:5] + lines[4:],
        lambda lines: lines[:5] + lines[6:],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: lines[:-1],
    ]
    for edit in edits:
        _lines(file, edit)
        assert await faults(folder) == [f"00/{number} content"]
        file.write_bytes(whole)
    file.write_bytes(whole[: len(whole) // 2])
    assert await faults(folder) == [f"00/{number} content"]
    file.unlink()
    assert await faults(folder) == [f"00/{number} content"]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_a_changed_manifest_is_found(folder: Path, number: int) -> None:
    """By its signature, and by the next one's name for it."""
    path = folder / f"{number:08d}.json"
    _edit(path, lambda manifest: replace(manifest, is_gap=True))
    chain = [] if number == 4 else [f"00/{number + 1} chain"]
    assert await faults(folder) == [f"00/{number} gap", f"00/{number} signature", *chain]


async def test_a_manifest_that_is_none_is_found(folder: Path) -> None:
    """And named, not raised."""
    (folder / "00000002.json").write_bytes(b"{}")
    assert await faults(folder) == ["00/2 manifest"]


async def test_a_missing_file_in_the_middle_is_found(folder: Path) -> None:
    """Manifest and all."""
    _remove(folder, 2)
    assert await faults(folder) == ["00/2 missing"]


async def test_two_files_that_changed_places_are_found(folder: Path) -> None:
    """A manifest says its number."""
    two, three = folder / "00000002.json", folder / "00000003.json"
    second = two.read_bytes()
    two.write_bytes(three.read_bytes())
    three.write_bytes(second)
    assert await faults(folder) == ["00/2 manifest"]


async def test_a_forger_without_a_key_is_found(folder: Path) -> None:
    """Who rewrites a file and all manifests after it still cannot sign them."""
    _lines(folder / "00000004.jsonl.zst", lambda lines: lines[:-1])
    lines = zstandard.decompress((folder / "00000004.jsonl.zst").read_bytes(), max_output_size=2**26)
    last = from_line(lines.splitlines()[-1]).position
    forged: dict[str, Any] = {"count": 29, "size": len(lines), "sha256": sha256(lines).hexdigest(), "last": last}
    _edit(folder / "00000004.json", lambda manifest: STRANGER.sign(replace(manifest, **forged)))
    assert await faults(folder) == ["00/4 signature"]


async def test_a_truncated_archive_is_found_by_what_redis_knows(folder: Path, store: MemoryStore) -> None:
    """And by nothing else: an archive whose last files are gone is a shorter archive."""
    _remove(folder, 4)
    assert await faults(folder) == []
    assert await faults(folder, store) == ["00/4 missing", "00/4 truncated"]


async def test_an_older_copy_of_the_archive_is_found(folder: Path, store: MemoryStore, tmp_path: Path) -> None:
    """Put back in place of the newer one, with another last file."""
    points = {"00": Checkpoint.unpack(await store.checkpoint("00", "archive"))._replace(digest="ab" * 32).pack()}
    found = check_archive(archive_in(tmp_path), Trusted.of(RING), points)
    assert [(fault.number, fault.kind) async for fault in found] == [(4, "truncated")]


async def test_an_archive_of_another_shard_is_not_taken_for_this_one(folder: Path) -> None:
    """Its manifests say where they belong."""
    copytree(folder, folder.parent / "02")
    assert await faults(folder) == ["02/1 manifest"]


async def test_after_a_rotation_the_newest_key_is_enough(store: MemoryStore, tmp_path: Path) -> None:
    """It vouches for what the old one signed, as the chain covers it."""
    old, new = "the old secret, of 32 characters or so", "the new secret, of 32 characters or so"
    before, both, after = (Keyring(keys, namespace="shop") for keys in (old, [new, old], new))
    archive = archive_in(tmp_path)
    await archiver(store, archive, signer=Signer.of(before), trusted=Trusted.of(before)).run()
    await lived(store, 2, 10)
    await archiver(store, archive, signer=Signer.of(both), trusted=Trusted.of(both)).run()
    folder = tmp_path / "shop" / "00"
    for keys in (both, after):
        assert await faults(folder, store, Trusted.of(keys)) == []
    assert await faults(folder, store, Trusted.of(before)) == ["00/5 signature", "01/5 signature"]
    assert sum(map(len, (await archived(archive)).values())) == 320


async def test_old_files_signed_by_nobody_we_know_need_an_unbroken_chain(store: MemoryStore, tmp_path: Path) -> None:
    """A new key cannot vouch past a break."""
    await archiver(store, archive_in(tmp_path), signer=STRANGER, trusted=Trusted.of(RING)).run()
    await lived(store, 2, 10)
    await archiver(store, archive_in(tmp_path)).run()
    folder = tmp_path / "shop" / "00"
    assert await faults(folder, store) == []
    _edit(folder / "00000004.json", lambda manifest: STRANGER.sign(replace(manifest, is_gap=True)))
    assert await faults(folder, store) == ["00/4 gap", "00/1 signature", "00/5 chain"]
