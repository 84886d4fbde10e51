"""The servers and the proxy that all other tests stand on, on the real programs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from hashlib import sha1
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.conftest import until
from tests.servers import NAMES, FakeRedis, Proxy, Server, ServerFailed, find_binaries, is_promised

ROOT = Path(__file__).parents[2]
DEFAULT = find_binaries()[NAMES[0]]


@asynccontextmanager
async def client_of(url: str, **settings: Any) -> AsyncIterator[Any]:
    """Give a client that never retries, so that a test sees each fault."""
    async with aclosing(Redis.from_url(url, retry=Retry(NoBackoff(), 0), **settings)) as client:
        yield client


@pytest.mark.parametrize("name", [name for name in NAMES if is_promised(name)])
def test_the_dev_extra_brings_every_promised_server(name: str) -> None:
    """The matrix is as wide as the extra says, each server of its own release line."""
    binary = find_binaries()[name]
    assert binary.version.startswith(name.partition("-")[2])
    assert os.access(binary.path, os.X_OK)


def test_a_server_is_the_program_that_it_is_named_for(any_server: Server) -> None:
    """INFO agrees with the name, so no test runs against another server than its report says."""
    info = any_server.cli("INFO", "server").decode()
    field = "valkey_version" if any_server.binary.name.startswith("valkey") else "redis_version"
    assert f"{field}:{any_server.binary.version}\r\n" in info
    assert f"process_id:{any_server.pid}\r\n" in info


@pytest.mark.parametrize("harm", ["kill", "pause", "none"])
def test_a_shared_server_is_running_and_empty_whatever_the_test_before_did(server: Server, harm: str) -> None:
    """A killed or paused server, leftover keys and cached scripts do not reach the next test."""
    assert server.cli("DBSIZE") == 0
    assert server.cli("SCRIPT", "EXISTS", sha1(b"return 1").hexdigest()) == [0]
    server.cli("SET", "left", "over")
    server.cli("EVAL", "return 1", 0)
    if harm == "kill":
        server.kill()
    elif harm == "pause":
        server.pause()


@pytest.mark.parametrize("tcp", [False, True])
def test_a_restart_keeps_the_address_and_takes_the_data_only_when_told(tcp: bool) -> None:
    """`empty` decides, on both kinds of address."""
    with Server.start(DEFAULT, tcp=tcp) as server:
        url, pid = server.url, server.pid
        server.cli("SET", "k", "v")
        server.restart(empty=False)
        assert (server.url, server.cli("GET", "k")) == (url, b"v")
        server.restart(empty=True)
        assert (server.url, server.cli("GET", "k")) == (url, None)
        assert server.pid != pid


def test_a_killed_server_loses_what_came_after_its_last_save(any_server: Server) -> None:
    """The way to stage a failover that loses a suffix of acknowledged writes, on every server."""
    with Server.start(any_server.binary) as server:
        server.cli("XADD", "log", "1-1", "n", "1")
        server.cli("SAVE")
        server.cli("XADD", "log", "1-2", "n", "2")
        server.kill()
        assert not server.is_alive
        server.restart(empty=False)
        assert server.cli("XRANGE", "log", "-", "+") == [[b"1-1", [b"n", b"1"]]]


def test_a_configuration_overrides_the_defaults() -> None:
    """With an append-only file a kill loses nothing."""
    with Server.start(DEFAULT, config={"appendonly": "yes", "appendfsync": "always"}) as server:
        server.cli("SET", "k", "v")
        server.kill()
        server.restart(empty=False)
        assert server.cli("GET", "k") == b"v"


@pytest.mark.parametrize("tcp", [False, True])
def test_a_password_is_part_of_the_url(tcp: bool) -> None:
    """`requirepass` works without further ado, with characters that a url must quote."""
    with Server.start(DEFAULT, config={"requirepass": "p@ss/w:rd"}, tcp=tcp) as server:
        assert server.cli("PING") == b"PONG"
        assert "p%40ss%2Fw%3Ard@" in server.url


def test_a_dead_server_has_no_pid_and_refuses_connections() -> None:
    """After a kill the address is there and nobody answers: what a crashed server leaves."""
    with Server.start(DEFAULT) as server:
        server.kill()
        server.kill()
        with pytest.raises(RuntimeError, match=r"restart\(\) it first"):
            _ = server.pid
        with pytest.raises(redis.ConnectionError):
            server.cli("PING")


def test_a_paused_server_takes_a_command_and_answers_when_resumed(any_server: Server) -> None:
    """Silence, not an error: the fault that only a time-out notices."""
    with closing(socket.socket(socket.AF_UNIX)) as raw:
        raw.settimeout(0.1)
        raw.connect(any_server.url.removeprefix("unix://"))
        any_server.pause()
        raw.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            raw.recv(64)
        any_server.resume()
        raw.settimeout(5)
        assert raw.recv(64) == b"+PONG\r\n"


def test_a_paused_server_can_be_killed() -> None:
    """A stopped process does not hold up the end of a test."""
    with Server.start(DEFAULT) as server:
        server.pause()
        server.kill()
        assert not server.is_alive


def test_a_stopped_server_leaves_nothing() -> None:
    """Its folder goes with it."""
    with Server.start(DEFAULT) as server:
        folder = Path(server.url.removeprefix("unix://")).parent
        assert folder.exists()
    assert not folder.exists()
    assert not server.is_alive


def test_a_server_that_cannot_start_says_why() -> None:
    """The server's own words are in the error."""
    with pytest.raises(ServerFailed, match="no-such-setting"):
        Server.start(DEFAULT, config={"no-such-setting": "1"})


def test_a_port_that_is_taken_is_an_error_and_not_another_server() -> None:
    """The neighbour on that port answers PING too, and is not mistaken for the server of the test."""
    with Server.start(DEFAULT, tcp=True) as neighbour:
        with pytest.raises(ServerFailed, match="Address already in use"):
            Server._start_once(DEFAULT, {}, port_of(neighbour.url))
        assert neighbour.is_alive


def port_of(url: str) -> int:
    """Return the port of a loopback url."""
    return urlsplit(url).port or 0


ORPHAN = """
import os, signal, sys
from tests.servers import NAMES, Server, find_binaries
server = Server.start(find_binaries()[NAMES[0]])
if "pause" in sys.argv:
    server.pause()
print(server.pid, server.url, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("state", ["running", "pause"])
async def test_a_server_dies_with_the_process_that_started_it(state: str) -> None:
    """Even when that process is killed outright, and even if the server hangs."""
    ran = await anyio.run_process([sys.executable, "-c", ORPHAN, state], cwd=ROOT, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr.decode()
    pid, url = ran.stdout.decode().split()
    await until(lambda: is_gone(int(pid)), "the orphan is killed")
    shutil.rmtree(Path(url.removeprefix("unix://")).parent)


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped by its new parent or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_the_proxy_is_transparent_and_counts(any_server: Server) -> None:
    """What goes through arrives unchanged, large values too, and each write of the client is counted."""
    async with Proxy(any_server.url) as proxy, client_of(proxy.url, single_connection_client=True) as client:
        await client.ping()
        writes, sent, received = proxy.client_writes, proxy.bytes_sent, proxy.bytes_received
        await client.ping()
        await client.ping()
        assert proxy.client_writes - writes == 2
        assert proxy.bytes_sent - sent == 2 * len(b"*1\r\n$4\r\nPING\r\n")
        assert proxy.bytes_received - received == 2 * len(b"+PONG\r\n")
        value = os.urandom(1_000_000)
        await client.set("k", value)
        assert await client.get("k") == value
        assert (proxy.connections, proxy.open_connections) == (1, 1)
    assert proxy.open_connections == 0


async def test_the_proxy_reaches_a_server_over_tcp_and_with_a_password() -> None:
    """The login stands in the proxy's url as well."""
    with Server.start(DEFAULT, config={"requirepass": "p@ss"}, tcp=True) as server:
        async with Proxy(server.url) as proxy, client_of(proxy.url) as client:
            assert await client.ping()


async def test_a_dropped_reply_belongs_to_a_request_that_was_executed(server: Server) -> None:
    """The client sees a broken connection, the server has the write, and the next connection is sound."""
    async with Proxy(server.url) as proxy, client_of(proxy.url) as client:
        await client.ping()
        dropped = proxy.drop_next_reply()
        with pytest.raises(redis.ConnectionError):
            await client.incr("n")
        await until(dropped.is_set, "the server has finished")
        assert server.cli("GET", "n") == b"1"
        assert await client.incr("n") == 2


async def test_a_drop_can_wait_for_a_certain_request(server: Server) -> None:
    """Requests that do not contain the bytes pass, on other connections too."""
    async with Proxy(server.url) as proxy, client_of(proxy.url) as one, client_of(proxy.url) as other:
        await one.ping()
        dropped = proxy.drop_next_reply(to=b"INCR")
        assert await other.set("k", "v")
        assert await one.ping()
        with pytest.raises(redis.ConnectionError):
            await one.incr("n")
        await until(dropped.is_set, "the server has finished")
        assert await other.get("n") == b"1"


async def test_a_dropped_pipeline_is_executed_whole(server: Server) -> None:
    """All commands of the write are executed before the event is set, though the first reply already cut it off."""
    async with Proxy(server.url) as proxy, client_of(proxy.url) as client:
        await client.ping()
        dropped = proxy.drop_next_reply()
        pipeline = client.pipeline(transaction=False)
        for _ in range(500):
            pipeline.incr("n")
        with pytest.raises(redis.ConnectionError):
            await pipeline.execute()
        await until(dropped.is_set, "the server has finished")
        assert server.cli("GET", "n") == b"500"


async def test_a_drop_is_done_when_the_server_has_read_all_and_not_before() -> None:
    """The client is cut off at the first byte of a reply, while the server goes on undisturbed to a clean end."""
    go_on = asyncio.Event()
    rest: list[bytes] = []

    async def answer_slowly(requests: asyncio.StreamReader, replies: asyncio.StreamWriter) -> None:
        await requests.readexactly(7)
        replies.write(b"+first\r\n")
        await go_on.wait()
        replies.write(b"+second\r\n")
        await replies.drain()
        rest.append(await requests.read())
        replies.close()
        await replies.wait_closed()

    upstream = await asyncio.start_server(answer_slowly, "127.0.0.1", 0)
    address = f"redis://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
    async with upstream, Proxy(address) as proxy:
        replies, requests = await asyncio.open_connection("127.0.0.1", port_of(proxy.url))
        dropped = proxy.drop_next_reply()
        requests.write(b"REQUEST")
        assert await replies.read() == b""
        assert not dropped.is_set()
        go_on.set()
        await until(dropped.is_set, "the server has finished")
        assert rest == [b""]
        requests.close()


async def test_a_cut_breaks_every_connection_and_new_ones_pass(server: Server) -> None:
    """Idle, subscribed or waiting: all of them end, and the server loses its clients too."""
    async with Proxy(server.url) as proxy, client_of(proxy.url) as client, client_of(proxy.url) as listener:
        async with listener.pubsub() as pubsub:
            await pubsub.subscribe("c")
            await client.ping()
            proxy.cut()
            with pytest.raises(redis.ConnectionError):
                await client.ping()
            await until(lambda: server.cli("PUBSUB", "NUMSUB", "c")[1] == 0, "the server has lost its subscriber")
        assert await client.ping()


async def test_a_paused_proxy_holds_everything_back_and_loses_nothing(server: Server) -> None:
    """Requests wait in front of the server, and arrive in the end."""
    async with Proxy(server.url) as proxy, client_of(proxy.url) as client:
        await client.ping()
        proxy.pause()
        writes = proxy.client_writes
        waiting = asyncio.create_task(client.incr("n"))
        await until(lambda: proxy.client_writes > writes, "the request is under way")
        assert server.cli("GET", "n") is None
        proxy.resume()
        assert await waiting == 1


async def test_a_paused_proxy_can_be_cut_and_closed(server: Server) -> None:
    """What is held back does not hold up the end of a test."""
    async with Proxy(server.url) as proxy, client_of(proxy.url) as client:
        proxy.pause()
        waiting = asyncio.create_task(client.ping())
        await until(lambda: proxy.open_connections == 1, "the connection is there")
        proxy.cut()
        with pytest.raises(redis.ConnectionError):
            await waiting
        held = asyncio.create_task(client.ping())
        await until(lambda: proxy.open_connections == 1, "the second connection is there")
    with pytest.raises(redis.ConnectionError):
        await held


async def test_a_proxy_closes_the_door_while_its_server_is_dead() -> None:
    """A dead server looks dead through the proxy, and alive again after its restart."""
    with Server.start(DEFAULT) as server:
        async with Proxy(server.url) as proxy, client_of(proxy.url) as client:
            await client.ping()
            server.kill()
            with pytest.raises(redis.ConnectionError):
                await client.ping()
            with pytest.raises(redis.ConnectionError):
                await client.ping()
            server.restart(empty=True)
            assert await client.ping()


async def test_every_url_of_the_contract_runs_scripts_streams_and_feeds(contract_url: str) -> None:
    """The least that the store stands on: EVALSHA with its NOSCRIPT, an append that publishes, XRANGE, SUBSCRIBE."""
    script = "local id = redis.call('XADD', KEYS[1], '*', 'n', ARGV[1]); redis.call('PUBLISH', KEYS[2], id); return id"
    digest = sha1(script.encode()).hexdigest()
    async with (
        client_of(contract_url, single_connection_client=True) as client,
        client_of(contract_url) as listener,
        listener.pubsub(ignore_subscribe_messages=True) as pubsub,
    ):
        await pubsub.subscribe("{t}:feed")
        await pubsub.get_message(timeout=60)
        with pytest.raises(redis.exceptions.NoScriptError):
            await client.evalsha(digest, 2, "{t}:log", "{t}:feed", "1")
        first = await client.eval(script, 2, "{t}:log", "{t}:feed", "1")
        second = await client.evalsha(digest, 2, "{t}:log", "{t}:feed", "2")
        assert await client.xrange("{t}:log") == [(first, {b"n": b"1"}), (second, {b"n": b"2"})]
        messages = [await pubsub.get_message(timeout=60) for _ in range(2)]
        assert [message["data"] for message in messages] == [first, second]


def test_the_fake_keeps_a_connection_after_an_error() -> None:
    """As servers do; on its own fakeredis closes it, and every first EVALSHA would look like an outage."""
    fake = FakeRedis()
    with closing(socket.create_connection(("127.0.0.1", port_of(fake.url)))) as raw:
        raw.settimeout(5)
        raw.sendall(b"*1\r\n$4\r\nINFO\r\n")
        assert raw.recv(200).startswith(b"-ERR unknown command")
        raw.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert raw.recv(200) == b"+PONG\r\n"
    fake.stop()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_until_gives_up_in_words(anyio_backend: str) -> None:
    """A condition that never holds fails the test and says which it was."""
    with pytest.raises(pytest.fail.Exception, match="waiting for: pigs fly"):
        await until(lambda: False, "pigs fly", timeout=0.02)


async def test_until_awaits_a_coroutine_function() -> None:
    """A coroutine is no true value by itself."""
    answers = [True, False, False]

    async def condition() -> bool:
        return answers.pop()

    await until(condition, "the third answer")
    assert answers == []
