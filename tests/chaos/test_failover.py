"""A primary dies before its replica has everything: the workers notice the fork, and what was lost is not served."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from evsession import SessionManager, StoreUnavailable
from tests.chaos.apps import STALENESS, Browser, app_of, manager_of
from tests.chaos.logs import snapshot_and_log
from tests.chaos.traffic import Traffic
from tests.conftest import until
from tests.servers import NAMES, Proxy, Server, find_binaries

AT_ONCE = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}


class Address(Proxy):
    """One address for whichever server is the primary."""

    def lead_to(self, server: Server) -> None:
        """Send new connections to another server, and cut the old ones."""
        self._target = urlsplit(server.url)
        self.cut()


class Pair:
    """A primary and its replica behind one address."""

    def __init__(self, primary: Server, replica: Server, address: Address) -> None:
        self.primary = primary
        self.replica = replica
        self.address = address

    async def forget_what_follows(self) -> None:
        """Have the replica hold what the primary holds now, and nothing of what comes after."""
        await until(self._is_level, "the replica has caught up")
        self.replica.cli("REPLICAOF", "NO", "ONE")

    def _is_level(self) -> bool:
        here, there = _replication(self.primary), _replication(self.replica)
        is_up = there["master_link_status"] == "up"
        return is_up and here["master_repl_offset"] == there["slave_repl_offset"]

    def fail_over(self) -> float:
        """Kill the primary, promote the replica, and return the time of it."""
        self.primary.kill()
        self.address.lead_to(self.replica)
        return time.monotonic()


def _replication(server: Server) -> dict[str, str]:
    lines = server.cli("INFO", "replication").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


@asynccontextmanager
async def _pair() -> AsyncIterator[Pair]:
    binary = find_binaries()[NAMES[0]]
    with (
        Server.start(binary, tcp=True, config=AT_ONCE) as primary,
        Server.start(binary, tcp=True, config=AT_ONCE) as replica,
    ):
        replica.cli("REPLICAOF", "127.0.0.1", str(urlsplit(primary.url).port))
        async with Address(primary.url) as address:
            yield Pair(primary, replica, address)


async def _reads(manager: SessionManager, cookie: str) -> dict[str, object] | None:
    """Return what a browser with that cookie gets to see, None while it is refused."""
    answer = await Browser(app_of(manager), cookie).get("/read")
    assert answer.status in (200, 503)
    return answer.held if answer.status == 200 else None


async def test_what_a_failover_lost_is_not_served_past_the_bound() -> None:
    """Both workers notice the fork; past `max_staleness` they serve the new primary's state, whatever a fence says."""
    async with _pair() as pair, manager_of(pair.address.url) as one, manager_of(pair.address.url) as other:
        ann, lost = Browser(app_of(one)), Browser(app_of(one))
        await ann.get("/set/n/1")
        await pair.forget_what_follows()
        await ann.get("/set/n/2")
        await ann.get("/set/n/3")
        await lost.get("/set/n/1")
        fenced, plain = str(ann.cookie), str(ann.cookie).partition("~")[0]
        for manager in (one, other):
            assert await _reads(manager, fenced) == {"n": 3}
            assert await _reads(manager, str(lost.cookie)) == {"n": 1}
        at = pair.fail_over()

        async def all_see_the_truth() -> bool:
            is_late = time.monotonic() > at + STALENESS.total_seconds()
            seen = [await _reads(manager, cookie) for manager in (one, other) for cookie in (plain, fenced)]
            gone = [await _reads(manager, str(lost.cookie)) for manager in (one, other)]
            assert not is_late or all(held in (None, {"n": 1}) for held in seen)
            assert not is_late or all(held in (None, {}) for held in gone)
            return seen == [{"n": 1}] * 4 and gone == [{}] * 2

        await until(all_see_the_truth, "both workers serve what the new primary holds")
        assert all(manager.stats().cache.forks > 0 for manager in (one, other))
        again = Browser(app_of(other), plain)
        assert (await again.get("/set/n/20")).status == 200

        async def is_seen() -> bool:
            return await _reads(one, plain) == {"n": 20}

        await until(is_seen, "a version that repeats with other content is seen as what it is")
        _, log = await snapshot_and_log(one, plain[:24])
        assert [event.set["n"] for event in log] == [1, 20]


async def test_an_end_that_a_failover_lost_is_written_again() -> None:
    """The session was ended, the new primary does not know it: the workers that do end it there once more."""
    async with _pair() as pair, manager_of(pair.address.url) as one, manager_of(pair.address.url) as other:
        ann = Browser(app_of(one))
        await ann.get("/login/ann")
        cookie = str(ann.cookie)
        assert await _reads(other, cookie) == {"me": "ann"}
        await pair.forget_what_follows()
        assert (await ann.get("/logout")).status == 200
        tombs = other.worker.cache.tombstones("00")
        await until(lambda: cookie[:24] in tombs, "the other worker knows of the end")
        await one.stop()
        pair.fail_over()

        async def has_ended_again() -> bool:
            try:
                return (await other.audit.history(cookie[:24]))[-1].type == "ended"
            except StoreUnavailable:
                return False

        await until(has_ended_again, "the end stands in the new history")
        _, log = await snapshot_and_log(other, cookie[:24])
        assert [event.type for event in log] == ["authenticated", "ended"]
        assert (log[-1].cause, log[-1].actor and log[-1].actor.id) == ("logout", "failover")
        async with manager_of(pair.address.url) as third:
            assert await _reads(third, cookie) == {}


async def test_visitors_go_on_after_a_failover() -> None:
    """503 at most, and then everybody is served again, as themselves."""
    async with _pair() as pair, manager_of(pair.address.url) as manager:
        async with Traffic(app_of(manager)) as traffic:
            await pair.forget_what_follows()
            await traffic.flows()
            pair.fail_over()
            await traffic.flows()
        assert traffic.problems == []
        for visitor in traffic.visitors:
            if visitor.browser.cookie is not None:
                await snapshot_and_log(manager, visitor.browser.cookie[:24])
