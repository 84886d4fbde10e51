"""Connections that stay open: WebSockets and requests run beside a test, which says what their clients say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Scope
from starlette.websockets import WebSocket

from evsession import SessionManager
from tests.conftest import until
from tests.integration.apps import Browser, app_of

Handler = Callable[[Any], Awaitable[Any]]
"""What the handler of a WebSocket does with it, or that of a request with its session."""


@dataclass
class Line:
    """An open connection to an application: what it sent, and how its handler ended."""

    sent: list[Message] = field(default_factory=list)
    error: BaseException | None = None
    is_over: bool = False
    _to_app: Any = None

    async def say(self, message: Message | str) -> None:
        """Send the application a message of the client, or a text of its WebSocket."""
        if isinstance(message, str):
            message = {"type": "websocket.receive", "text": message}
        await self._to_app.send(message)

    @property
    def last(self) -> Message:
        """What the application sent last."""
        return self.sent[-1]

    def types(self) -> list[str]:
        """Return the types of what the application sent."""
        return [message["type"].rpartition(".")[2] for message in self.sent]

    @property
    def texts(self) -> list[str]:
        """What came over the WebSocket."""
        return [message["text"] for message in self.sent if message["type"] == "websocket.send"]

    async def accepted(self) -> None:
        """Wait for the end of the handshake, or for the start of the response."""
        await until(lambda: self.sent, "the application answers")

    async def over(self) -> None:
        """Wait for the handler's end."""
        await until(lambda: self.is_over, "the handler ends")


@asynccontextmanager
async def line(app: ASGIApp, scope: Scope) -> AsyncIterator[Line]:
    """Run an application on a scope, beside the block."""
    to_app, from_client = anyio.create_memory_object_stream[Message](100)
    one = Line(_to_app=to_app)

    async def send(message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        one.sent.append(message)

    async def run() -> None:
        try:
            await app(scope, from_client.receive, send)
        except Exception as error:
            one.error = error
        one.is_over = True

    with to_app, from_client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            yield one
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def socket(manager: SessionManager, browser: Browser, talk: Handler, path: str = "/") -> AsyncIterator[Line]:
    """Open a WebSocket."""
    async with line(app_of(manager), browser.scope(path, "websocket", act=talk)) as one:
        await one.say({"type": "websocket.connect"})
        yield one


@asynccontextmanager
async def request(
    manager: SessionManager, browser: Browser, act: Handler, *, spec: str = "2.3", method: str = "GET"
) -> AsyncIterator[Line]:
    """Send the head of a request."""
    asgi = {"version": "3.0", "spec_version": spec}
    async with line(app_of(manager), browser.scope("/", act=act, asgi=asgi, method=method)) as one:
        yield one


async def signed_in(manager: SessionManager, user: str = "ann") -> Browser:
    """Return somebody who is signed in."""
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.login(user))
    return browser


async def echo(websocket: WebSocket) -> None:
    """Say everything again, and never end by itself."""
    await websocket.accept()
    while True:
        await websocket.send_text(await websocket.receive_text())


def ticking(media_type: str = "text/event-stream") -> Handler:
    """Return a handler that streams for ever."""

    async def act(session: Any) -> Response:
        return StreamingResponse(Ticks(), media_type=media_type)

    return act


class Ticks:
    """For ever. No generator, which Starlette would leave to the garbage collector when a send fails."""

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        await anyio.sleep(0.005)
        return "data: tick\n\n"


async def silent(session: Any) -> Response:
    """Stream, but have nothing to say."""

    async def events() -> AsyncIterator[str]:
        await anyio.sleep_forever()
        yield ""

    return StreamingResponse(events(), media_type="text/event-stream")
