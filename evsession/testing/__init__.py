"""For the tests of an application: time travel, a signed-in client, events to compare, and a real server.

`evsession.pytest_plugin` brings the same as fixtures, `evsession.testing.conformance` tests a store of your own.
"""

from __future__ import annotations

from evsession.testing.client import SessionClient, manager_in, session_client
from evsession.testing.clock import FakeClock, memory_manager
from evsession.testing.happened import (
    Happened,
    authenticated,
    created,
    ended,
    happened,
    renewed,
    updated,
)
from evsession.testing.server import embedded_server

__all__ = [
    "FakeClock",
    "Happened",
    "SessionClient",
    "authenticated",
    "created",
    "embedded_server",
    "ended",
    "happened",
    "manager_in",
    "memory_manager",
    "renewed",
    "session_client",
    "updated",
]
