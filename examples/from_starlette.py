"""An app that had Starlette's sessions, with its import changed: `uvicorn examples.from_starlette:app`.

Set `EVSESSION_URL=redis://…` and a secret of 32 characters, and the sessions are shared, logged and revocable.
"""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from evsession.middleware import manager_of
from evsession.starlette import SessionMiddleware  # was: from starlette.middleware.sessions import SessionMiddleware


async def login(request: Request) -> Response:
    """Sign in, after the password was checked: `user_id` is where evsession looks for the user."""
    request.session["user_id"] = request.path_params["user"]
    return RedirectResponse("/", 303)


async def home(request: Request) -> Response:
    """Count the visits of whoever is here."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session)


async def logout(request: Request) -> Response:
    """Sign out here, as before."""
    request.session.clear()
    return RedirectResponse("/", 303)


async def logout_everywhere(request: Request) -> Response:
    """Sign out on every device: what a signed cookie could not do."""
    receipt = await manager_of(request).revoke_user(request.session["user_id"])
    return JSONResponse({"complete": receipt.complete})


app = Starlette(
    routes=[
        Route("/", home),
        Route("/login/{user}", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Route("/logout-everywhere", logout_everywhere, methods=["POST"]),
    ]
)
app.add_middleware(
    SessionMiddleware,
    secret_key=os.environ.get("EVSESSION_SECRET_KEY", "change me"),
    max_age=3600,
    url=os.environ.get("EVSESSION_URL"),
)
