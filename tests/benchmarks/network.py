"""Requests over real sockets: each peer in a uvicorn process of its own, one client for all, connections kept alive."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Final, Self

from tests.benchmarks.browser import HEADERS, WrongAnswer
from tests.benchmarks.figures import BARE, LIMIT, Series
from tests.benchmarks.inprocess import Progress
from tests.benchmarks.peers import PEERS

CLIENTS: Final = 100
ENDS_WITHIN: Final = 10.0
"""Seconds that a server may take to end once its input has."""


@dataclass(slots=True)
class Client:
    """One connection with a cookie of its own."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    cookie: bytes = b""

    @classmethod
    async def open(cls, address: tuple[str, int]) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection(*address))

    async def get(self, path: str, expected: str) -> int:
        """Ask once; return the nanoseconds until the whole answer was there.

        Raises:
            WrongAnswer: the status is not 200, or the body is not `expected`.
        """
        lines = [b"GET %b HTTP/1.1" % path.encode(), *(b"%b: %b" % header for header in HEADERS)]
        if self.cookie:
            lines.append(b"cookie: session=" + self.cookie)
        request = b"\r\n".join(lines) + b"\r\n\r\n"
        start = perf_counter_ns()
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        body = await self.reader.readexactly(_length(head))
        took = perf_counter_ns() - start
        if not head.startswith(b"HTTP/1.1 200 ") or body != expected.encode():
            msg = f"{path} answered {head.partition(b' ')[2][:3]!r} {body!r} instead of 200 {expected!r}"
            raise WrongAnswer(msg)
        self._keep(head)
        return took

    def _keep(self, head: bytes) -> None:
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"set-cookie" and value.strip().startswith(b"session="):
                self.cookie = value.strip().partition(b";")[0].removeprefix(b"session=")


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    msg = "an answer without a length"
    raise WrongAnswer(msg)


@dataclass(slots=True)
class Site:
    """One peer behind its own server, with its clients."""

    name: str
    clients: list[Client] = field(default_factory=list)
    visits: int = 0

    def expected(self, answer: str) -> str:
        """Return what a right answer is; bare Starlette says the same to all."""
        return "alice" if self.name == BARE else answer

    async def begin(self, address: tuple[str, int]) -> None:
        """Connect all clients and sign them in."""
        self.clients = [await Client.open(address) for _ in range(CLIENTS)]
        for client in self.clients:
            await client.get("/flat", self.expected("begun"))


async def ignored(site: Site, requests: int) -> float:
    """Measure requests that never look at the session, one after the other."""
    return await _one_by_one(site, "/ignore", requests)


async def read(site: Site, requests: int) -> float:
    """Measure reads, one after the other."""
    return await _one_by_one(site, "/read", requests)


async def write(site: Site, requests: int) -> float:
    """Measure writes, one after the other."""
    site.visits += 1
    expected = site.expected(str(site.visits))
    return sum([await client.get("/write", expected) for client in site.clients]) / len(site.clients) / 1000


async def concurrent(site: Site, requests: int) -> float:
    """Measure one write of every client, all at once."""
    site.visits += 1
    expected, start = site.expected(str(site.visits)), perf_counter_ns()
    await asyncio.gather(*(client.get("/write", expected) for client in site.clients))
    return (perf_counter_ns() - start) / len(site.clients) / 1000


async def _one_by_one(site: Site, path: str, requests: int) -> float:
    took = 0
    for number in range(requests):
        took += await site.clients[number % len(site.clients)].get(path, "alice")
    return took / requests / 1000


CASES: Final[dict[str, Callable[[Site, int], Awaitable[float]]]] = {
    "session ignored": ignored, "cached read": read, "write alone": write, "write, 100 concurrent": concurrent,
}  # fmt: skip


async def measure(url: str, rounds: int, progress: Progress) -> list[Series]:
    """Measure all cases with all peers, each behind uvicorn, all on one Redis server."""
    names = [name for name in PEERS if name != LIMIT]
    with ExitStack() as stack:
        sites = [Site(name) for name in names]
        for site in sites:
            await site.begin(stack.enter_context(_served(site.name, url)))
        series = [await _interleaved(case, sites, rounds, progress) for case in CASES]
        for client in (client for site in sites for client in site.clients):
            client.writer.close()
            await client.writer.wait_closed()
    return series


async def _interleaved(case: str, sites: list[Site], rounds: int, progress: Progress) -> Series:
    times: dict[str, list[float]] = {site.name: [] for site in sites}
    for number in range(rounds + 1):
        progress(f"uvicorn: {case}", number, rounds)
        first = number % len(sites)
        for site in sites[first:] + sites[:first]:
            took = await CASES[case](site, CLIENTS)
            if number:  # the first round only warms up
                times[site.name].append(took)
    return Series(case, times)


@contextmanager
def _served(name: str, url: str) -> Iterator[tuple[str, int]]:
    """Run one peer in a process of its own; its clients may connect at once, and wait until it is ready."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2 * CLIENTS)
        descriptor, address = listener.fileno(), listener.getsockname()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.serve", name, url, str(descriptor)],
            stdin=subprocess.PIPE, pass_fds=[descriptor],
        )  # fmt: skip
    try:
        yield address
    finally:
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
