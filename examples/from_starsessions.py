"""An app that had starsessions, with its imports changed: `uvicorn examples.from_starsessions:app`.

Set `REDIS_URL=redis://…` and `EVSESSION_SECRET_KEY`, and the sessions are shared, logged and revocable.
"""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from evsession.compat.starsessions import (
    InMemoryStore,
    SessionAutoloadMiddleware,
    SessionMiddleware,
    get_session_remaining_seconds,
    load_session,
    regenerate_session_id,
)
from evsession.compat.starsessions.stores.redis import RedisStore


async def login(request: Request) -> Response:
    """Sign in, after the password was checked."""
    await load_session(request)
    request.session["user_id"] = request.path_params["user"]
    regenerate_session_id(request)
    return Response(status_code=204)


async def add(request: Request) -> Response:
    """Fill the cart; under /cart the session is loaded by itself."""
    request.session.setdefault("cart", []).append(request.path_params["item"])
    return JSONResponse({**request.session, "seconds": get_session_remaining_seconds(request)})


async def logout(request: Request) -> Response:
    """Sign out."""
    await load_session(request)
    request.session.clear()
    return Response(status_code=204)


url = os.environ.get("REDIS_URL")
app = Starlette(
    routes=[
        Route("/login/{user}", login, methods=["POST"]),
        Route("/cart/{item}", add, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
    ]
)
app.add_middleware(SessionAutoloadMiddleware, paths=["/cart"])
app.add_middleware(
    SessionMiddleware,
    store=RedisStore(url) if url else InMemoryStore(),
    lifetime=3600,
    rolling=True,
    cookie_https_only=False,
)
