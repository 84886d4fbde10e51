"""Manifests and checkpoints: both ways, refused when they are something else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evsession.archive.manifest import (
    Checkpoint,
    Fork,
    Manifest,
    bound_of,
    file_name,
    manifest_name,
    unpack_manifest,
)
from evsession.errors import CorruptArchive, UnknownFormat
from evsession.wire import START, Position

MANIFEST = Manifest(
    namespace="shop",
    shard="00",
    number=3,
    after=Position((10, 0), bytes(16)),
    first=Position((11, 0), bytes(range(16))),
    last=Position((12, 7), bytes(range(1, 17))),
    count=9,
    size=4_000,
    sha256="ab" * 32,
    previous="cd" * 32,
    forks=(Fork(2, (5, 1)),),
    is_gap=True,
    key_id="0123456789abcdef",
    signature=bytes(64),
)


def test_a_manifest_comes_back() -> None:
    """With its signature, which is checked elsewhere."""
    assert unpack_manifest("x", MANIFEST.pack()) == MANIFEST


def test_the_digest_covers_all_but_who_signed() -> None:
    """So the chain holds when a file is signed again with a new key, and breaks with anything else."""
    assert replace(MANIFEST, key_id="", signature=b"").digest == MANIFEST.digest
    others = [
        replace(MANIFEST, namespace="ship"), replace(MANIFEST, shard="01"), replace(MANIFEST, number=4),
        replace(MANIFEST, after=START), replace(MANIFEST, first=START), replace(MANIFEST, last=START),
        replace(MANIFEST, count=8), replace(MANIFEST, size=1), replace(MANIFEST, sha256="00" * 32),
        replace(MANIFEST, previous=""), replace(MANIFEST, forks=()), replace(MANIFEST, is_gap=False),
    ]  # fmt: skip
    assert len({MANIFEST.digest, *(other.digest for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b"null", MANIFEST.pack()[:-9], MANIFEST.pack().replace(b"12-7", b"x")]
)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    """With the name of its file."""
    with pytest.raises(CorruptArchive, match=r"^00000003.json in the archive is no manifest"):
        unpack_manifest("00000003.json", raw)


def test_a_manifest_has_one_form_only() -> None:
    """Spaces, other fields or another order could hide something from the one who signs."""
    with pytest.raises(CorruptArchive, match="as evsession writes it"):
        unpack_manifest("x", MANIFEST.pack().replace(b'"count":9', b'"count": 9'))


def test_a_newer_manifest_asks_for_an_upgrade() -> None:
    """It is not called corrupt."""
    with pytest.raises(UnknownFormat, match="upgrade evsession"):
        unpack_manifest("x", MANIFEST.pack().replace(b'"format":1', b'"format":2'))


def test_files_sort_by_their_names() -> None:
    """A listing is in the order of the log."""
    assert (file_name(3), manifest_name(3)) == ("00000003.jsonl.zst", "00000003.json")
    assert file_name(9) < file_name(10)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint(),
        Checkpoint(MANIFEST.last, 3, MANIFEST.digest),
        Checkpoint(MANIFEST.last, 3, MANIFEST.digest, (13, 2)),
        Checkpoint(pending=(1, 0)),
    ],
)
def test_a_checkpoint_comes_back(checkpoint: Checkpoint) -> None:
    """And begins with the id that the store needs when it trims."""
    assert Checkpoint.unpack(checkpoint.pack()) == checkpoint
    assert checkpoint.pack().startswith(b"%d-%d " % checkpoint.position.id)


def test_no_checkpoint_is_the_first() -> None:
    """The store has nothing yet."""
    assert Checkpoint.unpack(b"") == Checkpoint()


def test_a_checkpoint_of_another_form_asks_for_an_upgrade() -> None:
    """It is not taken for the first, which would archive everything again."""
    with pytest.raises(UnknownFormat, match="upgrade evsession"):
        Checkpoint.unpack(b"2|12-7")


def test_a_fork_bounds_the_files_before_it() -> None:
    """What they hold beyond it was lost; the file that continues, and later ones, are whole."""
    forks = (Fork(3, (20, 0)), Fork(5, (10, 0)))
    assert [bound_of(number, forks) for number in (1, 2, 3, 4, 5, 6)] == [(10, 0)] * 4 + [None] * 2
    assert bound_of(1, ()) is None
