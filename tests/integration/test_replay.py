"""Replay and follow: all sessions in the order of time, with cursors, over trimming and archives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from evsession import Actor, ConfigError, RecordedEvent, Session, SessionManager
from evsession.audit import Follower
from evsession.audit.cursor import Cursor
from evsession.audit.follow import Since
from evsession.errors import LogTrimmed
from evsession.stores.memory import MemoryStore
from evsession.stores.redis import RedisStore
from evsession.wire import START, Entry, StreamId
from tests.conftest import until
from tests.integration.apps import KEY, Browser, Clock, app_of, in_memory, setting
from tests.servers import Server

QUICK = timedelta(milliseconds=5)
A_NODE = 130
"""Entries that fill one of Redis' stream nodes, below which trimming removes nothing."""


@pytest.fixture
def manager(clock: Clock) -> SessionManager:
    return in_memory(MemoryStore(shards=4, clock=clock.server), clock=clock)


@pytest.fixture
async def on_server(server: Server) -> AsyncIterator[SessionManager]:
    """Return a manager of two shards on a server."""
    async with SessionManager(RedisStore(server.url, namespace="trail", shards=2), secret_key=KEY) as manager:
        yield manager


async def all_of(events: AsyncIterator[RecordedEvent]) -> list[RecordedEvent]:
    return [event async for event in events]


async def next_of(follower: Follower, count: int) -> list[RecordedEvent]:
    with anyio.fail_after(60):
        return [await anext(follower) for _ in range(count)]


def ids_of(events: Iterable[RecordedEvent]) -> set[tuple[str, int]]:
    """Return which events these are."""
    return {(event.session_id, event.version) for event in events}


class Kept:
    """An archive in memory: all that was in the logs when it was made."""

    def __init__(self) -> None:
        self.entries: dict[str, Sequence[Entry]] = {}

    async def take(self, manager: SessionManager) -> None:
        """Archive what the logs hold now."""
        for shard in manager.worker.store.shards:
            self.entries[shard] = await manager.worker.store.read(shard, START, 100_000)

    async def between(self, shard: str, first: StreamId, last: StreamId) -> AsyncIterator[Entry]:
        for entry in self.entries.get(shard, ()):
            if first <= entry.id <= last:
                yield entry


# ── replay ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def story(manager: SessionManager, clock: Clock) -> dict[str, str]:
    """Live through a few sessions of three users on all shards, and return session id → user."""
    users = {}
    for number in range(40):
        user = f"user-{number % 3}"
        session = await manager.create(user_id=user, data={"n": 0})
        users[session.id] = user
        clock.advance(seconds=1)
    for round_ in (1, 2):
        for sid in users:
            await manager.update(sid, partial(dict.update, n=round_))
            clock.advance(seconds=1)
    for sid in list(users)[::4]:
        await manager.revoke(sid)
    return users


async def test_a_replay_is_in_the_order_of_time_over_all_shards(manager: SessionManager, clock: Clock) -> None:
    """Nothing missing, nothing twice, and each with the user who was signed in."""
    users = await story(manager, clock)
    events = await all_of(manager.audit.replay())
    assert len(events) == 40 * 3 + 10
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert {event.session_id[:2] for event in events} == set(manager.worker.store.shards)
    assert all(event.user_id == users[event.session_id] for event in events)


async def test_a_replay_can_be_narrowed(manager: SessionManager, clock: Clock) -> None:
    """By time, type, user and session, and all of them together."""
    users = await story(manager, clock)
    events = await all_of(manager.audit.replay())
    since, until = events[50].at, events[100].at
    replay = manager.audit.replay
    assert await all_of(replay(since=since, until=until)) == events[50:100]
    assert await all_of(replay(types=["ended"])) == [event for event in events if event.type == "ended"]
    assert await all_of(replay(types="ended")) == [event for event in events if event.type == "ended"]
    mine = [event for event in events if event.user_id == "user-1"]
    assert await all_of(replay(user_id="user-1")) == mine
    sid = next(sid for sid, user in users.items() if user == "user-1")
    assert await all_of(replay(session_id=sid)) == list(await manager.audit.history(sid))
    late = [event for event in mine if event.at >= since and event.type == "updated"]
    assert await all_of(replay(user_id="user-1", types=["updated"], since=since)) == late
    assert await all_of(replay(since=events[60].cursor, session_id=events[60].session_id)) == [
        event for event in events[61:] if event.session_id == events[60].session_id
    ]


async def test_a_replay_knows_users_whose_login_came_before_it(manager: SessionManager, clock: Clock) -> None:
    """It asks the log for each session once."""
    users = await story(manager, clock)
    await manager.create()
    events = await all_of(manager.audit.replay(since=(await all_of(manager.audit.replay()))[60].at))
    assert all(event.user_id == users.get(event.session_id) for event in events)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"types": ["deleted"]}, "there are created, authenticated, updated"),
        ({"session_id": "nonsense"}, "pass the public id"),
        ({"since": "yesterday"}, "this is no cursor"),
        ({"since": datetime(2026, 11, 21)}, "without a zone"),
    ],
)
async def test_what_cannot_be_replayed_is_refused_at_once(
    manager: SessionManager, options: dict[str, Any], says: str
) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=says):
        manager.audit.replay(**options)
    with pytest.raises(ConfigError, match=says):
        manager.audit.follow(**options)


async def test_a_revocation_that_has_left_the_log_stops_no_replay(on_server: SessionManager) -> None:
    """They go as soon as no session is as old, so a cursor of yesterday mostly stands at one that is gone."""
    await on_server.revoke_user("ada", timeout=timedelta(0))
    cursor = await on_server.audit.end()
    await on_server.revoke_user("bob", timeout=timedelta(0))
    await on_server.create()
    assert await on_server.worker.store.expunge(-1_000) == 1
    events = await all_of(on_server.audit.replay(since=cursor))
    assert sorted(str(event.name) for event in events) == ["None", "user:bob"]  # perhaps of the same millisecond


async def test_a_replay_cannot_begin_where_it_ends(manager: SessionManager) -> None:
    """It would else begin at the start, which is the opposite."""
    with pytest.raises(ConfigError, match="follow the log instead"):
        manager.audit.replay(since="now")


async def test_all_sessions_of_a_user_alive_and_over(manager: SessionManager, clock: Clock) -> None:
    """With when and from where they signed in, and why they are over; a visitor counts from the login on."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, setting(n=1))
    clock.advance(seconds=1)
    await browser.visit(app, lambda session: session.login(42))
    first = browser.session_id
    await browser.visit(app, Session.logout)
    await manager.create(user_id="bob")
    clock.advance(seconds=1)
    second = (await manager.create(user_id="42")).id
    one, two = await manager.audit.sessions_by_user(42)
    assert (one.session_id, one.cause, one.events, one.address) == (first, "logout", 2, "203.0.113.0")
    assert (two.session_id, two.cause, two.events, two.address) == (second, None, 1, None)
    assert two.signed_in_at - one.signed_in_at == timedelta(seconds=1)
    assert [visit.session_id for visit in await manager.audit.sessions_by_user(42, since=two.signed_in_at)] == [second]
    assert await manager.audit.sessions_by_user("nobody") == ()


async def test_revocations_by_name_are_in_the_trail(manager: SessionManager, clock: Clock) -> None:
    """Of no session, in the order of time, for replays and followers, and for whoever asks for that user."""
    await manager.create(user_id="ada")
    clock.advance(seconds=1)
    await manager.revoke_user("ada", reason="lost phone", actor=Actor.admin("joe"))
    clock.advance(seconds=1)
    await manager.create(user_id="ada")
    events = await all_of(manager.audit.replay())
    assert [event.type for event in events] == ["authenticated", "named_revoked", "authenticated"]
    revoked = events[1]
    assert (revoked.session_id, revoked.name, revoked.user_id) == ("", "user:ada", "ada")
    assert (revoked.cause, revoked.reason, revoked.actor) == ("revoked", "lost phone", Actor.admin("joe"))
    assert await all_of(manager.audit.replay(types=["named_revoked"])) == [revoked]
    assert await all_of(manager.audit.replay(user_id="ada")) == events
    assert await all_of(manager.audit.replay(user_id="bob")) == []
    follower = manager.audit.follow(since="start", poll_every=QUICK)
    assert await next_of(follower, 3) == events
    assert follower.cursor == await manager.audit.end()
    assert (await next_of(manager.audit.follow(since=revoked.cursor, poll_every=QUICK), 1))[0].user_id == "ada"


async def test_a_replay_ends_though_the_log_grows(on_server: SessionManager) -> None:
    """Where the log ended when it began, however many are writing."""
    session = await on_server.create(data={"n": 0})
    seen = 0
    with anyio.fail_after(60):
        async for _ in on_server.audit.replay():
            seen += 1
            for n in range(3):
                await on_server.update(session.id, partial(dict.update, n=f"{seen} {n}"))
    assert seen == 1


async def test_junk_in_a_log_hides_nothing(on_server: SessionManager, server: Server) -> None:
    """Whoever can write to the server cannot blind a reader with more junk than a page has."""
    await on_server.create(user_id="before")
    key = on_server.worker.store.keys("00").log  # type: ignore[attr-defined]
    server.cli("EVAL", "for i = 1, 1200 do redis.call('XADD', KEYS[1], '*', 'junk', i) end", 1, key)
    await on_server.create(user_id="after")
    events = await all_of(on_server.audit.replay(types=["authenticated"]))
    assert {"before", "after"} == {event.user_id for event in events}


# ── follow ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_following_brings_what_happens(on_server: SessionManager) -> None:
    """From now on, or from the start."""
    await on_server.create(user_id="early")
    late = on_server.audit.follow(since=await on_server.audit.end(), poll_every=QUICK)
    await on_server.create(user_id="late")
    assert [event.user_id for event in await next_of(late, 1)] == ["late"]
    assert [event.user_id for event in await next_of(on_server.audit.follow(since="start"), 2)] == ["early", "late"]
    now = on_server.audit.follow(poll_every=QUICK)
    assert now.cursor == "now"
    async with anyio.create_task_group() as group:
        found: list[RecordedEvent] = []

        async def follow() -> None:
            found.extend(await next_of(now, 1))

        group.start_soon(follow)
        while not found:
            await on_server.create(user_id="now")
            await anyio.sleep(0.02)
    assert found[0].user_id == "now"


async def test_a_follower_goes_on_from_its_cursor(on_server: SessionManager) -> None:
    """After every single event: the rest comes, and nothing before it."""
    sids = [(await on_server.create(user_id=n)).id for n in range(12)]
    for sid in sids:
        await on_server.update(sid, partial(dict.update, n=1))
    follower = on_server.audit.follow(since="start", poll_every=QUICK)
    cursors, events = [], []
    for _ in range(24):
        events += await next_of(follower, 1)
        cursors.append(follower.cursor)
    assert len(ids_of(events)) == 24
    for at in (0, 7, 12, 22):
        rest = await next_of(on_server.audit.follow(since=cursors[at], poll_every=QUICK), 23 - at)
        assert ids_of(rest) == ids_of(events[at + 1 :])


async def test_the_cursor_of_a_filtered_follower_moves_with_the_log(on_server: SessionManager) -> None:
    """Past what it does not want, so that going on does not read it all again."""
    follower = on_server.audit.follow(since="start", types=["ended"], poll_every=QUICK)
    sids = [(await on_server.create()).id for _ in range(20)]
    begun = follower.cursor
    with anyio.fail_after(60):
        while follower.cursor != await on_server.audit.end():
            with anyio.move_on_after(0.1):
                await anext(follower)
    assert follower.cursor != begun
    await on_server.revoke(sids[0])
    (event,) = await next_of(follower, 1)
    assert event.session_id == sids[0]


async def test_a_follower_that_has_read_nothing_stands_where_it_was_told_to_begin(on_server: SessionManager) -> None:
    """Who is interrupted before the server answers must not be sent back to the start of the log."""
    await _busy(on_server)
    end = await on_server.audit.end()
    assert on_server.audit.follow(since=end).cursor == end


async def test_an_events_own_cursor_is_a_place_to_begin(on_server: SessionManager) -> None:
    """In its shard right after it; of the others a minute is read again."""
    events: list[RecordedEvent] = []
    for n in range(10):
        sid = (await on_server.create(user_id=n)).id
        events += await on_server.audit.history(sid)
    shard = events[3].session_id[:2]
    expected = ids_of(event for event in events if event.session_id[:2] != shard or event.id > events[3].id)
    rest = await next_of(on_server.audit.follow(since=events[3].cursor, poll_every=QUICK), len(expected))
    assert ids_of(rest) == expected


async def test_a_cancelled_wait_loses_nothing(on_server: SessionManager) -> None:
    """Whoever gives up waiting may ask again."""
    follower = on_server.audit.follow(since="start", poll_every=QUICK)
    found = set()
    for n in range(60):
        await on_server.create(user_id=n)
        with anyio.move_on_after(0.002 * (n % 4)):
            while True:
                found.add((await anext(follower)).user_id)
    found |= {event.user_id for event in await next_of(follower, 60 - len(found))}
    assert found == {str(n) for n in range(60)}


# ── where the log was trimmed ────────────────────────────────────────────────────────────────────────────────────────


async def _busy(manager: SessionManager) -> str:
    """Fill a node of every shard's log, trim it, and return a session that began before."""
    sid = (await manager.create(user_id="ada", data={"n": 0})).id
    for shard in manager.worker.store.shards:
        while (await manager.worker.store.counters(shard)).length < A_NODE:
            await _crowd(manager)
    return sid


async def _crowd(manager: SessionManager) -> None:
    """Create some sessions at once."""
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(manager.create)


async def _trim(manager: SessionManager) -> None:
    for shard in manager.worker.store.shards:
        assert await manager.worker.store.trim(shard, -1_000) > 0


async def test_a_cursor_behind_the_trimmed_end_says_so(on_server: SessionManager) -> None:
    """From a position, and from the very beginning; by name of the error, with the way out."""
    beginning = Cursor({}).text()
    await _busy(on_server)
    follower = on_server.audit.follow(since="start", poll_every=QUICK)
    await next_of(follower, 5)
    await on_server.create()
    await _trim(on_server)
    for cursor in (follower.cursor, beginning):
        with pytest.raises(LogTrimmed, match="since='start'"):
            await next_of(on_server.audit.follow(since=cursor, poll_every=QUICK), 1)
    assert await next_of(on_server.audit.follow(since="start", poll_every=QUICK), 1)
    assert await all_of(on_server.audit.replay())


@pytest.mark.parametrize("since", ["start", "now", datetime(2020, 1, 1, tzinfo=UTC)])
async def test_a_follower_that_falls_behind_is_told(clock: Clock, since: Since) -> None:
    """Wherever it began: memory keeps the newest entries only, and skips none of the others in silence."""
    manager = in_memory(MemoryStore(clock=clock.server, max_entries=50), clock=clock)
    follower = manager.audit.follow(since=since, poll_every=QUICK)
    async with anyio.create_task_group() as group:
        group.start_soon(next_of, follower, 1)
        if since == "now":
            await until(lambda: follower.cursor != "now", "it has begun")
        session = await manager.create(data={"n": 0})
    for n in range(100):
        await manager.update(session.id, partial(dict.update, n=n))
    for _ in range(2):
        with pytest.raises(LogTrimmed, match="since='start'"):
            await next_of(follower, 1)
    assert (await next_of(manager.audit.follow(since="start", poll_every=QUICK), 1))[0].version > 50


async def test_readings_go_on_in_the_archive(on_server: SessionManager) -> None:
    """Replay, follow, history, states and explanations, as if nothing had been trimmed."""
    archive = Kept()
    sid = await _busy(on_server)
    await on_server.update(sid, partial(dict.update, n=1))
    gone = (await on_server.create(user_id="bob")).id
    await on_server.revoke(gone, reason="archived")
    for shard in on_server.worker.store.shards:
        before = (await on_server.worker.store.counters(shard)).added or 0
        while ((await on_server.worker.store.counters(shard)).added or 0) < before + A_NODE:
            await _crowd(on_server)
    events = await all_of(on_server.audit.replay())
    cursor = await _cursor_after(on_server, events[3])
    await archive.take(on_server)
    await _trim(on_server)
    await on_server.update(sid, partial(dict.update, n=2))
    assert len(await all_of(on_server.audit.replay())) < len(events)
    assert not (await on_server.audit.history(gone)).is_complete
    on_server.audit.archive = archive
    newer = await all_of(on_server.audit.replay())
    assert newer[:-1] == events
    followed = await next_of(on_server.audit.follow(since=cursor, poll_every=QUICK), len(newer) - 4)
    assert ids_of(followed) == ids_of(newer[4:])
    whole = await on_server.audit.history(sid)
    assert [(event.version, event.user_id) for event in whole] == [(1, "ada"), (2, "ada"), (3, "ada")]
    (last,) = await on_server.audit.history(sid, limit=1)
    assert last.user_id == "ada"
    assert [event.type for event in await on_server.audit.history(sid, before=last.id)] == ["authenticated", "updated"]
    state = await on_server.audit.state_at(sid, version=2)
    assert state is not None
    assert state.data == {"n": 1}
    assert [event.type for event in await on_server.audit.history(gone)] == ["authenticated", "ended"]
    assert (await on_server.audit.explain(gone)).reason == "archived"


async def _cursor_after(manager: SessionManager, event: RecordedEvent) -> str:
    follower = manager.audit.follow(since="start", poll_every=QUICK)
    while await next_of(follower, 1) != [event]:
        pass
    return follower.cursor


USUAL = {"t": "updated", "s": "x", "n": "1", "p": "0-0", "i": "i", "o": "0", "a": "", "c": "", "d": "{}", "k": "k"}
JUNK: list[dict[str, str | bytes]] = [
    {"foo": "bar"},
    {**USUAL, "m": "m", "n": "one"},
    {**USUAL, "m": "m", "s": b"\xff"},
    {"m": "m", **USUAL, "o": "soon"},
]


@pytest.mark.parametrize("fields", JUNK)
async def test_what_somebody_else_wrote_into_the_log_stops_no_reader(
    on_server: SessionManager, server: Server, fields: dict[str, str | bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """However much of it, and whatever it looks like: there are loud words, and what is ours comes all the same."""
    session = await on_server.create()
    follower = on_server.audit.follow(since="start", poll_every=QUICK)
    first = await next_of(follower, 1)
    words = (word for field in fields.items() for word in field)
    write = "for i = 1, 1200 do redis.call('XADD', KEYS[1], '*', unpack(ARGV)) end"
    server.cli("EVAL", write, 1, f"{{trail:{session.id[:2]}}}:log", *words)
    await on_server.update(session.id, partial(dict.update, n=1))
    both = {(session.id, 1), (session.id, 2)}
    assert ids_of([*first, *await next_of(follower, 1)]) == both
    assert ids_of(await all_of(on_server.audit.replay())) == both
    assert "is none of ours; find out who can write to Redis" in caplog.text
