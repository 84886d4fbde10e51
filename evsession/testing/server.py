"""A real server for tests of what only a server can show: several workers, outages, load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from evsession.stores.embedded import EmbeddedServer


@contextmanager
def embedded_server() -> Iterator[str]:
    """Run a Valkey server of this process's own on a private unix socket, empty, and return its URL.

    It listens on no port, and it and its files are gone afterwards.

    Raises:
        ConfigError: the wheel is missing, or the server does not start; the text names the fix.
    """
    server = EmbeddedServer(None)
    try:
        yield f"unix://{server.socket}"
    finally:
        server.stop()
