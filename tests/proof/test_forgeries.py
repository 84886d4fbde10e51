"""A mutation tester: forge a small log in every way we know, at every position, and see who finds it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evsession.proof import FAULT_KINDS
from tests.proof.forgeries import KINDS
from tests.proof.world import World, small_world

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
