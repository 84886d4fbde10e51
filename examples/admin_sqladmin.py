"""sqladmin behind a session that can be revoked: `uvicorn examples.admin_sqladmin:app`, then open /admin."""

import os

from fastapi import FastAPI
from sqladmin import Admin, ModelView
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool
from starlette.middleware import Middleware
from starlette.requests import Request

from evsession import CookiePolicy, SessionManager, SessionMiddleware, session_of


class Base(DeclarativeBase):
    """The tables of this program."""


class Book(Base):
    """Something to administrate."""

    __tablename__ = "books"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class BookAdmin(ModelView, model=Book):
    """Shows books."""

    column_list = ("id", "title")


manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)


class Staff(AuthenticationBackend):
    """Who may come in: whoever has a session in which somebody signed in."""

    def __init__(self, manager: SessionManager) -> None:
        self.middlewares = [Middleware(SessionMiddleware, manager=manager)]  # instead of sqladmin's own

    async def login(self, request: Request) -> bool:
        """Sign in, after the password was checked."""
        form = await request.form()
        if form.get("password") != "correct horse":
            return False
        session_of(request).login(str(form["username"]))
        return True

    async def logout(self, request: Request) -> bool:
        """End the session, everywhere and for good."""
        session_of(request).logout()
        return True

    async def authenticate(self, request: Request) -> bool:
        """Tell whether somebody is signed in; after `manager.revoke(session)`, nobody is."""
        return session_of(request).info.user_id is not None


engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
Base.metadata.create_all(engine)
app = FastAPI()
admin = Admin(app, engine, authentication_backend=Staff(manager))
admin.add_view(BookAdmin)
