"""Worker processes of a test, driven over their pipes."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class RemoteNode:
    """One process of `tests.chaos.node`; its methods are called by name."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def answer(self) -> Any:
        """Return the next answer; what the process wrote before it died is on the standard error."""
        line = await self.process.stdout.readline() if self.process.stdout else b""
        assert line, "the worker process ended early"
        return json.loads(line)

    async def call(self, name: str, /, **arguments: Any) -> Any:
        """Run one command in the process and return its answer."""
        if self.process.stdin is not None:
            self.process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
        return await self.answer()


@asynccontextmanager
async def nodes(*settings: dict[str, Any]) -> AsyncIterator[list[RemoteNode]]:
    """Give one process for each of the settings, all started at once; they end with the block."""
    started = [await _start(one) for one in settings]
    try:
        for node in started:
            assert await node.answer() == "ready"
        yield started
    finally:
        for node in started:
            if node.process.stdin is not None:
                node.process.stdin.close()
        for node in started:
            try:
                async with asyncio.timeout(10):
                    await node.process.wait()
            except TimeoutError:
                node.process.kill()
                await node.process.wait()


async def _start(settings: dict[str, Any]) -> RemoteNode:
    command = (sys.executable, "-W", "error", "-m", "tests.chaos.node", json.dumps(settings))
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE, limit=2**24)
    return RemoteNode(process)
