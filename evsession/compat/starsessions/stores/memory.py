"""Sessions in the memory of this process."""

from __future__ import annotations

import secrets

from evsession.compat.starsessions.stores.base import SessionStore
from evsession.stores.memory import MemoryStore


class InMemoryStore(SessionStore):
    """Sessions in memory, with all that a log can do; middlewares given the same one share them.

    The middleware uses `sessions`. The three coroutines and `data` are for who calls them, or inherits from this.
    """

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.sessions = MemoryStore()
        self.secret_key = secrets.token_urlsafe(32)

    async def read(self, session_id: str, lifetime: int) -> bytes:
        """Return what was written under an id."""
        return self.data.get(session_id, b"")

    async def write(self, session_id: str, data: bytes, lifetime: int, ttl: int) -> str:
        """Keep bytes under an id."""
        self.data[session_id] = data
        return session_id

    async def remove(self, session_id: str) -> None:
        """Forget an id."""
        self.data.pop(session_id, None)
