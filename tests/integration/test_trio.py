"""The same promises under trio: on a memory store nothing needs asyncio."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
import trio
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from evsession import Session, SessionEnded, SessionManager
from tests.integration.apps import Browser, Clock, app_of, in_memory, types_of


@pytest.fixture
def anyio_backend() -> str:
    """Run every test of this file on trio."""
    return "trio"


async def test_this_is_trio() -> None:
    """Or the others would prove nothing."""
    assert trio.lowlevel.in_trio_run()


async def test_a_whole_visit(manager: SessionManager) -> None:
    """Cart, login, nested edits, logout: under the lifespan of a manager."""
    async with manager:
        app, browser = app_of(manager), Browser()
        await browser.visit(app, lambda session: session.update(cart=["tea"]))
        sid, old = browser.session_id, browser.twin()
        await browser.visit(app, lambda session: session["cart"].append("milk"))
        await browser.visit(app, lambda session: session.login(42))
        assert (await browser.visit(app)).json == {"cart": ["tea", "milk"]}
        assert (await old.visit(app)).json == {}
        await browser.visit(app, lambda session: session.logout())
        assert browser.token is None
        assert await types_of(manager, sid) == ["created", "updated", "authenticated", "ended"]


async def test_100_requests_at_once_lose_nothing(manager: SessionManager) -> None:
    """Each sets its own key; 100 increments are 100."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=0))

    async def one(number: int) -> None:
        async def act(session: Session) -> None:
            session[f"key{number}"] = number
            await anyio.lowlevel.checkpoint()

        await browser.twin().visit(app, act)
        await manager.update(browser.session_id, lambda data: data.update(n=data["n"] + 1))

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(one, number)
    found = (await browser.visit(app)).json
    assert found == {"n": 100} | {f"key{number}": number for number in range(100)}
    assert len(await manager.audit.history(browser.session_id)) == 201


async def test_a_late_write_after_a_logout_is_refused(manager: SessionManager) -> None:
    """A request that is cancelled writes nothing either."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42))
    twin, sid = browser.twin(), browser.session_id

    async def act(session: Session) -> None:
        await browser.visit(app, lambda inner: inner.logout())
        session["late"] = 1
        with pytest.raises(SessionEnded):
            await session.save()

    await twin.visit(app, act)
    other = Browser()
    await other.visit(app, lambda session: session.update(n=1))

    async def forever(session: Session) -> None:
        session["n"] = 2
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01):
        await other.visit(app, forever)
    assert (await other.visit(app)).json == {"n": 1}
    assert await types_of(manager, sid) == ["authenticated", "ended"]


async def test_background_tasks_and_sockets(manager: SessionManager) -> None:
    """Commit at their end."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=0))

    def act(session: Session) -> Response:
        return JSONResponse("done", background=BackgroundTask(session.update, late=1))

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            websocket.session["n"] = text

    await browser.visit(app, act)
    await browser.connect(app, talk, "a", "b")
    assert (await browser.visit(app)).json == {"n": "b", "late": 1}


async def test_expiry_and_touch() -> None:
    """Without background work: reads sweep now and then."""
    clock = Clock()
    manager = in_memory(clock=clock)
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=0))
    for _ in range(3):
        clock.advance(minutes=20)
        assert (await browser.visit(app)).json == {"n": 0}
    clock.advance(minutes=31)
    assert (await browser.visit(app)).json == {}
    assert (await manager.audit.history(browser.session_id))[-1].cause == "idle"
    assert (await manager.health()).ready


async def test_the_trail_is_read(manager: SessionManager) -> None:
    """History, time travel, replay and follow, on several shards too."""
    sids = [(await manager.create(user_id=n, data={"n": n})).id for n in range(5)]
    state = await manager.audit.state_at(sids[3], version=1)
    assert state is not None
    assert state.data == {"n": 3}
    assert [event.session_id async for event in manager.audit.replay()] == sids
    follower = manager.audit.follow(since="start")
    assert [(await anext(follower)).session_id for _ in sids] == sids
