"""Heads: nothing that they cover can change without them."""

from __future__ import annotations

import pytest

from evsession.chain import ENDED, FIRST, LIVE, Heads, head_of, link_of

KEY = b"k" * 32
LINK = link_of(KEY, FIRST, (b"sid", b"data"))
HEAD = head_of(KEY, LINK, b"sid", 1, LIVE, b"body")


def test_links_and_heads_are_16_bytes_and_repeatable() -> None:
    """Every worker with the key computes the same chain."""
    assert len(LINK) == len(HEAD) == len(FIRST) == 16
    assert link_of(KEY, FIRST, (b"sid", b"data")) == LINK
    assert head_of(KEY, LINK, b"sid", 1, LIVE, b"body") == HEAD


@pytest.mark.parametrize(
    "other",
    [
        link_of(b"o" * 32, FIRST, (b"sid", b"data")),
        link_of(KEY, bytes(15) + b"\1", (b"sid", b"data")),
        link_of(KEY, FIRST, (b"sid", b"dat")),
        link_of(KEY, FIRST, (b"sidd", b"ata")),
        link_of(KEY, FIRST, (b"siddata",)),
        link_of(KEY, FIRST, (b"sid", b"data", b"")),
    ],
)
def test_a_link_covers_the_key_the_head_before_and_each_field(other: bytes) -> None:
    """Bytes cannot move from one field to the next unnoticed."""
    assert other != LINK


@pytest.mark.parametrize(
    "other",
    [
        head_of(b"o" * 32, LINK, b"sid", 1, LIVE, b"body"),
        head_of(KEY, FIRST, b"sid", 1, LIVE, b"body"),
        head_of(KEY, LINK, b"sie", 1, LIVE, b"body"),
        head_of(KEY, LINK, b"sid", 2, LIVE, b"body"),
        head_of(KEY, LINK, b"sid", 1, ENDED, b"body"),
        head_of(KEY, LINK, b"sid", 1, LIVE, b"bodz"),
        link_of(KEY, LINK, (b"sid", b"1", LIVE, b"body")),
    ],
)
def test_a_head_covers_everything_but_the_deadlines(other: bytes) -> None:
    """Another session, version, status or body has another head, and no link can pass for one."""
    assert other != HEAD


@pytest.mark.parametrize("size", [0, 1_023, 1_024, 70_000])
def test_heads_are_made_the_same_by_whoever_makes_many(size: int) -> None:
    """To the byte, also where a part is longer than those whose lengths are at hand."""
    heads, part = Heads(KEY), b"x" * size
    covered = (b"sid", b"7", b"updated", b"event", b"", b"{}", part)
    assert heads.link(FIRST, covered) == link_of(KEY, FIRST, covered)
    assert heads.head(LINK, b"sid", b"7", LIVE, part) == head_of(KEY, LINK, b"sid", 7, LIVE, part)
