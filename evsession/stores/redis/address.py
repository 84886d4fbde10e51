"""Where a server is and how to get in, from a URL."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio.connection import parse_url

from evsession.errors import ConfigError

_CERT_REQS: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_KNOWN: Final = frozenset(
    [
        "connection_class",
        "host",
        "port",
        "path",
        "db",
        "username",
        "password",
        "ssl_cert_reqs",
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_check_hostname",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A server's address. `path` is a unix socket and replaces host and port; the password never shows in `repr`."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the address in a ``redis://``, ``rediss://`` or ``unix://`` URL.

        Raises:
            ConfigError: it has no such form, or an option that is not known; the text never holds the password.
        """
        scheme = url.partition("://")[0]
        try:
            options: Mapping[str, Any] = parse_url(url)
        except ValueError as error:
            msg = f"the {scheme}:// URL cannot be read ({error}); write {scheme}://user:password@host:6379/0"
            raise ConfigError(msg) from None
        if unknown := sorted(set(options) - _KNOWN):
            known = sorted(_KNOWN - {"connection_class"})
            msg = f"the {scheme}:// URL has unknown options {unknown}; known are {known}"
            raise ConfigError(msg)
        names = ("host", "port", "path", "db", "username", "password")
        plain = {name: options[name] for name in names if name in options}
        return cls(**plain, tls=_tls(options) if scheme == "rediss" else None)

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Open a connection and hand it to a protocol.

        Raises:
            OSError: nobody answers there.
        """
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(lambda: protocol, self.path)
        else:
            await loop.create_connection(lambda: protocol, self.host, self.port, ssl=self.tls)

    def __str__(self) -> str:
        return self.path if self.path is not None else f"{self.host}:{self.port}"


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    reqs = options.get("ssl_cert_reqs", "required")
    context.check_hostname = bool(options.get("ssl_check_hostname", reqs == "required"))
    context.verify_mode = _CERT_REQS[reqs]
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context
