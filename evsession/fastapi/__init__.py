"""evsession for FastAPI: dependencies, typed sessions, CSRF and routes. Needs the extra ``evsession[fastapi]``."""

from __future__ import annotations

from evsession.fastapi.csrf import CsrfToken, csrf_token, require_csrf
from evsession.fastapi.dependencies import (
    CurrentManager,
    CurrentSession,
    CurrentUserId,
    OptionalUserId,
    RevalidatedSession,
    current_manager,
    current_session,
    current_user_id,
    optional_user_id,
    require_login,
    require_recent_login,
    revalidated_session,
)
from evsession.fastapi.health import health_routes
from evsession.fastapi.openapi import describe_sessions
from evsession.fastapi.routes import session_routes
from evsession.fastapi.typed import FromSession, Request, WebSocket
from evsession.middleware import manager_of, session_of

__all__ = [
    "CsrfToken",
    "CurrentManager",
    "CurrentSession",
    "CurrentUserId",
    "FromSession",
    "OptionalUserId",
    "Request",
    "RevalidatedSession",
    "WebSocket",
    "csrf_token",
    "current_manager",
    "current_session",
    "current_user_id",
    "describe_sessions",
    "health_routes",
    "manager_of",
    "optional_user_id",
    "require_csrf",
    "require_login",
    "require_recent_login",
    "revalidated_session",
    "session_of",
    "session_routes",
]
