"""A primary and a replica that take over from each other, behind one address."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.conftest import until
from tests.servers import NAMES, Proxy, Server, find_binaries

AT_ONCE = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}


class Address(Proxy):
    """One address for whichever server is the primary."""

    def lead_to(self, server: Server) -> None:
        """Send new connections to another server, and cut the old ones."""
        self._target = urlsplit(server.url)
        self.cut()


class Pair:
    """A primary and its replica behind one address."""

    def __init__(self, primary: Server, replica: Server, address: Address) -> None:
        self.primary = primary
        self.replica = replica
        self.address = address

    async def forget_what_follows(self) -> None:
        """Have the replica hold what the primary holds now, and nothing of what comes after."""
        await until(self._is_level, "the replica has caught up")
        self.replica.cli("REPLICAOF", "NO", "ONE")

    def _is_level(self) -> bool:
        here, there = _replication(self.primary), _replication(self.replica)
        is_up = there["master_link_status"] == "up"
        return is_up and here["master_repl_offset"] == there["slave_repl_offset"]

    def fail_over(self) -> float:
        """Kill the primary, promote the replica, and return the time of it."""
        self.primary.kill()
        self.address.lead_to(self.replica)
        return time.monotonic()


def _replication(server: Server) -> dict[str, str]:
    lines = server.cli("INFO", "replication").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


@asynccontextmanager
async def pair_of_servers() -> AsyncIterator[Pair]:
    """Give a primary and a replica that follows it, both empty."""
    binary = find_binaries()[NAMES[0]]
    with (
        Server.start(binary, tcp=True, config=AT_ONCE) as primary,
        Server.start(binary, tcp=True, config=AT_ONCE) as replica,
    ):
        replica.cli("REPLICAOF", "127.0.0.1", str(urlsplit(primary.url).port))
        async with Address(primary.url) as address:
            yield Pair(primary, replica, address)
