"""Processes that prove parts beside each other, because one Python process has one processor."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Final, Self

import anyio
from anyio.abc import ByteReceiveStream, Process

from evsession.audit.part import Terms, part_of
from evsession.audit.report import Report
from evsession.audit.spill import SIZE, Spill, framed
from evsession.audit.together import together
from evsession.errors import ProcessDied

_CODE: Final = "import sys; sys.path[:] = sys.argv[1:]; from evsession.audit.part import main; main()"
"""Where this process imports from the new one does too; `multiprocessing` would run the application's main module."""

_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ConnectionError)


def processors() -> int:
    """Return how many processors this process may use."""
    with suppress(AttributeError):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Processes:
    """So many processes that prove parts. They are gone when the block is left, however it is left.

    They are sessions of their own, so that a Ctrl-C reaches only the one that started them, which ends them.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._stack = AsyncExitStack()
        self._running: list[Process] = []

    async def __aenter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EVSESSION_")}
        command = [sys.executable, "-c", _CODE, *sys.path]
        async with AsyncExitStack() as stack:
            for _ in range(self._jobs):
                process = await anyio.open_process(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, env=environment,
                    start_new_session=True,
                )  # fmt: skip
                await stack.enter_async_context(process)
                stack.callback(_kill, process)
                self._running.append(process)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def prove(self, spill: Spill, terms: Terms, told: Callable[[int], None]) -> list[Report]:
        """Return what is wrong with each part, in their order; `told` of bytes that were handed over.

        Raises:
            ProcessDied: a process was killed, or could not run.
        """
        waiting = deque(range(spill.parts))
        reports: dict[int, Report] = {}

        async def work(process: Process) -> None:
            while waiting:
                part = waiting.popleft()
                try:
                    reports[part] = await _proved(process, spill, part, terms, told)
                except _GONE as error:
                    waiting.clear()
                    with anyio.move_on_after(5):  # it may have closed its pipes without having ended
                        await process.wait()
                    raise ProcessDied(process.returncode or 0) from error

        await together(map(work, self._running))
        return [reports[part] for part in sorted(reports)]


async def _proved(process: Process, spill: Spill, part: int, terms: Terms, told: Callable[[int], None]) -> Report:
    source, sink = process.stdin, process.stdout
    if source is None or sink is None:
        raise anyio.ClosedResourceError
    await source.send(framed(terms.plain()))
    for chunk in spill.chunks(part):
        await source.send(chunk)
        told(len(chunk))
    await source.send(framed(()))
    return part_of(await _answer(sink))


async def _answer(sink: ByteReceiveStream) -> Any:
    """Return the one value that comes; nothing may come after it."""
    received = await sink.receive()
    while len(received) < SIZE.size or len(received) < SIZE.size + SIZE.unpack_from(received)[0]:
        received += await sink.receive()
    return marshal.loads(received[SIZE.size :])


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
