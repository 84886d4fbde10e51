"""The applications that are compared: one Starlette app, each time under another session library.

Every app answers the same paths with the same handlers, and runs on plain Starlette, so that what they differ in is the
session library alone. `nested` and `flat` begin a session; the rest use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import pydantic
import redis.asyncio
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware as SignedCookies
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from evsession import CookiePolicy, SessionManager, SessionMiddleware, session_of
from tests.benchmarks.figures import BARE, LIMIT, OURS, SDK, SIGNED, STARSESSIONS
from tests.benchmarks.limit import LimitStudy

SECRET: Final = "a secret for measurements only, 32 characters or more"
LIFETIME: Final = timedelta(hours=12)

FLAT: Final[dict[str, Any]] = {
    "user_id": "42", "name": "alice", "role": "editor", "theme": "dark", "language": "en", "visits": 0
}  # fmt: skip


class Visitor(pydantic.BaseModel):
    """The six plain values as an object."""

    user_id: str
    name: str
    role: str
    theme: str = "light"
    language: str = "en"
    visits: int = 0


CART: Final[list[dict[str, Any]]] = [
    {"sku": f"book-{number}", "quantity": number, "tags": ["gift", "paper"]} for number in range(1, 6)
]
CART_QUANTITY: Final = sum(item["quantity"] for item in CART)

# ── the handlers ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def ignore(_: Request) -> Response:
    """Answer without a look at the session."""
    return PlainTextResponse("alice")


async def read(request: Request) -> Response:
    """Answer with the name in the session."""
    return PlainTextResponse(request.session["name"])


async def cart(request: Request) -> Response:
    """Answer with what the cart in the session adds up to."""
    return PlainTextResponse(str(sum(item["quantity"] for item in request.session["cart"])))


async def write(request: Request) -> Response:
    """Count a visit in the session."""
    request.session["visits"] = visits = request.session["visits"] + 1
    return PlainTextResponse(str(visits))


async def visits(request: Request) -> Response:
    """Answer with the visits counted so far."""
    return PlainTextResponse(str(request.session["visits"]))


async def typed(request: Request) -> Response:
    """Answer with the name in the session, read from an object of a class that checked it."""
    return PlainTextResponse(session_of(request).model(Visitor).name)


async def begin_flat(request: Request) -> Response:
    """Sign in, in the way that every library understands: by setting keys."""
    request.session.update(FLAT)
    return PlainTextResponse("begun")


async def begin_nested(request: Request) -> Response:
    """Sign in with a cart of five items."""
    request.session.update(FLAT | {"cart": CART})
    return PlainTextResponse("begun")


async def constant(_: Request) -> Response:
    """Answer as the others do, for the application that has no session."""
    return PlainTextResponse("alice")


HANDLERS: Final = {
    "/ignore": ignore, "/read": read, "/typed": read, "/cart": cart, "/write": write, "/visits": visits,
    "/flat": begin_flat, "/nested": begin_nested,
}  # fmt: skip


def application(**handlers: Any) -> Starlette:
    """Return a Starlette app with the routes of all peers."""
    routes = [Route(path, handlers.get(path[1:], handler)) for path, handler in HANDLERS.items()]
    return Starlette(routes=routes)


# ── the peers ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Peer:
    """An application to measure, the name of its session cookie, and the manager if it is this project's own."""

    name: str
    app: ASGIApp
    cookie: str | None
    manager: SessionManager | None = None

    @property
    def has_session(self) -> bool:
        """Whether requests have a session at all."""
        return self.cookie is not None


def bare(_: str) -> Peer:
    """Return plain Starlette, whose time is subtracted from all others'."""
    return Peer(BARE, application(**dict.fromkeys((path[1:] for path in HANDLERS), constant)), None)


def signed_cookie(_: str) -> Peer:
    """Return Starlette's own sessions, which keep everything in a signed cookie."""
    app = application()
    app.add_middleware(SignedCookies, secret_key=SECRET)
    return Peer(SIGNED, app, "session")


def starsessions(url: str) -> Peer:
    """Return starsessions on Redis, loading by itself as `request.session` expects."""
    from starsessions import SessionAutoloadMiddleware
    from starsessions import SessionMiddleware as StarsessionsMiddleware
    from starsessions.stores.redis import RedisStore

    app = application()
    store = RedisStore(connection=redis.asyncio.Redis.from_url(url))
    app.add_middleware(SessionAutoloadMiddleware)
    app.add_middleware(StarsessionsMiddleware, store=store, lifetime=LIFETIME, cookie_https_only=False)
    return Peer(STARSESSIONS, app, "session")


def redis_sdk(url: str) -> Peer:
    """Return fastapi-redis-sdk. All it needs of FastAPI is one attribute, so it is spared FastAPI's own cost."""
    os.environ |= {"REDIS_URL": url, "REDIS_SESSION_COOKIE_HTTPS_ONLY": "false"}
    from redis_fastapi import FastAPIRedis, get_settings

    get_settings.cache_clear()
    app: Any = application()
    app.dependency_overrides = {}
    FastAPIRedis(app).lifespan().sessions()
    return Peer(SDK, app, "session")


def evsession(url: str) -> Peer:
    """Return this project, with its defaults."""
    manager = SessionManager.from_url(url, secret_key=SECRET, namespace="bench", cookie=CookiePolicy.for_localhost())
    app = application(typed=typed)
    app.add_middleware(SessionMiddleware, manager=manager)
    return Peer(OURS, app, "session", manager)


def limit(_: str) -> Peer:
    """Return the shortest cached read that can be written by hand; it can begin a session and read it, no more."""
    app = application()
    app.add_middleware(LimitStudy)
    return Peer(LIMIT, app, "session")


PEERS: Final[dict[str, Callable[[str], Peer]]] = {
    BARE: bare, SIGNED: signed_cookie, STARSESSIONS: starsessions, SDK: redis_sdk, OURS: evsession, LIMIT: limit,
}  # fmt: skip
"""What makes each peer, given the URL of the server that all of them use."""
