"""The collector of cycles waits while millions of records pass, and is as it was afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from evsession.audit.collector import RELAXED, collector_relaxed


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """What this process has, whatever a test does."""
    usual = gc.get_threshold()
    gc.set_threshold(700, 10, 7)
    yield
    gc.set_threshold(*usual)


def test_it_waits_until_the_last_of_several_runs_is_over() -> None:
    """Two verifications at once end in any order, and the second does not take for usual what the first has set."""
    first, second = collector_relaxed(), collector_relaxed()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold()[0] == RELAXED
    second.__exit__(None, None, None)
    assert gc.get_threshold()[0] == 700


def test_one_that_is_off_stays_off() -> None:
    """And one that waits for more objects is left to do so."""
    gc.set_threshold(0, 10, 7)
    with collector_relaxed():
        assert gc.get_threshold()[0] == 0
    gc.set_threshold(2 * RELAXED, 10, 7)
    with collector_relaxed():
        assert gc.get_threshold()[0] == 2 * RELAXED
