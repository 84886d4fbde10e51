"""Where a connection lives: its event loop, asyncio's or trio's, which others may call from their own threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol


class Home(Protocol):
    """One event loop."""

    def call(self, function: Callable[[], None]) -> None:
        """Call a function there: at once if that is here, else soon; not at all once the loop has ended."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run work in the background. It must end by itself or by a cancel scope of its own, and raise nothing."""


_running: Final[set[asyncio.Task[None]]] = set()
"""What asyncio itself refers to only weakly."""


class _Asyncio:
    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call(self, function: Callable[[], None]) -> None:
        try:
            is_here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_here = False
        if is_here:
            function()
        else:
            with suppress(RuntimeError):  # the loop is closed, and what lived there is gone
                self._loop.call_soon_threadsafe(function)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(work, name=f"evsession-{name}")
        _running.add(task)
        task.add_done_callback(_running.discard)


class _Trio:
    __slots__ = ("_token", "_trio")

    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()

    def call(self, function: Callable[[], None]) -> None:
        if self._trio.lowlevel.in_trio_run() and self._trio.lowlevel.current_trio_token() is self._token:
            function()
        else:
            with suppress(self._trio.RunFinishedError):
                self._token.run_sync_soon(function)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        async def run() -> None:
            await work

        self._trio.lowlevel.spawn_system_task(run, name=f"evsession-{name}")


def home() -> Home:
    """Return the event loop that runs here.

    Raises:
        RuntimeError: none does.
    """
    try:
        return _Asyncio(asyncio.get_running_loop())
    except RuntimeError:
        return _Trio()
