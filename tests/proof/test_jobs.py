"""Proving in several processes finds the same as in one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evsession.audit import verify as verification
from tests.proof.forgeries import KINDS
from tests.proof.world import Kept, World, small_world

FOUND = [name for name, kind in KINDS.items() if kind.finder == "verify"]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A small world, in so many parts that there is something to share."""
    monkeypatch.setattr(verification, "PART", 3)
    return await small_world()


@pytest.mark.parametrize("start", range(4))
async def test_two_processes_find_what_one_finds(world: World, start: int) -> None:
    """Every fault, in the same order, with the same words: several forgeries of different kinds at once."""
    forged = world.copy()
    for name in FOUND[start::4]:
        _, change = next(KINDS[name].cases(forged))
        change(forged)
    alone, shared = await forged.copy().report(), await forged.copy().report(jobs=2)
    assert alone.fault_count > 1
    assert replace(shared, seconds=0) == replace(alone, seconds=0)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_two_processes_know_what_cannot_be_checked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log was trimmed, in several passes, the last of one part; with an archive they know it all."""
    kept, trimmed = Kept(world), world.copy()
    trimmed.home.trimmed += 8
    del trimmed.log[:8]
    monkeypatch.setattr(verification, "MAX_PARTS", 2)
    alone, shared = await trimmed.copy().report(), await trimmed.copy().report(jobs=2)
    assert (alone.ok, alone.not_checkable_count) == (True, 2)
    assert replace(shared, seconds=0) == replace(alone, seconds=0)
    shared = await trimmed.copy().report(kept, jobs=2)
    assert (shared.ok, shared.not_checkable_count, shared.sessions) == (True, 0, 5)
