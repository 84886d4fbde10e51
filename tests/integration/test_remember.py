"""`login(remember=…)`: a session and a cookie that outlive the browser, and not the time that was asked for."""

from __future__ import annotations

from datetime import timedelta

import pytest

from evsession import CookiePolicy, Session, SessionManager, SessionPolicy
from evsession.session import LONGEST_REMEMBERED
from tests.integration.apps import Browser, Clock, app_of, in_memory, two_workers
from tests.servers import Server

POLICY = SessionPolicy(idle_timeout=timedelta(minutes=30), absolute_timeout=timedelta(hours=12))
MONTH = timedelta(days=30)
SECONDS = 30 * 86_400


@pytest.fixture
def manager(clock: Clock) -> SessionManager:
    return in_memory(clock=clock, policy=POLICY)


async def remembered(manager: SessionManager, remember: timedelta = MONTH) -> Browser:
    """Return a browser whose user asked to be remembered."""
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.login(42, remember=remember))
    return browser


async def test_who_is_remembered_need_not_come_by(manager: SessionManager, clock: Clock) -> None:
    """Neither the idle timeout nor the policy's absolute one ends the session; the time asked for does."""
    browser = await remembered(manager)
    clock.advance(minutes=60 * 24 * 30 - 1)
    assert await manager.sweep() == 0
    assert (await browser.visit(app_of(manager), lambda session: session.info.user_id)).json == "42"
    clock.advance(minutes=2)
    assert (await browser.visit(app_of(manager), lambda session: session.info.user_id)).json is None
    assert (await manager.audit.history(browser.session_id))[-1].cause == "absolute"


async def test_the_cookie_is_kept_for_as_long(manager: SessionManager) -> None:
    """By every answer that sets it, or the browser would forget it with the next write."""
    browser = Browser()
    for act in (
        lambda session: session.login(42, remember=MONTH),
        lambda session: session.update(cart=["tea"]),
        Session.rotate,
    ):
        answer = await browser.visit(app_of(manager), act)
        assert f"; Max-Age={SECONDS};" in str(answer.set_cookie)


async def test_use_moves_no_deadline(manager: SessionManager, clock: Clock) -> None:
    """It was asked for at the login; what is used says when it was last seen."""
    browser = await remembered(manager)
    clock.advance(minutes=60)
    await browser.visit(app_of(manager), lambda session: session.update(cart=["tea"]))
    clock.advance(minutes=60)
    await browser.visit(app_of(manager))
    (info,) = await manager.sessions_of(42)
    assert info.created_at is not None
    assert info.expires_at == info.created_at + MONTH
    assert info.last_seen == info.created_at + timedelta(hours=2)


async def test_the_next_login_says_it_anew(manager: SessionManager, clock: Clock) -> None:
    """Without `remember` the policy holds again, and the cookie ends with the browser."""
    browser = await remembered(manager)
    answer = await browser.visit(app_of(manager), lambda session: session.login(42))
    assert "Max-Age" not in str(answer.set_cookie)
    clock.advance(minutes=31)
    assert (await browser.visit(app_of(manager), lambda session: session.info.user_id)).json is None
    assert (await manager.audit.history(browser.session_id))[-1].cause == "idle"


async def test_a_shorter_time_than_usual_can_be_asked_for(manager: SessionManager, clock: Clock) -> None:
    """Such as on a machine that others use."""
    browser = await remembered(manager, timedelta(minutes=10))
    for _ in range(3):
        clock.advance(minutes=3)
        assert (await browser.visit(app_of(manager), lambda session: session.info.user_id)).json == "42"
    clock.advance(minutes=2)
    assert (await browser.visit(app_of(manager), lambda session: session.info.user_id)).json is None


@pytest.mark.parametrize("remember", [timedelta(0), timedelta(days=-1), LONGEST_REMEMBERED + timedelta(seconds=1)])
async def test_what_no_browser_would_keep_raises_on_the_line_that_asks(
    manager: SessionManager, remember: timedelta
) -> None:
    """And signs nobody in."""
    browser = Browser()

    def act(session: Session) -> None:
        with pytest.raises(ValueError, match="400 days"):
            session.login(42, remember=remember)

    assert (await browser.visit(app_of(manager), act)).set_cookie is None


async def test_a_persistent_cookie_of_a_remembered_user_follows_the_login() -> None:
    """The longer of the two answers to one question."""
    manager = in_memory(cookie=CookiePolicy(persistent=True), policy=POLICY)
    answer = await Browser().visit(app_of(manager), lambda session: session.login(42, remember=MONTH))
    assert f"; Max-Age={SECONDS};" in str(answer.set_cookie)


async def test_another_user_is_remembered_from_the_first_answer_on(manager: SessionManager) -> None:
    """Also when a session of somebody else ends by it."""
    browser = await remembered(manager)
    answer = await browser.visit(app_of(manager), lambda session: session.login(43, remember=timedelta(days=1)))
    assert "; Max-Age=86400;" in str(answer.set_cookie)


async def test_the_longest_time_ever_granted_is_known_before_it_is_granted(any_server: Server) -> None:
    """What is older than that needs no revoking any more; it is raised by any worker, and lowered by none."""
    field = "longest_absolute"

    def known() -> int:
        return int(any_server.cli("HGET", "{shop:meta}", field))

    async with two_workers(any_server.url, policy=POLICY) as (one, two):
        assert known() == 12 * 3_600_000
        await remembered(one)
        assert known() == SECONDS * 1000
        await remembered(two, timedelta(days=1))
        await remembered(two, timedelta(days=31))
        assert known() == 31 * 86_400_000
    async with two_workers(any_server.url, policy=POLICY):
        assert known() == 31 * 86_400_000
