"""Routes for "my devices": what a user sees and ends, and what nobody else can."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from evsession import Actor, ConfigError, SessionManager, SessionMiddleware, StoreUnavailable
from evsession.fastapi import CurrentSession, CurrentUserId, session_routes
from tests.conftest import until
from tests.integration.apps import Browser, Clock, in_memory, two_workers
from tests.servers import Server

HERE = {"sec-fetch-site": "same-origin"}


def app_of(manager: SessionManager, **options: Any) -> FastAPI:
    """Return an app with a login and the routes."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager)
    app.include_router(session_routes(manager, **options))

    @app.post("/login/{user}")
    async def login(session: CurrentSession, user: str) -> None:
        session.login(user)

    @app.get("/me")
    async def me(user: CurrentUserId) -> str:
        return user

    @app.post("/detect/{user}")
    async def detect(session: CurrentSession, user: str) -> None:
        session["user_id"] = user

    return app


@pytest.fixture
def manager(clock: Clock) -> SessionManager:
    return in_memory(clock=clock, transports=("cookie", "bearer"))


@pytest.fixture
def app(manager: SessionManager) -> FastAPI:
    return app_of(manager)


def client_of(app: FastAPI, user: str | None = None, **headers: str) -> TestClient:
    """Return a browser on our own pages, signed in if a user is given."""
    client = TestClient(app, base_url="https://shop.example", headers={**HERE, **headers})
    if user is not None:
        assert client.post(f"/login/{user}").status_code == 200
    return client


def id_of(client: TestClient) -> str:
    return client.cookies["__Host-session"][:24]


# ── what is seen ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_sees_where_he_is_signed_in(app: FastAPI, clock: Clock) -> None:
    """The latest first, which one is his own, and never a token."""
    laptop = client_of(app, "ann")
    clock.advance(seconds=60)
    firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
    phone = client_of(app, "ann", **{"user-agent": firefox})
    client_of(app, "joe")
    answer = laptop.get("/sessions")
    assert answer.headers["cache-control"] == "no-store"
    first, second = answer.json()
    assert [first["id"], second["id"]] == [id_of(phone), id_of(laptop)]
    assert [first["is_current"], second["is_current"]] == [False, True]
    assert first["device"] == "Firefox 128 on Linux"
    assert first["created_at"] > second["created_at"]
    assert phone.cookies["__Host-session"][25:68] not in answer.text


def test_a_new_user_sees_one(app: FastAPI) -> None:
    """His own."""
    (only,) = client_of(app, "ann").get("/sessions").json()
    assert only["is_current"] is True


# ── what is ended ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_signing_out_one_ends_that_one(app: FastAPI, manager: SessionManager) -> None:
    """At once; the log says who did it and how. A second time there is nothing to end."""
    laptop, phone = client_of(app, "ann"), client_of(app, "ann")
    path = f"/sessions/{id_of(phone)}/sign-out"
    assert laptop.post(path).json() == {"complete": True}
    assert (phone.get("/me").status_code, laptop.get("/me").json()) == (401, "ann")
    assert [device["id"] for device in laptop.get("/sessions").json()] == [id_of(laptop)]
    ended = (await manager.audit.history(id_of(phone)))[-1]
    assert (ended.cause, ended.reason) == ("revoked", "signed out from the list of devices")
    assert ended.actor == Actor.user("ann")
    assert laptop.post(path).status_code == 404


async def test_signing_out_oneself_is_a_logout(app: FastAPI, manager: SessionManager) -> None:
    """With its cookie cleared."""
    client = client_of(app, "ann")
    sid = id_of(client)
    assert client.post(f"/sessions/{sid}/sign-out").json() == {"complete": True}
    assert "__Host-session" not in client.cookies
    assert (await manager.audit.history(sid))[-1].cause == "logout"


def test_signing_out_all_others_keeps_this_one(app: FastAPI) -> None:
    """With a new token; a copy of its old one is dead, and other users are untouched."""
    laptop, phone, tablet, joe = [client_of(app, user) for user in ("ann", "ann", "ann", "joe")]
    old = laptop.cookies["__Host-session"]
    assert laptop.post("/sessions/sign-out-others").json() == {"complete": True}
    assert [one.get("/me").status_code for one in (laptop, phone, tablet, joe)] == [200, 401, 401, 200]
    assert laptop.cookies["__Host-session"] != old
    copy = client_of(app)
    copy.cookies.set("__Host-session", old)
    assert copy.get("/me").status_code == 401
    assert [device["is_current"] for device in laptop.get("/sessions").json()] == [True]


async def test_a_client_without_cookies_can_do_the_same(app: FastAPI, manager: SessionManager) -> None:
    """It needs to come from nowhere, and gets its new token in a header."""
    laptop = client_of(app, "ann")
    phone = TestClient(app, base_url="https://shop.example")
    phone.headers["authorization"] = f"Bearer {(await manager.create('ann')).token.value}"
    assert len(phone.get("/sessions").json()) == 2
    answer = phone.post("/sessions/sign-out-others")
    phone.headers["authorization"] = f"Bearer {answer.headers['session-token']}"
    assert (phone.get("/me").json(), laptop.get("/me").status_code) == ("ann", 401)


async def test_every_worker_has_heard_of_it_when_the_answer_comes(server: Server) -> None:
    """On a real server: the receipt is complete, and the very next request on another worker is refused."""
    async with two_workers(server.url) as managers:
        apps = [app_of(manager) for manager in managers]

        async def is_proved() -> bool:
            return (await managers[0].revoke_named("tenant", "nobody")).complete

        await until(is_proved, "receipts to be complete, which takes a bound from the log's birth on")
        laptop, phones = Browser(), [Browser() for _ in range(4)]
        for client in (laptop, *phones):
            await client.visit(apps[0], path="/login/ann", method="POST")
        post: dict[str, Any] = {"method": "POST", "headers": [(b"sec-fetch-site", b"same-origin")]}
        one, *others = [phone.session_id for phone in phones]
        for phone in phones:
            assert (await phone.visit(apps[1], path="/me")).json == "ann"
        answer = await laptop.visit(apps[0], path=f"/sessions/{one}/sign-out", **post)
        assert (answer.json, (await phones[0].visit(apps[1], path="/me")).status) == ({"complete": True}, 401)
        listed = (await laptop.visit(apps[1], path="/sessions")).json
        assert {device["id"] for device in listed} == {laptop.session_id, *others}
        answer = await laptop.visit(apps[0], path="/sessions/sign-out-others", **post)
        assert answer.json == {"complete": True}
        assert [(await phone.visit(apps[1], path="/me")).status for phone in phones] == [401] * 4
        assert (await laptop.visit(apps[1], path="/me")).json == "ann"


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("session_id", ["joe", "x", "00" + "A" * 22, "A" * 65, "..%2fadmin", "%00"])
def test_only_ones_own_sessions_can_be_ended(app: FastAPI, session_id: str) -> None:
    """Others are as if they were not there."""
    ann, joe = client_of(app, "ann"), client_of(app, "joe")
    path = id_of(joe) if session_id == "joe" else session_id
    assert ann.post(f"/sessions/{path}/sign-out").status_code in (404, 422)
    assert joe.get("/me").json() == "joe"


def test_nobody_sees_nothing(app: FastAPI) -> None:
    """Nor does a user that only the data names."""
    nobody, detected = client_of(app), client_of(app)
    detected.post("/detect/ann")
    for client in (nobody, detected):
        assert client.get("/sessions").status_code == 401
        assert client.post("/sessions/sign-out-others").status_code == 401
        assert client.post(f"/sessions/{'0' * 24}/sign-out").status_code == 401


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}])
def test_another_site_can_end_nothing(app: FastAPI, headers: dict[str, str]) -> None:
    """Nor can what does not say where it comes from; and reading changes nothing."""
    ann, phone = client_of(app, "ann"), client_of(app, "ann")
    ann.headers.pop("sec-fetch-site")
    for path in ("sign-out-others", f"{id_of(phone)}/sign-out"):
        assert ann.post(f"/sessions/{path}", headers=headers).status_code == 403
        assert ann.get(f"/sessions/{path}", headers=HERE).status_code in (404, 405)
    assert (phone.get("/me").json(), ann.get("/me").json()) == ("ann", "ann")


def test_asking_too_often_is_refused(manager: SessionManager, clock: Clock) -> None:
    """For a user, not for everybody; the answer says when to come back."""
    app = app_of(manager, per_minute=3)
    ann, phone, joe = [client_of(app, user) for user in ("ann", "ann", "joe")]
    assert [client.get("/sessions").status_code for client in (ann, phone, ann, phone)] == [200, 200, 200, 429]
    answer = ann.post("/sessions/sign-out-others")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "20")
    assert answer.json() == {"detail": "too many requests; try again in 20 seconds"}
    assert joe.get("/sessions").status_code == 200
    clock.advance(seconds=20)
    assert ann.get("/sessions").status_code == 200


def test_a_rate_must_let_somebody_in(manager: SessionManager) -> None:
    """None at all would refuse everybody."""
    with pytest.raises(ConfigError, match="use a whole number from 1"):
        session_routes(manager, per_minute=0)


async def test_an_outage_is_a_503(app: FastAPI, manager: SessionManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """With when to come back, and without a promise of what took effect."""

    async def away(*_: object, **__: object) -> Any:
        raise StoreUnavailable(timedelta(seconds=1))

    ann, phone = client_of(app, "ann"), client_of(app, "ann")
    for name in ("sessions_of", "revoke_user", "revoke"):
        monkeypatch.setattr(manager, name, away)
    for answer in (
        ann.get("/sessions"),
        ann.post("/sessions/sign-out-others"),
        ann.post(f"/sessions/{id_of(phone)}/sign-out"),
    ):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "look again" in answer.json()["detail"]


def test_the_routes_are_in_openapi(app: FastAPI) -> None:
    """With their models, their refusals and the way in; changes are POST only."""
    paths = app.openapi()["paths"]
    assert {path: list(methods) for path, methods in paths.items() if path.startswith("/sessions")} == {
        "/sessions": ["get"],
        "/sessions/sign-out-others": ["post"],
        "/sessions/{session_id}/sign-out": ["post"],
    }
    for path, statuses in (("/sessions", ()), ("/sessions/{session_id}/sign-out", ("403", "404"))):
        (operation,) = paths[path].values()
        assert {"SessionCookie": []} in operation["security"]
        assert {"200", "401", "429", "503", *statuses} <= operation["responses"].keys()
