"""Time that only the test moves, for a worker and its store alike."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from weakref import WeakSet

from evsession.manager import SessionManager
from evsession.stores.memory import MemoryStore

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
BEGIN: Final = datetime(2030, 1, 1, tzinfo=UTC)
"""When a test begins: any fixed time will do, so that a failure repeats."""


class FakeClock:
    """The time of managers made by `memory_manager`; it stands still until `advance`."""

    def __init__(self, now: datetime = BEGIN) -> None:
        self._now_ms = round((now - EPOCH) / timedelta(milliseconds=1))
        self._managers: WeakSet[SessionManager] = WeakSet()

    @property
    def now(self) -> datetime:
        """The time as events have it: aware, UTC, exact to the millisecond."""
        return EPOCH + timedelta(milliseconds=self._now_ms)

    def seconds(self) -> float:
        """Return the local seconds of a worker, for `SessionManager(clock=)`."""
        return self._now_ms / 1000

    def milliseconds(self) -> int:
        """Return the milliseconds since 1970 of a store, for `MemoryStore(clock=)`."""
        return self._now_ms

    def sweep_for(self, manager: SessionManager) -> None:
        """Have `advance` sweep for this manager too; its worker and its store must go by this clock."""
        self._managers.add(manager)

    def advance(
        self, by: timedelta = timedelta(0), *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Let time pass, and end what has expired meanwhile, as the sweeper does; in plain tests and async ones.

        Functions given to `on_ended` have run when it returns.

        Raises:
            ValueError: time would go back; nothing was changed.
        """
        step = by + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if step < timedelta(0):
            msg = f"time does not go back by {-step}; make a FakeClock(now=…) for a test that begins earlier"
            raise ValueError(msg)
        self._now_ms += round(step / timedelta(milliseconds=1))
        # In a thread of its own, which has no event loop yet, whatever runs in this one.
        with ThreadPoolExecutor(1) as elsewhere:
            for manager in tuple(self._managers):
                elsewhere.submit(asyncio.run, _sweep(manager)).result()


async def _sweep(manager: SessionManager) -> None:
    while await manager.sweep():
        pass
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


def memory_manager(clock: FakeClock | None = None, **options: Any) -> SessionManager:
    """Return a manager whose sessions live in memory, on a clock that the test moves.

    `options` are those of `SessionManager`.

    Raises:
        ConfigError: a setting is wrong; the text names the fix.
    """
    clock = clock or FakeClock()
    manager = SessionManager(MemoryStore(clock=clock.milliseconds), clock=clock.seconds, **options)
    clock.sweep_for(manager)
    return manager
