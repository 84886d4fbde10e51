"""How often a user may ask."""

from __future__ import annotations

import pytest

from evsession.fastapi import limiter
from evsession.fastapi.limiter import Limiter


class Clock:
    """The time, which only the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_may_be_asked_at_once() -> None:
    """Then one whenever its share of the minute has passed; waiting longer saves up no more than a minute's worth."""
    clock = Clock()
    limited = Limiter(6, clock)
    assert [limited.wait("ann") for _ in range(7)] == [0, 0, 0, 0, 0, 0, 10]
    clock.now += 4
    assert limited.wait("ann") == pytest.approx(6)
    clock.now += 6
    assert limited.wait("ann") == 0
    assert limited.wait("ann") == pytest.approx(10)
    clock.now += 1000
    assert sum(limited.wait("ann") == 0 for _ in range(20)) == 6


def test_users_do_not_wait_for_each_other() -> None:
    """Each has a bucket."""
    limited = Limiter(1, Clock())
    assert (limited.wait("ann"), limited.wait("joe"), limited.wait("ann")) == (0, 0, 60)


def test_only_so_many_users_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who asked longest ago is forgotten first."""
    monkeypatch.setattr(limiter, "MAX_USERS", 2)
    limited = Limiter(1, Clock())
    for user in ("ann", "joe", "ann", "eve"):
        limited.wait(user)
    assert [limited.wait(user) > 0 for user in ("ann", "eve", "joe")] == [True, True, False]
