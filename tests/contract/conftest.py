"""The stores under contract: memory, fakeredis, and every server of the matrix."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import cache, partial
from typing import Any, Final, Protocol

import pytest

from evsession.config import StorePolicy
from evsession.store import Store
from evsession.stores.memory import MemoryStore
from evsession.stores.redis import RedisStore
from evsession.testing.conformance.connecting import Connect, Worker, connecting
from tests.conftest import ServerOf
from tests.servers import NAMES, FakeRedis

REMOTE: Final = ("fakeredis", *NAMES)
PATIENT: Final = StorePolicy(
    command_timeout=timedelta(seconds=10), connect_timeout=timedelta(seconds=10), commit_timeout=timedelta(seconds=20)
)
"""Nothing here is about time, and the machine may be busy."""

LASTING: Final = (
    b":log",
    b":latest",
    b":held",
    b":again",
    b":exp",
    b":ended",
    b":end",
    b":birth",
    b":trimmed",
    b":workers",
    b":meta}",
    b":archive",
    b":turn:archive",
)
"""The keys that may live for ever; every other one has a time to live."""


class Remote(Protocol):
    """A server, real or not."""

    @property
    def url(self) -> str: ...

    def cli(self, *args: str | bytes | int) -> Any: ...


RemoteOf = Callable[[str], Remote]


@pytest.fixture(scope="session")
def remote_of(server_of: ServerOf) -> Iterator[RemoteOf]:
    """Return the session's one server of a name; fakeredis is one of them."""
    with ExitStack() as stack:

        @cache
        def fake() -> FakeRedis:
            started = FakeRedis()
            stack.callback(started.stop)
            return started

        yield lambda name: fake() if name == "fakeredis" else server_of(name)


@pytest.fixture
def namespace() -> str:
    """A namespace for each test, so that none needs an empty server."""
    return f"contract-{secrets.token_hex(4)}"


@pytest.fixture(params=REMOTE)
def remote(request: pytest.FixtureRequest, remote_of: RemoteOf, namespace: str) -> Iterator[Remote]:
    """A server on which the test must leave no key for ever but the documented ones."""
    server = remote_of(request.param)
    yield server
    _check_keys_left(server, namespace)


def _check_keys_left(server: Remote, namespace: str) -> None:
    keys = server.cli("KEYS", f"{{{namespace}:*")
    immortal = [key for key in keys if server.cli("PTTL", key) == -1 and not key.endswith(LASTING)]
    assert not immortal, f"keys without a time to live: {immortal}"
    if keys:
        server.cli("DEL", *keys)


def _on(server: Remote, namespace: str, *, shards: int) -> RedisStore:
    return RedisStore(server.url, namespace=namespace, shards=shards, policy=PATIENT)


ConnectRedis = Callable[[str], Awaitable[Worker[RedisStore]]]


@pytest.fixture(params=("memory", *REMOTE))
async def connect(request: pytest.FixtureRequest, remote_of: RemoteOf, namespace: str) -> AsyncIterator[Connect]:
    """A function that opens the store under test for one more worker."""
    server = None if request.param == "memory" else remote_of(request.param)
    memory = MemoryStore(shards=2)

    def open_store() -> Store:
        return memory if server is None else _on(server, namespace, shards=2)

    async with connecting(open_store) as connect:
        yield connect
    if server is not None:
        _check_keys_left(server, namespace)


@pytest.fixture
async def store(connect: Connect) -> Store:
    """The store under test, open for one worker."""
    return (await connect("worker-1")).store


@pytest.fixture
def forget_snapshot(store: Store) -> Callable[[str], Awaitable[None]]:
    """A function that lets a session's snapshot lapse, as minutes after its end."""

    async def forget(sid: str) -> None:
        if isinstance(store, RedisStore):
            assert await store._connected().call(b"DEL", store.keys(sid[:2]).snapshot(sid)) == 1
        elif isinstance(store, MemoryStore):
            store._shard(sid[:2]).lapses.set(sid, 0)

    return forget


@pytest.fixture
async def connect_redis(remote: Remote, namespace: str) -> AsyncIterator[ConnectRedis]:
    """A function that opens a `RedisStore` for one more worker."""
    async with connecting(partial(_on, remote, namespace, shards=1)) as connect:
        yield connect
