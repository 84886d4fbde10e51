"""When a handler raises, when a commit fails, and what the application may answer then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response

from evsession import (
    CachePolicy,
    CodecError,
    Session,
    SessionEnded,
    SessionManager,
    SessionPolicy,
    SessionTooLarge,
    StorePolicy,
)
from evsession.errors import EvsessionError, SessionLimitReached, StoreUnavailable
from tests.chaos.apps import RunningClock
from tests.conftest import until
from tests.integration.apps import KEY, Act, Browser, Clock, app_of, in_memory, types_of
from tests.servers import Server, find_binaries

SOON = timedelta(seconds=1)  # less, and a busy machine is an outage
HASTY = StorePolicy(command_timeout=SOON, connect_timeout=SOON, commit_timeout=SOON, probe_every=SOON / 30)


def failing(act: Act) -> Act:
    """Return a handler that does something and raises what nobody handles."""

    def handler(session: Session) -> None:
        act(session)
        raise ZeroDivisionError

    return handler


# ── a handler that raises ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.update(n=2),
        lambda s: s["cart"].append("milk"),
        lambda s: s.pop("n"),
        lambda s: s.login(42),
        lambda s: s.update(user_id=42),
        lambda s: s.update(bad=[object()]),
    ],
)
async def test_what_was_set_before_an_unhandled_error_is_discarded(manager: SessionManager, act: Act) -> None:
    """As a database would roll back; the token stays good."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1, cart=["tea"]))
    answer = await browser.visit(app, failing(act), fails=ZeroDivisionError)
    assert (answer.status, answer.set_cookie) == (500, None)
    assert (await browser.visit(app)).json == {"n": 1, "cart": ["tea"]}
    assert await types_of(manager, browser.session_id) == ["created"]


async def test_a_new_session_is_discarded_likewise(manager: SessionManager) -> None:
    """No cookie could be set."""
    await Browser().visit(app_of(manager), failing(lambda session: session.update(n=1)), fails=ZeroDivisionError)
    assert manager.stats().counts.created == 0


async def test_what_was_set_before_an_answer_with_an_error_is_kept(manager: SessionManager) -> None:
    """An `HTTPException` is an answer, as in every peer: login attempts are counted that way."""

    def act(session: Session) -> None:
        session["attempts"] = session.get("attempts", 0) + 1
        raise HTTPException(403)

    app, browser = app_of(manager), Browser()
    assert [(await browser.visit(app, act)).status for _ in range(3)] == [403] * 3
    assert (await browser.visit(app)).json == {"attempts": 3}


@pytest.mark.parametrize("end", [lambda s: s.logout(), lambda s: s.clear(), lambda s: s.update(a=1) or s.logout()])
async def test_a_logout_survives_an_error(manager: SessionManager, end: Act) -> None:
    """Whoever pressed the button is signed out, whatever broke afterwards; what was set after it is not kept."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42) or session.update(n=1))
    sid = browser.session_id
    act = failing(lambda session: end(session) or session.update(flash="bye"))
    await browser.visit(app, act, fails=ZeroDivisionError)
    assert (await browser.visit(app)).json == {}
    assert await types_of(manager, sid) == ["authenticated", "ended"]
    assert manager.stats().counts.created == 1


async def test_a_logout_by_deleting_the_user_survives_an_error(manager: SessionManager) -> None:
    """It is how apps that never call `logout` say it."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(user_id=42, cart=["tea"]))
    sid = browser.session_id
    await browser.visit(app, failing(lambda session: session.pop("user_id")), fails=ZeroDivisionError)
    assert (await browser.visit(app)).json == {}
    assert await types_of(manager, sid) == ["authenticated", "ended"]


@pytest.mark.parametrize("more", [lambda s: None, lambda s: s.update(bad=[object()])])
async def test_a_rotation_survives_an_error(manager: SessionManager, more: Act) -> None:
    """The old token is dead: it may be known to somebody else. The data are as before."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42) or session.update(n=1))
    act = failing(lambda session: session.rotate() or session.update(n=2) or more(session))
    await browser.visit(app, act, fails=ZeroDivisionError)
    assert (await browser.visit(app)).json == {}
    (*_, last) = await manager.audit.history(browser.session_id)
    assert (last.type, last.set) == ("renewed", {})


async def test_a_login_as_another_user_does_not_survive_an_error(manager: SessionManager) -> None:
    """Neither does the end that it would have brought."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(1) or session.update(n=1))
    await browser.visit(app, failing(lambda session: session.login(2)), fails=ZeroDivisionError)
    await browser.visit(app, failing(lambda session: session.update(user_id=2)), fails=ZeroDivisionError)
    assert (await browser.visit(app)).json == {"n": 1}


async def test_keep_on_error_keeps_all_that_needs_no_cookie() -> None:
    """By policy, for apps that were written for Starlette's own sessions."""
    manager = in_memory(policy=SessionPolicy(keep_on_error=True))
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))
    await browser.visit(app, failing(lambda session: session.update(n=2)), fails=ZeroDivisionError)
    assert (await browser.visit(app)).json == {"n": 2}


async def test_keep_on_error_cannot_keep_what_needs_a_cookie(caplog: pytest.LogCaptureFixture) -> None:
    """The answer is not ours any more; the log says so."""
    manager = in_memory(policy=SessionPolicy(keep_on_error=True))
    await Browser().visit(app_of(manager), failing(lambda session: session.update(n=1)), fails=ZeroDivisionError)
    assert manager.stats().counts.created == 0
    assert "response has started" in caplog.text


# ── a commit that fails ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("act", "place"),
    [
        (lambda s: s["cart"].append(object()), "cart[1]"),
        (lambda s: s.update(cart=[{"when": {1, 2}}]), "cart[0].when"),
        (lambda s: s.update(new={"a": {"b": float("nan")}}), "new.a.b"),
        (lambda s: s.update(new=[2**70]), "new[0]"),
        (lambda s: s.update(new=["\ud800"]), "new[0]"),
        (lambda s: s.update(new={1: 2}), "new"),
    ],
)
async def test_a_value_that_json_has_not_raises_into_the_application(
    manager: SessionManager, act: Act, place: str
) -> None:
    """With its place; the developer sees a 500, and nothing is written."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"]))
    answer = await browser.visit(app, act, fails=CodecError)
    assert isinstance(answer.error, CodecError)
    assert (answer.status, answer.error.key) == (500, place)
    assert (await browser.visit(app)).json == {"cart": ["tea"]}
    assert await types_of(manager, browser.session_id) == ["created"]


async def test_a_handler_can_mend_what_save_refused(manager: SessionManager) -> None:
    """The changes are still pending, and committed once they are good."""
    browser = Browser()

    async def act(session: Session) -> None:
        session["list"] = [object()]
        with pytest.raises(CodecError):
            await session.save()
        session["list"] = []

    await browser.visit(app_of(manager), act)
    assert (await browser.visit(app_of(manager))).json == {"list": []}


async def test_a_new_session_that_is_too_large_does_not_end_the_old_one(manager: SessionManager) -> None:
    """Every limit is tested before anything is written, the end of the old session included."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(1))
    await browser.visit(app, lambda s: s.login(2) or s.update(big="x" * 70_000), fails=SessionTooLarge)
    await browser.visit(app, lambda s: s.update(user_id=2, big="x" * 70_000), fails=SessionTooLarge)
    info = await manager.get(browser.session_id)
    assert info is not None
    assert (info.user_id, info.version) == ("1", 1)


# ── on_error ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def sorry(connection: HTTPConnection, error: EvsessionError) -> Response | None:
    """Answer in the application's own words."""
    assert connection.url.path == "/"
    match error:
        case SessionTooLarge():
            return PlainTextResponse(f"too large: {error.largest_key}", 413)
        case StoreUnavailable():
            return PlainTextResponse("later", 503, {"retry-after": str(error.retry_after.seconds)})
        case SessionEnded():
            return PlainTextResponse(f"ended: {error.cause}", 401)
        case _:
            return None


async def sorry_later(connection: HTTPConnection, error: EvsessionError) -> Response | None:
    """Do the same as a coroutine."""
    return sorry(connection, error)


@pytest.mark.parametrize("on_error", [sorry, sorry_later])
async def test_the_application_answers_a_session_that_is_too_large(manager: SessionManager, on_error: Any) -> None:
    """In the place of the handler's response, of which nothing goes out; and nobody tries it again."""
    app, browser = app_of(manager, on_error=on_error), Browser()
    await browser.visit(app, lambda session: session.update(n=1))
    answer = await browser.visit(app, lambda session: session.update(big="x" * 70_000, n=2))
    assert (answer.status, answer.body, answer.set_cookie) == (413, b"too large: big", None)
    assert (await browser.visit(app)).json == {"n": 1}


async def test_what_the_application_does_not_answer_takes_its_course(manager: SessionManager) -> None:
    """None from `on_error` is no answer: the error is raised, or a 503 sent."""
    app = app_of(manager, on_error=sorry)
    answer = await Browser().visit(app, lambda session: session.update(new=[object()]), fails=CodecError)
    assert answer.status == 500
    limited = in_memory(clock=Clock(), policy=SessionPolicy(anonymous_per_second=1))
    app = app_of(limited, on_error=sorry)
    answers = [await Browser().visit(app, lambda session: session.update(n=1)) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 503, 503]


async def test_the_application_answers_a_login_over_a_session_that_ended(manager: SessionManager) -> None:
    """Nobody was signed in, and the answer sets no cookie."""
    app, browser = app_of(manager, on_error=sorry), Browser()
    await browser.visit(app, lambda session: session.update(n=1))

    async def act(session: Session) -> None:
        await manager.revoke(session)
        session.login(42)

    answer = await browser.visit(app, act)
    assert (answer.status, answer.body, answer.set_cookie) == (401, b"ended: revoked", None)


@pytest.fixture
async def mortal() -> AsyncIterator[tuple[Server, SessionManager]]:
    """A server of this test's own, and a manager on it with little patience."""
    with Server.start(find_binaries()["valkey-9.1"]) as server:
        async with SessionManager.from_url(server.url, secret_key=KEY, namespace="shop", patience=HASTY) as manager:
            yield server, manager


@pytest.mark.parametrize(("on_error", "body"), [(None, b"Service Unavailable"), (sorry, b"later")])
async def test_an_outage_at_the_commit(
    mortal: tuple[Server, SessionManager], on_error: Any, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """503 and no cookie, or what the application says; logged once with the names of the keys, and counted once."""
    server, manager = mortal
    app, browser = app_of(manager, on_error=on_error), Browser()
    await browser.visit(app, lambda session: session.update(n=1))

    def act(session: Session) -> None:
        session["pin"] = "1234"
        server.pause()

    answer = await browser.visit(app, act)
    server.resume()
    assert (answer.status, answer.header("retry-after"), answer.set_cookie) == (503, "1", None)
    assert answer.body.startswith(body)
    warnings = [record.getMessage() for record in caplog.records if record.name == "evsession.request"]
    assert len(warnings) == 1
    assert '["pin"]' in warnings[0]
    assert "1234" not in caplog.text
    assert manager.stats().counts.dropped_changes == 1


async def test_a_request_that_was_refused_is_not_half_carried_out(mortal: tuple[Server, SessionManager]) -> None:
    """What its background task sets after the 503 is dropped as well, although the store is back by then."""
    server, manager = mortal
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))

    async def act(session: Session) -> Response:
        async def after() -> None:
            server.resume()
            await until_ready(manager)
            session["late"] = 1

        session["early"] = 1
        server.pause()
        return PlainTextResponse("", background=BackgroundTask(after))

    assert (await browser.visit(app, act)).status == 503
    assert "late" not in (await browser.visit(app)).json
    assert manager.stats().counts.dropped_changes == 2


async def test_save_raises_where_the_handler_can_do_something(mortal: tuple[Server, SessionManager]) -> None:
    """What it could not write is still pending, and goes out with the response if the store is back by then."""
    server, manager = mortal
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))

    async def act(session: Session) -> str:
        session["n"] = 2
        server.pause()
        with pytest.raises(StoreUnavailable):
            await session.save()
        server.resume()
        return "handled"

    assert (await browser.visit(app, act)).json == "handled"
    assert (await browser.visit(app)).json == {"n": 2}
    assert await types_of(manager, browser.session_id) == ["created", "updated"]


async def test_an_outage_that_a_handler_lets_out_is_answered_like_one_at_the_commit(
    mortal: tuple[Server, SessionManager], caplog: pytest.LogCaptureFixture
) -> None:
    """503 with Retry-After, not 500: to save early is no reason to handle outages oneself."""
    server, manager = mortal
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))

    async def act(session: Session) -> None:
        session["pin"] = "1234"
        server.pause()
        await session.save()

    answer = await browser.visit(app, act)
    server.resume()
    assert (answer.status, answer.header("retry-after"), answer.set_cookie) == (503, "1", None)
    assert 'dropped changes of keys ["pin"]' in caplog.text
    assert manager.stats().counts.dropped_changes == 1


async def test_a_handler_that_dropped_nothing_is_answered_likewise(
    mortal: tuple[Server, SessionManager], caplog: pytest.LogCaptureFixture
) -> None:
    """Revoking and revalidating need the server too; nothing is counted as lost."""
    server, manager = mortal
    app, browser = app_of(manager, on_error=sorry), Browser()
    await browser.visit(app, lambda session: session.update(n=1))

    async def act(_: Session) -> None:
        server.pause()
        await manager.revoke_user(42)

    answer = await browser.visit(app, act)
    server.resume()
    assert (answer.status, answer.body) == (503, b"later")
    assert manager.stats().counts.dropped_changes == 0
    assert "a handler could not go on" in caplog.text


async def test_a_login_that_was_revoked_meanwhile_is_answered_like_one_at_the_commit(manager: SessionManager) -> None:
    """Its own `save` raises; not handled, the client is asked to come back, and has no cookie."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))

    async def act(session: Session) -> None:
        await manager.revoke(session)
        session.login(42)
        await session.save()

    answer = await browser.visit(app, act)
    assert (answer.status, answer.header("retry-after"), answer.set_cookie) == (503, "1", None)


async def test_a_logout_survives_a_handler_that_was_stopped(manager: SessionManager) -> None:
    """As it survives any other error."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42))

    async def act(session: Session) -> None:
        session.logout()
        raise StoreUnavailable(timedelta(seconds=1), "somewhere else")

    assert (await browser.visit(app, act)).status == 503
    assert await manager.get(browser.session_id) is None


async def test_an_outage_after_the_response_has_started_is_raised_on(manager: SessionManager) -> None:
    """Nobody can be told any more: the server ends the response."""
    browser = Browser()

    async def act(_: Session) -> Response:
        async def after() -> None:
            raise StoreUnavailable(timedelta(seconds=1))

        return PlainTextResponse("", background=BackgroundTask(after))

    assert (await browser.visit(app_of(manager), act, fails=StoreUnavailable)).status == 200


async def test_a_visitor_who_counts_as_anonymous_in_an_outage_gets_no_other_cookie() -> None:
    """Not even if the store is back when the handler writes: 503, and the good cookie stays what it is."""
    lease, clock = timedelta(minutes=1), RunningClock()
    cache = CachePolicy(max_staleness=lease, on_outage="anonymous")
    with Server.start(find_binaries()["valkey-9.1"]) as server:
        async with SessionManager.from_url(
            server.url, secret_key=KEY, namespace="shop", patience=HASTY, cache=cache, clock=clock
        ) as manager:
            app, browser = app_of(manager), Browser()
            await browser.visit(app, lambda session: session.login(1) or session.update(n=1))
            server.pause()
            clock.advance(lease)

            async def act(session: Session) -> None:
                assert session == {}
                server.resume()
                await until_ready(manager)
                session["n"] = 2

            answer = await browser.visit(app, act)
            assert (answer.status, answer.set_cookie) == (503, None)
            assert (await browser.visit(app)).json == {"n": 1}


async def until_ready(manager: SessionManager) -> None:
    """Wait for the store to be back."""

    async def is_ready() -> bool:
        return (await manager.health()).ready

    await until(is_ready, "the store to be back")


async def test_an_end_is_kept_although_the_new_session_could_not_begin(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets 503 and a cleared cookie: it is signed out, and knows it."""
    manager = in_memory(clock=Clock(), policy=SessionPolicy(anonymous_per_second=1))
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(1))
    await Browser().visit(app, lambda session: session.update(n=1))
    old = browser.session_id
    answer = await browser.visit(app, lambda session: session.logout() or session.update(flash="bye"))
    assert (answer.status, browser.token) == (503, None)
    assert await types_of(manager, old) == ["authenticated", "ended"]
    assert '["flash"]' in caplog.text
    assert SessionLimitReached(1, "anonymous_per_second").args[0] in caplog.text


async def test_a_cleared_cookie_goes_out_with_the_applications_own_answer() -> None:
    """Whatever it answers, the browser learns that the session is over."""
    manager = in_memory(clock=Clock(), policy=SessionPolicy(anonymous_per_second=1))

    async def busy(connection: HTTPConnection, error: EvsessionError) -> Response:
        return PlainTextResponse("busy", 429, {"cache-control": "public"})

    app, browser = app_of(manager, on_error=busy), Browser()
    await browser.visit(app, lambda session: session.login(1))
    await Browser().visit(app, lambda session: session.update(n=1))
    answer = await browser.visit(app, lambda session: session.logout() or session.update(flash="bye"))
    assert (answer.status, browser.token, answer.header("cache-control")) == (429, None, "no-store")


async def test_a_handler_learns_that_only_the_end_was_possible() -> None:
    """After it there is no session any more, and none can begin in this request."""
    manager = in_memory(clock=Clock(), policy=SessionPolicy(anonymous_per_second=1))
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(1) or session.update(n=1))
    await Browser().visit(app, lambda session: session.update(n=1))

    async def act(session: Session) -> None:
        session.logout()
        session["flash"] = "bye"
        with pytest.raises(SessionLimitReached):
            await session.save()
        assert (dict(session), session.info.id) == ({}, None)
        with pytest.raises(SessionEnded):
            await session.revalidate()

    await browser.visit(app, act)
    assert browser.token is None


async def test_an_error_of_the_application_is_never_hidden(manager: SessionManager) -> None:
    """What the session cannot do after it stands in the log; what is raised is the application's own."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(1))

    async def act(session: Session) -> None:
        await manager.revoke(session)
        session.rotate()
        raise ZeroDivisionError

    await browser.visit(app, act, fails=ZeroDivisionError)
