"""Visitors that read and write all the time, and everything that they must never see."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from types import TracebackType
from typing import Self

from starlette.types import ASGIApp

from tests.chaos.apps import Answer, Browser
from tests.conftest import until
from tests.lateness import Lateness


class Visitor:
    """One person: signs in, then writes and reads in turn; signs in again when the session is gone."""

    def __init__(self, app: ASGIApp, name: str, lateness: Lateness) -> None:
        self.name = name
        self.browser = Browser(app)
        self._lateness = lateness
        self.statuses: Counter[int] = Counter()
        self.problems: list[str] = []
        self.longest = 0.0
        self.in_a_row = 0
        """Answers of 200 since the last other one, sign-ins not counted."""
        self.logins = 0
        self.lost = 0
        """Reads that lacked what an earlier answer of 200 had promised."""
        self._written = 0
        self._kept = 0

    async def come_and_go(self) -> None:
        """Visit until cancelled."""
        while True:
            await self._visit()
            await asyncio.sleep(0.01)

    async def _visit(self) -> None:
        if self.browser.cookie is None:
            self._written = self._kept = 0
            answer = await self._ask(f"/login/{self.name}")
            self.logins += answer.status == 200
            return
        self._written += 1
        answer = await self._ask(f"/set/n/{self._written}")
        is_kept = answer.status == 200 and b"set-cookie" in answer.headers
        self._kept = self._written if is_kept else self._kept
        answer = await self._ask("/read")
        if answer.status == 200:
            self._check(answer)

    async def _ask(self, path: str) -> Answer:
        began, late = time.monotonic(), self._lateness.seconds
        answer = await self.browser.get(path)
        self.longest = max(self.longest, time.monotonic() - began - (self._lateness.seconds - late))
        self.statuses[answer.status] += 1
        self.in_a_row = self.in_a_row + 1 if answer.status == 200 else 0
        if answer.status not in (200, 503):
            self.problems.append(f"{path}: {answer.status}")
        if answer.status == 503 and answer.headers.get(b"retry-after") != b"1":
            self.problems.append(f"{path}: a 503 without Retry-After: {answer.headers}")
        return answer

    def _check(self, answer: Answer) -> None:
        if "me" not in answer.held:
            self.browser.cookie = None
            self.in_a_row = 0
        elif answer.held.get("me") != self.name:
            self.problems.append(f"{self.name} got {answer.held}")
        elif answer.held.get("n", 0) < self._kept:
            self.lost += 1


class Traffic:
    """Visitors of one application, in the background of a block."""

    def __init__(self, app: ASGIApp, size: int = 8) -> None:
        self._lateness = Lateness()
        self.visitors = [Visitor(app, f"visitor{number}", self._lateness) for number in range(size)]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._lateness.__aenter__()
        self._tasks = [asyncio.create_task(visitor.come_and_go()) for visitor in self.visitors]
        await self.flows()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._lateness.__aexit__()
        if kind is None:
            assert [result for result in results if not isinstance(result, asyncio.CancelledError)] == []

    async def flows(self) -> None:
        """Return once every visitor has had ten good answers in a row from now on; fail if one of them crashed."""
        for visitor in self.visitors:
            visitor.in_a_row = 0
        await until(self._all_are_well, "every visitor is served again")

    def _all_are_well(self) -> bool:
        assert not any(task.done() for task in self._tasks), [task for task in self._tasks if task.done()]
        return all(visitor.in_a_row >= 10 for visitor in self.visitors)

    async def is_refused(self) -> None:
        """Return once every visitor has been answered 503 from now on."""
        before = [visitor.statuses[503] for visitor in self.visitors]
        now = [0]

        def all_refused() -> bool:
            now[:] = [visitor.statuses[503] for visitor in self.visitors]
            return all(later > earlier for later, earlier in zip(now, before, strict=True))

        await until(all_refused, "every visitor is refused with 503")

    @property
    def problems(self) -> list[str]:
        """What nobody may ever see."""
        return [problem for visitor in self.visitors for problem in visitor.problems]

    @property
    def longest(self) -> float:
        """Seconds that the slowest request took, what this event loop was late left out."""
        return max(visitor.longest for visitor in self.visitors)

    @property
    def lost(self) -> int:
        """How many reads lacked an acknowledged write."""
        return sum(visitor.lost for visitor in self.visitors)

    @property
    def statuses(self) -> Counter[int]:
        """How often each status was answered."""
        return sum((visitor.statuses for visitor in self.visitors), Counter())
