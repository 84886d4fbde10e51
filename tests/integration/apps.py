"""A small application, a client that calls it by hand in any event loop, and a clock that tests turn.

What a handler does stands in the test itself: `await browser.visit(app, lambda session: session.update(a=1))`.
"""

from __future__ import annotations

import inspect
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import pytest
import redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Scope
from starlette.websockets import WebSocket

from evsession import Session, SessionManager, SessionMiddleware
from evsession.stores.memory import MemoryStore
from tests.servers import Server

KEY: Final = "a key that only these tests have, 01"
COOKIE: Final = "__Host-session"

Act = Callable[[Session], Any]
"""What a handler does; what it returns is the response, or becomes its JSON."""


Talk = Callable[[WebSocket], Awaitable[None]]
"""What the handler of a WebSocket does."""


@dataclass
class Answer:
    """What an application sent, and what it raised where that was expected."""

    messages: list[Message] = field(default_factory=list)
    error: Exception | None = None

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value.decode() for key, value in self.messages[0]["headers"] if key.lower() == name.encode()]

    def header(self, name: str) -> str | None:
        """Return the one value of a header; None without it."""
        values = self.all(name)
        assert len(values) < 2, f"{name} stands there {len(values)} times"
        return values[0] if values else None

    @property
    def set_cookie(self) -> str | None:
        """The Set-Cookie header of the session's cookie."""
        found = [value for value in self.all("set-cookie") if value.partition("=")[0] in (COOKIE, "session", "other")]
        assert len(found) < 2, "the session's cookie is set twice"
        return found[0] if found else None


class Browser:
    """One client with one cookie, as a browser keeps it."""

    def __init__(
        self, token: str | None = None, *, cookie: str = COOKIE, scheme: str = "https", host: str = "shop.example"
    ) -> None:
        self.token = token
        self.cookie = cookie
        self.scheme = scheme
        self.host = host

    def twin(self) -> Browser:
        """Return another client with the same cookie, such as a request of this one that is under way."""
        return Browser(self.token, cookie=self.cookie, scheme=self.scheme, host=self.host)

    @property
    def session_id(self) -> str:
        """The id in the cookie."""
        assert self.token is not None
        return self.token[:24]

    @property
    def fence(self) -> int:
        """The version in the cookie."""
        assert self.token is not None
        return int(self.token.partition("~")[2] or 0)

    def scope(self, path: str, kind: str = "http", **more: Any) -> Scope:
        """Return the scope of a request; `headers` among `more` come before the cookie."""
        headers = [(b"host", self.host.encode()), *more.pop("headers", ())]
        if self.token is not None:
            headers.append((b"cookie", f"theme=dark; {self.cookie}={self.token}".encode()))
        scope = {
            "type": kind, "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
            "scheme": self.scheme, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": headers, "server": ("shop.example", 443), "client": ("203.0.113.77", 54321), "state": {},
        }  # fmt: skip
        if kind == "websocket":
            del scope["method"]
            scope |= {"scheme": {"https": "wss", "http": "ws"}[self.scheme], "subprotocols": []}
        return scope | more

    async def visit(
        self, app: ASGIApp, act: Act = dict, path: str = "/", *, fails: type[Exception] | None = None, **more: Any
    ) -> Answer:
        """Send one request, whose handler does `act`, and keep the cookie; `fails` is what the app must raise."""
        answer = Answer()
        receive = Once()

        async def send(message: Message) -> None:
            answer.messages.append(message)

        try:
            await app(self.scope(path, act=act, **more), receive, send)
        except Exception as error:
            if fails is None or not isinstance(error, fails):
                raise
            answer.error = error
        assert fails is None or answer.error is not None, f"{fails} was not raised"
        if answer.messages:
            self.keep(answer)
        return answer

    async def connect(self, app: ASGIApp, act: Talk, *texts: str, path: str = "/", **more: Any) -> Answer:
        """Open a WebSocket, send these texts, go away; and keep the cookie."""
        answer = Answer()
        incoming: list[Message] = [{"type": "websocket.connect"}]
        incoming += [{"type": "websocket.receive", "text": text} for text in texts]

        async def receive() -> Message:
            return incoming.pop(0) if incoming else {"type": "websocket.disconnect", "code": 1001}

        async def send(message: Message) -> None:
            answer.messages.append(message)

        await app(self.scope(path, "websocket", act=act, **more), receive, send)
        if answer.messages and answer.messages[0]["type"] == "websocket.accept":
            self.keep(answer)
        return answer

    def keep(self, answer: Answer) -> None:
        """Do what the answer says of the cookie."""
        if answer.set_cookie is not None:
            value = answer.set_cookie.partition(";")[0].partition("=")[2]
            self.token = value or None


class Once:
    """A `receive` with an empty body, after which the client stays connected."""

    def __init__(self) -> None:
        self._is_read = False

    async def __call__(self) -> Message:
        if self._is_read:
            await anyio.sleep_forever()
        self._is_read = True
        return {"type": "http.request", "body": b"", "more_body": False}


async def perform(request: Request) -> Response:
    """Do what the test asked for."""
    result = request.scope["act"](request.session)
    if inspect.isawaitable(result):
        result = await result
    return result if isinstance(result, Response) else JSONResponse(result)


def setting(**values: Any) -> Act:
    """Return a handler that sets these."""
    return lambda session: session.update(values)


async def talk(websocket: WebSocket) -> None:
    """Do what the test asked for."""
    await websocket.scope["act"](websocket)


def app_of(manager: SessionManager, **options: Any) -> Starlette:
    """Return an application whose every path does what the test asks for."""
    methods = ["GET", "POST", "HEAD"]
    app = Starlette(routes=[Route("/{path:path}", perform, methods=methods), WebSocketRoute("/{path:path}", talk)])
    app.add_middleware(SessionMiddleware, manager=manager, **options)
    return app


class Clock:
    """The time of a worker and of its store, which only the test moves."""

    def __init__(self) -> None:
        self._seconds = 1_000.0

    def local(self) -> float:
        """Return local seconds."""
        return self._seconds

    def server(self) -> int:
        """Return the store's milliseconds since 1970."""
        return 1_700_000_000_000 + round(self._seconds * 1000)

    def advance(self, *, seconds: float = 0, minutes: float = 0) -> None:
        """Let time pass."""
        self._seconds += seconds + 60 * minutes


def in_memory(store: MemoryStore | None = None, *, clock: Clock | None = None, **options: Any) -> SessionManager:
    """Return a worker on a memory store, which several may share."""
    clocks: dict[str, Any] = {} if clock is None else {"clock": clock.local}
    if store is None:
        store = MemoryStore() if clock is None else MemoryStore(clock=clock.server)
    return SessionManager(store, secret_key=KEY, **clocks, **options)


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.NOTSET) -> list[logging.LogRecord]:
    """Return what we logged from a level on; other packages, whose threads and leftovers may speak up, are left out."""
    return [r for r in caplog.records if r.name.partition(".")[0] == "evsession" and r.levelno >= level]


@asynccontextmanager
async def two_workers(url: str, **options: Any) -> AsyncIterator[tuple[SessionManager, SessionManager]]:
    """Start two workers on one server."""
    one, two = (SessionManager.from_url(url, secret_key=KEY, namespace="shop", **options) for _ in range(2))
    async with one, two:
        yield one, two


async def types_of(manager: SessionManager, session_id: str) -> list[str]:
    """Return the types of a session's events."""
    return [event.type for event in await manager.audit.history(session_id)]


Heard = Callable[[int], list[tuple[bytes, bytes]]]
"""Waits for so many messages in all, and returns every channel and payload so far."""


@contextmanager
def tap(server: Server) -> Iterator[Heard]:
    """Listen to every channel of a server, as anybody there can."""
    client: Any = redis.Redis.from_url(server.url)
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.psubscribe("*")
    listener.get_message(ignore_subscribe_messages=False, timeout=60)
    found: list[tuple[bytes, bytes]] = []

    def heard(count: int) -> list[tuple[bytes, bytes]]:
        give_up_at = time.monotonic() + 60
        while len(found) < count:
            message = listener.get_message(timeout=0.1)
            if message is not None:
                found.append((message["channel"], message["data"]))
            assert message is not None or time.monotonic() < give_up_at, f"{len(found)} of {count} messages came"
        return found

    try:
        yield heard
    finally:
        listener.close()
        client.close()


def dump(server: Server) -> dict[bytes, bytes]:
    """Return all that a server holds: each key with its content as text."""
    reading = {
        b"string": lambda key: server.cli("GET", key),
        b"stream": lambda key: server.cli("XRANGE", key, "-", "+"),
        b"zset": lambda key: server.cli("ZRANGE", key, 0, -1, "WITHSCORES"),
        b"hash": lambda key: server.cli("HGETALL", key),
    }
    keys = server.cli("KEYS", "*")
    return {key: b"".join(_flat(reading[server.cli("TYPE", key)](key))) for key in keys}


def _flat(reply: Any) -> Iterator[bytes]:
    if isinstance(reply, list):
        for part in reply:
            yield from _flat(part)
    else:
        yield reply if isinstance(reply, bytes) else str(reply).encode()
