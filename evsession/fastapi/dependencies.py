"""Dependencies: the session, who is signed in, and how lately.

All of them are `async def` and take an `HTTPConnection`, so they serve requests and WebSockets alike and none costs a
thread (355 µs a request for a plain `def`, measured). Override them in tests by their lower-case names. In an app with
two sessions ``current_user_id.of("staff")`` is who is signed in in the one whose middleware has ``scope_key="staff"``.
"""

# FastAPI resolves annotations of callable objects only if they are no strings, so nothing is postponed here.

from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import Depends, HTTPException, WebSocketException, params
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from evsession.codec import Stored
from evsession.errors import SessionEnded
from evsession.fastapi.openapi import COOKIE_SCHEME, SessionScheme
from evsession.fastapi.refusal import unauthenticated
from evsession.fastapi.scoped import Scoped
from evsession.manager import SessionManager
from evsession.middleware import manager_of, session_of
from evsession.session import Session

SIGN_IN: Final = "sign in first"


class _CurrentSession(SessionScheme):
    async def __call__(self, connection: HTTPConnection) -> Session:
        """Return the session of the request."""
        return session_of(connection, self.scope_key)


class _RevalidatedSession(SessionScheme):
    async def __call__(self, connection: HTTPConnection) -> Session:
        """Return the session as the primary has it now.

        Raises:
            HTTPException: it has ended meanwhile (401).
            StoreUnavailable: the store did not answer.
        """
        session = session_of(connection, self.scope_key)
        try:
            await session.revalidate()
        except SessionEnded as error:
            raise unauthenticated(connection, self.scope_key, "the session has ended; sign in again") from error
        return session


class _OptionalUserId(SessionScheme):
    async def __call__(self, connection: HTTPConnection) -> str | None:
        """Return who is signed in, None for nobody."""
        return _user_of(session_of(connection, self.scope_key))


class _CurrentUserId(SessionScheme):
    async def __call__(self, connection: HTTPConnection) -> str:
        """Return who is signed in.

        Raises:
            HTTPException: nobody is (401).
        """
        user = _user_of(session_of(connection, self.scope_key))
        if user is None:
            raise unauthenticated(connection, self.scope_key, SIGN_IN)
        return user


class _RecentLogin(SessionScheme):
    def __init__(self, max_age: timedelta) -> None:
        super().__init__()
        self._max_age = max_age

    async def __call__(self, connection: HTTPConnection) -> str:
        """Return who signed in lately.

        Raises:
            HTTPException: nobody did (401).
        """
        base = _login_of(session_of(connection, self.scope_key))
        if base is None:
            raise unauthenticated(connection, self.scope_key, SIGN_IN)
        now = manager_of(connection, self.scope_key).worker.replica.server_time()
        if now - base.authenticated_at > self._max_age / timedelta(milliseconds=1):
            raise self._too_old(connection)
        return str(base.snapshot.user_id)

    def _too_old(self, connection: HTTPConnection) -> HTTPException | WebSocketException:
        """Source: RFC 9470, 3 (the challenge that asks for a login not older than `max_age` seconds)."""
        seconds = f"{self._max_age.total_seconds():g}"
        advice = f"sign in again: this needs a login that is at most {seconds} seconds old"
        return unauthenticated(
            connection,
            self.scope_key,
            advice,
            error="insufficient_user_authentication",
            error_description="a more recent login is required",
            max_age=seconds,
        )


class _CurrentManager(Scoped):
    async def __call__(self, connection: HTTPConnection) -> SessionManager:
        """Return the manager of the request's session."""
        return manager_of(connection, self.scope_key)


class Required(params.Depends, SecurityBase):
    """A dependency that is complete in itself: ``dependencies=[require_login()]``; `Depends` around it is fine too."""

    model = SessionScheme.model

    @property
    def scheme_name(self) -> str:  # type: ignore[override]
        """The name of the session's cookie in OpenAPI."""
        return getattr(self.dependency, "scheme_name", COOKIE_SCHEME)

    async def __call__(self, connection: HTTPConnection) -> Any:
        """Do what the dependency does."""
        if self.dependency is None:
            return None
        return await self.dependency(connection)


def require_login(*, scope_key: str = "session") -> Required:
    """Return a dependency that answers 401 unless somebody is signed in, and else gives the user's id.

    Only `session.login` signs in. A user that the data merely names is nobody here: apps write such keys before they
    have asked for the second factor, and while they reset a password.
    """
    return Required(current_user_id.of(scope_key))


def require_recent_login(max_age: timedelta, *, scope_key: str = "session") -> Required:
    """Return a dependency that answers 401 unless somebody signed in within `max_age`, and else gives the user's id.

    For what should need the password once more. The age is measured on the server's clock, and never taken for less.

    Raises:
        ValueError: `max_age` is not positive.
    """
    if max_age <= timedelta(0):
        msg = f"max_age={max_age} would refuse everybody; use a positive timedelta, such as timedelta(minutes=5)"
        raise ValueError(msg)
    return Required(_RecentLogin(max_age).of(scope_key))


def _login_of(session: Session) -> Stored | None:
    """Return the stored session if somebody signed in with `login`."""
    base = session.base
    if base is None or base.snapshot.user_id is None or base.snapshot.detected:
        return None
    return base


def _user_of(session: Session) -> str | None:
    base = _login_of(session)
    return None if base is None else base.snapshot.user_id


current_session: Final = _CurrentSession()
revalidated_session: Final = _RevalidatedSession()
optional_user_id: Final = _OptionalUserId()
current_user_id: Final = _CurrentUserId()
current_manager: Final = _CurrentManager()

CurrentSession = Annotated[Session, Depends(current_session)]
"""The session of the request or WebSocket."""

RevalidatedSession = Annotated[Session, Depends(revalidated_session)]
"""The session as the primary has it now, at the price of one round trip; 401 if it has ended."""

OptionalUserId = Annotated[str | None, Depends(optional_user_id)]
"""Who is signed in, None for nobody."""

CurrentUserId = Annotated[str, Depends(current_user_id)]
"""Who is signed in; 401 if nobody is."""

CurrentManager = Annotated[SessionManager, Depends(current_manager)]
"""The manager of the request's session."""
