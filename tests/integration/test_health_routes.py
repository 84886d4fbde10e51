"""Routes for orchestrators: alive whatever happens, ready only with proof."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
from fastapi import FastAPI

from evsession import CachePolicy, SessionManager, StorePolicy
from evsession.fastapi import health_routes
from tests.conftest import until
from tests.integration.apps import KEY, in_memory
from tests.servers import Server, find_binaries

SECOND = timedelta(seconds=1)


@asynccontextmanager
async def asking(manager: SessionManager, *, tell_problems: bool = False) -> AsyncIterator[httpx.AsyncClient]:
    """Ask an app that has nothing but these routes."""
    app = FastAPI()
    app.include_router(health_routes(manager, tell_problems=tell_problems))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
        yield client


async def test_a_worker_in_memory_is_alive_and_ready() -> None:
    """And no cache keeps that."""
    async with asking(in_memory()) as client:
        live, ready = await client.get("/health/live"), await client.get("/health/ready")
        assert (live.status_code, live.json()) == (200, {"alive": True})
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "problems": []})
        assert live.headers["cache-control"] == ready.headers["cache-control"] == "no-store"


async def test_an_outage_makes_it_unready_and_lets_it_live() -> None:
    """A restart would mend nothing. Why it is unready is told only where that was asked for; then it is ready again."""
    quick = StorePolicy(command_timeout=SECOND / 4, connect_timeout=SECOND / 4, probe_every=SECOND / 20)
    with Server.start(next(iter(find_binaries().values()))) as server:
        options: dict[str, Any] = {"secret_key": KEY, "patience": quick, "cache": CachePolicy(max_staleness=SECOND / 2)}
        async with SessionManager.from_url(server.url, **options) as manager, asking(manager) as client:

            async def answers(status: int) -> bool:
                return (await client.get("/health/ready")).status_code == status

            await until(lambda: answers(200), "the worker to be ready")
            server.kill()
            await until(lambda: answers(503), "the worker to be unready")
            assert (await client.get("/health/ready")).json() == {"ready": False, "problems": []}
            async with asking(manager, tell_problems=True) as insider:
                assert (await insider.get("/health/ready")).json()["problems"]
            assert (await client.get("/health/live")).status_code == 200
            server.restart(empty=True)
            await until(lambda: answers(200), "the worker to be ready again")
