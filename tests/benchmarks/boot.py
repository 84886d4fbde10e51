"""How long a worker takes that starts beside a control log of 300,000 revocations, and what it then holds in memory.

``python -m tests.benchmarks.boot``; `make bench` runs it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import tracemalloc
from dataclasses import dataclass
from typing import Final

from evsession import SessionManager
from tests.servers import Server, find_binaries

SECRET: Final = "a secret key of the benchmarks, 32 characters and more"

FILL: Final = """
local bytes = function(number, count)
  local packed = ''
  for _ = 1, count do packed, number = string.char(number % 256) .. packed, math.floor(number / 256) end
  return packed
end
local held = {}
for n = ARGV[1], ARGV[2] do
  local name, event = 'user:' .. string.format('%06.0f', n), bytes(n, 16)
  local id = string.format('%.0f-0', 1700000000000 + n)
  redis.call('XADD', KEYS[1], id, 't', 'named_revoked', 's', name, 'n', 1, 'p', '0-0', 'i', event, 'o', 0,
    'a', 'admin joe', 'c', '{}', 'd', '{"name":"' .. name .. '"}', 'k', '0000', 'm', event)
  redis.call('HSET', KEYS[2], name, id)
  held[#held + 1] = bytes(1700000000000 + n, 6) .. bytes(0, 4) .. event
  redis.call('SET', KEYS[4], id .. ' ' .. event)
end
redis.call('APPEND', KEYS[3], table.concat(held))
"""
"""Writes what as many calls of `revoke_user` leave."""


@dataclass(frozen=True, slots=True)
class Boot:
    """Seconds until a worker is ready, and MB that its view of the control log takes then."""

    revocations: int
    seconds: float
    megabytes: float


def fill(server: Server, namespace: str, revocations: int) -> None:
    """Write as many revocations into the control log of a namespace."""
    keys = [f"{{{namespace}:ctl}}:{name}" for name in ("log", "latest", "held", "end")]
    for first in range(1, revocations + 1, 10_000):
        last = min(first + 9_999, revocations)
        server.cli("EVAL", FILL, len(keys), *keys, first, last)


async def measure(server: Server, revocations: int = 300_000) -> Boot:
    """Start one worker for the time it takes, and one for its memory."""
    fill(server, "boot", revocations)
    seconds = min([await _start(server) for _ in range(3)])
    tracemalloc.start()
    manager = SessionManager.from_url(server.url, secret_key=SECRET, namespace="boot")
    try:
        before = tracemalloc.get_traced_memory()[0]
        async with manager:
            megabytes = (tracemalloc.get_traced_memory()[0] - before) / 1e6
    finally:
        tracemalloc.stop()
    return Boot(revocations, seconds, megabytes)


async def _start(server: Server) -> float:
    manager = SessionManager.from_url(server.url, secret_key=SECRET, namespace="boot")
    began = time.perf_counter()
    async with manager:
        return time.perf_counter() - began


LIMITS: Final = {"seconds": 1.0, "megabytes": 50.0}


def main() -> None:
    """Measure, and say whether the limits are kept."""
    logging.disable(logging.WARNING)
    with Server.start(find_binaries()["valkey-9.1"]) as server:
        boot = asyncio.run(measure(server))
    for what, limit in LIMITS.items():
        figure = getattr(boot, what)
        mark = "reached" if figure <= limit else "MISSED "
        print(f"{mark}  start beside {boot.revocations:,} revocations: {figure:.3g} {what} (limit {limit:g})")


if __name__ == "__main__":
    main()
