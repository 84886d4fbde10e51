"""In the place of `starsessions` 2.2: the same names and arguments, in the same modules.

``from evsession.compat.starsessions import …`` is the line that changes. What is the same and what is safer on purpose
stands in docs/reference/starsessions.md, name by name.
"""

from evsession.compat.starsessions.exceptions import ImproperlyConfigured, SessionError, SessionNotLoaded
from evsession.compat.starsessions.middleware import SessionAutoloadMiddleware, SessionMiddleware
from evsession.compat.starsessions.serializers import JsonSerializer, Serializer
from evsession.compat.starsessions.session import (
    generate_session_id,
    get_session_handler,
    get_session_id,
    get_session_metadata,
    get_session_remaining_seconds,
    is_loaded,
    load_session,
    regenerate_session_id,
)
from evsession.compat.starsessions.stores import CookieStore, InMemoryStore, SessionStore

__all__ = [
    "CookieStore",
    "ImproperlyConfigured",
    "InMemoryStore",
    "JsonSerializer",
    "Serializer",
    "SessionAutoloadMiddleware",
    "SessionError",
    "SessionMiddleware",
    "SessionNotLoaded",
    "SessionStore",
    "generate_session_id",
    "get_session_handler",
    "get_session_id",
    "get_session_metadata",
    "get_session_remaining_seconds",
    "is_loaded",
    "load_session",
    "regenerate_session_id",
]
