"""What the page for operators tells them to set is enough, and no more than is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from evsession import CachePolicy, CookiePolicy, SessionManager, StoreUnavailable
from evsession.cli.census import redis_of, take_census
from evsession.cli.doctor import judged
from evsession.stores.redis.advice import problems
from tests.conftest import until
from tests.integration.apps import KEY
from tests.servers import NAMES, Server, find_binaries

PAGE = (Path(__file__).parents[2] / "docs/how-to/production.md").read_text()
OLD, NEW = "an old key of 32 characters or more", "a new key, also of 32 characters or more"


def user_of_the_page() -> list[str]:
    """Return the words of the command that makes the server's user."""
    found = re.search(r"^ACL SETUSER .*$", PAGE, re.MULTILINE)
    assert found
    return found[0].split()


def url_of(server: Server) -> str:
    """Return the server's address for that user."""
    return f"unix://shop:password@{urlsplit(server.url).path}"


@pytest.fixture(params=NAMES)
def guarded(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind that has the page's user."""
    if request.param not in find_binaries():
        pytest.skip(f"{request.param} is not on this machine")
    with Server.start(find_binaries()[request.param]) as server:
        server.cli(*user_of_the_page())
        yield server


async def test_the_acl_of_the_page_is_enough(guarded: Server) -> None:
    """To read, write, revoke with a complete receipt, list, verify and look for problems, for two workers."""
    quick, wait = CachePolicy(max_staleness=timedelta(seconds=0.5)), timedelta(seconds=20)
    async with (
        SessionManager.from_url(url_of(guarded), secret_key=KEY, namespace="shop", cache=quick) as one,
        SessionManager.from_url(url_of(guarded), secret_key=KEY, namespace="shop", cache=quick) as other,
    ):
        new = await one.create(user_id="ada", data={"n": 1})
        assert (await other.sessions_of("ada"))[0].id == new.id
        await one.update(new.id, lambda data: data.update(n=2))
        receipt = await other.revoke_user("ada", timeout=wait)
        assert (receipt.complete, len(receipt.confirmed + receipt.fenced)) == (True, 2)
        await until(lambda: one.stats().cache.revocations, "the feed brought it")
        assert await one.get(new.id) is None
        assert [user async for user in one.users()] in (["ada"], [])
        assert (await one.audit.verify()).ok
        await one.sweep()
        checks = judged(await take_census(one), await redis_of(one).feed_latency(3), retention=1)
        assert {check.what for check in checks} >= {"server", "settings", "memory", "feed", "workers"}
    assert guarded.cli("ACL", "LOG") == []


async def test_the_acl_keeps_to_the_namespace(guarded: Server) -> None:
    """The user of one application cannot touch another's."""
    manager = SessionManager.from_url(url_of(guarded), secret_key=KEY, namespace="blog")
    with pytest.raises(StoreUnavailable, match="permission"):
        await manager.create(user_id="ada")
    await manager.stop()


def test_the_settings_of_the_page_are_no_problem() -> None:
    """The check at start has nothing to say about them."""
    block = PAGE.split("maxmemory 2gb\n", 1)[1].split("```", 1)[0]
    settings = dict(line.split(" ", 1) for line in block.splitlines())
    assert problems(settings | {"connected_slaves": "1", "save": ""}) == []
    assert problems(settings | {"appendonly": "no", "save": ""})


async def test_the_order_of_a_rotation_signs_nobody_out(server: Server) -> None:
    """Sessions and revocations live on through each deployment; at the end only tokens of the old key do not."""

    def manager(*keys: str) -> SessionManager:
        return SessionManager.from_url(
            server.url, secret_key=keys, namespace="shop", cookie=CookiePolicy.for_localhost()
        )

    async with manager(OLD) as before:
        first = await before.create(user_id="ada")
        await before.revoke_user("bob", timeout=timedelta(0))
    for keys in ([OLD, NEW], [NEW, OLD]):
        async with manager(*keys) as now:
            assert now.ticket(first.token.value.encode()) is not None
            assert await now.update(first.id, lambda data: data.setdefault("n", 1)) == 1
            second = await now.create(user_id="ada")
            assert (await now.audit.verify()).ok
    async with manager(NEW) as after:
        assert (await after.health()).ready
        assert after.ticket(first.token.value.encode()) is None
        assert after.ticket(second.token.value.encode()) is not None
        assert {fault.kind for fault in (await after.audit.verify()).faults} == {"unknown_key"}
