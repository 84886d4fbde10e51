"""Who a session belongs to: login, detection, logout, rotation, and requests in flight meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import anyio
import pytest

from evsession import CodecError, Session, SessionEnded, SessionManager, SessionPolicy
from evsession.errors import InvalidUserId
from evsession.stores.memory import MemoryStore
from tests.conftest import until
from tests.integration.apps import Act, Browser, app_of, in_memory, logged, two_workers, types_of
from tests.servers import Server

UUID_42 = UUID("00000000-0000-4000-8000-000000000042")


# ── login ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_login_replaces_the_token_and_keeps_the_cart(manager: SessionManager) -> None:
    """The session goes on under its id; who holds the old token holds nothing."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"]))
    old = browser.twin()
    await browser.visit(app, lambda session: session.login(42))
    assert browser.token != old.token
    assert browser.session_id == old.session_id
    assert (await browser.visit(app)).json == {"cart": ["tea"]}
    assert (await old.visit(app)).json == {}
    assert await types_of(manager, browser.session_id) == ["created", "authenticated"]


async def test_a_login_says_when_and_who(manager: SessionManager) -> None:
    """`authenticated_at` is the server's time of the event; names are what the session can be revoked by."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42, names={"tenant": "acme"}, facts={"mfa": True}))
    info = await manager.get(browser.session_id)
    assert info is not None
    assert (info.user_id, info.names, info.facts) == ("42", ("user:42", "tenant:acme"), {"mfa": True})
    assert info.authenticated_at == info.created_at == (await manager.audit.history(browser.session_id))[0].at


async def test_a_login_kills_the_old_token_on_another_worker(server: Server) -> None:
    """Which had the session in its memory."""
    async with two_workers(server.url) as (one, two):
        browser = Browser()
        await browser.visit(app_of(one), lambda session: session.update(cart=["tea"]))
        old = browser.twin()
        assert (await old.visit(app_of(two))).json == {"cart": ["tea"]}
        await browser.visit(app_of(one), lambda session: session.login(42))
        assert (await browser.visit(app_of(two))).json == {"cart": ["tea"]}
        assert (await old.visit(app_of(two))).json == {}


@pytest.mark.parametrize(
    ("user", "text"), [(42, "42"), ("42", "42"), (UUID_42, str(UUID_42)), ("Bob", "Bob"), (0, "0")]
)
async def test_user_ids_are_one_text(manager: SessionManager, user: object, text: str) -> None:
    """An app's 42 is the command line's "42"."""
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.login(user))
    info = await manager.get(browser.session_id)
    assert info is not None
    assert info.user_id == text


async def test_the_same_user_again_is_no_switch(manager: SessionManager) -> None:
    """42 and "42" are one user: the session goes on, with a new token."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42) or session.update(cart=["tea"]))
    first = browser.session_id
    await browser.visit(app, lambda session: session.login("42"))
    assert browser.session_id == first
    assert await types_of(manager, first) == ["authenticated", "authenticated"]
    assert (await browser.visit(app)).json == {"cart": ["tea"]}


@pytest.mark.parametrize("user", [True, False, 4.2, [42], {"id": 42}, None, b"42", "", "a\nb", 10**300])
async def test_what_cannot_be_a_user_raises_on_the_line_that_says_so(manager: SessionManager, user: object) -> None:
    """By either way, and nothing of it is written."""
    app, browser = app_of(manager), Browser()

    def act(session: Session) -> None:
        with pytest.raises(InvalidUserId):
            session.login(user)
        if user is None:
            return
        with pytest.raises((InvalidUserId, CodecError)):
            session["user_id"] = user
        with pytest.raises((InvalidUserId, CodecError)):
            session.update(user_id=user, other=1)

    answer = await browser.visit(app, act)
    assert (answer.status, answer.set_cookie) == (200, None)


async def test_another_user_ends_the_session_and_takes_nothing_over(manager: SessionManager) -> None:
    """The old session ends as switched; the new one has what this request set, and nothing else."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(1) or session.update(cart=["tea"], seen=1))
    old = browser.twin()

    def act(session: Session) -> None:
        session["seen"] = 2
        session.login(2)
        session["lang"] = "de"

    await browser.visit(app, act)
    assert browser.session_id != old.session_id
    assert (await browser.visit(app)).json == {"seen": 2, "lang": "de"}
    assert (await old.visit(app)).json == {}
    ended = (await manager.audit.history(old.session_id))[-1]
    assert (ended.type, ended.cause) == ("ended", "switched")
    (begun,) = await manager.audit.history(browser.session_id)
    assert (begun.type, begun.user_id, begun.set) == ("authenticated", "2", {"seen": 2, "lang": "de"})


async def test_logout_after_a_switch_is_a_logout(manager: SessionManager) -> None:
    """The last word of a request counts: nobody is signed in."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(1))
    old = browser.twin()
    await browser.visit(app, lambda session: session.login(2) or session.logout())
    assert browser.token is None
    assert (await manager.audit.history(old.session_id))[-1].cause == "logout"


# ── logout and rotation ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", [lambda s: s.logout(), lambda s: s.clear()])
async def test_logout_ends_the_session_and_clears_the_cookie(manager: SessionManager, end: Act) -> None:
    """`clear` is what apps for Starlette call to log out, and means the same."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42))
    old = browser.twin()
    answer = await browser.visit(app, end)
    assert browser.token is None
    assert answer.header("cache-control") == "no-store"
    assert (await old.visit(app)).json == {}
    assert (await manager.audit.history(old.session_id))[-1].cause == "logout"
    assert await manager.get(old.session_id) is None


async def test_logout_is_known_to_the_other_worker(server: Server) -> None:
    """Within moments, although it has the session in memory."""
    async with two_workers(server.url) as (one, two):
        browser = Browser()
        await browser.visit(app_of(one), lambda session: session.login(42) or session.update(a=1))
        old = browser.twin()
        assert (await old.visit(app_of(two))).json == {"a": 1}
        await browser.visit(app_of(one), lambda session: session.logout())

        async def is_gone() -> bool:
            return bool((await old.visit(app_of(two))).json == {})

        await until(is_gone, "worker two to know the logout")


async def test_what_is_set_after_a_logout_begins_a_new_session(manager: SessionManager) -> None:
    """Anonymous, such as for a farewell message."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42) or session.update(cart=["tea"]))
    old = browser.twin()
    await browser.visit(app, lambda session: session.logout() or session.update(flash="bye"))
    assert browser.session_id != old.session_id
    assert (await browser.visit(app)).json == {"flash": "bye"}
    assert await types_of(manager, old.session_id) == ["authenticated", "ended"]
    assert await types_of(manager, browser.session_id) == ["created"]


async def test_logout_without_a_session_does_nothing(manager: SessionManager) -> None:
    """Not even a cookie."""
    assert (await Browser().visit(app_of(manager), lambda session: session.logout())).set_cookie is None


async def test_rotate_replaces_the_token_and_nothing_else(manager: SessionManager) -> None:
    """For a change of privileges that is no login."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42) or session.update(a=1))
    old = browser.twin()
    await browser.visit(app, lambda session: session.rotate())
    assert browser.session_id == old.session_id
    assert (await browser.visit(app)).json == {"a": 1}
    assert (await old.visit(app)).json == {}
    assert await types_of(manager, browser.session_id) == ["authenticated", "renewed"]


# ── detection ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _user_of(data: Mapping[str, Any]) -> object:
    return data.get("me", {}).get("id")


DETECTING = [("user_id", "user_id"), (("account", "uid"), "uid")]


@pytest.mark.parametrize(("user_key", "key"), DETECTING)
async def test_a_user_that_only_the_data_names_is_detected(user_key: Any, key: str) -> None:
    """The token is replaced and the session belongs to the user; but nobody knows when they proved who they are."""
    manager = in_memory(policy=SessionPolicy(user_key=user_key))
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"]))
    old = browser.twin()
    await browser.visit(app, lambda session: session.update({key: 42}))
    assert (await old.visit(app)).json == {}
    assert (await browser.visit(app)).json == {"cart": ["tea"], key: 42}
    info = await manager.get(browser.session_id)
    assert info is not None
    assert (info.user_id, info.authenticated_at) == ("42", None)
    assert await types_of(manager, browser.session_id) == ["created", "authenticated"]


async def test_a_function_can_tell_the_user() -> None:
    """Of any part of the data; what is no user raises at commit, and nothing is written."""
    manager = in_memory(policy=SessionPolicy(user_key=_user_of))
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(me={"id": 42}))
    info = await manager.get(browser.session_id)
    assert info is not None
    assert info.user_id == "42"
    await browser.visit(app, lambda session: session.update(me={"id": 4.2}), fails=InvalidUserId)
    assert (await browser.visit(app)).json == {"me": {"id": 42}}


async def test_nothing_is_detected_where_the_policy_says_so() -> None:
    """`user_key=None` leaves it all to `login`."""
    manager = in_memory(policy=SessionPolicy(user_key=None))
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.update(user_id=42))
    assert await types_of(manager, browser.session_id) == ["created"]


async def test_an_unchanged_user_is_nothing(manager: SessionManager) -> None:
    """Set again, or set after a login that named the same one: no second event of that kind, no new token."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42) or session.update(user_id=42))
    token = browser.twin().token
    await browser.visit(app, lambda session: session.update(user_id=42))
    assert browser.token == token
    await browser.visit(app, lambda session: session.update(user_id="42"))
    assert browser.token is not None
    assert token is not None
    assert browser.token[:91] == token[:91]
    assert await types_of(manager, browser.session_id) == ["authenticated", "updated"]


async def test_a_login_that_the_data_repeat_later_is_nothing(manager: SessionManager) -> None:
    """Explicit first, into the dict a request later."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42))
    await browser.visit(app, lambda session: session.update(user_id=42))
    info = await manager.get(browser.session_id)
    assert info is not None
    assert info.authenticated_at is not None
    assert await types_of(manager, browser.session_id) == ["authenticated", "updated"]


async def test_a_changed_user_in_the_data_is_a_switch(manager: SessionManager) -> None:
    """The old session ends; only what this request set is in the new one."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(user_id=1, cart=["tea"]))
    old = browser.twin()
    await browser.visit(app, lambda session: session.update(user_id=2, lang="de"))
    assert (await browser.visit(app)).json == {"user_id": 2, "lang": "de"}
    assert (await manager.audit.history(old.session_id))[-1].cause == "switched"
    assert await types_of(manager, browser.session_id) == ["authenticated"]


async def test_deleting_the_user_is_a_logout_that_keeps_the_rest(manager: SessionManager) -> None:
    """In a new, anonymous session with a token of its own."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(user_id=1, cart=["tea"]))
    old = browser.twin()
    await browser.visit(app, lambda session: session.pop("user_id"))
    assert browser.session_id != old.session_id
    assert (await browser.visit(app)).json == {"cart": ["tea"]}
    assert (await manager.audit.history(old.session_id))[-1].cause == "logout"
    assert await types_of(manager, browser.session_id) == ["created"]


async def test_deleting_the_only_key_leaves_nothing(manager: SessionManager) -> None:
    """And clears the cookie."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(user_id=1))
    await browser.visit(app, lambda session: session.pop("user_id"))
    assert browser.token is None


# ── with a dead token ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def dead(manager: SessionManager) -> Browser:
    """A browser whose session ended elsewhere."""
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.login(1) or session.update(cart=["tea"]))
    await manager.revoke(browser.session_id)
    return browser


async def test_a_dead_token_has_an_empty_session_whose_writes_are_dropped(
    manager: SessionManager, dead: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    """No cookie is set or cleared; the names of what was dropped are logged, and it is counted."""
    answer = await dead.visit(app_of(manager), lambda session: dict(session) or session.update(pin="1234", b=2))
    assert (answer.status, answer.set_cookie) == (200, None)
    (record,) = logged(caplog, logging.WARNING)
    assert '["pin", "b"]' in record.getMessage()
    assert dead.session_id in record.getMessage()
    assert "1234" not in caplog.text
    assert manager.stats().counts.dropped_changes == 1
    assert await types_of(manager, dead.session_id) == ["authenticated", "ended"]


async def test_a_dead_token_stays_dead_within_its_request(manager: SessionManager, dead: Browser) -> None:
    """Also after `save` has said so: what follows begins no session behind the browser's back."""

    async def act(session: Session) -> None:
        session["a"] = 1
        with pytest.raises(SessionEnded):
            await session.save()
        assert session == {}
        session["b"] = 2
        with pytest.raises(SessionEnded):
            await session.revalidate()

    assert (await dead.visit(app_of(manager), act)).set_cookie is None
    assert manager.stats().counts.created == 1


async def test_reading_and_logging_out_with_a_dead_token_says_nothing(
    manager: SessionManager, dead: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing to drop."""
    answer = await dead.visit(app_of(manager), lambda session: session.logout())
    assert (answer.status, answer.set_cookie, logged(caplog)) == (200, None, [])


@pytest.mark.parametrize("sign_in", [lambda s: s.login(2), lambda s: s.update(user_id=2)])
async def test_a_login_with_a_dead_token_begins_anew(manager: SessionManager, dead: Browser, sign_in: Act) -> None:
    """By either way, or somebody whose session was revoked could not come back."""
    app, old = app_of(manager), dead.session_id
    await dead.visit(app, sign_in)
    assert dead.session_id != old
    info = await manager.get(dead.session_id)
    assert info is not None
    assert info.user_id == "2"


async def test_a_login_with_a_dead_token_has_only_what_is_set_after_it(manager: SessionManager, dead: Browser) -> None:
    """What was written before belonged to nobody."""
    app = app_of(manager)

    def act(session: Session) -> None:
        session["before"] = 1
        session.login(2)
        session["after"] = 1

    await dead.visit(app, act)
    assert (await dead.visit(app)).json == {"after": 1}


# ── in flight ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _overtaken(slow: Any, fast: Any, browser: Browser, late: Act, early: Act) -> tuple[Any, Browser]:
    """Let a request begin, do `early` meanwhile in another one, then let the first do `late`; return its answer."""
    began, go, answers = anyio.Event(), anyio.Event(), []
    twin = browser.twin()

    async def wait(session: Session) -> None:
        began.set()
        await go.wait()
        late(session)

    async def request() -> None:
        answers.append(await twin.visit(slow, wait))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request)
        await began.wait()
        await browser.visit(fast, early)
        go.set()
    return answers[0], twin


@pytest.mark.parametrize("late", [lambda s: s.update(pin="evil"), lambda s: s.update(cart=["evil"])])
async def test_a_request_in_flight_writes_nothing_into_a_session_that_somebody_signed_in_to(
    manager: SessionManager, late: Act, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever planted the token that the login replaced must not write into what the victim now has."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"]))
    answer, _ = await _overtaken(app, app, browser, late, lambda session: session.login(42))
    assert (answer.status, answer.set_cookie) == (200, None)
    assert (await browser.visit(app)).json == {"cart": ["tea"]}
    assert [record.levelno for record in logged(caplog)] == [logging.WARNING]
    assert "evil" not in caplog.text
    assert manager.stats().counts.dropped_changes == 1


async def test_the_same_on_two_workers(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The one with the late write learns it from the store at the latest."""
    async with two_workers(server.url) as (one, two):
        browser = Browser()
        await browser.visit(app_of(one), lambda session: session.update(cart=["tea"]))
        await browser.visit(app_of(two))
        answer, _ = await _overtaken(
            app_of(two), app_of(one), browser, lambda s: s.update(pin="evil"), lambda s: s.login(42)
        )
        assert (answer.status, answer.set_cookie) == (200, None)
        assert (await browser.visit(app_of(two))).json == {"cart": ["tea"]}
        assert two.stats().counts.dropped_changes == 1
        assert '["pin"]' in caplog.text
        assert await types_of(two, browser.session_id) == ["created", "authenticated"]


LATE = [
    lambda s: s.update(a=1),
    lambda s: s.rotate(),
    lambda s: s.logout(),
    lambda s: s.logout() or s.update(flash="bye"),
    lambda s: s.pop("cart"),
]


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("early", [lambda s: s.login(42), lambda s: s.logout(), lambda s: s.rotate()])
async def test_nothing_that_is_late_touches_session_or_cookie(manager: SessionManager, late: Act, early: Act) -> None:
    """Neither a write nor a rotation nor a logout: the browser has a newer cookie by then, or none on purpose."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"]))
    sid, created = browser.session_id, manager.stats().counts.created
    answer, _ = await _overtaken(app, app, browser, late, early)
    assert (answer.status, answer.set_cookie) == (200, None)
    assert len(await types_of(manager, sid)) == 2
    assert manager.stats().counts.created == created


async def test_a_late_write_after_a_logout_is_refused_on_two_workers(server: Server) -> None:
    """Nothing brings the session back, and the log ends with its end."""
    async with two_workers(server.url) as (one, two):
        browser = Browser()
        await browser.visit(app_of(one), lambda session: session.login(42))
        sid = browser.session_id
        answer, twin = await _overtaken(
            app_of(two), app_of(one), browser, lambda s: s.update(a=1), lambda s: s.logout()
        )
        assert (answer.status, answer.set_cookie) == (200, None)
        assert await types_of(two, sid) == ["authenticated", "ended"]
        assert (await twin.visit(app_of(two))).json == {}


async def test_what_was_saved_before_the_login_gives_no_cookie_after_it(manager: SessionManager) -> None:
    """The answer to an overtaken request must not put its old token in the place of the new one."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))
    twin = browser.twin()

    async def act(session: Session) -> None:
        session["saved"] = 1
        await session.save()
        await browser.visit(app, lambda inner: inner.login(42))
        session["late"] = 1

    assert (await twin.visit(app, act)).set_cookie is None
    assert (await browser.visit(app)).json == {"n": 1, "saved": 1}


async def test_a_login_in_flight_over_a_session_that_ended_is_refused(manager: SessionManager) -> None:
    """503 and no cookie: the person is told to try again, and nobody is signed in."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"]))
    answer, _ = await _overtaken(app, app, browser, lambda s: s.login(42), lambda s: s.logout())
    assert (answer.status, answer.header("retry-after"), answer.set_cookie) == (503, "1", None)
    assert b"store" not in answer.body


async def test_a_switch_over_a_session_that_ended_goes_through(manager: SessionManager) -> None:
    """The new session needs nothing of the old one."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(1) or session.update(a=1))
    _, twin = await _overtaken(app, app, browser, lambda s: s.login(2), lambda s: s.logout())
    info = await manager.get(twin.session_id)
    assert info is not None
    assert (info.user_id, info.version) == ("2", 1)
    assert (await twin.visit(app)).json == {}


async def test_a_handler_can_sign_in_again_when_told_that_the_session_ended(manager: SessionManager) -> None:
    """`save` raises where the handler can still do something about it."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"]))
    twin = browser.twin()

    async def act(session: Session) -> None:
        await browser.visit(app, lambda inner: inner.logout())
        session.login(42)
        with pytest.raises(SessionEnded):
            await session.save()
        session.login(42)
        session["again"] = True

    await twin.visit(app, act)
    assert (await twin.visit(app)).json == {"again": True}


async def test_logging_out_twice_at_once_is_one_logout(manager: SessionManager) -> None:
    """The second one is content: neither an error nor a warning."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42))
    twin = browser.twin()

    async def act(session: Session) -> None:
        await browser.visit(app, lambda inner: inner.logout())
        session.logout()
        await session.save()

    await twin.visit(app, act)
    assert manager.stats().counts.dropped_changes == 0
    assert await types_of(manager, twin.session_id) == ["authenticated", "ended"]


async def test_workers_on_one_memory_store_agree() -> None:
    """Two managers in one process are two workers."""
    store = MemoryStore()
    one, two = in_memory(store), in_memory(store)
    browser = Browser()
    await browser.visit(app_of(one), lambda session: session.update(a=1))
    old = browser.twin()
    assert (await old.visit(app_of(two))).json == {"a": 1}
    await browser.visit(app_of(one), lambda session: session.login(42))
    assert (await old.visit(app_of(two))).json == {}
    assert (await browser.visit(app_of(two))).json == {"a": 1}
