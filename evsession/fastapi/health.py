"""Routes that tell an orchestrator whether a worker lives, and whether it may get requests."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from evsession.manager import SessionManager


class Alive(BaseModel):
    """What a worker that answers at all says."""

    alive: bool = True


class Readiness(BaseModel):
    """Whether a worker can prove what it serves, and what keeps it from it, if that may be told."""

    ready: bool
    problems: list[str] = []


def health_routes(manager: SessionManager, *, prefix: str = "/health", tell_problems: bool = False) -> APIRouter:
    """Return ``GET /health/live`` and ``GET /health/ready``, for ``app.include_router``.

    `live` asks nobody: an outage of the store is no reason to restart a worker. `ready` is 503 while this worker cannot
    prove what it serves; `tell_problems` adds why, which names hosts and belongs to nobody outside.
    """
    router = APIRouter(prefix=prefix, tags=["health"])

    @router.get("/live")
    async def live(response: Response) -> Alive:
        """Say that this worker answers."""
        response.headers["cache-control"] = "no-store"
        return Alive()

    @router.get("/ready", responses={503: {"model": Readiness}})
    async def ready(response: Response) -> Readiness:
        """Say whether this worker can prove what it serves."""
        health = await manager.health()
        response.headers["cache-control"] = "no-store"
        response.status_code = 200 if health.ready else 503
        return Readiness(ready=health.ready, problems=list(health.problems) if tell_problems else [])

    return router
