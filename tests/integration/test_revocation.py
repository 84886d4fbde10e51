"""Forced logout: everywhere, whatever is under way, with a receipt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import anyio
import pytest

from evsession import Actor, CachePolicy, Session, SessionManager
from evsession.errors import InvalidUserId, ResponseStarted, SessionDetached, SessionEnded
from evsession.revocation import Receipt
from evsession.stores.redis import RedisStore
from tests.conftest import until
from tests.integration.apps import KEY, Browser, Clock, app_of, setting
from tests.servers import Server

QUICK: Final = CachePolicy(max_staleness=timedelta(milliseconds=300))
AT_ONCE: Final = timedelta(0)
PATIENT: Final = timedelta(seconds=20)


@asynccontextmanager
async def workers(url: str, count: int = 2, cache: CachePolicy = QUICK) -> AsyncIterator[list[SessionManager]]:
    """Start workers in one process."""
    async with AsyncExitStack() as stack:
        managers = [SessionManager.from_url(url, secret_key=KEY, cache=cache) for _ in range(count)]
        for manager in managers:
            await stack.enter_async_context(manager)
        yield managers


async def signed_in(manager: SessionManager, user: object = 42, **names: str) -> Browser:
    """Sign in from a new browser."""
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.login(user, names=names))
    return browser


async def user_seen(browser: Browser, manager: SessionManager) -> Any:
    """Return the user as whom a request is served."""
    return (await browser.visit(app_of(manager), lambda session: session.info.user_id)).json


async def test_a_user_is_signed_out_everywhere(server: Server) -> None:
    """On every worker, from memory too, and nobody else; the receipt names both workers."""
    async with workers(server.url) as (one, two):
        phone, laptop, other = await signed_in(one), await signed_in(two), await signed_in(one, 43)
        for manager in (one, two):
            assert [await user_seen(browser, manager) for browser in (phone, laptop, other)] == ["42", "42", "43"]
        receipt = await one.revoke_user(42, reason="lost phone", actor=Actor.admin("joe"), timeout=PATIENT)
        assert (receipt.complete, receipt.pending) == (True, ())
        assert sorted(receipt.confirmed + receipt.fenced) == sorted((one.worker.id, two.worker.id))
        for manager in (one, two):
            assert [await user_seen(browser, manager) for browser in (phone, laptop, other)] == [None, None, "43"]
        assert await user_seen(await signed_in(two), one) == "42"


async def test_the_end_stands_in_the_log_of_whoever_was_met(server: Server) -> None:
    """With the reason and the actor of the revocation, once however many workers met it."""
    async with workers(server.url) as (one, two):
        phone = await signed_in(one)
        receipt = await one.revoke_user(42, reason="lost phone", actor=Actor.admin("joe"), timeout=PATIENT)
        for manager in (one, two, one):
            await user_seen(phone, manager)
        history = await one.audit.history(phone.session_id)
        while history[-1].type != "ended":
            await anyio.sleep(0.01)
            history = await one.audit.history(phone.session_id)
        ended = history[-1]
        assert (ended.cause, ended.reason, ended.actor) == ("revoked", "lost phone", Actor.admin("joe"))
        assert [event.type for event in history].count("ended") == 1
        assert receipt.id in repr(ended.event)


async def test_the_ends_of_sessions_that_nobody_meets_are_written_too(server: Server) -> None:
    """By the worker that revoked their user, from the user's index; what lives is left alone."""
    async with workers(server.url) as (one, two):
        browsers = [await signed_in(two) for _ in range(5)]
        await one.revoke_user(42, reason="lost phone", timeout=AT_ONCE)
        other = await signed_in(two)

        async def all_have_ended() -> bool:
            last = [(await two.audit.history(browser.session_id))[-1] for browser in browsers]
            return all((event.cause, event.reason) == ("revoked", "lost phone") for event in last)

        await until(all_have_ended, "the sweeper has written all ends")
        assert [info.id for info in await two.sessions_of(42)] == [other.session_id]


async def test_a_receipt_reads_as_a_sentence() -> None:
    """Who knows, who cannot serve any more, who may."""
    some = Receipt(id="1-0", complete=True, confirmed=("a", "b"), elapsed=timedelta(microseconds=3210))
    assert str(some) == "2 of 2 workers in 3.2 ms"
    late = Receipt(id="1-0", complete=False, confirmed=("a",), pending=("c", "d"), elapsed=timedelta(seconds=2.04))
    assert str(late) == "1 of 3 workers in 2.0 s; pending: c, d"
    fenced = Receipt(id="1-0", complete=True, confirmed=("a",), fenced=("b",), elapsed=timedelta(seconds=2.1))
    assert str(fenced) == "2 of 2 workers in 2.1 s; 1 of them fenced"
    assert str(Receipt(id="1-0", complete=False)) == "0 of 0 workers in 0.0 ms; not proved yet"


async def test_nobody_waits_who_does_not_want_to(server: Server) -> None:
    """The entry stands, and is in force here at once."""
    async with workers(server.url) as (one, two):
        phone = await signed_in(two)
        receipt = await one.revoke_user("42", timeout=AT_ONCE)
        assert (receipt.complete, bool(receipt.id)) == (False, True)
        assert await user_seen(phone, one) is None


@pytest.mark.parametrize("stored", [42, "42"])
async def test_an_id_is_the_text_of_whatever_it_is(server: Server, stored: object) -> None:
    """The int 42 of the application is the text "42" of the command line."""
    async with workers(server.url, 1) as (one,):
        phone = await signed_in(one, stored)
        await one.revoke_user("42", timeout=AT_ONCE)
        assert await user_seen(phone, one) is None


async def test_sessions_are_revoked_by_any_of_their_names(server: Server) -> None:
    """A tenant, or everyone: then anonymous sessions too."""
    async with workers(server.url, 1) as (one,):
        acme, other, nobody = await signed_in(one, 1, tenant="acme"), await signed_in(one, 2, tenant="x"), Browser()
        await nobody.visit(app_of(one), setting(a=1))
        await one.revoke_named("tenant", "acme", timeout=AT_ONCE)
        assert [await user_seen(browser, one) for browser in (acme, other)] == [None, "2"]
        await one.revoke_everyone(timeout=AT_ONCE)
        assert await user_seen(other, one) is None
        assert (await nobody.visit(app_of(one), dict)).json == {}


@pytest.mark.parametrize(("kind", "value"), [("user", "1"), ("everyone", "x"), ("", "x"), ("a:b", "x"), ("a", "")])
async def test_what_is_no_name_is_refused(server: Server, kind: str, value: str) -> None:
    """Nothing is written."""
    async with workers(server.url, 1) as (one,):
        with pytest.raises(ValueError, match="use revoke_user"):
            await one.revoke_named(kind, value)
        with pytest.raises(InvalidUserId):
            await one.revoke_user("")
        assert one.worker.revoker.revoked == 0


async def test_a_login_under_way_dies_with_the_rest(server: Server) -> None:
    """Its request began before the revocation, whatever it did since: it is told so, and gets no cookie."""
    async with workers(server.url) as (one, two):
        checking, revoked = anyio.Event(), anyio.Event()

        async def check_password(session: Session) -> None:
            checking.set()
            await revoked.wait()
            session.login(42)

        browser = Browser()
        async with anyio.create_task_group() as group:

            async def visit() -> None:
                answer = await browser.visit(app_of(two), check_password)
                assert (answer.status, answer.set_cookie, answer.header("retry-after")) == (503, None, "1")

            group.start_soon(visit)
            await checking.wait()
            await one.revoke_user(42, timeout=PATIENT)
            revoked.set()
        assert browser.token is None
        assert await user_seen(await signed_in(two), one) == "42"


async def test_a_login_that_its_worker_thought_good_is_dead_elsewhere(server: Server) -> None:
    """Its worker had not heard of the revocation, so nobody told it; the position in the session does."""
    async with workers(server.url) as (one, two):

        async def sign_in(session: Session) -> None:
            await one.revoke_user(42, timeout=AT_ONCE)
            two.worker.cache.control._names.clear()  # as if its messages were late
            session.login(42)

        browser = Browser()
        await browser.visit(app_of(two), sign_in)
        assert await user_seen(browser, one) is None


async def test_who_resets_a_password_stays_signed_in(server: Server) -> None:
    """What a request revokes itself counts as known when it signs in: with its own session or without."""
    async with workers(server.url) as (one, two):

        async def reset(session: Session) -> None:
            await one.revoke_user(42, timeout=AT_ONCE)
            session.login(42)

        phone, laptop = await signed_in(one), await signed_in(two)
        for browser in (phone, Browser()):
            old = browser.twin()
            answer = await browser.visit(app_of(one), reset)
            assert (answer.status, answer.set_cookie is not None) == (200, True)
            for manager in (one, two):
                assert await user_seen(browser.twin(), manager) == "42"
                assert [await user_seen(gone.twin(), manager) for gone in (old, laptop)] == [None, None]


async def test_a_reset_does_not_outlive_what_somebody_else_revokes_meanwhile(server: Server) -> None:
    """Only what the request revoked itself counts as known."""
    async with workers(server.url) as (one, two):

        async def reset(session: Session) -> None:
            await two.revoke_user(42, timeout=AT_ONCE)
            await one.revoke_user(42, timeout=AT_ONCE)
            session.login(42)

        assert (await Browser().visit(app_of(one), reset)).status == 503

        async def reset_first(session: Session) -> None:
            await one.revoke_user(42, timeout=AT_ONCE)
            session.login(42)
            await two.revoke_named("tenant", "acme", timeout=AT_ONCE)
            await two.revoke_user(42, timeout=AT_ONCE)

        browser = Browser()
        await browser.visit(app_of(one), reset_first)
        assert await user_seen(browser, two) is None


async def test_the_session_that_is_kept_lives_on_with_a_new_token(server: Server) -> None:
    """Its old token is dead, and so is a copy of its cookie, on every worker."""
    async with workers(server.url) as (one, two):
        phone, laptop = await signed_in(one), await signed_in(two)
        old = phone.twin()

        async def sign_out_others(session: Session) -> str:
            return str((await one.revoke_user(42, keep=session, timeout=PATIENT)).complete)

        answer = await phone.visit(app_of(one), sign_out_others)
        assert (answer.json, phone.token != old.token) == ("True", True)
        for manager in (two, one):
            assert await user_seen(phone.twin(), manager) == "42"
            assert [await user_seen(gone.twin(), manager) for gone in (old, laptop)] == [None, None]


async def test_only_the_live_session_of_this_request_can_be_kept(server: Server) -> None:
    """Nothing is revoked otherwise."""
    async with workers(server.url, 1) as (one,):
        phone = await signed_in(one)
        sessions: list[Session] = []

        async def keep_new(session: Session) -> None:
            sessions.append(session)
            with pytest.raises(SessionDetached):
                await one.revoke_user(42, keep=session)

        await Browser().visit(app_of(one), keep_new)
        with pytest.raises(SessionDetached):
            await one.revoke_user(42, keep=sessions[0])
        gone = phone.twin()
        await phone.visit(app_of(one), lambda session: session.rotate())

        async def keep_dead(session: Session) -> None:
            with pytest.raises(SessionEnded):
                await one.revoke_user(42, keep=session)

        await gone.visit(app_of(one), keep_dead)

        async def keep_late(websocket: Any) -> None:
            await websocket.accept()
            with pytest.raises(ResponseStarted):
                await one.revoke_user(42, keep=websocket.session)

        await phone.connect(app_of(one), keep_late)
        assert (one.worker.revoker.revoked, await user_seen(phone, one)) == (0, "42")


async def test_a_user_of_many_sessions_costs_as_much_as_one_of_a_single_one(server: Server) -> None:
    """Counted in commands, those aside that the worker sends for itself meanwhile: the least of some tries."""
    async with workers(server.url, 1, CachePolicy()) as (one,):
        costs: dict[int, list[int]] = {1: [], 20: []}
        for _ in range(5):
            for sessions, seen in costs.items():
                for _ in range(sessions):
                    await one.create(user_id=sessions)
                await one.prove()
                before = one.worker.store.calls  # type: ignore[attr-defined]
                await one.revoke_user(sessions, timeout=AT_ONCE)
                seen.append(one.worker.store.calls - before)  # type: ignore[attr-defined]
        assert min(costs[1]) == min(costs[20]) <= 2


async def test_a_worker_that_starts_knows_what_was_revoked(server: Server) -> None:
    """Before it serves anything; a healthy one has read it."""
    async with workers(server.url, 1) as (one,):
        phone = await signed_in(one)
        await one.revoke_user(42, timeout=AT_ONCE)
        async with workers(server.url, 1) as (two,):
            assert (await two.health()).ready
            assert two.worker.control.position == one.worker.control.position
            assert await user_seen(phone, two) is None
            assert await user_seen(await signed_in(two), one) == "42"


async def test_a_worker_that_stops_leaves_no_record(server: Server) -> None:
    """Nobody waits for it."""
    async with workers(server.url, 1) as (one,):
        async with workers(server.url, 1) as (two,):
            gone = two.worker.id
            assert gone in await one.worker.store.records("ctl")
        assert gone not in await one.worker.store.records("ctl")


async def test_records_that_nobody_renews_go(server: Server, clock: Clock) -> None:
    """Those of workers that died, and what is no record of ours; whoever sweeps goes on."""
    store = RedisStore(server.url, namespace="shop")
    async with SessionManager(store, secret_key=KEY, clock=clock.local) as manager:
        left = {"dead": "0-0 0 2000", "junk": "x y z", "short": "2000"}
        for name, record in left.items():
            server.cli("HSET", "{shop:00}:workers", name, record)
        for _ in range(2):
            assert left.keys() <= (await store.records("00")).keys()
            clock.advance(minutes=2)
            await manager.worker.sweep()
        assert not left.keys() & (await store.records("00")).keys()


async def test_memory_alone_is_enough() -> None:
    """A single process has one worker, which knows at once."""
    async with SessionManager() as manager:
        phone = await signed_in(manager)
        receipt = await manager.revoke_user(42)
        assert (receipt.complete, receipt.confirmed) == (True, (manager.worker.id,))
        assert await user_seen(phone, manager) is None


async def test_what_was_revoked_long_ago_is_removed(server: Server) -> None:
    """By the sweeper, once no living session can be as old; never the last entry."""
    async with workers(server.url, 2) as (one, two):
        for user in (1, 2, 3):
            await one.revoke_user(user, timeout=AT_ONCE)
        await until(lambda: two.worker.control.position == one.worker.control.position, "both workers know")
        assert await one.worker.store.expunge(0) == 2
        for manager in (one, two):
            manager.worker._trimmed_at = float("-inf")
            await manager.sweep()
        phone = await signed_in(two, 1)
        assert [await user_seen(phone, manager) for manager in (one, two)] == ["1", "1"]
