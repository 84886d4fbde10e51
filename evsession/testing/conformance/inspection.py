"""What whoever verifies a namespace reads: entries as they lie in the log, its counters, all snapshots."""

from __future__ import annotations

from evsession.store import Store
from evsession.testing.conformance.builder import created, ended, opened, story, updated
from evsession.testing.conformance.log import A_NODE
from evsession.view import CONTROL
from evsession.wire import START, line_of


async def test_lines_are_the_bytes_of_the_entries(store: Store) -> None:
    """In the order of the log, after an id, and no more than was asked."""
    await story(store, [created(), updated(a=1), updated(b={"c": [1.5, None]})], actor=b"admin joe", context=b"{}")
    entries = await store.read("00", START, 10)
    assert await store.lines("00", START.id, 10) == [line_of(entry) for entry in entries]
    assert await store.lines("00", entries[0].id, 1) == [line_of(entries[1])]
    assert await store.lines("00", entries[2].id, 10) == []
    assert await store.lines(CONTROL, START.id, 10) == []


async def test_a_log_counts_what_was_appended_and_what_was_trimmed(store: Store) -> None:
    """What is there, and what went with `trim`, is all there ever was."""
    await story(store, [created(), *(updated(n=n) for n in range(A_NODE))])
    before = await store.counters("00")
    entries = await store.read("00", START, 1_000)
    assert (before.length, before.trimmed) == (A_NODE + 1, 0)
    assert (before.first, before.last, before.end) == (entries[0].id, entries[-1].id, entries[-1].position)
    went = await store.trim("00", -1_000)
    after = await store.counters("00")
    assert went > 0
    assert (after.length, after.trimmed, after.end) == (A_NODE + 1 - went, went, before.end)
    assert after.first == entries[went].id
    for counters in (before, after):
        if counters.added is not None:  # Redis 6.2 does not count
            assert (counters.added, counters.deleted) == (A_NODE + 1, (0, 0))


async def test_a_log_that_is_not_there_counts_nothing(store: Store) -> None:
    """It has no entries, so it lacks none."""
    counters = await store.counters(CONTROL)
    assert (counters.length, counters.trimmed, counters.added) == (0, 0, 0)
    assert (counters.first, counters.last, counters.end) == ((0, 0), (0, 0), START)


async def test_a_scan_brings_every_snapshot(store: Store) -> None:
    """Of all shards, the living and those ended a moment ago; page by page until the cursor is 0 again."""
    living = [await story(store, [created(n=n)], shard=f"0{n % 2}") for n in range(30)]
    over = await story(store, [created(), ended("logout")])
    found: dict[str, int] = {}
    cursor, is_first = 0, True
    while cursor or is_first:
        cursor, page = await store.snapshots(cursor, 5)
        is_first = False
        found |= {sid: opened(sid, packed).snapshot.version for sid, packed in page}
    assert found == {state.sid: 1 for state in living} | {over.sid: 2}
