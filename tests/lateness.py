"""How late this event loop, and a server, are: what a busy machine adds to whatever a test times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Self
from urllib.parse import urlsplit

from tests.servers import Server

EVERY: Final = 0.01
"""Seconds between two looks."""

NOTICEABLE: Final = 0.005
"""Seconds that a look may be late on an idle machine."""


class Lateness:
    """Seconds by which timers, and replies to a server's PING, came late since the block began: `async with`.

    Looks run all the time, so no wait within the block can have been held up longer than `seconds` grew meanwhile.
    """

    def __init__(self, server: Server | None = None) -> None:
        self._server = server
        self._late = 0.0
        self._due: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def seconds(self) -> float:
        """All of it so far, with what is overdue at this moment."""
        now = asyncio.get_running_loop().time()
        return self._late + sum(_noticeable(now - due) for due in self._due.values())

    async def __aenter__(self) -> Self:
        self._tasks.append(asyncio.create_task(self._look("timer", lambda: asyncio.sleep(0))))
        if self._server is not None:
            ping, self._close = await _connected(self._server)
            self._tasks.append(asyncio.create_task(self._look("server", ping)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._close()

    async def _look(self, what: str, ask: Callable[[], Awaitable[object]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._due[what] = loop.time() + EVERY
            await asyncio.sleep(EVERY)
            await ask()
            self._late += _noticeable(loop.time() - self._due[what])


def _noticeable(late: float) -> float:
    return late if late > NOTICEABLE else 0.0


async def _connected(server: Server) -> tuple[Callable[[], Awaitable[bytes]], Callable[[], None]]:
    address = urlsplit(server.url)
    if address.scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(address.path)
    else:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)

    async def ping() -> bytes:
        writer.write(b"PING\r\n")
        return await reader.readline()

    return ping, writer.transport.abort
