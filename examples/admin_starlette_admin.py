"""starlette-admin behind a session that can be revoked: `uvicorn examples.admin_starlette_admin:app`, open /admin."""

import os

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette_admin.auth import AdminUser, AuthProvider
from starlette_admin.base import BaseAdmin
from starlette_admin.exceptions import LoginFailed
from starlette_admin.views import Link

from evsession import CookiePolicy, SessionManager, SessionMiddleware, session_of

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)


class Staff(AuthProvider):
    """Who may come in: whoever has a session in which somebody signed in."""

    async def login(self, username: str, password: str, remember_me: bool, request: Request) -> None:
        """Sign in, after the password was checked."""
        if password != "correct horse":
            raise LoginFailed("unknown name or password")
        session_of(request).login(username)

    async def logout(self, request: Request) -> None:
        """End the session, everywhere and for good."""
        session_of(request).logout()

    async def authenticate(self, request: Request) -> AdminUser | None:
        """Return who is signed in; after `manager.revoke(session)`, nobody is."""
        user = session_of(request).info.user_id
        return None if user is None else AdminUser(username=user)


app = FastAPI()
admin = BaseAdmin(
    auth_provider=Staff(),
    secret_key="what starlette-admin signs its own cookies with",
    middlewares=[Middleware(SessionMiddleware, manager=manager)],
)
admin.add_view(Link(menu_label="the shop", url="/"))
admin.mount_to(app)
