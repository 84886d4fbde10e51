"""Deadlines: touches slide the idle one, and the expiry index names those that have passed."""

from __future__ import annotations

import pytest

from evsession.events import Phase, Renewed
from evsession.store import Store
from evsession.testing.conformance.builder import (
    HALF_DAY,
    HALF_HOUR,
    authenticated,
    begin,
    commit_of,
    created,
    ended,
    happened,
    opened,
    stored,
    story,
    updated,
)
from evsession.testing.conformance.connecting import Connect
from evsession.wire import START


async def test_a_touch_moves_the_idle_deadline_forward(store: Store) -> None:
    """To that many ms from the store's now; the absolute one stays."""
    state = await story(store, [created()])
    before = await stored(store, state.sid)
    reply = await store.touch(state.sid, 2 * HALF_HOUR)
    assert reply.sid == state.sid
    assert reply.deadlines == (reply.now + 2 * HALF_HOUR, before.absolute_at)
    after = await stored(store, state.sid)
    assert after == before._replace(idle_at=reply.now + 2 * HALF_HOUR)


async def test_a_touch_never_moves_it_back(store: Store) -> None:
    """A late touch with a shorter timeout changes nothing, and learns what stands."""
    state = await story(store, [created()])
    before = await stored(store, state.sid)
    assert (await store.touch(state.sid, 1_000)).deadlines == (before.idle_at, before.absolute_at)
    assert await stored(store, state.sid) == before


async def test_a_touch_does_not_reach_past_the_absolute_deadline(store: Store) -> None:
    """The index has the earlier of the two, so the session ends all the same."""
    reply, state = await happened(store, begin(), created(), absolute=HALF_HOUR)
    touched = (await store.touch(state.sid, HALF_DAY)).deadlines
    assert touched is not None
    assert min(touched) == reply.now + HALF_HOUR


async def test_a_touch_creates_nothing(store: Store) -> None:
    """An absent session stays absent."""
    sid = begin().sid
    assert (await store.touch(sid, HALF_HOUR)).deadlines is None
    assert (await store.fill(sid)).packed is None


async def test_a_touch_revives_nobody(store: Store) -> None:
    """Neither an ended session nor one past its deadline."""
    over = await story(store, [created(), ended("logout")])
    idle = await story(store, [created()], idle=0)
    before = [await stored(store, sid) for sid in (over.sid, idle.sid)]
    assert (await store.touch(over.sid, HALF_HOUR)).deadlines is None
    assert (await store.touch(idle.sid, HALF_HOUR)).deadlines is None
    assert [await stored(store, sid) for sid in (over.sid, idle.sid)] == before
    assert (await store.commit(commit_of(idle, updated(a=1))[0])).status == "ended"


async def test_a_touch_is_no_event(connect: Connect) -> None:
    """It adds nothing to the log, and a commit on the head before it still goes through."""
    store, heard = await connect("worker-1")
    state = await story(store, [created()])
    told = len(heard.messages)
    await store.touch(state.sid, 2 * HALF_HOUR)
    assert len(await store.read("00", START, 10)) == 1
    assert len(heard.messages) == told
    await happened(store, state, updated(a=1))


async def test_what_is_due_is_named(store: Store) -> None:
    """The sessions of this shard whose deadline has passed, again and again until they end."""
    past = {(await story(store, [created()], idle=0)).sid for _ in range(3)}
    await story(store, [created()])
    await story(store, [created()], "01", idle=0)
    assert set(await store.due("00", 10)) == past
    assert set(await store.due("00", 10)) == past


async def test_no_more_are_named_than_were_asked_for(store: Store) -> None:
    """The earliest first, so that nobody waits for ever."""
    sids = [(await story(store, [created()], idle=0)).sid for _ in range(3)]
    named = await store.due("00", 2)
    assert len(named) == 2
    assert set(named) <= set(sids)


async def test_a_touched_or_changed_session_is_due_later(store: Store) -> None:
    """The index follows the header forward, and backward when a commit says so."""
    state = await story(store, [created()])
    _, state = await happened(store, state, updated(a=1), idle=0)
    assert list(await store.due("00", 10)) == [state.sid]
    lively = await story(store, [created()])
    await store.touch(lively.sid, 2 * HALF_HOUR)
    assert list(await store.due("00", 10)) == [state.sid]


async def test_an_ended_session_is_never_due(store: Store) -> None:
    """Its end took it out of the index."""
    state = await story(store, [created()], idle=0)
    await happened(store, state, ended("idle"), condition="idle")
    assert list(await store.due("00", 10)) == []


async def test_settling_follows_the_header(store: Store) -> None:
    """The header is the authority: what is due stays, what is not stays out, what is over or absent goes."""
    past = await story(store, [created()], idle=0)
    live = await story(store, [created()])
    over = await story(store, [created(), ended("logout")])
    for sid in (past.sid, live.sid, over.sid, begin().sid):
        await store.settle("00", sid)
    assert list(await store.due("00", 10)) == [past.sid]
    assert opened(live.sid, (await store.fill(live.sid)).packed or b"").snapshot.ended is None


async def test_an_end_can_wait_for_a_time_of_the_server(store: Store) -> None:
    """As for a grace: refused before it, and appended from then on."""
    state = await story(store, [created()])
    now = (await store.fill(state.sid)).now
    commit, _ = commit_of(state, ended("token_reused"), condition=str(now + 60_000))
    reply = await store.commit(commit)
    assert (reply.status, opened(state.sid, reply.packed).snapshot.ended) == ("alive", None)
    for past in ("0", str(now)):
        state = await story(store, [created()])
        reply, _ = await happened(store, state, ended("token_reused"), condition=past)
        assert reply.status == "ok"


@pytest.mark.parametrize("phase", ["rotated", "issued", "used"])
async def test_a_header_says_when_the_secret_was_made_or_first_used(store: Store, phase: Phase) -> None:
    """A login and a renewal move that time; a change of the data does not."""
    state = begin()
    first, state = await happened(store, state, created())
    _, state = await happened(store, state, updated(a=1))
    assert first.id is not None
    assert (await stored(store, state.sid)).secret_at == first.id[0]
    for event in (authenticated("42"), Renewed(secret="another", phase=phase)):
        reply, state = await happened(store, state, event)
        assert reply.id is not None
        assert (await stored(store, state.sid)).secret_at == reply.id[0]
