"""Sessions on the server that an app's redis-py client is connected to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from evsession.compat.starsessions.exceptions import ImproperlyConfigured
from evsession.compat.starsessions.stores.base import SessionStore

MONTH: Final = 3600 * 24 * 30
"""Seconds that starsessions keeps a session which has no lifetime."""

_TLS: Final = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")


class RedisStore(SessionStore):
    """Sessions on a Redis or Valkey server, as events in a log.

    The middleware makes a connection of its own to where `connection` leads; `prefix` becomes the namespace. A client
    that cannot be followed, such as one of a cluster or of Sentinel, is used itself, through the three coroutines.

    Raises:
        ImproperlyConfigured: neither a URL nor a connection was given.
    """

    def __init__(
        self,
        url: str | None = None,
        connection: Redis | None = None,
        prefix: Callable[[str], str] | str = "starsessions.",
        gc_ttl: int = MONTH,
    ) -> None:
        if connection is None and not url:
            msg = "either 'url' or 'connection' must be given; pass connection=redis.asyncio.Redis.from_url(…)"
            raise ImproperlyConfigured(msg)
        self.prefix: Callable[[str], str] = prefix if callable(prefix) else (lambda key: f"{prefix}{key}")
        self.gc_ttl = gc_ttl
        self.url = url if connection is None else url_of(connection)
        self._connection = connection

    @property
    def namespace(self) -> str:
        """The part of the server that is this app's: the prefix, without what a namespace cannot have."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", self.prefix("")).strip(".-_") or "starsessions"

    def _client(self) -> Any:
        if self._connection is None:
            self._connection = Redis.from_url(str(self.url))
        return self._connection

    async def read(self, session_id: str, lifetime: int) -> bytes:
        """Return what was written under an id."""
        found: bytes | None = await self._client().get(self.prefix(session_id))
        return found or b""

    async def write(self, session_id: str, data: bytes, lifetime: int, ttl: int) -> str:
        """Keep bytes under an id; without a lifetime for `gc_ttl`."""
        await self._client().set(self.prefix(session_id), data, ex=max(1, ttl if lifetime else self.gc_ttl))
        return session_id

    async def remove(self, session_id: str) -> None:
        """Forget an id."""
        await self._client().delete(self.prefix(session_id))


def url_of(connection: Redis) -> str | None:
    """Return the URL of the server that a client is connected to; None where a URL cannot say it."""
    pool = getattr(connection, "connection_pool", None)
    options: Mapping[str, Any] = getattr(pool, "connection_kwargs", {})
    kind = getattr(pool, "connection_class", None)
    if options.get("credential_provider") is not None:
        return None
    user, db = _user(options), options.get("db") or 0
    if kind is UnixDomainSocketConnection:
        return f"unix://{user}{options['path']}?db={db}"
    where = f"{user}{options.get('host', 'localhost')}:{options.get('port', 6379)}/{db}"
    if kind is Connection:
        return f"redis://{where}"
    return f"rediss://{where}{_tls(options)}" if kind is SSLConnection else None


def _user(options: Mapping[str, Any]) -> str:
    name, password = options.get("username"), options.get("password")
    if name is None and password is None:
        return ""
    return f"{quote(name or '', safe='')}:{quote(password or '', safe='')}@"


def _tls(options: Mapping[str, Any]) -> str:
    given = {name: str(options[name]) for name in _TLS if options.get(name) is not None}
    return f"?{urlencode(given)}" if given else ""
