"""`evsession.starlette` beside Starlette's own middleware: the same program, the same answers."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import Secret
from starlette.exceptions import HTTPException
from starlette.middleware import sessions as original
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from evsession import ConfigError, CookiePolicy, SessionManager, SessionPolicy, session_of
from evsession import starlette as drop_in
from evsession.middleware import manager_of
from evsession.starlette import Session, SessionMiddleware
from evsession.stores.memory import MemoryStore
from tests.conftest import until
from tests.integration.apps import KEY, Answer, Browser, Clock, in_memory, logged, types_of
from tests.servers import Server

needs_1 = pytest.mark.skipif(
    not hasattr(original, "Session"), reason="before 1.0 Starlette set the cookie with every response"
)


# ── the program ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def read(request: Request) -> Response:
    """Show the session."""
    return JSONResponse(dict(request.session))


async def update(request: Request) -> Response:
    """Take the body into the session."""
    request.session.update(await request.json())
    return JSONResponse(dict(request.session))


async def in_place(request: Request) -> Response:
    """Do the same with an operator."""
    session = request.session
    session |= await request.json()
    return JSONResponse(dict(session))


async def clear(request: Request) -> Response:
    """Empty the session."""
    request.session.clear()
    return JSONResponse(dict(request.session))


async def clear_and_set(request: Request) -> Response:
    """Empty the session and begin again."""
    request.session.clear()
    request.session["again"] = 1
    return JSONResponse(dict(request.session))


async def pop(request: Request) -> Response:
    """Remove a key that may not be there."""
    return JSONResponse(request.session.pop(request.path_params["key"], None))


async def delete(request: Request) -> Response:
    """Remove a key."""
    del request.session[request.path_params["key"]]
    return JSONResponse(dict(request.session))


async def popitem(request: Request) -> Response:
    """Remove the newest key."""
    return JSONResponse(request.session.popitem())


async def default(request: Request) -> Response:
    """Set a key unless it is there."""
    return JSONResponse(request.session.setdefault(request.path_params["key"], "default"))


async def ignore(request: Request) -> Response:
    """Look at nothing."""
    return JSONResponse("ok")


async def vary(request: Request) -> Response:
    """Depend on another header as well."""
    return JSONResponse(dict(request.session), headers={"Vary": "Accept-Encoding"})


async def stream(request: Request) -> Response:
    """Answer in pieces."""
    request.session["streamed"] = True
    return StreamingResponse(iter(["a", "b"]))


async def refuse(request: Request) -> Response:
    """Set something and answer with an error."""
    request.session["tried"] = True
    raise HTTPException(403)


async def own_cookie(request: Request) -> Response:
    """Set another cookie as well."""
    request.session["n"] = 1
    response = JSONResponse("ok")
    response.set_cookie("theme", "dark")
    return response


ROUTES = [
    Route("/read", read), Route("/update", update, methods=["POST"]), Route("/in-place", in_place, methods=["POST"]),
    Route("/clear", clear), Route("/clear-and-set", clear_and_set), Route("/pop/{key}", pop),
    Route("/delete/{key}", delete), Route("/popitem", popitem), Route("/default/{key}", default),
    Route("/ignore", ignore), Route("/vary", vary), Route("/stream", stream), Route("/refuse", refuse),
    Route("/own-cookie", own_cookie),
]  # fmt: skip


def app_with(kind: Callable[..., Any], *args: Any, **options: Any) -> Starlette:
    """Return the program with a middleware."""
    app = Starlette(routes=ROUTES)
    app.add_middleware(kind, *args, **options)
    return app


def app_of(**options: Any) -> Starlette:
    """Return the program with the middleware under test."""
    return app_with(SessionMiddleware, **{"secret_key": "example"} | options)


def facts_of(response: Any) -> tuple[object, ...]:
    """Return all of an answer that a client can see, but what the cookie holds."""
    cookies = [
        re.sub(r"^session=(?!null)[^;]+", "session=…", value) for value in response.headers.get_list("set-cookie")
    ]
    is_json = response.headers.get("content-type") == "application/json"
    return response.status_code, response.json() if is_json else response.text, cookies, response.headers.get("vary")


STORIES: dict[str, list[Any]] = {
    "one only reads": ["/read", "/ignore", "/vary", "/read"],
    "sets, reads, clears": [{"a": 1}, "/read", "/ignore", "/vary", "/clear", "/read", "/clear"],
    "sets what is there already": [{"a": 1}, {"a": 1}, "/default/a", "/default/b", "/default/b"],
    "sets nothing": [{}, "/read", {"a": 1}, {}],
    "removes one of two": [{"a": 1, "b": 2}, "/pop/a", "/read", "/pop/a", "/read"],
    "removes the last": [{"a": 1}, "/delete/a", "/read", {"b": 2}, "/pop/b", "/read"],
    "removes what is not there": ["/pop/a", {"a": 1}, "/pop/b"],
    "removes the newest": [{"a": "1", "b": "2"}, "/popitem", "/popitem", "/read"],
    "clears and begins again": [{"a": 1}, "/clear-and-set", "/read", "/clear", "/clear-and-set", "/read"],
    "answers in pieces": ["/stream", "/read", "/stream"],
    "answers with an error": ["/refuse", "/read", "/nowhere"],
    "sets a cookie of its own": ["/own-cookie", "/read"],
    "keeps deep values": [{"a": {"b": [1, None, True, 1.5, "ü"]}}, "/read"],
    "names a user": [{"user_id": 1, "cart": 2}, "/read", "/pop/user_id", "/read", {"user_id": "x"}, "/read"],
    "names what is no user": [{"user_id": {"id": 1}}, "/read", {"user_id": True, "a": 1}, "/read"],
}

SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "all": {
        "session_cookie": "session", "max_age": 60, "path": "/", "same_site": "strict", "https_only": True,
        "domain": "shop.example",
    },
    "until the browser closes": {"max_age": None},
    "a year": {"max_age": 31_536_000},
    "another path": {"path": "/up"},
}  # fmt: skip


@needs_1
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("story", STORIES.values(), ids=list(STORIES))
def test_a_client_cannot_tell_the_two_apart(story: list[Any], settings: dict[str, Any]) -> None:
    """Status, body, when a cookie is set and cleared, how it is spelled, Vary: answer by answer, errors included."""
    apps = [
        app_with(kind, secret_key="example", **settings) for kind in (original.SessionMiddleware, SessionMiddleware)
    ]
    theirs, ours = (TestClient(app, base_url="https://shop.example", raise_server_exceptions=False) for app in apps)
    for step in story:
        answers = [_send(client, step) for client in (theirs, ours)]
        assert facts_of(answers[1]) == facts_of(answers[0]), step


def _send(client: TestClient, step: Any) -> Any:
    return client.get(step) if isinstance(step, str) else client.post("/update", json=step)


@needs_1
@pytest.mark.parametrize("args", [("example",), ("example", "sid", 60, "/x", "strict", True, "shop.example")])
def test_arguments_may_be_given_by_place(args: tuple[Any, ...]) -> None:
    """In Starlette's order."""
    theirs, ours = (
        TestClient(app_with(kind, *args), base_url="https://shop.example")
        for kind in (original.SessionMiddleware, SessionMiddleware)
    )
    cookies = [client.post("/update", json={"a": 1}).headers["set-cookie"] for client in (theirs, ours)]
    assert len({re.sub("=[^;]+", "=…", cookie, count=1) for cookie in cookies}) == 1


def test_a_partitioned_cookie_says_so_when_it_is_set_and_when_it_is_cleared() -> None:
    """As the newest Starlette spells it, with any."""
    app = app_of(https_only=True, same_site="none", partitioned=True)
    client = TestClient(app, base_url="https://testserver")
    flags = "path=/; Max-Age=1209600; httponly; samesite=none; secure; partitioned"
    assert client.post("/update", json={"a": 1}).headers["set-cookie"].partition("; ")[2] == flags
    cleared = client.get("/clear").headers["set-cookie"]
    assert cleared == f"session=null; {flags.replace('Max-Age=1209600', 'expires=Thu, 01 Jan 1970 00:00:00 GMT')}"


@pytest.mark.parametrize("cookie", ["invalid", "", "eyJhIjogMX0=.ZwAAAA.sdkjfhskjdfhskdjfh", "a" * 91])
def test_a_cookie_that_is_not_ours_counts_as_none(cookie: str) -> None:
    """Neither Starlette's signed ones nor nonsense raise anything, and none is cleared."""
    response = TestClient(app_of(), cookies={"session": cookie}).get("/read")
    assert (response.status_code, response.json(), response.headers.get("set-cookie")) == (200, {}, None)


def test_a_secure_cookie_stays_away_from_plain_http() -> None:
    """A client over http sends none back, so each of its requests begins anew."""
    app = app_of(https_only=True)
    plain, secure = TestClient(app, base_url="http://testserver"), TestClient(app, base_url="https://testserver")
    for client, expected in ((plain, {}), (secure, {"a": 1})):
        assert client.post("/update", json={"a": 1}).json() == {"a": 1}
        assert client.get("/read").json() == expected


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock for sessions in memory, which only the test moves."""
    clock = Clock()
    monkeypatch.setattr(drop_in, "memory_of", lambda _: MemoryStore(clock=clock.server))
    made = SessionManager.__init__
    monkeypatch.setattr(SessionManager, "__init__", lambda *a, **b: made(*a, **b | {"clock": clock.local}))
    return clock


def test_only_what_is_written_keeps_a_session_alive(clock: Clock) -> None:
    """It ends `max_age` after the last change, and setting an equal value is one."""
    client = TestClient(app_of(max_age=600))
    client.post("/update", json={"a": 1})
    for _ in range(3):
        clock.advance(minutes=9)
        assert client.get("/read").json() == {"a": 1}
        assert "Max-Age=600" in client.post("/update", json={"a": 1}).headers["set-cookie"]
    clock.advance(minutes=9)
    assert client.get("/read").json() == {"a": 1}
    clock.advance(minutes=2)
    assert client.get("/read").json() == {}


def test_where_no_request_keeps_it_alive_none_looks_at_it_again(clock: Clock) -> None:
    """A cached read then takes the short way for ever; the first one after the time for a look still looks."""
    middleware = SessionMiddleware(Starlette(routes=ROUTES), "example")
    client = TestClient(middleware)
    client.post("/update", json={"a": 1})
    clock.advance(minutes=3 * 24 * 60)
    client.get("/read")
    cached = middleware.manager.worker.cache.newest(client.cookies["session"][:24])
    assert cached is not None
    assert cached.touch_at == float("inf")


def test_without_max_age_a_session_lives_as_long_as_it_is_used(clock: Clock) -> None:
    """The server forgets it two weeks after the last request; Starlette, which keeps none, never does."""
    client = TestClient(app_of(max_age=None))
    client.post("/update", json={"a": 1})
    for _ in range(3):
        clock.advance(minutes=13 * 24 * 60)
        assert client.get("/read").json() == {"a": 1}
    clock.advance(minutes=14 * 24 * 60 + 1)
    assert client.get("/read").json() == {}


def test_400_days_after_it_began_a_session_ends(clock: Clock) -> None:
    """However often it is written: that is the longest a browser keeps a cookie."""
    client = TestClient(app_of())
    client.post("/update", json={"n": 0})
    for day in range(13, 400, 13):
        clock.advance(minutes=13 * 24 * 60)
        assert client.post("/update", json={"n": day}).json() == {"n": day}
        assert client.get("/read").json() == {"n": day}
    clock.advance(minutes=13 * 24 * 60)
    assert client.get("/read").json() == {}


@pytest.mark.parametrize("max_age", [-1, 0])
async def test_a_max_age_below_one_second_ends_at_once(max_age: int) -> None:
    """The cookie says what was asked for, and the session is gone a millisecond later."""
    client = TestClient(app_of(max_age=max_age))
    cookie = client.post("/update", json={"a": 1}).headers["set-cookie"]
    assert f"Max-Age={max_age};" in cookie
    value = re.match("session=([^;]+)", cookie)
    assert value is not None
    later = TestClient(app_of(max_age=max_age), cookies={"session": value[1]})
    await until(lambda: later.get("/read").json() == {}, "the session to end")


@pytest.mark.parametrize("max_age", [10**9, 10**18])
def test_a_max_age_of_any_length_works(max_age: int) -> None:
    """The cookie says it; the server keeps the session for ten years at most."""
    client = TestClient(app_of(max_age=max_age))
    assert f"Max-Age={max_age};" in client.post("/update", json={"a": 1}).headers["set-cookie"]


# ── the class ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("act", "accessed", "modified"),
    [
        (lambda s: s.__setitem__("c", 3), True, True),
        (lambda s: s.__delitem__("a"), True, True),
        (lambda s: s.clear(), True, True),
        (lambda s: s.pop("a"), True, True),
        (lambda s: s.pop("missing", None), False, False),
        (lambda s: s.popitem(), True, True),
        (lambda s: s.setdefault("c", 3), True, True),
        (lambda s: s.setdefault("a", 3) and False, True, False),
        (lambda s: s.update(c=3), True, True),
        (lambda s: s.__ior__({"c": 3}), True, True),
        (lambda s: s.mark_accessed(), True, False),
        (lambda s: s.mark_modified(), True, True),
        (len, False, False),
    ],
)
def test_a_session_by_itself_has_the_flags(act: Callable[[Session], Any], accessed: bool, modified: bool) -> None:
    """It can be made like a dict, and tells what was done to it."""
    session = Session({"a": 1}, b=2)
    assert (session, session.accessed, session.modified) == ({"a": 1, "b": 2}, False, False)
    act(session)
    assert (session.accessed, session.modified) == (accessed, modified)


def test_an_empty_session_has_no_newest_key() -> None:
    """The error is dict's, and nothing was modified."""
    session = Session()
    for act in (session.popitem, lambda: session.pop("a"), lambda: session["a"]):
        with pytest.raises(KeyError):
            act()
    assert not session.modified


def test_what_a_handler_gets_is_a_session() -> None:
    """For those who check its class, and for those who want what evsession's can do."""

    async def look(request: Request) -> Response:
        session = session_of(request)
        assert isinstance(request.session, Session)
        assert session is request.session
        session.login("ada")
        return JSONResponse(session.info.is_new)

    app = Starlette(routes=[Route("/", look), Route("/read", read)])
    app.add_middleware(SessionMiddleware, secret_key="example")
    client = TestClient(app)
    assert client.get("/").json() is True
    assert "set-cookie" not in client.get("/read").headers, "signed in, and empty: that is not at its end"
    assert client.get("/").json() is False


def test_who_is_signed_in_stays_so_without_data() -> None:
    """The last key may go: the session holds a user."""

    async def act(request: Request) -> Response:
        session = session_of(request)
        if request.query_params.get("do") == "login":
            session.login("ada")
            session["a"] = 1
        if request.query_params.get("do") == "pop":
            session.pop("a")
        return JSONResponse(session.info.user_id)

    app = Starlette(routes=[Route("/", act)])
    app.add_middleware(SessionMiddleware, secret_key="example")
    client = TestClient(app)
    client.get("/?do=login")
    client.get("/?do=pop")
    assert client.get("/").json() == "ada"


def test_who_is_remembered_has_a_cookie_of_that_age(clock: Clock) -> None:
    """A login may ask for longer than `max_age`, in whichever spelling."""

    async def act(request: Request) -> Response:
        session = session_of(request)
        if session.info.user_id is None:
            session.login("ada", remember=timedelta(days=30))
        session["n"] = session.get("n", 0) + 1
        return JSONResponse(session["n"])

    app = Starlette(routes=[Route("/", act)])
    app.add_middleware(SessionMiddleware, secret_key="example", max_age=600)
    client = TestClient(app)
    for n in (1, 2):
        response = client.get("/")
        assert response.json() == n
        assert "; path=/; Max-Age=2592000; httponly; samesite=lax" in response.headers["set-cookie"]
        clock.advance(minutes=60)


async def test_a_session_that_was_empty_may_be_rotated() -> None:
    """Only one that was emptied is at its end."""

    async def act(request: Request) -> Response:
        session_of(request).rotate()
        return JSONResponse(session_of(request).info.id)

    manager = in_memory(cookie=CookiePolicy.for_localhost())
    app = Starlette(routes=[Route("/", act)])
    app.add_middleware(SessionMiddleware, manager=manager)
    made = await manager.create()
    assert TestClient(app, cookies={"session": made.token.value}).get("/").json() == made.id
    assert await types_of(manager, made.id) == ["created", "renewed"]


# ── places ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mounted_app_has_a_session_under_its_path() -> None:
    """The cookie's path is what it was given, wherever the app is mounted."""
    inner = app_of(path="/second")
    app = Starlette(routes=[Mount("/second", app=inner), *ROUTES])
    client = TestClient(app, base_url="https://testserver")
    assert "; path=/second; " in client.post("/second/update", json={"a": 1}).headers["set-cookie"]
    assert client.get("/second/read").json() == {"a": 1}


@pytest.mark.parametrize("kind", [original.SessionMiddleware, SessionMiddleware])
def test_mounted_apps_of_one_secret_share_their_sessions(kind: Callable[..., Any]) -> None:
    """As with signed cookies: whoever has the secret and the cookie's name has the session."""
    mounts = [Mount(f"/{n}", app=app_with(kind, secret_key=key)) for n, key in (("a", "k1"), ("b", "k1"), ("c", "k2"))]
    client = TestClient(Starlette(routes=mounts))
    client.post("/a/update", json={"a": 1})
    assert [client.get(f"/{name}/read").json() for name in "abc"] == [{"a": 1}, {"a": 1}, {}]


def test_within_each_other_they_are_one() -> None:
    """One session and one cookie, where Starlette would set two."""
    app = Starlette(routes=[Mount("/in", app=app_of()), *ROUTES])
    app.add_middleware(SessionMiddleware, secret_key="example")
    client = TestClient(app)
    assert len(client.post("/in/update", json={"a": 1}).headers.get_list("set-cookie")) == 1
    assert client.get("/read").json() == client.get("/in/read").json() == {"a": 1}


def test_with_a_url_they_are_one_too(server: Server) -> None:
    """Each has a connection of its own, to the same server."""
    options: dict[str, Any] = {"secret_key": KEY, "url": server.url}
    app = Starlette(routes=[Mount("/in", app=app_of(**options)), *ROUTES])
    app.add_middleware(SessionMiddleware, **options)
    with TestClient(app) as client:
        assert len(client.post("/in/update", json={"a": 1}).headers.get_list("set-cookie")) == 1
        assert client.get("/read").json() == client.get("/in/read").json() == {"a": 1}


def test_two_secrets_within_each_other_are_refused() -> None:
    """They would overwrite each other's cookie; the text says what to do."""
    app = Starlette(routes=[Mount("/in", app=app_of(secret_key="another"))])
    app.add_middleware(SessionMiddleware, secret_key="example")
    with pytest.raises(ConfigError, match="two session managers use the cookie 'session'"):
        TestClient(app).get("/in/read")


def test_memory_goes_with_the_last_that_used_it() -> None:
    """What is shared by secret is no leak."""
    gc.collect()
    before = len(drop_in._memories)
    client = TestClient(app_of(secret_key="a secret of this test alone"))
    client.get("/read")
    assert len(drop_in._memories) == before + 1
    del client
    gc.collect()
    assert len(drop_in._memories) == before


# ── loops, lifespans and sockets ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_it_runs_in_any_event_loop() -> None:
    """Asyncio and trio, without a lifespan: set, set again, read, clear."""
    app, browser = app_of(session_cookie="session"), Browser(cookie="session", scheme="http")
    for path, body, expected in [
        ("/update", b'{"a": 1}', {"a": 1}),
        ("/update", b'{"a": 1}', {"a": 1}),
        ("/read", b"", {"a": 1}),
        ("/clear", b"", {}),
    ]:
        answer = await _call(app, browser, path, body)
        assert answer.json == expected
        assert (answer.set_cookie is None) is (path == "/read")
    assert browser.token == "null"


async def _call(app: ASGIApp, browser: Browser, path: str, body: bytes) -> Answer:
    answer = Answer()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        answer.messages.append(message)

    await app(browser.scope(path, method="POST" if body else "GET"), receive, send)
    browser.keep(answer)
    return answer


def test_a_lifespan_of_the_app_runs_as_before() -> None:
    """It starts and stops once, with the sessions' own around it."""
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        seen.append("start")
        yield
        seen.append("stop")

    app = Starlette(routes=ROUTES, lifespan=lifespan)
    app.add_middleware(SessionMiddleware, secret_key="example")
    with TestClient(app) as client:
        assert client.post("/update", json={"a": 1}).json() == {"a": 1}
        assert client.get("/read").json() == {"a": 1}
    assert seen == ["start", "stop"]


def test_a_socket_has_the_session_and_keeps_what_it_sets() -> None:
    """To Starlette that is lost: a response's start is the only moment at which it writes."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        websocket.session["n"] = websocket.session["n"] + 1
        await websocket.send_json(websocket.session["n"])
        await websocket.close()

    app = Starlette(routes=[*ROUTES, WebSocketRoute("/talk", talk)])
    app.add_middleware(SessionMiddleware, secret_key="example")
    client = TestClient(app)
    client.post("/update", json={"n": 1})
    with client.websocket_connect("/talk") as socket:
        assert socket.receive_json() == 2
    assert client.get("/read").json() == {"n": 2}


# ── what is better ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_starlette_loses_is_kept() -> None:
    """Nested edits, and what a background task sets in a session that was there."""

    async def append(request: Request) -> Response:
        request.session["cart"].append("milk")
        return JSONResponse("ok", background=BackgroundTask(request.session.update, late=1))

    app = Starlette(routes=[*ROUTES, Route("/append", append)])
    app.add_middleware(SessionMiddleware, secret_key="example")
    client = TestClient(app)
    client.post("/update", json={"cart": ["tea"]})
    assert "set-cookie" in client.get("/append").headers
    assert client.get("/read").json() == {"cart": ["tea", "milk"], "late": 1}


def test_a_cookie_of_before_the_logout_opens_nothing() -> None:
    """To Starlette it stays good for two weeks, whoever copied it."""
    app = app_of()
    client = TestClient(app)
    client.post("/update", json={"user_id": 1})
    stolen = TestClient(app, cookies={"session": client.cookies["session"]})
    assert stolen.get("/read").json() == {"user_id": 1}
    client.get("/clear")
    assert stolen.get("/read").json() == {}


def test_signing_in_replaces_the_secret() -> None:
    """A cookie that was planted before the login does not see what comes after it."""
    app = app_of()
    client = TestClient(app)
    client.post("/update", json={"cart": 1})
    planted = TestClient(app, cookies={"session": client.cookies["session"]})
    client.post("/update", json={"user_id": 1})
    assert client.get("/read").json() == {"cart": 1, "user_id": 1}
    assert planted.get("/read").json() == {}


@pytest.mark.parametrize("server_side", [False, True])
def test_whoever_the_data_names_can_be_signed_out_everywhere(server_side: bool, server: Server) -> None:
    """And may sign in again, with the cookie that is dead; nobody else notices."""

    async def revoke(request: Request) -> Response:
        await manager_of(request).revoke_user(1, reason="password changed")
        return JSONResponse("done")

    app = Starlette(routes=[*ROUTES, Route("/revoke", revoke)])
    app.add_middleware(SessionMiddleware, secret_key=KEY, url=server.url if server_side else None)
    with TestClient(app) as first:
        second, other = TestClient(app), TestClient(app)
        second.portal = other.portal = first.portal
        for client, user in ((first, 1), (second, 1), (other, 2)):
            client.post("/update", json={"user_id": user})
        other.get("/revoke")
        assert [client.get("/read").json() for client in (first, second, other)] == [{}, {}, {"user_id": 2}]
        second.post("/update", json={"user_id": 1})
        assert [client.get("/read").json() for client in (first, second)] == [{}, {"user_id": 1}]


def test_another_user_does_not_inherit_the_session() -> None:
    """A change of `user_id` begins a new one with what that request sets."""
    client = TestClient(app_of())
    client.post("/update", json={"user_id": 1, "cart": 2})
    assert client.post("/update", json={"user_id": 2, "theme": "dark"}).status_code == 200
    assert client.get("/read").json() == {"user_id": 2, "theme": "dark"}


# ── where sessions live ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def warned() -> Iterator[set[str]]:
    """What this process has warned of; put back afterwards."""
    before = set(drop_in._warned)
    drop_in._warned.clear()
    yield drop_in._warned
    drop_in._warned |= before


@pytest.mark.usefixtures("warned")
def test_memory_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """However many apps there are; the text names what production needs."""
    with caplog.at_level(logging.WARNING):
        for secret in ("one", "two"):
            TestClient(app_of(secret_key=secret)).get("/read")
    (record,) = logged(caplog)
    assert "url='redis://…'" in record.getMessage()


@pytest.mark.usefixtures("warned")
async def test_with_a_url_every_worker_has_the_sessions(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Two workers, no lifespan, no warning; and setting an equal value keeps the session alive there too."""
    workers = [SessionMiddleware(Starlette(routes=ROUTES), KEY, url=server.url, max_age=600) for _ in range(2)]
    browser = Browser(cookie="session", scheme="http")
    assert (await _call(workers[0], browser, "/update", b'{"a": 1}')).set_cookie is not None
    (deadline,) = _deadlines(server)
    await anyio.sleep(0.01)
    assert (await _call(workers[1], browser, "/read", b"")).json == {"a": 1}
    assert _deadlines(server) == [deadline]
    assert (await _call(workers[1], browser, "/update", b'{"a": 1}')).set_cookie is not None
    assert _deadlines(server)[0] > deadline
    assert await types_of(workers[0].manager, browser.session_id) == ["created"]
    for worker in workers:
        await worker.manager.stop()
    assert "memory" not in caplog.text


def _deadlines(server: Server) -> list[int]:
    key = "{evsession:00}:exp"
    return [int(server.cli("ZSCORE", key, sid)) for sid in server.cli("ZRANGE", key, 0, -1)]


@needs_1
def test_a_manager_brings_its_own_cookie() -> None:
    """When it is set stays Starlette's rule, how it looks and how long it lives is the manager's."""
    manager = in_memory(cookie=CookiePolicy.for_localhost(), policy=SessionPolicy(idle_timeout=timedelta(minutes=5)))
    client = TestClient(app_with(SessionMiddleware, manager=manager))
    for _ in range(2):
        assert client.post("/update", json={"a": 1}).headers["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Lax")
    assert manager.stats().counts.commits == 1
    assert client.get("/delete/a").headers["set-cookie"].startswith("session=; Max-Age=0; ")


@pytest.mark.parametrize(
    ("settings", "way_out"),
    [
        ({}, "needs secret_key="),
        ({"secret_key": "x", "manager": SessionManager()}, "drop what stands beside it"),
        ({"max_age": None, "manager": SessionManager()}, "own max_age="),
        ({"url": "memory://", "manager": SessionManager()}, "own url="),
        ({"secret_key": "short", "url": "redis://localhost"}, "at least 32"),
        ({"secret_key": KEY, "url": "mysql://localhost"}, "use one of"),
        ({"secret_key": "x", "same_site": "none"}, "use secure=True"),
        ({"secret_key": "x", "partitioned": True}, "use secure=True"),
        ({"secret_key": "x", "session_cookie": "__Host-s"}, "needs secure=True"),
        ({"secret_key": "x", "path": "up"}, "begin it with '/'"),
    ],
)
def test_what_cannot_work_is_refused_at_start(settings: dict[str, Any], way_out: str) -> None:
    """The text says what can."""
    with pytest.raises(ConfigError, match=re.escape(way_out)):
        SessionMiddleware(Starlette(), **settings)


@pytest.mark.parametrize("secret", ["", "short", b"bytes", Secret("secret"), ["new", "old"], KEY])
def test_any_secret_that_starlette_takes_is_taken(secret: Any) -> None:
    """In memory a short one is no danger: what it signs opens nothing by itself."""
    client = TestClient(app_of(secret_key=secret))
    client.post("/update", json={"a": 1})
    assert client.get("/read").json() == {"a": 1}
