"""WebSockets, event streams and uploads on worker processes of uvicorn, and a logout on another one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conftest import until
from tests.integration.test_deployment import SECRET, Deployment, deployed
from tests.servers import NAMES, Server, find_binaries

STALENESS = 0.5
MARGIN = 5.0
"""Seconds that a busy machine may add, which four processes share here."""

APP = f"""
import asyncio, os, time
from datetime import timedelta
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from starlette.websockets import WebSocketDisconnect
from evsession import CachePolicy, CookiePolicy, SessionManager, SessionMiddleware, StorePolicy, session_of

manager = SessionManager.from_url(
    os.environ["URL"],
    secret_key="{SECRET}",
    cookie=CookiePolicy.for_localhost(),
    cache=CachePolicy(max_staleness=timedelta(seconds={STALENESS})),
    patience=StorePolicy(
        command_timeout=timedelta(seconds=10),
        connect_timeout=timedelta(seconds=10),
        commit_timeout=timedelta(seconds=20),
    ),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)
handlers = 0


@app.get("/whoami")
async def whoami(request: Request):
    stats = manager.stats()
    return {{"open": stats.open, "closed": stats.closed, "handlers": handlers}}


@app.get("/login/{{user}}")
async def login(request: Request, user: str):
    session_of(request).login(user)


@app.get("/logout")
async def logout(request: Request):
    session_of(request).logout()


@app.post("/upload")
async def upload(request: Request):
    return [session_of(request).info.user_id, len(await request.body())]


@app.get("/events")
async def events(request: Request):
    async def ticks():
        while True:
            yield f"data: {{time.monotonic()}}\\n\\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(ticks(), media_type="text/event-stream")


@app.websocket("/echo")
async def echo(websocket: WebSocket):
    global handlers
    handlers += 1
    try:
        await websocket.accept()
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect as gone:
        if gone.code == 4401:
            raise  # evsession closed it, so this is no failure of the handler's
    finally:
        handlers -= 1


@app.websocket("/ticks")
async def ticks(websocket: WebSocket):
    global handlers
    handlers += 1
    try:
        await websocket.accept()
        while True:
            await websocket.send_text(str(time.monotonic()))
            await asyncio.sleep(0.01)
    except (WebSocketDisconnect, RuntimeError):
        pass  # wsproto says it with a RuntimeError when a client went away
    finally:
        handlers -= 1


thought = asyncio.Event()


@app.websocket("/slow")
async def slow(websocket: WebSocket):
    await thought.wait()
    await websocket.accept()


@app.get("/think")
async def think():
    thought.set()
"""


@pytest.fixture(scope="module")
def kept_server() -> Iterator[Server]:
    """Return a server that keeps its data, so that no advice is due."""
    config = {"appendonly": "yes", "min-replicas-to-write": "0"}
    with Server.start(find_binaries()[NAMES[0]], config=config) as server:
        yield server


@pytest.fixture(scope="module", params=["websockets-sansio", "wsproto"])
def workers(
    request: pytest.FixtureRequest, kept_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Deployment, Deployment]]:
    """Run two uvicorns, each on an address of its own, with either library for WebSockets."""
    command = ("uvicorn", "shop:app", "--port", "0", "--ws", request.param)
    folders = [tmp_path_factory.mktemp("worker") for _ in range(2)]
    with (
        deployed(folders[0], kept_server, *command, app=APP) as one,
        deployed(folders[1], kept_server, *command, app=APP) as two,
    ):
        yield one, two


def cookie_of(worker: Deployment, user: str) -> str:
    """Sign in, and return the session's cookie."""
    return worker.get(f"/login/{user}").cookies["session"]


def log_out(worker: Deployment, cookie: str) -> None:
    """Sign out."""
    worker.get("/logout", httpx.Cookies({"session": cookie}))


@asynccontextmanager
async def socket(worker: Deployment, cookie: str, path: str = "/echo") -> AsyncIterator[ClientConnection]:
    """Open a WebSocket."""
    headers = {"Cookie": f"session={cookie}"}
    address = worker.address.replace("http", "ws")
    async with connect(f"{address}{path}", additional_headers=headers, max_queue=None) as one:
        yield one


async def closed(one: ClientConnection) -> tuple[int, str, list[str]]:
    """Wait for a WebSocket's close; return its code and reason, and what came before."""
    texts: list[str] = []
    try:
        while True:
            texts.append(str(await asyncio.wait_for(one.recv(), 60)))
    except ConnectionClosed:
        return one.close_code or 0, one.close_reason or "", texts


@asynccontextmanager
async def request(worker: Deployment, head: str, cookie: str, rest: str) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request by hand, as much of it as is given."""
    host, port = worker.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{head}\r\nHost: {host}\r\nConnection: close\r\nCookie: session={cookie}\r\n{rest}".encode())
    yield reader
    writer.close()
    await writer.wait_closed()


async def test_a_logout_elsewhere_closes_what_is_open(workers: tuple[Deployment, Deployment]) -> None:
    """All of one user's sockets, streams and uploads, and nobody else's; every handler ends, and none complains."""
    one, two = workers
    cookies = {f"user{number}": await asyncio.to_thread(cookie_of, one, f"user{number}") for number in range(10)}
    before = two.get("/whoami").json()["closed"]
    async with AsyncExitStack() as stack:
        sockets: dict[str, list[ClientConnection]] = {user: [] for user in cookies}
        for user, cookie in cookies.items():
            for path in ("/echo", "/echo", "/ticks"):
                sockets[user].append(await stack.enter_async_context(socket(two, cookie, path)))
        cookie = cookies["user3"]
        events = await stack.enter_async_context(request(two, "GET /events HTTP/1.1", cookie, "\r\n"))
        await events.readuntil(b"data: ")
        body = "Content-Length: 10\r\n\r\n12345"
        upload = await stack.enter_async_context(request(two, "POST /upload HTTP/1.1", cookie, body))
        seen = (await asyncio.to_thread(two.get, "/whoami")).json()
        assert (seen["open"], seen["handlers"]) == (32, 30)
        began = time.monotonic()
        await asyncio.to_thread(log_out, one, cookie)
        for mine in sockets["user3"]:
            assert (await closed(mine))[:2] == (4401, "logout")
        assert (await asyncio.wait_for(events.read(), 60)).endswith(b"0\r\n\r\n")
        assert (await asyncio.wait_for(upload.read(), 60)).startswith(b"HTTP/1.1 503")
        assert time.monotonic() - began < STALENESS + MARGIN

        async def is_settled() -> bool:
            now = (await asyncio.to_thread(two.get, "/whoami")).json()
            return bool((now["open"], now["closed"], now["handlers"]) == (27, before + 5, 27))

        await until(is_settled, "the counts agree")
        for user, theirs in sockets.items():
            if user != "user3":
                await theirs[0].send("still here")
                assert await asyncio.wait_for(theirs[0].recv(), 60) == "still here"


async def test_a_socket_that_is_not_accepted_yet_is_denied(workers: tuple[Deployment, Deployment]) -> None:
    """Its handler thinks for as long as it takes; the denial does not wait for it."""
    one, two = workers
    cookie = await asyncio.to_thread(cookie_of, one, "ann")
    opening = asyncio.create_task(socket(two, cookie, "/slow").__aenter__())
    await until(lambda: two.get("/whoami").json()["open"] == 1, "it is registered")
    await asyncio.to_thread(log_out, one, cookie)
    with pytest.raises(InvalidStatus) as caught:
        await opening
    assert caught.value.response.status_code == 403
    await asyncio.to_thread(two.get, "/think")


async def test_a_worker_that_stood_still_sends_nothing_before_it_has_proved_itself(
    workers: tuple[Deployment, Deployment],
) -> None:
    """Timers that were due meanwhile fire at once when it goes on; neither they nor what clients said get through."""
    one, two = workers
    ann = await asyncio.to_thread(cookie_of, one, "ann")
    joe = await asyncio.to_thread(cookie_of, one, "joe")
    async with socket(two, ann, "/ticks") as ticks, socket(two, ann) as echo, socket(two, joe) as theirs:
        await ticks.recv()
        os.kill(two.process.pid, signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            await asyncio.to_thread(log_out, one, ann)
            await echo.send("hello")
            await theirs.send("hello")
            await asyncio.sleep(STALENESS + 0.2)
        finally:
            os.kill(two.process.pid, signal.SIGCONT)
        code, reason, texts = await closed(ticks)
        assert (code, reason) == (4401, "logout")
        assert max(map(float, texts), default=0) < stopped + 0.1
        assert await closed(echo) == (4401, "logout", [])
        assert await asyncio.wait_for(theirs.recv(), 60) == "hello"
