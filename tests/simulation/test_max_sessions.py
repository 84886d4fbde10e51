"""Logins of one user at once, who may have only so many sessions: interleavings, each following from its seed.

`EVSESSION_SIMULATIONS=10000` runs as many of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest

from evsession.config import SessionPolicy
from evsession.index import Looked, UserIndex
from evsession.store import Entrance, Indexed
from evsession.tokens import parse
from tests.simulation.model import Violation, breaks
from tests.simulation.network import CALM, Weather
from tests.simulation.scheduler import seeded
from tests.simulation.world import KEYS, STALENESS, Browser, World

INTERLEAVINGS: Final = int(os.environ.get("EVSESSION_SIMULATIONS", "200"))
AT_ONCE: Final = 0.02
"""Seconds within which all happens: a few round trips."""


class Crowd(World):
    """More logins of one user than may live, all within a few round trips, on all workers."""

    def _policy(self) -> SessionPolicy:
        return SessionPolicy(
            max_sessions=self.chance.choice((1, 2)), on_limit=self.chance.choice(("evict_oldest", "reject"))
        )

    async def _live(self) -> None:
        self.browsers.clear()
        self.statuses = Counter[int]()
        for worker in self.workers:
            await self._as(worker, worker.manager.start())
        self.network.weather = Weather.drawn(self.chance)
        tasks = [self.loop.create_task(self._sign_in()) for _ in range(self.chance.choice((2, 3, 4)))]
        for task in tasks:
            await task
        self.network.weather = CALM
        await asyncio.sleep(2 * STALENESS)
        self._check_limit()
        self._check_end()

    async def _sign_in(self) -> None:
        await asyncio.sleep(AT_ONCE * self.chance.random())
        browser = Browser("42")
        self.browsers.append(browser)
        self.statuses[await self._request(browser, self.chance.choice(self.workers), "login")] += 1

    def _check_limit(self) -> None:
        """See that no more live than may be, of those whose login was answered: others have a token of nobody."""
        living = [browser for browser in self.browsers if self._lives(browser)]
        if len(living) > (self.policy.max_sessions or 0):
            self._fail(f"{len(living)} sessions live under {self.policy.on_limit} {self.policy.max_sessions}")

    def _lives(self, browser: Browser) -> bool:
        ticket = parse(KEYS, "cookie", "s", browser.cookie)
        stored = None if ticket is None else self.primary.truth(ticket.sid).stored
        return stored is not None and stored.snapshot.ended is None and stored.snapshot.user_id == "42"


def crowd(seed: int) -> Counter[int]:
    """Run the schedule of a seed; return how many logins had which status.

    Raises:
        Violation: more sessions live than may be.
    """
    logging.disable(logging.CRITICAL)
    try:
        with seeded(seed) as chance:
            world = Crowd(chance)
            world.run()
            return world.statuses
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.timeout(0 if "EVSESSION_SIMULATIONS" in os.environ else 120)
def test_no_more_sessions_live_than_may_be() -> None:
    """Whoever comes when, on whichever worker, and whatever is lost; and most who sign in are answered."""
    statuses = Counter[int]()
    for seed in range(INTERLEAVINGS):
        try:
            statuses += crowd(seed)
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}")
    assert statuses[200] > statuses.total() / 3, statuses


async def _nobody_looks_after_the_commit(self: UserIndex, entrance: Entrance, index: Indexed, *limit: Any) -> None:
    """Trust what was found before."""


async def _whoever_is_not_there_is_gone(self: UserIndex, user: str, looked: Looked, now: int) -> bool:
    """Forget that the commit of a login which has entered may be under way."""
    return True


RULES: Final[dict[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "a_login_looks_once_more_after_its_commit": lambda patch: patch.setattr(
        UserIndex, "_keep_limit", _nobody_looks_after_the_commit
    ),
    "a_login_counts_those_that_are_under_way": lambda patch: patch.setattr(
        UserIndex, "_is_gone", _whoever_is_not_there_is_gone
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_without_the_rule_too_many_live(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real code with one rule switched off is caught; with it, the same schedule is clean."""
    with monkeypatch.context() as patch:
        RULES[name](patch)
        seed = next((seed for seed in range(INTERLEAVINGS) if breaks(crowd, seed)), None)
    assert seed is not None, f"{name} is missed by all of {INTERLEAVINGS} seeds"
    assert not breaks(crowd, seed)
