"""Reading the log: from a position, along one session's links, and what trimming leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from evsession.store import Store
from evsession.testing.conformance.builder import begin, created, ended, happened, story, updated
from evsession.view import CONTROL, Beat
from evsession.wire import START, Position

A_NODE = 130
"""Entries that fill one of Redis' stream nodes, below which trimming removes nothing.  Source: 100 by default."""


async def test_reading_from_the_start_brings_all(store: Store) -> None:
    """The position of an empty log is before every entry."""
    await story(store, [created(), updated(a=1), updated(a=2)])
    assert [entry.version for entry in await store.read("00", START, 100)] == [1, 2, 3]


async def test_reading_from_a_position_includes_its_entry(store: Store) -> None:
    """The first entry is the proof that the reader's history still exists."""
    await story(store, [created(), updated(a=1), updated(a=2)])
    second = (await store.read("00", START, 100))[1]
    assert [entry.version for entry in await store.read("00", second.position, 100)] == [2, 3]


async def test_reading_brings_no_more_than_was_asked(store: Store) -> None:
    """A repair is paced."""
    await story(store, [created(), updated(a=1), updated(a=2)])
    assert [entry.version for entry in await store.read("00", START, 2)] == [1, 2]


async def test_reading_past_the_end_brings_nothing(store: Store) -> None:
    """Neither does a log that is empty, the control log included."""
    reply, _ = await happened(store, begin(), created())
    assert await store.read("00", Position((reply.now + 60_000, 0), bytes(16)), 10) == []
    assert await store.read("01", START, 10) == []
    assert await store.read(CONTROL, START, 10) == []


async def test_a_walk_follows_one_session_through_the_log(store: Store) -> None:
    """Oldest first, and nothing of the others."""
    state = await story(store, [created()])
    for n in range(4):
        _, state = await happened(store, state, updated(n=n))
        await story(store, [created()])
    entries = await store.walk(state.sid, 100)
    assert [entry.version for entry in entries] == [1, 2, 3, 4, 5]
    assert {entry.sid for entry in entries} == {state.sid}
    assert [e for e in await store.read("00", START, 100) if e.sid == state.sid] == entries


async def test_a_walk_brings_the_last_events(store: Store) -> None:
    """A limit cuts off the oldest."""
    state = await story(store, [created(), updated(a=1), updated(a=2), updated(a=3)])
    assert [entry.version for entry in await store.walk(state.sid, 2)] == [3, 4]
    assert [entry.version for entry in await store.walk(state.sid, 4)] == [1, 2, 3, 4]


async def test_a_walk_can_begin_further_back(store: Store) -> None:
    """At the link of the oldest event known, so that a long history is read page by page."""
    state = await story(store, [created(), *(updated(n=n) for n in range(5))])
    newest = await store.walk(state.sid, 2)
    before = await store.walk(state.sid, 3, _id(newest[0].previous))
    assert [entry.version for entry in [*before, *newest]] == [2, 3, 4, 5, 6]


async def test_a_walk_never_leaves_its_session(store: Store) -> None:
    """Begun at another session's event it brings nothing: a mixed-up id must not show somebody else's history."""
    mine, theirs = await story(store, [created()]), await story(store, [created()])
    (foreign,) = await store.walk(theirs.sid, 1)
    assert await store.walk(mine.sid, 10, foreign.id) == []


async def test_a_walk_of_an_unknown_session_is_empty(store: Store) -> None:
    """There is no snapshot to begin at."""
    assert await store.walk(begin().sid, 10) == []


async def test_trimming_never_removes_the_last_entry(store: Store) -> None:
    """It proves the log's history to the workers, however old it is."""
    state = await story(store, [created(), *(updated(n=n) for n in range(A_NODE))])
    assert await store.trim("00", -1_000) > 0
    kept = await store.read("00", START, 1_000)
    assert kept[-1].version == state.snapshot.version
    assert await store.trim("00", -1_000) >= 0
    assert (await store.read("00", START, 1_000))[-1] == kept[-1]


async def test_trimming_says_how_many_entries_went(store: Store) -> None:
    """What is left and what went are all there was."""
    await story(store, [created(), *(updated(n=n) for n in range(A_NODE))])
    went = await store.trim("00", -1_000)
    assert went + len(await store.read("00", START, 1_000)) == A_NODE + 1


async def test_trimming_leaves_what_is_to_be_kept(store: Store) -> None:
    """Young entries stay, and an empty log has nothing to lose."""
    await story(store, [created(), *(updated(n=n) for n in range(A_NODE))])
    assert await store.trim("00", 3_600_000) == 0
    assert await store.trim("00", 100 * 365 * 86_400_000) == 0, "a century is longer than servers count time"
    assert await store.trim("01", 3_600_000) == 0
    assert await store.trim("01", -1_000) == 0


async def test_a_walk_ends_where_the_log_was_trimmed(store: Store) -> None:
    """It brings what there still is, and no error."""
    state = await story(store, [created(), *(updated(n=n) for n in range(A_NODE))])
    went = await store.trim("00", -1_000)
    assert [entry.version for entry in await store.walk(state.sid, 1_000)] == list(range(went + 1, A_NODE + 2))


async def test_the_end_survives_trimming(store: Store) -> None:
    """A heartbeat names the same end before and after."""
    await story(store, [created(), *(updated(n=n) for n in range(A_NODE))])
    (before,) = await store.heartbeat([Beat("00", None)])
    await store.trim("00", -1_000)
    (after,) = await store.heartbeat([Beat("00", before.end)])
    assert (after.status, after.end) == ("ok", before.end)


def _id(text: str) -> tuple[int, int]:
    ms, _, seq = text.partition("-")
    return int(ms), int(seq)


async def test_a_walk_finds_a_session_whose_snapshot_is_gone(
    store: Store, forget_snapshot: Callable[[str], Awaitable[None]]
) -> None:
    """An ended one, by the index of ends; even when several ended in the same millisecond."""
    sids = [(await story(store, [created(), updated(a=1), ended("logout")])).sid for _ in range(5)]
    for sid in sids:
        await forget_snapshot(sid)
    for sid in sids:
        assert [(entry.sid, entry.version) for entry in await store.walk(sid, 10)] == [(sid, n) for n in (1, 2, 3)]


async def test_trimming_forgets_the_ends_that_went(
    store: Store, forget_snapshot: Callable[[str], Awaitable[None]]
) -> None:
    """The index is no larger than the log."""
    old = await story(store, [created(), ended("logout")])
    await story(store, [created(), *(updated(n=n) for n in range(A_NODE))])
    new = await story(store, [created(), ended("logout")])
    for sid in (old.sid, new.sid):
        await forget_snapshot(sid)
    assert await store.trim("00", -1_000) > 0
    assert await store.walk(old.sid, 10) == []
    assert (await store.walk(new.sid, 10))[-1].type == "ended"
