"""The application under test, and a browser for it: both hand-made, so that thousands of requests cost little."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evsession import CachePolicy, CookiePolicy, SessionManager, SessionMiddleware, StorePolicy
from evsession.session import Session
from evsession.worker import local_clock

SECRET: Final = "a secret key of the chaos tests, 32 characters and more"
COOKIE: Final = CookiePolicy.for_localhost()

PATIENCE: Final = StorePolicy(
    command_timeout=timedelta(seconds=10),
    connect_timeout=timedelta(seconds=10),
    probe_every=timedelta(seconds=0.1),
    resubscribe_at_most=timedelta(seconds=0.1),
    commit_timeout=timedelta(seconds=20),
)
"""For servers that answer, or break the connection: with less, a busy machine is an outage."""

BRISK: Final = replace(
    PATIENCE,
    command_timeout=timedelta(seconds=2),
    connect_timeout=timedelta(seconds=2),
    commit_timeout=timedelta(seconds=2),
)
"""For servers that are killed or hang once: what was on its way is tried again for so long."""

HASTY: Final = replace(
    PATIENCE,
    command_timeout=timedelta(seconds=0.4),
    connect_timeout=timedelta(seconds=0.4),
    commit_timeout=timedelta(seconds=0.8),
)
"""For servers that hang on purpose."""

LONGEST: Final = 0.4 + 0.4 + 0.8
"""Seconds that a request may take in all with `HASTY`: a connection, a command, a commit."""

STALENESS: Final = timedelta(seconds=0.5)


def manager_of(url: str, **options: Any) -> SessionManager:
    """Return a manager on the key and cookie of these tests."""
    settings: dict[str, Any] = {
        "secret_key": SECRET,
        "cookie": COOKIE,
        "patience": PATIENCE,
        "cache": CachePolicy(max_staleness=STALENESS),
    }
    return SessionManager.from_url(url, namespace="chaos", **(settings | options))


class RunningClock:
    """This machine's time, ahead of which a test may let a worker run."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return local_clock() + self._ahead

    def advance(self, by: timedelta) -> None:
        """Let time pass for the worker."""
        self._ahead += by.total_seconds()


def app_of(manager: SessionManager, **options: Any) -> ASGIApp:
    """Return the application: ``/read``, ``/set/key/value``, ``/login/user``, ``/logout``; it answers what it holds."""
    return SessionMiddleware(_answer, manager, **options)


async def _listen(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await _listen(receive, send)
        return
    session: Session = scope["session"]
    held = dict(session)
    match scope["path"].split("/")[1:]:
        case ["set", key, value]:
            session[key] = json.loads(unquote(value))
        case ["login", user]:
            session.login(user)
            session["me"] = user
        case ["logout"]:
            session.logout()
    body = json.dumps({"held": held, "source": session.info.source, "version": session.info.version}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def held(self) -> dict[str, Any]:
        """What the session held when the handler began."""
        found: dict[str, Any] = json.loads(self.body)["held"]
        return found

    @property
    def source(self) -> str:
        """Where the session came from."""
        return str(json.loads(self.body)["source"])


class Browser:
    """One visitor of an application: keeps its session cookie as browsers do."""

    def __init__(self, app: ASGIApp, cookie: str | None = None) -> None:
        self.app = app
        self.cookie = cookie

    async def get(self, path: str) -> Answer:
        """Send a request; an exception of the application passes through, because a server would answer 500."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        cookie = [] if self.cookie is None else [(b"cookie", f"{COOKIE.name}={self.cookie}".encode())]
        await self.app(_scope(path, [(b"host", b"localhost"), *cookie]), _receive, send)
        headers = dict(sent[0]["headers"])
        self._take(headers.get(b"set-cookie"))
        return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))

    def _take(self, set_cookie: bytes | None) -> None:
        if set_cookie is not None:
            value = set_cookie.partition(b";")[0].partition(b"=")[2].strip(b'"').decode()
            self.cookie = value or None


def _scope(path: str, headers: list[tuple[bytes, bytes]]) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
    }


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
