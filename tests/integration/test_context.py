"""What an event says of where and by whom it was made, and what never reaches a log line."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from starlette.requests import HTTPConnection

from evsession import Actor, AuditPolicy, ConfigError, RecordedEvent, Session
from evsession.context import parse_context
from tests.integration.apps import Browser, app_of, in_memory, logged

RAW = "".join(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029))
"""Every control character and line separator."""


async def _event(audit: AuditPolicy | None = None, **scope: Any) -> RecordedEvent:
    manager, browser = in_memory(audit=audit), Browser()
    await browser.visit(app_of(manager), lambda session: session.update(n=1), **scope)
    (event,) = await manager.audit.history(browser.session_id)
    return event


async def test_an_event_names_the_route_and_never_the_path() -> None:
    """Paths hold ids, and whatever a client writes."""
    event = await _event(path="/orders/4711", query_string=b"card=4111")
    assert event.context["route"] == "/{path}"
    assert event.context["method"] == "GET"
    assert "4711" not in str(event.context)
    assert set(event.context) == {"worker", "method", "route", "address"}


@pytest.mark.parametrize(
    ("client", "truncated"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("2001:db8:1234:5678::1", "2001:db8:1234::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("fe80::1%eth0", "fe80::"),
        ("testclient", None),
        (None, None),
    ],
)
async def test_the_address_is_cut_to_a_network(client: str | None, truncated: str | None) -> None:
    """Enough to tell places, not people; a client without an address has none."""
    event = await _event(client=None if client is None else (client, 1))
    assert event.context.get("address") == truncated


@pytest.mark.parametrize(("policy", "expected"), [("full", "203.0.113.77"), ("none", None)])
async def test_the_policy_says_how_much_of_the_address(policy: Any, expected: str | None) -> None:
    """All of it, or nothing."""
    assert (await _event(AuditPolicy(address=policy))).context.get("address") == expected


@pytest.mark.parametrize("header", [b"x-forwarded-for", b"forwarded", b"x-real-ip", b"true-client-ip"])
async def test_no_header_tells_the_address(header: bytes) -> None:
    """Anybody can send one."""
    event = await _event(AuditPolicy(address="full"), headers=[(header, b"198.51.100.1")])
    assert event.context["address"] == "203.0.113.77"


async def test_ids_that_a_client_sent_are_marked_as_claimed() -> None:
    """And only kept where the policy asks for them; long ones are cut."""
    headers = [(b"x-request-id", b"r" * 300 + b"\x1b[31m"), (b"traceparent", b"00-abc-def-01")]
    event = await _event(AuditPolicy(request_ids=True), headers=headers)
    assert event.context["claimed"] == {"request_id": "r" * 256, "traceparent": "00-abc-def-01"}
    assert "claimed" not in (await _event(headers=headers)).context
    assert "claimed" not in (await _event(AuditPolicy(request_ids=True))).context


async def test_the_application_adds_its_own_facts_and_actor() -> None:
    """From the connection."""
    policy = AuditPolicy(
        context=lambda connection: {"tenant": connection.headers["x-tenant"]},
        actor=lambda connection: Actor.service(connection.headers["x-tenant"]),
    )
    event = await _event(policy, headers=[(b"x-tenant", b"acme")])
    assert event.context["tenant"] == "acme"
    assert event.actor == Actor.service("acme")


def _raise(connection: HTTPConnection) -> Any:
    raise LookupError(connection.headers["x-evil"])


@pytest.mark.parametrize(
    "policy",
    [
        AuditPolicy(context=_raise),
        AuditPolicy(actor=_raise),
        AuditPolicy(context=lambda _: 1),  # type: ignore[arg-type,return-value]
        AuditPolicy(context=lambda _: {"a": object()}),
        AuditPolicy(context=lambda _: {"a": "x" * 5_000}),
        AuditPolicy(actor=lambda _: "joe"),  # type: ignore[arg-type,return-value]
    ],
)
async def test_a_provider_that_fails_breaks_nothing(policy: AuditPolicy, caplog: pytest.LogCaptureFixture) -> None:
    """The event goes without; the log says so once, in one line without control characters."""
    evil = "\x1b[31m\x85\x7f".encode("latin-1")
    event = await _event(policy, headers=[(b"x-evil", evil)])
    assert (event.set, event.actor) == ({"n": 1}, None)
    (record,) = logged(caplog)
    assert record.levelno == logging.ERROR
    _check_lines(caplog)


def _check_lines(caplog: pytest.LogCaptureFixture) -> None:
    for record in logged(caplog):
        message = record.getMessage()
        assert message.isprintable(), ascii(message)


async def test_a_login_can_say_who_did_it() -> None:
    """It counts more than what the policy finds."""
    manager = in_memory(audit=AuditPolicy(actor=lambda _: Actor.user("policy")))
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.login(42, actor=Actor.admin("joe")))
    (event,) = await manager.audit.history(browser.session_id)
    assert event.actor == Actor.admin("joe")


async def test_what_a_handler_does_by_its_manager_is_of_its_request_too() -> None:
    """Where from and by whom: to make, change and revoke other sessions, by id or by name."""
    manager, browser = in_memory(audit=AuditPolicy(actor=lambda _: Actor.admin("joe"))), Browser()
    ids: list[str] = []

    async def act(_: Session) -> None:
        other = await manager.create(user_id=42)
        await manager.update(other.id, lambda data: data.update(n=1))
        async with manager.edit(other.id) as data:
            data["n"] = 2
        await manager.revoke(other.id)
        ids.append(other.id)
        await manager.revoke_user(43)

    await browser.visit(app_of(manager), act, "/admin")
    events = [
        *await manager.audit.history(ids[0]),
        *[one async for one in manager.audit.replay(types=["named_revoked"])],
    ]
    assert [event.type for event in events] == ["authenticated", "updated", "updated", "ended", "named_revoked"]
    for event in events:
        assert (event.actor, event.context["route"]) == (Actor.admin("joe"), "/{path}")
        assert event.context["address"] == "203.0.113.0"


async def test_what_another_manager_does_in_a_request_is_not_of_it() -> None:
    """Nor what outlives the request."""
    manager, other, browser = in_memory(audit=AuditPolicy(actor=lambda _: Actor.admin("joe"))), in_memory(), Browser()
    over = anyio.Event()

    async def later(session_id: str | None) -> None:
        await over.wait()
        assert session_id is not None
        await manager.update(session_id, lambda data: data.update(late=1))

    async with anyio.create_task_group() as tasks:

        async def act(session: Session) -> str:
            session["n"] = 1
            await session.save()
            tasks.start_soon(later, session.info.id)
            return (await other.create(user_id=42)).id

        elsewhere = (await browser.visit(app_of(manager), act)).json
        over.set()
    last = (await manager.audit.history(browser.session_id))[-1]
    (made,) = await other.audit.history(elsewhere)
    assert (set(last.context), last.actor) == ({"worker"}, None)
    assert (set(made.context), made.actor) == ({"worker"}, None)


async def test_names_of_keys_never_break_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is in them: in the debug line, in a warning of dropped changes, and in errors."""
    caplog.set_level(logging.DEBUG)
    manager = in_memory()
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update({f"a{RAW}": 1, "\x7f": 2, "é\U0001f600": 3}))

    async def act(session: Session) -> None:
        await manager.revoke(session)
        session[f"b{RAW}"] = 1

    await browser.visit(app, act, headers=[(b"user-agent", RAW.encode()), (b"x-request-id", RAW.encode())])
    await browser.visit(app, path=f"/{RAW}")
    assert len(logged(caplog, logging.WARNING)) == 1
    _check_lines(caplog)


async def test_what_clients_send_never_breaks_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """Cookies, origins, hosts and paths."""
    caplog.set_level(logging.DEBUG)
    manager = in_memory()
    raw = RAW.encode()
    browser = Browser(f"{'0' * 24}{RAW}")
    app = app_of(manager)

    await browser.visit(app, headers=[(b"cookie", b"__Host-session=" + raw), (b"origin", raw), (b"host", raw)])
    await Browser(scheme="http", host="localhost").visit(app, lambda session: session.update(a=1), path=f"/{RAW}")
    _check_lines(caplog)


async def test_a_ticket_says_under_which_number_somebody_acts() -> None:
    """In the context of each event of the block, within requests and outside, and in the explanation."""
    manager, browser = in_memory(audit=AuditPolicy(actor=lambda _: Actor.user("policy"))), Browser()

    async def act(session: Session) -> None:
        with manager.acting_as(Actor.admin("joe"), ticket="OPS-12"):
            session["n"] = 1
            await session.save()
            other = await manager.create(user_id=42)
            await manager.revoke(other.id, reason="lost phone")
        session["id"] = other.id

    await browser.visit(app_of(manager), act)
    one, later = await manager.audit.history(browser.session_id)
    assert (one.actor, one.context["ticket"]) == (Actor.admin("joe"), "OPS-12")
    assert (later.actor, "ticket" in later.context) == (Actor.user("policy"), False)
    why = await manager.audit.explain(later.set["id"])
    assert (why.actor, why.ticket) == (Actor.admin("joe"), "OPS-12")
    assert " was revoked by admin joe (ticket OPS-12) at " in why.sentence


@pytest.mark.parametrize("ticket", ["", "x" * 257])
async def test_a_ticket_is_a_short_text(ticket: str) -> None:
    """Or nothing of the block happens."""
    with (
        pytest.raises(ConfigError, match="write ticket='OPS-12'"),
        in_memory().acting_as(Actor.admin("joe"), ticket=ticket),
    ):
        pytest.fail("the block ran")


async def test_who_signs_a_user_in_is_not_the_user() -> None:
    """Impersonation: the session is the user's, the actor of its login the admin, and an explanation says both."""
    manager, browser = in_memory(), Browser()
    await browser.visit(app_of(manager), lambda session: session.login("ada", actor=Actor.admin("joe")))
    await browser.visit(app_of(manager), lambda session: session.update(n=1))
    login, later = await manager.audit.history(browser.session_id)
    assert [(event.user_id, event.actor) for event in (login, later)] == [("ada", Actor.admin("joe")), ("ada", None)]
    why = await manager.audit.explain(browser.session_id)
    assert (why.user_id, why.signed_in_by) == ("ada", Actor.admin("joe"))


async def test_the_address_behind_a_proxy_of_ones_own() -> None:
    """From the header that it wrote."""
    policy = AuditPolicy(address="full", trusted_proxies=("203.0.113.0/24",))
    event = await _event(policy, headers=[(b"x-forwarded-for", b"10.0.0.1, 198.51.100.7")])
    assert event.context["address"] == "198.51.100.7"


@pytest.mark.parametrize("raw", [b'{"w":"\x1b"}', b"[1,2]", b'"x"', b'{"w":"ab","r":[1]}', b'{"x":5}', b"\xff", b"7"])
def test_a_context_that_is_none_of_ours_is_shown_and_stops_nobody(raw: bytes) -> None:
    """Who can write to the log must not keep others from reading it."""
    assert parse_context(raw) == {"unreadable": raw.decode(errors="backslashreplace")}
