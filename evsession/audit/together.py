"""Awaiting several things at once, under asyncio and trio alike."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TypeVar

import anyio

from evsession.errors import EvsessionError

T = TypeVar("T")


async def settled(work: Iterable[Awaitable[T]]) -> list[T | EvsessionError]:
    """Return what each brought, or the error of evsession that it raised, in their order."""
    waiting = list(work)
    results: dict[int, T | EvsessionError] = {}

    async def settle(number: int, one: Awaitable[T]) -> None:
        try:
            results[number] = await one
        except EvsessionError as error:
            results[number] = error

    if len(waiting) == 1:
        await settle(0, waiting[0])
    else:
        async with anyio.create_task_group() as group:
            for number, one in enumerate(waiting):
                group.start_soon(settle, number, one)
    return [results[number] for number in range(len(waiting))]


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """Return what each brought, in their order; raise the first error once all are done."""
    found: list[T] = []
    for result in await settled(work):
        if isinstance(result, EvsessionError):
            raise result
        found.append(result)
    return found
