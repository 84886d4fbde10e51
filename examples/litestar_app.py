"""Sessions for Litestar, as one of its middlewares: `uvicorn examples.litestar_app:app`."""

import os
from typing import Any, cast

from litestar import Litestar, Request, get, post
from litestar.exceptions import NotAuthorizedException
from litestar.middleware import DefineMiddleware
from litestar.params import FromPath

from evsession import CookiePolicy, Session, SessionManager, SessionMiddleware

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)


def session_in(request: Request[Any, Any, Any]) -> Session:
    """Return the session of a request, typed. Use it as it is: `request.set_session` would put another dict there."""
    session = cast(object, request.scope["session"])
    assert isinstance(session, Session)
    return session


@post("/login/{user:str}")
async def login(request: Request[Any, Any, Any], user: FromPath[str]) -> dict[str, str]:
    """Sign in, after the password was checked."""
    session_in(request).login(user)
    return {"hello": user}


@post("/cart/{item:str}")
async def add(request: Request[Any, Any, Any], item: FromPath[str]) -> list[str]:
    """Edit in place; the change is seen and committed before the answer leaves."""
    cart: list[str] = request.session.setdefault("cart", [])
    cart.append(item)
    return cart


@get("/me")
async def me(request: Request[Any, Any, Any]) -> str:
    """Say who is signed in."""
    user = session_in(request).info.user_id
    if user is None:
        raise NotAuthorizedException("not signed in")
    return user


@post("/logout")
async def logout(request: Request[Any, Any, Any]) -> None:
    """End the session, everywhere and for good."""
    session_in(request).logout()


sessions: Any = SessionMiddleware  # Litestar's types name every message, Starlette's say that it is a dict
app = Litestar(
    route_handlers=[login, add, me, logout],
    middleware=[DefineMiddleware(sessions, manager=manager)],
    lifespan=[lambda _: manager],  # Litestar shows its lifespan to no middleware, so the manager is started here
)
