"""What OpenAPI says of sessions."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.models import APIKey
from fastapi.security.base import SecurityBase

from evsession.config import CookiePolicy
from evsession.manager import SessionManager

COOKIE_SCHEME: Final = "SessionCookie"
BEARER_SCHEME: Final = "SessionToken"

_ABOUT_COOKIE: Final = "The session's cookie, set by signing in."
_ABOUT_TOKEN: Final = "The session's token, for clients without cookies."


class SessionScheme(SecurityBase):
    """Shows up in OpenAPI as the session's cookie, under its default name; `describe_sessions` knows the real one."""

    model = APIKey.model_validate({"in": "cookie", "name": CookiePolicy().name, "description": _ABOUT_COOKIE})
    scheme_name = COOKIE_SCHEME


def describe_sessions(app: FastAPI, manager: SessionManager) -> None:
    """Let an app's OpenAPI name this manager's own cookie, and bearer tokens where it takes them.

    Call it once, when the app is made; what the app's own `openapi` says is kept.
    """
    before = app.openapi

    def described() -> dict[str, Any]:
        schema = before()
        schemes = schema.get("components", {}).get("securitySchemes", {})
        if schemes.pop(COOKIE_SCHEME, None) is not None:
            schemes |= _schemes(manager)
            for operation in _operations(schema):
                operation["security"] = _alternatives(operation["security"], list(_schemes(manager)))
        return schema

    app.openapi = described  # type: ignore[method-assign]


def _schemes(manager: SessionManager) -> dict[str, dict[str, str]]:
    cookie = {"type": "apiKey", "in": "cookie", "name": manager.cookie.name, "description": _ABOUT_COOKIE}
    token = {"type": "http", "scheme": "bearer", "description": _ABOUT_TOKEN}
    known = {"cookie": (COOKIE_SCHEME, cookie), "bearer": (BEARER_SCHEME, token)}
    return dict(known[transport] for transport in manager.transports)


def _operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = [operation for path in schema.get("paths", {}).values() for operation in path.values()]
    return [operation for operation in found if isinstance(operation, dict) and "security" in operation]


def _alternatives(security: list[dict[str, Any]], schemes: list[str]) -> list[dict[str, Any]]:
    """Return the ways in, with all of the session's own in the place of its cookie alone."""
    others = [way for way in security if way.keys().isdisjoint((COOKIE_SCHEME, BEARER_SCHEME))]
    ours: list[dict[str, Any]] = [{name: []} for name in schemes]
    return [*ours, *others] if len(others) < len(security) else others
