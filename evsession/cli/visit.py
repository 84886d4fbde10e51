"""Who the demo's story is about: a person with a browser, somebody who steals the cookie, and what must hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection

from evsession.events import RecordedEvent

BOUND_MS: Final = 2_000
"""The default of `CachePolicy.max_staleness`, in which an ended session must be gone on every worker."""


class Broken(Exception):
    """A promise did not hold; the text says what was seen."""


def expect(holds: object, seen: object) -> None:
    """Raise unless something holds."""
    if not holds:
        raise Broken(str(seen))


@dataclass(frozen=True, slots=True)
class Shop:
    """Where the two workers answer, and how to get at the store that they share."""

    addresses: tuple[str, ...]
    url: str
    secret_key: str = field(repr=False)


@dataclass(slots=True)
class Window:
    """Another browser of the same person: its cookies, and the WebSocket of the page that it shows."""

    browser: httpx.AsyncClient
    worker: int
    socket: ClientConnection

    async def leave(self) -> None:
        """Close both."""
        await self.socket.close()
        await self.browser.aclose()


@dataclass(slots=True)
class Visit:
    """What the person in the story has and does: a browser with one cookie jar for both workers."""

    shop: Shop
    browser: httpx.AsyncClient
    thief: httpx.AsyncClient
    session_id: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    slow: asyncio.Task[httpx.Response] | None = None
    out_at: float = 0.0
    windows: Sequence[Window] = ()
    events: Sequence[RecordedEvent] = ()

    async def get(self, worker: int, path: str) -> Any:
        """Return the JSON that a worker answers."""
        return (await self.browser.get(self.shop.addresses[worker - 1] + path)).raise_for_status().json()

    async def post(self, worker: int, path: str, **body: Any) -> httpx.Response:
        """Return a worker's answer to a change."""
        return await self.browser.post(self.shop.addresses[worker - 1] + path, json=body)


Figures = dict[str, Any]
Act = Callable[[Visit], Awaitable[Figures]]


def new_client() -> httpx.AsyncClient:
    """Return a client for plain http on this machine, whatever proxies the environment names."""
    return httpx.AsyncClient(trust_env=False, verify=False, timeout=15)


def in_ms(seconds: float) -> float:
    """Return seconds as milliseconds with one decimal."""
    return round(seconds * 1000, 1)
