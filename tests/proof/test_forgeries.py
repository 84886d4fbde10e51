"""A mutation tester: forge a small log in every way we know, at every position, and see who finds it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evsession.proof import FAULT_KINDS
from evsession.wire import START
from tests.proof.forgeries import KINDS
from tests.proof.world import Kept, World, small_world

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "integrity.md"


@pytest.fixture
async def world() -> World:
    """A small world that is as it should be."""
    world = await small_world()
    assert (await world.copy().report()).ok
    return world


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.finder == "verify"])
async def test_verifying_finds_what_the_docs_say_it_finds(world: World, name: str) -> None:
    """At every position, under one of the faults that are meant for it, and none twice."""
    kind = KINDS[name]
    for case, change in kind.cases(world):
        forged = world.copy()
        change(forged)
        report = await forged.report()
        found = [(fault.shard, fault.session_id, fault.kind) for fault in report.faults]
        assert {one for _, _, one in found} & kind.faults, f"{name}: {case}: {found}"
        assert len(set(found)) == len(found), f"{name}: {case}"


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.finder == "the archive"])
async def test_the_archive_finds_what_the_docs_say_it_finds(world: World, name: str) -> None:
    """It has each entry as it was, under a signature."""
    kept = Kept(world)
    assert await world.copy().kinds(kept) == set()
    for case, change in KINDS[name].cases(world):
        forged = world.copy()
        change(forged)
        report = await forged.report(kept)
        if KINDS[name].faults:
            assert {fault.kind for fault in report.faults} & KINDS[name].faults, f"{name}: {case}"
        else:
            assert (report.ok, report.not_checkable_count) == (True, 0), f"{name}: {case}"


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.finder == "nothing"])
async def test_nothing_finds_what_the_docs_say_nothing_finds(world: World, name: str) -> None:
    """Not even an archive that has all that the log still has."""
    for case, change in KINDS[name].cases(world):
        forged = world.copy()
        change(forged)
        kept = Kept(world, less=len(world.log) - len(forged.log))
        assert await forged.kinds(kept) == set(), f"{name}: {case}"


async def test_an_archive_knows_the_sessions_whose_beginning_was_trimmed(world: World) -> None:
    """They are checked from their first event on, and found out where the log alone would not tell."""
    kept, trimmed = Kept(world), world.copy()
    trimmed.home.trimmed += 8
    del trimmed.log[:8]
    assert (await trimmed.report()).not_checkable_count == 2
    report = await trimmed.report(kept)
    assert report.ok, report.faults
    assert (report.not_checkable_count, report.events) == (0, len(world.log) + len(world.other.log))
    archive = Kept(world)
    archive._entries["00"][3] = archive._entries["00"][3]._replace(actor=b"admin eve")
    assert await trimmed.kinds(archive) == {"altered"}


async def test_an_entry_that_the_archive_passed_over_is_found(world: World) -> None:
    """It was put into the log afterwards, although it may be sound in itself."""
    kept, forged = Kept(world), world.copy()
    forged.log.insert(3, forged.log[3]._replace(id=(forged.log[2].id[0], 1)))
    forged.count_anew()
    assert await forged.kinds(kept) == {"archive_differs", "repeated", "unlinked"}


async def test_a_log_that_is_gone_is_told_by_the_archive(world: World) -> None:
    """The last entry of a log is never trimmed, so an empty one is none."""
    gone = world.copy()
    gone.log.clear()
    gone.home.trimmed, gone.home.added, gone.home.end = 0, 0, START
    assert await gone.kinds(Kept(world)) == {"archive_differs"}


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.finder != "verify"])
async def test_verifying_the_server_alone_cannot_find_the_rest(world: World, name: str) -> None:
    """It is no shame to say so: who forges these owns the server, and the docs say what finds them."""
    for case, change in KINDS[name].cases(world):
        forged = world.copy()
        change(forged)
        assert await forged.kinds() == set(), f"{name}: {case}"


def test_the_docs_list_every_kind_of_forgery_and_who_finds_it() -> None:
    """Under the same names, so that what they promise is what is tested here."""
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", PAGE.read_text(), re.MULTILINE)
    told = {name: finder for name, finder in rows if finder in ("verify", "the archive", "nothing")}
    assert told == {name: kind.finder for name, kind in KINDS.items()}


def test_the_docs_list_every_kind_of_fault() -> None:
    """A fault that somebody meets can be looked up."""
    assert [kind for kind in FAULT_KINDS if f"| `{kind}` |" not in PAGE.read_text()] == []
