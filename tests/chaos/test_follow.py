"""Whoever follows the log misses nothing: neither in a storm of writes, nor when the server dies or fails over."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from evsession import RecordedEvent, SessionEnded, SessionManager, StoreUnavailable
from evsession.audit import Follower
from tests.chaos.apps import manager_of
from tests.chaos.pair import pair_of_servers
from tests.conftest import until
from tests.servers import NAMES, Server, find_binaries

WRITERS = 12
POLL = timedelta(milliseconds=10)
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


@dataclass
class Storm:
    """Writers that never stop, and one who follows them and goes on from its own cursor again and again."""

    manager: SessionManager
    reader: SessionManager
    written: int = 0
    followed: list[RecordedEvent] = field(default_factory=list)
    rewinds: int = 0

    async def write(self, number: int) -> None:
        """Begin sessions, change them, end some, whatever the server is doing."""
        while True:
            try:
                session = await self.manager.create(user_id=number)
                for n in range(8):
                    await self.manager.update(session.id, partial(dict.update, n=n, by=number))
                    self.written += 1
                if number % 3 == 0:
                    await self.manager.revoke(session.id)
            except (StoreUnavailable, SessionEnded):
                await asyncio.sleep(0.01)

    async def follow(self) -> None:
        """Take up to 200 events from one follower, then go on with a new one from the cursor that it left."""
        cursor = "start"
        while True:
            follower = self.reader.audit.follow(since=cursor, poll_every=POLL)
            await self._take(follower)
            cursor = follower.cursor

    async def _take(self, follower: Follower) -> None:
        for _ in range(200):
            self.followed.append(await anext(follower))
            self.rewinds = max(self.rewinds, follower.rewinds)

    async def more(self, count: int = 300) -> None:
        """Wait until so many more events were written and followed."""
        written, followed = self.written + count, len(self.followed) + count
        await until(lambda: self.written >= written and len(self.followed) >= followed, "the storm goes on")


@asynccontextmanager
async def storm(url: str) -> AsyncIterator[Storm]:
    """Let a storm rage for the length of the block; then let the follower read to the end."""
    async with manager_of(url) as manager, manager_of(url) as reader:
        found = Storm(manager, reader)
        writers = [asyncio.create_task(found.write(number)) for number in range(WRITERS)]
        follower = asyncio.create_task(found.follow())
        try:
            yield found
            await _cancelled(writers)
            log = [event async for event in reader.audit.replay()]
            await until(lambda: log[-1].cursor in {event.cursor for event in found.followed[-500:]}, "all was read")
        finally:
            await _cancelled([*writers, follower])
        check(log, found.followed)


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def check(log: Sequence[RecordedEvent], followed: Sequence[RecordedEvent]) -> None:
    """Assert that each event of the log came, those of a session in their order and without holes.

    Where the follower went back, they come again in the same order, so no step leads forward by more than one.
    """
    standing = {event.cursor for event in log}
    assert standing <= {event.cursor for event in followed}
    last: defaultdict[str, int] = defaultdict(int)
    for event in followed:
        if event.cursor in standing:
            assert event.version <= last[event.session_id] + 1, event
            last[event.session_id] = event.version


async def test_a_server_that_dies_and_comes_back_costs_a_follower_nothing() -> None:
    """Killed three times in a storm of writes: every event that stands in the log arrives, in order."""
    with Server.start(find_binaries()[NAMES[0]], config=DURABLE) as server:
        async with storm(server.url) as raging:
            for _ in range(3):
                await raging.more()
                server.kill()
                server.restart(empty=False)
            await raging.more()


async def test_a_failover_costs_a_follower_nothing() -> None:
    """It goes back to where the new history leaves the old one, and reads on there; what was lost stays lost."""
    async with pair_of_servers() as pair, storm(pair.address.url) as raging:
        await raging.more()
        await pair.forget_what_follows()
        await raging.more(150)
        pair.fail_over()
        await raging.more()
        assert raging.rewinds > 0
