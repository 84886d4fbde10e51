"""What is open closes with its session: WebSockets, event streams, bodies that are still arriving. In memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from evsession import (
    ConnectionClosed,
    CookiePolicy,
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    SessionPolicy,
    session_of,
)
from tests.conftest import until
from tests.integration.apps import Act, Browser, Clock, app_of, in_memory, setting
from tests.integration.lines import echo, line, request, signed_in, silent, socket, ticking


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every test of this file on both event loops."""
    return str(request.param)


ENDS: list[tuple[str, Callable[[SessionManager, Browser], Awaitable[Any]]]] = [
    ("revoked", lambda manager, browser: manager.revoke(browser.session_id)),
    ("logout", lambda manager, browser: browser.twin().visit(app_of(manager), lambda session: session.logout())),
    ("switched", lambda manager, browser: browser.twin().visit(app_of(manager), lambda session: session.login("bob"))),
    ("replaced", lambda manager, browser: browser.twin().visit(app_of(manager), lambda session: session.login("ann"))),
    ("replaced", lambda manager, browser: browser.twin().visit(app_of(manager), lambda session: session.rotate())),
]


@pytest.mark.parametrize(("reason", "end"), ENDS)
async def test_a_socket_closes_with_its_session(
    manager: SessionManager, reason: str, end: Callable[[SessionManager, Browser], Awaitable[Any]]
) -> None:
    """Whatever ends the session, or gives it to somebody else; the handler gets a disconnect where it waits."""
    browser, other = await signed_in(manager), await signed_in(manager, "joe")
    async with socket(manager, browser, echo) as one, socket(manager, other, echo) as two:
        for each in (one, two):
            await each.say("hello")
        await until(lambda: one.texts == two.texts == ["hello"], "both echo")
        assert manager.stats().open == 2
        await end(manager, browser)
        await one.over()
        assert one.error is None
        assert one.last == {"type": "websocket.close", "code": 4401, "reason": reason}
        await two.say("still here")
        await until(lambda: two.texts == ["hello", "still here"], "the other's socket is untouched")
        assert (manager.stats().open, manager.stats().closed) == (1, 1)


async def test_a_handler_that_is_told_may_clean_up(manager: SessionManager) -> None:
    """It sees a disconnect with code and reason; what it sends is refused as after any disconnect."""
    seen: list[Any] = []

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        message = await websocket.receive()
        seen.append((message["type"], message["code"], message["reason"]))
        try:
            await websocket.send_text("too late")
        except WebSocketDisconnect as error:
            seen.append(error.code)

    browser = await signed_in(manager)
    async with socket(manager, browser, talk) as one:
        await one.accepted()
        await manager.revoke(browser.session_id)
        await one.over()
    assert seen == [("websocket.disconnect", 4401, "revoked"), 1006]
    assert one.types() == ["accept", "close"]


async def test_a_handler_that_only_sends_ends_too(manager: SessionManager) -> None:
    """At its next message, by the error that frameworks know."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.send_text("tick")
            await anyio.sleep(0.005)

    browser = await signed_in(manager)
    async with socket(manager, browser, talk) as one:
        await until(lambda: one.texts, "it ticks")
        await manager.revoke(browser.session_id)
        await one.over()
        assert one.error is None
        assert one.last["code"] == 4401


async def test_an_application_without_a_framework_gets_an_os_error(manager: SessionManager) -> None:
    """As ASGI has it for a client that went away; its own close at the end is taken without complaint."""
    errors: list[Exception] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError as error:
            errors.append(error)
        await send({"type": "websocket.close", "code": 1000})
        await send({"type": "websocket.send", "text": "again"})

    browser = await signed_in(manager)
    middleware = SessionMiddleware(app, manager)
    async with line(middleware, browser.scope("/", "websocket")) as one:
        await one.say({"type": "websocket.connect"})
        await one.accepted()
        await manager.revoke(browser.session_id)
        await one.over()
    assert one.error is None
    assert one.types() == ["accept", "close"]
    (error,) = errors
    assert isinstance(error, ConnectionClosed)
    assert error.reason == "revoked"


async def test_before_the_handshake_ends_it_is_denied(manager: SessionManager) -> None:
    """A handler that thinks before it accepts accepts nobody who was logged out meanwhile."""

    async def talk(websocket: WebSocket) -> None:
        await manager.revoke(browser.session_id)
        await websocket.accept()
        await websocket.send_text("secret")

    browser = await signed_in(manager)
    async with socket(manager, browser, talk) as one:
        await one.over()
        assert one.error is None
        assert one.types() == ["close"]


@pytest.mark.parametrize("act", [setting(a=1), setting(user_id="ann"), setting(user_id="bob"), Session.rotate])
async def test_what_the_handshake_itself_asks_for_closes_nothing(manager: SessionManager, act: Act) -> None:
    """A login, a rotation or a change of user in the handshake: the socket stands under what came of it."""

    async def talk(websocket: WebSocket) -> None:
        act(session_of(websocket))
        await echo(websocket)

    browser = await signed_in(manager)
    async with socket(manager, browser, talk) as one:
        await one.accepted()
        await one.say("hello")
        await until(lambda: one.texts == ["hello"], "it echoes")
        if cookie := dict(one.sent[0]["headers"]).get(b"set-cookie"):
            browser.token = cookie.decode().partition(";")[0].partition("=")[2]
        await manager.revoke(browser.session_id)
        await one.over()
        assert one.last["code"] == 4401


async def test_a_socket_ends_with_the_session_that_its_own_handler_ends(manager: SessionManager) -> None:
    """No socket outlives its session."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        websocket.session.clear()
        await websocket.session.save()  # type: ignore[attr-defined]
        await websocket.receive_text()

    async with socket(manager, await signed_in(manager), talk) as one:
        await one.over()
        assert (one.error, one.last["reason"]) == (None, "logout")


async def test_who_has_no_session_is_left_alone(manager: SessionManager) -> None:
    """A socket without a cookie, or with a dead one, is nobody's."""
    browser = await signed_in(manager)
    await manager.revoke(browser.session_id)
    async with socket(manager, Browser(), echo) as one, socket(manager, browser, echo) as two:
        for each in (one, two):
            await each.say("hello")
        await until(lambda: one.texts == two.texts == ["hello"], "both echo")
    assert manager.stats().open == 0


async def test_a_socket_closes_when_its_session_expires(clock: Clock) -> None:
    """Without any other traffic; what its client says keeps the session alive, what it hears does not."""
    manager = in_memory(clock=clock, policy=SessionPolicy(idle_timeout=timedelta(seconds=0.3)))

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear, websocket)
            while websocket.client_state.name == "CONNECTED":
                await anyio.sleep(0.01)
                try:
                    await websocket.send_text("tick")
                except WebSocketDisconnect:
                    return

    async def hear(websocket: WebSocket) -> None:
        async for _ in websocket.iter_text():
            pass

    async with socket(manager, await signed_in(manager), talk) as one:
        await one.accepted()
        for number in range(10):
            clock.advance(seconds=0.06)
            await one.say("I am here")
            await until(lambda number=number: manager.stats().counts.touches > number, "it counts")  # type: ignore[misc]
        await _looked_at(manager)
        assert not one.is_over
        for _ in range(4):
            clock.advance(seconds=0.06)
            count = len(one.texts)
            await until(lambda count=count: len(one.texts) > count, "it ticks")  # type: ignore[misc]
        await _looked_at(manager)
        assert not one.is_over
        clock.advance(seconds=0.07)
        await one.over()
        assert {"type": "websocket.close", "code": 4401, "reason": "idle"} in one.sent
    assert manager.stats().counts.touches == 10


async def _looked_at(manager: SessionManager) -> None:
    """Have what is open and past its deadline asked about now, not when a real timer says so."""
    worker = manager.worker
    worker.connections.tend()
    await until(lambda: not any(one.must_ask(worker.clock()) for one in worker.connections._all()), "it is asked about")


async def test_a_deadline_is_only_a_lower_bound(clock: Clock) -> None:
    """A socket whose session others keep alive is asked about when its deadline comes, and stays."""
    manager = in_memory(clock=clock, policy=SessionPolicy(idle_timeout=timedelta(seconds=0.2)))
    browser = await signed_in(manager)
    async with socket(manager, browser, echo) as one:
        await one.accepted()
        for _ in range(8):
            clock.advance(seconds=0.05)
            await browser.visit(app_of(manager))
        await _looked_at(manager)
        await one.say("hello")
        await until(lambda: one.texts == ["hello"], "it echoes")
        clock.advance(seconds=0.21)
        await one.over()
        assert one.last["reason"] == "idle"


async def test_what_a_failover_lost_is_asked_about(manager: SessionManager) -> None:
    """A socket whose session is still there stays; one whose session is gone with the history that had it closes."""
    browser = await signed_in(manager)
    sid, store = browser.session_id, manager.worker.store
    assert isinstance(store, MemoryStore)
    async with socket(manager, browser, echo) as one:
        await one.accepted()
        manager.worker.connections.on_lost(sid)
        await one.say("hello")
        await until(lambda: one.texts == ["hello"], "it echoes")
        store._shard(sid[:2]).lapses.set(sid, 0)
        manager.worker.connections.on_lost(sid)
        await one.over()
        assert (one.error, one.last["code"]) == (None, 4401)


# ── event streams ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
async def test_an_event_stream_ends_with_its_session(manager: SessionManager, spec: str) -> None:
    """The response ends properly, and its handler with it, whether it listens for a disconnect or only sends."""
    browser = await signed_in(manager)
    async with request(manager, browser, ticking(), spec=spec) as one:
        await one.say({"type": "http.request"})
        await until(lambda: len(one.sent) > 3, "it ticks")
        assert manager.stats().open == 1
        await manager.revoke(browser.session_id)
        await one.over()
        assert one.error is None
        assert one.last == {"type": "http.response.body", "body": b"", "more_body": False}
        assert one.types().count("start") == 1
    assert manager.stats().open == 0


async def test_a_silent_event_stream_ends_too(manager: SessionManager) -> None:
    """Its client is told at once."""
    browser = await signed_in(manager)
    async with request(manager, browser, silent) as one:
        await one.say({"type": "http.request"})
        await one.accepted()
        await until(lambda: manager.stats().open, "it is registered")
        await manager.revoke(browser.session_id)
        await one.over()
        assert one.last == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_stream_that_began_with_a_login_ends_with_that_session(manager: SessionManager) -> None:
    """It stands under the session that its own response began."""

    async def act(session: Any) -> Response:
        session.login("ann")
        return await silent(session)

    browser = Browser()
    async with request(manager, browser, act) as one:
        await one.say({"type": "http.request"})
        await one.accepted()
        await until(lambda: manager.stats().open, "it is registered")
        token = dict(one.sent[0]["headers"])[b"set-cookie"].decode().partition("=")[2]
        await manager.revoke(token[:24])
        await one.over()
        assert not one.last["more_body"]


async def test_a_session_that_ended_while_the_handler_thought_ends_its_stream(manager: SessionManager) -> None:
    """The response begins and is over."""

    async def act(session: Any) -> Response:
        await manager.revoke(browser.session_id)
        return await silent(session)

    browser = await signed_in(manager)
    async with request(manager, browser, act) as one:
        await one.say({"type": "http.request"})
        await one.over()
        assert (one.error, one.types()) == (None, ["start", "body"])


async def test_other_streams_are_left_alone(manager: SessionManager) -> None:
    """A handler past its start completes: a download is none of ours."""
    browser = await signed_in(manager)
    async with request(manager, browser, ticking("text/csv")) as one:
        await one.say({"type": "http.request"})
        await one.accepted()
        assert manager.stats().open == 0
        await manager.revoke(browser.session_id)
        count = len(one.sent)
        await until(lambda: len(one.sent) > count + 3, "it goes on")


async def test_a_stream_that_ends_by_itself_is_over(manager: SessionManager) -> None:
    """Nothing is left, and nothing is sent twice."""

    async def act(session: Any) -> Response:
        async def events() -> AsyncIterator[str]:
            yield "data: bye\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    browser = await signed_in(manager)
    async with request(manager, browser, act) as one:
        await one.say({"type": "http.request"})
        await one.over()
    assert one.types() == ["start", "body", "body"]
    await manager.revoke(browser.session_id)
    assert (manager.stats().open, manager.stats().closed) == (0, 0)


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def reading(seen: list[bytes]) -> Callable[[Scope, Any, Any], Awaitable[None]]:
    """Return an application that answers once it has the whole body."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        seen.append(body)
        await JSONResponse(len(body))(scope, receive, send)

    return app


@pytest.mark.parametrize("chunks", [0, 1, 2])
async def test_a_body_that_is_still_arriving_never_arrives(manager: SessionManager, chunks: int) -> None:
    """Its handler gets a disconnect where it waits; the client, which can try again, a 503."""
    seen: list[bytes] = []
    browser = await signed_in(manager)
    async with line(SessionMiddleware(reading(seen), manager), browser.scope("/", method="POST")) as one:
        for _ in range(chunks):
            await one.say({"type": "http.request", "body": b"x", "more_body": True})
        await until(lambda: manager.stats().open, "the body is awaited")
        await manager.revoke(browser.session_id)
        await one.over()
    assert (seen, one.error) == ([], None)
    assert one.sent[0]["status"] == 503
    assert dict(one.sent[0]["headers"])[b"retry-after"] == b"1"
    assert manager.stats().open == 0


async def test_the_last_part_of_a_body_is_checked_again(manager: SessionManager) -> None:
    """Also when it had come already, and nobody was waiting for it."""
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await manager.revoke(browser.session_id)
        await reading(seen)(scope, receive, send)

    browser = await signed_in(manager)
    async with line(SessionMiddleware(app, manager), browser.scope("/", method="POST")) as one:
        await one.say({"type": "http.request", "body": b"x"})
        await one.over()
    assert seen == []
    assert one.sent[0]["status"] == 503


async def test_a_handler_that_makes_its_own_answer_of_it_gives_that(manager: SessionManager) -> None:
    """And what it writes is refused."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        try:
            await Request(scope, receive).body()
        except ClientDisconnect:
            scope["session"]["seen"] = 1
            await JSONResponse("so long", status_code=400)(scope, receive, send)

    browser = await signed_in(manager)
    async with line(SessionMiddleware(app, manager), browser.scope("/", method="POST")) as one:
        await until(lambda: manager.stats().open, "the body is awaited")
        await manager.revoke(browser.session_id)
        await one.over()
    assert one.sent[0]["status"] == 400
    assert manager.stats().counts.dropped_changes == 1


async def test_a_handler_past_its_body_completes(manager: SessionManager) -> None:
    """Nothing is torn in the middle."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        await manager.revoke(browser.session_id)
        await JSONResponse(len(body))(scope, receive, send)

    browser = await signed_in(manager)
    async with line(SessionMiddleware(app, manager), browser.scope("/", method="POST")) as one:
        await one.say({"type": "http.request", "body": b"xy"})
        await one.over()
    assert (one.sent[0]["status"], one.sent[1]["body"]) == (200, b"2")
    assert manager.stats().closed == 0


async def test_who_logs_in_in_the_middle_of_a_body_goes_on(manager: SessionManager) -> None:
    """A request closes nothing of its own."""
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        scope["session"].login("bob")
        await scope["session"].save()
        await reading(seen)(scope, receive, send)

    browser = await signed_in(manager)
    async with line(SessionMiddleware(app, manager), browser.scope("/", method="POST")) as one:
        await one.say({"type": "http.request", "body": b"x", "more_body": True})
        await one.say({"type": "http.request", "body": b"y"})
        await one.over()
    assert (seen, one.sent[0]["status"]) == ([b"y"], 200)


# ── on_ended ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_application_is_told_once(manager: SessionManager, caplog: pytest.LogCaptureFixture) -> None:
    """Of each session, with its cause; what one function raises keeps no other from being called."""
    told: list[tuple[str, str]] = []

    @manager.on_ended
    def fail(session_id: str, cause: str) -> None:
        raise ZeroDivisionError(cause)

    @manager.on_ended
    async def note(session_id: str, cause: str) -> None:
        await anyio.lowlevel.checkpoint()
        told.append((session_id, cause))

    browser, other = await signed_in(manager), await signed_in(manager)
    async with socket(manager, browser, echo) as one, socket(manager, browser, echo) as two:
        await one.accepted()
        await two.accepted()
        await manager.revoke(browser.session_id)
        await one.over()
        await two.over()
    await manager.revoke(browser.session_id)
    await browser.visit(app_of(manager))
    sid = other.session_id
    await other.visit(app_of(manager), lambda session: session.logout())
    await until(lambda: len(told) > 1, "both are told of")
    assert told == [(browser.session_id, "revoked"), (sid, "logout")]
    assert caplog.text.count("ZeroDivisionError: revoked") == 1
    assert manager.stats().closed == 2


# ── test clients ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_entered", [True, False])
def test_in_a_test_client(is_entered: bool, anyio_backend: str) -> None:
    """With and without `with`: without, each request has an event loop and a thread of its own."""
    manager = SessionManager.from_url("memory://", cookie=CookiePolicy.for_localhost())
    client = TestClient(_small_app(manager), backend=anyio_backend)  # type: ignore[arg-type]
    with client if is_entered else nullcontext():
        client.get("/login")
        with client.websocket_connect("/") as websocket:
            websocket.send_text("hello")
            assert websocket.receive_text() == "hello"
            client.get("/logout")
            with pytest.raises(WebSocketDisconnect) as caught:
                websocket.receive_text()
        assert (caught.value.code, caught.value.reason) == (4401, "logout")


def _small_app(manager: SessionManager) -> Starlette:
    def login(request: Request) -> Response:
        session_of(request).login("ann")
        return Response()

    def logout(request: Request) -> Response:
        session_of(request).logout()
        return Response()

    app = Starlette(routes=[Route("/login", login), Route("/logout", logout), WebSocketRoute("/", echo)])
    app.add_middleware(SessionMiddleware, manager=manager)
    return app
