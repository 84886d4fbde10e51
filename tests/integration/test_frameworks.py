"""As the session layer of others: Litestar, Authlib, sqladmin and starlette-admin run on the examples' programs."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest
from starlette.testclient import TestClient

from evsession import MemoryStore, SessionManager, SessionMiddleware
from evsession.starlette import SessionMiddleware as DropIn
from tests.integration.apps import types_of

HOW = "make frameworks installs it"


def program(name: str, needs: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return an example, with the default store, or skip the test where its framework is not installed."""
    pytest.importorskip(needs, reason=HOW)
    monkeypatch.delenv("EVSESSION_URL", raising=False)
    return import_module(f"examples.{name}")


def session_id_in(client: TestClient) -> str:
    """Return the id in a client's cookie."""
    return client.cookies["session"][:24]


async def test_litestar(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of its middlewares: cart, login, logout, errors, and the manager's life in Litestar's lifespan."""
    example = program("litestar_app", "litestar", monkeypatch)
    with TestClient(example.app) as client:
        assert client.get("/me").status_code == 401
        assert client.post("/cart/tea").json() == ["tea"]
        planted = client.cookies["session"]
        assert client.post("/login/ada").json() == {"hello": "ada"}
        assert client.post("/cart/milk").json() == ["tea", "milk"]
        assert (client.get("/me").text, client.get("/me").headers["vary"]) == ("ada", "Cookie")
        sid = session_id_in(client)
        client.post("/logout")
        assert client.get("/me").status_code == 401
        assert TestClient(example.app, cookies={"session": planted}).get("/me").status_code == 401
    assert await types_of(example.manager, sid) == ["created", "authenticated", "updated", "ended"]


def test_litestar_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Around the whole application, as around any other; then it needs no lifespan of its own, and has sockets too."""
    program("litestar_app", "litestar", monkeypatch)
    from litestar import Litestar, Request, WebSocket, post, websocket

    @post("/count")
    async def count(request: Request[Any, Any, Any]) -> int:
        request.session["n"] = request.session.get("n", 0) + 1
        return int(request.session["n"])

    @websocket("/socket")
    async def socket(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        socket.session["n"] += 10
        await socket.send_json(socket.session["n"])
        await socket.close()

    manager = SessionManager(MemoryStore())
    litestar: Any = Litestar([count, socket])
    with TestClient(SessionMiddleware(litestar, manager), base_url="https://testserver") as client:
        assert [client.post("/count").json() for _ in range(2)] == [1, 2]
        with client.websocket_connect("wss://testserver/socket") as connection:
            assert connection.receive_json() == 12
        assert client.post("/count").json() == 13


async def test_authlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """State and verifier survive the way to the provider and back, once, and the log does not hold them."""
    example = program("oauth_login", "authlib", monkeypatch)
    client = TestClient(example.app)
    begun = client.get("/login", follow_redirects=False)
    code = client.get(begun.headers["location"], follow_redirects=False)
    before = dict(client.cookies)
    assert client.get(code.headers["location"]).json() == {
        "user": "ada", "names": ["user:ada", "idp:http://idp|visit-1"], "data": {"name": "Ada"},
    }  # fmt: skip
    assert client.get(code.headers["location"]).status_code == 400, "a callback counts once"
    thief = TestClient(example.app, cookies=before)
    assert thief.get("/me").json()["user"] is None, "the cookie of before the sign-in is dead"
    history = await example.manager.audit.history(session_id_in(client))
    assert [event.type for event in history] == ["created", "authenticated"]
    verifier = re.compile("code_verifier")
    assert not any(verifier.search(repr(event.set)) for event in history)


async def test_sqladmin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own middleware left out: sign in, look, be revoked, sign in, sign out."""
    example = program("admin_sqladmin", "sqladmin", monkeypatch)
    client = TestClient(example.app, follow_redirects=False)
    await _be_staff(client, example.manager, {"username": "joe"}, "/admin/book/list", "GET")


async def test_starlette_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with its own cookies beside ours."""
    example = program("admin_starlette_admin", "starlette_admin", monkeypatch)
    client = TestClient(example.app, follow_redirects=False)
    (csrf,) = re.findall(r'name="csrftoken" value="([^"]+)"', client.get("/admin/login").text)
    await _be_staff(client, example.manager, {"username": "joe", "csrftoken": csrf}, "/admin/", "POST")


async def _be_staff(
    client: TestClient, manager: SessionManager, form: dict[str, str], page: str, leave_by: str
) -> None:
    assert client.get(page).status_code in (302, 303)
    assert client.post("/admin/login", data=form | {"password": "wrong"}).status_code in (400, 422)
    for ending in ("revoked", "logout"):
        assert client.post("/admin/login", data=form | {"password": "correct horse"}).status_code in (302, 303)
        assert client.get(page).status_code == 200
        sid = session_id_in(client)
        if ending == "revoked":
            await manager.revoke(sid, reason="left the company")
        else:
            left = client.request(leave_by, "/admin/logout", data=form if leave_by == "POST" else None)
            assert left.status_code in (302, 303)
        assert client.get(page).status_code in (302, 303)
        assert (await manager.audit.history(sid))[-1].cause == ending


def test_sqladmin_with_the_drop_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What sqladmin installs by itself is Starlette's class; the drop-in takes its place with the same arguments."""
    example = program("admin_sqladmin", "sqladmin", monkeypatch)
    from sqladmin import Admin
    from starlette.applications import Starlette
    from starlette.middleware import Middleware

    backend = example.Staff(example.manager)
    backend.middlewares = [Middleware(DropIn, secret_key="secret")]
    app = Starlette()
    Admin(app, example.engine, authentication_backend=backend)
    client = TestClient(app, follow_redirects=False)
    client.post("/admin/login", data={"username": "joe", "password": "correct horse"})
    assert client.get("/admin/").status_code == 200
    cleared = client.get("/admin/logout").headers["set-cookie"]
    assert cleared.startswith("session=null; path=/; expires=")
    assert client.get("/admin/").status_code == 302
