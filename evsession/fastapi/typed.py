"""What a handler may annotate its connection with, to have a typed session."""

from __future__ import annotations

import fastapi

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
