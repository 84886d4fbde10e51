"""A client of the app under test that is somebody, and can look behind the cookie."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from evsession.canonical import loads
from evsession.desk import NewSession
from evsession.errors import ConfigError
from evsession.info import SessionInfo
from evsession.manager import SessionManager
from evsession.middleware import SessionMiddleware, session_of
from evsession.revocation import Receipt
from evsession.session import Session
from evsession.testing.happened import Happened, happened
from evsession.tokens import Ticket

R = TypeVar("R")

BEARER = "Bearer "


@contextmanager
def session_client(
    app: ASGIApp,
    *,
    user_id: object = None,
    session: Mapping[str, Any] | None = None,
    manager: SessionManager | None = None,
    base_url: str = "https://testserver",
    **options: Any,
) -> Iterator[SessionClient]:
    """Run an app, lifespan included, with a client that has a session already if a user or data are given.

    `manager` is needed only where `manager_in` does not find it. `options` are those of Starlette's `TestClient`.

    Raises:
        ConfigError: the app has no `SessionMiddleware` that can be found.
        InvalidUserId, CodecError, SessionTooLarge: there can be no such session.
    """
    found = manager or manager_in(app)
    with SessionClient(app, found, base_url=base_url, **options) as client:
        if user_id is not None or session is not None:
            client.adopt(client.call(lambda: found.create(user_id, session)))
        yield client


def manager_in(app: object) -> SessionManager:
    """Return the manager of an app: of its own `SessionMiddleware`, or else of one of the apps mounted in it.

    The app's middleware is built for it, so all of it must have been added before.

    Raises:
        ConfigError: there is none, or it is out of sight.
    """
    for part in _parts(app, set()):
        if isinstance(part, SessionMiddleware):
            return part.manager
    msg = "this app has no SessionMiddleware that can be found; pass session_client(app, manager=manager)"
    raise ConfigError(msg)


def _parts(app: object, seen: set[int]) -> Iterator[object]:
    if app is None or id(app) in seen:
        return
    seen.add(id(app))
    yield app
    if hasattr(app, "build_middleware_stack"):
        app.middleware_stack = app.middleware_stack or app.build_middleware_stack()  # type: ignore[attr-defined]
        yield from _parts(app.middleware_stack, seen)  # type: ignore[attr-defined]
    yield from _parts(getattr(app, "app", None), seen)
    for route in getattr(app, "routes", ()):
        yield from _parts(getattr(route, "app", None), seen)


class SessionClient(TestClient):
    """Starlette's `TestClient`, over https, with the session that its cookie or bearer token names."""

    def __init__(self, app: ASGIApp, manager: SessionManager, **options: Any) -> None:
        self._acting: ASGIApp | None = None
        self._last_id: str | None = None

        async def app_or_act(scope: Scope, receive: Receive, send: Send) -> None:
            await (self._acting or app)(scope, receive, send)

        super().__init__(app_or_act, **options)
        self.manager = manager

    def call(self, work: Callable[[], Awaitable[R]]) -> R:
        """Run a coroutine function where the app runs, such as ``client.call(lambda: manager.revoke_everyone())``."""
        with self._portal_factory() as portal:
            return portal.call(work)

    # ── what it has ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def session_id(self) -> str | None:
        """The id of its session, or of the last one when that is over; None if there was none."""
        ticket = self._ticket()
        self._last_id = self._last_id if ticket is None else ticket.sid
        return self._last_id

    @property
    def session(self) -> dict[str, Any]:
        """The data that a request would find now, as a copy; empty without a living session."""
        ticket = self._ticket()
        cached = None if ticket is None else self.call(lambda: self.manager.fetch(ticket.sid))
        if ticket is None or cached is None or cached.dead or cached.stored.snapshot.ended is not None:
            return {}
        data: dict[str, Any] = loads(cached.stored.raw)
        return data if ticket.secret_hash in cached.stored.snapshot.secrets else {}

    @property
    def info(self) -> SessionInfo | None:
        """What is known of its session beside the data; None when it is not alive."""
        session_id = self.session_id
        return None if session_id is None else self.call(lambda: self.manager.get(session_id))

    @property
    def events(self) -> list[Happened]:
        """All that happened to its session, oldest first, its end included."""
        session_id = self.session_id
        if session_id is None:
            return []
        return happened(self.call(lambda: self.manager.audit.history(session_id)))

    def _ticket(self) -> Ticket | None:
        if not self.manager.takes_cookies:
            return self.manager.ticket(self.headers.get("authorization", "").removeprefix(BEARER).encode(), "bearer")
        values = [one.value for one in self.cookies.jar if one.name == self.manager.cookie.name and one.value]
        return self.manager.ticket(values[-1].encode()) if values else None

    # ── what it does ─────────────────────────────────────────────────────────────────────────────────────────────────

    def adopt(self, new: NewSession) -> None:
        """Go on with the session that `manager.create` has returned."""
        policy = self.manager.cookie
        if not self.manager.takes_cookies:
            self.headers["authorization"] = BEARER + new.token.value
            return
        host = urlsplit(str(self.base_url)).hostname or ""
        # A name without a dot gets one in http.cookiejar; a response must find this very cookie to replace it.
        domain = policy.domain or (host if "." in host else f"{host}.local")
        self.cookies.set(policy.name, new.token.value, domain=domain, path=policy.path)

    def login(self, user_id: object, *, remember: timedelta | None = None, **data: Any) -> None:
        """Sign in as a handler of the app would, and set `data` in the session; no request reaches the app.

        Raises:
            InvalidUserId, CodecError, SessionTooLarge, SessionLimitReached, SessionEnded: nothing was written.
        """

        def sign_in(session: Session) -> None:
            session.login(user_id, remember=remember)
            session.update(data)

        self._act(sign_in)

    def logout(self) -> None:
        """Sign out as a handler of the app would."""
        self._act(Session.logout)

    def revoke(self, *, reason: str = "") -> Receipt:
        """End its session from outside, as an operator does; the client keeps its dead token."""
        session_id = self.session_id or ""
        return self.call(lambda: self.manager.revoke(session_id, reason=reason, timeout=timedelta(0)))

    def _act(self, act: Callable[[Session], None]) -> None:
        """Do something to the session in a request of its own, through a middleware of the same manager."""
        self._last_id = self.session_id
        issued: list[str] = []

        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            session = session_of(Request(scope))
            act(session)
            await session.save()
            issued.extend([session.token.value] if session.token else [])
            await Response(status_code=204)(scope, receive, send)

        self._acting = SessionMiddleware(handler, self.manager)
        try:
            self.get("/")
        finally:
            self._acting = None
        for token in issued:
            self.headers["authorization"] = BEARER + token
