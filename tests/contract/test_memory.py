"""What only the store in memory has: a clock of one's own, any event loop, several openers, and no growth."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import dataclass

import pytest

from evsession.errors import ConfigError
from evsession.stores import memory
from evsession.stores.deadlines import Deadlines
from evsession.stores.memory import ENDED_KEPT_MS, KEPT_PAST_ABSOLUTE_MS, MemoryStore
from evsession.stores.redis import store as redis_store
from evsession.view import Beat
from evsession.wire import START
from tests.contract.builder import (
    HALF_DAY,
    HALF_HOUR,
    Heard,
    begin,
    commit_of,
    created,
    ended,
    happened,
    last_id,
    retried,
    stored,
    story,
    updated,
)


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: int = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_keeps_sessions_as_long_as_redis_does() -> None:
    """The two stores differ in nothing that a user could notice."""
    assert memory.ENDED_KEPT_MS == redis_store.ENDED_KEPT_MS
    assert memory.KEPT_PAST_ABSOLUTE_MS == redis_store.KEPT_PAST_ABSOLUTE_MS
    assert MemoryStore(shards=3).shards == redis_store.RedisStore("redis://localhost", shards=3).shards


@pytest.mark.parametrize("settings", [{"shards": 0}, {"shards": 257}, {"max_entries": 0}])
def test_a_number_out_of_range_is_refused(settings: dict[str, int]) -> None:
    """The text says which one, and what may stand there."""
    (name,) = settings
    with pytest.raises(ConfigError, match=rf"{name}=\d+ is out of range; pass "):
        MemoryStore(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_it_runs_in_any_event_loop() -> None:
    """Nothing in it belongs to asyncio."""
    store, heard = MemoryStore(), Heard()
    await store.open("worker-1", 2_000, heard)
    state = await story(store, [created(a=1), updated(a=2)])
    assert (await store.fill(state.sid, [Beat("00", START)])).packed is not None
    assert [notice.version for notice in heard.notices()] == [1, 2]
    await store.close()


async def test_each_call_is_finished_before_it_could_be_suspended() -> None:
    """So no two commits can meet, although there are no locks."""
    store = MemoryStore()
    call = store.commit(commit_of(begin(), created())[0])
    with pytest.raises(StopIteration) as finished:
        call.send(None)
    assert finished.value.value.status == "ok"


# ── the clock ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_lives_until_its_idle_deadline(clock: Clock) -> None:
    """To the millisecond: a change is accepted one before, and refused at it."""
    store = MemoryStore(clock=clock)
    state = await story(store, [created()])
    clock.now += HALF_HOUR - 1
    _, state = await happened(store, state, updated(a=1))
    clock.now += HALF_HOUR
    assert (await store.commit(commit_of(state, updated(a=2))[0])).status == "ended"
    assert (await store.touch(state.sid, HALF_HOUR)).deadlines is None
    assert await store.due("00", 10) == [state.sid]
    assert (await store.commit(commit_of(state, ended("absolute"), condition="absolute")[0])).status == "alive"
    assert (await store.commit(commit_of(state, ended("idle"), condition="idle")[0])).status == "ok"


async def test_a_touched_session_lives_longer(clock: Clock) -> None:
    """But not past its absolute deadline."""
    store = MemoryStore(clock=clock)
    state = await story(store, [created()])
    for _ in range(HALF_DAY // HALF_HOUR * 2 - 1):
        clock.now += HALF_HOUR // 2
        assert (await store.touch(state.sid, HALF_HOUR)).deadlines is not None
        assert await store.due("00", 10) == []
    clock.now += HALF_HOUR // 2
    assert (await store.touch(state.sid, HALF_HOUR)).deadlines is None
    assert await store.due("00", 10) == [state.sid]


async def test_what_is_due_comes_in_the_order_of_its_deadlines(clock: Clock) -> None:
    """Whatever the order in which the deadlines were set and moved."""
    store = MemoryStore(clock=clock)
    late = await story(store, [created()], idle=3_000)
    moved = await story(store, [created()], idle=1_000)
    early = await story(store, [created()], idle=2_000)
    await store.touch(moved.sid, 4_000)
    clock.now += 2_999
    assert await store.due("00", 10) == [early.sid]
    clock.now += 1_001
    assert await store.due("00", 10) == [early.sid, late.sid, moved.sid]
    assert await store.due("00", 2) == [early.sid, late.sid]


async def test_ids_grow_although_the_clock_goes_back(clock: Clock) -> None:
    """The log's order is that of the commits, as in Redis."""
    store = MemoryStore(clock=clock)
    ids = []
    for step in (0, 0, -5_000, 5_001):
        clock.now += step
        ids.append((await happened(store, begin(), created()))[0].id)
    now = clock.now - 1
    assert ids == [(now, 0), (now, 1), (now, 2), (now + 1, 0)]


async def test_trimming_keeps_what_is_young(clock: Clock) -> None:
    """And the last entry, however old."""
    store = MemoryStore(clock=clock)
    for _ in range(4):
        await story(store, [created()])
        clock.now += 1_000
    assert await store.trim("00", 2_500) == 2
    assert await store.trim("00", 0) == 1
    assert await store.trim("00", 0) == 0
    assert len(await store.read("00", START, 10)) == 1


# ── growth ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_ended_session_is_kept_for_ten_minutes(clock: Clock) -> None:
    """Long enough for every request in flight to learn of it; then it is gone."""
    store = MemoryStore(clock=clock)
    _, base = await happened(store, begin(), created())
    commit, _ = commit_of(base, ended("logout"))
    await store.commit(commit)
    clock.now += ENDED_KEPT_MS - 1
    assert (await store.commit(retried(commit))).status == "ok"
    clock.now += 1
    assert (await store.fill(base.sid)).packed is None
    assert (await store.commit(retried(commit))).status == "gone"


async def test_a_session_that_nobody_sweeps_is_kept_for_a_day(clock: Clock) -> None:
    """So that a sweeper which was away can still write its end."""
    store = MemoryStore(clock=clock)
    state = await story(store, [created()])
    clock.now += HALF_DAY + KEPT_PAST_ABSOLUTE_MS - 1
    assert (await stored(store, state.sid)).snapshot == state.snapshot
    clock.now += 1
    assert (await store.fill(state.sid)).packed is None


async def test_an_app_that_never_sweeps_levels_off(clock: Clock) -> None:
    """Ended and forgotten sessions go, snapshots and index entries alike, while new ones come."""
    store = MemoryStore(clock=clock, max_entries=100)
    held = []
    for day in range(8):
        for n in range(100):
            await story(store, [created(), ended("logout")] if n % 2 else [created()])
            clock.now += 864_000
        held.append(store.held)
        assert len(await store.read("00", START, 1_000)) <= 100, f"day {day}"
    assert max(held[3:]) <= held[2] + 1
    assert held[2] < 200


async def test_a_bounded_log_keeps_its_newest_entries() -> None:
    """The oldest tenth goes; the last entry stays even if only one is allowed."""
    store, tiny = MemoryStore(max_entries=20), MemoryStore(max_entries=1)
    for which in (store, tiny):
        state = await story(which, [created(), *(updated(n=n) for n in range(50))])
        entries = await which.read("00", START, 100)
        assert entries[-1].version == 51
        assert entries == await which.walk(state.sid, 100)
        assert (await which.heartbeat([Beat("00", entries[-1].position)]))[0].status == "ok"
    assert 18 <= len(await store.read("00", START, 100)) <= 20
    assert len(await tiny.read("00", START, 100)) == 1


async def test_an_entry_takes_no_more_memory_than_it_needs() -> None:
    """What the codec returns holds 4 KiB however short it is, and the log keeps it for days."""
    store = MemoryStore()
    _, state = await happened(store, begin(), created())
    tracemalloc.start()
    for n in range(500):
        _, state = await happened(store, state, updated(n=n))
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 500 < 1_500


def test_deadlines_that_move_take_no_more_room_than_those_that_stand() -> None:
    """Places in the queue that removals and earlier deadlines have left behind are given up."""
    deadlines = Deadlines()
    for n in range(10_000):
        deadlines.set(f"{n}", 1_000_000 + n)
        deadlines.set(f"{n}", 1_000 + n)
        deadlines.remove(f"{n - 10}")
    assert len(deadlines) == 10
    assert deadlines.places < 200
    assert deadlines.passed(20_000, 3) == ["9990", "9991", "9992"]


# ── several openers ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_two_managers_share_one_store() -> None:
    """Each hears what the other commits, at once; what one has applied, both have."""
    store, one, two = MemoryStore(), Heard(), Heard()
    await store.open("worker-1", 2_000, one)
    await store.open("worker-2", 500, two)
    reply, _ = await happened(store, begin(), created())
    assert one.messages == two.messages != []
    (entry,) = await store.read("00", START, 1)
    await store.heartbeat([Beat("00", entry.position)])
    records = {worker: record.split() for worker, record in (await store.records("00")).items()}
    proven = last_id(reply).encode()
    assert {worker: (id_, bound) for worker, (id_, _, bound) in records.items()} == {
        "worker-1": (proven, b"2000"),
        "worker-2": (proven, b"500"),
    }


async def test_the_last_to_close_ends_it_for_all() -> None:
    """Nobody who is open misses a message; when all have closed, nothing is left of them, and the sessions stay."""
    store, one, two = MemoryStore(), Heard(), Heard()
    await store.open("worker-1", 2_000, one)
    await store.open("worker-2", 2_000, two)
    await store.heartbeat([Beat("00", None)])
    await store.close()
    state = await story(store, [created()])
    assert len(one.messages) == len(two.messages) == 1
    await store.close()
    await happened(store, state, updated(a=1))
    assert len(two.messages) == 1
    assert await store.records("00") == {}
    assert (await stored(store, state.sid)).snapshot.data == {"a": 1}


async def test_a_worker_that_opens_anew_replaces_itself() -> None:
    """Restarted managers leave nothing behind."""
    store, before, after = MemoryStore(), Heard(), Heard()
    await store.open("worker-1", 2_000, before)
    await store.open("worker-1", 2_000, after)
    await story(store, [created()])
    assert (len(before.messages), len(after.messages)) == (0, 1)
