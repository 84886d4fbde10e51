"""How long operations take: counted in buckets, failures apart; and who is told of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evsession.operations import BOUNDS, Durations, Observed, Operation, Operations


class Time:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def begun(self, operation: Observed) -> Callable[[float, BaseException | None], None]:
        self.told.append((operation.kind, operation.subject, operation.sid))
        return lambda seconds, error: self.told.append((operation.facts, seconds, error))

    def traceparent(self) -> str:
        return "00-trace"


@given(st.lists(st.floats(0, 20), max_size=30))
def test_each_operation_is_counted_up_to_its_bound(taken: list[float]) -> None:
    """What takes exactly as long as a bound is counted there, and the last bucket holds all."""
    time = Time()
    durations = Durations("commit", time)
    for seconds in taken:
        time.now = seconds
        assert durations.add(0.0, "") == seconds
    buckets = durations.by_error[""]
    assert list(buckets.cumulative()) == [
        (bound, sum(seconds <= bound for seconds in taken)) for bound in (*BOUNDS, float("inf"))
    ]
    assert buckets.total == pytest.approx(sum(taken))


@pytest.mark.parametrize("observer", [None, Listener()])
def test_commits_and_fills_are_timed_whether_observed_or_not(observer: Listener | None) -> None:
    """From the call to the end; what fails is counted under its error."""
    time = Time()
    operations = Operations(time)
    operations.observer = observer
    with operations.commit("00a") as commit:
        commit.count("conflicts")
        commit.tried("updated", 2)
        time.now += 0.003
    with pytest.raises(ZeroDivisionError), operations.fill("00a") as fill:
        fill.note("joined", 1 / 0)  # type: ignore[arg-type]
    assert operations.commits.by_error[""].total == pytest.approx(0.003)
    assert operations.commits.by_error[""].counts[BOUNDS.index(0.005)] == 1
    assert sum(operations.fills.by_error[""].counts) == 0
    assert operations.fills.by_error["ZeroDivisionError"].counts[0] == 1


def test_an_observer_is_told_of_begin_and_end() -> None:
    """With what was noted meanwhile."""
    operations, listener = Operations(Time()), Listener()
    operations.observer = listener
    with operations.commit("00a") as commit:
        commit.tried("updated", 2)
        commit.count("conflicts")
        commit.tried("updated", 3)
        commit.count("conflicts")
    facts = {"event.type": "updated", "session.version": 3, "attempts": 2, "conflicts": 2}
    assert listener.told == [("commit", "session", "00a"), (facts, 0.0, None)]
    listener.told.clear()
    with operations.revocation("user") as revocation:
        revocation.note("receipt.complete", True)
    with operations.sweep():
        pass
    assert [told[:2] for told in listener.told] == [
        ("revoke", "user"),
        ({"receipt.complete": True}, 0.0),
        ("sweep", "sessions"),
        ({}, 0.0),
    ]
    assert operations.traceparent() == "00-trace"


def test_without_an_observer_nothing_is_kept_but_the_time() -> None:
    """Neither facts nor a name."""
    operations = Operations(Time())
    begun = [operations.commit("00a"), operations.fill("00a"), operations.revocation("user"), operations.sweep()]
    assert {type(operation) for operation in begun} == {Operation}
    assert operations.traceparent() == ""
