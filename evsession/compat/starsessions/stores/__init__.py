"""The stores of starsessions; `RedisStore` is in `.redis`, as it is there."""

from evsession.compat.starsessions.stores.base import SessionStore
from evsession.compat.starsessions.stores.cookie import CookieStore
from evsession.compat.starsessions.stores.memory import InMemoryStore

__all__ = ["CookieStore", "InMemoryStore", "SessionStore"]
