"""The public suite runs as a stranger runs it: one fixture, one import; and it finds what is wrong with a store."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evsession.store import Store
from evsession.testing import conformance

ROOT = Path(__file__).parents[2]

GOOD = """
import pytest
from evsession.stores.memory import MemoryStore
from evsession.testing.conformance import *


class MyStore(MemoryStore):
    pass


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def open_store():
    shared = MyStore(shards=2)
    return lambda: shared
"""

BAD = """
    async def touch(self, sid, idle):
        return (await super().touch(sid, idle))._replace(deadlines=None)
"""


def run(folder: Path, program: str) -> str:
    (folder / "test_store.py").write_text(program)
    options = ["-q", "-p", "anyio", "-p", "evsession.pytest_plugin", "-o", "anyio_mode=auto"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("is_good", [True, False])
def test_a_store_of_your_own_is_tested(tmp_path: Path, is_good: bool) -> None:
    """A good one passes; one that forgets the deadlines of a touch fails, by the name of the promise."""
    said = run(tmp_path, GOOD if is_good else GOOD.replace("    pass\n", BAD))
    assert " passed" in said, said
    assert (" failed" not in said) is is_good, said
    assert ("test_a_touch_moves_the_idle_deadline_forward" in said) is not is_good


def test_the_suite_calls_each_method_of_a_store() -> None:
    """What the protocol has and nobody tests, a store of your own might have wrong."""
    suite = "".join(path.read_text() for path in Path(conformance.__file__).parent.glob("*.py"))
    methods = {name for name in vars(Store) if not name.startswith("_")}
    assert methods == {name for name in methods if re.search(rf"\b(store|one|two)\.{name}\b", suite)}
