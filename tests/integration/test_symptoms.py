"""Troubleshooting, symptom by symptom: what the page says is logged or answered is what happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import PlainTextResponse, Response

from evsession import (
    ConfigError,
    CookiePolicy,
    MemoryStore,
    Session,
    SessionDetached,
    SessionManager,
    SessionMiddleware,
    SessionPolicy,
    session_of,
)
from evsession.fastapi import CurrentSession, CurrentUserId, require_csrf
from evsession.keys import Keyring
from evsession.worker import check_meta
from tests.integration.apps import KEY, Clock, in_memory
from tests.servers import Server

RING = Keyring(KEY, namespace="shop")
KNOWN = {"application": "shop", "format": "1", "key:0123456789abcdef": "1"}
PAGE = (Path(__file__).parents[2] / "docs/how-to/troubleshooting.md").read_text()


def said(phrase: str) -> str:
    """Return a phrase that a reader of the page would look for."""
    assert f"`{phrase}" in PAGE, f"the page has no {phrase!r}"
    return phrase


def shop(manager: SessionManager | None = None) -> FastAPI:
    """Return an app that goes wrong in every way that the page knows."""
    manager = manager or SessionManager.from_url("memory://", cookie=CookiePolicy.for_localhost())
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager)

    @app.post("/login/{user}")
    async def login(session: CurrentSession, user: str) -> None:
        session.login(user)

    @app.post("/cart")
    async def cart(session: CurrentSession) -> None:
        session["cart"] = ["tea"]

    @app.post("/default")
    async def default(session: CurrentSession) -> int:
        session.get("cart", []).append("tea")
        return len(session.info.changes.set_)

    @app.post("/late")
    async def late(session: CurrentSession) -> Response:
        def after() -> None:
            session["cart"] = ["tea"]

        return PlainTextResponse("", background=BackgroundTask(after))

    @app.get("/keys")
    async def keys(session: CurrentSession) -> list[str]:
        return sorted(session)

    @app.get("/me")
    async def me(user: CurrentUserId) -> str:
        return user

    @app.post("/user-by-key")
    async def by_key(request: Request) -> None:
        request.session["user_id"] = 42

    @app.post("/pay", dependencies=[require_csrf()])
    async def pay() -> None:
        return

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(sorted(websocket.session))

    return app


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(shop(), raise_server_exceptions=False) as client:
        yield client


# ── my session is not saved ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_default_that_is_changed_is_not_in_the_session(client: TestClient) -> None:
    """And no change is pending."""
    assert client.post("/default").json() == 0
    assert client.get("/keys").json() == []


def test_a_session_that_begins_too_late(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """The line names the key and the reason."""
    client.post("/late")
    assert said("a new session needs a cookie, and the response has started") in caplog.text
    assert 'dropped changes of keys ["cart"]' in caplog.text


def test_a_client_that_keeps_an_old_token(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """As one does that ignores Set-Cookie; and so does one whose session has ended."""
    client.post("/cart")
    old = dict(client.cookies)
    client.post("/login/ada")
    TestClient(client.app, cookies=old).post("/cart")
    assert said("dropped changes of keys") in caplog.text
    assert said('dropped changes of keys ["cart"] in session ') in caplog.text


def test_a_session_that_is_kept_after_its_request() -> None:
    """It says where to go on."""
    kept: list[Session] = []
    app = shop()

    @app.post("/keep")
    async def keep(session: CurrentSession) -> None:
        kept.append(session)

    TestClient(app).post("/keep")
    with pytest.raises(SessionDetached, match=r"manager\.update\(id, change\)"):
        kept[0]["cart"] = []
    said("SessionDetached")


@pytest.mark.parametrize("reads_scope", [True, False])
def test_a_middleware_that_asks_too_early(reads_scope: bool) -> None:
    """Starlette's own words, or ours."""
    app = shop()

    class Reader(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            if reads_scope:
                request.session.get("user")
            else:
                session_of(request)
            return await call_next(request)

    app.add_middleware(Reader)
    expected = said("SessionMiddleware must be installed") if reads_scope else said("there is no evsession session")
    with pytest.raises((AssertionError, ConfigError), match=expected):
        TestClient(app).get("/keys")


# ── the next request has no session ──────────────────────────────────────────────────────────────────────────────────


def test_a_secure_cookie_over_http(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the cookie; over https all is well."""
    app = shop(SessionManager.from_url("memory://"))
    client = TestClient(app)
    client.post("/cart")
    assert client.get("/keys").json() == []
    assert said("the Secure cookie '__Host-session' leaves over plain http") in caplog.text
    client = TestClient(app, base_url="https://testserver")
    client.post("/cart")
    assert client.get("/keys").json() == ["cart"]


def test_workers_that_share_nothing(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """To each the other's cookie is none."""
    client.post("/cart")
    caplog.set_level(logging.DEBUG, logger="evsession.request")
    assert TestClient(shop(), cookies=dict(client.cookies)).get("/keys").json() == []
    assert said("session=None source=none") in caplog.text


def test_two_good_cookies_of_one_name(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """Neither counts."""
    client.post("/cart")
    first = client.cookies["session"]
    client.cookies.clear()
    client.post("/cart")
    both = {"cookie": f"session={first}; session={client.cookies['session']}"}
    client.cookies.clear()
    assert client.get("/keys", headers=both).json() == []
    assert said("two different session tokens in one request count as none") in caplog.text


def test_a_socket_from_a_foreign_page(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """It opens, without a session."""
    client.post("/cart")
    with client.websocket_connect("/socket", headers={"origin": "https://evil.example"}) as websocket:
        assert websocket.receive_json() == []
    assert said("a WebSocket handshake from a foreign origin counts as one without a session") in caplog.text


# ── what clients are told ────────────────────────────────────────────────────────────────────────────────────────────


def test_what_refusals_say() -> None:
    """Each with the status under which the page has it."""
    policy = SessionPolicy(max_sessions=2, on_limit="reject", anonymous_per_second=1)
    manager = in_memory(
        clock=Clock(), cookie=CookiePolicy.for_localhost(), policy=policy, transports=("cookie", "bearer")
    )
    with TestClient(shop(manager)) as client:
        client.post("/login/ada")
        token = client.cookies["session"].partition("~")[0]
        both = client.get("/keys", headers={"Authorization": f"Bearer {token}"})
        assert (both.status_code, said("two session tokens") in both.text) == (400, True)
        forged = client.post("/pay", headers={"Sec-Fetch-Site": "cross-site"})
        assert (forged.status_code, said("this request must come from a page of this site") in forged.text) == (
            403,
            True,
        )
        bare = client.post("/pay", headers={"Sec-Fetch-Site": "same-origin"})
        assert (bare.status_code, said("send the page's token") in bare.text) == (403, True)
        client.cookies.clear()
        client.post("/login/ada")
        client.cookies.clear()
        third = client.post("/login/ada")
        assert (third.status_code, said("signed in in 2 other places") in third.text) == (403, True)
        answers = [TestClient(client.app).post("/cart") for _ in range(3)]
        assert answers[-1].status_code == 503
        assert said("too many new visitors") in answers[-1].text


def test_a_user_by_key_is_no_login(client: TestClient) -> None:
    """401, as the page on FastAPI explains."""
    client.post("/user-by-key")
    assert client.get("/me").status_code == 401


def test_a_server_that_is_away() -> None:
    """The app starts and says why it cannot serve."""
    manager = SessionManager.from_url("redis://127.0.0.1:1/0", secret_key=KEY, cookie=CookiePolicy.for_localhost())
    with TestClient(shop(manager)) as client:
        answer = client.post("/cart")
    assert (answer.status_code, said("the session store cannot be reached") in answer.text) == (503, True)


def test_a_login_that_began_before_a_revocation() -> None:
    """It is asked to come again."""
    store = MemoryStore()
    manager = SessionManager(store, secret_key=KEY, cookie=CookiePolicy.for_localhost())
    elsewhere = SessionManager(store, secret_key=KEY)
    app = shop(manager)

    @app.post("/slow-login")
    async def slow(session: CurrentSession) -> None:
        session.login("ada")
        await elsewhere.revoke_user("ada")

    answer = TestClient(app).post("/slow-login")
    assert (answer.status_code, said("the session ended meanwhile") in answer.text) == (503, True)


def test_a_snapshot_that_somebody_else_wrote(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The client learns nothing, the log all."""
    options: dict[str, Any] = {"secret_key": KEY, "cookie": CookiePolicy.for_localhost()}
    with TestClient(shop(SessionManager.from_url(server.url, **options))) as client:
        client.post("/login/ada")
    (key,) = server.cli("KEYS", f"*:s:{client.cookies['session'][:24]}")
    packed = server.cli("GET", key)
    server.cli("SET", key, packed.replace(b"ada", b"bob"))
    with TestClient(shop(SessionManager.from_url(server.url, **options)), cookies=dict(client.cookies)) as second:
        answer = second.get("/keys")
    assert (answer.status_code, said("this session cannot be served") in answer.text) == (503, True)
    assert said("does not match its head") in caplog.text


# ── it does not start ────────────────────────────────────────────────────────────────────────────────────────────────


def start_two() -> None:
    """Begin with two managers of one cookie."""
    app = shop()
    app.add_middleware(SessionMiddleware, manager=SessionManager(cookie=CookiePolicy.for_localhost()))
    with TestClient(app):
        pass


@pytest.mark.parametrize(
    ("begin", "phrase"),
    [
        (lambda: CookiePolicy(secure=False), "needs secure=True"),
        (start_two, "two session managers use the cookie"),
        (lambda: check_meta(KNOWN, "blog", RING), "this namespace belongs to the application"),
        (lambda: check_meta(KNOWN, "shop", RING), "none of the secret keys given was ever used in this namespace"),
    ],
)
def test_settings_that_look_strange(begin: Callable[[], object], phrase: str) -> None:
    """The text is the one that the page explains."""
    with pytest.raises(ConfigError, match=said(phrase)):
        begin()
