"""Logins beside revocations, and nothing else: thousands of interleavings, each following from its seed.

`EVSESSION_SIMULATIONS=10000` runs as many of them.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

import pytest

from tests.simulation.model import Violation
from tests.simulation.network import CALM, Weather
from tests.simulation.scheduler import seeded
from tests.simulation.world import STALENESS, Browser, World

INTERLEAVINGS: Final = int(os.environ.get("EVSESSION_SIMULATIONS", "500"))
AT_ONCE: Final = 0.02
"""Seconds within which all happens: a few round trips."""


class Logins(World):
    """Some logins and some revocations of their users, all within a few round trips."""

    async def _live(self) -> None:
        for worker in self.workers:
            await self._as(worker, worker.manager.start())
        self.network.weather = Weather.drawn(self.chance)
        tasks = [self.loop.create_task(self._sign_in()) for _ in range(self.chance.choice((1, 2, 3)))]
        tasks += [self.loop.create_task(self._revoke_some()) for _ in range(self.chance.choice((1, 1, 2)))]
        for task in tasks:
            await task
        await asyncio.gather(*self._revoking)
        self.network.weather = CALM
        await asyncio.sleep(2 * STALENESS)
        for worker in self.workers:
            for browser in self.browsers:
                await self._request(browser, worker, "read")
        self._check_end()

    async def _sign_in(self) -> None:
        await asyncio.sleep(AT_ONCE * self.chance.random())
        browser = Browser("42")
        self.browsers.append(browser)
        await self._request(browser, self.chance.choice(self.workers), "login")

    async def _revoke_some(self) -> None:
        await asyncio.sleep(AT_ONCE * self.chance.random())
        self._revoke(self.chance.choice(self.workers), None)


@pytest.mark.timeout(0 if "EVSESSION_SIMULATIONS" in os.environ else 120)
def test_a_login_never_outlives_a_revocation_that_came_after_it_began() -> None:
    """Whatever arrives when, and whatever is lost; some of them live, some die."""
    ends = {"alive": 0, "dead": 0}
    for seed in range(INTERLEAVINGS):
        with seeded(seed) as chance:
            world = Logins(chance)
            try:
                world.run()
            except Violation as violation:
                pytest.fail(f"seed {seed}: {violation}")
        for sid in world.primary.truths:
            stored = world.primary.truth(sid).stored
            if stored is not None and stored.snapshot.user_id is not None:
                control = world.workers[0].manager.worker.cache.control
                ends["dead" if stored.snapshot.ended or control.is_dead(stored.snapshot) else "alive"] += 1
    assert min(ends.values()) > INTERLEAVINGS // 20, ends
