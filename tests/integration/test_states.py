"""All sessions as they were at a moment: one pass of the whole log through fold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from evsession import Actor, ConfigError, SessionManager
from evsession.audit import SessionState
from evsession.errors import LogTrimmed, UnknownFormat
from evsession.info import milliseconds_of, time_of
from evsession.stores.memory import MemoryStore
from evsession.stores.redis import RedisStore
from evsession.wire import START, Entry, Line, StreamId, id_text
from tests.integration.apps import KEY, Clock, in_memory
from tests.servers import Server


@pytest.fixture
def manager(clock: Clock) -> SessionManager:
    return in_memory(MemoryStore(shards=4, clock=clock.server), clock=clock)


async def states_of(manager: SessionManager, at: datetime | None = None) -> dict[str, SessionState]:
    return {state.session_id: state async for state in manager.audit.states(at=at)}


def told(state: SessionState) -> list[object]:
    """Return all that a state says, but for its event."""
    return [getattr(state, name) for name in dir(SessionState) if not name.startswith("_")]


async def test_they_are_what_each_session_was(manager: SessionManager, clock: Clock) -> None:
    """At every moment, on all shards: the same as asked one by one, and none that was over or had not begun."""
    moments, sids = [], []
    for number in range(12):
        begun = await manager.create(user_id=number if number % 2 else None, data={"n": 0, "password": "secret"})
        sids.append(begun.id)
        clock.advance(seconds=1)
        await manager.update(sids[max(number - 1, 0)], partial(dict.update, n=number))
        if number % 3 == 2:
            await manager.revoke(sids[number - 2], reason="lost", actor=Actor.admin("joe"))
        (event,) = await manager.audit.history(begun.id, limit=1)
        moments.append(event.at)
        clock.advance(seconds=1)
    assert not await states_of(manager, moments[0] - timedelta(days=1))
    for moment in moments:
        one_by_one = [await manager.audit.state_at(sid, at=moment) for sid in sids]
        living = {state.session_id: told(state) for state in one_by_one if state is not None and state.ended is None}
        assert {sid: told(state) for sid, state in (await states_of(manager, moment)).items()} == living
    assert sorted(await states_of(manager)) == sorted(set(sids) - {sids[0], sids[3], sids[6], sids[9]})


async def test_a_moment_needs_a_zone(manager: SessionManager) -> None:
    """It says so at once, not at the first state."""
    with pytest.raises(ConfigError, match=r"use datetime.now\(UTC\)"):
        manager.audit.states(at=datetime(2026, 11, 21))


async def test_an_end_that_stands_alone_is_an_end(server: Server) -> None:
    """The sweeper writes it without a link when the snapshot had lapsed already."""
    async with SessionManager(RedisStore(server.url, namespace="states"), secret_key=KEY) as manager:
        session = await manager.create(data={"n": 1})
        _add(manager, server, t="ended", s=session.id, d='{"cause":"absolute"}')
        assert not await states_of(manager)


def _add(manager: SessionManager, server: Server, id_: str = "*", **own: str | bytes) -> None:
    """Append an entry as somebody without the key can."""
    usual = {"t": "updated", "s": "", "n": "2", "p": "0-0", "i": "x" * 16, "o": "0", "a": "", "c": "{}", "d": "{}"}
    fields = {**usual, "k": "abcd", "m": "x" * 16, **own}
    key = manager.worker.store.keys("00").log  # type: ignore[attr-defined]
    server.cli("XADD", key, id_, *(part for field in fields.items() for part in field))


async def _log(manager: SessionManager, shard: str, sid: str) -> Sequence[Entry]:
    return [entry for entry in await manager.worker.store.read(shard, START, 1_000) if entry.sid == sid]


async def test_those_whose_beginning_was_trimmed_are_not_guessed(clock: Clock) -> None:
    """All others come first; an archive has them all."""
    manager = in_memory(MemoryStore(clock=clock.server, max_entries=20), clock=clock)
    old, over = await manager.create(data={"n": 0}), await manager.create()
    archive = Archive([*await _log(manager, "00", old.id), *await _log(manager, "00", over.id)])
    new = [(await manager.create()).id for _ in range(17)]
    for session in (old, over):
        await manager.update(session.id, partial(dict.update, n=1))
    await manager.revoke(over.id)
    states = manager.audit.states()
    assert sorted([(await anext(states)).session_id for _ in new]) == sorted(new)
    with pytest.raises(LogTrimmed, match="1 of the sessions that lived then"):
        await anext(states)
    manager.audit.archive = archive
    whole = await states_of(manager)
    assert sorted(whole) == sorted([*new, old.id])
    assert whole[old.id].data == {"n": 1}


class Archive:
    """An archive in memory."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries

    async def between(self, shard: str, first: StreamId, last: StreamId) -> AsyncIterator[Entry]:
        for entry in self.entries:
            if first <= entry.id <= last:
                yield entry


async def test_a_hole_is_not_leapt_over(server: Server) -> None:
    """A session that has lost an event in its middle is not known, whoever removed it."""
    async with SessionManager(RedisStore(server.url, namespace="states"), secret_key=KEY) as manager:
        session = await manager.create(data={"n": 0})
        for n in (1, 2):
            await manager.update(session.id, partial(dict.update, n=n))
        removed = (await _log(manager, "00", session.id))[1]
        server.cli("XDEL", manager.worker.store.keys("00").log, id_text(removed.id))  # type: ignore[attr-defined]
        with pytest.raises(LogTrimmed):
            await states_of(manager)


FORGED: list[dict[str, Any]] = [{"d": '{"set":{"a":1},"x":["a"]}'}, {"d": "x"}, {"t": b"\xff"}, {"t": "teleported"}]


@pytest.mark.parametrize("forged", FORGED)
async def test_a_forged_event_is_named(server: Server, forged: dict[str, Any]) -> None:
    """What nobody with the key wrote is named by the error that all readers know; junk is passed over."""
    async with SessionManager(RedisStore(server.url, namespace="states"), secret_key=KEY) as manager:
        session = await manager.create(data={"n": 1})
        (entry,) = await _log(manager, "00", session.id)
        key = manager.worker.store.keys("00").log  # type: ignore[attr-defined]
        server.cli("XADD", key, "*", "junk", "1")
        assert list(await states_of(manager)) == [session.id]
        _add(manager, server, s=session.id, p=id_text(entry.id), **forged)
        with pytest.raises(UnknownFormat):
            await states_of(manager)


@pytest.mark.parametrize("forged", [forged for forged in FORGED if forged.get("t") != b"\xff"])
async def test_a_single_state_names_it_too(server: Server, forged: dict[str, Any]) -> None:
    """Though it goes by the links, and finds the event in the place of another."""
    async with SessionManager(RedisStore(server.url, namespace="states"), secret_key=KEY) as manager:
        session = await manager.create(data={"n": 1})
        (entry,) = await _log(manager, "00", session.id)
        server.cli("DEL", manager.worker.store.keys("00").log)  # type: ignore[attr-defined]
        _add(manager, server, id_=id_text(entry.id), s=session.id, **({"t": "created", "n": "1"} | forged))
        with pytest.raises(UnknownFormat):
            await manager.audit.state_at(session.id, version=1)


class Failover(RedisStore):
    """Loses the end of the log after the first page of it was read."""

    async def lines(self, shard: str, after: StreamId, count: int) -> Sequence[Line]:
        page = await super().lines(shard, after, min(count, 4))
        if after == START.id and shard == "00" and not self.has_failed:
            self.has_failed = True
            await self._connected().call(b"XDEL", self.keys(shard).log, *(line[0] for line in page[2:]))
        return page

    has_failed = False


async def test_two_histories_are_never_mixed(server: Server) -> None:
    """When a failover loses what was read, it is read again: no state that was in neither of them."""
    async with SessionManager(RedisStore(server.url, namespace="states"), secret_key=KEY) as manager:
        sids = [(await manager.create()).id for _ in range(8)]
    store = Failover(server.url, namespace="states")
    reader = SessionManager(store, secret_key=KEY)
    with anyio.fail_after(60):
        async with reader.reading():
            assert set(await states_of(reader)) == {*sids[:2], *sids[4:]}
    assert store.has_failed


def test_a_time_lies_in_its_millisecond() -> None:
    """As `states` and `state_at` must agree to the last event."""
    for ms in (0, 1, 1_700_000_000_001, 1_795_301_123_457):
        assert milliseconds_of(time_of(ms)) == milliseconds_of(time_of(ms) + timedelta(microseconds=999)) == ms
