"""A commit whose reply was cut off happened or did not, and is tried again: it applies once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from evsession import CachePolicy, SessionEnded, SessionManager, StorePolicy, StoreUnavailable
from tests.chaos.apps import BRISK, Browser, app_of, manager_of
from tests.chaos.logs import snapshot_and_log
from tests.conftest import until
from tests.servers import Proxy, Server


def _key(name: str) -> bytes:
    """Return what a commit of that key has in its request and in no other."""
    return f'"set":{{"{name}"'.encode()


async def test_a_commit_whose_reply_was_cut_applies_once(own_server: Server) -> None:
    """The retry finds the event in the log; the client sees nothing of it."""
    async with Proxy(own_server.url) as proxy, manager_of(proxy.url) as manager:
        session = await manager.create()
        browser = Browser(app_of(manager), session.token.value)
        for number in range(10):
            dropped = proxy.drop_next_reply(to=_key(f"key{number}"))
            assert (await browser.get(f"/set/key{number}/{number}")).status == 200
            await until(dropped.is_set, "the reply was cut off")
        assert manager.stats().retries >= 10
        snapshot, log = await snapshot_and_log(manager, session.id)
        assert snapshot.data == {f"key{number}": number for number in range(10)}
        assert len(log) == 11


async def test_a_session_whose_first_reply_was_cut_is_created_once(own_server: Server) -> None:
    """A creation is retried like any other commit, and its cookie works."""
    async with Proxy(own_server.url) as proxy, manager_of(proxy.url) as manager:
        browser = Browser(app_of(manager))
        dropped = proxy.drop_next_reply(to=_key("cart"))
        assert (await browser.get("/set/cart/1")).status == 200
        await until(dropped.is_set, "the reply was cut off")
        assert (await browser.get("/read")).held == {"cart": 1}
        _, log = await snapshot_and_log(manager, str(browser.cookie)[:24])
        assert [event.type for event in log] == ["created"]


async def test_it_applies_once_also_when_others_commit_on_top_meanwhile(own_server: Server) -> None:
    """Another worker goes on while the reply is lost: the retry still finds its event below the others'."""
    async with (
        Proxy(own_server.url) as proxy,
        manager_of(proxy.url) as manager,
        manager_of(own_server.url) as other,
    ):
        session = await manager.create()
        for number in range(10):
            dropped = proxy.drop_next_reply(to=_key(f"key{number}"))
            mine = asyncio.create_task(Browser(app_of(manager), session.token.value).get(f"/set/key{number}/{number}"))
            await dropped.wait()
            await other.update(session.id, _count)
            await other.update(session.id, _count)
            assert (await mine).status == 200
        snapshot, log = await snapshot_and_log(manager, session.id)
        assert snapshot.data == {"n": 20} | {f"key{number}": number for number in range(10)}
        assert len(log) == 31


async def test_increments_with_cut_replies_count_right(own_server: Server) -> None:
    """Twenty increments from each of two workers, every third reply of one of them cut, amount to forty."""
    async with (
        Proxy(own_server.url) as proxy,
        manager_of(proxy.url) as manager,
        manager_of(own_server.url) as other,
    ):
        session = await manager.create(data={"n": 0})

        async def many(of: SessionManager) -> None:
            for number in range(20):
                if of is manager and number % 3 == 0:
                    proxy.drop_next_reply(to=_key("n"))
                await of.update(session.id, _count)

        await asyncio.gather(many(manager), many(other))
        snapshot, log = await snapshot_and_log(manager, session.id)
        assert snapshot.data == {"n": 40}
        assert len(log) == 41


async def test_a_logout_whose_reply_was_cut_ends_the_session_once(own_server: Server) -> None:
    """The client is told that it is out, and the log has one end."""
    async with Proxy(own_server.url) as proxy, manager_of(proxy.url) as manager:
        session = await manager.create(user_id="ann")
        dropped = proxy.drop_next_reply(to=b"\r\nended\r\n")
        assert (await Browser(app_of(manager), session.token.value).get("/logout")).status == 200
        await until(dropped.is_set, "the reply was cut off")
        _, log = await snapshot_and_log(manager, session.id)
        assert [event.type for event in log] == ["authenticated", "ended"]


async def test_a_write_whose_reply_was_cut_and_whose_session_then_ended_says_so(own_server: Server) -> None:
    """It stands in the log below the end, so it is no error; the session is over all the same."""
    async with (
        Proxy(own_server.url) as proxy,
        manager_of(proxy.url) as manager,
        manager_of(own_server.url) as other,
    ):
        session = await manager.create()
        dropped = proxy.drop_next_reply(to=_key("n"))
        mine = asyncio.create_task(manager.update(session.id, _count))
        await dropped.wait()
        assert (await other.revoke(session.id)).id
        assert await mine == 1
        snapshot, log = await snapshot_and_log(manager, session.id)
        assert snapshot.ended == "revoked"
        assert [event.type for event in log] == ["created", "updated", "ended"]
        with pytest.raises(SessionEnded):
            await manager.update(session.id, _count)


async def test_a_hung_server_is_asked_again_until_the_commit_time_out(own_server: Server) -> None:
    """The lease runs out and connections fail meanwhile; back in time, the server applies the commit once."""
    patience = StorePolicy(
        command_timeout=timedelta(seconds=0.3),
        connect_timeout=timedelta(seconds=0.3),
        probe_every=timedelta(seconds=0.05),
        commit_timeout=timedelta(seconds=20),
    )
    cache = CachePolicy(max_staleness=timedelta(seconds=0.2))
    async with manager_of(own_server.url, patience=patience, cache=cache) as manager:
        session = await manager.create(data={"n": 0})
        await manager.update(session.id, _count)
        own_server.pause()
        mine = asyncio.create_task(manager.update(session.id, _count))
        await asyncio.sleep(1)
        assert not mine.done()
        own_server.resume()
        assert await mine == 2
        _, log = await snapshot_and_log(manager, session.id)
        assert [event.set["n"] for event in log] == [0, 1, 2]


async def test_past_the_commit_time_out_the_error_says_that_nobody_knows(own_server: Server) -> None:
    """What was sent to a hung server may have happened: the error says so, however the last attempt failed."""
    async with manager_of(own_server.url, patience=BRISK) as manager:
        session = await manager.create(data={"n": 0})
        await manager.update(session.id, _count)
        own_server.pause()
        with pytest.raises(StoreUnavailable, match="read before you repeat it") as caught:
            await manager.update(session.id, _count)
        assert caught.value.outcome_unknown
        with pytest.raises(StoreUnavailable) as caught:
            await manager.update(session.id, _count)
        assert not caught.value.outcome_unknown
        own_server.resume()


def _count(data: dict[str, int]) -> int:
    data["n"] = data.get("n", 0) + 1
    return data["n"]
