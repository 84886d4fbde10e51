"""The programs in examples/, run as a user runs them: under uvicorn, or as a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]

TO_START = 60.0
"""Seconds in which a program must be up, on a machine that is busy with other tests."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a program: this one's, without settings that a developer may have made."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("EVSESSION_")}
    return own | {"PYTHONPATH": str(ROOT)} | more


@contextmanager
def serving(program: str, folder: Path, name: str = "log", **settings: str) -> Iterator[str]:
    """Run a program under uvicorn on a free port, and yield its address; what it prints has no traceback."""
    log = folder / f"{program}-{name}"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", f"examples.{program}:app", "--port", "0", "--host", "127.0.0.1"],
            cwd=ROOT, env=environment(**settings), stdout=errors, stderr=errors,
        )  # fmt: skip
    try:
        yield _address_of(process, log)
    finally:
        process.terminate()
        process.wait(60)
    assert "Traceback" not in log.read_text()


def _address_of(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + TO_START
    while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "it did not start"
        time.sleep(0.02)
    return found[0]


class _ComingAgain(httpx.HTTPTransport):
    """Asks once more whenever told to by a 503 with Retry-After: these programs have the time-outs of production."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + TO_START
        while True:
            response = super().handle_request(request)
            if "retry-after" not in response.headers or time.monotonic() > deadline:
                return response
            response.close()
            time.sleep(0.1)


def client_of(address: str, **options: Any) -> httpx.Client:
    """Return a client of a program, as patient as one on a busy machine must be."""
    return httpx.Client(base_url=address, transport=_ComingAgain(), timeout=TO_START, **options)


def ask(method: str, url: str, **options: Any) -> httpx.Response:
    """Send one request by a client of its own."""
    with client_of("", **options) as client:
        return client.request(method, url)


def run(program: str, *arguments: str, given: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, `given` on its standard input; a warning makes it fail."""
    return subprocess.run(
        [sys.executable, "-W", "error", f"examples/{program}.py", *arguments],
        cwd=ROOT, env=environment(**settings), input=given, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
