"""An event loop in virtual time whose order a seed decides: real asyncio code runs on it unmodified and repeatably.

Whatever is ready runs in random order; time moves only when nothing is ready, to the next timer, at once. Handles
belong to owners (a worker, or the network) by a context variable, and an owner can stand still while all others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any, Final

OWNER: ContextVar[str] = ContextVar("owner", default="network")
"""Whose code a handle runs; tasks and callbacks hand it on to all that they start."""

TOO_MANY: Final = 200_000
"""Steps after which a schedule counts as one that never ends.  Source: ordinary ones take about 2,000."""


class Deadlock(Exception):
    """Something is awaited that nothing will ever bring."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """One schedule: `time` is virtual seconds since its start."""

    def __init__(self, chance: random.Random) -> None:
        self.now = 0.0
        self.steps = 0
        self.failures: list[BaseException] = []
        self.watch: Callable[[], None] = lambda: None
        """Called whenever time has moved, before anything else happens."""
        self._chance = chance
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._paused: dict[str, float] = {}
        self._pausing: dict[str, float] = {}
        self._timer_count = 0
        self._is_running = False
        self._is_closed = False

    # ── what the simulation asks for ─────────────────────────────────────────────────────────────────────────────────

    def pause(self, owner: str, seconds: float) -> None:
        """Let nothing of an owner run for a while, once it has nothing left to do; time and the others go on."""
        self._pausing[owner] = self.now + seconds

    def is_paused(self, owner: str) -> bool:
        """Tell whether an owner stands still."""
        return self._paused.get(owner, 0.0) > self.now

    def context_of(self, owner: str) -> Context:
        """Return a context in which code runs as its owner's."""
        context = copy_context()
        context.run(OWNER.set, owner)
        return context

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end, then cancel all that is left.

        Raises:
            Deadlock: nothing can happen any more, or far too much did.
        """
        events._set_running_loop(self)
        self._is_running = True
        try:
            task = self.create_task(main)
            while not task.done():
                self._step()
                if self.failures:
                    raise self.failures[0]
            task.result()
            self._cancel_rest()
        except BaseException:
            with contextlib.suppress(Deadlock):  # the failure counts, not what it left behind
                self._cancel_rest()
            raise
        finally:
            self._is_running = False
            self._is_closed = True
            events._set_running_loop(None)

    def _cancel_rest(self) -> None:
        self._paused.clear()
        self._pausing.clear()
        while tasks := [task for task in asyncio.all_tasks(self) if not task.done()]:
            for task in sorted(tasks, key=lambda task: task.get_name()):
                task.cancel()
            while not all(task.done() for task in tasks):
                self._step()

    def _step(self) -> None:
        if not self._ready:
            self._move_time()
        self.steps += 1
        if self.steps > TOO_MANY:
            msg = f"no end after {TOO_MANY} steps"
            raise Deadlock(msg)
        ready = self._ready
        at = int(self._chance.random() * len(ready))
        ready[at], ready[-1] = ready[-1], ready[at]
        handle = ready.pop()
        if handle.cancelled():
            return
        until = self._paused.get(handle._context.get(OWNER, "network"), 0.0)  # type: ignore[attr-defined]
        if until > self.now:
            self._queue(until, handle)
        else:
            handle._run()

    def _move_time(self) -> None:
        timers = self._timers
        self._paused.update(self._pausing)
        self._pausing.clear()
        while timers and timers[0][2].cancelled():
            heappop(timers)
        if not timers:
            raise Deadlock
        self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            self._ready.append(heappop(timers)[2])
        self.watch()

    def _queue(self, when: float, handle: asyncio.Handle) -> None:
        self._timer_count += 1
        heappush(self._timers, (when, self._timer_count, handle))

    # ── what asyncio asks for ────────────────────────────────────────────────────────────────────────────────────────

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override]  # Any is all that a list of ready handles needs to know
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._queue(when, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave a cancelled timer where it is; it is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def get_task_factory(self) -> None:
        """Return none: tasks are plain ones. anyio's task groups ask."""

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, **options)
        task.add_done_callback(self._note_failure)
        return task

    def _note_failure(self, task: asyncio.Task[Any]) -> None:
        # Nobody awaits background work, so what it dies of would go unseen.
        if task.get_name().startswith("evsession-") and not task.cancelled() and (error := task.exception()):
            self.failures.append(error)

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return self._is_closed

    def get_debug(self) -> bool:
        return False

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.failures.append(error if isinstance(error, BaseException) else RuntimeError(context["message"]))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[random.Random]:
    """Make all randomness of this process follow from a seed, for as long as one schedule runs."""
    chance = random.Random(seed)
    content = random.Random(~seed)
    state, urandom = random.getstate(), os.urandom
    random.seed(seed)
    os.urandom = content.randbytes
    random._urandom = content.randbytes  # type: ignore[attr-defined]
    try:
        yield chance
    finally:
        os.urandom = urandom
        random._urandom = urandom  # type: ignore[attr-defined]
        random.setstate(state)
