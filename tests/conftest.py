"""What every test may ask for: servers by name, a url for each store of the contract, and waiting without hoping."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Final

import anyio
import pytest
from hypothesis import HealthCheck, settings

from evsession.config import StorePolicy
from tests.servers import NAMES, FakeRedis, Server, find_binaries, is_promised

# How long an example takes says how busy the machine is, and nothing of what the test is about.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

PATIENT: Final = {
    "command_timeout": timedelta(seconds=10),
    "connect_timeout": timedelta(seconds=10),
    "commit_timeout": timedelta(seconds=20),
}
"""The time-outs of a test that is not about time: a server that a busy machine keeps waiting is not away."""

ServerOf = Callable[[str], Server]


async def until(condition: Callable[[], object | Awaitable[object]], what: str, timeout: float = 60.0) -> None:
    """Return once the condition holds, asked every 5 ms; fail the test after `timeout` seconds, naming `what`.

    The condition may be a coroutine function. It is asked once more after the deadline, so that a machine that stood
    still in between is no failure.
    """
    deadline = anyio.current_time() + timeout
    while True:
        is_last = anyio.current_time() > deadline
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        if is_last:
            pytest.fail(f"gave up after {timeout} s waiting for: {what}")
        await anyio.sleep(0.005)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio; `parametrize("anyio_backend", ["trio"])` runs one on another loop."""
    return "asyncio"


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    """Have every `StorePolicy` be `PATIENT` in what it leaves open; a module about the defaults has its own fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StorePolicy.__init__, "__kwdefaults__", (StorePolicy.__init__.__kwdefaults__ or {}) | PATIENT)
        yield


@pytest.fixture(scope="session")
def server_of() -> Iterator[ServerOf]:
    """Return the session's one server of a name in the matrix, running and empty; start it when first asked for.

    Without its program the test is skipped, or fails where CI is "true" and the dev extra should have brought it.
    """
    started: dict[str, Server] = {}

    def running_and_empty(name: str) -> Server:
        if name not in started:
            started[name] = _start(name)
        return _refreshed(started[name])

    yield running_and_empty
    for server in started.values():
        server.stop()


@pytest.fixture
def server(server_of: ServerOf) -> Server:
    """Return the default server, running and empty. A test that changes its configuration starts its own instead."""
    return server_of(NAMES[0])


@pytest.fixture(params=NAMES)
def any_server(request: pytest.FixtureRequest, server_of: ServerOf) -> Server:
    """Return each server of the matrix in turn, running and empty."""
    return server_of(request.param)


@pytest.fixture(params=["fakeredis", *NAMES])
def contract_url(request: pytest.FixtureRequest, server_of: ServerOf) -> Iterator[str]:
    """Return the url of each store that the contract suite must hold for, empty: fakeredis, then the real servers.

    fakeredis (2.40) lacks INFO, CONFIG GET, WAIT, ROLE, CLUSTER and EVAL_RO, in Lua also cmsgpack, struct, bit and
    redis.sha1hex; what else differs stands at `FakeRedis`. A contract test that needs one of them belongs to
    `any_server`.
    """
    if request.param != "fakeredis":
        yield server_of(request.param).url
        return
    fake = FakeRedis()
    yield fake.url
    fake.stop()


def _start(name: str) -> Server:
    binary = find_binaries().get(name)
    if binary is not None:
        return Server.start(binary)
    if os.environ.get("CI") == "true" and is_promised(name):
        pytest.fail(f"{name} is missing; install it: pip install -e '.[dev]'")
    pytest.skip(f"{name} is not on this machine")


def _refreshed(server: Server) -> Server:
    """Undo what an earlier test may have left: a paused or dead process, data, scripts."""
    if not server.is_alive:
        server.restart(empty=True)
        return server
    server.resume()
    server.cli("FLUSHALL")
    server.cli("SCRIPT", "FLUSH")
    return server
