"""Where the sessions of a store of starsessions live, and under which secret."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Final, Protocol, TypeGuard

from evsession.compat.starsessions.stores.base import SessionStore
from evsession.compat.starsessions.stores.memory import InMemoryStore
from evsession.errors import Unsupported
from evsession.keys import listed_secrets
from evsession.starlette import SecretKey, stretched, texts_of, warn_of_memory
from evsession.store import Store
from evsession.stores.snapshots import SnapshotStore

KEPT: Final = timedelta(days=30)
"""How long an unused session without a lifetime is kept.  Source: the default of starsessions' `gc_ttl`."""

log = logging.getLogger("evsession.compat")


class Located(Protocol):
    """A store whose server a URL can name: `RedisStore`, asked without importing redis."""

    url: str
    namespace: str


class ThreeMethods:
    """A backend of snapshots over ``read``, ``write`` and ``remove``; `lifetime` is in seconds, 0 for none."""

    def __init__(self, store: SessionStore, lifetime: int) -> None:
        self._store = store
        self._lifetime = lifetime

    async def get_session_data(self, session_id: str) -> dict[str, Any] | None:
        """Read what was written under a digest."""
        raw = await self._store.read(session_id=session_id, lifetime=self._lifetime)
        found: dict[str, Any] | None = json.loads(raw) if raw else None
        return found

    async def save_session_data(self, session_id: str, data: dict[str, Any]) -> None:
        """Write under a digest, for as long as the session lives."""
        left = max(1, round(data["expires_at"] / 1000 - time.time()))
        ttl = left if self._lifetime else 0
        raw = json.dumps(data).encode()
        kept_as = await self._store.write(session_id=session_id, data=raw, lifetime=self._lifetime, ttl=ttl)
        if kept_as != session_id:
            raise Unsupported(
                f"a store that names sessions itself ({type(self._store).__name__})",
                "return the session_id that write() was given",
            )

    async def delete_session_data(self, session_id: str) -> None:
        """Remove what was written under a digest."""
        await self._store.remove(session_id)


def home_of(store: SessionStore, lifetime: int) -> Store:
    """Return where the sessions of a store live: a log in memory or on its server, or snapshots in the store itself."""
    if type(store) is InMemoryStore:
        warn_of_memory()
        return store.sessions
    if is_located(store):
        from evsession.stores.redis import RedisStore

        return RedisStore(store.url, namespace=store.namespace)
    log.info("sessions are kept in %s as snapshots, without a log", type(store).__name__)
    return SnapshotStore(ThreeMethods(store, lifetime))


def is_located(store: object) -> TypeGuard[Located]:
    """Tell whether a store is a `RedisStore` itself, and a URL can name its server."""
    kind = type(store)
    is_ours = (kind.__module__, kind.__name__) == (f"{__package__}.stores.redis", "RedisStore")
    return is_ours and getattr(store, "url", None) is not None


def secrets_of(store: SessionStore, secret_key: SecretKey | None) -> Sequence[str | bytes]:
    """Return the secrets of a middleware: as given, from the environment, or what the store makes of it.

    starsessions has none, so an app that only changed its import has none to give.

    Raises:
        ConfigError: the environment lists several, and one is too short.
    """
    given = secret_key or listed_secrets(os.environ.get("EVSESSION_SECRET_KEY", ""), "EVSESSION_SECRET_KEY")
    if given:
        return texts_of(given)
    if isinstance(store, InMemoryStore):
        return [store.secret_key]
    log.warning(
        "no secret key: whoever can write to the store of the sessions can forge them, as with starsessions;"
        " pass secret_key=, or set EVSESSION_SECRET_KEY"
    )
    named = f"{store.url} {store.namespace}" if is_located(store) else type(store).__qualname__
    return [blake2b(named.encode(), person=b"evsession stars").hexdigest()]


def secret_keys_of(store: SessionStore, secret_key: SecretKey | None) -> list[str | bytes]:
    """Return the secrets of a middleware, each long enough."""
    return [stretched(secret) for secret in secrets_of(store, secret_key)]
