"""The mark of files that were removed on purpose."""

from __future__ import annotations

import pytest

from evsession.archive.mark import Mark, unpack_mark
from evsession.errors import CorruptArchive

MARK = Mark(namespace="shop", shard="00", number=7, key_id="0123456789abcdef", signature=bytes(64))


def test_a_mark_comes_back() -> None:
    """With its signature, which is checked elsewhere and covers shard and number."""
    assert unpack_mark("x", MARK.pack(), "shop", "00") == MARK
    assert b'"expired":7' in MARK.content
    assert b"signature" not in MARK.content


@pytest.mark.parametrize(
    ("raw", "shard"),
    [
        (b"", "00"), (b"{}", "00"), (b"7", "00"), (MARK.pack().replace(b"7", b'"7"'), "00"), (MARK.pack(), "01"),
        (MARK.pack().replace(b"7", b"-7"), "00"), (MARK.pack().replace(b'"00"', b' "00"'), "00"),
    ],
)  # fmt: skip
def test_what_is_no_mark_is_refused(raw: bytes, shard: str) -> None:
    """Another shard's is none either."""
    with pytest.raises(CorruptArchive, match=r"^expired.json in the archive is no mark of removed files"):
        unpack_mark("expired.json", raw, "shop", shard)
