"""Changes made while a body streams or in a background task, and limits of what can still be done then."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable

import pytest
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, Response, StreamingResponse

from evsession import CodecError, ResponseStarted, Session, SessionManager
from tests.integration.apps import Act, Browser, app_of, logged, types_of


def streaming(act: Act) -> Act:
    """Return a handler that streams, and does something between two chunks."""

    def handler(session: Session) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"one "
            act(session)
            yield b"two"

        return StreamingResponse(body())

    return handler


def in_background(act: Act) -> Act:
    """Return a handler that answers, and does something afterwards."""

    def handler(session: Session) -> Response:
        return JSONResponse("done", background=BackgroundTask(act, session))

    return handler


LATER = pytest.mark.parametrize("later", [streaming, in_background])
Later = Callable[[Act], Act]


@LATER
async def test_late_changes_are_committed_at_the_end(manager: SessionManager, later: Later) -> None:
    """One event for what was set before the response, one for what was set after it."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"]))

    def act(session: Session) -> Response:
        session["early"] = 1
        response: Response = later(lambda inner: inner["cart"].append("milk") or inner.update(late=1))(session)
        return response

    answer = await browser.visit(app, act)
    assert answer.body in (b"one two", b'"done"')
    assert (await browser.visit(app)).json == {"cart": ["tea", "milk"], "early": 1, "late": 1}
    assert [event.set for event in await manager.audit.history(browser.session_id)] == [
        {"cart": ["tea"]},
        {"early": 1},
        {"cart": ["tea", "milk"], "late": 1},
    ]


@LATER
async def test_a_late_edit_in_place_is_seen(manager: SessionManager, later: Later) -> None:
    """By a session of which nothing else changed."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"]))
    await browser.visit(app, later(lambda session: session["cart"].append("milk")))
    assert (await browser.visit(app)).json == {"cart": ["tea", "milk"]}


@LATER
async def test_a_late_logout_ends_the_session(manager: SessionManager, later: Later) -> None:
    """Without a word to the browser, whose cookie is dead from then on."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42) or session.update(a=1))
    await browser.visit(app, later(lambda session: session.logout()))
    assert (await browser.visit(app)).json == {}
    assert await types_of(manager, browser.session_id) == ["authenticated", "ended"]


@LATER
async def test_a_late_login_raises_where_it_is_called(manager: SessionManager, later: Later) -> None:
    """The cookie that it needs cannot be set; so does a rotation, and nothing changes."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(a=1))

    def act(session: Session) -> None:
        with pytest.raises(ResponseStarted, match="login"):
            session.login(42)
        with pytest.raises(ResponseStarted, match="rotate"):
            session.rotate()

    await browser.visit(app, later(act))
    assert (await browser.visit(app)).json == {"a": 1}
    assert await types_of(manager, browser.session_id) == ["created"]


@LATER
@pytest.mark.parametrize(
    ("before", "act"),
    [
        ({}, lambda s: s.update(pin="1234")),
        ({}, lambda s: s.update(pin="1234", user_id=42)),
        ({"a": 1}, lambda s: s.update(pin="1234", user_id=42)),
    ],
)
async def test_a_late_beginning_is_dropped_with_a_warning(
    manager: SessionManager, later: Later, before: dict[str, int], act: Act, caplog: pytest.LogCaptureFixture
) -> None:
    """A new session, or a user that the data name: the response goes out whole, and no value reaches the log."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(before))
    answer = await browser.visit(app, later(act))
    assert (answer.status, answer.body in (b"one two", b'"done"'), answer.set_cookie) == (200, True, None)
    (record,) = logged(caplog, logging.WARNING)
    assert '"pin"' in record.getMessage()
    assert "1234" not in caplog.text
    assert manager.stats().counts.dropped_changes == 1
    assert (await browser.visit(app)).json == before


@LATER
async def test_a_late_value_that_json_has_not_is_raised_to_the_server(manager: SessionManager, later: Later) -> None:
    """The response is out, whole; the developer still gets to see it."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(a=1))
    answer = await browser.visit(app, later(lambda session: session.update(bad=[object()])), fails=CodecError)
    assert (answer.status, answer.body[-3:] in (b"two", b'ne"')) == (200, True)
    assert (await browser.visit(app)).json == {"a": 1}


async def test_an_error_in_the_middle_of_a_stream_discards_what_was_set_since(manager: SessionManager) -> None:
    """What was committed with the response stays."""
    app, browser = app_of(manager), Browser()

    def act(session: Session) -> Response:
        session["early"] = 1
        response: Response = streaming(lambda inner: inner.update(late=1) or 1 / 0)(session)
        return response

    await browser.visit(app, act, fails=ZeroDivisionError)
    assert (await browser.visit(app)).json == {"early": 1}


async def test_save_works_in_streams_and_background_tasks(manager: SessionManager) -> None:
    """Each chunk may be an event; what needs a cookie raises."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=0))

    def act(session: Session) -> Response:
        async def body() -> AsyncIterator[bytes]:
            for number in (1, 2):
                session["n"] = number
                await session.save()
                yield b"."

        async def after() -> None:
            session["n"] = 3
            await session.save()

        return StreamingResponse(body(), background=BackgroundTask(after))

    await browser.visit(app, act)
    assert [event.set["n"] for event in await manager.audit.history(browser.session_id)] == [0, 1, 2, 3]


async def test_save_of_a_new_session_is_refused_in_a_stream(manager: SessionManager) -> None:
    """The handler hears of it."""

    def act(session: Session) -> Response:
        async def body() -> AsyncIterator[bytes]:
            session["n"] = 1
            with pytest.raises(ResponseStarted):
                await session.save()
            session.pop("n")
            yield b"."

        return StreamingResponse(body())

    answer = await Browser().visit(app_of(manager), act)
    assert (answer.status, answer.set_cookie) == (200, None)


async def test_after_a_late_logout_nothing_new_can_begin(
    manager: SessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    """The end counts; what was set after it is dropped with a warning."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42))
    await browser.visit(app, streaming(lambda session: session.logout() or session.update(flash="bye")))
    assert await types_of(manager, browser.session_id) == ["authenticated", "ended"]
    assert '["flash"]' in caplog.text


async def test_a_request_that_was_refused_is_not_half_carried_out(manager: SessionManager) -> None:
    """After a commit that failed and was answered with 503, what its background task sets is dropped too."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))

    async def act(session: Session) -> Response:
        await manager.revoke(session)
        session.login(42)
        return JSONResponse("done", background=BackgroundTask(lambda: session.update(late=1)))

    assert (await browser.visit(app, act)).status == 503
    assert manager.stats().counts.created == 1
    assert manager.stats().counts.dropped_changes == 2
