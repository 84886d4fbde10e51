"""The sessions of a user: what a list of devices shows, what it never shows, and how the index mends itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from evsession import AuditPolicy, Session, SessionInfo, SessionManager
from evsession.errors import InvalidUserId
from evsession.index import BATCH, IN_FLIGHT_MS
from evsession.stores.redis.keys import user_key
from evsession.tokens import new_sid
from tests.conftest import until
from tests.integration.apps import KEY, Browser, Clock, app_of, in_memory, two_workers
from tests.integration.test_round_trips import worker_on
from tests.servers import Server

FIREFOX = b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
DAY = 86_400_000


@pytest.fixture
def manager(clock: Clock) -> SessionManager:
    return in_memory(clock=clock)


async def signed_in(manager: SessionManager, user: object = 42, **more: Any) -> Browser:
    """Return a browser in which a user has just signed in."""
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.login(user), **more)
    return browser


async def ids_of(manager: SessionManager, user: object = 42) -> list[str | None]:
    """Return the ids that a list of devices shows."""
    return [info.id for info in await manager.sessions_of(user)]


async def indexed(manager: SessionManager, user: str = "42") -> set[str]:
    """Return the ids that the index names, living or not."""
    return {member.sid for member in (await manager.worker.store.members(user)).members}


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_list_of_devices_says_what_a_person_needs_to_know(manager: SessionManager, clock: Clock) -> None:
    """Since when, last seen, from where and by what; and nothing that opens a session."""
    browser = await signed_in(manager, headers=[(b"user-agent", FIREFOX)])
    clock.advance(minutes=5)
    await browser.visit(app_of(manager))
    (info,) = await manager.sessions_of(42, current=browser.session_id)
    assert (info.id, info.user_id, info.is_current) == (browser.session_id, "42", True)
    assert (info.address, info.user_agent) == ("203.0.113.0", FIREFOX.decode())
    assert info.device == "Firefox 128 on Linux"
    assert info.created_at == info.authenticated_at
    assert info.created_at is not None
    assert info.last_seen == info.created_at + timedelta(minutes=5)
    token = str(browser.token)
    assert not [part for part in token.partition("~")[0].split(".")[1:] if part in repr(info)]


async def test_who_signed_in_last_stands_first(manager: SessionManager, clock: Clock) -> None:
    """However they did: by a call, by their data, or without a request."""
    called = await signed_in(manager)
    clock.advance(seconds=1)
    detected = Browser()
    await detected.visit(app_of(manager), lambda session: session.update(user_id=42))
    clock.advance(seconds=1)
    made = await manager.create(user_id="42")
    clock.advance(seconds=1)
    by_data = await manager.create(data={"user_id": "42"})
    ids = [by_data.id, made.id, detected.session_id, called.session_id]
    assert await ids_of(manager) == ids
    clock.advance(seconds=1)
    await called.visit(app_of(manager), lambda session: session.login(42))
    assert await ids_of(manager) == [ids[3], *ids[:3]]
    assert [info.id for info in await manager.sessions_of(42, limit=2)] == [ids[3], ids[0]]


async def test_the_session_that_asks_is_marked(manager: SessionManager) -> None:
    """Given as itself, as its info or as its id."""
    await signed_in(manager)
    browser, found = await signed_in(manager), list[list[SessionInfo]]()

    async def look(session: Session) -> None:
        for current in (session, session.info, session.info.id):
            found.append(await manager.sessions_of(42, current=current))

    await browser.visit(app_of(manager), look)
    assert [[info.id for info in infos if info.is_current] for infos in found] == [[browser.session_id]] * 3
    assert not any(info.is_current for info in await manager.sessions_of(42))


@pytest.mark.parametrize(
    ("audit", "address", "user_agent"),
    [
        (AuditPolicy(), "203.0.113.0", FIREFOX.decode()),
        (AuditPolicy(address="full", max_user_agent=11), "203.0.113.77", "Mozilla/5.0"),
        (AuditPolicy(address="none"), None, FIREFOX.decode()),
        (AuditPolicy(address="none", max_user_agent=0), None, None),
    ],
)
async def test_a_device_shows_no_more_than_the_policy_keeps(
    audit: AuditPolicy, address: str | None, user_agent: str | None
) -> None:
    """What is not kept stands nowhere; and of what is kept, the log has the address alone."""
    manager = in_memory(audit=audit)
    browser = await signed_in(manager, headers=[(b"user-agent", FIREFOX)])
    (info,) = await manager.sessions_of(42)
    assert (info.address, info.user_agent) == (address, user_agent)
    (member,) = (await manager.worker.store.members("42")).members
    assert bool(member.device) == bool(address or user_agent)
    (event,) = await manager.audit.history(browser.session_id)
    assert event.context.get("address") == address
    assert "Mozilla" not in repr(event)


async def test_a_session_made_without_a_request_comes_from_nowhere(manager: SessionManager) -> None:
    """And takes no byte to say so."""
    await manager.create(user_id=42)
    (info,) = await manager.sessions_of(42)
    assert (info.address, info.user_agent, info.device) == (None, None, None)


@pytest.mark.parametrize("user", [None, "", True, 4.2, ["42"]])
async def test_what_cannot_be_a_user_has_no_sessions(manager: SessionManager, user: object) -> None:
    """It raises, as a login would: an empty list would look like an answer."""
    with pytest.raises(InvalidUserId):
        await manager.sessions_of(user)


async def test_every_worker_shows_the_sessions_of_all(any_server: Server) -> None:
    """On each server of the matrix."""
    async with two_workers(any_server.url) as (one, two):
        first, second = await signed_in(one, "İstanbul {x}"), await signed_in(two, "İstanbul {x}")
        for manager in (one, two):
            assert set(await ids_of(manager, "İstanbul {x}")) == {first.session_id, second.session_id}
        await first.visit(app_of(two), Session.logout)
        assert await ids_of(one, "İstanbul {x}") == [second.session_id]


# ── what is never shown ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["logout", "clear", "revoke", "another user", "no user"])
async def test_a_session_that_ended_leaves_the_index(manager: SessionManager, way: str) -> None:
    """However it ended."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(user_id=42))
    old = browser.session_id
    match way:
        case "logout" | "clear":
            await browser.visit(app, getattr(Session, way))
        case "revoke":
            await manager.revoke(old)
        case "another user":
            await browser.visit(app, lambda session: session.login(43))
            assert await indexed(manager, "43") == {browser.session_id}
        case _:
            await browser.visit(app, lambda session: session.pop("user_id") and session.update(cart=[]))
            assert browser.session_id != old
    assert await ids_of(manager) == []
    assert await indexed(manager) == set()


async def test_a_session_that_expired_is_not_shown_and_leaves_with_the_sweeper(
    manager: SessionManager, clock: Clock
) -> None:
    """Before the sweep has come by it is no longer alive either."""
    await signed_in(manager)
    clock.advance(minutes=31)
    await manager.worker.store.enter("42", "another", DAY)
    assert await ids_of(manager) == []
    await signed_in(manager, 43)
    clock.advance(minutes=31)
    assert await manager.sweep() > 0
    assert await indexed(manager, "43") == set()


async def test_what_the_index_names_in_vain_is_not_shown_and_taken_out(manager: SessionManager, clock: Clock) -> None:
    """A session that never began, one that is nobody's, and one whose end nobody told the index of."""
    store, browser = manager.worker.store, await signed_in(manager)
    anonymous = await manager.create(data={"cart": []})
    ended = await manager.create(user_id=42)
    await manager.revoke(ended.id)
    never = new_sid("00", bytes(16))
    for sid in (anonymous.id, ended.id, never):
        await store.enter("42", sid, DAY)
    assert await ids_of(manager) == [browser.session_id]
    assert await indexed(manager) == {browser.session_id, anonymous.id, never}, "a login may be under way"
    clock.advance(seconds=IN_FLIGHT_MS / 1000 + 1)
    assert await ids_of(manager) == [browser.session_id]
    assert await indexed(manager) == {browser.session_id}


async def test_a_forged_snapshot_hides_no_other_device(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody without a key wrote to Redis: that session is not served, so it is not shown; the alarm is logged."""
    async with two_workers(server.url) as (one, two):
        forged, browser = await signed_in(one), await signed_in(one)
        key = f"{{shop:00}}:s:{forged.session_id}"
        server.cli("APPEND", key, " ")
        assert await ids_of(two) == [browser.session_id]
        assert "does not match its head" in caplog.text


# ── how it mends itself ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_that_is_used_comes_back_into_a_lost_index(manager: SessionManager, clock: Clock) -> None:
    """A failover may lose the entrance; the next touch puts it back, with the device that it came from."""
    browser, other = await signed_in(manager), await signed_in(manager)
    await manager.worker.store.leave("42", browser.session_id)
    assert await ids_of(manager) == [other.session_id]
    clock.advance(minutes=5)
    await browser.visit(app_of(manager), headers=[(b"user-agent", FIREFOX)])
    (info, _) = await manager.sessions_of(42)
    assert (info.id, info.user_agent) == (browser.session_id, FIREFOX.decode())


async def test_an_index_does_not_outlive_its_sessions_for_long(server: Server) -> None:
    """A day after the last absolute deadline it is gone, whatever was missed."""
    async with two_workers(server.url) as (one, _):
        await signed_in(one)
        absolute = round(one.policy.absolute_timeout.total_seconds() * 1000)
        assert absolute < server.cli("PTTL", user_key("shop", "42")) <= absolute + DAY


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_list_is_read_in_batches(server: Server) -> None:
    """One command for the index and one for each session, in a few writes on the wire."""
    async with worker_on(server) as worker:
        for _ in range(BATCH + 5):
            await worker.manager.create(user_id=42)
        commands, writes = await worker.cost(lambda: worker.manager.sessions_of(42, limit=1000))
        assert commands == 1 + BATCH + 5
        assert writes <= 6
        assert len(await worker.manager.sessions_of(42)) == 100


async def test_an_end_tells_the_index_behind_the_answer(server: Server) -> None:
    """The logout itself waits for one command, as before."""
    async with two_workers(server.url) as (one, _):
        browser = await signed_in(one)
        await browser.visit(app_of(one), Session.logout)

        async def is_empty() -> bool:
            return await indexed(one) == set()

        await until(is_empty, "the session to leave the index")


# ── who there is ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_all_users_with_sessions_are_listed(any_server: Server) -> None:
    """Each once, page by page, and none of another application on the same server."""
    async with two_workers(any_server.url) as (one, two):
        for user in range(30):
            await one.create(user_id=user)
            await two.create(user_id=user)
        await one.create(data={"cart": []})
        other = SessionManager.from_url(any_server.url, secret_key=KEY, namespace="forum")
        async with other:
            await other.create(user_id="somebody else")
        found = [user async for user in one.users(page=10)]
        assert sorted(found, key=int) == [str(user) for user in range(30)]
