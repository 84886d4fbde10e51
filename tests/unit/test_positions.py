"""The packed positions of a log."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evsession.positions import RECORD, Positions, pack_id, pack_position
from evsession.wire import START, Position, StreamId


def at(number: int, event: int | None = None) -> Position:
    """Return the position with a number, and with the event of that number unless another is given."""
    return Position((number, number % 3), (number if event is None else event).to_bytes(16))


def test_nothing_is_held_at_first() -> None:
    """The first and the last position of an empty log are its start."""
    held = Positions()
    assert (len(held), held.first, held.last) == (0, START, START)
    assert not held.has(START)
    assert list(held.after((0, 0))) == []


def test_a_position_is_its_id_and_its_event() -> None:
    """After a failover an id may come again with another event."""
    held = Positions()
    held.add(at(5))
    assert held.has(at(5))
    assert not held.has(at(5, event=6))
    assert not held.has(at(4))


def test_an_id_that_no_clock_gives_is_held_as_well() -> None:
    """Whoever can write to Redis appends under any id, which must not stop who reads it."""
    held, far = Positions(), Position((2**64 - 1, 2**64 - 1), bytes(16))
    for position in (far, at(5)):
        held.add(position)
    assert (held.first, held.has(far), len(held)) == (at(5), True, 2)


@given(st.sets(st.integers(1, 300), max_size=40), st.integers(0, 301))
def test_positions_are_found_in_any_order_of_adding(numbers: set[int], past: int) -> None:
    """They stand in the order of the log, and what is past an id is what the log has after it."""
    held = Positions()
    for number in numbers:
        held.add(at(number))
    ordered = sorted(numbers)
    assert len(held) == len(numbers)
    assert (held.first, held.last) == ((at(ordered[0]), at(ordered[-1])) if ordered else (START, START))
    assert list(held.after(at(past).id)) == [at(number) for number in ordered if number > past]
    assert all(held.has(at(number)) == (number in numbers) for number in range(302))


@given(st.sets(st.integers(1, 60)), st.integers(0, 61))
def test_what_is_trimmed_is_forgotten(numbers: set[int], first: int) -> None:
    """All before an id, and nothing else."""
    held = Positions(b"".join(pack_position(at(number)) for number in sorted(numbers)))
    assert held.trim(at(first).id) == len([number for number in numbers if number < first])
    assert list(held.after((0, 0))) == [at(number) for number in sorted(numbers) if number >= first]


@given(
    st.lists(st.integers(1, 40), unique=True).map(sorted),
    st.integers(0, 40),
    st.integers(0, 5),
    st.integers(0, 5),
    st.lists(st.integers(1, 40), unique=True).map(sorted),
)
@example([1, 2, 3], 2, 1, 0, [3])
@example([], 0, 0, 0, [1])
def test_two_logs_share_what_came_before_a_failover(
    common: list[int], lost: int, cut: int, also_cut: int, later: list[int]
) -> None:
    """Whichever of them has been trimmed, and whatever ids the new one hands out again."""
    base = common[-1] if common else 0
    mine = [at(number) for number in common] + [at(base + number) for number in range(1, lost)]
    theirs = [at(number) for number in common] + [at(base + number, event=1000 + number) for number in later]
    cut, also_cut = min(cut, max(len(common) - 1, 0)), min(also_cut, max(len(common) - 1, 0))
    one, other = (
        Positions(b"".join(map(pack_position, positions)))
        for positions in (mine[cut:] if common else mine, theirs[also_cut:] if common else theirs)
    )
    expected = at(common[-1]).id if common else START.id
    assert one.common_with(other) == other.common_with(one) == expected


@pytest.mark.parametrize("id_", [(0, 0), (1, 0), (1_763_712_345_678, 0), (1_763_712_345_678, 4_294_967_295)])
def test_an_id_is_packed_so_that_bytes_compare_as_ids(id_: StreamId) -> None:
    """Ten bytes, which the next greater id exceeds."""
    assert len(pack_id(id_)) == 10
    assert pack_id(id_) < pack_id((id_[0] + 1, 0))
    assert len(pack_position(Position(id_, bytes(16)))) == RECORD
