"""Deadlines: what keeps a session alive, what does not, and how its end gets into the log."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from evsession import SessionManager, SessionPolicy
from evsession.stores.memory import MemoryStore
from evsession.stores.redis import RedisStore
from tests.conftest import until
from tests.integration.apps import KEY, Browser, Clock, app_of, in_memory, two_workers, types_of
from tests.servers import Server

POLICY = SessionPolicy(idle_timeout=timedelta(minutes=30), absolute_timeout=timedelta(hours=2))


@pytest.fixture
def manager(clock: Clock) -> SessionManager:
    return in_memory(clock=clock, policy=POLICY)


async def _begun(manager: SessionManager) -> Browser:
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.update(owner="ann"))
    return browser


async def test_a_session_that_is_used_stays_alive(manager: SessionManager, clock: Clock) -> None:
    """Reading is enough; but no use moves the absolute deadline."""
    browser = await _begun(manager)
    for _ in range(5):
        clock.advance(minutes=20)
        assert (await browser.visit(app_of(manager))).json == {"owner": "ann"}
    clock.advance(minutes=21)
    assert (await browser.visit(app_of(manager))).json == {}
    assert (await manager.audit.history(browser.session_id))[-1].cause == "absolute"


async def test_a_session_that_is_not_used_ends(manager: SessionManager, clock: Clock) -> None:
    """A write by its cookie then begins a new one."""
    browser = await _begun(manager)
    old = browser.session_id
    clock.advance(minutes=31)
    assert (await browser.visit(app_of(manager))).json == {}
    await browser.visit(app_of(manager), lambda session: session.update(n=1))
    assert browser.session_id != old
    (_, ended) = await manager.audit.history(old)
    assert (ended.type, ended.cause, str(ended.actor and ended.actor.id)) == ("ended", "idle", "sweeper")


async def test_touches_are_few(manager: SessionManager, clock: Clock) -> None:
    """At most one in a tenth of the idle timeout, and none for a fresh session."""
    browser = await _begun(manager)
    for _ in range(100):
        await browser.visit(app_of(manager))
    assert manager.stats().counts.touches == 0
    for _ in range(60):
        clock.advance(seconds=10)
        await browser.visit(app_of(manager))
    assert 2 <= manager.stats().counts.touches <= 4


async def test_a_touch_is_no_event_and_no_cookie(manager: SessionManager, clock: Clock) -> None:
    """The version stays, and what others have cached stays good."""
    browser = await _begun(manager)
    clock.advance(minutes=10)
    assert (await browser.visit(app_of(manager))).set_cookie is None
    assert manager.stats().counts.touches == 1
    assert await types_of(manager, browser.session_id) == ["created"]


async def test_passive_paths_keep_nothing_alive(manager: SessionManager, clock: Clock) -> None:
    """A page that polls in a forgotten tab must not keep its user signed in."""
    app, browser = app_of(manager, passive=["/poll"]), await _begun(manager)
    for _ in range(29):
        clock.advance(minutes=1)
        assert (await browser.visit(app, path="/poll/news")).json == {"owner": "ann"}
    clock.advance(minutes=2)
    assert (await browser.visit(app, path="/poll")).json == {}
    assert manager.stats().counts.touches == 0


async def test_polls_do_not_hide_what_the_user_does(manager: SessionManager, clock: Clock) -> None:
    """Active requests between passive ones slide the deadline as they would without them."""
    app, browser = app_of(manager, passive=["/poll"]), await _begun(manager)
    for minute in range(100):
        clock.advance(minutes=1)
        await browser.visit(app, path="/poll")
        if minute % 10 == 0:
            assert (await browser.visit(app, path="/page")).json == {"owner": "ann"}
    assert (await browser.visit(app, path="/page")).json == {"owner": "ann"}


async def test_a_session_of_one_worker_may_be_kept_alive_by_another(clock: Clock) -> None:
    """A copy that says "idle" is a lower bound only: the store is asked before it is believed."""
    store = MemoryStore(clock=clock.server)
    one, two = (in_memory(store, clock=clock, policy=POLICY) for _ in range(2))
    browser = await _begun(one)
    await browser.visit(app_of(two))
    for _ in range(3):
        clock.advance(minutes=20)
        assert (await browser.visit(app_of(two))).json == {"owner": "ann"}
    assert (await browser.visit(app_of(one))).json == {"owner": "ann"}


async def test_a_login_begins_the_absolute_timeout_anew(manager: SessionManager, clock: Clock) -> None:
    """Nothing else does."""
    app, browser = app_of(manager), await _begun(manager)
    for _ in range(5):
        clock.advance(minutes=20)
        await browser.visit(app, lambda session: session.update(n=1))
    await browser.visit(app, lambda session: session.login(42))
    for _ in range(5):
        clock.advance(minutes=20)
        assert (await browser.visit(app, lambda session: session.rotate() or dict(session))).json["owner"] == "ann"
    clock.advance(minutes=21)
    assert (await browser.visit(app)).json == {}


async def test_a_late_write_past_the_deadline_is_refused(manager: SessionManager, clock: Clock) -> None:
    """A request that began in time and ends too late does not bring the session back."""
    app, browser = app_of(manager), await _begun(manager)
    sid = browser.session_id
    answer = await browser.visit(app, lambda session: session.update(n=1) or clock.advance(minutes=31))
    assert (answer.status, answer.set_cookie) == (200, None)
    assert manager.stats().counts.dropped_changes == 1
    await manager.sweep()
    assert await types_of(manager, sid) == ["created", "ended"]


@pytest.mark.parametrize(("minutes", "cause"), [(31, "idle"), (121, "absolute")])
async def test_two_workers_that_sweep_at_once_write_one_end(clock: Clock, minutes: int, cause: str) -> None:
    """With the cause whose deadline passed; a session that is alive stays so."""
    store = MemoryStore(clock=clock.server)
    idle = timedelta(minutes=30) if cause == "idle" else timedelta(minutes=125)
    policy = SessionPolicy(idle_timeout=idle, absolute_timeout=timedelta(hours=2))
    one, two = (in_memory(store, clock=clock, policy=policy) for _ in range(2))
    old = [(await one.create(data={"n": number})).id for number in range(20)]
    clock.advance(minutes=minutes)
    young = (await two.create()).id
    ended: list[int] = []

    async def sweep(manager: SessionManager) -> None:
        ended.append(await manager.sweep())

    async with anyio.create_task_group() as tasks:
        for manager in (one, two, one, two):
            tasks.start_soon(sweep, manager)
    assert sum(ended) == 20
    for sid in old:
        events = await two.audit.history(sid)
        assert [(event.type, event.cause) for event in events] == [("created", None), ("ended", cause)]
    assert await types_of(two, young) == ["created"]


async def test_two_workers_that_sweep_at_once_on_a_server(server: Server) -> None:
    """By themselves, in the background, and by hand at the same moment: one end for each session."""
    policy = SessionPolicy(idle_timeout=timedelta(milliseconds=300), absolute_timeout=timedelta(hours=1))
    async with two_workers(server.url, policy=policy) as (one, two):
        sids = [(await one.create(data={"n": number})).id for number in range(20)]

        async def is_over() -> bool:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.sweep)
                tasks.start_soon(two.sweep)
            return all([await one.get(sid) is None for sid in sids]) and server.cli("ZCARD", "{shop:00}:exp") == 0

        await until(is_over, "all sessions to end")
        for sid in sids:
            events = await two.audit.history(sid)
            assert [(event.type, event.cause) for event in events] == [("created", None), ("ended", "idle")]

        def swept() -> int:
            return one.stats().counts.swept + two.stats().counts.swept

        await until(lambda: swept() >= 20, "the sweeps in the background to be over")
    assert swept() == 20


async def test_of_calls_that_end_a_session_at_once_one_did_it(server: Server) -> None:
    """Those who queue behind it in the same worker find it over: a sweep by hand beside the one in the background."""
    async with SessionManager(RedisStore(server.url, namespace="shop"), secret_key=KEY) as manager:
        session = await manager.create()
        did: list[bool] = []

        async def end() -> None:
            did.append(await manager.worker.end(session.id, "logout"))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(end)
        assert sorted(did) == [False] * 4 + [True]


@pytest.mark.parametrize("junk", [b"hello", b"\xff\xfe", b"", b"zz" + b"a" * 22])
async def test_what_somebody_else_put_into_the_index_of_deadlines_stops_no_sweeper(server: Server, junk: bytes) -> None:
    """It goes, and what is due after it is ended."""
    policy = SessionPolicy(idle_timeout=timedelta(milliseconds=20))
    async with SessionManager(RedisStore(server.url, namespace="shop"), secret_key=KEY, policy=policy) as manager:
        server.cli("ZADD", "{shop:00}:exp", 1, junk)
        session = await manager.create()

        async def is_over() -> bool:
            await manager.sweep()
            return bool(server.cli("ZCARD", "{shop:00}:exp") == 0)

        await until(is_over, "both to go")
        assert await types_of(manager, session.id) == ["created", "ended"]


async def test_excluded_paths_have_no_session_and_cost_nothing(manager: SessionManager) -> None:
    """Not even one that is there; paths that only begin alike are not below."""
    app, browser = app_of(manager, exclude=["/static", "/health/"]), await _begun(manager)
    fills = manager.stats().counts.fills
    for path in ("/static", "/static/a.css", "/health", "/health/"):
        answer = await browser.visit(app, path=path, fails=AssertionError)
        assert "SessionMiddleware must be installed" in str(answer.error)
    assert manager.stats().counts.fills == fills
    assert (await browser.visit(app, path="/statics")).json == {"owner": "ann"}
