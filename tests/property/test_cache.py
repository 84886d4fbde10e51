"""The laws of the cache: whatever the network does to messages, what is served is what the log had."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from evsession.config import CachePolicy
from evsession.events import Ended, Event, Updated
from tests.property.model import World, sid

SESSIONS = [sid(number) for number in range(3)]

steps = st.lists(
    st.tuples(
        st.sampled_from(SESSIONS), st.sampled_from((Updated(set_={"a": 1}), Updated(set_={"b": [2]}, unset=("a",))))
    ),
    min_size=1,
    max_size=8,
)
deliveries = st.lists(st.integers(0, 10), max_size=16)
"""Which messages come, in which order: any may be lost, doubled or late."""


def world_after(history: list[tuple[str, Event]], policy: CachePolicy | None = None) -> tuple[World, list[bytes]]:
    """Return a world with all sessions cached and a history that its worker has not heard of."""
    world = World.proved(policy)
    for session in SESSIONS:
        world.tell(world.log.create(session, n=session))
        world.fill(session)
    return world, [world.log.commit(session, event) for session, event in history]


def truth(world: World, session: str) -> dict[str, object] | None:
    """Return what the server holds."""
    stored = world.log.stored(session)
    return None if stored is None else dict(stored.snapshot.data)


@given(steps, deliveries)
@example([(SESSIONS[0], Updated(set_={"a": 1})), (SESSIONS[0], Updated(unset=("a",)))], [1, 0, 0])
def test_any_disorder_of_the_feed_is_mended_by_one_repair(history: list[tuple[str, Event]], order: list[int]) -> None:
    """Lost, doubled and late messages leave nothing behind that the log does not say."""
    world, messages = world_after(history)
    for number in order:
        world.tell(messages[number % len(messages)])
    world.prove(0.5)
    assert world.repair(world.view)
    assert (world.view.position, world.view.lease_until) == (world.log.end, 2.5)
    for session in SESSIONS:
        assert world.served(session, 2.4) in (None, truth(world, session))
        world.fill(session)
        assert world.served(session, 2.4) == truth(world, session)


@given(steps)
def test_messages_in_order_need_no_fill_at_all(history: list[tuple[str, Event]]) -> None:
    """Each copy is folded to what a fill would have brought."""
    world, messages = world_after(history)
    world.tell(*messages)
    for session in SESSIONS:
        assert world.served(session) == truth(world, session)
    assert world.cache.stats.folded == len(history)


@given(steps, deliveries, st.integers(0, 2000), st.integers(0, 255))
def test_a_garbled_feed_serves_nothing_that_the_log_never_had(
    history: list[tuple[str, Event]], order: list[int], at: int, byte: int
) -> None:
    """Bytes written over messages cost fills at most."""
    world, messages = world_after(history)
    had = {session: [truth(world, session)] for session in SESSIONS}
    replayed = World.proved()
    for session in SESSIONS:
        replayed.log.create(session, n=session)
    for session, event in history:
        had[session].append(truth(replayed, session))
        replayed.log.commit(session, event)
        had[session].append(truth(replayed, session))
    for number in order:
        garbled = bytearray(messages[number % len(messages)])
        garbled[at % len(garbled)] = byte
        world.tell(bytes(garbled))
    for session in SESSIONS:
        assert world.served(session) in (None, *had[session])


@given(steps, st.integers(1, 3), st.integers(1, 7000))
def test_the_bounds_hold_and_the_bytes_are_counted_exactly(
    history: list[tuple[str, Event]], max_entries: int, max_bytes: int
) -> None:
    """After any sequence of fills and folds; one entry may always stay."""
    policy = CachePolicy(max_entries=max_entries, max_bytes=max_bytes)
    world, messages = world_after(history, policy)
    for (session, _), message in zip(history, messages, strict=True):
        world.tell(message)
        world.fill(session)
        cached = [copy for each in SESSIONS if (copy := world.cache.newest(each)) is not None]
        assert world.cache.bytes == sum(copy.size for copy in cached)
        assert 1 <= len(world.cache) == len(cached) <= max_entries
        assert len(cached) == 1 or world.cache.bytes <= max_bytes
        assert world.served(session) == truth(world, session)


@given(steps, st.sampled_from(SESSIONS), deliveries)
def test_an_ended_session_is_never_served_alive_again(
    history: list[tuple[str, Event]], session: str, order: list[int]
) -> None:
    """Once its end was told of, no late message and no doubled one brings it back."""
    world, messages = world_after(history)
    messages.append(world.log.commit(session, Ended(cause="logout")))
    world.tell(*messages)
    for number in order:
        world.tell(messages[number % len(messages)])
    cached = world.cache.lookup(session, 1.0)
    assert cached is not None
    assert cached.stored.snapshot.ended == "logout"
    assert world.cache.tombstones("00") == {session: "logout"}
