"""A client that calls an ASGI application directly: no sockets, no parsing, nothing timed but the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

HEADERS: Final = (
    (b"host", b"shop.example"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"connection", b"keep-alive"),
)
"""What a browser sends, and no cookie but the session's: others would cost the peers that parse them all."""


class WrongAnswer(Exception):
    """A measured application did not do what was asked; a figure for it would be worthless."""


@dataclass(slots=True)
class Browser:
    """One client of one application: keeps its session cookie, and checks each answer."""

    app: ASGIApp
    cookie: str | None
    value: bytes = b""
    body: bytes = b""
    status: int = 0
    _sent: list[Message] = field(default_factory=list)

    def scope(self, path: str) -> Scope:
        """Return the scope of a GET request, with the cookie if there is one."""
        headers = list(HEADERS)
        if self.value:
            headers.append((b"cookie", f"{self.cookie}=".encode() + self.value))
        return {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": headers, "server": ("127.0.0.1", 8000), "client": ("203.0.113.7", 54321), "state": {},
        }  # fmt: skip

    async def get(self, path: str, expected: str | None = None) -> int:
        """Ask once; return the nanoseconds that the application took.

        Raises:
            WrongAnswer: the status is not 200, or the body is not `expected`.
        """
        scope, self._sent = self.scope(path), []
        start = perf_counter_ns()
        await self.app(scope, _receive, self._take)
        took = perf_counter_ns() - start
        self._read(path, expected)
        return took

    async def _take(self, message: Message) -> None:
        self._sent.append(message)

    def _read(self, path: str, expected: str | None) -> None:
        first, *rest = self._sent
        self.status = first["status"]
        self.body = b"".join(message.get("body", b"") for message in rest)
        if self.status != 200 or (expected is not None and self.body != expected.encode()):
            msg = f"{path} answered {self.status} {self.body!r} instead of 200 {expected!r}"
            raise WrongAnswer(msg)
        for name, value in first["headers"]:
            if name.lower() == b"set-cookie" and self.cookie is not None:
                self._keep(value)

    def _keep(self, header: bytes) -> None:
        name, _, value = header.partition(b";")[0].partition(b"=")
        if name.decode() == self.cookie:
            self.value = value


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[None]:
    """Run an application's lifespan around a block.

    Raises:
        WrongAnswer: the application did not start.
    """
    told: asyncio.Queue[Message] = asyncio.Queue()
    said: asyncio.Queue[Message] = asyncio.Queue()
    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    task = asyncio.create_task(_lives(app, scope, told, said))
    await _step(told, said, "startup")
    try:
        yield
    finally:
        await _step(told, said, "shutdown")
        await task


async def _lives(app: ASGIApp, scope: Any, told: asyncio.Queue[Message], said: asyncio.Queue[Message]) -> None:
    try:
        await app(scope, told.get, said.put)
    finally:
        await said.put({"type": "lifespan.over"})


async def _step(told: asyncio.Queue[Message], said: asyncio.Queue[Message], step: str) -> None:
    await told.put({"type": f"lifespan.{step}"})
    answer = await said.get()
    if answer["type"] != f"lifespan.{step}.complete":
        msg = f"the application did not complete its {step}: {answer}"
        raise WrongAnswer(msg)
