"""What evsession.testing gives to the tests of an application does what its page says."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from evsession import ConfigError, SessionManager, SessionMiddleware, SessionPolicy, SessionTooLarge
from evsession.starlette import SessionMiddleware as DropIn
from evsession.testing import (
    FakeClock,
    authenticated,
    created,
    embedded_server,
    ended,
    happened,
    manager_in,
    memory_manager,
    session_client,
    updated,
)
from evsession.worker import SWEEP_BATCH

ROOT = Path(__file__).parents[2]


async def show(request: Request) -> JSONResponse:
    return JSONResponse(dict(request.session))


async def put(request: Request) -> Response:
    request.session.update(await request.json())
    return Response()


async def leave(request: Request) -> Response:
    request.session.clear()
    return Response()


def app_with(manager: SessionManager, **options: Any) -> Starlette:
    routes = [Route("/", show), Route("/", put, methods=["PUT"]), Route("/out", leave)]
    app = Starlette(routes=routes)
    app.add_middleware(SessionMiddleware, manager=manager, **options)
    return app


def test_a_client_is_somebody_from_its_first_request_on() -> None:
    """No login route is needed, the app's own changes are seen, and events compare without ids and times."""
    with session_client(app_with(memory_manager()), user_id=42, session={"cart": ["tea"]}) as client:
        assert client.get("/").json() == {"cart": ["tea"]}
        client.put("/", json={"theme": "dark"})
        assert client.session == {"cart": ["tea"], "theme": "dark"}
        assert client.info is not None
        assert client.info.user_id == "42"
        assert client.events == [authenticated(42, cart=["tea"]), updated(theme="dark")]
        assert client.events != [authenticated(43, cart=["tea"]), updated(theme="dark")]
        assert client.events[0].recorded is not None
        client.get("/out")
        assert client.session == {}
        assert client.events[-1] == ended("logout")


def test_a_client_without_a_user_has_no_session_until_the_app_makes_one() -> None:
    """As a browser that comes for the first time."""
    with session_client(app_with(memory_manager())) as client:
        assert (client.session, client.session_id, client.info, client.events) == ({}, None, None, [])
        client.put("/", json={"n": 1})
        assert client.events == [created(n=1)]


def test_login_and_logout_are_those_of_a_request() -> None:
    """A login replaces the secret of the same session; a logout ends it and takes the cookie away."""
    with session_client(app_with(memory_manager()), session={"n": 1}) as client:
        before = client.session_id
        client.login("ada", theme="dark")
        assert client.session_id == before
        assert client.get("/").json() == {"n": 1, "theme": "dark"}
        client.logout()
        assert client.get("/").json() == {}
        assert client.events == [created(n=1), authenticated("ada", theme="dark"), ended("logout")]


def test_a_login_raises_what_a_handler_would_see() -> None:
    """Nothing is swallowed on the way, and the client still reaches the app."""
    with session_client(app_with(memory_manager(policy=SessionPolicy(max_bytes=1_000)))) as client:
        with pytest.raises(SessionTooLarge):
            client.login("ada", much="x" * 2_000)
        assert client.get("/").json() == {}


def test_a_revoked_client_keeps_its_dead_cookie() -> None:
    """Its next request finds nothing, and the reason is in the trail."""
    with session_client(app_with(memory_manager()), user_id="ada", session={"n": 1}) as client:
        client.revoke(reason="lost laptop")
        assert client.get("/").json() == {}
        assert client.events[-1] == ended("revoked")
        assert client.events[-1].recorded is not None
        assert client.events[-1].recorded.reason == "lost laptop"


def test_time_travel_ends_sessions() -> None:
    """`advance` moves worker and store, sweeps, and tells `on_ended` before it returns."""
    clock, told = FakeClock(), list[tuple[str, str]]()
    manager = memory_manager(clock, policy=SessionPolicy(idle_timeout=timedelta(minutes=30)))
    manager.on_ended(lambda session_id, cause: told.append((session_id, cause)))
    with session_client(app_with(manager), user_id="ada") as client:
        begun = clock.now
        clock.advance(minutes=29)
        assert told == []
        assert client.info is not None
        clock.advance(minutes=1)
        assert told == [(client.session_id, "idle")]
        assert client.events == [authenticated("ada"), ended("idle")]
        last = client.events[-1].recorded
        assert last is not None
        assert last.at == begun + timedelta(minutes=30)
        assert client.info is None


async def test_one_advance_sweeps_more_than_one_batch() -> None:
    """However many have expired, all have ended when it returns."""
    clock = FakeClock()
    manager = memory_manager(clock)
    ids = [(await manager.create("ada")).id for _ in range(SWEEP_BATCH + 1)]
    clock.advance(timedelta(days=1))
    assert all([happened(await manager.audit.history(id_))[-1].cause for id_ in ids])


async def test_time_travel_works_in_an_async_test() -> None:
    """Nothing needs to be awaited."""
    clock = FakeClock()
    manager = memory_manager(clock)
    session_id = (await manager.create("ada")).id
    clock.advance(hours=1)
    assert happened(await manager.audit.history(session_id)) == [authenticated("ada"), ended("idle")]


def test_time_does_not_go_back() -> None:
    """The error says what to do instead."""
    with pytest.raises(ValueError, match=r"FakeClock\(now=…\)"):
        FakeClock().advance(seconds=-1)


def test_the_manager_is_found_wherever_it_is() -> None:
    """In a middleware, in a mounted app, in an app wrapped by hand, and in a drop-in that has made its own."""
    manager = memory_manager()
    app = app_with(manager)
    drop_in = Starlette()
    drop_in.add_middleware(DropIn, secret_key="the secret of a test that nobody needs to guess")
    assert manager_in(app) is manager
    assert manager_in(Starlette(routes=[Mount("/in", app)])) is manager
    assert manager_in(SessionMiddleware(Starlette(), manager)) is manager
    assert isinstance(manager_in(drop_in), SessionManager)
    with pytest.raises(ConfigError, match="manager=manager"):
        manager_in(Starlette())


def test_a_bearer_client_sends_its_token() -> None:
    """A manager that takes no cookies gets an Authorization header, after a login the new one."""
    manager = memory_manager(transports=("bearer",))
    with session_client(app_with(manager), user_id="ada", session={"n": 1}) as client:
        assert client.get("/").json() == {"n": 1}
        client.login("ada", n=2)
        assert client.get("/").json() == client.session == {"n": 2}


def test_a_client_works_on_a_real_server() -> None:
    """The same test runs where the production code does; the server is gone afterwards."""
    with embedded_server() as url:
        pid = int((Path(url.removeprefix("unix://")).parent / "pid").read_text())
        manager = SessionManager.from_url(url, secret_key=secrets.token_urlsafe(32))
        with session_client(app_with(manager), user_id="ada") as client:
            client.put("/", json={"n": 1})
            client.login("ada", m=2)
            client.revoke()
            assert client.events == [
                authenticated("ada"), updated(n=1), authenticated("ada", m=2), ended("revoked"),
            ]  # fmt: skip
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PROGRAM = """
from datetime import timedelta

from evsession import SessionManager
from evsession.testing import FakeClock


async def one(evsession_manager, evsession_clock):
    created = await evsession_manager.create("ada")
    assert await evsession_manager.get(created.id)
    evsession_clock.advance(hours=1)
    assert await evsession_manager.get(created.id) is None


def test_travel(evsession_manager, evsession_clock):
    import asyncio

    asyncio.run(one(evsession_manager, evsession_clock))


def test_server(evsession_server):
    assert evsession_server.startswith("unix://")
"""


def test_the_plugin_brings_the_fixtures(tmp_path: Path) -> None:
    """In a project that has nothing but pytest; and the package says where pytest finds them."""
    (tmp_path / "test_app.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "evsession.pytest_plugin", str(tmp_path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"evsession": "evsession.pytest_plugin"}


def test_the_plugin_loads_nothing() -> None:
    """Every test run of every project pays for what it imports, and coverage misses what came before it."""
    code = "import sys, evsession.pytest_plugin; print([n for n in sys.modules if n.startswith('evsession')])"
    command, env = [sys.executable, "-c", code], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['evsession', 'evsession.pytest_plugin']"
