"""A primary dies before its replica has everything: the workers notice the fork, and what was lost is not served."""

from __future__ import annotations

import time

from evsession import SessionManager, StoreUnavailable
from tests.chaos.apps import STALENESS, Browser, app_of, manager_of
from tests.chaos.logs import snapshot_and_log
from tests.chaos.pair import pair_of_servers
from tests.chaos.traffic import Traffic
from tests.conftest import until


async def _reads(manager: SessionManager, cookie: str) -> dict[str, object] | None:
    """Return what a browser with that cookie gets to see, None while it is refused."""
    answer = await Browser(app_of(manager), cookie).get("/read")
    assert answer.status in (200, 503)
    return answer.held if answer.status == 200 else None


async def test_what_a_failover_lost_is_not_served_past_the_bound() -> None:
    """Both workers notice the fork; past `max_staleness` they serve the new primary's state, whatever a fence says."""
    async with pair_of_servers() as pair, manager_of(pair.address.url) as one, manager_of(pair.address.url) as other:
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
    async with pair_of_servers() as pair, manager_of(pair.address.url) as one, manager_of(pair.address.url) as other:
        ann = Browser(app_of(one))
        await ann.get("/login/ann")
        cookie = str(ann.cookie)
        assert await _reads(other, cookie) == {"me": "ann"}
        await pair.forget_what_follows()
        assert (await ann.get("/logout")).status == 200
        await until(lambda: cookie[:24] in other.worker.cache.tombstones("00"), "the other worker knows of the end")
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
    async with pair_of_servers() as pair, manager_of(pair.address.url) as manager:
        async with Traffic(app_of(manager)) as traffic:
            await pair.forget_what_follows()
            await traffic.flows()
            pair.fail_over()
            await traffic.flows()
        assert traffic.problems == []
        for visitor in traffic.visitors:
            if visitor.browser.cookie is not None:
                await snapshot_and_log(manager, visitor.browser.cookie[:24])
