"""Heartbeats: whether a position is in the log, and where the log ends. Fills, and what must come ahead of them."""

from __future__ import annotations

import pytest

from evsession.store import Store
from evsession.testing.conformance.builder import begin, created, happened, opened, state_of, story, updated
from evsession.testing.conformance.connecting import Connect
from evsession.testing.conformance.log import A_NODE
from evsession.view import CONTROL, Beat
from evsession.wire import START, Position, id_text


async def test_without_a_position_it_brings_the_end_to_adopt(store: Store) -> None:
    """That is how a worker begins."""
    reply, _ = await happened(store, begin(), created())
    (beat,) = await store.heartbeat([Beat("00", None)])
    (entry,) = await store.read("00", START, 10)
    assert (beat.status, beat.end) == ("ok", entry.position)
    assert beat.end.id == reply.id


async def test_an_empty_log_ends_where_it_starts(store: Store) -> None:
    """Its position is older than every entry, and good."""
    (asked,) = await store.heartbeat([Beat("00", None)])
    (proved,) = await store.heartbeat([Beat("00", START)])
    assert (asked.status, asked.end) == (proved.status, proved.end) == ("ok", START)


async def test_the_start_is_good_in_any_log(store: Store) -> None:
    """It claims nothing; the worker repairs from there."""
    await story(store, [created()])
    (beat,) = await store.heartbeat([Beat("00", START)])
    assert beat.status == "ok"
    assert beat.end != START


async def test_a_position_in_the_log_is_good(store: Store) -> None:
    """The last one, and one before it; the end is the newest entry either way."""
    await story(store, [created(), updated(a=1), updated(a=2)])
    entries = await store.read("00", START, 10)
    beats = [Beat("00", entry.position) for entry in entries]
    assert [(b.status, b.end) for b in await store.heartbeat(beats)] == [("ok", entries[-1].position)] * 3


async def test_another_event_at_the_same_id_is_a_fork(store: Store) -> None:
    """After a failover an id can come again with other content."""
    await story(store, [created(), updated(a=1)])
    first, last = await store.read("00", START, 10)
    beats = [Beat("00", Position(entry.id, bytes(range(16)))) for entry in (first, last)]
    assert [(beat.status, beat.end) for beat in await store.heartbeat(beats)] == [("fork", last.position)] * 2


@pytest.mark.parametrize("ahead", [(0, 1), (60_000, 0)])
async def test_a_position_ahead_of_the_log_is_a_fork(store: Store, ahead: tuple[int, int]) -> None:
    """The worker has seen what the server has lost."""
    await story(store, [created()])
    (entry,) = await store.read("00", START, 10)
    lost = Position((entry.id[0] + ahead[0], entry.id[1] + ahead[1]), bytes(16))
    (beat,) = await store.heartbeat([Beat("00", lost)])
    assert beat.status == "fork"


async def test_a_position_in_an_empty_log_is_a_fork(store: Store) -> None:
    """All is lost."""
    (beat,) = await store.heartbeat([Beat("00", Position((1_700_000_000_000, 0), bytes(16)))])
    assert (beat.status, beat.end) == ("fork", START)


async def test_a_position_before_the_first_entry_was_trimmed(store: Store) -> None:
    """Nothing speaks against the worker's history, and nothing proves it."""
    await story(store, [created(), *(updated(n=n) for n in range(A_NODE))])
    first = (await store.read("00", START, 1))[0]
    assert (await store.heartbeat([Beat("00", first.position)]))[0].status == "ok"
    await store.trim("00", -1_000)
    (beat,) = await store.heartbeat([Beat("00", first.position)])
    assert beat.status == "trimmed"
    assert beat.end == (await store.read("00", START, 1_000))[-1].position


async def test_the_incarnation_is_the_same_for_all(connect: Connect) -> None:
    """A log has one from its first script on; its commits go to a channel of that name."""
    one, two = await connect("worker-1"), await connect("worker-2")
    (before,) = await one.store.heartbeat([Beat("00", None)])
    await story(one.store, [created()])
    (after,) = await two.store.heartbeat([Beat("00", None)])
    assert before.incarnation == after.incarnation != ""


async def test_several_heartbeats_are_answered_in_order(store: Store) -> None:
    """Each reply is that of its own shard, the control log's included."""
    await story(store, [created()], "01")
    here, there, control = await store.heartbeat([Beat("00", None), Beat("01", None), Beat(CONTROL, None)])
    assert here.end == control.end == START
    assert there.end != START


async def test_no_heartbeats_bring_no_answers(store: Store) -> None:
    """Asking for nothing is no error."""
    assert list(await store.heartbeat([])) == []


async def test_a_heartbeat_leaves_the_record_of_its_worker(store: Store) -> None:
    """The position that it proved, the store's time, its own bound; a position that it could not prove is none."""
    reply, state = await happened(store, begin(), created())
    (entry,) = await store.walk(state.sid, 1)
    forged = entry.position._replace(event=bytes(16))
    for position, proven in [(entry.position, entry.id), (None, START.id), (START, START.id), (forged, START.id)]:
        await store.heartbeat([Beat("00", position)])
        ((worker, record),) = (await store.records("00")).items()
        id_, at, bound = record.split()
        assert (worker, id_, bound) == ("worker-1", id_text(proven).encode(), b"2000")
        assert int(at) >= reply.now
    assert await store.records("01") == {}


async def test_a_record_is_forgotten_only_as_it_was_seen(store: Store) -> None:
    """A worker that came back meanwhile keeps its new one."""
    await store.heartbeat([Beat("00", None)])
    seen = (await store.records("00"))["worker-1"]
    await store.forget("00", "worker-1", b"0-0 1 2000")
    await store.forget("00", "worker-2", seen)
    assert await store.records("00") == {"worker-1": seen}
    await store.forget("00", "worker-1", seen)
    assert await store.records("00") == {}


async def test_a_fill_sees_what_other_workers_have_committed(connect: Connect) -> None:
    """Fills are answered by the primary, never from an own copy."""
    one, two = await connect("worker-1"), await connect("worker-2")
    state = await story(one.store, [created(a=1)])
    assert (await two.store.fill(state.sid)).packed is not None
    _, state = await happened(one.store, state, updated(a=2))
    packed = (await two.store.fill(state.sid)).packed
    assert packed is not None
    assert state_of(opened(state.sid, packed)) == state


async def test_a_fill_of_nothing_is_none(store: Store) -> None:
    """And names the session all the same."""
    sid = begin().sid
    reply = await store.fill(sid)
    assert (reply.sid, reply.packed, list(reply.beats)) == (sid, None, [])
    assert reply.now > 1_700_000_000_000


async def test_a_fill_brings_the_answers_of_its_heartbeats(store: Store) -> None:
    """They were executed before it, so the snapshot has all up to the end that they name."""
    state = await story(store, [created(a=1)])
    reply = await store.fill(state.sid, [Beat("00", None), Beat(CONTROL, START)])
    assert reply.packed is not None
    assert [beat.status for beat in reply.beats] == ["ok", "ok"]
    assert opened(state.sid, reply.packed).last_id == "{}-{}".format(*reply.beats[0].end.id)


async def test_claimed_fields_stay_with_who_came_first(connect: Connect) -> None:
    """All are returned as they stand, so that a worker with other keys learns it at start."""
    one, two = await connect("worker-1"), await connect("worker-2")
    assert dict(await one.store.claim({"format": "1", "key:ab": "x"})) == {"format": "1", "key:ab": "x"}
    assert dict(await two.store.claim({"format": "2", "key:cd": "y"})) == {"format": "1", "key:ab": "x", "key:cd": "y"}
    assert dict(await one.store.claim({})) == {"format": "1", "key:ab": "x", "key:cd": "y"}
