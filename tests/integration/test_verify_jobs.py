"""Verifying in several processes: what they are told, and what is left of them however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from evsession import ConfigError, ProcessDied, SessionManager
from evsession.audit import verify as verification
from tests.conftest import until
from tests.integration.test_command_line import KEY, command, settings
from tests.integration.test_verify import filled, manager_on
from tests.servers import Server

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")


@pytest.fixture
async def manager(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SessionManager]:
    """A manager with a log in many small parts."""
    monkeypatch.setattr(verification, "PART", 5)
    async with manager_on(server) as manager:
        await filled(manager, 12)
        yield manager


def children(of: int) -> list[Path]:
    """Return the processes that a process has started and that still run, as folders of /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it is gone meanwhile
            continue
        if int(parent) == of and state != "Z":
            found.append(folder)
    return found


def runs(process: Path) -> bool:
    """Tell whether a process of ours still runs."""
    with suppress(OSError):
        return b"evsession.audit.part" in (process / "cmdline").read_bytes()
    return False


def when(what: str, act: Callable[[], object]) -> Callable[[str, int, int], None]:
    """Return what is told of progress and acts once, when that is being done."""
    waiting = [act]

    def told(now: str, done: int, of: int) -> None:
        if now == what and waiting:
            waiting.pop()()

    return told


def provers() -> list[Path]:
    """Return the processes that prove for this one."""
    return [one for one in children(os.getpid()) if runs(one)]


async def test_the_keys_stand_in_no_command_line_and_no_environment(
    manager: SessionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where everybody on the machine, or whoever reads a crash report, could see them."""
    monkeypatch.setenv("EVSESSION_SECRET_KEY", KEY)
    seen: list[bytes] = []

    def look() -> None:
        for one in provers():
            seen.append((one / "cmdline").read_bytes() + (one / "environ").read_bytes())

    report = await manager.audit.verify(when("proving", look), jobs=2)
    assert report.ok, report.faults
    assert len(seen) == 2
    keys = manager.worker.keys.for_audit().by_id.values()
    secrets = [KEY.encode(), *(key for pair in keys for key in pair)]
    assert not [secret for secret in secrets for text in seen if secret in text or secret.hex().encode() in text]
    assert provers() == []


async def test_a_process_that_is_killed_is_no_fault_of_the_log(manager: SessionManager) -> None:
    """It was not verified, and that is what is said; nothing is left."""

    def kill() -> None:
        os.kill(int(provers()[0].name), signal.SIGKILL)

    for what in ("reading", "proving"):
        with pytest.raises(ProcessDied, match="killed by signal 9") as caught:
            await manager.audit.verify(when(what, kill), jobs=2)
        assert caught.value.code == -9
        assert provers() == []
    assert (await manager.audit.verify(jobs=2)).ok


@pytest.mark.parametrize("what", ["reading", "proving"])
async def test_whoever_stops_waiting_leaves_no_process(manager: SessionManager, what: str) -> None:
    """As Ctrl-C does."""
    with anyio.CancelScope() as scope:
        await manager.audit.verify(when(what, scope.cancel), jobs=2)
    assert scope.cancelled_caught
    assert provers() == []


async def test_a_small_log_is_verified_here(server: Server) -> None:
    """A process more would take longer than that; and none at all verify nothing."""
    seen: list[Path] = []
    async with manager_on(server) as manager:
        await filled(manager, 3)
        report = await manager.audit.verify(when("proving", lambda: seen.extend(provers())), jobs=8)
        assert (report.ok, report.sessions, seen) == (True, 3, [])
        with pytest.raises(ConfigError, match="pass 1 to verify in this process"):
            await manager.audit.verify(jobs=0)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_command_takes_the_number_of_processes(manager: SessionManager, server: Server) -> None:
    """And says the same with any."""
    for jobs in ("1", "2"):
        done = await command("verify", "--jobs", jobs, **settings(server))
        assert done.exit_code == 0, done.output
        assert "64 events and 12 snapshots of 12 sessions" in done.output
    assert (await command("verify", "--jobs", "0", **settings(server))).exit_code == 2


PROGRAM = """
import resource, signal, sys
from evsession.audit import verify
from evsession.cli.app import app
verify.PART = 5
if "full" in sys.argv[1:2]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
if "slow" in sys.argv[1:2]:
    verify.Verification._end = lambda self: __import__("anyio").sleep(60)
app(["verify", "--jobs", "2"])
"""


def program(server: Server, how: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command in a process of its own, with small parts."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how], env=dict(os.environ) | settings(server), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
async def test_nothing_is_left_of_a_command_that_is_stopped(
    manager: SessionManager, server: Server, by: signal.Signals, code: int
) -> None:
    """By Ctrl-C, or by what nobody can catch; its files had no names."""
    running = program(server, "slow")
    await until(lambda: len(children(running.pid)) == 2, "the command's two processes")
    processes = children(running.pid)
    running.send_signal(by)
    output, errors = await anyio.to_thread.run_sync(running.communicate)
    assert running.returncode == code, errors
    assert (output, errors) == ("", "")
    await until(lambda: not any(runs(one) for one in processes), "the end of its processes")


async def test_a_full_disk_is_said_in_one_line(manager: SessionManager, server: Server) -> None:
    """With the way out, and code 1: nothing was found out."""
    running = program(server, "full")
    output, errors = await anyio.to_thread.run_sync(running.communicate)
    assert (running.returncode, output) == (1, "")
    assert errors.startswith("evsession: ")
    assert "TMPDIR" in errors
    assert errors.count("\n") == 1
