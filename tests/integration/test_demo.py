"""The command line as a person has it: the demo's story, its end however it comes, `history`, and its errors."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pytest

from evsession import SessionManager
from tests.conftest import until
from tests.servers import Server

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "evsession.cli"]
KEY = "a-secret-key-for-tests-32-characters"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return what a command did."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder for temporary files, of a short name: a unix socket's path may have 108 bytes."""
    with TemporaryDirectory(prefix="evs-") as name:
        yield Path(name)


def test_the_story_holds(folder: Path) -> None:
    """Login, shared reads, parallel writes, logout, refused late writes, and nothing is left behind."""
    done = run("demo", "--check", "--json", TMPDIR=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["held"]
    assert len(report["steps"]) >= 11
    assert all(step["held"] for step in report["steps"])
    assert [event["type"] for event in (report["events"][0], report["events"][-1])] == ["authenticated", "ended"]
    told = next(step for step in report["steps"] if "receipt" in step["figures"])
    assert told["figures"]["receipt"].startswith("2 of 2 workers in ")
    assert told["figures"]["sockets"] == "2 closed: 4401 revoked"
    assert "BROKEN" not in done.stderr
    assert "Traceback" not in done.stderr
    assert list(folder.iterdir()) == []


@contextmanager
def shown_demo(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run the demo as a person does, and give the process and the workers' addresses."""
    process = subprocess.Popen(
        [*COMMAND, "demo"], cwd=ROOT, env=os.environ | {"TMPDIR": str(folder)}, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process, addresses_in(process)
        finally:
            process.kill()


def addresses_in(process: subprocess.Popen[str]) -> list[str]:
    """Read what the demo prints until it has named both workers."""
    addresses: list[str] = []
    assert process.stdout is not None
    while len(addresses) < 2:
        line = process.stdout.readline()
        assert line, "the demo ended before it named its workers"
        addresses += re.findall(r"http://[\d.:]+", line)
    return addresses


def answers(address: str) -> bool:
    """Tell whether anybody listens there."""
    parts = urlsplit(address)
    with socket.socket() as client:
        return client.connect_ex((parts.hostname, parts.port)) == 0


def server_pid(folder: Path) -> int:
    """Return the process id of the demo's embedded server."""
    return int(next(folder.glob("*/pid")).read_text())


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it(folder: Path, number: signal.Signals) -> None:
    """Ctrl-C and a polite kill stop workers and server, remove the data and exit with 0."""
    with shown_demo(folder) as (process, addresses):
        assert all(answers(address) for address in addresses)
        pid = server_pid(folder)
        process.send_signal(number)
        assert process.wait(60) == 0
        assert not any(answers(address) for address in addresses)
        assert not is_running(pid)
        assert list(folder.iterdir()) == []


async def test_a_killed_demo_leaves_no_process(folder: Path) -> None:
    """After SIGKILL the workers notice by themselves, and the last of them stops the server."""
    with shown_demo(folder) as (process, addresses):
        pid = server_pid(folder)
        process.kill()
        await until(lambda: not any(answers(address) for address in addresses), "the workers to end")
        await until(lambda: not is_running(pid), "the server to end")


def test_a_taken_port_is_said() -> None:
    """The error names the port and the way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("demo", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} cannot be used" in done.stderr
    assert "choose another --port" in done.stderr


def test_without_the_extra_one_line_says_how_to_get_it() -> None:
    """No traceback: the command needs typer and rich, and they come with an extra."""
    program = "import sys; sys.modules['typer'] = None; from evsession.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "the evsession command needs typer; pip install 'evsession[cli]'\n"


def test_the_version_is_printed() -> None:
    """`evsession --version` names the program."""
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("evsession")


async def test_history_is_printed(server: Server) -> None:
    """`evsession history` shows the events of a session on the store that the environment names."""
    url = server.url
    async with SessionManager.from_url(url, secret_key=KEY, namespace="cli") as manager:
        session = await manager.create(
            user_id="ada", data={"cart": ["tea"], "api_token": "canary", "note": "\x1b[2J\x9b"}
        )
        await manager.revoke(session.id, reason="lost phone")
    names = {"EVSESSION_URL": url, "EVSESSION_SECRET_KEY": KEY, "EVSESSION_NAMESPACE": "cli"}
    table = run("history", session.id, COLUMNS="200", **names)
    assert table.returncode == 0, table.stderr
    assert "authenticated" in table.stdout
    assert "lost phone" in table.stdout
    assert "\x1b[2J" not in table.stdout
    assert "\x9b" not in table.stdout
    events = [json.loads(line) for line in run("history", session.id, "--json", **names).stdout.splitlines()]
    assert [(event["version"], event["type"]) for event in events] == [(1, "authenticated"), (2, "ended")]
    assert events[0]["set"]["cart"] == ["tea"]
    assert events[0]["set"]["api_token"].startswith("redacted:")
    assert events[1]["cause"] == "revoked"


@pytest.mark.parametrize(
    ("session", "url", "says"),
    [
        ("00" + "A" * 22, "", "or set EVSESSION_URL"),
        ("00" + "A" * 22, "memory://", "has no events of session"),
        ("00" + "A" * 22 + "." + "A" * 43, "memory://", "pass the public id"),
    ],
)
def test_what_history_cannot_do_is_said(session: str, url: str, says: str) -> None:
    """One line, exit code 1, the way out, and never the cookie that somebody pasted."""
    done = run("history", session, **({"EVSESSION_URL": url} if url else {}))
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert "A" * 43 not in done.stderr
