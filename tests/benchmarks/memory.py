"""Bytes in Redis for each session, everything included: what the server says it uses, before and after."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.browser import Browser, running
from tests.benchmarks.inprocess import Progress
from tests.benchmarks.peers import evsession
from tests.servers import Binary, Server

EVENTS: Final = (2, 10)
"""After how many events of each session it is looked at: a login and a write, a login and nine."""

AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a session takes on one server after so many events, in bytes."""

    server: str
    events: int
    bytes: float


async def weigh(binary: Binary, sessions: int, progress: Progress) -> list[Footprint]:
    """Make sessions through the real middleware on a fresh server, and return what one takes."""
    with Server.start(binary, tcp=True) as server:
        app, name = evsession(server.url).app, f"{binary.name.partition('-')[0].capitalize()} {binary.version}"
        async with running(app):
            await Browser(app, "session").get("/flat", "begun")
            empty, found, browsers = _used(server), [], [Browser(app, "session") for _ in range(sessions)]
            await _all(browsers, "/flat", "begun")
            for events in range(2, EVENTS[-1] + 1):
                progress(f"memory, {name}", events, EVENTS[-1])
                await _all(browsers, "/write", str(events - 1))
                if events in EVENTS:
                    found.append(Footprint(name, events, (_used(server) - empty) / sessions))
        return found


async def _all(browsers: list[Browser], path: str, expected: str) -> None:
    for start in range(0, len(browsers), AT_ONCE):
        await asyncio.gather(*(browser.get(path, expected) for browser in browsers[start : start + AT_ONCE]))


def _used(server: Server) -> int:
    lines = server.cli("INFO", "memory").decode().splitlines()
    return int(next(line for line in lines if line.startswith("used_memory:")).partition(":")[2])
