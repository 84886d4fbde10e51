"""Routes for a page "my devices": see where one is signed in, sign out one, sign out all others."""

# FastAPI resolves the annotations of routes that are made in a function only if they are no strings.

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from math import ceil
from typing import Annotated, Final

from fastapi import APIRouter, Depends, HTTPException, Path, Response
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from evsession.device import describe
from evsession.errors import ConfigError, StoreUnavailable
from evsession.events import Actor
from evsession.fastapi.csrf import same_origin
from evsession.fastapi.dependencies import current_session, current_user_id
from evsession.fastapi.limiter import Limiter
from evsession.info import SessionInfo
from evsession.manager import SessionManager
from evsession.session import Session

PER_MINUTE: Final = 30
"""Requests of one user that one worker answers in a minute.  Source: a page that shows ten devices and ends each."""

_REASON: Final = "signed out from the list of devices"


class Device(BaseModel):
    """One place where the user is signed in. Times are on the server's clock."""

    id: str
    is_current: bool
    device: str | None
    address: str | None
    created_at: datetime | None
    last_seen: datetime | None
    expires_at: datetime | None


class SignedOut(BaseModel):
    """What became of it: `complete` once no worker would still answer."""

    complete: bool


class Refusal(BaseModel):
    """Why not, and what to do."""

    detail: str


def session_routes(
    manager: SessionManager, *, prefix: str = "/sessions", per_minute: int = PER_MINUTE, scope_key: str = "session"
) -> APIRouter:
    """Return the routes for ``app.include_router``; the manager is that of the app's own middleware with `scope_key`.

    - ``GET /sessions``: where the user is signed in, the latest login first.
    - ``POST /sessions/{id}/sign-out``: end one of them; 404 for what is none of the user's own.
    - ``POST /sessions/sign-out-others``: end all but this one, which gets a new token.

    All need a login. The latter two need to come from a page of this site: ``Sec-Fetch-Site: same-origin``, else an
    ``Origin`` of ours; what says neither is refused, unless it came with a bearer token. `per_minute` is what one user
    may ask of one worker.

    Raises:
        ConfigError: `per_minute` is less than one.
    """
    if per_minute < 1:
        msg = f"per_minute={per_minute} would refuse everybody; use a whole number from 1"
        raise ConfigError(msg)
    describe("")  # loads its rules now, and not while a request waits
    limited = Depends(_Limited(Limiter(per_minute, manager.clock), scope_key))
    is_ours = Depends(same_origin.of(scope_key))
    OurSession = Annotated[Session, Depends(current_session.of(scope_key))]  # noqa: N806 -- a type
    OurUserId = Annotated[str, Depends(current_user_id.of(scope_key))]  # noqa: N806 -- a type
    router = APIRouter(prefix=prefix, tags=["sessions"], dependencies=[limited], responses=_refusals(401, 429, 503))

    @router.get("")
    async def list_sessions(session: OurSession, user: OurUserId, response: Response) -> list[Device]:
        """List where the user is signed in."""
        response.headers["cache-control"] = "no-store"
        async with _told_of_outages():
            return [_device(info) for info in await manager.sessions_of(user, current=session)]

    @router.post("/sign-out-others", dependencies=[is_ours], responses=_refusals(403))
    async def sign_out_others(session: OurSession, user: OurUserId) -> SignedOut:
        """End all sessions of the user but this one, whose token is replaced."""
        async with _told_of_outages():
            receipt = await manager.revoke_user(user, reason=_REASON, actor=Actor.user(user), keep=session)
        return SignedOut(complete=receipt.complete)

    @router.post("/{session_id}/sign-out", dependencies=[is_ours], responses=_refusals(403, 404))
    async def sign_out(
        session_id: Annotated[str, Path(max_length=64)], session: OurSession, user: OurUserId
    ) -> SignedOut:
        """End one session of the user; this very one as by a logout."""
        async with _told_of_outages():
            if session_id == session.info.id:
                session.logout()
                await session.save()
                return SignedOut(complete=True)
            info = await manager.get(session_id)
            if info is None or info.user_id != user:
                raise HTTPException(404, "there is no such session of yours; it may have ended")
            receipt = await manager.revoke(session_id, reason=_REASON, actor=Actor.user(user))
        return SignedOut(complete=receipt.complete)

    return router


class _Limited:
    """Answers 429 to a user who asks too often."""

    def __init__(self, limiter: Limiter, scope_key: str) -> None:
        self._limiter = limiter
        self._user_id = current_user_id.of(scope_key)

    async def __call__(self, connection: HTTPConnection) -> None:
        seconds = ceil(self._limiter.wait(await self._user_id(connection)))
        if seconds:
            advice = f"too many requests; try again in {seconds} seconds"
            raise HTTPException(429, advice, {"Retry-After": str(seconds)})


@asynccontextmanager
async def _told_of_outages() -> AsyncIterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        seconds = ceil(error.retry_after.total_seconds())
        advice = "the session store cannot be reached; it is not known what took effect, so look again"
        raise HTTPException(503, advice, {"Retry-After": str(seconds)}) from error


def _refusals(*statuses: int) -> dict[int | str, dict[str, type[BaseModel]]]:
    return {status: {"model": Refusal} for status in statuses}


def _device(info: SessionInfo) -> Device:
    return Device(
        id=info.id or "",
        is_current=info.is_current,
        device=info.device,
        address=info.address,
        created_at=info.created_at,
        last_seen=info.last_seen,
        expires_at=info.expires_at,
    )
