"""Renewal of the cookie's secret: when, for whom, what a lost response costs, and what the use of an old one ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from evsession import CachePolicy, CookiePolicy, Session, SessionManager, SessionPolicy
from evsession.errors import StoreUnavailable
from evsession.store import Commit, CommitReply
from evsession.stores.memory import MemoryStore
from tests.conftest import until
from tests.integration.apps import KEY, Answer, Browser, Clock, app_of, in_memory, setting, two_workers, types_of
from tests.servers import Server

POLICY = SessionPolicy(
    idle_timeout=timedelta(hours=2), renew_after=timedelta(minutes=15), renew_grace=timedelta(seconds=30)
)
QUICK = SessionPolicy(renew_after=timedelta(milliseconds=400), renew_grace=timedelta(milliseconds=300))
"""For real servers, whose clocks nobody turns."""

LASTING = SessionPolicy(renew_after=timedelta(seconds=2), renew_grace=timedelta(seconds=1.9))
"""The same, for what must be over before anything is renewed again, on a busy machine too."""


@pytest.fixture
def manager(clock: Clock) -> SessionManager:
    return in_memory(clock=clock, policy=POLICY)


def whoami(session: Session) -> str | None:
    return session.info.user_id


async def signed_in(manager: SessionManager) -> Browser:
    """Return a browser in which a user has just signed in."""
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.login(42))
    return browser


async def aged(manager: SessionManager, clock: Clock) -> Browser:
    """Return a browser whose secret is due to be renewed."""
    browser = await signed_in(manager)
    clock.advance(minutes=16)
    return browser


def secret_of(browser: Browser) -> str:
    """Return the secret in a browser's cookie."""
    return str(browser.token)[25:68]


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_secret_is_replaced_when_it_is_old(manager: SessionManager, clock: Clock) -> None:
    """By a read as by a write; the session goes on, and nothing is set while it is young."""
    browser = await signed_in(manager)
    first = secret_of(browser)
    clock.advance(minutes=14)
    assert (await browser.visit(app_of(manager), whoami)).set_cookie is None
    clock.advance(minutes=2)
    answer = await browser.visit(app_of(manager), whoami)
    assert (answer.json, answer.set_cookie is not None) == ("42", True)
    assert answer.header("cache-control") == "no-store"
    second = secret_of(browser)
    assert second != first
    assert (await browser.visit(app_of(manager), setting(n=1))).status == 200
    assert secret_of(browser) == second
    clock.advance(minutes=16)
    await browser.visit(app_of(manager), setting(n=2))
    assert secret_of(browser) not in (first, second)
    assert await types_of(manager, browser.session_id) == [
        "authenticated", "renewed", "updated", "renewed", "updated", "renewed",
    ]  # fmt: skip


async def test_nothing_is_renewed_unless_it_was_asked_for(clock: Clock) -> None:
    """It is off by default."""
    manager = in_memory(clock=clock, policy=SessionPolicy(idle_timeout=timedelta(hours=2)))
    browser = await signed_in(manager)
    clock.advance(minutes=100)
    assert (await browser.visit(app_of(manager), whoami)).set_cookie is None


async def test_anonymous_sessions_are_renewed_too(manager: SessionManager, clock: Clock) -> None:
    """A cart is worth stealing."""
    browser = Browser()
    await browser.visit(app_of(manager), setting(cart=["tea"]))
    first = secret_of(browser)
    clock.advance(minutes=16)
    assert (await browser.visit(app_of(manager))).json == {"cart": ["tea"]}
    assert secret_of(browser) != first


async def test_bearer_tokens_are_not_renewed(clock: Clock) -> None:
    """Their clients keep them in places of their own."""
    manager = in_memory(clock=clock, policy=POLICY, transports=("bearer",))
    made = await manager.create(user_id=42)
    clock.advance(minutes=16)
    headers = [(b"authorization", f"Bearer {made.token.value}".encode())]
    answer = await Browser().visit(app_of(manager), whoami, headers=headers)
    assert (answer.json, answer.header("session-token")) == ("42", None)
    assert await types_of(manager, made.id) == ["authenticated"]


@pytest.mark.parametrize("act", [Session.logout, Session.rotate, lambda session: session.login(43)])
async def test_what_replaces_the_secret_anyway_is_not_renewed_as_well(
    manager: SessionManager, clock: Clock, act: Any
) -> None:
    """A logout, a rotation, another user."""
    browser = await aged(manager, clock)
    old = browser.session_id
    await browser.visit(app_of(manager), act)
    renewals = [event.event for event in await manager.audit.history(old) if event.type == "renewed"]
    assert [event.phase for event in renewals] in ([], ["rotated"])  # type: ignore[union-attr]


async def test_a_handshake_renews(manager: SessionManager, clock: Clock) -> None:
    """An accepted WebSocket can set a cookie as well as a response."""
    browser = await aged(manager, clock)
    first = secret_of(browser)

    async def act(websocket: Any) -> None:
        await websocket.accept()

    await browser.connect(app_of(manager), act)
    assert secret_of(browser) != first
    assert (await browser.visit(app_of(manager), whoami)).json == "42"


async def test_a_renewal_that_fails_is_left_to_the_next_request(clock: Clock) -> None:
    """The response goes out as if it had not been due."""
    store = FailingStore(clock=clock.server)
    manager = in_memory(store, clock=clock, policy=POLICY)
    browser = await aged(manager, clock)
    store.fails = True
    answer = await browser.visit(app_of(manager), whoami)
    assert (answer.status, answer.json, answer.set_cookie) == (200, "42", None)
    store.fails = False
    assert (await browser.visit(app_of(manager), whoami)).set_cookie is not None


class FailingStore(MemoryStore):
    """Takes no renewal while it fails."""

    fails = False

    async def commit(self, commit: Commit) -> CommitReply:
        if self.fails and commit.type == "renewed":
            raise StoreUnavailable(timedelta(seconds=1))
        return await super().commit(commit)


# ── many at once, and responses that get lost ────────────────────────────────────────────────────────────────────────


async def test_twelve_parallel_requests_get_one_new_token(manager: SessionManager, clock: Clock) -> None:
    """All succeed, and whichever answer the browser keeps, it keeps the same secret."""
    browser = await aged(manager, clock)
    app, twins = app_of(manager), [browser.twin() for _ in range(12)]
    answers = await asyncio.gather(*(twin.visit(app, whoami) for twin in twins))
    assert [answer.json for answer in answers] == ["42"] * 12
    assert len({secret_of(twin) for twin in twins}) == 1
    assert secret_of(twins[0]) != secret_of(browser)
    assert (await types_of(manager, browser.session_id)).count("renewed") == 1


@pytest.fixture
async def two(any_server: Server) -> AsyncIterator[tuple[SessionManager, SessionManager]]:
    """Two workers on each server of the matrix, on which secrets age fast."""
    async with two_workers(any_server.url, policy=QUICK) as workers:
        yield workers


async def _aged_on(manager: SessionManager) -> Browser:
    browser = await signed_in(manager)

    async def is_due() -> bool:
        cached = await manager.fetch(browser.session_id)
        assert cached is not None
        return manager.server_now() >= cached.stored.secret_at + manager.renew_ms

    await until(is_due, "the secret to be due")
    return browser


async def test_twelve_parallel_requests_on_two_workers_get_one_new_token(
    any_server: Server,
) -> None:
    """Also while some of them write, and while the first ones already use the new token."""
    async with two_workers(any_server.url, policy=LASTING) as two:
        browser = await _aged_on(two[0])
        apps, twins = [app_of(manager) for manager in two], [browser.twin() for _ in range(12)]

        async def visit(number: int) -> list[Any]:
            act = setting(**{f"key{number}": number}) if number % 3 == 0 else whoami
            first = await twins[number].visit(apps[number % 2], act)
            again = await twins[number].visit(apps[(number + 1) % 2], whoami)
            return [first.status, again.json]

        assert await asyncio.gather(*map(visit, range(12))) == [[200, "42"]] * 12
        assert len({secret_of(twin) for twin in twins}) == 1
        assert secret_of(twins[0]) != secret_of(browser)
        phases = [e.event.phase for e in await two[0].audit.history(browser.session_id) if e.type == "renewed"]  # type: ignore[union-attr]
        assert phases == ["issued", "used"]
        stored = await two[1].fetch(browser.session_id)
        assert stored is not None
        assert {f"key{n}" for n in (0, 3, 6, 9)} <= stored.stored.snapshot.data.keys()


async def test_a_lost_response_logs_nobody_out(manager: SessionManager, clock: Clock) -> None:
    """Whoever did not get the new token goes on with the old one, however long, and gets the same new one each time."""
    browser = await aged(manager, clock)
    lost = [browser.twin() for _ in range(3)]
    for twin in lost:
        assert (await twin.visit(app_of(manager), whoami)).json == "42"
        clock.advance(minutes=30)
    assert len({secret_of(twin) for twin in lost}) == 1
    assert (await browser.visit(app_of(manager), setting(n=1))).status == 200
    assert secret_of(browser) == secret_of(lost[0])
    assert (await browser.visit(app_of(manager), whoami)).json == "42"


async def test_a_write_with_an_old_token_does_not_bring_it_back(manager: SessionManager, clock: Clock) -> None:
    """Its answer carries the fence, and with it the newest token."""
    browser = await aged(manager, clock)
    late = browser.twin()
    await browser.visit(app_of(manager), whoami)
    await late.visit(app_of(manager), setting(n=1))
    assert secret_of(late) == secret_of(browser)


async def test_a_request_that_began_before_a_renewal_keeps_its_right(clock: Clock) -> None:
    """While it was at work its token was renewed, used, and its grace ran out: what it writes is no theft."""
    manager = in_memory(clock=clock, policy=POLICY)
    browser = await aged(manager, clock)
    app, late = app_of(manager), browser.twin()

    async def act(session: Session) -> None:
        await browser.visit(app, whoami)
        await browser.visit(app, whoami)
        clock.advance(minutes=1)
        session["n"] = 1
        await session.save()

    assert (await late.visit(app, act)).status == 200
    assert (await browser.visit(app)).json == {"n": 1}
    assert secret_of(late) == secret_of(browser)


# ── the grace, and what comes after it ───────────────────────────────────────────────────────────────────────────────


async def renewed(manager: SessionManager, clock: Clock) -> tuple[Browser, Browser]:
    """Return a browser that has used its new token, and one that has a copy of the old."""
    browser = await aged(manager, clock)
    thief = browser.twin()
    await browser.visit(app_of(manager), whoami)
    await browser.visit(app_of(manager), whoami)
    return browser, thief


async def test_within_the_grace_the_old_token_is_good(manager: SessionManager, clock: Clock) -> None:
    """Which begins with the first use of the new one; its answer hands the new one out."""
    browser, late = await renewed(manager, clock)
    clock.advance(seconds=29)
    assert (await late.visit(app_of(manager), setting(n=1))).status == 200
    assert secret_of(late) == secret_of(browser)
    assert (await browser.visit(app_of(manager))).json == {"n": 1}


async def test_after_the_grace_the_old_token_ends_the_session(manager: SessionManager, clock: Clock) -> None:
    """For whoever has it and for whoever has the new one: nobody can tell which of them is the user."""
    browser, thief = await renewed(manager, clock)
    clock.advance(seconds=31)
    answer = await thief.visit(app_of(manager), lambda session: session.update(n=1) or whoami(session))
    assert (answer.json, answer.set_cookie) == (None, None)
    assert (await browser.visit(app_of(manager), whoami)).json is None
    last = (await manager.audit.history(browser.session_id))[-1]
    assert (last.cause, last.actor and last.actor.id) == ("token_reused", "renewal")
    assert last.context["address"] == "203.0.113.0"
    assert await manager.sessions_of(42) == []


async def test_an_old_token_is_stolen_at_once_when_a_newer_one_is_on_its_way(
    manager: SessionManager, clock: Clock
) -> None:
    """Its own grace ended long ago."""
    browser, thief = await renewed(manager, clock)
    clock.advance(minutes=16)
    await browser.visit(app_of(manager), whoami)
    assert (await thief.visit(app_of(manager), whoami)).json is None
    assert (await manager.audit.history(browser.session_id))[-1].cause == "token_reused"


@pytest.mark.parametrize("way", ["login", "rotate"])
async def test_a_token_that_was_not_renewed_but_replaced_ends_nothing(
    manager: SessionManager, clock: Clock, way: str
) -> None:
    """It is merely dead, as is one that a renewal replaced before that."""
    browser, older = await renewed(manager, clock)
    before = browser.twin()
    await browser.visit(app_of(manager), lambda session: session.login(42) if way == "login" else session.rotate())
    clock.advance(minutes=5)
    for old in (before, older):
        assert (await old.visit(app_of(manager), setting(n=1))).set_cookie is None
    assert (await browser.visit(app_of(manager))).json == {}
    assert (await browser.visit(app_of(manager), whoami)).json == "42"


async def test_the_token_before_the_last_is_merely_unknown(manager: SessionManager, clock: Clock) -> None:
    """Each session remembers one: what is unknown never changes anything."""
    browser, oldest = await renewed(manager, clock)
    for _ in range(2):
        clock.advance(minutes=16)
        await browser.visit(app_of(manager), whoami)
    clock.advance(minutes=1)
    assert (await oldest.visit(app_of(manager), whoami)).json is None
    assert (await browser.visit(app_of(manager), whoami)).json == "42"


async def test_the_server_says_when_the_grace_is_over(any_server: Server) -> None:
    """A worker whose clock runs ahead asks; one that never saw the renewal learns of it."""
    policy = SessionPolicy(renew_after=timedelta(seconds=30), renew_grace=timedelta(seconds=20))
    ahead = 0.0

    def clock() -> float:
        return asyncio.get_running_loop().time() + ahead

    options: dict[str, Any] = {"secret_key": KEY, "namespace": "shop", "policy": policy, "clock": clock}
    manager = SessionManager.from_url(any_server.url, **options, cache=CachePolicy(max_staleness=timedelta(hours=1)))
    async with manager:
        browser = await signed_in(manager)
        thief = browser.twin()
        ahead += 31
        await browser.visit(app_of(manager), whoami)
        await browser.visit(app_of(manager), whoami)
        assert await types_of(manager, browser.session_id) == ["authenticated", "renewed", "renewed"]
        ahead += 3600
        late = thief.twin()
        assert (await late.visit(app_of(manager), whoami)).json == "42"
        assert secret_of(late) == secret_of(browser)


async def test_the_grace_ends_on_every_worker(two: tuple[SessionManager, SessionManager]) -> None:
    """And the end closes the session everywhere."""
    browser = await _aged_on(two[0])
    thief = browser.twin()
    for manager in two:
        await browser.visit(app_of(manager), whoami)

    async def is_over() -> bool:
        answer = await thief.twin().visit(app_of(two[1]), whoami)
        return bool(answer.json is None)

    await until(is_over, "the grace to pass")
    assert (await two[0].audit.history(browser.session_id))[-1].cause == "token_reused"
    assert (await browser.visit(app_of(two[1]), whoami)).json is None


async def test_an_outage_decides_nothing(clock: Clock) -> None:
    """Whether a token is stolen cannot be told then: 503, and the session is as it was."""
    store = AwayStore(clock=clock.server)
    manager = in_memory(store, clock=clock, policy=POLICY)
    browser, thief = await renewed(manager, clock)
    clock.advance(seconds=1)
    await browser.visit(app_of(manager), whoami)
    store.is_away = True
    assert (await thief.visit(app_of(manager), whoami)).status == 503
    store.is_away = False
    assert (await browser.visit(app_of(manager), whoami)).json == "42"


class AwayStore(MemoryStore):
    """Takes no end while it is away."""

    is_away = False

    async def commit(self, commit: Commit) -> CommitReply:
        if self.is_away:
            raise StoreUnavailable(timedelta(seconds=1))
        return await super().commit(commit)


# ── what a renewal leaves alone ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_renewed_cookie_is_kept_as_long_as_the_one_before(clock: Clock) -> None:
    """Of who asked to be remembered."""
    manager = in_memory(clock=clock, policy=POLICY)
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.login(42, remember=timedelta(days=1)))
    clock.advance(minutes=16)
    assert "; Max-Age=86400;" in str((await browser.visit(app_of(manager), whoami)).set_cookie)


async def test_another_secret_key_renews_as_well(clock: Clock) -> None:
    """The seed says under which key: a worker that signs with another one hands out the same secret."""
    store, new = MemoryStore(clock=clock.server), "another key that only these tests have"
    old = SessionManager(store, secret_key=[KEY, new], clock=clock.local, policy=POLICY)
    other = SessionManager(store, secret_key=[new, KEY], clock=clock.local, policy=POLICY)
    browser = await aged(old, clock)
    twins = [browser.twin() for _ in range(2)]
    answers = list[Answer]()
    for manager, twin in zip((old, other), twins, strict=True):
        answers.append(await twin.visit(app_of(manager), whoami))
    assert [answer.json for answer in answers] == ["42", "42"]
    assert secret_of(twins[0]) == secret_of(twins[1])
    assert (await twins[1].visit(app_of(old), whoami)).json == "42"


async def test_a_renewal_closes_no_socket(server: Server) -> None:
    """Nor does the end of its grace: who opened it is still who they were."""
    policy = SessionPolicy(renew_after=timedelta(milliseconds=400), renew_grace=timedelta(milliseconds=50))
    async with two_workers(server.url, policy=policy, cookie=CookiePolicy()) as (one, other):
        browser = await signed_in(one)
        heard = list[str]()

        async def act(websocket: Any) -> None:
            await websocket.accept()
            for _ in range(3):
                await _renewed_on(other, browser)
                await websocket.send_text("still here")
                heard.append("still here")

        socket = browser.twin()
        await socket.connect(app_of(one), act)
        assert heard == ["still here"] * 3
        assert (await browser.visit(app_of(one), whoami)).json == "42"


async def _renewed_on(manager: SessionManager, browser: Browser) -> None:
    before = secret_of(browser)

    async def is_renewed() -> bool:
        await browser.visit(app_of(manager), whoami)
        return secret_of(browser) != before

    await until(is_renewed, "a renewal")
    await browser.visit(app_of(manager), whoami)
