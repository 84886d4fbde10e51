"""Servers to be harmed, and the rule that nothing is left lying about."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from tests.servers import NAMES, Server, find_binaries


@pytest.fixture
def own_server() -> Iterator[Server]:
    """Return a server of this test alone, on a unix socket; nothing is kept on disk."""
    with Server.start(find_binaries()[NAMES[0]]) as server:
        yield server


@pytest.fixture(autouse=True)
def asyncio_has_nothing_to_complain_of(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test after which asyncio reports a task destroyed, an exception never retrieved or a torn callback."""
    gc.collect()  # what earlier tests left is no fault of this one
    yield
    gc.collect()
    complaints = [record.getMessage() for record in caplog.get_records("call") if record.name == "asyncio"]
    assert complaints == []


def tasks_of_evsession() -> set[str]:
    """Return the names of the package's tasks in this loop that are not done."""
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("evsession")}
