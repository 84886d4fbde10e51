"""Several middlewares in one application, and the lifespan that starts and stops their managers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evsession import ConfigError, CookiePolicy, Health, SessionManager, SessionMiddleware, session_of
from tests.conftest import until
from tests.integration.apps import COOKIE, KEY, Answer, Browser, app_of, in_memory
from tests.servers import Server

OTHER = CookiePolicy(name="other")


async def both(request: Request) -> JSONResponse:
    """Count the visits in one session, and what was bought in the other."""
    visits, shop = session_of(request), session_of(request, "shop")
    visits["visits"] = visits.get("visits", 0) + 1
    if "buy" in request.query_params:
        shop.setdefault("bought", []).append(request.query_params["buy"])
    return JSONResponse([dict(visits), dict(shop)])


def _two(first: SessionManager, second: SessionManager) -> Starlette:
    app = Starlette(routes=[Route("/", both)])
    app.add_middleware(SessionMiddleware, manager=first)
    app.add_middleware(SessionMiddleware, manager=second, scope_key="shop")
    return app


async def test_two_managers_live_side_by_side() -> None:
    """With cookies and keys of the scope of their own: each commits what is its own."""
    first, second = in_memory(), in_memory(cookie=OTHER)
    app = _two(first, second)
    cookies: dict[str, str] = {}
    bodies = []
    for query in (b"", b"buy=tea", b""):
        header = "; ".join(f"{name}={value}" for name, value in cookies.items()).encode()
        answer = await _get(app, [(b"cookie", header)], query_string=query)
        bodies.append(answer.json)
        pairs = [value.partition(";")[0].partition("=") for value in answer.all("set-cookie")]
        cookies |= {name: value for name, _, value in pairs}
        assert answer.header("vary") == "Cookie"
    assert bodies == [
        [{"visits": 1}, {}],
        [{"visits": 2}, {"bought": ["tea"]}],
        [{"visits": 3}, {"bought": ["tea"]}],
    ]
    assert (first.stats().counts.created, second.stats().counts.created) == (1, 1)
    assert set(cookies) == {COOKIE, "other"}


async def _get(app: ASGIApp, headers: list[tuple[bytes, bytes]], **more: Any) -> Answer:
    answer = Answer()

    async def send(message: Message) -> None:
        answer.messages.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app(Browser().scope("/", headers=headers, **more), receive, send)
    return answer


async def test_the_same_manager_twice_passes_through() -> None:
    """A mounted application may bring the middleware as well: there is one session, one commit, one cookie."""
    manager = in_memory()
    outer = Starlette(routes=[Mount("/shop", app=app_of(manager))])
    outer.add_middleware(SessionMiddleware, manager=manager)
    browser = Browser()
    await browser.visit(outer, lambda session: session.update(a=1), "/shop/")
    assert (await browser.visit(outer, path="/shop/")).json == {"a": 1}
    assert manager.stats().counts.created == 1


async def test_two_managers_with_one_cookie_are_a_mistake() -> None:
    """Each would overwrite the other's token; the text says what to give one of them."""
    app = _two(in_memory(), in_memory())
    with pytest.raises(ConfigError, match=r"CookiePolicy\(name=…\).*scope_key="):
        await Browser().visit(app)


# ── lifespan ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _run(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    with suppress(ConfigError):  # servers go by what they were told before
        await app(scope, receive, send)


@asynccontextmanager
async def _lifespan(app: ASGIApp) -> AsyncIterator[list[Message]]:
    """Run an application's lifespan as a server does; yield what it has said."""
    said: list[Message] = []
    stop, up = anyio.Event(), anyio.Event()
    asked = iter(["lifespan.startup"])

    async def receive() -> Message:
        for kind in asked:
            return {"type": kind}
        await stop.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Message) -> None:
        said.append(message)
        up.set()

    async with anyio.create_task_group() as tasks:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        tasks.start_soon(_run, app, scope, receive, send)
        await up.wait()
        yield said
        stop.set()


def _connections(server: Server) -> int:
    listed: bytes = server.cli("CLIENT", "LIST")
    return listed.count(b"name=evsession-")


async def test_the_lifespan_starts_and_stops_the_manager(server: Server) -> None:
    """The application's own start finds it started; after its stop no connection is left."""
    manager = SessionManager.from_url(server.url, secret_key=KEY, namespace="shop")
    seen: list[bool] = []

    @asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[None]:
        seen.append((await manager.health()).ready)
        yield
        seen.append((await manager.health()).ready)

    app = Starlette(lifespan=own)
    app.add_middleware(SessionMiddleware, manager=manager)
    async with _lifespan(app) as said:
        await until(lambda: _connections(server) == 2, "commands and feed")
    assert [message["type"] for message in said] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert seen == [True, True]
    await until(lambda: _connections(server) == 0, "the connections to end")


async def test_the_lifespan_starts_both_of_two_managers(server: Server) -> None:
    """And a manager that stands there twice only once."""
    first = SessionManager.from_url(server.url, secret_key=KEY, namespace="one")
    second = SessionManager.from_url(server.url, secret_key=KEY, namespace="two", cookie=OTHER)
    app = _two(first, second)
    app.add_middleware(SessionMiddleware, manager=second, scope_key="shop")
    async with _lifespan(app):
        await until(lambda: _connections(server) == 4, "two of each")
        assert (await first.health(), await second.health()) == (Health(True, ()), Health(True, ()))
    await until(lambda: _connections(server) == 0, "the connections to end")


async def test_a_start_with_another_applications_namespace_fails(server: Server) -> None:
    """The server is told why, and nothing runs on."""
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="shop"):
        pass
    app = app_of(SessionManager.from_url(server.url, secret_key=KEY, namespace="shop", application="blog"))
    async with _lifespan(app) as said:
        pass
    (message,) = said
    assert message["type"] == "lifespan.startup.failed"
    assert "'shop', not 'blog'" in message["message"]
    await until(lambda: _connections(server) == 0, "the connections to end")


async def test_a_test_client_does_not_begin_with_a_manager_that_cannot_start(server: Server) -> None:
    """The message alone is no failure to it, so the error is raised as well."""
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="shop"):
        pass
    app = app_of(SessionManager.from_url(server.url, secret_key="another " * 5, namespace="shop"))
    with pytest.raises(ConfigError, match="none of the secret keys"):
        await anyio.to_thread.run_sync(TestClient(app).__enter__)


async def test_a_start_with_two_managers_of_one_cookie_fails() -> None:
    """Rather than the first request."""
    async with _lifespan(_two(in_memory(), in_memory())) as said:
        pass
    (message,) = said
    assert message["type"] == "lifespan.startup.failed"
    assert "scope_key=" in message["message"]


async def test_a_start_while_the_server_is_away_succeeds() -> None:
    """Health tells; the store is asked again and again."""
    manager = SessionManager.from_url("redis://127.0.0.1:1/0", secret_key=KEY)
    async with _lifespan(app_of(manager)) as said:
        assert not (await manager.health()).ready
    assert said[0]["type"] == "lifespan.startup.complete"
