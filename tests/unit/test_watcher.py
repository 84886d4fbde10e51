"""What a cache tells the watcher of open connections, and when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from evsession.cache import Cache
from evsession.events import Authenticated, Ended, Event, Renewed, Updated
from evsession.state import Snapshot
from evsession.view import CONTROL
from evsession.watcher import Nobody
from tests.property.model import World, sid

A, B = sid(1), sid(2)
LOGIN = Authenticated(user_id="42", secret="s2", control="")


class Notes:
    """A watcher that notes what it is told, and whether the lease had been extended by then."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.told: list[tuple[object, ...]] = []

    def on_event(self, sid: str, version: int, event: Event | None) -> None:
        self.told.append((sid, version, event))

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self.told.append((snapshot.sid, snapshot.version))

    def on_lost(self, sid: str) -> None:
        self.told.append((sid, "lost"))

    def on_control(self) -> None:
        self.told.append(("control", self._cache.control.epoch))


@contextmanager
def watched(world: World) -> Iterator[list[tuple[object, ...]]]:
    """Note what happens within the block."""
    world.cache.watcher = notes = Notes(world.cache)
    yield notes.told
    world.cache.watcher = Nobody()


@pytest.fixture
def world() -> World:
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    return world


@pytest.mark.parametrize("event", [LOGIN, Renewed(secret="s2", phase="issued"), Ended(cause="logout")])
def test_the_watcher_is_told_by_feed_and_by_repair(world: World, event: Event) -> None:
    """Also of sessions that are not cached."""
    message = world.log.commit(A, event)
    with watched(world) as told:
        world.tell(message)
        world.tell(message)
    assert told == [(A, 2, event)]
    world.log.commit(A, event)
    with watched(world) as told:
        world.repair(world.view)
        world.repair(world.view)
    assert told == [(A, 3, event)]


def test_what_closes_nothing_is_not_told(world: World) -> None:
    """Of creations and updates there is only the state, where there is a copy."""
    created = world.log.create(B)
    with watched(world) as told:
        world.tell(created, world.log.commit(A, Updated(set_={"n": 2})))
        assert told == []
        world.fill(A)
        world.tell(world.log.commit(A, Updated(set_={"n": 3})))
    assert told == [(A, 2), (A, 3)]


def test_an_event_that_cannot_be_read_is_told_of(world: World) -> None:
    """Of a later version, of hidden values, or garbage."""
    hidden = Authenticated(user_id="42", secret="s2", control="", set_={"password": "x"}, redacted=("/password",))
    with watched(world) as told:
        world.tell(world.log.append("merged", b"{}", sid=A, version=2))
        world.tell(world.log.append("ended", b"{", sid=A, version=3))
        world.tell(world.log.commit(A, hidden))
    assert told == [(A, 2, None), (A, 3, None), (A, 2, None)]


def test_a_state_that_a_failover_lost_is_told_of(world: World) -> None:
    """The log has been read past where it should have come."""
    world.log.commit(A, Updated(set_={"n": 2}))
    world.cache.finish(world.cache.begin(A), world.log.stored(A), float("inf"), sent_at=0.5, now=0.6)
    world.log.lose(1)
    with watched(world) as told:
        world.prove(1.0)
    assert told == [(A, "lost")]


def test_the_control_log_is_told_of_once_for_all_that_was_read(world: World) -> None:
    """By message and by repair."""
    with watched(world) as told:
        world.cache.message(CONTROL, world.control.revoke("user:1"))
        world.control.revoke("user:2")
        world.control.revoke("user:3")
        world.repair(world.control_view)
    assert told == [("control", 1), ("control", 3)]


def test_by_default_nobody_watches(world: World) -> None:
    """And nothing breaks."""
    world.fill(A)
    world.tell(world.log.commit(A, LOGIN))
    world.cache.message(CONTROL, world.control.revoke("user:1"))
    world.fill(A)
    world.log.commit(A, Updated(set_={"n": 2}))
    world.cache.finish(world.cache.begin(A), world.log.stored(A), float("inf"), sent_at=0.5, now=0.6)
    world.log.lose(1)
    world.prove(1.0)
    assert world.served(A) is None
