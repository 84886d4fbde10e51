"""Cursors: text that names a place in every shard, and what is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evsession.audit.cursor import PROOF, Cursor, after, is_proof
from evsession.errors import ConfigError
from evsession.wire import START, Position

ids = st.tuples(st.integers(0, 2**56 - 1), st.integers(0, 2**64 - 1))
positions = st.builds(Position, ids, st.binary(min_size=16, max_size=16) | st.just(b""))
shards = st.sampled_from([f"{number:02x}" for number in range(256)] + ["ctl"])


@given(st.dictionaries(shards, positions, max_size=70), positions)
@example({}, START)
@example({"00": START}, Position((7, 0), b""))
def test_a_cursor_comes_back_from_its_text(known: dict[str, Position], elsewhere: Position) -> None:
    """Each id exactly, and enough of each event id to know it again."""
    cursor = Cursor(known, elsewhere)
    back = Cursor.parse(cursor.text())
    for shard in (*known, "zz"):
        there, here = back.at(shard), cursor.at(shard)
        assert there.id == here.id
        if here.id != START.id:
            assert there.event == here.event[:PROOF]
            assert is_proof(there, here.event)


def test_a_cursor_is_url_safe_and_short() -> None:
    """64 shards fit in a header."""
    cursor = Cursor({f"{number:02x}": Position((1_795_251_141_207, number), bytes(16)) for number in range(64)})
    assert cursor.text().replace("-", "").replace("_", "").isalnum()
    assert len(cursor.text()) < 2_300


def test_an_events_own_cursor_names_its_shard_and_a_time_for_the_others() -> None:
    """A minute earlier, because clocks of servers differ."""
    cursor = Cursor.parse("00:1795251141207-3:0011223344556677")
    assert cursor.at("00") == Position((1_795_251_141_207, 3), bytes.fromhex("0011223344556677"))
    assert cursor.at("01") == after(1_795_251_141_207 - 60_000)


def test_a_time_is_before_all_that_happens_then() -> None:
    """An entry of that very millisecond is not left out."""
    time = datetime(2026, 11, 21, tzinfo=UTC) + timedelta(milliseconds=7)
    assert Cursor.at_time(time).at("00").id < (int(time.timestamp() * 1000), 0)
    assert Cursor.at_time(time).at("00").id > (int(time.timestamp() * 1000) - 1, 10**9)
    assert Cursor.at_time(datetime.fromtimestamp(0, UTC)).at("00") == START


@given(st.text(max_size=60) | st.text("ev1_AZaz09-_=", max_size=60).map(lambda text: f"ev1_{text}"))
@example("ev1_A")
@example("ev1_eHh4")
@example("00:1-1")
@example("ev1_IDAwMA==")
def test_what_is_no_cursor_is_refused_and_never_misread(text: str) -> None:
    """With the ways to begin; a text that happens to be one is one."""
    try:
        cursor = Cursor.parse(text)
    except ConfigError:
        with pytest.raises(ConfigError, match="or 'start', 'now' or a datetime"):
            Cursor.parse(text)
    else:
        assert Cursor.parse(cursor.text()).positions.keys() <= cursor.positions.keys()


def test_a_time_without_a_zone_is_no_moment() -> None:
    """It would mean another one on each machine."""
    with pytest.raises(ConfigError, match=r"use datetime.now\(UTC\)"):
        Cursor.at_time(datetime(2026, 11, 21))
