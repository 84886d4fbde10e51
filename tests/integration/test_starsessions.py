"""`evsession.compat.starsessions` beside starsessions itself: one program, the same answers, and what is safer."""

from __future__ import annotations

import inspect
import json
import logging
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio.to_thread
import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis, RedisCluster
from redis.credentials import UsernamePasswordCredentialProvider
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from evsession import ConfigError, EvsessionError, Session, SessionManager, Unsupported, session_of
from evsession.compat import starsessions as ours
from evsession.compat.starsessions.homes import secret_keys_of
from evsession.compat.starsessions.middleware import SessionMiddleware
from evsession.compat.starsessions.session import LoadGuard
from evsession.compat.starsessions.stores import memory
from evsession.compat.starsessions.stores.redis import RedisStore, url_of
from evsession.stores.memory import MemoryStore
from evsession.stores.redis.address import Address
from evsession.stores.snapshots import digest_of
from tests.integration.apps import Browser, Clock, types_of
from tests.servers import Server

ROOT = Path(__file__).parents[2]
THEIR_NAME = "starsessions"
theirs: ModuleType = pytest.importorskip(THEIR_NAME)
BOTH = [theirs, ours]


# ── the program, written against a library that is passed in ─────────────────────────────────────────────────────────


class Program:
    """An app of somebody's, whose import line may say either library."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.routes = [
            Route(f"/{name}", getattr(self, name), methods=["GET", "POST"])
            for name in (
                "load", "read", "update", "clear", "pop", "regenerate", "facts", "unloaded", "guarded", "twice", "save",
                "destroy",
            )
        ]  # fmt: skip

    def app(self, *, autoload: Any = None, is_outermost: bool = False, **options: Any) -> Starlette:
        """Return the app with the middlewares; `autoload` are the paths, or True for all."""
        options.setdefault("store", self.library.InMemoryStore())
        options.setdefault("cookie_https_only", False)
        middlewares = [Middleware(self.library.SessionMiddleware, **options)]
        if autoload is not None:
            paths = None if autoload is True else autoload
            added = Middleware(self.library.SessionAutoloadMiddleware, paths=paths)
            middlewares.insert(0 if is_outermost else 1, added)
        return Starlette(routes=[*self.routes, Mount("/sub", routes=self.routes)], middleware=middlewares)

    async def _loaded(self, request: Request) -> Any:
        await self.library.load_session(request)
        return request.session

    async def load(self, request: Request) -> Response:
        """Only load."""
        await self._loaded(request)
        return JSONResponse(self.library.is_loaded(request))

    async def read(self, request: Request) -> Response:
        """Show the session, which a middleware may have loaded."""
        return JSONResponse(dict(await self._loaded(request)))

    async def update(self, request: Request) -> Response:
        """Take the body into the session."""
        session = await self._loaded(request)
        session.update(await request.json())
        return JSONResponse(dict(session))

    async def clear(self, request: Request) -> Response:
        """Empty the session."""
        (await self._loaded(request)).clear()
        return JSONResponse("cleared")

    async def pop(self, request: Request) -> Response:
        """Remove keys."""
        session = await self._loaded(request)
        return JSONResponse([session.pop(key, None) for key in await request.json()])

    async def regenerate(self, request: Request) -> Response:
        """Replace the id."""
        session = await self._loaded(request)
        session["regenerated"] = True
        return JSONResponse(isinstance(self.library.regenerate_session_id(request), str))

    async def facts(self, request: Request) -> Response:
        """Tell what is known of the session."""
        handler = self.library.get_session_handler(request)
        await self._loaded(request)
        metadata = self.library.get_session_metadata(request)
        return JSONResponse(
            {
                "is_loaded": self.library.is_loaded(request),
                "empty": (handler.is_empty, handler.initially_empty),
                "has_id": self.library.get_session_id(request) is not None,
                "lifetime": metadata["lifetime"],
                "ages": [round(time.time() - metadata[name], -1) for name in ("created", "last_access")],
                "remaining": round(self.library.get_session_remaining_seconds(request), -1),
            }
        )

    async def unloaded(self, request: Request) -> Response:
        """Use what was not loaded, in several ways."""
        seen = []
        uses: list[Any] = [
            lambda: request.session["a"],
            lambda: request.session.get("a"),
            lambda: request.session.update(a=1),
            lambda: request.session.__setitem__("a", 1),
            lambda: self.library.get_session_metadata(request),
        ]
        for use in uses:
            try:
                use()
            except (self.library.SessionError, KeyError) as error:
                seen.append(type(error).__name__)
        return JSONResponse([seen, self.library.is_loaded(request)])

    async def guarded(self, request: Request) -> Response:
        """Do nothing with the session."""
        return JSONResponse("ok")

    async def twice(self, request: Request) -> Response:
        """Load again after a change."""
        (await self._loaded(request))["twice"] = 1
        return JSONResponse(dict(await self._loaded(request)))

    async def save(self, request: Request) -> Response:
        """Save by hand."""
        (await self._loaded(request))["saved"] = 1
        return JSONResponse(isinstance(await self.library.get_session_handler(request).save(60), str))

    async def destroy(self, request: Request) -> Response:
        """Forget by hand."""
        session = await self._loaded(request)
        session.clear()
        await self.library.get_session_handler(request).destroy()
        return JSONResponse(dict(session))


def send(client: TestClient, step: Any) -> Any:
    """Send a path, or a path with a body."""
    return client.get(step) if isinstance(step, str) else client.post(step[0], json=step[1])


def cookie_of(response: Any) -> str | None:
    """Return the attributes of the cookie that was set, or None."""
    found = response.headers.get("set-cookie")
    return None if found is None else re.sub(r"^(\w+)=[^;]{3,}", r"\1=…", found)


STORIES: dict[str, list[Any]] = {
    "reads nothing": ["/read", "/facts", "/load", "/guarded", "/unloaded"],
    "sets and reads": [("/update", {"a": 1, "b": [1, {"c": None}]}), "/read", "/facts", "/unloaded", "/guarded"],
    "clears": [("/update", {"a": 1}), "/clear", "/read", "/clear", ("/update", {"b": 2}), "/read"],
    "removes the last": [("/update", {"a": 1}), ("/pop", ["a", "b"]), "/read", "/facts"],
    "regenerates": [("/update", {"a": 1}), "/regenerate", "/read", "/regenerate", "/read"],
    "regenerates what is new": ["/regenerate", "/read"],
    "loads twice": ["/twice", "/twice", "/read"],
    "saves by hand": ["/save", "/read"],
    "forgets by hand": [("/update", {"a": 1}), "/destroy", "/read"],
    "is mounted": [("/sub/update", {"a": 1}), "/sub/read", "/sub/clear"],
}

SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "a lifetime": {"lifetime": 600},
    "a lifetime as a timedelta, rolling": {"lifetime": timedelta(hours=1), "rolling": True},
    "the cookie": {
        "cookie_name": "sid", "cookie_same_site": "strict", "cookie_domain": "shop.example", "cookie_path": "/",
        "cookie_https_only": True, "lifetime": 60,
    },
    "autoload": {"autoload": True},
    "autoload by pattern": {"autoload": [re.compile("/re"), "/f"]},
}  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("story", STORIES.values(), ids=list(STORIES))
def test_a_program_gets_the_same_answers(story: list[Any], settings: dict[str, Any]) -> None:
    """Body and status of every step; the cookie of every step that changed something, attribute by attribute."""
    one, two = (TestClient(Program(kind).app(**settings), base_url="https://shop.example") for kind in BOTH)
    for step in story:
        expected, found = send(one, step), send(two, step)
        assert (found.status_code, found.json()) == (expected.status_code, expected.json()), step
        if (mine := cookie_of(found)) is not None:
            assert _same_age(mine) == _same_age(str(cookie_of(expected))), step
        elif not isinstance(step, str):
            assert cookie_of(expected) is None, step


def _same_age(cookie: str) -> str:
    """A second may pass between the two."""
    return re.sub(r"max-age=(\d+)", lambda age: f"max-age={round(int(age[1]), -1)}", cookie)


def test_every_public_name_is_there() -> None:
    """In the same module, with the same arguments in the same order, and the same defaults."""
    modules = ["", ".exceptions", ".middleware", ".serializers", ".session", ".types"]
    modules += [".stores", ".stores.base", ".stores.cookie", ".stores.memory", ".stores.redis"]
    for name in modules:
        their, our = import_module(THEIR_NAME + name), import_module(f"evsession.compat.starsessions{name}")
        public = {
            key: value for key, value in vars(their).items()
            if not key.startswith("_") and getattr(value, "__module__", "").startswith(their.__name__)
        }  # fmt: skip
        public |= {key: getattr(their, key) for key in getattr(their, "__all__", ())}
        for key, value in public.items():
            if key in ("SessionHandler", "LoadGuard", "prefix_factory"):
                continue  # private API, as its docstrings say
            assert hasattr(our, key), f"{name}.{key}"
            if callable(value) and key not in ("SessionStore", "Serializer", "SessionMetadata"):
                assert _arguments(getattr(our, key))[: len(_arguments(value))] == _arguments(value), key


def _arguments(of: Any) -> list[tuple[str, Any]]:
    if inspect.isclass(of) and issubclass(of, Exception):
        return []
    found = inspect.signature(of).parameters.values()
    return [(one.name, one.default) for one in found if one.name != "secret_key"]


def test_the_page_names_every_public_name() -> None:
    """A stranger finds each of them."""
    page = (ROOT / "docs/reference/starsessions.md").read_text()
    assert not [name for name in (*theirs.__all__, "RedisStore") if f"`{name}" not in page]


class Encoder(json.JSONEncoder):
    """Writes times."""

    def default(self, o: Any) -> Any:
        return {"time": o.isoformat()} if isinstance(o, datetime) else super().default(o)


class Decoder(json.JSONDecoder):
    """Reads times."""

    def __init__(self, **options: Any) -> None:
        super().__init__(object_hook=self._time, **options)

    @staticmethod
    def _time(found: dict[str, Any]) -> Any:
        return datetime.fromisoformat(found["time"]) if set(found) == {"time"} else found


# ── what is safer on purpose ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_id_that_somebody_chose_is_not_adopted() -> None:
    """There, whoever plants a cookie knows the session that begins under it."""
    for library, adopts in ((theirs, True), (ours, False)):
        client = TestClient(Program(library).app(), cookies={"session": "chosen"})
        response = client.post("/update", json={"user_id": 1})
        assert ("session=chosen" in response.headers["set-cookie"]) is adopts
        attacker = TestClient(client.app, cookies={"session": "chosen"})
        assert (attacker.get("/read").json() == {"user_id": 1}) is adopts


class Counting:
    """What a store of somebody's own is asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.kept: dict[str, bytes] = {}
        self.lifetimes: set[tuple[int, int]] = set()

    async def read(self, session_id: str, lifetime: int) -> bytes:
        self.calls.append("read")
        return self.kept.get(session_id, b"")

    async def write(self, session_id: str, data: bytes, lifetime: int, ttl: int) -> str:
        self.calls.append("write")
        self.lifetimes.add((lifetime, ttl))
        self.kept[session_id] = data
        return session_id

    async def remove(self, session_id: str) -> None:
        self.calls.append("remove")
        self.kept.pop(session_id, None)


class Theirs(Counting, theirs.SessionStore):  # type: ignore[misc,name-defined]
    """A store that inherits from their base."""


class Ours(Counting, ours.SessionStore):
    """The same, its import changed."""


@pytest.mark.parametrize(("library", "kind", "writes"), [(theirs, Theirs, 1), (ours, Ours, 0)])
def test_a_read_writes_nothing(library: Any, kind: type[Counting], writes: int) -> None:
    """There, every request that loads a session saves it, over whatever another one wrote meanwhile."""
    store = kind()
    client = TestClient(Program(library).app(store=store, lifetime=600))
    client.post("/update", json={"a": 1})
    store.calls.clear()
    client.get("/read")
    assert store.calls.count("write") == writes


@pytest.mark.parametrize("own_encoder", [False, True])
def test_concurrent_changes_of_different_keys_both_count(own_encoder: bool) -> None:
    """There, the one that answers last wins; here also with a serializer, and after a save in between."""
    for library, theirs_too in ((theirs, {}), (ours, {"inner": 1, "n": 5})):
        program = Program(library)

        async def nest(request: Request, program: Program = program) -> Response:
            session = await program._loaded(request)
            session["outer"] = 1
            inner = TestClient(request.app, cookies=dict(request.cookies))
            await anyio.to_thread.run_sync(lambda: inner.post("/update", json={"inner": 1, "n": 5}))
            await program.library.get_session_handler(request).save(60)
            session["later"] = 1
            return JSONResponse("ok")

        program.routes.append(Route("/nest", nest))
        serializer = library.JsonSerializer(json_encoder=Encoder) if own_encoder else None
        client = TestClient(program.app(serializer=serializer))
        client.post("/update", json={"n": 0})
        client.get("/nest")
        assert client.get("/read").json() == {"n": 0, "outer": 1, "later": 1} | theirs_too


def test_what_was_cleared_or_regenerated_opens_nothing_any_more() -> None:
    """There, the old id of a regenerated session stays good."""
    for step in ("/regenerate", "/clear"):
        client = TestClient(Program(ours).app())
        client.post("/update", json={"a": 1})
        old = TestClient(client.app, cookies={"session": client.cookies["session"]})
        client.get(step)
        assert old.get("/read").json() == {}


# ── order, sockets, lifetimes ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_outermost", [True, False])
@pytest.mark.parametrize("paths", [True, ["/guarded", "/seen"], [re.compile("/se")]])
def test_the_order_of_the_middlewares_does_not_matter(is_outermost: bool, paths: Any) -> None:
    """There, the wrong one raises KeyError."""
    program = Program(ours)

    async def seen(request: Request) -> Response:
        return JSONResponse([ours.is_loaded(request), dict(request.session)])

    program.routes.append(Route("/seen", seen))
    client = TestClient(program.app(autoload=paths, is_outermost=is_outermost))
    client.post("/update", json={"a": 1})
    assert client.get("/seen").json() == [True, {"a": 1}]


def test_a_socket_loads_and_keeps() -> None:
    """At its end, and at `save`."""

    async def talk(websocket: WebSocket) -> None:
        await ours.load_session(websocket)
        await websocket.accept()
        websocket.session["n"] += 1
        await websocket.send_json(websocket.session["n"])
        await websocket.close()

    program = Program(ours)
    app = program.app()
    app.router.routes.append(WebSocketRoute("/talk", talk))
    client = TestClient(app)
    client.post("/update", json={"n": 1})
    with client.websocket_connect("/talk") as socket:
        assert socket.receive_json() == 2
    assert client.get("/read").json() == {"n": 2}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock for sessions in memory, which only the test moves."""
    clock, made = Clock(), SessionManager.__init__
    monkeypatch.setattr(memory, "MemoryStore", lambda: MemoryStore(clock=clock.server))
    monkeypatch.setattr(SessionManager, "__init__", lambda *a, **b: made(*a, **b | {"clock": clock.local}))
    return clock


def _age(response: Any) -> int | None:
    found = re.search(r"max-age=(\d+)", response.headers.get("set-cookie", ""))
    return None if found is None else int(found[1])


def test_a_lifetime_counts_from_the_beginning(clock: Clock) -> None:
    """Without rolling neither reads nor writes prolong it, and the cookie says what is left."""
    client = TestClient(Program(ours).app(lifetime=600))
    assert _age(client.post("/update", json={"a": 1})) == 600
    clock.advance(minutes=4)
    assert _age(client.get("/read")) is None
    assert _age(client.post("/update", json={"b": 1})) == 360
    clock.advance(minutes=5)
    assert client.get("/read").json() == {"a": 1, "b": 1}
    clock.advance(minutes=1)
    assert client.get("/read").json() == {}


def test_a_rolling_lifetime_counts_from_the_last_use(clock: Clock) -> None:
    """Every request that loads the session sets the cookie anew, as there; nothing is stored for it."""
    client = TestClient(Program(ours).app(lifetime=600, rolling=True))
    client.post("/update", json={"a": 1})
    for _ in range(5):
        clock.advance(minutes=8)
        assert _age(client.get("/read")) == 600
        clock.advance(seconds=30)
        assert _age(client.get("/read")) == 600
        assert "set-cookie" not in client.get("/guarded").headers
    clock.advance(minutes=10)
    assert client.get("/read").json() == {}


def test_who_is_remembered_has_a_cookie_of_that_age(clock: Clock) -> None:
    """Although the middleware has no lifetime, or a shorter one."""

    async def act(request: Request) -> Response:
        await ours.load_session(request)
        session = session_of(request)
        if session.info.user_id is None:
            session.login("ada", remember=timedelta(days=30))
        session["n"] = session.get("n", 0) + 1
        return JSONResponse(session["n"])

    for lifetime in (0, 600):
        program = Program(ours)
        program.routes.append(Route("/act", act))
        client = TestClient(program.app(lifetime=lifetime))
        assert _age(client.get("/act")) == 30 * 24 * 3600
        clock.advance(minutes=60)
        response = client.get("/act")
        assert (response.json(), response.headers["set-cookie"].count("max-age=")) == (2, 1)


def test_rolling_without_a_lifetime_sets_no_cookie_by_itself(clock: Clock) -> None:
    """There is no age that it could prolong."""
    client = TestClient(Program(ours).app(rolling=True))
    client.post("/update", json={"a": 1})
    assert "set-cookie" not in client.get("/read").headers


def test_a_session_tells_when_it_began(clock: Clock) -> None:
    """By the store's clock, whenever it is asked."""

    async def created(request: Request) -> Response:
        await ours.load_session(request)
        return JSONResponse(ours.get_session_metadata(request)["created"])

    program = Program(ours)
    program.routes.append(Route("/created", created))
    client = TestClient(program.app())
    client.post("/update", json={"a": 1})
    began = clock.server() / 1000
    clock.advance(minutes=4)
    assert client.get("/created").json() == began


def test_a_new_session_begins_under_the_id_that_was_named() -> None:
    """Whoever regenerates before anything was saved gets the id that will be."""

    async def begin(request: Request) -> Response:
        await ours.load_session(request)
        request.session["a"] = 1
        named = ours.regenerate_session_id(request)
        return JSONResponse([named, ours.get_session_id(request)])

    program = Program(ours)
    program.routes.append(Route("/begin", begin))
    client = TestClient(program.app())
    named = client.get("/begin").json()
    assert named == [client.cookies["session"][:24]] * 2


def test_without_a_lifetime_an_unused_session_is_kept_for_a_month(clock: Clock) -> None:
    """There, in memory, for ever."""
    client = TestClient(Program(ours).app())
    client.post("/update", json={"a": 1})
    for _ in range(3):
        clock.advance(minutes=29 * 24 * 60)
        assert client.get("/read").json() == {"a": 1}
    clock.advance(minutes=30 * 24 * 60)
    assert client.get("/read").json() == {}


# ── stores ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lifetime", [0, 600])
def test_a_store_of_ones_own_keeps_snapshots(lifetime: int, caplog: pytest.LogCaptureFixture) -> None:
    """It gets digests and sealed bytes, and how long to keep them; what needs a log says that there is none."""
    store = Ours()
    with caplog.at_level(logging.INFO, logger="evsession.compat"):
        client = TestClient(Program(ours).app(store=store, lifetime=lifetime))
        client.post("/update", json={"a": 1})
    assert client.get("/read").json() == {"a": 1}
    sid = client.cookies["session"][:24]
    assert list(store.kept) == [digest_of(sid)]
    assert client.cookies["session"].split(".")[1] not in store.kept[digest_of(sid)].decode()
    assert store.lifetimes == {(lifetime, 600 if lifetime else 0)}
    client.get("/clear")
    assert store.kept == {}
    assert "Ours as snapshots, without a log" in caplog.text
    assert caplog.text.count("EVSESSION_SECRET_KEY") == 1


def test_a_store_that_names_sessions_itself_is_refused() -> None:
    """The id is not its to choose; the text says what to return."""

    class Naming(Ours):
        async def write(self, session_id: str, data: bytes, lifetime: int, ttl: int) -> str:
            await super().write(session_id, data, lifetime, ttl)
            return "mine"

    client = TestClient(Program(ours).app(store=Naming()))
    with pytest.raises(Unsupported, match="return the session_id that write"):
        client.post("/update", json={"a": 1})


def test_a_memory_that_is_shared_is_one() -> None:
    """Two apps with one store have the same sessions; a subclass that does something itself is used itself."""

    class Noting(ours.InMemoryStore):
        async def write(self, session_id: str, data: bytes, lifetime: int, ttl: int) -> str:
            return await super().write(session_id, data, lifetime, ttl)

    for store in (ours.InMemoryStore(), Noting()):
        one, two = (TestClient(Program(ours).app(store=store)) for _ in range(2))
        one.post("/update", json={"a": 1})
        two.cookies = one.cookies
        assert two.get("/read").json() == {"a": 1}
        assert bool(store.data) is isinstance(store, Noting)


async def test_a_redis_store_keeps_events_where_the_connection_leads(server: Server, until_closed: list[Any]) -> None:
    """With a connection of our own; the prefix becomes the namespace, and history and all the rest work."""
    connection = Redis.from_url(server.url)
    until_closed.append(connection)
    store = RedisStore(connection=connection, prefix="shop:sessions:", gc_ttl=7200)
    middleware = SessionMiddleware(app_of_acts(), store, lifetime=600, secret_key="k" * 32)
    app, manager = middleware, middleware.manager
    async with manager:
        browser = Browser(cookie="session")
        await browser.visit(app, lambda session: session.update(a=1))
        await browser.visit(app, lambda session: session.update(b=1))
        assert await types_of(manager, browser.session_id) == ["created", "updated"]
    assert any(key.startswith(b"{shop-sessions:00}:s:") for key in server.cli("KEYS", "*"))


@pytest.fixture
async def until_closed() -> Any:
    """Clients that are closed when the test is over."""
    clients: list[Any] = []
    yield clients
    for client in clients:
        await client.aclose()


def app_of_acts() -> Any:
    """Return an app whose every path loads the session and does what the test asks for."""

    async def perform(request: Request) -> Response:
        await ours.load_session(request)
        request.scope["act"](request.session)
        return JSONResponse(dict(request.session))

    return Starlette(routes=[Route("/{path:path}", perform)])


async def test_two_workers_without_a_secret_agree(
    server: Server, until_closed: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An app that only changed its import has none; it is warned, and its workers read each other's cookies."""
    connection = Redis.from_url(server.url)
    until_closed.append(connection)
    workers = [SessionMiddleware(app_of_acts(), RedisStore(connection=connection)) for _ in range(2)]
    assert "pass secret_key=, or set EVSESSION_SECRET_KEY" in caplog.text
    async with workers[0].manager, workers[1].manager:
        browser = Browser(cookie="session")
        await browser.visit(workers[0], lambda session: session.update(a=1))
        assert (await browser.visit(workers[1])).json == {"a": 1}


async def test_a_client_that_cannot_be_followed_is_used_itself(until_closed: list[Any]) -> None:
    """Such as one that is no server at all: its sessions are snapshots under the prefix."""
    fake = FakeAsyncRedis()
    until_closed.append(fake)
    store = RedisStore(connection=fake, gc_ttl=7200)
    assert store.url is None
    middleware = SessionMiddleware(app_of_acts(), store, secret_key="k" * 32)
    async with middleware.manager:
        browser = Browser(cookie="session")
        await browser.visit(middleware, lambda session: session.update(a=1))
        assert (await browser.visit(middleware)).json == {"a": 1}
        (key,) = await fake.keys()
        assert key == f"starsessions.{digest_of(browser.session_id)}".encode()
        assert 7000 < await fake.ttl(key) <= 7200
        await browser.visit(middleware, lambda session: session.clear())
        assert await fake.keys() == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://ada:p%40ss@db.example:7000/3", "redis://ada:p%40ss@db.example:7000/3"),
        ("redis://:secret@db.example", "redis://:secret@db.example:6379/0"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ("rediss://db.example?ssl_cert_reqs=none", "rediss://db.example:6379/0?ssl_cert_reqs=none"),
    ],
)
def test_a_client_says_where_its_server_is(url: str, expected: str) -> None:
    """As a URL that evsession's own connection takes."""
    found = url_of(Redis.from_url(url))
    assert found is not None
    assert found.startswith(expected)
    assert Address.parse(found) is not None


def test_a_subclass_is_used_itself() -> None:
    """Whoever overrides a method wants it called."""

    class Noting(RedisStore):
        pass

    plain, own = RedisStore("redis://localhost"), Noting("redis://localhost")
    homes = [SessionMiddleware(Starlette(), store, secret_key="k" * 32).manager.worker.store for store in (plain, own)]
    assert [home.has_log for home in homes] == [True, False]


def test_a_cluster_and_a_password_service_are_not_followed() -> None:
    """Their client is used itself."""
    assert url_of(Redis(credential_provider=UsernamePasswordCredentialProvider("a", "b"))) is None
    assert url_of(RedisCluster.__new__(RedisCluster)) is None  # type: ignore[arg-type]


def test_a_url_is_taken_too() -> None:
    """Without the warning; and without anything it says what to pass."""
    assert RedisStore("redis://localhost/1").url == "redis://localhost/1"
    with pytest.raises(ours.ImproperlyConfigured, match="pass connection="):
        RedisStore()


@pytest.mark.parametrize(
    ("prefix", "namespace"),
    [("starsessions.", "starsessions"), ("app:s:", "app-s"), ("", "starsessions"), (lambda key: f"x/{key}", "x")],
)
def test_a_prefix_becomes_a_namespace(prefix: Any, namespace: str) -> None:
    """Whatever it looks like."""
    assert RedisStore("redis://localhost", prefix=prefix).namespace == namespace


# ── serializers ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("library", BOTH)
def test_a_serializer_of_ones_own_keeps_what_json_has_not(library: Any) -> None:
    """Set, replaced, removed and edited in depth; what others changed meanwhile is not undone."""
    at = datetime(2026, 1, 2, tzinfo=UTC)

    async def act(request: Request) -> Response:
        await library.load_session(request)
        session = request.session
        session["seen"] = 1
        await library.load_session(request)
        match request.query_params["do"]:
            case "set":
                session.update(at=at, deep={"times": [at]}, gone=1)
            case "edit":
                del session["gone"]
                session["deep"]["times"].append(at + timedelta(days=1))
        return JSONResponse({key: repr(value) for key, value in session.items()})

    serializer = library.JsonSerializer(json_encoder=Encoder, json_decoder=Decoder)
    store = library.InMemoryStore()
    app = Starlette(routes=[Route("/", act)])
    app.add_middleware(library.SessionMiddleware, store=store, cookie_https_only=False, serializer=serializer)
    client = TestClient(app)
    client.get("/?do=set")
    client.get("/?do=edit")
    times = [at, at + timedelta(days=1)]
    assert client.get("/?do=look").json() == {"at": repr(at), "deep": repr({"times": times}), "seen": "1"}


class Pickles(ours.Serializer):
    """Writes no JSON."""

    def serialize(self, data: Any) -> bytes:
        return repr(data).encode() + b"!"

    def deserialize(self, data: bytes) -> dict[str, Any]:
        return {}


class Lists(Pickles):
    """Writes JSON, but no object."""

    def serialize(self, data: Any) -> bytes:
        return b"[]"


@pytest.mark.parametrize(
    ("make", "error", "way_out"),
    [
        (lambda: ours.CookieStore("secret"), Unsupported, r"use InMemoryStore\(\), or RedisStore"),
        (lambda: SessionMiddleware(Starlette(), ours.InMemoryStore(), lifetime=-1), ours.ImproperlyConfigured, "use 0"),
        (lambda: SessionMiddleware(Starlette(), Ours(), serializer=Pickles()), Unsupported, "use JsonSerializer"),
        (lambda: SessionMiddleware(Starlette(), Ours(), serializer=Lists()), Unsupported, "use JsonSerializer"),
        (lambda: SessionMiddleware(Starlette(), Ours(), cookie_https_only=False, cookie_same_site="none"), ConfigError,
         "use secure=True"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_start(make: Any, error: type[EvsessionError], way_out: str) -> None:
    """The text says what can."""
    with pytest.raises(error, match=way_out):
        make()


# ── the session itself ───────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_loaded_is_a_session_of_ours() -> None:
    """With login and all the rest; before, the guard says what to do."""

    async def act(request: Request) -> Response:
        assert "not loaded" in repr(request.scope["session"])
        with pytest.raises(ConfigError):
            session_of(request)
        await ours.load_session(request)
        assert isinstance(request.session, Session)
        session_of(request).login("ada")
        return JSONResponse("ok")

    app = Starlette(routes=[Route("/", act)])
    app.add_middleware(SessionMiddleware, store=ours.InMemoryStore())
    assert TestClient(app, base_url="https://testserver").get("/").status_code == 200


@pytest.mark.parametrize("use", [len, list, dict, bool, lambda g: "a" in g, lambda g: g.__delitem__("a")])
def test_a_guard_lets_nothing_through(use: Any) -> None:
    """Whatever is done with it, the error names the function to call."""
    guard = LoadGuard()
    with pytest.raises(ours.SessionNotLoaded, match=r"await load_session\(connection\)"):
        use(guard)


def test_redis_is_imported_by_who_asks_for_it() -> None:
    """The package alone needs neither redis nor fastapi."""
    code = "import sys, evsession.compat.starsessions as s; s.InMemoryStore(); sys.exit('redis' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})


def test_an_id_is_random() -> None:
    """For who uses it elsewhere."""
    assert len({ours.generate_session_id() for _ in range(10)}) == 10


def test_a_passphrase_in_the_environment_is_no_list_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each word would be stretched, and the first would sign; one short key is stretched as ever."""
    monkeypatch.setenv("EVSESSION_SECRET_KEY", "correct horse battery staple")
    with pytest.raises(ConfigError, match="is read as 4 secrets"):
        secret_keys_of(ours.InMemoryStore(), None)
    monkeypatch.setenv("EVSESSION_SECRET_KEY", "short")
    assert len(secret_keys_of(ours.InMemoryStore(), None)) == 1
