"""What OpenAPI says of sessions."""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.models import APIKey
from fastapi.security.base import SecurityBase

from evsession.config import CookiePolicy
from evsession.fastapi.scoped import Scoped
from evsession.manager import SessionManager

COOKIE_SCHEME: Final = "SessionCookie"
BEARER_SCHEME: Final = "SessionToken"

_ABOUT_COOKIE: Final = "The session's cookie, set by signing in."
_ABOUT_TOKEN: Final = "The session's token, for clients without cookies."


class SessionScheme(Scoped, SecurityBase):
    """Shows up in OpenAPI as the session's cookie, under its default name; `describe_sessions` knows the real one."""

    model = APIKey.model_validate({"in": "cookie", "name": CookiePolicy().name, "description": _ABOUT_COOKIE})
    scheme_name = COOKIE_SCHEME

    def _is_of(self, scope_key: str) -> None:
        super()._is_of(scope_key)
        self.scheme_name = _named(COOKIE_SCHEME, scope_key)


def describe_sessions(app: FastAPI, manager: SessionManager, *, scope_key: str = "session") -> None:
    """Let an app's OpenAPI name this manager's own cookie, and bearer tokens where it takes them.

    Call it once for each middleware, when the app is made; what the app's own `openapi` says is kept.
    """
    before, schemes_of_ours = app.openapi, _schemes(manager, scope_key)
    cookie_scheme = _named(COOKIE_SCHEME, scope_key)

    def described() -> dict[str, Any]:
        schema = before()
        schemes = schema.get("components", {}).get("securitySchemes", {})
        if schemes.pop(cookie_scheme, None) is not None:
            schemes |= schemes_of_ours
            for operation in _operations(schema):
                operation["security"] = _alternatives(operation["security"], cookie_scheme, list(schemes_of_ours))
        return schema

    app.openapi = described  # type: ignore[method-assign]


def _schemes(manager: SessionManager, scope_key: str) -> dict[str, dict[str, str]]:
    cookie = {"type": "apiKey", "in": "cookie", "name": manager.cookie.name, "description": _ABOUT_COOKIE}
    token = {"type": "http", "scheme": "bearer", "description": _ABOUT_TOKEN}
    known = {"cookie": (COOKIE_SCHEME, cookie), "bearer": (BEARER_SCHEME, token)}
    listed = (known[transport] for transport in manager.transports)
    return {_named(name, scope_key): scheme for name, scheme in listed}


def _named(scheme: str, scope_key: str) -> str:
    """Return the name of a scheme, of its own for each session.

    Source: OpenAPI 3.1.0, 4.8.7.1 (the characters that the name of a component may have).
    """
    return scheme if scope_key == "session" else f"{scheme}-{re.sub('[^a-zA-Z0-9._-]', '_', scope_key)}"


def _operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = [operation for path in schema.get("paths", {}).values() for operation in path.values()]
    return [operation for operation in found if isinstance(operation, dict) and "security" in operation]


def _alternatives(security: list[dict[str, Any]], cookie: str, schemes: list[str]) -> list[dict[str, Any]]:
    """Return the ways in, with all of the session's own in the place of its cookie alone."""
    others = [way for way in security if way.keys().isdisjoint((cookie, *schemes))]
    ours: list[dict[str, Any]] = [{name: []} for name in schemes]
    return [*ours, *others] if len(others) < len(security) else others
