"""The tutorial's programs, as they would be written, over real HTTP; and what their backend gets to see."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from evsession import ConfigError, SessionManager, Unsupported, session_of
from evsession.compat.fastapi_sessions import (
    InMemoryBackend,
    InmemoryBackend,
    SessionAutoloadMiddleware,
    SessionMiddleware,
)
from evsession.stores.snapshots import digest_of
from tests.integration.programs import client_of, serving


def play(client: httpx.Client) -> str:
    """Sign in, look, sign out, and check every answer; return the cookie that was used."""
    assert client.get("/profile").status_code == 401
    response = client.post("/login")
    assert response.headers["set-cookie"].startswith("my_app_session=")
    assert "secure" not in response.headers["set-cookie"]
    for _ in range(2):
        assert client.get("/profile").json() == {"user_id": 42, "username": "ada"}
    cookie = client.cookies["my_app_session"]
    assert "set-cookie" in client.post("/logout").headers
    assert client.get("/profile").status_code == 401
    assert client.get("/profile", headers={"cookie": f"my_app_session={cookie}"}).status_code == 401
    return cookie


def test_the_first_program_runs_as_it_is_written(tmp_path: Path) -> None:
    """With sessions in memory, over real HTTP."""
    with serving("tutorial_memory", tmp_path) as address, client_of(address) as client:
        play(client)


def test_the_second_program_runs_as_it_is_written(tmp_path: Path) -> None:
    """With a backend of three coroutines, a service that answers them, and two workers that share it."""
    with ExitStack() as stack:
        url = stack.enter_context(serving("session_service", tmp_path))
        service = stack.enter_context(client_of(url))
        workers = [
            stack.enter_context(serving("tutorial_backend", tmp_path, f"worker-{n}", SESSION_SERVICE=url)) for n in "12"
        ]
        one, two = (stack.enter_context(client_of(worker)) for worker in workers)
        cookie = play(one)
        assert service.get("/sessions").json() == 0
        one.post("/login")
        two.cookies = one.cookies
        assert two.get("/profile").json() == {"user_id": 42, "username": "ada"}
        sid = one.cookies["my_app_session"][:24]
        assert service.get("/sessions").json() == 1
        assert (sid in cookie) is False
        kept = service.get(f"/sessions/{digest_of(sid)}")
        assert one.cookies["my_app_session"].split(".")[1] not in kept.text
        service.delete(f"/sessions/{digest_of(sid)}")
        assert [client.get("/profile").status_code for client in (one, two)] == [401, 401]


# ── without HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def visit(request: Request) -> Response:
    """Count."""
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse(request.session["n"])


def app_with(*middlewares: tuple[Any, dict[str, Any]]) -> Starlette:
    """Return an app that counts, with middlewares, the first one innermost."""
    app = Starlette(routes=[Route("/", visit)])
    for kind, options in middlewares:
        app.add_middleware(kind, **options)
    return app


SESSIONS: tuple[Any, dict[str, Any]] = (
    SessionMiddleware,
    {"secret_key": b"key", "cookie_name": "my_app_session", "cookie_https_only": False},
)


@pytest.mark.parametrize(
    "middlewares",
    [
        [(SessionAutoloadMiddleware, {"secret_key": "simple"})],
        [(SessionAutoloadMiddleware, {"secret_key": "simple", "backend": InmemoryBackend()})],
        [SESSIONS, (SessionAutoloadMiddleware, {})],
        [(SessionAutoloadMiddleware, {}), SESSIONS],
        [(SessionAutoloadMiddleware, {"secret_key": b"key"}), SESSIONS],
        [(SessionMiddleware, SESSIONS[1] | {"backend": InMemoryBackend(), "autoload_cookie": False})],
        [(SessionMiddleware, SESSIONS[1] | {"secret_key": ["new", "old"], "max_age": None})],
    ],
)
def test_every_way_to_write_it_counts(middlewares: list[Any]) -> None:
    """In memory, over plain http, with either class or both, in any order."""
    client = TestClient(app_with(*middlewares))
    (cookie,) = client.get("/").headers.get_list("set-cookie")
    name = "my_app_session" if any(kind is SessionMiddleware for kind, _ in middlewares) else "session"
    assert cookie.startswith(f"{name}="), "of the two, SessionMiddleware counts"
    assert [client.get("/").json() for _ in range(2)] == [2, 3]


def test_a_memory_that_is_shared_by_hand_is_one() -> None:
    """Two apps that were given one backend and one secret have the same sessions."""
    backend = InMemoryBackend()
    one, two = (TestClient(app_with((SessionMiddleware, SESSIONS[1] | {"backend": backend}))) for _ in range(2))
    assert one.get("/").json() == 1
    two.cookies = one.cookies
    assert two.get("/").json() == 2


def test_one_memory_under_two_secrets_is_refused() -> None:
    """Within each other they would overwrite each other's cookie."""
    options = {"backend": InMemoryBackend(), "cookie_https_only": False}
    app = app_with(
        (SessionMiddleware, options | {"secret_key": "a"}), (SessionMiddleware, options | {"secret_key": "b"})
    )
    with pytest.raises(ConfigError):
        TestClient(app).get("/")


@pytest.mark.parametrize(
    ("make", "way_out"),
    [
        (lambda app: SessionMiddleware(app, "k", backend=object()), "add async def get_session_data"),  # type: ignore[arg-type]
        (lambda app: SessionAutoloadMiddleware(app, backend=InMemoryBackend()), "needs secret_key="),
        (lambda app: SessionMiddleware(app, "k", cookie_https_only=False, cookie_same_site="none"), "use secure=True"),
    ],
)
def test_what_cannot_work_is_refused_at_start(make: Callable[[Any], Any], way_out: str) -> None:
    """The text says what can."""
    with pytest.raises(ConfigError, match=way_out):
        make(Starlette())


class Shelf:
    """The smallest backend."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    async def get_session_data(self, session_id: str) -> dict[str, Any] | None:
        return self.kept.get(session_id)

    async def save_session_data(self, session_id: str, data: dict[str, Any]) -> None:
        self.kept[session_id] = data

    async def delete_session_data(self, session_id: str) -> None:
        self.kept.pop(session_id, None)


def test_what_needs_a_log_is_refused_to_a_backend(caplog: pytest.LogCaptureFixture) -> None:
    """With what to do instead; and a short secret is warned of, because the backend is not this process."""
    middleware = SessionMiddleware(Starlette(routes=[Route("/", history)]), b"short", backend=Shelf())
    assert "use at least 32" in caplog.text
    client = TestClient(middleware, base_url="https://testserver")
    with pytest.raises(Unsupported, match=r"the history of a session is not supported here; .* url='redis://…'"):
        client.get("/")


async def history(request: Request) -> Response:
    """Ask for what only a log knows."""
    session = session_of(request)
    session["n"] = 1
    await session.save()
    manager: SessionManager = request.scope["evsession.installed"][0]
    return JSONResponse(len(await manager.audit.history(str(session.info.id))))
