"""Telling an application that sessions have ended, once for each: `SessionManager.on_ended`."""

from __future__ import annotations

import inspect
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio

from evsession.events import Cause, Ended, Event
from evsession.home import home

OnEnded = Callable[[str, Cause], Any]
"""Gets the id of a session and why it ended; may be async."""

REMEMBERED: Final = 16_384
"""How many ended sessions are remembered, so that none is told of twice: by its revocation, and by its `ended` event.

Source: about 2 MB; the event follows a revocation within seconds, and a mass logout ends a few thousand a second.
"""

log = logging.getLogger("evsession.connections")


@dataclass(slots=True, eq=False)
class _Run:
    life: anyio.CancelScope | None = None
    """Made in its own task: whoever calls `tell` may be in no task, and anyio then knows of no event loop."""


class Endings:
    """The application's own clean-up, one session after the other, in the background."""

    def __init__(self) -> None:
        self._callbacks: list[OnEnded] = []
        self._told: OrderedDict[str, None] = OrderedDict()
        self._waiting: deque[tuple[str, Cause]] = deque()
        self._run: _Run | None = None

    def add(self, callback: OnEnded) -> None:
        """Have one more function called."""
        self._callbacks.append(callback)

    def heed(self, sid: str, event: Event | None) -> None:
        """Tell of a session if this event of its log ends it."""
        if isinstance(event, Ended):
            self.tell(sid, event.cause)

    def tell(self, sid: str, cause: Cause) -> None:
        """Tell that a session has ended, unless that was told before. Neither waits nor raises."""
        if not self._callbacks or sid in self._told:
            return
        self._told[sid] = None
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        self._waiting.append((sid, cause))
        if self._run is None:
            self._run = _Run()
            home().spawn(self._tell_all(self._run), "endings")

    def stop(self) -> None:
        """Give up what was not told yet."""
        self._waiting.clear()
        run, self._run = self._run, None
        if run is not None and run.life is not None:
            run.life.cancel()

    async def _tell_all(self, run: _Run) -> None:
        try:
            with anyio.CancelScope() as run.life:
                while self._waiting and self._run is run:
                    sid, cause = self._waiting.popleft()
                    for callback in tuple(self._callbacks):
                        await _call(callback, sid, cause)
        finally:
            if self._run is run:
                self._run = None


async def _call(callback: OnEnded, sid: str, cause: Cause) -> None:
    try:
        result = callback(sid, cause)
        if inspect.isawaitable(result):
            await result
    except Exception:  # the application's own code: whatever it raises must not keep others from being told
        log.exception("on_ended: the application's function failed for session %s", sid)
