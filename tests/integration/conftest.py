"""What most of these tests begin with; a module that needs another one has its own under the same name."""

from __future__ import annotations

import pytest

from evsession import SessionManager
from tests.integration.apps import Clock, in_memory


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def manager() -> SessionManager:
    return in_memory()
