"""FastAPI: the dependencies, on requests and WebSockets, in OpenAPI, and overridden in tests."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Form
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

import evsession.fastapi as face
from evsession import ConfigError, CookiePolicy, Session, SessionManager, SessionMiddleware, SessionPolicy
from evsession.fastapi import (
    CsrfToken,
    CurrentManager,
    CurrentSession,
    CurrentUserId,
    FromSession,
    OptionalUserId,
    Request,
    RevalidatedSession,
    WebSocket,
    csrf_token,
    current_manager,
    current_session,
    current_user_id,
    describe_sessions,
    optional_user_id,
    require_csrf,
    require_login,
    require_recent_login,
    revalidated_session,
    session_routes,
)
from tests.integration.apps import Browser, Clock, in_memory, two_workers
from tests.servers import Server

SECOND = timedelta(seconds=1)


@dataclass
class Plain:
    """What a session may hold."""

    word: str = "none"


def app_of(manager: SessionManager) -> FastAPI:
    """Return an app with a route for each dependency."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager)

    @app.post("/login/{user}")
    async def login(request: Request, user: str) -> None:
        request.session.login(user)

    @app.post("/set")
    async def set_(session: CurrentSession, values: dict[str, Any]) -> None:
        session.update(values)

    @app.get("/session")
    async def session(session: CurrentSession) -> dict[str, Any]:
        return session

    @app.get("/me")
    async def me(user: CurrentUserId) -> str:
        return user

    @app.get("/maybe")
    async def maybe(user: OptionalUserId) -> str | None:
        return user

    @app.get("/fresh")
    async def fresh(session: RevalidatedSession) -> dict[str, Any]:
        return session

    @app.get("/manager")
    async def manager_(found: CurrentManager) -> bool:
        return found is manager

    @app.get("/guarded", dependencies=[require_login()])
    async def guarded() -> str:
        return "in"

    @app.get("/recent")
    async def recent(user: Annotated[str, require_recent_login(300 * SECOND)]) -> str:
        return user

    @app.get("/plain")
    def plain(session: CurrentSession) -> str | None:
        session["seen"] = True
        return session.info.user_id

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, session: CurrentSession, user: CurrentUserId) -> None:
        await websocket.accept()
        await websocket.send_json([user, session is websocket.session])
        await websocket.close()

    return app


@pytest.fixture
def manager() -> SessionManager:
    return in_memory(transports=("cookie", "bearer"))


@pytest.fixture
def client(manager: SessionManager) -> TestClient:
    return TestClient(app_of(manager), base_url="https://shop.example")


# ── who is it ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_is_known_after_a_login(client: TestClient) -> None:
    """By every dependency that asks for one."""
    assert client.get("/maybe").json() is None
    client.post("/login/ann")
    for path in ("/me", "/maybe", "/recent", "/plain"):
        assert client.get(path).json() == "ann"
    assert client.get("/guarded").json() == "in"
    assert client.get("/session").json() == {"seen": True}
    assert client.get("/manager").json() is True


@pytest.mark.parametrize("path", ["/me", "/guarded", "/recent"])
def test_nobody_gets_a_401_that_names_the_ways_in(client: TestClient, path: str) -> None:
    """And that no cache keeps."""
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (401, {"detail": "sign in first"})
    assert answer.headers["www-authenticate"] == 'Cookie cookie-name="__Host-session", Bearer'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Cookie, Authorization"


def test_a_detected_user_has_not_signed_in(client: TestClient) -> None:
    """Apps set such keys before the second factor, and while a password is being reset."""
    client.post("/set", json={"user_id": "ann"})
    assert client.get("/plain").json() == "ann"
    assert client.get("/maybe").json() is None
    assert [client.get(path).status_code for path in ("/me", "/guarded", "/recent")] == [401] * 3


def test_a_bad_token_is_named_as_such(client: TestClient, manager: SessionManager) -> None:
    """So that a client knows that a new one is needed, and not only some."""
    client.post("/login/ann")
    token = client.cookies["__Host-session"].partition("~")[0]
    client.cookies.clear()
    answer = client.get("/me", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert 'Bearer error="invalid_token"' in answer.headers["www-authenticate"]


async def test_a_token_is_as_good_as_a_cookie(client: TestClient, manager: SessionManager) -> None:
    """For the dependencies too, and on WebSockets."""
    headers = {"authorization": f"Bearer {(await manager.create('ann')).token.value}"}
    assert [client.get(path, headers=headers).json() for path in ("/me", "/recent")] == ["ann"] * 2
    with client.websocket_connect("/ws", headers=headers) as socket:
        assert socket.receive_json() == ["ann", True]


def test_a_websocket_has_the_same_dependencies(client: TestClient) -> None:
    """Nobody's handshake is answered with a 401."""
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/ws"):
        pass
    assert getattr(refused.value, "status_code", None) == 401
    client.post("/login/ann")
    with client.websocket_connect("wss://shop.example/ws") as socket:
        assert socket.receive_json() == ["ann", True]


async def test_a_handshake_that_can_have_no_status_is_closed(manager: SessionManager) -> None:
    """With the code for a violated policy, where the server knows no other answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app_of(manager)(Browser().scope("/ws", "websocket"), receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


# ── how lately ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_login_is_recent_for_a_while() -> None:
    """By the server's clock; reading and writing do not make it younger, signing in again does."""
    clock = Clock()
    client = TestClient(app_of(in_memory(clock=clock)), base_url="https://shop.example")
    client.post("/login/ann")
    clock.advance(seconds=300)
    assert client.get("/recent").json() == "ann"
    clock.advance(seconds=0.1)
    client.post("/set", json={"n": 1})
    answer = client.get("/recent")
    assert answer.status_code == 401
    assert answer.json() == {"detail": "sign in again: this needs a login that is at most 300 seconds old"}
    assert answer.headers["www-authenticate"] == (
        'Cookie cookie-name="__Host-session", error="insufficient_user_authentication",'
        ' error_description="a more recent login is required", max_age="300"'
    )
    assert client.get("/me").json() == "ann"
    client.post("/login/ann")
    assert client.get("/recent").json() == "ann"


async def test_a_login_is_never_taken_for_younger_than_it_is(server: Server) -> None:
    """What the server's clock shows is estimated from its replies: never less than it shows, and hardly more."""
    async with two_workers(server.url) as (manager, _):
        await manager.create("ann")
        for _ in range(3):
            seconds, micros = map(int, server.cli("TIME"))
            estimate = manager.worker.replica.server_time()
            assert seconds * 1000 + micros / 1000 - 1 <= estimate < seconds * 1000 + micros / 1000 + 1000


def test_a_login_must_be_allowed_some_age() -> None:
    """None at all would refuse everybody."""
    with pytest.raises(ValueError, match="use a positive timedelta"):
        require_recent_login(timedelta(0))


# ── as it is now ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_revalidated_session_is_the_primarys() -> None:
    """What a worker has not heard of yet is there, and a session that ended is a 401."""
    one, two = in_memory(), None
    two = SessionManager(one.worker.store, secret_key="a key that only these tests have, 01")
    client = TestClient(app_of(one), base_url="https://shop.example")
    client.post("/login/ann")
    sid = client.cookies["__Host-session"][:24]
    assert client.get("/fresh").json() == {}
    await two.update(sid, lambda data: data.update(n=1))
    assert client.get("/fresh").json() == {"n": 1}
    fills = one.stats().counts.fills
    client.get("/fresh")
    assert one.stats().counts.fills == fills + 1


async def test_a_session_that_ends_meanwhile_is_a_401(manager: SessionManager) -> None:
    """After the request was let in by memory."""
    app = app_of(manager)

    @app.get("/ended")
    async def ended(session: Annotated[Session, Depends(_revoked)], _: RevalidatedSession) -> None:
        return None

    async def revoke(connection: HTTPConnection) -> Session:
        session = face.session_of(connection)
        await manager.revoke(session)
        return session

    app.dependency_overrides[_revoked] = revoke
    client = TestClient(app, base_url="https://shop.example")
    client.post("/login/ann")
    answer = client.get("/ended")
    assert (answer.status_code, answer.json()) == (401, {"detail": "the session has ended; sign in again"})


async def _revoked() -> None:
    raise NotImplementedError


# ── forged requests ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def forms(manager: SessionManager) -> TestClient:
    """Return a client of an app with protected routes."""
    app = app_of(manager)

    @app.get("/form")
    async def form(token: CsrfToken) -> str:
        return token

    @app.api_route("/act", methods=["GET", "POST"], dependencies=[require_csrf()])
    async def act() -> str:
        return "done"

    @app.post("/pay", dependencies=[Depends(require_csrf())])
    async def pay(amount: Annotated[int, Form()]) -> int:
        return amount

    @app.post("/raw", dependencies=[require_csrf()])
    async def raw(request: Request) -> list[str]:
        async with request.form() as form:
            return sorted(form)

    return TestClient(app, base_url="https://shop.example")


HERE = {"sec-fetch-site": "same-origin"}


def test_a_page_of_ours_with_its_token_may_act(forms: TestClient) -> None:
    """In a header, in a form with fields, or in one that the handler reads by itself."""
    forms.post("/login/ann")
    token = forms.get("/form").json()
    assert forms.post("/act", headers={**HERE, "x-csrf-token": token}).json() == "done"
    assert forms.post("/pay", headers=HERE, data={"csrf_token": token, "amount": "7"}).json() == 7
    assert forms.post("/raw", headers=HERE, data={"csrf_token": token, "a": "1"}).json() == ["a", "csrf_token"]
    assert forms.post("/raw", headers=HERE, data={"csrf_token": token}, files={"f": b"x"}).json() == ["csrf_token", "f"]


def test_neither_half_will_do_alone(forms: TestClient) -> None:
    """Where it comes from and what it knows are both asked for; the answer says which is missing."""
    forms.post("/login/ann")
    token = forms.get("/form").json()
    elsewhere: list[dict[str, str]] = [
        {},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
    ]
    for headers in elsewhere:
        answer = forms.post("/act", headers={**headers, "x-csrf-token": token})
        assert answer.status_code == 403
        assert answer.json() == {"detail": "this request must come from a page of this site"}
    for headers in ({}, {"x-csrf-token": ""}, {"x-csrf-token": token[:-1]}, {"content-type": "application/json"}):
        answer = forms.post("/act", headers={**HERE, **headers})
        assert answer.status_code == 403
        assert "x-csrf-token" in answer.json()["detail"]


def test_a_file_is_no_token(forms: TestClient) -> None:
    """Nor does it raise."""
    forms.post("/login/ann")
    assert forms.post("/act", headers=HERE, files={"csrf_token": b"x"}).status_code == 403


def test_reading_needs_no_token(forms: TestClient) -> None:
    """Links from anywhere work."""
    assert forms.get("/act", headers={"sec-fetch-site": "cross-site"}).json() == "done"


async def test_a_bearer_token_needs_no_other(forms: TestClient, manager: SessionManager) -> None:
    """No browser sends it by itself."""
    headers = {"authorization": f"Bearer {(await manager.create('ann')).token.value}"}
    assert forms.post("/act", headers=headers).json() == "done"


def test_a_header_that_is_no_token_of_ours_frees_nobody(forms: TestClient) -> None:
    """How the session came decides, not what stands beside it."""
    forms.post("/login/ann")
    assert forms.post("/act", headers={"authorization": "Bearer x"}).status_code == 403


def test_whose_first_transport_is_bearer_is_not_free_for_all() -> None:
    """What comes without any token may be a login form of another site, whose answer sets a cookie."""
    app = app_of(in_memory(transports=("bearer", "cookie")))

    @app.post("/sign-in", dependencies=[require_csrf()])
    async def sign_in(request: Request) -> None:
        request.session.login("mallory", transport="cookie")

    client = TestClient(app, base_url="https://shop.example")
    assert client.post("/sign-in", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/sign-in", headers=HERE).status_code == 200


def test_a_token_belongs_to_one_session_and_login(forms: TestClient) -> None:
    """One that was fetched before the login, or in another session, is refused after it."""
    anonymous = forms.get("/form").json()
    forms.post("/set", json={"n": 1})
    bound = forms.get("/form").json()
    for token in (anonymous, bound):
        assert forms.post("/act", headers={**HERE, "x-csrf-token": token}).json() == "done"
    forms.post("/login/ann")
    for token in (anonymous, bound):
        assert forms.post("/act", headers={**HERE, "x-csrf-token": token}).status_code == 403
    token = forms.get("/form").json()
    forms.cookies.clear()
    forms.post("/set", json={"n": 1})
    assert forms.post("/act", headers={**HERE, "x-csrf-token": token}).status_code == 403


def test_who_has_no_session_must_only_come_from_here(forms: TestClient) -> None:
    """There is nothing a forged request could use, but a login form wants protection too."""
    assert forms.post("/act", headers=HERE).json() == "done"
    assert forms.post("/act", headers={"sec-fetch-site": "cross-site"}).status_code == 403


async def test_a_function_gives_the_token_to_templates(manager: SessionManager) -> None:
    """The same one as the dependency."""
    app = app_of(manager)

    @app.get("/page")
    async def page(request: Request) -> str:
        return await csrf_token(request)

    assert TestClient(app, base_url="https://shop.example").get("/page").json().count(".") == 2


# ── OpenAPI ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sessions_show_up_in_openapi(client: TestClient) -> None:
    """As a security scheme of each route that asks for one."""
    schema = client.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["SessionCookie"]["name"] == "__Host-session"
    for path in ("/me", "/maybe", "/session", "/fresh", "/guarded", "/recent"):
        assert schema["paths"][path]["get"]["security"] == [{"SessionCookie": []}]
    assert "security" not in schema["paths"]["/manager"]["get"]


def test_openapi_can_tell_the_managers_own_ways_in() -> None:
    """Its cookie's name, and the bearer scheme where it is taken; once, however often it is asked for."""
    manager = in_memory(cookie=CookiePolicy.for_localhost(), transports=("cookie", "bearer"))
    app = app_of(manager)
    describe_sessions(app, manager)
    schema = copy.deepcopy(app.openapi())
    assert app.openapi() == schema
    assert schema["components"]["securitySchemes"]["SessionCookie"]["name"] == "session"
    assert schema["components"]["securitySchemes"]["SessionToken"]["scheme"] == "bearer"
    assert schema["paths"]["/me"]["get"]["security"] == [{"SessionCookie": []}, {"SessionToken": []}]
    empty = FastAPI()
    describe_sessions(empty, manager)
    assert "components" not in empty.openapi()


# ── two sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────


def app_of_two(**options: Any) -> FastAPI:
    """Return an app whose staff have a session of their own, with a route for each dependency on it."""
    staff = in_memory(cookie=CookiePolicy(name="staff", path="/"), **options)
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=in_memory())
    app.add_middleware(SessionMiddleware, manager=staff, scope_key="staff")
    describe_sessions(app, staff, scope_key="staff")

    @app.post("/login/{user}")
    async def login(session: CurrentSession, user: str) -> None:
        session.login(user)

    @app.post("/staff/login/{user}")
    async def login_staff(session: Annotated[Session, Depends(current_session.of("staff"))], user: str) -> None:
        session.login(user)

    @app.get("/both")
    async def both(
        visitor: OptionalUserId, member: Annotated[str | None, Depends(optional_user_id.of("staff"))]
    ) -> list[str | None]:
        return [visitor, member]

    @app.get("/me")
    async def me(user: Annotated[str, Depends(current_user_id.of("staff"))]) -> str:
        return user

    @app.get("/guarded", dependencies=[require_login(scope_key="staff")])
    @app.get("/recent", dependencies=[require_recent_login(SECOND, scope_key="staff")])
    async def guarded(session: Annotated[Session, Depends(revalidated_session.of("staff"))]) -> str | None:
        return session.info.user_id

    @app.get("/manager")
    async def manager_(found: Annotated[SessionManager, Depends(current_manager.of("staff"))]) -> bool:
        return found is staff

    @app.get("/token")
    async def token(mine: CsrfToken, of_staff: Annotated[str, Depends(csrf_token.of("staff"))]) -> list[str]:
        return [mine, of_staff]

    @app.post("/staff/pay", dependencies=[require_csrf(scope_key="staff")])
    async def pay() -> None: ...

    @app.get("/model")
    async def model(plain: Annotated[Plain, FromSession(Plain, scope_key="staff")]) -> str:
        return plain.word

    app.include_router(session_routes(staff, prefix="/staff/sessions", scope_key="staff"))
    return app


def test_each_dependency_has_a_twin_for_another_scope_key() -> None:
    """Who is signed in in one session is nobody in the other."""
    client = TestClient(app_of_two(), base_url="https://shop.example")
    client.post("/login/ada")
    for path in ("/me", "/guarded", "/recent", "/staff/sessions"):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert 'cookie-name="staff"' in answer.headers["www-authenticate"]
    assert client.get("/both").json() == ["ada", None]
    client.post("/staff/login/joe")
    assert client.get("/both").json() == ["ada", "joe"]
    assert [client.get(path).json() for path in ("/me", "/guarded", "/recent", "/manager")] == ["joe"] * 3 + [True]
    assert client.get("/model").json() == "none"
    assert [device["is_current"] for device in client.get("/staff/sessions").json()] == [True]


def test_a_token_against_forgery_is_of_its_own_session() -> None:
    """The visitor's does not do for staff."""
    client = TestClient(app_of_two(), base_url="https://shop.example", headers={"sec-fetch-site": "same-origin"})
    client.post("/login/ada")
    client.post("/staff/login/joe")
    mine, of_staff = client.get("/token").json()
    assert client.post("/staff/pay", headers={"x-csrf-token": mine}).status_code == 403
    assert client.post("/staff/pay", headers={"x-csrf-token": of_staff}).status_code == 200
    assert client.post("/staff/sessions/sign-out-others").json() == {"complete": True}


def test_openapi_names_both_cookies() -> None:
    """Each route has the scheme of the session that it asks for."""
    schema = app_of_two(transports=("cookie", "bearer")).openapi()
    schemes = schema["components"]["securitySchemes"]
    assert {name: scheme.get("name") for name, scheme in schemes.items()} == {
        "SessionCookie": "__Host-session", "SessionCookie-staff": "staff", "SessionToken-staff": None,
    }  # fmt: skip
    of_staff: list[dict[str, Any]] = [{"SessionCookie-staff": []}, {"SessionToken-staff": []}]
    for path in ("/me", "/guarded", "/recent", "/model"):
        assert schema["paths"][path]["get"]["security"] == of_staff, path
    assert schema["paths"]["/staff/pay"]["post"]["security"] == of_staff
    assert schema["paths"]["/login/{user}"]["post"]["security"] == [{"SessionCookie": []}]
    assert schema["paths"]["/both"]["get"]["security"] == [*of_staff, {"SessionCookie": []}]


def test_a_twin_is_one_object_that_can_be_overridden() -> None:
    """Whatever it was asked through; the one that it is a twin of is another."""
    assert current_user_id.of("staff") is current_user_id.of("staff")
    assert current_user_id.of("staff").of("session") is current_user_id
    app = app_of_two()
    app.dependency_overrides[current_user_id.of("staff")] = lambda: "grace"
    client = TestClient(app, base_url="https://shop.example")
    assert client.get("/me").json() == "grace"
    assert client.get("/guarded").status_code == 200  # `require_login` is about the same user
    assert client.get("/recent").status_code == 401


def test_a_session_that_no_middleware_has_put_there_is_named() -> None:
    """The text has the key."""
    app = app_of(in_memory())

    @app.get("/wrong", dependencies=[require_login(scope_key="stuff")])
    async def wrong() -> None: ...

    with pytest.raises(ConfigError, match=r"scope\['stuff'\].*scope_key='stuff'"):
        TestClient(app).get("/wrong")


# ── overrides, types ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_dependencies_can_be_overridden(manager: SessionManager) -> None:
    """By their names, as in any test of a FastAPI app."""
    app = app_of(manager)
    app.dependency_overrides[current_user_id] = lambda: "joe"
    app.dependency_overrides[current_session] = lambda: Session(SessionPolicy())
    client = TestClient(app)
    assert client.get("/me").json() == "joe"
    assert client.get("/session").json() == {}
    assert client.get("/guarded").json() == "in"


def test_every_dependency_is_async_and_takes_any_connection() -> None:
    """A plain function would cost a thread for each request, and a Request none of the WebSockets."""
    found: list[Callable[..., Any]] = [getattr(face, name) for name in face.__all__ if name.islower()]
    dependencies = [one for one in found if not inspect.isfunction(one)]
    assert len(dependencies) == 6
    dependencies += [require_login(), require_csrf(), require_recent_login(SECOND)]
    for one in dependencies:
        assert inspect.iscoroutinefunction(type(one).__call__)
        (parameter,) = inspect.signature(one).parameters.values()
        assert parameter.annotation is HTTPConnection


def test_typed_connections_have_the_session_of_their_scope() -> None:
    """Handlers annotate with them; FastAPI itself passes its own classes, which have the same session."""
    session = Session(SessionPolicy())
    for kind, connection in (("http", Request), ("websocket", WebSocket)):
        scope: Any = {"type": kind, "session": session}
        assert connection(scope, *[_nothing] * (2 if kind == "websocket" else 1)).session is session


async def _nothing(*_: Any) -> Any:
    return {}


def test_without_the_middleware_it_says_what_to_add() -> None:
    """As `session_of` does."""
    app = FastAPI()

    @app.get("/me")
    async def me(user: CurrentUserId) -> str:
        return user

    with pytest.raises(ConfigError, match="add_middleware"):
        TestClient(app).get("/me")
