"""Refusals: a 401 or 403 that says what to do, for requests and for handshakes."""

from __future__ import annotations

from typing import Final

from fastapi import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from evsession.bearer import token_sent
from evsession.manager import SessionManager
from evsession.middleware import manager_of

POLICY_VIOLATION: Final = 1008
"""Closes a handshake where the server cannot answer it with a status.  Source: RFC 6455, 7.4.1."""

DENIAL: Final = "websocket.http.response"
"""The extension with which a handshake is answered with a status.  Source: ASGI, WebSocket Denial Response."""


def refused(
    connection: HTTPConnection, status: int, advice: str, headers: dict[str, str] | None = None
) -> HTTPException | WebSocketException:
    """Return what to raise: the status with its advice, or the close of a handshake that can have no status."""
    if connection.scope["type"] == "websocket" and DENIAL not in connection.scope.get("extensions", {}):
        return WebSocketException(POLICY_VIOLATION, advice)
    return HTTPException(status, advice, headers)


def unauthenticated(
    connection: HTTPConnection, scope_key: str, advice: str, **parameters: str
) -> HTTPException | WebSocketException:
    """Return the 401 that names every way of authentication which the manager of a session takes.

    Source: RFC 9110, 15.5.2 (a 401 has ``WWW-Authenticate``); RFC 6750, 3.1 (what is said of a token that was sent).
    """
    manager = manager_of(connection, scope_key)
    if not parameters and manager.takes_bearer and token_sent(connection.scope["headers"]) is not None:
        parameters = {"error": "invalid_token", "error_description": "the session has ended, or never was"}
    challenges = [_challenge(manager, transport, parameters) for transport in manager.transports]
    return refused(connection, 401, advice, {"WWW-Authenticate": ", ".join(challenges), "Cache-Control": "no-store"})


def _challenge(manager: SessionManager, transport: str, parameters: dict[str, str]) -> str:
    """Return one challenge. No scheme for cookies is registered; this one stands in draft-broyer-http-cookie-auth."""
    named = {"cookie-name": manager.cookie.name} if transport == "cookie" else {}
    listed = ", ".join(f'{name}="{value}"' for name, value in {**named, **parameters}.items())
    return f"{transport.capitalize()} {listed}".rstrip()
