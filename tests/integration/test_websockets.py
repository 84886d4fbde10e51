"""Sessions on WebSockets: reading, committing, and whose sockets get one."""

from __future__ import annotations

import logging
from contextlib import suppress

import pytest
from starlette.websockets import WebSocket, WebSocketDisconnect

from evsession import CookiePolicy, ResponseStarted, SessionEnded, SessionManager, SessionPolicy
from tests.integration.apps import Browser, Clock, app_of, in_memory, logged, types_of


async def _begun(manager: SessionManager) -> Browser:
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.update(owner="ann", seen=[]))
    return browser


async def read(websocket: WebSocket) -> None:
    """Send the session and close."""
    await websocket.accept()
    await websocket.send_json(dict(websocket.session))
    await websocket.close()


async def test_a_socket_reads_the_session(manager: SessionManager) -> None:
    """Without a cookie and without a commit."""
    browser = await _begun(manager)
    answer = await browser.connect(app_of(manager), read)
    assert [message["type"] for message in answer.messages] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert '"owner":"ann"' in answer.messages[1]["text"]
    assert (answer.set_cookie, answer.header("vary")) == (None, None)


async def test_what_was_set_before_accept_is_committed_with_it(manager: SessionManager) -> None:
    """A new session's cookie comes with the handshake."""

    async def act(websocket: WebSocket) -> None:
        websocket.session["n"] = 1
        await websocket.accept()
        await websocket.close()

    browser = Browser()
    answer = await browser.connect(app_of(manager), act)
    assert answer.set_cookie is not None
    assert (await browser.visit(app_of(manager))).json == {"n": 1}


async def test_a_login_before_accept_rotates(manager: SessionManager) -> None:
    """As with any response."""

    async def act(websocket: WebSocket) -> None:
        websocket.session.login(42)  # type: ignore[attr-defined]
        await websocket.accept()
        with pytest.raises(ResponseStarted):
            websocket.session.login(42)  # type: ignore[attr-defined]
        await websocket.close()

    browser = await _begun(manager)
    old = browser.twin()
    await browser.connect(app_of(manager), act)
    assert (await browser.visit(app_of(manager))).json["owner"] == "ann"
    assert (await old.visit(app_of(manager))).json == {}


async def test_save_commits_while_the_socket_is_open(manager: SessionManager) -> None:
    """One event for each."""

    async def act(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            websocket.session["seen"].append(text)
            await websocket.session.save()  # type: ignore[attr-defined]

    browser = await _begun(manager)
    await browser.connect(app_of(manager), act, "a", "b")
    history = await manager.audit.history(browser.session_id)
    assert [event.set["seen"] for event in history] == [[], ["a"], ["a", "b"]]


async def test_what_is_left_is_committed_at_the_close(manager: SessionManager) -> None:
    """Whoever closes."""

    async def act(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            websocket.session["seen"].append(text)

    browser = await _begun(manager)
    await browser.connect(app_of(manager), act, "a", "b")
    assert (await browser.visit(app_of(manager))).json["seen"] == ["a", "b"]


async def test_a_client_that_goes_away_costs_no_changes(manager: SessionManager) -> None:
    """A handler that waits for texts for ever is not one that failed: its disconnect is the socket's close."""

    async def act(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            websocket.session["seen"].append(await websocket.receive_text())

    browser = await _begun(manager)
    with suppress(WebSocketDisconnect):
        await browser.connect(app_of(manager), act, "a", "b")
    assert (await browser.visit(app_of(manager))).json["seen"] == ["a", "b"]


async def test_an_error_discards_what_was_not_saved(manager: SessionManager) -> None:
    """As in any handler."""

    async def act(websocket: WebSocket) -> None:
        await websocket.accept()
        websocket.session["n"] = 1
        await websocket.session.save()  # type: ignore[attr-defined]
        websocket.session["n"] = 2
        raise ZeroDivisionError

    browser = await _begun(manager)
    with pytest.raises(ZeroDivisionError):
        await browser.connect(app_of(manager), act)
    assert (await browser.visit(app_of(manager))).json["n"] == 1


async def test_a_socket_learns_that_its_session_ended(manager: SessionManager) -> None:
    """At `save`; and nothing it does brings the session back."""

    async def act(websocket: WebSocket) -> None:
        await websocket.accept()
        await manager.revoke(browser.session_id)
        websocket.session["late"] = 1
        with pytest.raises(SessionEnded, match="revoked"):
            await websocket.session.save()  # type: ignore[attr-defined]
        websocket.session["later"] = 1

    browser = await _begun(manager)
    await browser.connect(app_of(manager), act)
    assert await types_of(manager, browser.session_id) == ["created", "ended"]


async def test_a_new_session_after_accept_is_dropped_with_a_warning(
    manager: SessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no other way to hand out its cookie."""

    async def act(websocket: WebSocket) -> None:
        await websocket.accept()
        websocket.session["n"] = 1

    await Browser().connect(app_of(manager), act)
    (record,) = logged(caplog, logging.WARNING)
    assert '["n"]' in record.getMessage()


async def test_a_socket_that_was_never_accepted_begins_no_session(
    manager: SessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody could ever open it."""

    async def act(websocket: WebSocket) -> None:
        websocket.session["n"] = 1
        await websocket.close()

    await Browser().connect(app_of(manager), act)
    assert manager.stats().counts.created == 0
    assert '["n"]' in caplog.text


async def test_a_commit_that_fails_at_accept_closes_the_socket() -> None:
    """With "try again later", and nothing of what the handler sends goes out after that."""
    manager = in_memory(clock=Clock(), policy=SessionPolicy(anonymous_per_second=1))

    async def act(websocket: WebSocket) -> None:
        websocket.session["n"] = 1
        await websocket.accept()
        await websocket.send_text("hello")

    app = app_of(manager)
    await Browser().connect(app, act)
    answer = await Browser().connect(app, act)
    assert [(message["type"], message.get("code")) for message in answer.messages] == [("websocket.close", 1013)]


# ── origins ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("origin", "is_served"),
    [
        (None, True),
        (b"https://shop.example", True),
        (b"https://shop.example:443", True),
        (b"https://partner.example", True),
        (b"https://shop.example:8443", False),
        (b"http://shop.example", False),
        (b"https://evil.example", False),
        (b"https://shop.example.evil.example", False),
        (b"https://evil.example/https://shop.example", False),
        (b"null", False),
        (b"", False),
        (b"\xff\xfe", False),
    ],
)
async def test_only_our_own_pages_get_the_session(
    origin: bytes | None, is_served: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Browsers send cookies with any page's handshake; programs send no origin, and those listed are ours too."""
    manager = in_memory(allowed_origins=["https://partner.example"])
    browser = await _begun(manager)
    headers = [] if origin is None else [(b"origin", origin)]
    answer = await browser.connect(app_of(manager), read, headers=headers)
    assert ("ann" in answer.messages[1]["text"]) == is_served
    assert bool(logged(caplog)) != is_served
    assert answer.set_cookie is None


async def test_plain_sockets_on_localhost_work() -> None:
    """ws from an http page is the same origin."""
    manager = in_memory(cookie=CookiePolicy.for_localhost())
    browser = Browser(cookie="session", scheme="http", host="localhost:8000")
    await browser.visit(app_of(manager), lambda session: session.update(owner="ann"))
    answer = await browser.connect(app_of(manager), read, headers=[(b"origin", b"http://localhost:8000")])
    assert "ann" in answer.messages[1]["text"]
