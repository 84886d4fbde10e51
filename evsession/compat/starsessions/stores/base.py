"""The contract of a store: three coroutines."""

from __future__ import annotations

from abc import ABC, abstractmethod


class SessionStore(ABC):
    """Keeps bytes under ids.

    A store of the app's own keeps snapshots: it is given a digest of a session's id and sealed bytes, never a token.
    See `evsession.stores.snapshots` for what such a store can and cannot promise.
    """

    @abstractmethod
    async def read(self, session_id: str, lifetime: int) -> bytes:
        """Return what was written under an id, no bytes if nothing was; `lifetime` is the middleware's, in seconds."""

    @abstractmethod
    async def write(self, session_id: str, data: bytes, lifetime: int, ttl: int) -> str:
        """Keep bytes under an id for `ttl` seconds at least (0: as the store likes), and return the id."""

    @abstractmethod
    async def remove(self, session_id: str) -> None:
        """Forget an id; one that is not there is no error."""
