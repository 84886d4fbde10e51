"""How the suite gets at the store under test: from one fixture of yours, `open_store`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, NamedTuple, TypeVar

import anyio
import pytest

from evsession.store import Store
from evsession.testing.conformance.builder import Heard

S = TypeVar("S", bound=Store)
S_co = TypeVar("S_co", bound=Store, covariant=True)


class Worker(NamedTuple, Generic[S_co]):
    """One worker's store, open, and what its feed brought."""

    store: S_co
    heard: Heard


Connect = Callable[[str], Awaitable[Worker[Store]]]


@asynccontextmanager
async def connecting(open_store: Callable[[], S]) -> AsyncIterator[Callable[[str], Awaitable[Worker[S]]]]:
    """Give a function that opens the store of one more worker; all are closed at the end."""
    stores = list[S]()

    async def open_for(worker: str) -> Worker[S]:
        store, heard = open_store(), Heard()
        await store.open(worker, 2_000, heard)
        stores.append(store)
        return Worker(store, heard)

    yield open_for
    for store in stores:
        await store.close()


@pytest.fixture
async def connect(open_store: Callable[[], Store]) -> AsyncIterator[Connect]:
    """A function that opens the store under test for one more worker."""
    async with connecting(open_store) as connect:
        yield connect


@pytest.fixture
async def store(connect: Connect) -> Store:
    """The store under test, open for one worker."""
    return (await connect("worker-1")).store


@pytest.fixture
def forget_snapshot() -> Callable[[str], Awaitable[None]]:
    """A function that lets a session's snapshot lapse, as minutes after its end; override it with your store's."""
    pytest.skip("this store does not say how to let a snapshot lapse: write a fixture forget_snapshot")


async def until(condition: Callable[[], object | Awaitable[object]], what: str, timeout: float = 20.0) -> None:
    """Return once the condition holds, asked every 5 ms and once after `timeout` seconds; else fail, naming `what`."""
    deadline = anyio.current_time() + timeout
    while True:
        is_last = anyio.current_time() > deadline
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        if is_last:
            pytest.fail(f"gave up after {timeout} s waiting for: {what}")
        await anyio.sleep(0.005)
