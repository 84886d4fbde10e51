"""Bringing back a snapshot that was lost: by one more event, atomically, and only if nobody else has."""

from __future__ import annotations

from evsession.codec import Stored, pack_header
from evsession.store import Store
from evsession.testing.conformance.builder import (
    HALF_HOUR,
    State,
    begin,
    commit_of,
    created,
    happened,
    state_of,
    stored,
    updated,
)
from evsession.wire import START


async def lost(store: Store, **changes: int) -> tuple[State, Stored]:
    """Return a session that the store has never had a snapshot of, and what its header was."""
    reply, _ = await happened(store, begin(), created())
    _, state = commit_of(begin(), created(n=1))
    now = reply.now
    header = Stored(
        snapshot=state.snapshot, raw=b"", head=state.head, link=bytes(16), key_id="abcd", created_at=now - 5_000,
        authenticated_at=now - 4_000, idle_at=now + 60_000, absolute_at=now + 70_000, last_id="7-1",
        secret_at=now - 3_000,
    )  # fmt: skip
    return state, header._replace(**{name: now + value for name, value in changes.items()})  # type: ignore[arg-type]


async def test_a_lost_snapshot_is_gone_on_from(store: Store) -> None:
    """Its times stay, its last event is the one before the new one, and what comes next builds on it."""
    state, header = await lost(store)
    commit, after = commit_of(state, updated(n=2))
    reply = await store.restore(commit, pack_header(header))
    assert reply.status == "ok"
    found = await stored(store, state.sid)
    assert found.snapshot.data == {"n": 2}
    assert (found.created_at, found.authenticated_at, found.secret_at, found.absolute_at) == (
        header.created_at, header.authenticated_at, header.secret_at, header.absolute_at
    )  # fmt: skip
    assert found.idle_at == reply.now + HALF_HOUR
    entry = (await store.read("00", START, 10))[-1]
    assert (entry.sid, entry.version, entry.previous, entry.id) == (state.sid, 2, "7-1", reply.id)
    assert await store.deadline(state.sid) == min(found.idle_at, found.absolute_at)
    await happened(store, state_of(found), updated(n=3))
    assert after.snapshot.version == 2


async def test_a_snapshot_that_is_there_stays(store: Store) -> None:
    """Whoever came first, or never lost it, wins."""
    _, state = await happened(store, begin(), created(n=1))
    packed = (await store.fill(state.sid)).packed
    _, header = await lost(store)
    commit, _ = commit_of(state, updated(n=2))
    reply = await store.restore(commit, pack_header(header))
    assert (reply.status, reply.packed) == ("conflict", packed)
    assert (await store.fill(state.sid)).packed == packed


async def test_what_has_expired_is_not_brought_back(store: Store) -> None:
    """And leaves nothing behind."""
    for passed in ("idle_at", "absolute_at"):
        state, header = await lost(store, **{passed: -1})
        length = len(await store.read("00", START, 100))
        commit, _ = commit_of(state, updated(n=2))
        assert (await store.restore(commit, pack_header(header))).status == "ended"
        assert (await store.fill(state.sid)).packed is None
        assert await store.deadline(state.sid) is None
        assert len(await store.read("00", START, 100)) == length


async def test_the_index_of_deadlines_names_a_living_session(store: Store) -> None:
    """The sooner of its two."""
    _, state = await happened(store, begin(), created(), idle=1_000)
    assert await store.deadline(state.sid) == (await stored(store, state.sid)).deadline
    assert await store.deadline(begin().sid) is None
