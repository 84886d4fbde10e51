"""Steady reads and open sockets of many users in one process, with a note of each: who was served, and when."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message

from tests.chaos.apps import COOKIE, Browser


@dataclass(slots=True)
class Seat:
    """One session of a user, in the generation that the user's last login began."""

    user: str
    generation: int
    cookie: str


class Readers:
    """Reads the sessions of a test at random, and holds a socket open for some of them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._seats: list[Seat] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.served: dict[str, float] = {}
        """For each ``user generation`` when the last read began that was served as that user."""
        self.reads = 0
        self.sockets: dict[str, list[asyncio.Task[float]]] = {}

    def start(self, readers: int) -> None:
        """Begin to read."""
        self._tasks = [asyncio.create_task(self._read()) for _ in range(readers)]

    async def stop(self) -> None:
        """Read no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def seat(self, user: str, generation: int, cookies: list[str]) -> None:
        """Read these sessions from now on, beside those of the user that should be dead: the newest of these only."""
        old = generation - 1
        self._seats = [seat for seat in self._seats if seat.user != user or seat.generation == old]
        self._seats += [Seat(user, generation, cookie) for cookie in cookies]

    async def _read(self) -> None:
        while True:
            if self._seats:
                seat = random.choice(self._seats)
                began = time.monotonic()
                answer = await Browser(self._app, seat.cookie).get("/read")
                self.reads += 1
                if answer.status == 200 and answer.held.get("me") == seat.user:
                    key = f"{seat.user} {seat.generation}"
                    self.served[key] = max(began, self.served.get(key, 0.0))
            await asyncio.sleep(0.002)

    async def connect(self, user: str, cookie: str) -> None:
        """Hold a WebSocket open until somebody closes it."""
        accepted = asyncio.Event()
        self.sockets.setdefault(user, []).append(asyncio.create_task(self._hold(cookie, accepted)))
        await accepted.wait()

    async def _hold(self, cookie: str, accepted: asyncio.Event) -> float:
        closed: list[float] = []
        hung_up = asyncio.Event()
        incoming: list[Message] = [{"type": "websocket.connect"}]

        async def receive() -> Message:
            if incoming:
                return incoming.pop()
            await hung_up.wait()
            return {"type": "websocket.disconnect", "code": 4401}

        async def send(message: Message) -> None:
            if message["type"] == "websocket.accept":
                accepted.set()
            elif message["type"] == "websocket.close":
                closed.append(time.monotonic())
                accepted.set()
                hung_up.set()

        scope: dict[str, Any] = {
            "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.4"}, "scheme": "ws", "path": "/socket",
            "raw_path": b"/socket", "query_string": b"", "subprotocols": [], "client": ("127.0.0.1", 1), "state": {},
            "headers": [(b"host", b"localhost"), (b"cookie", f"{COOKIE.name}={cookie}".encode())],
        }  # fmt: skip
        await self._app(scope, receive, send)
        return closed[0] if closed else 0.0

    async def closed(self, user: str) -> list[float]:
        """Return when each socket of a user was closed, 0 for one that ended otherwise; wait for all of them."""
        return await asyncio.gather(*self.sockets.pop(user, []))

    def open(self) -> int:
        """Return how many sockets are open."""
        return sum(not task.done() for tasks in self.sockets.values() for task in tasks)
