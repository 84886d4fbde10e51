"""Implementations of the Store protocol, and the URL that names one."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from evsession.config import StorePolicy
from evsession.errors import ConfigError
from evsession.store import Store

SCHEMES: Final = ("memory://", "embedded://[directory]", "redis://", "rediss://", "unix://")


def open_store(url: str, *, namespace: str, policy: StorePolicy | None = None) -> tuple[Store, str | None]:
    """Return the store that a URL names, and its own secret key where it keeps one.

    Raises:
        ConfigError: the scheme is not known; the text lists those that are.
    """
    scheme, separator, rest = url.partition("://")
    match scheme if separator else None:
        case "memory":
            from evsession.stores.memory import MemoryStore

            return MemoryStore(), None
        case "embedded":
            from evsession.stores.embedded import open_embedded

            return open_embedded(unquote(rest), namespace=namespace, policy=policy)
        case "redis" | "rediss" | "unix":
            from evsession.stores.redis import RedisStore

            return RedisStore(url, namespace=namespace, policy=policy), None
        case _:
            msg = f"no store has the scheme {scheme!r}; use one of {', '.join(SCHEMES)}"
            raise ConfigError(msg)
