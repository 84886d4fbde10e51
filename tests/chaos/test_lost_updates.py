"""Two worker processes write to one session at once: nothing is lost, and nothing comes back after the end."""

from __future__ import annotations

import asyncio

from tests.chaos.apps import Browser, app_of, manager_of
from tests.chaos.logs import snapshot_and_log
from tests.chaos.nodes import nodes
from tests.conftest import until
from tests.servers import Server


async def test_two_hundred_requests_that_set_a_key_each_leave_two_hundred_keys(own_server: Server) -> None:
    """No request's key is lost, and each is one event."""
    settings = {"url": own_server.url}
    async with nodes(settings, settings) as (one, other), manager_of(own_server.url) as manager:
        session = await manager.create()
        cookie = session.token.value
        statuses = await asyncio.gather(
            *(
                node.call("set_own_keys", cookie=cookie, name=name, number=100)
                for node, name in ((one, "a"), (other, "b"))
            )
        )
        assert statuses == [[200] * 100] * 2
        snapshot, log = await snapshot_and_log(manager, session.id)
        assert set(snapshot.data) == {f"{name}{key}" for name in "ab" for key in range(100)}
        assert len(log) == 201
        for node in (one, other):
            assert len((await node.call("read", cookie=f"{cookie}~201"))["held"]) == 200


async def test_two_hundred_increments_count_to_two_hundred(own_server: Server) -> None:
    """`manager.update` runs again on every conflict, so a counter loses nothing."""
    settings = {"url": own_server.url}
    async with nodes(settings, settings) as (one, other), manager_of(own_server.url) as manager:
        session = await manager.create(data={"n": 0})
        done = await asyncio.gather(*(node.call("count", sid=session.id, number=100) for node in (one, other)))
        assert done == [100, 100]
        snapshot, log = await snapshot_and_log(manager, session.id)
        assert snapshot.data["n"] == 200
        assert [event.set["n"] for event in log] == list(range(201))


async def test_a_logout_amid_fifty_writers_is_for_good(own_server: Server) -> None:
    """On no worker does a write bring the session back, and the log ends with its end."""
    settings = {"url": own_server.url}
    async with nodes(settings, settings) as (one, other), manager_of(own_server.url) as manager:
        session = await manager.create(user_id="ann", data={"me": "ann"})
        cookie = session.token.value
        work = [
            asyncio.create_task(node.call("write_until_gone", cookie=cookie, name=name, writers=25))
            for node, name in ((one, "a"), (other, "b"))
        ]

        async def is_under_way() -> bool:
            return len(await manager.audit.history(session.id)) > 100

        await until(is_under_way, "the writers are at it")
        assert (await Browser(app_of(manager), cookie).get("/logout")).status == 200
        seen = await asyncio.gather(*work)
        assert all(one["alive"] > 0 and one["gone"] >= 25 * 20 and one["back"] == 0 for one in seen), seen
        snapshot, log = await snapshot_and_log(manager, session.id)
        assert (snapshot.ended, snapshot.data) == ("logout", {})
        assert [event.type for event in log].index("ended") == len(log) - 1
        for node in (one, other):
            assert (await node.call("read", cookie=cookie))["held"] == {}
        assert await manager.get(session.id) is None
