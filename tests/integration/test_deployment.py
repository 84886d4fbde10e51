"""The ways in which applications are run: prefork servers, reload, test clients, forks, shared embedded servers."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from evsession import CookiePolicy, SessionManager, SessionMiddleware
from tests.servers import NAMES, Server, find_binaries

ROOT = Path(__file__).parents[2]
SECRET = "a secret key of the deployment tests, of 32 characters and more"
PATIENT = 60.0
"""Seconds that a program may take on a machine that is busy with other tests."""

COMPLAINTS = re.compile(r"Warning|Traceback|was destroyed|never retrieved|never awaited|Exception ignored")

APP = f"""
import os
from datetime import timedelta

from fastapi import FastAPI, Request

from evsession import CookiePolicy, SessionManager, SessionMiddleware, StorePolicy

MARK = "first"
manager = SessionManager.from_url(
    os.environ["URL"],
    secret_key="{SECRET}",
    cookie=CookiePolicy.for_localhost(),
    patience=StorePolicy(
        command_timeout=timedelta(seconds=10),
        connect_timeout=timedelta(seconds=10),
        commit_timeout=timedelta(seconds=20),
    ),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)


@app.get("/whoami")
def whoami(request: Request):
    return {{"worker": manager.worker.id, "pid": os.getpid(), "mark": MARK, "held": dict(request.session)}}


@app.get("/login/{{user}}")
def login(request: Request, user: str):
    request.session.login(user)


@app.get("/add/{{key}}")
def add(request: Request, key: str):
    request.session[key] = os.getpid()


@app.get("/logout")
async def logout(request: Request):
    request.session.logout()
"""


@pytest.fixture(scope="module")
def kept_server() -> Iterator[Server]:
    """Return a server that keeps its data, so that no advice is due."""
    config = {"appendonly": "yes", "min-replicas-to-write": "0"}
    with Server.start(find_binaries()[NAMES[0]], config=config) as server:
        yield server


def eventually(condition: Callable[[], object], what: str, timeout: float = PATIENT) -> None:
    """Return once the condition holds; fail the test after `timeout` seconds, naming `what`."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"gave up after {timeout} s waiting for: {what}")
        time.sleep(0.02)


class Deployment:
    """A running server program, its address, and what it wrote to its standard error."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.process = process
        self._errors = errors
        self.address = ""

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._errors.read_text()

    @property
    def complaints(self) -> str:
        """The log without what uvicorn's parent process says of itself: it never closes the socket it listens on."""
        port = self.address.rpartition(":")[2]
        socket = rf"<socket\.socket fd=\d+, family=2, type=1, proto=0, laddr=\('127\.0\.0\.1', {port}\)>"
        return re.sub(rf"Exception ignored in: {socket}\nResourceWarning: unclosed {socket}\n", "", self.log)

    def listens(self) -> bool:
        """Tell whether it has said where it listens, and answers there."""
        assert self.process.poll() is None, self.log
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.log)
        self.address = found[0] if found else ""
        try:
            return bool(found) and httpx.get(f"{self.address}/whoami", timeout=PATIENT).status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, cookies: httpx.Cookies | None = None) -> httpx.Response:
        """Send one request over a connection of its own, so that any worker may answer."""
        with httpx.Client(cookies=cookies, timeout=PATIENT) as client:
            response = client.get(f"{self.address}{path}")
            assert response.status_code == 200, (response.text, self.log)
            return response


@contextmanager
def deployed(folder: Path, server: Server, *command: str, app: str = APP) -> Iterator[Deployment]:
    """Run a server program on the application, with warnings as errors; afterwards it must have nothing to say."""
    (folder / "shop.py").write_text(app)
    errors = folder / "errors.txt"
    environment = {
        **os.environ,
        "URL": server.url,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "PYTHONWARNINGS": "error",
    }
    environment.pop("PYTHONASYNCIODEBUG", None)
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file,
            stderr=file, start_new_session=True,
        )  # fmt: skip
    deployment = Deployment(process, errors)
    try:
        eventually(deployment.listens, "the server answers")
        yield deployment
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert not COMPLAINTS.search(deployment.complaints), deployment.log


def _serve_one_visitor_on_all(deployment: Deployment, workers: int) -> None:
    """Sign in on some worker, write on all, and find everything on each."""
    cookies = deployment.get("/login/ann").cookies
    pids: set[int] = set()
    ids: set[str] = set()

    def all_have_written() -> bool:
        pid = deployment.get("/whoami").json()["pid"]
        response = deployment.get(f"/add/key{len(pids)}", cookies)
        cookies.update(response.cookies)
        held = deployment.get("/whoami", cookies).json()["held"]
        pids.update(value for key, value in held.items() if key.startswith("key"))
        assert pid
        return len(pids) == workers

    eventually(all_have_written, f"{workers} workers have written")
    held = deployment.get("/whoami", cookies).json()["held"]

    def all_have_read() -> bool:
        answer = deployment.get("/whoami", cookies).json()
        assert answer["held"] == held
        ids.add(answer["worker"])
        return len(ids) == workers

    eventually(all_have_read, f"{workers} workers, each with an id of its own, have answered")
    deployment.get("/logout", cookies)
    for _ in range(4 * workers):
        assert deployment.get("/whoami", cookies).json()["held"] == {}


def test_gunicorn_with_preload(tmp_path: Path, kept_server: Server) -> None:
    """The application is imported before the fork; each worker has connections and an id of its own."""
    command = (
        "gunicorn",
        "shop:app",
        "--preload",
        "-k",
        "uvicorn_worker.UvicornWorker",
        "-w",
        "2",
        "-b",
        "127.0.0.1:0",
    )
    with deployed(tmp_path, kept_server, *command) as deployment:
        _serve_one_visitor_on_all(deployment, 2)


def test_uvicorn_with_two_workers(tmp_path: Path, kept_server: Server) -> None:
    """Two processes share the sessions."""
    with deployed(tmp_path, kept_server, "uvicorn", "shop:app", "--port", "0", "--workers", "2") as deployment:
        _serve_one_visitor_on_all(deployment, 2)


def test_uvicorn_with_reload(tmp_path: Path, kept_server: Server) -> None:
    """After a change of the source the new process goes on with the session."""
    with deployed(tmp_path, kept_server, "uvicorn", "shop:app", "--port", "0", "--reload") as deployment:
        cookies = deployment.get("/add/colour").cookies
        before = deployment.get("/whoami", cookies).json()
        (tmp_path / "shop.py").write_text(APP.replace('"first"', '"second"'))

        def is_reloaded() -> bool:
            try:
                return bool(deployment.get("/whoami").json()["mark"] == "second")
            except httpx.TransportError:
                return False

        eventually(is_reloaded, "the changed source is served")
        after = deployment.get("/whoami", cookies).json()
        assert after["held"] == before["held"]
        assert after["worker"] != before["worker"]


# ── test clients ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["memory", "server"])
def app(request: pytest.FixtureRequest) -> FastAPI:
    """Return an application of `def` endpoints, in memory and on a real server."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue("kept_server").url
    manager = SessionManager.from_url(url, secret_key=SECRET, cookie=CookiePolicy.for_localhost())
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager)

    @app.get("/read")
    def read(request: Request) -> dict[str, Any]:
        return dict(request.session)

    @app.get("/set/{key}/{value}")
    def set_(request: Request, key: str, value: int) -> None:
        request.session[key] = value

    @app.get("/login/{user}")
    def login(request: Request, user: str) -> None:
        request.session.login(user)  # type: ignore[attr-defined]

    return app


@pytest.fixture
def nothing_is_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test after which asyncio has anything to report."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.get_records("call") if record.name == "asyncio"] == []


def _visit(client: TestClient) -> None:
    assert client.get("/read").json() == {}
    assert client.get("/set/n/1").status_code == 200
    assert client.get("/login/ann").status_code == 200
    for number in range(5):
        assert client.get(f"/set/key{number}/{number}").status_code == 200
    assert client.get("/read").json() == {"n": 1, **{f"key{number}": number for number in range(5)}}


@pytest.mark.usefixtures("nothing_is_left")
def test_a_test_client_in_a_with_block(app: FastAPI) -> None:
    """One event loop for all requests, with startup and shutdown; twice, because it may be started again."""
    for _ in range(2):
        with TestClient(app) as client:
            _visit(client)


@pytest.mark.usefixtures("nothing_is_left")
def test_a_test_client_without_a_with_block(app: FastAPI) -> None:
    """A new event loop for each request, and no startup: what the dead loop left is discarded."""
    _visit(TestClient(app))


@pytest.mark.usefixtures("nothing_is_left")
def test_both_kinds_of_test_client_in_turn(app: FastAPI) -> None:
    """A session made in one kind is there in the other."""
    with TestClient(app) as client:
        _visit(client)
        cookies = client.cookies
    lonely = TestClient(app, cookies=cookies)
    assert lonely.get("/read").json()["n"] == 1
    with TestClient(app, cookies=lonely.cookies) as client:
        assert client.get("/read").json()["n"] == 1


# ── forks and shared servers ─────────────────────────────────────────────────────────────────────────────────────────


def _run(program: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONASYNCIODEBUG", None)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", dedent(program), *arguments], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


FORKS = f"""
    import asyncio, gc, json, os, sys
    from evsession import SessionManager

    manager = SessionManager.from_url(sys.argv[1], secret_key="{SECRET}", namespace="forks")

    async def bump(sid):
        return await manager.update(sid, lambda data: data.update(n=data["n"] + 1) or data["n"])

    async def child(sid):
        gc.collect()
        counted = [await bump(sid) for _ in range(5)]
        result = json.dumps([manager.worker.id, counted, (await manager.health()).ready])
        await manager.stop()
        return result

    async def main():
        async with manager:
            session = await manager.create(data={{"n": 0}})
            await bump(session.id)
            before = manager.worker.id
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    print(asyncio.run(child(session.id)), flush=True)
                    gc.collect()
                    code = 0
                finally:
                    os._exit(code)
            _, status = os.waitpid(pid, 0)
            counted = [await bump(session.id) for _ in range(5)]
            print(json.dumps([manager.worker.id, counted, status]), flush=True)
            assert manager.worker.id == before

    asyncio.run(main())
"""


def test_a_fork_after_the_start_is_a_worker_of_its_own(kept_server: Server) -> None:
    """The child gets an id and connections of its own; the parent's go on untouched."""
    process = _run(FORKS, kept_server.url)
    output, errors = process.communicate(timeout=PATIENT)
    assert not errors, errors
    child, parent = (json.loads(line) for line in output.splitlines())
    assert child[0] != parent[0]
    assert child[1:] == [[2, 3, 4, 5, 6], True]
    assert parent[1:] == [[7, 8, 9, 10, 11], 0]


EMBEDDED = """
    import asyncio, sys
    from evsession import SessionManager

    def bump(data):
        data["n"] += 1
        return data["n"]

    async def main():
        async with SessionManager.from_url(f"embedded://{sys.argv[1]}") as manager:
            print("ready", flush=True)
            sid = ""
            while line := await asyncio.to_thread(sys.stdin.readline):
                if line == "create\\n":
                    sid = (await manager.create(data={"n": 0})).id
                    print(sid, flush=True)
                else:
                    print(await manager.update(line.strip(), bump), flush=True)

    asyncio.run(main())
"""


def _tell(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def _ready(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return an empty directory for an embedded server, which is killed should a test leave it running."""
    directory = tmp_path_factory.mktemp("e")
    yield directory
    pid = directory / "pid"
    if pid.exists() and _is_running(int(pid.read_text())):
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_an_embedded_server_is_shared_and_stops_with_its_last_user(directory: Path) -> None:
    """The first process starts it, both see the same sessions, the last one that ends stops it."""
    first = _ready(_run(EMBEDDED, str(directory)))
    second = _ready(_run(EMBEDDED, str(directory)))
    pid = int((directory / "pid").read_text())
    sid = _tell(first, "create")
    assert [_tell(process, sid) for process in (first, second, first, second)] == ["1", "2", "3", "4"]
    assert first.communicate(timeout=PATIENT)[1] == ""
    assert _is_running(pid)
    assert _tell(second, sid) == "5"
    assert second.communicate(timeout=PATIENT)[1] == ""
    eventually(lambda: not _is_running(pid), "the server is gone")
    third = _ready(_run(EMBEDDED, str(directory)))
    assert _tell(third, sid) == "6"
    assert third.communicate(timeout=PATIENT)[1] == ""


def test_a_killed_process_leaves_the_embedded_server_to_the_others(directory: Path) -> None:
    """SIGKILL of the one that started it changes nothing for the other, which still stops it in the end."""
    first = _ready(_run(EMBEDDED, str(directory)))
    second = _ready(_run(EMBEDDED, str(directory)))
    pid = int((directory / "pid").read_text())
    sid = _tell(first, "create")
    first.kill()
    first.communicate(timeout=PATIENT)
    assert _is_running(pid)
    assert _tell(second, sid) == "1"
    assert second.communicate(timeout=PATIENT)[1] == ""
    eventually(lambda: not _is_running(pid), "the server is gone")
