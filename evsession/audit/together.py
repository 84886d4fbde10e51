"""Awaiting several things at once, under asyncio and trio alike."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TypeVar, cast

import anyio

from evsession.errors import EvsessionError

T = TypeVar("T")
_Error = EvsessionError | OSError


async def settled(work: Iterable[Awaitable[T]]) -> list[T | EvsessionError]:
    """Return what each brought, or the error of evsession that it raised, in their order."""
    return cast("list[T | EvsessionError]", await _settled(work, (EvsessionError,)))


async def _settled(work: Iterable[Awaitable[T]], kinds: tuple[type[_Error], ...]) -> list[T | _Error]:
    waiting = list(work)
    results: dict[int, T | _Error] = {}

    async def settle(number: int, one: Awaitable[T]) -> None:
        try:
            results[number] = await one
        except kinds as error:
            results[number] = error

    if len(waiting) == 1:
        await settle(0, waiting[0])
    else:
        async with anyio.create_task_group() as group:
            for number, one in enumerate(waiting):
                group.start_soon(settle, number, one)
    return [results[number] for number in range(len(waiting))]


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """Return what each brought, in their order; raise the first error, or `OSError`, once all are done."""
    found: list[T] = []
    for result in await _settled(work, (EvsessionError, OSError)):
        if isinstance(result, EvsessionError | OSError):
            raise result
        found.append(result)
    return found
