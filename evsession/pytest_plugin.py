"""Fixtures for the tests of an application; pytest finds them by itself.

Nothing of evsession is imported before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from evsession.manager import SessionManager
    from evsession.testing import FakeClock


@pytest.fixture
def evsession_clock() -> FakeClock:
    """The time of `evsession_manager`, which only the test moves."""
    from evsession.testing import FakeClock

    return FakeClock()


@pytest.fixture
def evsession_manager(evsession_clock: FakeClock) -> SessionManager:
    """A manager whose sessions live in memory, on `evsession_clock`."""
    from evsession.testing import memory_manager

    return memory_manager(evsession_clock)


@pytest.fixture(scope="session")
def evsession_server() -> Iterator[str]:
    """The URL of a real server of the test session's own; give each test a `namespace=` on it."""
    from evsession.testing import embedded_server

    with embedded_server() as url:
        yield url
