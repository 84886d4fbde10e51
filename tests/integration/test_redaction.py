"""What must not leave a worker does not: canaries in redacted keys, and the secrets of tokens."""

from __future__ import annotations

import logging

import pytest

from evsession import AuditPolicy, Session, SessionManager, SessionTooLarge
from evsession.config import DEFAULT_REDACT
from evsession.redaction import PREFIX
from tests.integration.apps import Browser, app_of, dump, in_memory, tap, two_workers
from tests.servers import Server

CANARY = "canary-7f3a9c"

SECRETS = {
    "password": CANARY,
    "oauth": {"accessToken": CANARY, "expires": 60, "deep": [{"client-secret": {"parts": [CANARY]}}]},
    "cards": [CANARY, CANARY],
    "_state_google_1": {"data": {"code_verifier": CANARY}},
    "list": [[{"API-KEY": CANARY}]],
}


async def test_redacted_values_stand_in_the_snapshot_alone(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the log stream, the feed or a log line; and yet another worker reads them."""
    caplog.set_level(logging.DEBUG)
    async with two_workers(server.url) as (one, two):
        browser = Browser()
        with tap(server) as heard:
            await browser.visit(app_of(one), lambda session: session.update(SECRETS, n=0))
            await browser.visit(app_of(one), lambda session: session.update(n=1))
            await browser.visit(app_of(one), lambda session: session["list"][0][0].update({"API-KEY": CANARY + "2"}))
            await browser.visit(app_of(one), lambda session: session.update(password=CANARY + "3"))
            await browser.visit(app_of(one), lambda session: session.login(42))
            messages = heard(5)
        found = (await browser.visit(app_of(two))).json
        assert found == SECRETS | {"n": 1, "password": CANARY + "3", "list": [[{"API-KEY": CANARY + "2"}]]}
        history = await two.audit.history(browser.session_id)
        contents = dump(server)
    snapshot = f"{{shop:00}}:s:{browser.session_id}".encode()
    holders = {key for key, content in contents.items() if CANARY.encode() in content}
    assert holders == {snapshot}
    assert len(messages) == 5
    assert not any(CANARY.encode() in payload for _, payload in messages)
    assert CANARY not in caplog.text
    assert history[0].set["password"].startswith(PREFIX)
    assert history[0].set["oauth"]["expires"] == 60
    assert CANARY not in str(list(history))


async def test_the_digest_does_not_tell_whether_a_secret_stayed_the_same() -> None:
    """Two sessions, or two versions, with one password have nothing in common."""
    manager = in_memory()
    digests = set()
    for _ in range(2):
        sid = (await manager.create(data={"password": CANARY})).id
        await manager.update(sid, lambda data: data.update(password="other"))
        await manager.update(sid, lambda data: data.update(password=CANARY))
        digests |= {event.set["password"] for event in await manager.audit.history(sid)}
    assert len(digests) == 6


async def test_the_policy_says_what_is_redacted() -> None:
    """More than usual, or nothing."""
    more = in_memory(audit=AuditPolicy(redact=(*DEFAULT_REDACT, "pin")))
    none = in_memory(audit=AuditPolicy(redact=()))
    for manager, expected in ((more, True), (none, False)):
        sid = (await manager.create(data={"pin": "1234"})).id
        (event,) = await manager.audit.history(sid)
        assert (event.set["pin"] != "1234") == expected


async def test_an_error_about_a_secret_does_not_quote_it(caplog: pytest.LogCaptureFixture) -> None:
    """Names and sizes are enough."""
    manager = in_memory()
    app = app_of(manager)
    answer = await Browser().visit(app, lambda s: s.update(password=[CANARY * 10_000]), fails=SessionTooLarge)
    assert CANARY not in str(answer.error) + caplog.text
    browser = Browser()
    await browser.visit(app, lambda session: session.update(n=1))

    async def act(session: Session) -> None:
        await manager.revoke(session)
        session["password"] = CANARY

    await browser.visit(app, act)
    assert '["password"]' in caplog.text
    assert CANARY not in caplog.text


async def test_no_token_is_anywhere_on_the_server(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A dump of it, a capture of the feed and all log lines open no session."""
    caplog.set_level(logging.DEBUG)
    tokens: set[str] = set()

    async def story(manager: SessionManager, other: SessionManager, browser: Browser) -> None:
        for act in (
            lambda session: session.update(n=1),
            lambda session: session.login(42),
            lambda session: session.rotate(),
            lambda session: session.login(43),
            lambda session: session.logout() or session.update(flash="bye"),
        ):
            await browser.visit(app_of(manager), act)
            await browser.visit(app_of(other))
            tokens.add(str(browser.token))

    async with two_workers(server.url) as (one, two):
        with tap(server) as heard:
            await story(one, two, Browser())
            everything = b"".join((*dump(server).values(), *(payload for _, payload in heard(7))))
    assert len(tokens) == 5
    for token in tokens:
        secret, tag = token[25:68], token[69:91]
        assert secret.encode() not in everything
        assert tag.encode() not in everything
        assert secret not in caplog.text
