"""Promise 1 and 3 of a store: commits are atomic, checked first, appended in order, and happen once."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from evsession.store import CommitReply, Store
from evsession.testing.conformance.builder import (
    HALF_DAY,
    HALF_HOUR,
    authenticated,
    begin,
    commit_of,
    created,
    ended,
    happened,
    last_id,
    opened,
    retried,
    state_of,
    stored,
    story,
    updated,
)
from evsession.testing.conformance.connecting import until
from evsession.wire import START, StreamId, id_text


async def test_a_first_event_creates_the_session(store: Store) -> None:
    """What was committed is what a fill brings, with the header's tail that the reply named."""
    commit, after = commit_of(begin(), created(cart=["tea"]))
    reply = await store.commit(commit)
    packed = (await store.fill(after.sid)).packed
    assert reply.status == "ok"
    assert reply.packed == b""
    assert packed == commit.prefix + reply.tail + commit.body
    assert state_of(opened(after.sid, packed)) == after


async def test_deadlines_come_from_the_clock_of_the_store(store: Store) -> None:
    """Both count from the moment that the reply names, not from a worker's clock."""
    reply, after = await happened(store, begin(), created(), worker_time=5)
    found = await stored(store, after.sid)
    assert found.idle_at == reply.now + HALF_HOUR
    assert found.absolute_at == reply.now + HALF_DAY
    assert found.last_id == last_id(reply)


async def test_only_an_event_that_says_so_moves_the_absolute_deadline(store: Store) -> None:
    """An update slides the idle deadline and nothing else; a login sets both anew."""
    first, state = await happened(store, begin(), created())
    second, state = await happened(store, state, updated(a=1), idle=2 * HALF_HOUR)
    found = await stored(store, state.sid)
    assert found.absolute_at == first.now + HALF_DAY
    assert found.idle_at == second.now + 2 * HALF_HOUR
    third, state = await happened(store, state, authenticated("42"), absolute=2 * HALF_DAY)
    assert (await stored(store, state.sid)).absolute_at == third.now + 2 * HALF_DAY


async def test_created_and_authenticated_at_are_times_of_the_log(store: Store) -> None:
    """The header's stamps are the ids of the entries that say so, and later events leave them."""
    first, state = await happened(store, begin(), created())
    await later_than(store, first)
    second, state = await happened(store, state, authenticated("42"))
    await later_than(store, second)
    _, state = await happened(store, state, updated(a=1))
    found = await stored(store, state.sid)
    assert first.id is not None
    assert second.id is not None
    assert (found.created_at, found.authenticated_at) == (first.id[0], second.id[0])


async def later_than(store: Store, reply: CommitReply) -> None:
    """Wait until the store's clock has moved on."""

    async def has_moved() -> bool:
        return (await store.fill(reply.sid)).now > reply.now

    await until(has_moved, "the next millisecond")


async def test_an_anonymous_session_was_never_authenticated(store: Store) -> None:
    """The stamp of a login is zero until there is one; a session that begins with a login has both."""
    state = await story(store, [created()])
    assert (await stored(store, state.sid)).authenticated_at == 0
    state = await story(store, [authenticated("42")])
    found = await stored(store, state.sid)
    assert found.authenticated_at == found.created_at > 0


async def test_a_log_entry_has_every_field_of_its_commit(store: Store) -> None:
    """The entry says who, what and when, and the worker's clock as an offset from the store's."""
    commit, _ = commit_of(
        begin(), created(a=1), actor=b"user:42", context=b'{"route":"/"}', worker_time=1_800_000_000_123
    )
    reply = await store.commit(commit)
    (entry,) = await store.read("00", START, 10)
    assert (entry.id, entry.sid, entry.version, entry.type) == (reply.id, commit.sid, 1, "created")
    assert (entry.previous, entry.event_id) == ("0-0", commit.event_id)
    assert entry.offset == 1_800_000_000_123 - reply.now
    assert (entry.actor, entry.context, entry.data) == (b"user:42", b'{"route":"/"}', commit.data)
    assert (entry.key_id.encode(), entry.head) == (commit.prefix[2:6], commit.prefix[6:22])


async def test_any_bytes_survive(store: Store) -> None:
    """Digests and ids are raw bytes; zeros, line breaks and invalid UTF-8 among them."""
    event_id = b"\x00\xff\r\n \x80\x00\x00{}$-*:\n\x00"
    commit, after = commit_of(begin(), created(text="ä\x00€😀"), event_id=event_id, actor=bytes(range(256)))
    assert (await store.commit(commit)).status == "ok"
    (entry,) = await store.read("00", START, 10)
    assert (entry.event_id, entry.actor) == (event_id, bytes(range(256)))
    assert (await stored(store, after.sid)).snapshot.data == {"text": "ä\x00€😀"}


async def test_ids_grow_in_the_order_of_commits(store: Store) -> None:
    """The log of a shard has the events of all its sessions in the order in which they happened."""
    ids: list[StreamId] = []
    one, two = begin(), begin()
    for n in range(5):
        reply, one = await happened(store, one, updated(n=n) if n else created())
        ids.append(reply.id or START.id)
        reply, two = await happened(store, two, updated(n=n) if n else created())
        ids.append(reply.id or START.id)
    entries = await store.read("00", START, 100)
    assert [entry.id for entry in entries] == ids == sorted(set(ids))


async def test_links_lead_from_each_event_to_the_one_before_it_of_its_session(store: Store) -> None:
    """`previous` skips the events of other sessions."""
    first, one = await happened(store, begin(), created())
    await story(store, [created(), updated(a=1)])
    _, one = await happened(store, one, updated(b=1))
    entries = [entry for entry in await store.read("00", START, 10) if entry.sid == one.sid]
    assert [entry.previous for entry in entries] == ["0-0", last_id(first)]


async def test_a_shard_has_a_log_of_its_own(store: Store) -> None:
    """Sessions of two shards share nothing."""
    here, there = await story(store, [created()], "00"), await story(store, [created()], "01")
    assert [entry.sid for entry in await store.read("00", START, 10)] == [here.sid]
    assert [entry.sid for entry in await store.read("01", START, 10)] == [there.sid]


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_commit_on_an_older_head_is_told_the_current_snapshot(store: Store) -> None:
    """A conflict brings what the caller must rebase on, and changes nothing."""
    _, base = await happened(store, begin(), created())
    _, theirs = await happened(store, base, updated(a=1))
    reply = await store.commit(commit_of(base, updated(b=2))[0])
    assert (reply.status, reply.sid, reply.id) == ("conflict", base.sid, None)
    assert state_of(opened(base.sid, reply.packed)) == theirs
    assert len(await store.read("00", START, 10)) == 2


async def test_the_same_version_with_another_head_is_a_conflict(store: Store) -> None:
    """Versions repeat with other content after a failover; heads do not."""
    _, base = await happened(store, begin(), created())
    await happened(store, base, updated(a=1))
    _, lost = commit_of(base, updated(a=2))
    assert (await store.commit(commit_of(lost, updated(b=3))[0])).status == "conflict"


async def test_a_session_that_exists_is_not_created_again(store: Store) -> None:
    """The id of a living session cannot be taken over."""
    state = await story(store, [created(mine=True)])
    other, _ = commit_of(replace(begin(), snapshot=state.snapshot._replace(version=0, data={})), created(mine=False))
    reply = await store.commit(other)
    assert reply.status == "conflict"
    assert opened(state.sid, reply.packed).snapshot.data == {"mine": True}


async def test_a_session_that_is_not_there_is_gone(store: Store) -> None:
    """Nothing but a creation ever writes to an absent key."""
    _, never_committed = commit_of(begin(), created())
    for event in (updated(a=1), authenticated("42"), ended("logout")):
        reply = await store.commit(commit_of(never_committed, event)[0])
        assert (reply.status, reply.sid, reply.packed) == ("gone", never_committed.sid, b"")
    assert (await store.fill(never_committed.sid)).packed is None
    assert await store.read("00", START, 10) == []


async def test_an_ended_session_refuses_everything(store: Store) -> None:
    """Neither an update, nor a login, nor another end, nor a creation brings it back, on old heads and on the last."""
    _, base = await happened(store, begin(), created(cart=["tea"]))
    _, over = await happened(store, base, ended("logout"))
    fresh = replace(base, snapshot=base.snapshot._replace(version=0, data={}), head=begin().head)
    for state in (base, over):
        for event in (updated(a=1), authenticated("42"), ended("revoked")):
            reply = await store.commit(commit_of(state, event)[0])
            assert reply.status == "ended"
            assert opened(base.sid, reply.packed).snapshot == over.snapshot
    assert (await store.commit(commit_of(fresh, created())[0])).status == "ended"
    assert len(await store.read("00", START, 10)) == 2


async def test_an_ended_session_is_emptied(store: Store) -> None:
    """Of the data nothing is left but the cause."""
    state = await story(store, [created(cart=["tea"]), ended("logout")])
    found = await stored(store, state.sid)
    assert (found.snapshot.ended, found.snapshot.data, found.snapshot.secrets) == ("logout", {}, ())


async def test_a_session_past_its_idle_deadline_refuses_changes(store: Store) -> None:
    """It has ended although nobody has written so yet; the snapshot shows which deadline."""
    state = await story(store, [created()], idle=0)
    reply = await store.commit(commit_of(state, updated(a=1))[0])
    assert reply.status == "ended"
    found = opened(state.sid, reply.packed)
    assert found.snapshot.ended is None
    assert found.idle_at <= reply.now


async def test_a_session_past_its_absolute_deadline_refuses_changes(store: Store) -> None:
    """However lively it is."""
    state = await story(store, [created()], absolute=1)

    async def is_past() -> bool:
        return (await store.fill(state.sid)).now >= (await stored(store, state.sid)).absolute_at

    await until(is_past, "the absolute deadline")
    assert (await store.commit(commit_of(state, updated(a=1))[0])).status == "ended"
    assert (await store.commit(commit_of(state, ended("idle"), condition="idle")[0])).status == "alive"
    assert (await store.commit(commit_of(state, ended("absolute"), condition="absolute")[0])).status == "ok"


@pytest.mark.parametrize("cause", ["idle", "absolute"])
async def test_an_expiry_is_refused_before_the_deadline(store: Store, cause: Literal["idle", "absolute"]) -> None:
    """Whoever believes that the session is idle is told the snapshot that says otherwise."""
    state = await story(store, [created()])
    reply = await store.commit(commit_of(state, ended(cause), condition=cause)[0])
    assert reply.status == "alive"
    assert state_of(opened(state.sid, reply.packed)) == state


async def test_an_end_is_accepted_past_the_deadline(store: Store) -> None:
    """That is how the sweeper writes it; a logout comes late too."""
    idle = await story(store, [created()], idle=0)
    assert (await store.commit(commit_of(idle, ended("idle"), condition="idle")[0])).status == "ok"
    late = await story(store, [created()], idle=0)
    assert (await store.commit(commit_of(late, ended("logout"))[0])).status == "ok"


# ── once ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_retry_after_a_lost_reply_happens_once(store: Store) -> None:
    """The event is found in the log, and the reply brings the snapshot as it is now."""
    _, base = await happened(store, begin(), created())
    commit, after = commit_of(base, updated(a=1))
    await store.commit(commit)
    reply = await store.commit(retried(commit))
    assert (reply.status, reply.id, reply.tail) == ("ok", None, b"")
    assert state_of(opened(base.sid, reply.packed)) == after
    assert [entry.event_id for entry in await store.read("00", START, 10)].count(commit.event_id) == 1


async def test_a_lost_creation_is_found_as_well(store: Store) -> None:
    """A creation whose reply was lost is the same creation when it is repeated."""
    commit, after = commit_of(begin(), created())
    await store.commit(commit)
    reply = await store.commit(retried(commit))
    assert reply.status == "ok"
    assert state_of(opened(after.sid, reply.packed)) == after
    assert len(await store.read("00", START, 10)) == 1


async def test_a_lost_commit_is_found_below_the_commits_of_others(store: Store) -> None:
    """Three more events stand on it, and as many of another session between them."""
    _, base = await happened(store, begin(), created())
    commit, state = commit_of(base, updated(a=1))
    await store.commit(commit)
    for n in range(3):
        _, state = await happened(store, state, updated(n=n))
        await story(store, [created()])
    reply = await store.commit(retried(commit))
    assert reply.status == "ok"
    assert state_of(opened(base.sid, reply.packed)) == state


async def test_a_lost_commit_is_found_in_a_session_that_has_ended_since(store: Store) -> None:
    """It did happen, and the snapshot says that the session is over."""
    _, base = await happened(store, begin(), created())
    commit, after = commit_of(base, updated(a=1))
    await store.commit(commit)
    await happened(store, after, ended("logout"))
    reply = await store.commit(retried(commit))
    assert reply.status == "ok"
    assert opened(base.sid, reply.packed).snapshot.ended == "logout"


async def test_a_retry_of_what_never_happened_is_a_conflict(store: Store) -> None:
    """The request was lost, not the reply, and somebody else was faster."""
    _, base = await happened(store, begin(), created())
    commit, _ = commit_of(base, updated(a=1))
    _, theirs = await happened(store, base, updated(b=1))
    reply = await store.commit(retried(commit))
    assert reply.status == "conflict"
    rebased, _ = commit_of(
        state_of(opened(base.sid, reply.packed)), updated(a=1), event_id=commit.event_id, first_version=2
    )
    assert (await store.commit(rebased)).status == "ok"
    assert (await stored(store, base.sid)).snapshot.data == {**theirs.snapshot.data, "a": 1}


async def test_a_rebased_attempt_is_searched_for_from_the_first_one_on(store: Store) -> None:
    """The first attempt went to version 2 and was refused, the second to 3 and its reply was lost."""
    _, base = await happened(store, begin(), created())
    _, theirs = await happened(store, base, updated(b=1))
    commit, after = commit_of(theirs, updated(a=1), first_version=2)
    await store.commit(commit)
    _, state = await happened(store, after, updated(c=1))
    reply = await store.commit(commit)
    assert reply.status == "ok"
    assert state_of(opened(base.sid, reply.packed)) == state


async def test_the_search_ends_at_the_version_of_the_first_attempt(store: Store) -> None:
    """What stands before it cannot be the attempt, so a long history costs nothing."""
    first, state = commit_of(begin(), created())
    await store.commit(first)
    for n in range(3):
        _, state = await happened(store, state, updated(n=n))
    stale, _ = commit_of(begin(), created())
    forged = stale._replace(sid=state.sid, event_id=first.event_id, first_version=2)
    assert (await store.commit(forged)).status == "conflict"


async def test_without_a_lost_reply_nothing_is_searched(store: Store) -> None:
    """A first attempt on an old head is a conflict, whatever its event id."""
    _, base = await happened(store, begin(), created())
    commit, _ = commit_of(base, updated(a=1))
    await store.commit(commit)
    assert (await store.commit(commit)).status == "conflict"


async def test_an_id_is_that_of_the_entry(store: Store) -> None:
    """The id in the reply, in the header and in the log are one."""
    reply, after = await happened(store, begin(), created())
    (entry,) = await store.read("00", START, 10)
    assert reply.id == entry.id
    assert (await stored(store, after.sid)).last_id == id_text(entry.id)
