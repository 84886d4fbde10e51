"""Typed connections, and sessions as objects of the application's own classes."""

# FastAPI resolves annotations of callable objects only if they are no strings, so nothing is postponed here.

from typing import Any

import fastapi
from starlette.requests import HTTPConnection

from evsession.fastapi.dependencies import Required
from evsession.fastapi.openapi import SessionScheme
from evsession.middleware import session_of
from evsession.session import Session


class Request(fastapi.Request):
    """A request whose `.session` type checkers know."""

    @property
    def session(self) -> Session:
        """The session of this request."""
        return session_of(self)


class WebSocket(fastapi.WebSocket):
    """A WebSocket whose `.session` type checkers know."""

    @property
    def session(self) -> Session:
        """The session of this WebSocket."""
        return session_of(self)


class _Model(SessionScheme):
    def __init__(self, model: type[Any], key: str | None) -> None:
        super().__init__()
        self._model = model
        self._key = key

    async def __call__(self, connection: HTTPConnection) -> Any:
        """Return the session, or one key of it, as an object.

        Raises:
            SessionInvalid: what is stored does not fit the class; the client sees 500.
        """
        return session_of(connection, self.scope_key).model(self._model, self._key)


def FromSession(  # noqa: N802 -- reads as a type, like Depends
    model: type[Any], key: str | None = None, *, scope_key: str = "session"
) -> Required:
    """Return the dependency for ``Annotated[Cart, FromSession(Cart, key="cart")]``; see `Session.model`."""
    return Required(_Model(model, key).of(scope_key))
