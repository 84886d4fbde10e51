"""Bearer tokens: the same sessions for clients without cookies, on http and on WebSockets."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, get_args

import pytest
from starlette.types import Scope
from starlette.websockets import WebSocket

from evsession import (
    ConfigError,
    ResponseStarted,
    Session,
    SessionManager,
    SessionPolicy,
    StoreUnavailable,
    Unsupported,
)
from evsession.config import Transport
from tests.conftest import until
from tests.integration.apps import KEY, Answer, Browser, Clock, app_of, in_memory, setting, two_workers, types_of
from tests.integration.lines import echo, socket
from tests.servers import Server

BOTH: tuple[Transport, ...] = ("cookie", "bearer")


class Phone(Browser):
    """A client without cookies: keeps its token and version as it is told to."""

    version: str | None = None

    def scope(self, path: str, kind: str = "http", **more: Any) -> Scope:
        """Return the scope of a request that carries the token in its header."""
        token, self.token = self.token, None
        headers = list(more.pop("headers", ()))
        if token is not None:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        if self.version is not None:
            headers.append((b"session-version", self.version.encode()))
        scope = super().scope(path, kind, headers=headers, **more)
        self.token = token
        return scope

    def keep(self, answer: Answer) -> None:
        """Do what the answer says of the token and the version."""
        self.token = answer.header("session-token") or self.token
        self.version = answer.header("session-version") or self.version


@pytest.fixture
def manager() -> SessionManager:
    return in_memory(transports=BOTH)


async def _phone(manager: SessionManager, **data: Any) -> Phone:
    return Phone((await manager.create(user_id="ann", data=data)).token.value)


async def _read(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(dict(websocket.session))
    await websocket.close()


# ── the same session ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_transport_gives_the_same_session(manager: SessionManager) -> None:
    """Bearer and cookie, http and WebSocket: data, user and version are alike."""
    seen: list[tuple[Any, ...]] = []

    def look(session: Session) -> None:
        seen.append((dict(session), session.info.user_id, session.info.version, session.info.names))

    async def look_at_socket(websocket: WebSocket) -> None:
        await websocket.accept()
        look(websocket.scope["session"])
        await websocket.close()

    app = app_of(manager)
    phone = await _phone(manager, cart=["tea"])
    browser = Browser((await manager.create("ann", {"cart": ["tea"]}, transport="cookie")).token.value)
    for client in (phone, browser):
        await client.visit(app, look)
        await client.connect(app, look_at_socket)
    assert seen == [seen[0]] * 4
    assert seen[0][:3] == ({"cart": ["tea"]}, "ann", 1)


async def test_what_one_changes_the_other_sees(manager: SessionManager) -> None:
    """A write by header, read over a socket; no cookie is ever set for a client without cookies."""
    app, phone = app_of(manager), await _phone(manager)
    answer = await phone.visit(app, setting(n=1), method="POST")
    assert (answer.set_cookie, answer.header("session-token"), answer.header("session-version")) == (None, None, "2")
    assert '"n":1' in (await phone.connect(app, _read)).messages[1]["text"]
    assert await types_of(manager, phone.session_id) == ["authenticated", "updated"]


async def test_a_cached_read_says_nothing_but_what_it_depends_on(manager: SessionManager) -> None:
    """As with a cookie."""
    app, phone = app_of(manager), await _phone(manager)
    assert (await phone.visit(app, lambda session: session.get("n"))).messages[0]["headers"][2:] == [
        (b"vary", b"Cookie, Authorization")
    ]


@pytest.mark.parametrize(("transports", "vary"), [(("bearer",), "Authorization"), (("cookie",), "Cookie")])
async def test_vary_names_what_is_taken(transports: tuple[Transport, ...], vary: str) -> None:
    """And nothing else, as it keeps caches from working."""
    answer = await Browser().visit(app_of(in_memory(transports=transports)), lambda session: session.get("n"))
    assert answer.header("vary") == vary


# ── whose token is good ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cookie_token_is_no_bearer_token_and_the_other_way_round(manager: SessionManager) -> None:
    """The tag covers what a token is for, so neither can be passed off as the other."""
    app = app_of(manager)
    for purpose in get_args(Transport):
        token = (await manager.create("ann", {"n": 1}, transport=purpose)).token.value
        assert ((await Phone(token).visit(app)).json == {"n": 1}) == (purpose == "bearer")
        assert ((await Browser(token).visit(app)).json == {"n": 1}) == (purpose == "cookie")


async def test_each_transport_must_be_allowed() -> None:
    """By default only cookies are taken; with bearer alone, cookies are none."""
    pairs: tuple[tuple[Transport, Transport], ...] = (("cookie", "bearer"), ("bearer", "cookie"))
    for taken, other in pairs:
        manager = in_memory(transports=(taken,))
        everything = SessionManager(manager.worker.store, secret_key=KEY, transports=BOTH)
        tokens = {one: (await everything.create("ann", {"n": 1}, transport=one)).token.value for one in (taken, other)}
        clients = {"cookie": Browser, "bearer": Phone}
        assert (await clients[taken](tokens[taken]).visit(app_of(manager))).json == {"n": 1}
        assert (await clients[other](tokens[other]).visit(app_of(manager))).json == {}
        with pytest.raises(Unsupported, match="SessionManager"):
            await manager.create("ann", transport=other)


@pytest.mark.parametrize("transports", [(), ("header",), "bearer"])
def test_unknown_transports_are_refused(transports: Any) -> None:
    """When the manager is made."""
    with pytest.raises(ConfigError, match="transports="):
        SessionManager(transports=transports)


async def test_two_tokens_in_one_request_are_refused(manager: SessionManager) -> None:
    """Whichever of them is good: which one is meant cannot be known."""
    app, phone = app_of(manager), await _phone(manager)
    browser = Browser((await manager.create("joe", transport="cookie")).token.value)
    header = (b"authorization", f"Bearer {phone.token}".encode())
    answer = await browser.visit(app, headers=[header])
    assert (answer.status, answer.header("www-authenticate")) == (400, 'Bearer error="invalid_request"')
    assert b"not both" in answer.body
    assert (await browser.visit(app, headers=[(b"authorization", f"bearer {browser.token}".encode())])).status == 400
    closed = await browser.connect(app, _read, headers=[header])
    assert [message["type"] for message in closed.messages] == ["websocket.close"]
    denied = await browser.connect(app, _read, headers=[header], extensions={"websocket.http.response": {}})
    assert denied.status == 400


async def test_credentials_of_others_are_left_to_others(manager: SessionManager) -> None:
    """A JWT or Basic beside the cookie, or an empty cookie beside the token, is no second token."""
    app, phone = app_of(manager), await _phone(manager, n=1)
    browser = Browser((await manager.create("joe", {"n": 2}, transport="cookie")).token.value)
    for other in (b"Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", b"Basic YTpi", b"Bearer"):
        assert (await browser.visit(app, headers=[(b"authorization", other)])).json == {"n": 2}
    assert (await phone.visit(app, headers=[(b"cookie", b"__Host-session=; theme=dark")])).json == {"n": 1}


async def test_two_different_headers_count_as_none(manager: SessionManager, caplog: pytest.LogCaptureFixture) -> None:
    """And are logged, without the tokens."""
    phones = [await _phone(manager, n=n) for n in (1, 2)]
    header = (b"authorization", f"Bearer {phones[0].token}".encode())
    assert (await phones[1].visit(app_of(manager), headers=[header])).json == {}
    assert "two different session tokens" in caplog.text
    assert not any(str(phone.token)[25:68] in caplog.text for phone in phones)


async def test_a_foreign_origin_may_open_a_socket_with_a_token(manager: SessionManager) -> None:
    """Only cookies come without the page's doing; a token was put there by who may."""
    phone = await _phone(manager, n=1)
    answer = await phone.connect(app_of(manager), _read, headers=[(b"origin", b"https://elsewhere.example")])
    assert '"n":1' in answer.messages[1]["text"]


async def test_a_revoked_token_opens_nothing(manager: SessionManager) -> None:
    """And what is written with it is dropped."""
    phone = await _phone(manager, n=1)
    await manager.revoke(phone.session_id)
    assert (await phone.visit(app_of(manager), setting(n=2))).header("session-token") is None
    assert (await phone.visit(app_of(manager))).json == {}
    assert await types_of(manager, phone.session_id) == ["authenticated", "ended"]


async def test_an_open_socket_closes_with_its_session(manager: SessionManager) -> None:
    """As one that a cookie opened; a new token for the session closes it too, a write does not."""
    for is_revoked in (True, False):
        phone = await _phone(manager)
        async with socket(manager, phone, echo) as line:
            await line.say("hello")
            await until(lambda: line.texts == ["hello"], "the echo")
            await phone.visit(app_of(manager), setting(n=1))
            await line.say("still here")
            await until(lambda: line.texts == ["hello", "still here"], "the echo")
            if is_revoked:
                await manager.revoke(phone.session_id)
            else:
                await phone.visit(app_of(manager), lambda session: session.rotate())
            await line.over()
            assert (line.last["type"], line.last["code"]) == ("websocket.close", 4401)


# ── handing out ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_login_hands_out_the_token_in_a_header() -> None:
    """Where cookies are not taken, each new session begins so; the answer is not to be stored."""
    manager = in_memory(transports=("bearer",))
    phone = Phone()
    answer = await phone.visit(app_of(manager), lambda session: session.login("ann"))
    assert (answer.set_cookie, answer.header("cache-control"), answer.header("session-version")) == (
        None,
        "no-store",
        "1",
    )
    assert (await phone.visit(app_of(manager), lambda session: session.info.user_id)).json == "ann"


async def test_a_handler_may_put_the_token_into_its_answer(manager: SessionManager) -> None:
    """After `save`; a text made of the token hides it, its value does not. A cookie's token is nobody's to see."""

    async def sign_in(session: Session) -> Any:
        session.login("ann", transport="bearer")
        early = session.token
        await session.save()
        assert early is None
        assert session.token is not None
        assert session.token.value not in repr(session.token)
        return {"access_token": session.token.value, "token_type": "bearer"}

    async def by_cookie(session: Session) -> Any:
        session.login("ann")
        await session.save()
        return session.token

    answer = await Browser().visit(app_of(manager), sign_in)
    assert answer.set_cookie is None
    assert answer.json["access_token"] == answer.header("session-token")
    phone = Phone(answer.json["access_token"])
    assert (await phone.visit(app_of(manager), lambda session: session.info.user_id)).json == "ann"
    assert (await Browser().visit(app_of(manager), by_cookie)).json is None


async def test_without_a_token_the_first_transport_is_used() -> None:
    """And with one, that by which the request came, also after a logout in it."""
    for first, header in (("cookie", "set-cookie"), ("bearer", "session-token")):
        manager = in_memory(transports=(first, "bearer" if first == "cookie" else "cookie"))
        answer = await Browser().visit(app_of(manager), setting(n=1))
        assert answer.header(header) is not None

        def begin_anew(session: Session) -> None:
            session.logout()
            session["n"] = 2

        phone = await _phone(manager)
        old = phone.token
        answer = await phone.visit(app_of(manager), begin_anew)
        assert answer.set_cookie is None
        assert phone.token not in (None, old)
        assert (await phone.visit(app_of(manager))).json == {"n": 2}


async def test_a_rotation_kills_the_old_token_at_once(manager: SessionManager) -> None:
    """By `rotate` and by `login`; without either nothing is renewed."""
    for act in (lambda session: session.rotate(), lambda session: session.login("ann")):
        app, phone = app_of(manager), await _phone(manager, n=1)
        old = Phone(phone.token)
        await phone.visit(app, act)
        assert phone.token != old.token
        assert (await phone.visit(app)).json == {"n": 1}
        assert (await old.visit(app)).json == {}


async def test_a_browser_that_turns_to_a_token_loses_its_cookie(manager: SessionManager) -> None:
    """Its secret is dead, so the browser may forget it."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, setting(n=1))
    answer = await browser.visit(app, lambda session: session.login("ann", transport="bearer"))
    assert browser.token is None
    phone = Phone(answer.header("session-token"))
    assert (await phone.visit(app)).json == {"n": 1}
    answer = await phone.visit(app, lambda session: session.login("ann", transport="cookie"))
    assert (answer.set_cookie is not None, answer.header("session-token")) == (True, None)


async def test_a_logout_ends_the_session_and_says_nothing(manager: SessionManager) -> None:
    """There is no cookie to clear."""
    app, phone = app_of(manager), await _phone(manager)
    answer = await phone.visit(app, lambda session: session.logout())
    assert (answer.set_cookie, answer.header("session-token"), answer.header("session-version")) == (None, None, None)
    assert await types_of(manager, phone.session_id) == ["authenticated", "ended"]


async def test_a_token_that_was_handed_out_survives_a_later_refusal() -> None:
    """The old one is dead already, so a 503 carries the new one as well."""
    manager = in_memory(clock=Clock(), transports=("bearer",), policy=SessionPolicy(anonymous_per_second=1))

    async def twice(session: Session) -> None:
        session["n"] = 1
        await session.save()
        session.logout()
        session["n"] = 2

    answer = await Phone().visit(app_of(manager), twice)
    assert (answer.status, answer.header("session-token")) == (503, None)

    async def rotate_and_fail(session: Session) -> None:
        session.rotate()
        await session.save()
        manager.worker.store.commit = away  # type: ignore[method-assign]
        session["n"] = 3

    async def away(commit: Any) -> Any:
        raise StoreUnavailable(timedelta(seconds=1))

    phone = await _phone(manager)
    old = phone.token
    assert (await phone.visit(app_of(manager), rotate_and_fail)).status == 503
    assert phone.token != old


async def test_a_socket_hands_out_a_token_with_the_handshake(manager: SessionManager) -> None:
    """Later is too late, as for a cookie."""

    async def act(websocket: WebSocket) -> None:
        websocket.session.rotate()  # type: ignore[attr-defined]
        await websocket.accept()
        with pytest.raises(ResponseStarted):
            websocket.session.rotate()  # type: ignore[attr-defined]
        await websocket.close()

    phone = await _phone(manager, n=1)
    old = phone.token
    await phone.connect(app_of(manager), act)
    assert phone.token != old
    assert (await phone.visit(app_of(manager))).json == {"n": 1}


# ── read your writes ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_version_makes_an_older_copy_ask(server: Server) -> None:
    """A worker that has heard of nothing yet answers what the client wrote on another one."""
    async with two_workers(server.url, transports=BOTH) as (one, two):
        phone = await _phone(one)
        apps = app_of(one), app_of(two)
        for n in range(30):
            await phone.visit(apps[n % 2], setting(n=n))
            assert (await phone.visit(apps[1 - n % 2])).json == {"n": n}


async def test_a_version_that_never_was_is_mended(manager: SessionManager) -> None:
    """After a failover that lost the write; it costs one fill, not one for each request."""
    app, phone = app_of(manager), await _phone(manager, n=1)
    phone.version = "99"
    fills = manager.stats().counts.fills
    assert (await phone.visit(app)).json == {"n": 1}
    assert phone.version == "1"
    await phone.visit(app)
    assert manager.stats().counts.fills == fills + 1


async def test_a_read_by_token_costs_no_trip(server: Server) -> None:
    """Nor does the second one parse anything: the ticket is remembered by the token's digest."""
    async with two_workers(server.url, transports=BOTH) as (manager, _):
        app, phone = app_of(manager), await _phone(manager, n=1)
        await phone.visit(app)
        await until(lambda: manager.worker.cache.lookup(phone.session_id, manager.clock()), "the copy to be proved")
        fills = manager.stats().counts.fills
        assert (await phone.visit(app)).json == {"n": 1}
        assert manager.stats().counts.fills == fills


async def test_a_token_never_shows_in_the_log(manager: SessionManager, caplog: pytest.LogCaptureFixture) -> None:
    """Neither evsession's own at DEBUG, nor the events."""
    caplog.set_level(logging.DEBUG)
    phone = Phone()
    await phone.visit(app_of(manager), lambda session: session.login("ann", transport="bearer"))
    await phone.visit(app_of(manager), setting(n=1))
    assert phone.token is not None
    secret = phone.token[25:68]
    assert secret not in caplog.text
    assert secret not in repr(list(await manager.audit.history(phone.session_id)))
