"""The connections to a real server: coalescing, cancellation, time-outs, the breaker, and a clean end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import hiredis
import pytest

from evsession.config import StorePolicy
from evsession.errors import StoreUnavailable
from evsession.stores.redis import RedisStore
from evsession.stores.redis.address import Address
from evsession.stores.redis.connection import Connection, login, open_connection, pack
from evsession.stores.redis.link import Link
from evsession.stores.redis.scripts import FILL
from evsession.view import Beat
from evsession.wire import START
from tests.conftest import until
from tests.contract.builder import Heard, begin, commit_of, created, happened, retried, stored, updated
from tests.servers import NAMES, Proxy, Server, find_binaries

QUICK = StorePolicy(
    command_timeout=timedelta(seconds=1),
    connect_timeout=timedelta(seconds=1),
    probe_every=timedelta(seconds=0.05),
    resubscribe_at_most=timedelta(seconds=0.1),
)
"""For servers that hang on purpose; with less, those that do not would hang on a busy machine."""

EAGER = replace(QUICK, probe_every=timedelta(milliseconds=1))
"""The same, with a probe due at nearly every call: not even the one that starts it waits for it."""

PATIENT = StorePolicy(command_timeout=timedelta(seconds=10), commit_timeout=timedelta(seconds=20))
"""For servers that do not; the machine may be busy."""

Open = Callable[..., Awaitable[RedisStore]]


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that only this test has, to be hurt."""
    with Server.start(find_binaries()[NAMES[0]]) as server:
        yield server


@pytest.fixture(autouse=True)
async def _complaints() -> AsyncIterator[None]:
    """Fail a test after which the event loop reports an error that nobody looked at."""
    loop, complaints = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert complaints == []


@pytest.fixture
async def connection(server: Server) -> AsyncIterator[Connection]:
    """An open connection to the default server."""
    opened = await connect(server.url)
    yield opened
    opened.abort("the test is over")


@pytest.fixture
async def links() -> AsyncIterator[Callable[[str, StorePolicy], Link]]:
    """A function that makes a link, closed when the test is over."""
    made: list[Link] = []

    def make(url: str, policy: StorePolicy = PATIENT) -> Link:
        made.append(Link(Address.parse(url), policy, "evsession-test"))
        return made[-1]

    yield make
    for link in made:
        await link.close()


@pytest.fixture
async def open_store() -> AsyncIterator[Open]:
    """A function that opens a store, closed when the test is over."""
    stores: list[RedisStore] = []

    async def open_on(url: str, policy: StorePolicy = PATIENT, heard: Heard | None = None) -> RedisStore:
        store = RedisStore(url, namespace="connection", policy=policy)
        stores.append(store)
        await store.open("worker-1", 2_000, heard or Heard())
        return store

    yield open_on
    for store in stores:
        await store.close()


async def connect(url: str, timeout: float = 10) -> Connection:
    """Open a connection of the kind that a link has."""
    address = Address.parse(url)
    return await open_connection(address, timeout, handshake=login(address, "evsession-test"))


def echo(connection: Connection, text: str) -> asyncio.Future[Any]:
    """Ask for a text to be sent back."""
    return connection.call(pack(("ECHO", text)))


def fails_at_once(link: Link) -> bool:
    """Tell whether a call fails without waiting for anything."""
    call = link.call("PING")
    try:
        call.send(None)
    except StoreUnavailable as error:
        return not error.outcome_unknown
    call.close()
    return False


async def answers(link: Link) -> bool:
    """Tell whether a call is answered."""
    try:
        return bool(await link.call("PING") == b"PONG")
    except StoreUnavailable:
        return False


# ── coalescing and cancellation ──────────────────────────────────────────────────────────────────────────────────────


async def test_concurrent_calls_leave_together(connection: Connection) -> None:
    """A hundred calls cost a few writes, and each gets its own reply."""
    before = connection.batches_sent
    replies = await asyncio.gather(*(echo(connection, f"{n}") for n in range(100)))
    assert replies == [b"%d" % n for n in range(100)]
    assert connection.batches_sent - before <= 4


async def test_concurrent_tasks_leave_together(server: Server, open_store: Open) -> None:
    """The same through the store, where each call is a task of its own; seen from the wire."""
    async with Proxy(server.url) as proxy:
        store = await open_store(proxy.url)
        sids = [begin().sid for _ in range(100)]
        await store.fill(sids[0])
        before = proxy.client_writes
        replies = await asyncio.gather(*(store.fill(sid) for sid in sids))
        assert [reply.sid for reply in replies] == sids
        assert proxy.client_writes - before <= 4


async def test_what_comes_while_replies_are_under_way_waits_for_the_next_batch(own_server: Server) -> None:
    """Two batches at most are under way, so that a burst after a burst leaves together as well."""
    connection = await connect(own_server.url)
    before = connection.batches_sent
    own_server.pause()
    waiting = []
    for n in range(20):
        waiting += [echo(connection, f"{n}.{m}") for m in range(5)]
        await asyncio.sleep(0)
    assert connection.batches_sent - before == 2
    own_server.resume()
    assert [await reply for reply in waiting] == [b"%d.%d" % (n, m) for n in range(20) for m in range(5)]
    assert connection.batches_sent - before == 3
    connection.abort("the test is over")


async def test_a_cancelled_call_takes_nobody_elses_reply(connection: Connection) -> None:
    """A thousand callers leave before their replies come; those who stay, and those who come later, get their own."""

    async def ask(n: int) -> bytes:
        reply: bytes = await echo(connection, f"{n}")
        return reply

    for burst in range(10):
        tasks = [asyncio.create_task(ask(n)) for n in range(burst * 200, burst * 200 + 200)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
        assert results[1::2] == [b"%d" % n for n in range(burst * 200 + 1, burst * 200 + 200, 2)]
    assert await echo(connection, "last") == b"last"


async def test_a_cancelled_commit_may_have_happened_and_tears_nothing(server: Server, open_store: Open) -> None:
    """The request is on its way; the retry finds out, and other sessions notice nothing."""
    store = await open_store(server.url)
    commit, after = commit_of(begin(), created(a=1))
    task = asyncio.create_task(store.commit(commit))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await store.commit(retried(commit))).status == "ok"
    assert len(await store.read("00", START, 10)) == 1
    assert (await stored(store, after.sid)).snapshot.data == {"a": 1}


# ── silence, and losses ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_silent_server_fails_all_that_wait(own_server: Server) -> None:
    """What has left may have been executed; what was still queued has not."""
    connection = await connect(own_server.url, timeout=1)
    own_server.pause()
    sent = [echo(connection, "first")]
    sent.append(echo(connection, "second"))
    await asyncio.sleep(0)
    queued = echo(connection, "third")
    errors = await asyncio.gather(*sent, queued, return_exceptions=True)
    assert [isinstance(error, StoreUnavailable) and error.outcome_unknown for error in errors] == [True, True, False]
    assert "no reply within 1 s" in str(errors[0])
    with pytest.raises(StoreUnavailable) as late:
        await echo(connection, "late")
    assert not late.value.outcome_unknown


async def test_a_silent_server_opens_the_breaker_and_a_probe_closes_it(
    own_server: Server, links: Callable[[str, StorePolicy], Link]
) -> None:
    """One call pays the time-out, all later ones fail at once, until the server answers again."""
    link = links(own_server.url, EAGER)
    assert await link.call("PING") == b"PONG"
    own_server.pause()
    with pytest.raises(StoreUnavailable) as hung:
        await link.call("PING")
    assert hung.value.outcome_unknown
    with pytest.raises(StoreUnavailable):
        await link.call("PING")
    assert all(fails_at_once(link) for _ in range(1_000))
    own_server.resume()
    await until(lambda: answers(link), "the probe")
    assert await link.call("PING") == b"PONG"


async def test_a_dead_server_opens_the_breaker_and_a_restart_closes_it(
    own_server: Server, links: Callable[[str, StorePolicy], Link]
) -> None:
    """The new server has no scripts and no data; both are no trouble."""
    link = links(own_server.url, EAGER)
    assert await link.call("PING") == b"PONG"
    own_server.kill()
    assert not await answers(link)
    assert not await answers(link)
    assert all(fails_at_once(link) for _ in range(1_000))
    own_server.restart(empty=True)
    await until(lambda: answers(link), "the probe")
    sid, _, packed = await link.run(FILL, (b"{connection:00}:s:x",), "x")
    assert (sid, packed) == (b"x", None)


async def test_probes_are_paced(own_server: Server, links: Callable[[str, StorePolicy], Link]) -> None:
    """However many calls fail meanwhile, the server sees few attempts."""
    async with Proxy(own_server.url) as proxy:
        own_server.kill()
        link = links(proxy.url, PATIENT)
        with pytest.raises(StoreUnavailable):
            await link.call("PING")
        before, began = proxy.connections, asyncio.get_running_loop().time()
        for _ in range(50):
            assert fails_at_once(link)
            await asyncio.sleep(0)
        seconds = asyncio.get_running_loop().time() - began
        assert proxy.connections - before <= 1 + seconds / PATIENT.probe_every.total_seconds()


async def test_a_killed_connection_is_opened_again(server: Server, links: Callable[[str, StorePolicy], Link]) -> None:
    """At most the calls under way fail."""
    link = links(server.url, PATIENT)
    for n in range(5):
        assert await link.call("ECHO", f"{n}") == b"%d" % n
        assert server.cli("CLIENT", "KILL", "TYPE", "normal") >= 1
        await until(lambda: answers(link), "a new connection")


async def test_a_lost_reply_leaves_the_outcome_unknown(server: Server, open_store: Open) -> None:
    """The server has executed the commit; the error says that it may have, and the retry finds it."""
    async with Proxy(server.url) as proxy:
        store = await open_store(proxy.url)
        _, base = await happened(store, begin(), created())
        commit, _ = commit_of(base, updated(a=1))
        dropped = proxy.drop_next_reply(to=commit.event_id)
        with pytest.raises(StoreUnavailable, match="read before you repeat it") as lost:
            await store.commit(commit)
        assert lost.value.outcome_unknown
        await dropped.wait()
        assert (await store.commit(retried(commit))).status == "ok"
        assert [entry.version for entry in await store.walk(base.sid, 10)] == [1, 2]


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n" * 50, b"\x15\x03\x01\x00\x02"])
async def test_what_is_no_redis_server_is_refused(nonsense: bytes) -> None:
    """An answer of another protocol, or more answers than questions, ends the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(nonsense)
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        link = Link(Address.parse(f"redis://127.0.0.1:{port}"), QUICK, "evsession-test")
        assert not await answers(link)
        assert not await answers(link)
        await link.close()


async def test_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    """From then on nobody could tell whose reply is whose."""
    is_open = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"CLIENT")
        writer.write(b"+OK\r\n")
        await is_open.wait()
        writer.write(b"+OK\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        connection = await connect(f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        is_open.set()
        await until(lambda: not connection.is_open, "the connection to end")
        with pytest.raises(StoreUnavailable, match="nobody asked for"):
            await connection.call(pack(("PING",)))


async def test_what_one_connection_says_of_its_server_proves_nothing_of_the_next(
    links: Callable[[str, StorePolicy], Link],
) -> None:
    """Another server may have taken over in between: how long this one is the primary, only all from one can tell."""
    told = {b"server": b"uptime_in_seconds:1000\r\n", b"replication": b"role:master\r\nsecond_repl_offset:-1\r\n"}
    connections = 0

    def reply_to(command: list[bytes], number: int) -> bytes:
        if command[0] != b"INFO":
            return b"+OK\r\n"
        text = told[command[1]]
        breaks = b"+OK\r\n" if (number, command[1]) == (1, b"server") else b""
        return b"$%d\r\n%b\r\n%b" % (len(text), text, breaks)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number, commands = connections, hiredis.Reader()
        while data := await reader.read(65_536):
            commands.feed(data)
            while command := commands.gets():
                writer.write(reply_to(command, number))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        link = links(f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}", PATIENT)
        await link.call(b"PING")
        assert await link.primary_for() < 900
        assert connections == 2
        assert await link.primary_for() > 900
        link.abandon()


async def test_a_reply_about_another_session_reaches_nobody(server: Server, open_store: Open) -> None:
    """Whatever has mixed them up, it would be another person's; of a write nobody knows whether it happened."""
    async with Proxy(server.url) as proxy:
        store = await open_store(proxy.url)
        _, base = await happened(store, begin(), created())
        commit, _ = commit_of(base, updated(a=1))
        proxy.mix_up(base.sid.encode(), begin().sid.encode())
        for call in (
            partial(store.commit, commit),
            partial(store.fill, base.sid),
            partial(store.fill, base.sid, [Beat("00", None)]),
            partial(store.touch, base.sid, 1_000),
            partial(store.walk, base.sid, 10),
        ):
            with pytest.raises(StoreUnavailable, match="names another session") as mixed_up:
                await call()
            assert mixed_up.value.outcome_unknown


# ── refusals of the server ───────────────────────────────────────────────────────────────────────────────────────────


async def test_forgotten_scripts_are_sent_again_in_the_midst_of_calls(server: Server, open_store: Open) -> None:
    """No caller notices."""
    store = await open_store(server.url)
    sids = [begin().sid for _ in range(50)]
    for _ in range(5):
        fills = [asyncio.create_task(store.fill(sid, [Beat("00", None)])) for sid in sids]
        await asyncio.sleep(0)
        server.cli("SCRIPT", "FLUSH")
        assert [(await fill).sid for fill in fills] == sids


@pytest.mark.parametrize("name", NAMES)
async def test_a_full_server_refuses_writes_and_changes_nothing(name: str, open_store: Open) -> None:
    """The outcome is known: nothing was written, and a fill still works."""
    if name not in find_binaries():
        pytest.skip(f"{name} is not on this machine")
    with Server.start(find_binaries()[name], config={"maxmemory-policy": "noeviction"}) as server:
        store = await open_store(server.url)
        _, base = await happened(store, begin(), created())
        before = server.cli("DBSIZE")
        server.cli("CONFIG", "SET", "maxmemory", "1")
        for commit, _ in (commit_of(base, updated(a=1)), commit_of(begin(), created())):
            with pytest.raises(StoreUnavailable, match=r"OOM|maxmemory") as full:
                await store.commit(commit)
            assert not full.value.outcome_unknown
        with pytest.raises(StoreUnavailable):
            await store.heartbeat([Beat("00", None)])
        assert (await stored(store, base.sid)).snapshot.version == 1
        server.cli("CONFIG", "SET", "maxmemory", "0")
        assert (server.cli("DBSIZE"), len(await store.read("00", START, 10))) == (before, 1)
        await happened(store, base, updated(a=1))
        await store.close()


@pytest.mark.parametrize("name", NAMES)
async def test_a_replica_is_left_as_soon_as_it_refuses_a_write(name: str, open_store: Open) -> None:
    """After a failover the address may lead to the new primary; the old connection never does."""
    if name not in find_binaries():
        pytest.skip(f"{name} is not on this machine")
    with Server.start(find_binaries()[name]) as server:
        async with Proxy(server.url) as proxy:
            store = await open_store(proxy.url)
            _, base = await happened(store, begin(), created())
            connections = proxy.connections
            server.cli("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(StoreUnavailable, match="READONLY") as refused:
                await store.commit(commit_of(base, updated(a=1))[0])
            assert not refused.value.outcome_unknown
            server.cli("REPLICAOF", "NO", "ONE")
            await happened(store, base, updated(a=1))
            assert proxy.connections > connections
            await store.close()


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_password_opens_the_server_and_a_wrong_one_does_not(
    tcp: bool, links: Callable[[str, StorePolicy], Link]
) -> None:
    """The error says what is wrong and shows no password."""
    with Server.start(find_binaries()[NAMES[0]], config={"requirepass": "p@ss/w:rd"}, tcp=tcp) as server:
        assert await links(server.url, PATIENT).call("PING") == b"PONG"
        for url in (server.url.replace("p%40ss", "hunter2"), server.url.replace(":p%40ss%2Fw%3Ard@", "")):
            with pytest.raises(StoreUnavailable, match=r"WRONGPASS|NOAUTH") as refused:
                await links(url, PATIENT).call("PING")
            assert not refused.value.outcome_unknown
            assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_database_is_selected(tcp: bool, open_store: Open) -> None:
    """On a unix socket by `?db=`, over TCP by the path; both kinds of address work."""
    with Server.start(find_binaries()[NAMES[0]], tcp=tcp) as server:
        url = server.url[:-1] + "3" if tcp else f"{server.url}?db=3"
        store = await open_store(url)
        await happened(store, begin(), created())
        assert server.cli("DBSIZE") == 0
        assert b"db3:keys=" in server.cli("INFO", "keyspace")
        await store.close()


async def test_an_address_without_a_server_is_unavailable(
    own_server: Server, links: Callable[[str, StorePolicy], Link]
) -> None:
    """At once, with nothing that may have been executed."""
    own_server.kill()
    for url in (own_server.url, "redis://127.0.0.1:1/0"):
        with pytest.raises(StoreUnavailable) as refused:
            await links(url, PATIENT).call("PING")
        assert not refused.value.outcome_unknown


# ── the feed ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_silence_of_the_feed_is_a_gap(own_server: Server, open_store: Open) -> None:
    """A server that hangs delivers nothing and breaks nothing off; the feed notices, and comes back by itself."""
    heard = Heard()
    store = await open_store(own_server.url, QUICK, heard)
    (beat,) = await store.heartbeat([Beat("00", None)])
    store.follow("00", beat.incarnation)
    await until(lambda: heard.gaps, "the subscription")
    own_server.pause()
    told = len(heard.gaps)
    await until(lambda: len(heard.gaps) > told, "a gap for the silence")
    own_server.resume()
    told = len(heard.gaps)
    await until(lambda: len(heard.gaps) > told, "the new subscription")

    async def is_heard() -> bool:
        try:
            await store.commit(commit_of(begin(), created())[0])
        except StoreUnavailable:
            return False
        return bool(heard.messages)

    await until(is_heard, "a message after the hang")


async def test_a_quiet_feed_is_no_gap(server: Server, open_store: Open) -> None:
    """Nothing happens for two time-outs, and the subscription stands."""
    heard = Heard()
    async with Proxy(server.url) as proxy:
        store = await open_store(proxy.url, QUICK, heard)
        (beat,) = await store.heartbeat([Beat("00", None)])
        store.follow("00", beat.incarnation)
        await until(lambda: heard.gaps == ["00"], "the subscription")
        written = proxy.client_writes
        await until(lambda: proxy.client_writes >= written + 2, "two looks at the silent server")
        assert heard.gaps == ["00"]


async def test_a_dead_server_is_asked_again_with_pauses(own_server: Server, open_store: Open) -> None:
    """The feed backs off instead of spinning, and follows again after the restart."""
    heard = Heard()
    store = await open_store(own_server.url, QUICK, heard)
    (beat,) = await store.heartbeat([Beat("00", None)])
    store.follow("00", beat.incarnation)
    await until(lambda: heard.gaps, "the subscription")
    own_server.kill()
    told = len(heard.gaps)
    await until(lambda: len(heard.gaps) >= told + 3, "several attempts")
    own_server.restart(empty=True)
    told = len(heard.gaps)
    await until(lambda: len(heard.gaps) > told, "the new subscription")


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_closing_leaves_no_task_and_no_connection(server: Server, open_store: Open) -> None:
    """And opening again is possible."""
    before = asyncio.all_tasks()
    for round_ in range(2):
        heard = Heard()
        store = await open_store(server.url, PATIENT, heard)
        (beat,) = await store.heartbeat([Beat("00", None)])
        store.follow("00", beat.incarnation)
        await until(partial(len, heard.gaps), "the subscription")
        assert len(clients_of(server)) == 2, round_
        await store.close()
        assert asyncio.all_tasks() == before
        await until(lambda: clients_of(server) == [], "the server to see that both have gone")
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.fill("00x")


async def test_closing_fails_what_is_under_way(own_server: Server, open_store: Open) -> None:
    """Callers learn that the outcome is unknown; none of them looks as if it had been cancelled."""
    store = await open_store(own_server.url, PATIENT)
    await store.fill(begin().sid)
    own_server.pause()
    task = asyncio.create_task(store.fill(begin().sid))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await task


async def test_closing_fails_what_waits_for_a_connection(own_server: Server, open_store: Open) -> None:
    """The same for a call that came before the first connection was open."""
    store = await open_store(own_server.url, PATIENT)
    own_server.pause()
    tasks = [asyncio.create_task(store.fill(begin().sid)) for _ in range(3)]
    await asyncio.sleep(0)
    await store.close()
    for task in tasks:
        with pytest.raises(StoreUnavailable, match="closed"):
            await task


async def test_a_caller_who_leaves_while_connecting_disturbs_nobody(own_server: Server, open_store: Open) -> None:
    """The connection is everybody's; the others get it."""
    store = await open_store(own_server.url, PATIENT)
    sids = [begin().sid for _ in range(3)]
    tasks = [asyncio.create_task(store.fill(sid)) for sid in sids]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert [(await task).sid for task in tasks[1:]] == sids[1:]


def clients_of(server: Server) -> list[str]:
    """Return the names of the connections that evsession has to a server."""
    listed = server.cli("CLIENT", "LIST").decode().splitlines()
    names = (field.removeprefix("name=") for line in listed for field in line.split() if field.startswith("name="))
    return [name for name in names if name.startswith("evsession-")]
