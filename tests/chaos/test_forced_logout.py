"""Four worker processes under load: after a complete receipt nobody serves the user, and no socket of theirs is open.

`EVSESSION_REVOCATIONS=500` runs all of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median, quantiles
from typing import Any, Final

import pytest

from evsession import SessionManager, StoreUnavailable
from evsession.revocation import MARGIN
from evsession.view import CONTROL
from evsession.wire import START, Entry, Position
from tests.chaos.apps import STALENESS, Browser, app_of, manager_of
from tests.chaos.nodes import RemoteNode, nodes
from tests.chaos.pair import pair_of_servers
from tests.conftest import until
from tests.servers import Server

REVOCATIONS: Final = int(os.environ.get("EVSESSION_REVOCATIONS", "40"))
LOGINS: Final = int(os.environ.get("EVSESSION_REVOCATIONS", "100"))
USERS: Final = 100
EACH: Final = 5
SOCKETS: Final = 2
PATIENT: Final = timedelta(seconds=20)
BOUND: Final = STALENESS.total_seconds() + MARGIN


@dataclass
class Findings:
    """Of each revocation: seconds to the receipt, to the start of the last read that was served, to the last close."""

    receipts: list[float] = field(default_factory=list)
    last_reads: list[float] = field(default_factory=list)
    last_closes: list[float] = field(default_factory=list)
    incomplete: int = 0
    reads: int = 0

    def __str__(self) -> str:
        shown = {"receipt": self.receipts, "last read served": self.last_reads, "last socket closed": self.last_closes}
        return "; ".join(f"{what}: {_shown(times)}" for what, times in shown.items() if len(times) > 1)


def _shown(times: list[float]) -> str:
    return f"p50 {median(times) * 1000:.1f} ms, p99 {quantiles(times, n=100)[98] * 1000:.1f} ms"


async def _all(workers: list[RemoteNode], name: str, **arguments: Any) -> list[Any]:
    return await asyncio.gather(*(worker.call(name, **arguments) for worker in workers))


async def _settled(worker: RemoteNode) -> None:
    """Wait until receipts can be complete: long enough after the start of the log and of the server."""
    while not (await worker.call("revoke", user="nobody", timeout=5))["complete"]:
        pass


async def log_out_many(workers: list[RemoteNode], number: int) -> Findings:
    """Revoke one user after another from any worker, who signs in again at once."""
    findings, asked, last_reads = Findings(), dict[str, dict[str, Any]](), dict[str, float]()
    for number_of_user in range(USERS):
        await _sit_down(workers, number_of_user, f"u{number_of_user}", generation=0)
    await _settled(workers[0])
    await _all(workers, "start_reading", readers=2)
    for step in range(number):
        user, generation = f"u{step % USERS}", step // USERS
        receipt = await random.choice(workers).call("revoke", user=user, timeout=20)
        asked[f"{user} {generation}"] = receipt
        findings.incomplete += not receipt["complete"]
        findings.receipts.append(receipt["had_at"] - receipt["asked_at"])
        closes = [close for closes in await _all(workers, "closed", user=user) for close in closes]
        assert len(closes) == SOCKETS
        assert max(closes) <= receipt["had_at"], "a socket was open after a complete receipt"
        findings.last_closes.append(max(closes) - receipt["asked_at"])
        await _sit_down(workers, step, user, generation + 1)
    for counts in await _all(workers, "open_sockets"):
        assert counts[0] == counts[1]
    for seen in await _all(workers, "stop_reading"):
        findings.reads += seen["reads"]
        for key, receipt in asked.items():
            last = seen["served"].get(key, 0.0)
            assert last <= receipt["had_at"], f"{key} was served after a complete receipt"
            last_reads[key] = max(last_reads.get(key, 0.0), last - receipt["asked_at"])
    findings.last_reads = list(last_reads.values())
    return findings


async def _sit_down(workers: list[RemoteNode], step: int, user: str, generation: int) -> None:
    """Sign a user in on one worker, have all read as that user, and open sockets on two."""
    cookies = await workers[step % 4].call("sign_in", user=user, times=EACH)
    await _all(workers, "seat", user=user, generation=generation, cookies=cookies)
    for seat in range(SOCKETS):
        await workers[(step + seat) % 4].call("connect", user=user, cookies=cookies[seat : seat + 1])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kills", [False, True])
async def test_nobody_serves_a_user_after_a_complete_receipt(own_server: Server, kills: bool) -> None:
    """Also with all subscriptions killed once a second."""
    async with nodes(*[{"url": own_server.url, "staleness": 0.5}] * 4) as workers:
        killing = asyncio.create_task(_kill_subscriptions(own_server)) if kills else None
        findings = await log_out_many(workers, REVOCATIONS)
        if killing is not None:
            killing.cancel()
        print(findings)
        assert findings.incomplete == 0
        assert findings.reads > 0


async def _kill_subscriptions(server: Server) -> None:
    while True:
        await asyncio.sleep(1)
        await asyncio.to_thread(server.cli, "CLIENT", "KILL", "TYPE", "pubsub")


@pytest.mark.parametrize(
    ("options", "bound"), [({}, BOUND), ({"staleness": 0.9}, 0.9 + MARGIN), ({"stale_for": 0.4}, BOUND + 0.4)]
)
async def test_a_worker_that_stands_still_is_pending_and_later_fenced(
    own_server: Server, options: dict[str, Any], bound: float
) -> None:
    """By its own bound, whatever the others have; its first answer afterwards is a refusal."""
    async with nodes({"url": own_server.url}, {"url": own_server.url, **options}) as (one, two):
        [cookie] = await one.call("sign_in", user="ann", times=1)
        await _settled(one)
        assert (await two.call("read", cookie=cookie))["held"] == {"me": "ann"}
        name = await two.call("name")
        two.process.send_signal(signal.SIGSTOP)
        try:
            receipt: dict[str, Any] = {}

            async def only_two_is_pending() -> bool:
                receipt.update(await one.call("revoke", user="ann", timeout=0.2))
                return bool(receipt["pending"] == [name])

            await until(only_two_is_pending, "the other worker has answered")
            assert not receipt["complete"]
            assert receipt["said"].startswith("1 of 2 workers in ")
            receipt = await one.call("revoke", user="ann", timeout=20)
            assert (receipt["complete"], receipt["fenced"], receipt["pending"]) == (True, [name], [])
            assert receipt["had_at"] - receipt["asked_at"] >= bound - 0.05
        finally:
            two.process.send_signal(signal.SIGCONT)
        assert (await two.call("read", cookie=cookie)).get("held", {}) == {}


async def test_a_worker_that_starts_during_the_call_serves_nobody_it_should_not(own_server: Server) -> None:
    """It reads the control log before it serves anything, so no receipt needs to know of it."""
    async with manager_of(own_server.url) as one:
        ann = Browser(app_of(one))
        await ann.get("/login/ann")
        for _ in range(20):
            fresh = manager_of(own_server.url)
            revoking = asyncio.create_task(one.revoke_user("ann"))
            starting = asyncio.create_task(fresh.start())
            await asyncio.sleep(random.random() * 0.01)
            await asyncio.gather(revoking, starting)
            answer = await Browser(app_of(fresh), ann.cookie).get("/read")
            assert answer.held == {}
            await fresh.stop()
            await ann.get("/login/ann")


async def test_a_login_beside_a_revocation_is_dead_if_it_began_before(own_server: Server) -> None:
    """On two workers, at any offset of the two."""
    async with manager_of(own_server.url) as one, manager_of(own_server.url) as two:
        outcomes = {"dead": 0, "alive": 0}
        for number in range(LOGINS):
            logins, revokes = random.sample((one, two), 2) if number % 2 else (one, one)
            user = f"u{number}"
            browser, times = Browser(app_of(logins)), dict[str, float]()

            async def sign_in(browser: Browser = browser, user: str = user, times: dict[str, float] = times) -> None:
                await asyncio.sleep(random.random() * 0.004)
                times["began"] = time.monotonic()
                await browser.get(f"/login/{user}")

            signing_in = asyncio.create_task(sign_in())
            await asyncio.sleep(random.random() * 0.004)
            asked = time.monotonic()
            await revokes.revoke_user(user, timeout=STALENESS * 0)
            had = time.monotonic()
            await signing_in
            await until(lambda: _controlled_to(one) == _controlled_to(two), "both know of the revocation")
            is_alive = await _is_alive(one, browser.cookie)
            assert is_alive == await _is_alive(two, browser.cookie)
            outcomes["alive" if is_alive else "dead"] += 1
            assert not (is_alive and times["began"] < asked), "a login outlived the revocation that came after it began"
            assert is_alive or times["began"] < had or logins is not revokes, "a login after the revocation is dead"
        assert min(outcomes.values()) > 0


def _controlled_to(manager: SessionManager) -> Position | None:
    return manager.worker.control.position


async def _is_alive(manager: SessionManager, cookie: str | None) -> bool:
    answer = await Browser(app_of(manager), cookie).get("/read")
    assert answer.status == 200
    return bool(answer.held)


async def _is_served(manager: SessionManager, cookie: str | None) -> bool:
    answer = await Browser(app_of(manager), cookie).get("/read")
    return answer.status == 200 and bool(answer.held)


async def test_a_revocation_that_a_failover_lost_is_in_force_again() -> None:
    """Issued again once by four workers, although the ids of the log are ahead of the new primary's clock."""
    async with pair_of_servers() as pair:
        managers = [manager_of(pair.address.url) for _ in range(4)]
        for manager in managers:
            await manager.start()
        ann = Browser(app_of(managers[0]))
        await ann.get("/login/ann")
        await managers[0].revoke_user("somebody", timeout=STALENESS * 0)
        ahead = (int(time.time() * 1000) + 3_600_000, 0)
        managers[1].worker.cache.control._positions.add(START._replace(id=ahead))  # as if seen in another history
        await managers[1].revoke_user("nobody", timeout=STALENESS * 0)
        await pair.forget_what_follows()
        lost = await managers[2].revoke_user("ann", timeout=PATIENT)
        assert lost.complete
        for manager in managers:
            assert not await _is_alive(manager, ann.cookie)
        pair.fail_over()

        async def is_dead_everywhere() -> bool:
            statuses = []
            for manager in managers:
                answer = await Browser(app_of(manager), ann.cookie).get("/read")
                assert answer.status != 200 or answer.held == {}, "the lost revocation is forgotten"
                statuses.append(answer.status)
            return statuses == [200] * 4

        await until(is_dead_everywhere, "all four workers serve again, and nobody as ann")
        again: list[Entry] = []

        async def is_issued_again() -> bool:
            with suppress(StoreUnavailable):
                entries = await managers[0].worker.store.read(CONTROL, START, 100)
                again[:] = [entry for entry in entries if entry.sid == "user:ann"]
            return bool(again) and not any(manager.worker.cache.control.lost for manager in managers)

        await until(is_issued_again, "what was lost is issued again")
        assert len(again) == 1
        assert again[0].id > ahead
        assert lost.id.encode() in again[0].data
        fresh = Browser(app_of(managers[3]))

        async def is_signed_in_everywhere() -> bool:
            await fresh.get("/login/ann")  # refused as long as this worker has not read what was issued again
            return all([await _is_served(manager, fresh.cookie) for manager in managers])

        await until(is_signed_in_everywhere, "ann signs in anew")
        for manager in managers:
            await manager.stop()
