"""The prover by itself: each kind of fault, where it is first seen, and what is no fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evsession.keys import Keyring
from evsession.proof import Fault, Prover, Reach, Trace, counter_faults
from evsession.store import Counters
from evsession.wire import START, Entry, Position, entry_of, id_text, line_of
from tests.proof.world import Teller, World, created, ended, login, renewed, updated

NEVER: Callable[[Trace], bool] = lambda _: False  # noqa: E731
ALWAYS: Callable[[Trace], bool] = lambda _: True  # noqa: E731


async def story(*events: Any) -> tuple[World, str]:
    """Return a world with one session, and its id."""
    teller = Teller()
    sid = teller.sid()
    await teller.tell(sid, *events)
    return teller.world(), sid


def proved(
    world: World, *, keys: Keyring | None = None, lapsed: Callable[[Trace], bool] = NEVER, reach: Reach | None = None
) -> tuple[list[Fault], dict[str, Trace]]:
    """Return the faults of a world, and what is known of its sessions."""
    faults: list[Fault] = []
    usual = Reach(world.log[0].id if world.log else START.id, world.home.end.id)
    prover = Prover(keys or world.keys, {"00": reach or usual}, faults.append)
    for sid, packed in world.snapshots.items():
        prover.snapshot(sid, packed)
    for entry in world.log:
        prover.entry(b"00", line_of(entry))
    traces = dict(prover.finish(lapsed))
    for sid in traces:
        assert prover.faults_of(sid) == {fault.kind for fault in faults if fault.session_id == sid}
    return faults, traces


def kinds(faults: list[Fault]) -> list[str]:
    """Return the kinds of faults in the order in which they were found."""
    return [fault.kind for fault in faults]


async def test_what_was_written_by_commits_has_no_fault() -> None:
    """All events, secret values, a login, a new secret and an end; the last state is known."""
    living, sid = await story(created(n=1, token="t"), login("7"), updated("token"), renewed(), updated(n=2))
    faults, traces = proved(living)
    assert faults == []
    trace = traces[sid]
    assert trace.snapshot is not None
    assert (trace.version, trace.snapshot.data, trace.is_partial, trace.has_ended) == (5, {"n": 2}, False, False)
    over, _ = await story(created(), ended())
    assert proved(over)[0] == []


CASES: dict[str, tuple[int, dict[str, Any], str]] = {
    "the changes": (1, {"data": b'{"set":{"n":9}}'}, "altered"),
    "the head": (2, {"head": bytes(16)}, "altered"),
    "the actor": (3, {"actor": b"admin eve"}, "altered"),
    "a state too deep to be written": (1, {"data": b'{"set":{"n":' + b"[" * 260 + b"]" * 260 + b"}}"}, "altered"),
    "the version": (1, {"version": 5}, "hole"),
    "a version again": (2, {"version": 2}, "repeated"),
    "the link": (2, {"previous": "1-1"}, "unlinked"),
    "the first event's link": (0, {"previous": "9999999999999-0"}, "unlinked"),
    "a link that is none": (0, {"previous": "x"}, "unlinked"),
    "the key": (2, {"key_id": "beef"}, "unknown_key"),
    "a key that is none": (2, {"key_id": "é"}, "unknown_key"),
    "the type": (1, {"type": "teleported"}, "unreadable"),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_fault_is_told_where_it_is_first_seen(name: str) -> None:
    """With the session, the id and the version."""
    at, change, kind = CASES[name]
    world, sid = await story(created(n=1), updated(n=2), login("7"), updated(n=3), updated(n=4))
    world.put(at, **change)
    faults, _ = proved(world)
    place, version = id_text(world.log[at].id), world.log[at].version
    told = next(fault for fault in faults if fault.kind == kind)
    assert (told.shard, told.session_id, told.id, told.version) == ("00", sid, place, version)
    assert len(set(kinds(faults))) == len(faults)


async def test_changes_that_cannot_be_applied_are_unreadable() -> None:
    """A pointer that is none, for one; what comes after it cannot be known."""
    world, _ = await story(created(n=1), updated(n=2), updated(n=3))
    world.put(1, data=b'{"x":["q"]}')
    faults, _ = proved(world)
    assert [(fault.kind, fault.version) for fault in faults] == [("unreadable", 2)]


async def test_a_type_that_is_no_text_is_unreadable() -> None:
    """It is told where it stands, like any other that nobody wrote."""
    world, _ = await story(created(n=1), updated(n=2))
    faults: list[Fault] = []
    prover = Prover(world.keys, {}, faults.append)
    id_, _, *others = line_of(world.log[1])
    prover.entry(b"00", line_of(world.log[0]))
    prover.entry(b"00", (id_, b"\xff", *others))
    assert [(fault.kind, fault.version) for fault in faults] == [("unreadable", 2)]


async def test_after_a_hole_only_the_end_is_known_again() -> None:
    """What came between cannot be folded, but an end empties the session whatever it held."""
    world, _ = await story(created(n=1), updated(n=2), updated(n=3), ended())
    del world.log[1]
    assert kinds(proved(world)[0]) == ["hole", "unlinked"]
    world.put(2, data=b'{"cause":"idle"}')
    assert kinds(proved(world)[0]) == ["hole", "unlinked", "altered"]


async def test_a_session_that_begins_within_the_log_lacks_its_beginning() -> None:
    """Its first entry here names one that would have to be there, or none at all."""
    for previous in ("1760000001000-0", "x"):
        world, _ = await story(created(n=1), updated(n=2))
        world.log[0] = world.log[0]._replace(sid="00" + "B" * 22)
        world.put(1, previous=previous)
        assert "hole" in kinds(proved(world)[0])


async def test_an_event_after_the_end_is_a_fault() -> None:
    """Even one that is made with the key, by a program that went wrong."""
    world, _ = await story(created(), ended())
    world.log.append(world.log[1]._replace(version=3, id=(world.now + 1, 0), previous=id_text(world.log[1].id)))
    assert "after_end" in kinds(proved(world)[0])


async def test_an_entry_in_another_log_is_misplaced() -> None:
    """A session's shard is part of its id."""
    world, sid = await story(created())
    faults: list[Fault] = []
    prover = Prover(world.keys, {}, faults.append)
    prover.entry(b"01", line_of(world.log[0]))
    prover.entry(b"01", line_of(world.log[0]))
    assert [(fault.kind, fault.shard, fault.session_id) for fault in faults] == [("misplaced", "01", sid)]


@pytest.mark.parametrize("line", [(b"1-1",), (b"1-1", *[b"x"] * 11), (b"1-1", b"t", b"sid", b"1", *[b""] * 8)])
async def test_what_is_no_entry_is_foreign(line: tuple[bytes, ...]) -> None:
    """Too few fields, no number, no session."""
    faults: list[Fault] = []
    prover = Prover((await story(created()))[0].keys, {}, faults.append)
    prover.entry(b"00", line)
    assert [(fault.kind, fault.shard, fault.session_id, fault.id) for fault in faults] == [("foreign", "00", "", "1-1")]


# ── a trimmed beginning ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_whose_beginning_was_trimmed_is_partial() -> None:
    """Its links, versions and snapshot are checked, its state is not; an end is known without what came before."""
    world, sid = await story(created(n=1), updated(n=2), updated(n=3), login("7"))
    del world.log[:2]
    faults, traces = proved(world)
    assert (faults, traces[sid].is_partial, traces[sid].snapshot) == ([], True, None)
    world.put(1, head=bytes(16))
    assert kinds(proved(world)[0]) == ["snapshot_differs"]
    over, sid = await story(created(n=1), updated(n=2), ended())
    del over.log[:1]
    faults, traces = proved(over)
    assert (faults, traces[sid].is_partial, traces[sid].has_ended) == ([], True, True)
    over.put(1, data=b'{"cause":"idle"}')
    assert kinds(proved(over)[0]) == ["altered"]


async def test_a_session_whose_events_were_all_trimmed_is_partial() -> None:
    """There is only its snapshot, which is checked by itself."""
    world, sid = await story(created(n=1))
    world.log.clear()
    faults, traces = proved(world, reach=Reach((world.now + 1, 0), (world.now + 1, 0)))
    assert (faults, traces[sid].is_partial) == ([], True)
    assert kinds(proved(world)[0]) == ["snapshot_ahead"]


# ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda packed: packed[:-2] + b" }", "snapshot_altered"),
        (lambda packed: b"", "snapshot_altered"),
        (lambda packed: b"02" + packed[2:], "unreadable"),
        (lambda packed: packed[:2] + b"beef" + packed[6:], "unknown_key"),
        (lambda packed: packed[:49] + b"%013d" % 1 + packed[62:], "snapshot_differs"),
        (lambda packed: packed[:62] + b"%013d" % 1 + packed[75:], "snapshot_differs"),
        (lambda packed: packed[:101] + b"%-24b" % b"1-1" + packed[125:], "snapshot_differs"),
        (lambda packed: packed[:125] + b"%013d" % 1 + packed[138:], "snapshot_differs"),
    ],
)
async def test_a_changed_snapshot_is_a_fault(change: Callable[[bytes], bytes], kind: str) -> None:
    """Of the body, the format, the key, and what the server wrote into the header."""
    world, sid = await story(created(a=1), updated(n=2))
    world.put_snapshot(sid, change(world.snapshots[sid]))
    assert kinds(proved(world)[0]) == [kind]


async def test_an_altered_snapshot_of_a_session_without_events_is_one_fault() -> None:
    """Nothing else is known of it."""
    world, sid = await story(created(a=1))
    world.log.clear()
    world.put_snapshot(sid, b"x")
    assert kinds(proved(world)[0]) == ["snapshot_altered"]


async def test_a_snapshot_must_be_as_new_as_the_log_was_before_it_was_read() -> None:
    """What was committed while the snapshots were read makes none of them old."""
    world, sid = await story(created(n=1), updated(n=2), updated(n=3))
    world.put_snapshot(sid, world.older[sid][0])
    (fault,), _ = proved(world)
    assert (fault.kind, fault.version, fault.id) == ("snapshot_stale", 2, id_text(world.log[1].id))
    assert proved(world, reach=Reach(world.log[0].id, world.log[0].id))[0] == []


async def test_a_snapshot_must_not_be_newer_than_the_log() -> None:
    """Then the log has lost its end."""
    world, _ = await story(created(n=1), updated(n=2), updated(n=3))
    del world.log[2]
    assert kinds(proved(world)[0]) == ["snapshot_ahead"]


async def test_a_living_session_must_have_a_snapshot() -> None:
    """Unless it began a moment ago, ended, began before the log, or outlived its deadline with nobody to end it."""
    world, _ = await story(created(n=1), updated(n=2))
    world.snapshots.clear()
    (fault,), _ = proved(world)
    assert (fault.kind, fault.version) == ("snapshot_missing", 2)
    assert proved(world, lapsed=ALWAYS)[0] == []
    assert proved(world, reach=Reach(world.log[0].id, START.id))[0] == []
    del world.log[0]
    assert proved(world)[0] == []
    over, _ = await story(created(), ended())
    over.snapshots.clear()
    assert proved(over)[0] == []


async def test_without_the_key_every_session_is_told_once() -> None:
    """With the way out."""
    world, _ = await story(created(n=1), updated(n=2))
    faults, _ = proved(world, keys=Keyring("another key that is long enough to be one", namespace="proof"))
    assert kinds(faults) == ["unknown_key"]
    assert "secret_key=[new, old]" in faults[0].detail


# ── counters ─────────────────────────────────────────────────────────────────────────────────────────────────────────

END = Position((9, 1), b"e" * 16)
LAST = (b"9-1", b"t", b"s", b"1", b"p", b"e" * 16)
USUAL = Counters(now=0, length=5, first=(1, 0), last=(9, 1), end=END, trimmed=2, added=7, deleted=(0, 0))
EMPTY = Counters(now=0, length=0, first=(0, 0), last=(0, 0), end=START, trimmed=0, added=0, deleted=(0, 0))


@pytest.mark.parametrize(
    ("counters", "last", "expected"),
    [
        (USUAL, LAST, []),
        (EMPTY, None, []),
        (USUAL._replace(added=None, deleted=None), LAST, []),
        (USUAL._replace(added=9), LAST, ["removed"]),
        (USUAL._replace(added=6), LAST, ["removed"]),
        (USUAL._replace(deleted=(3, 0)), LAST, ["deleted"]),
        (USUAL._replace(last=(10, 0)), LAST, ["cut"]),
        (USUAL, None, ["cut"]),
        (USUAL, (b"9-1",), ["cut"]),
        (USUAL, (*LAST[:5], b"x" * 16), ["cut"]),
        (USUAL._replace(end=START), None, ["cut"]),
    ],
)
def test_the_counters_of_a_log_must_agree(
    counters: Counters, last: tuple[bytes, ...] | None, expected: list[str]
) -> None:
    """What was appended is there or was trimmed; nothing was deleted; the log ends where the last commit did."""
    faults = list(counter_faults("00", counters, last))
    assert kinds(faults) == expected
    assert all(fault.session_id == "" for fault in faults)


def test_an_entry_is_the_same_line_as_on_a_server() -> None:
    """As `commit.lua` writes it."""
    entry = Entry((1, 2), "s", 3, "t", "4-5", b"i", -6, b"a", b"c", b"d", "k", b"m")
    assert entry_of(line_of(entry)) == entry
    assert line_of(entry) == (b"1-2", b"t", b"s", b"3", b"4-5", b"i", b"-6", b"a", b"c", b"d", b"k", b"m")
