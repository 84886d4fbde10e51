"""The line that the logger `evsession.request` writes for each request: what became of its session, and no value."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from evsession import Session, SessionManager, SessionMiddleware, SessionPolicy
from evsession.errors import EvsessionError
from tests.integration.apps import Act, Browser, app_of, in_memory, logged

Line = tuple[str, int, str, str, str]
"""Source, version, outcome, the keys that were changed, the keys that are there."""

FORM = re.compile(r"session=(\S+) source=(\S+) version=(\d+) outcome=(\S+) changed=(\[.*?\]) keys=(\[.*\])")


class Log:
    """What was logged since it was last asked."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, logger="evsession.request")
        self._caplog = caplog

    def lines(self) -> list[str]:
        """Return the lines at DEBUG, and forget them."""
        found = [r.getMessage() for r in logged(self._caplog) if r.levelno == logging.DEBUG]
        self._caplog.clear()
        return found

    def line(self) -> Line:
        """Return the parts of the one line of the one request that there was."""
        (found,) = (match for line in self.lines() if (match := FORM.fullmatch(line)))
        _, source, version, outcome, changed, keys = found.groups()
        return source, int(version), outcome, changed, keys


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


async def test_a_line_names_its_session(manager: SessionManager, log: Log) -> None:
    """By its id, with which its history is found; neither a value nor the token is in it."""
    app, browser = app_of(manager), Browser()
    await manager.start()
    await browser.visit(app, lambda session: session.update(pin="1234"))
    (line,) = log.lines()
    assert line == f'session={browser.session_id} source=none version=1 outcome=created changed=["pin"] keys=["pin"]'
    assert str(browser.token)[25:] not in line


async def nothing(_: Session) -> None:
    """Look at the session, no more."""


async def with_other(session: Session) -> None:
    """Have another request change another key before this one commits its own."""
    assert session._binding is not None
    manager: SessionManager = session._binding.manager  # type: ignore[attr-defined]
    await manager.update(str(session.info.id), lambda data: data.update(other=1))
    session["n"] = 2


async def after_revocation(session: Session) -> None:
    """Change what is over by then."""
    assert session._binding is not None
    await session._binding.manager.revoke(session)  # type: ignore[attr-defined]
    session["n"] = 2


async def saves_twice(session: Session) -> None:
    """Commit two changes, one after the other."""
    session["n"] = 2
    await session.save()
    session["m"] = 3


def raises(session: Session) -> Response:
    """Change something, and raise what nobody handles."""
    session["n"] = 2
    raise ZeroDivisionError


def logs_out_and_raises(session: Session) -> Response:
    """Sign out, which survives what is raised."""
    session.logout()
    raise ZeroDivisionError


def anew(session: Session) -> None:
    """End the session, and begin another."""
    session.clear()
    session["fresh"] = 1


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (nothing, ("memory", 1, "read", "[]", '["n"]')),
        (lambda s: s.update(n=1), ("memory", 1, "unchanged", "[]", '["n"]')),
        (lambda s: s.update(n=2), ("memory", 2, "committed", '["n"]', '["n"]')),
        (lambda s: s.login(42), ("memory", 2, "committed", "[]", '["n"]')),
        (saves_twice, ("memory", 3, "committed", '["n", "m"]', '["n", "m"]')),
        (with_other, ("memory", 3, "merged", '["n"]', '["n", "other"]')),
        (lambda s: s.logout(), ("memory", 1, "ended", "[]", "[]")),
        (anew, ("memory", 1, "replaced", '["fresh"]', '["fresh"]')),
        (after_revocation, ("memory", 1, "dropped", "[]", "[]")),
        (raises, ("memory", 1, "rolled_back", "[]", '["n"]')),
        (logs_out_and_raises, ("memory", 1, "ended", "[]", "[]")),
    ],
)
async def test_the_outcome_of_a_request(manager: SessionManager, log: Log, act: Act, expected: Line) -> None:
    """The session was `{"n": 1}` at version 1 when the request came; the version is that after it."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))
    log.lines()
    fails: Any = ZeroDivisionError if act in (raises, logs_out_and_raises) else None
    await browser.visit(app, act, fails=fails)
    source, version, outcome, changed, keys = log.line()
    assert (source, version, outcome, changed) == expected[:4]
    assert keys == expected[4] or raises is act  # what is rolled back is still in the handler's dict


async def test_what_is_kept_after_an_error_is_committed(log: Log) -> None:
    """Where the policy says so."""
    app, browser = app_of(in_memory(policy=SessionPolicy(keep_on_error=True))), Browser()
    await browser.visit(app, raises, fails=ZeroDivisionError)
    assert log.line()[2:4] == ("dropped", "[]")  # a new session needs a cookie, which a 500 has not
    await browser.visit(app, lambda session: session.update(n=1))
    log.lines()
    await browser.visit(app, raises, fails=ZeroDivisionError)
    assert log.line()[1:4] == (2, "committed", '["n"]')


async def test_what_the_application_answers_for_a_failed_commit_was_dropped(manager: SessionManager, log: Log) -> None:
    """It cannot be stored, and `on_error` tells the client so."""

    def on_error(_: HTTPConnection, error: EvsessionError) -> Response:
        return PlainTextResponse(str(error), 413)

    app = app_of(in_memory(policy=SessionPolicy(max_bytes=1_000)), on_error=on_error)
    assert (await Browser().visit(app, lambda session: session.update(n="x" * 2_000))).status == 413
    assert log.line()[2:4] == ("dropped", "[]")


async def test_a_change_in_a_background_task_is_in_the_line_of_its_request(manager: SessionManager, log: Log) -> None:
    """The line comes when all is done."""
    app, browser = app_of(manager), Browser()

    def act(session: Session) -> Response:
        session["n"] = 1
        return JSONResponse(None, background=BackgroundTask(session.update, late=1))

    await browser.visit(app, act)
    assert log.line()[1:4] == (2, "committed", '["n", "late"]')


async def test_a_dead_token(manager: SessionManager, log: Log) -> None:
    """The session is named, though nothing of it is served."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))
    old = browser.twin()
    await browser.visit(app, lambda session: session.logout())
    log.lines()
    await old.visit(app)
    (line,) = log.lines()
    assert line.startswith(f"session={old.session_id} source=")
    assert line.endswith("outcome=dead changed=[] keys=[]")


async def test_a_visitor_without_a_session(manager: SessionManager, log: Log) -> None:
    """Nothing is known of them, and nothing happened."""
    await Browser().visit(app_of(manager))
    assert log.lines()[-1] == "session=None source=none version=0 outcome=read changed=[] keys=[]"


async def test_a_session_that_nobody_asks_for(manager: SessionManager, log: Log) -> None:
    """The handler never looked at it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("hello")(scope, receive, send)

    await Browser().visit(SessionMiddleware(app, manager))
    assert log.line()[2] == "untouched"


async def test_a_socket_has_its_line_when_it_is_closed(manager: SessionManager, log: Log) -> None:
    """With what it has committed meanwhile."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))
    log.lines()

    async def act(websocket: WebSocket) -> None:
        await websocket.accept()
        session: Session = websocket.scope["session"]
        session["n"] = 2
        await session.save()
        await websocket.close()

    await browser.connect(app, act)
    assert log.line() == ("memory", 2, "committed", '["n"]', '["n"]')


async def test_a_key_cannot_forge_a_line(manager: SessionManager, log: Log) -> None:
    """Whatever it holds, the line stays one line of printable ASCII."""
    await Browser().visit(app_of(manager), lambda session: session.update({"\r\nERROR \x1b[31m\u2028": 1}))
    line = log.lines()[-1]
    assert line.isascii()
    assert line.isprintable()


async def test_other_levels_cost_nothing(manager: SessionManager, caplog: pytest.LogCaptureFixture) -> None:
    """No line is made that nobody reads."""
    caplog.set_level(logging.INFO, logger="evsession.request")
    await Browser().visit(app_of(manager), lambda session: session.update(n=1))
    assert not logged(caplog)
