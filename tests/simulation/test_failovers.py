"""Revocations beside failovers, and nothing else: what a worker has applied stays in force on it, whatever is lost.

`EVSESSION_SIMULATIONS=10000` runs as many schedules of them.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

import pytest

from tests.simulation.model import Violation
from tests.simulation.network import TIMEOUT, Weather
from tests.simulation.scheduler import seeded
from tests.simulation.world import Browser, World

SCHEDULES: Final = int(os.environ.get("EVSESSION_SIMULATIONS", "200"))


class Failovers(World):
    """Sessions that every worker has in memory, then revocations whose replies are lost, and failovers meanwhile.

    They come while a caller that had no answer waits, so that it tries once more what others know to be lost.
    """

    async def _live(self) -> None:
        for worker in self.workers:
            await self._as(worker, worker.manager.start())
        for browser in self.browsers:
            await self._request(browser, self.workers[0], "login")
            for worker in self.workers:
                await self._request(browser, worker, "read")
        self.network.weather = self._weather()
        tasks = [self.loop.create_task(self._revoke_some()) for _ in range(self.chance.choice((1, 1, 2, 3)))]
        tasks += [self.loop.create_task(self._fail_over()) for _ in range(self.chance.choice((1, 2)))]
        tasks += [self.loop.create_task(self._sign_in()) for _ in range(self.chance.choice((0, 1)))]
        for task in tasks:
            await task
        await asyncio.gather(*self._revoking)
        await self._settle()
        self._check_end()

    def _weather(self) -> Weather:
        chance = self.chance
        return Weather(
            slow=chance.choice((0.1, 0.3)),
            lost_reply=chance.choice((0.3, 0.6)),
            lost_read=chance.choice((0.0, 0.5)),
            lost_message=0.5,
        )

    async def _revoke_some(self) -> None:
        await asyncio.sleep(0.02 * self.chance.random())
        self._revoke(self.chance.choice(self.workers), None)

    async def _fail_over(self) -> None:
        await asyncio.sleep(TIMEOUT * (0.5 + 0.6 * self.chance.random()))
        self.primary.fail_over(self.chance.choice((1, 1, 1, 2, 3)), self.chance.choice((0, 0, -300)))

    async def _sign_in(self) -> None:
        await asyncio.sleep(TIMEOUT * self.chance.random())
        browser = Browser(self.browsers[0].user)
        self.browsers.append(browser)
        await self._request(browser, self.chance.choice(self.workers), "login")


def revoke_and_fail_over(seed: int) -> None:
    """Run the schedule of a seed.

    Raises:
        Violation: a promise was broken.
    """
    with seeded(seed) as chance:
        Failovers(chance).run()


@pytest.mark.timeout(0 if "EVSESSION_SIMULATIONS" in os.environ else 120)
def test_what_was_revoked_stays_revoked_through_failovers() -> None:
    """Lost, tried once more, issued again, or several of these at once."""
    for seed in range(SCHEDULES):
        try:
            revoke_and_fail_over(seed)
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}")
