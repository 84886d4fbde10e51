"""Reading the trail of one session: history, time travel, differences, and why it is over."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from evsession import Actor, AuditPolicy, CachePolicy, ConfigError, SessionManager, SessionPolicy
from evsession.cli.when import moment_of
from evsession.errors import LogTrimmed
from evsession.info import time_of
from evsession.stores.memory import MemoryStore
from evsession.wire import parse_id
from tests.integration.apps import KEY, Browser, Clock, app_of, in_memory, setting, two_workers
from tests.servers import Proxy, Server

NOBODY = "00AAAAAAAAAAAAAAAAAAAAAA"


@pytest.fixture
def manager(clock: Clock) -> SessionManager:
    return in_memory(clock=clock)


# ── history ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_page_knows_the_user_who_signed_in_before_it(manager: SessionManager) -> None:
    """However far back that was; before the login there was nobody."""
    browser, app = Browser(), app_of(manager)
    await browser.visit(app, lambda session: session.update(n=0))
    await browser.visit(app, lambda session: session.login(42))
    for n in range(1, 301):
        await browser.visit(app, setting(n=n))
    (last,) = await manager.audit.history(browser.session_id, limit=1)
    assert (last.version, last.user_id) == (302, "42")
    whole = await manager.audit.history(browser.session_id)
    assert [event.user_id for event in whole] == [None] + ["42"] * 301
    page = await manager.audit.history(browser.session_id, limit=100, before=last.id)
    assert {event.user_id for event in page} == {"42"}
    (first,) = await manager.audit.history(browser.session_id, before=whole[1].id)
    assert first.user_id is None


async def test_the_user_of_a_trimmed_login_is_the_one_of_today(clock: Clock) -> None:
    """What the log has lost the snapshot still knows, unless somebody signed in after the event."""
    manager = in_memory(MemoryStore(clock=clock.server, max_entries=20), clock=clock)
    session = await manager.create(user_id="ada")
    for n in range(50):
        clock.advance(seconds=1)
        await manager.update(session.id, partial(dict.update, n=n))
    page = await manager.audit.history(session.id, limit=5)
    assert [event.user_id for event in page] == ["ada"] * 5
    assert not page.is_complete


async def test_an_ended_session_is_found_after_its_snapshot_went(manager: SessionManager, clock: Clock) -> None:
    """As long as the log holds its end."""
    session = await manager.create(user_id="ada", data={"n": 1})
    await manager.revoke(session.id, reason="lost phone")
    clock.advance(minutes=60)
    await manager.create()  # which lets go of snapshots that have lapsed
    assert [event.type for event in await manager.audit.history(session.id)] == ["authenticated", "ended"]
    assert (await manager.audit.explain(session.id)).reason == "lost phone"


async def test_a_history_takes_one_round_trip_however_much_happened_in_between(server: Server) -> None:
    """Its links are followed on the server; a page that does not show the login takes a second one."""
    async with Proxy(server.url) as proxy:
        writing = SessionManager.from_url(server.url, secret_key=KEY, namespace="shop")
        reading = SessionManager.from_url(proxy.url, secret_key=KEY, namespace="shop")
        async with writing, reading.reading():
            sid = (await writing.create(user_id="ada")).id
            for n in range(99):
                await writing.update(sid, partial(dict.update, n=n))
                await writing.create()
            await reading.audit.history(sid)  # connects
            for limit, trips in ((1_000, 1), (10, 2)):
                before = proxy.client_writes
                assert {event.user_id for event in await reading.audit.history(sid, limit=limit)} == {"ada"}
                assert proxy.client_writes - before == trips


# ── time travel ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_as_it_was_at_each_version(manager: SessionManager, clock: Clock) -> None:
    """Data, user and end; before its first event there was none."""
    browser, app = Browser(), app_of(manager)
    await browser.visit(app, lambda session: session.update(cart=["tea"]))
    clock.advance(seconds=10)
    await browser.visit(app, lambda session: session.login(42, names={"tenant": "acme"}, facts={"mfa": True}))
    clock.advance(seconds=10)
    await browser.visit(app, lambda session: session["cart"].append("milk"))
    await manager.revoke(browser.session_id)
    states = [await manager.audit.state_at(browser.session_id, version=version) for version in range(5)]
    assert states[0] is None
    _, first, second, third, last = states
    assert first is not None
    assert (first.version, first.data, first.user_id, first.last.type) == (1, {"cart": ["tea"]}, None, "created")
    assert second is not None
    assert (second.user_id, second.names, second.facts) == ("42", ("tenant:acme",), {"mfa": True})
    assert second.at - first.at == timedelta(seconds=10)
    assert third is not None
    assert (third.data, third.ended) == ({"cart": ["tea", "milk"]}, None)
    assert last is not None
    assert (last.data, last.ended, last.user_id) == ({}, "revoked", "42")


async def test_a_session_as_it_was_at_a_moment(manager: SessionManager, clock: Clock) -> None:
    """The last event at or before it counts."""
    session = await manager.create(data={"n": 0})
    (event,) = await manager.audit.history(session.id)
    clock.advance(seconds=10)
    await manager.update(session.id, partial(dict.update, n=1))
    at = partial(manager.audit.state_at, session.id)
    assert await at(at=event.at - timedelta(milliseconds=1)) is None
    for seconds, n in ((0, 0), (9.999, 0), (10, 1), (3600, 1)):
        state = await at(at=event.at + timedelta(seconds=seconds))
        assert state is not None
        assert state.data == {"n": n}
    assert await manager.audit.state_at(NOBODY, version=1) is None
    newest = await at(version=99)
    assert newest is not None
    assert newest.version == 2


@pytest.mark.parametrize("moment", [{}, {"version": 1, "at": datetime.now(UTC)}, {"at": datetime(2026, 11, 21)}])
async def test_a_moment_must_be_named(manager: SessionManager, moment: Any) -> None:
    """Exactly one, and in a time zone."""
    with pytest.raises(ConfigError, match=r"pass version=7 or at=|use datetime.now\(UTC\)"):
        await manager.audit.state_at(NOBODY, **moment)


async def test_a_session_that_began_before_the_log_is_no_guess(clock: Clock) -> None:
    """Without its first events nobody can say what it was."""
    manager = in_memory(MemoryStore(clock=clock.server, max_entries=20), clock=clock)
    session = await manager.create(data={"a": 1})
    for n in range(50):
        await manager.update(session.id, partial(dict.update, n=n))
    with pytest.raises(LogTrimmed, match="give the archive as well"):
        await manager.audit.state_at(session.id, version=51)


async def test_what_lies_between_two_moments(manager: SessionManager, clock: Clock) -> None:
    """Keys set and keys removed, forwards and backwards; from nothing, and to an end."""
    session = await manager.create(data={"theme": "dark", "n": 0})
    began = (await manager.audit.history(session.id))[0].at
    clock.advance(seconds=10)
    await manager.update(session.id, lambda data: data.update(n=1))
    await manager.update(session.id, lambda data: data.pop("theme") and None)
    difference = await manager.audit.diff(session.id, 1, 3)
    assert (difference.set, difference.unset) == ({"n": 1}, ("theme",))
    assert difference.before is not None
    assert difference.before.data == {"theme": "dark", "n": 0}
    back = await manager.audit.diff(session.id, 3, began)
    assert (back.set, back.unset) == ({"n": 0, "theme": "dark"}, ())
    begun = await manager.audit.diff(session.id, 0, 1)
    assert (begun.before, begun.set) == (None, {"theme": "dark", "n": 0})
    await manager.revoke(session.id)
    assert (await manager.audit.diff(session.id, 3, 4)).unset == ("n",)


async def test_a_redacted_value_is_in_no_reading(manager: SessionManager, caplog: pytest.LogCaptureFixture) -> None:
    """A digest stands in its place, and its path is named; nor is it in any line of the log output."""
    caplog.set_level(logging.DEBUG)
    session = await manager.create(user_id="ada", data={"bank": {"api_token": "canary"}, "n": 0})
    await manager.update(session.id, lambda data: data.update(n=1, password="canary"))
    state = await manager.audit.state_at(session.id, version=2)
    assert state is not None
    assert state.redacted == ("/bank/api_token", "/password")
    read = (
        await manager.audit.history(session.id), state, await manager.audit.diff(session.id, 0, 2),
        await manager.audit.explain(session.id),
    )  # fmt: skip
    replayed = [event async for event in manager.audit.replay()]
    follower = manager.audit.follow(since="start")
    followed = [await anext(follower) for _ in replayed]
    visits = await manager.audit.sessions_by_user("ada")
    assert "canary" not in "".join(map(repr, (*read[0], *read[1:], replayed, followed, visits, follower.cursor)))
    assert len(replayed) == 2
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("7", 7),
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC)),
        ("2026-11-21T08:30:00.5Z", datetime(2026, 11, 21, 8, 30, 0, 500_000, UTC)),
        ("2026-11-21T08:30:00+02:00", datetime(2026, 11, 21, 6, 30, tzinfo=UTC)),
    ],
)
def test_a_moment_as_text(text: str, moment: object) -> None:
    """A version, or a time as ISO 8601 has it, in UTC unless it says otherwise."""
    assert moment_of(text) == moment


@pytest.mark.parametrize("text", ["", "-1", "yesterday", "1.5", "2026-13-01"])
def test_a_text_that_is_no_moment_is_refused(text: str) -> None:
    """With an example of each form."""
    with pytest.raises(ConfigError, match="write 7, or 2026-11-21T08:30:00"):
        moment_of(text)


@dataclass
class Model:
    """One session, with every state that it ever had: version, ms of its event, data, user, whether it is over."""

    sid: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    user: str | None = None
    states: list[tuple[int, dict[str, Any], str | None, bool]] = field(default_factory=list)

    def keep(self, manager: SessionManager, *, ended: bool = False) -> None:
        """Record the state after a commit, and when the server says that it happened."""
        cached = manager.worker.cache.newest(self.sid)
        assert cached is not None
        ms = parse_id(cached.stored.last_id.encode())[0]
        self.states.append((ms, {} if ended else dict(self.data), self.user, ended))

    def at(self, ms: int) -> int:
        """Return the version at a moment, 0 before the first."""
        return sum(state[0] <= ms for state in self.states)


async def _live(manager: SessionManager, model: Model, chance: random.Random) -> None:
    model.user = str(chance.randrange(50)) if chance.random() < 0.5 else None
    model.data = {"n": 0}
    model.sid = (await manager.create(user_id=model.user, data=model.data)).id
    model.keep(manager)
    for n in range(1, chance.randrange(2, 9)):
        key = chance.choice(["n", "cart", "theme"])
        if key in model.data and chance.random() < 0.3:
            del model.data[key]
        else:
            model.data[key] = [n] * chance.randrange(3)
        await manager.update(model.sid, partial(_become, after=dict(model.data)))
        if manager.worker.cache.newest(model.sid).stored.snapshot.version > len(model.states):  # type: ignore[union-attr]
            model.keep(manager)
        await anyio.sleep(chance.random() / 50)
    if chance.random() < 0.3:
        await manager.revoke(model.sid, timeout=timedelta(0))  # on so young a log a receipt waits for the bound
        model.keep(manager, ended=True)


def _become(data: dict[str, Any], after: dict[str, Any]) -> None:
    data.clear()
    data.update(after)


async def test_time_travel_agrees_with_a_model_that_recorded_every_state(server: Server) -> None:
    """For 1,000 random sessions, at random versions and moments, read by a worker that made none of them."""
    seed = random.randrange(2**32)
    chance, models = random.Random(seed), [Model() for _ in range(1_000)]
    cache = CachePolicy(max_staleness=timedelta(minutes=1))  # a loop that is flooded may be late for shorter leases
    async with two_workers(server.url, cache=cache) as (one, two):
        async with anyio.create_task_group() as group:
            for model in models:
                group.start_soon(_live, one, model, random.Random(chance.random()))
        for model in models:
            version = chance.randrange(len(model.states) + 1)
            ms = chance.choice(model.states)[0] + chance.randrange(-20, 20)
            by_version = await two.audit.state_at(model.sid, version=version)
            by_time = await two.audit.state_at(model.sid, at=time_of(ms))
            for state, expected in ((by_version, version), (by_time, model.at(ms))):
                found = None if state is None else (state.version, state.data, state.user_id, state.ended is not None)
                wanted = (expected, *model.states[expected - 1][1:]) if expected else None
                assert found == wanted, f"seed {seed}"
        ms = chance.choice(chance.choice(models).states)[0]
        then = [(model.sid, model.at(ms)) for model in models if model.at(ms) and not model.states[model.at(ms) - 1][3]]
        assert {state.session_id: state.version async for state in two.audit.states(at=time_of(ms))} == dict(then)


# ── explain ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_end_is_explained(manager: SessionManager) -> None:
    """When, why, by whom, from where, and with which request."""
    browser, app = Browser(), app_of(manager)
    await browser.visit(app, lambda session: session.login(42, actor=Actor.admin("joe")))
    sid = browser.session_id
    await browser.visit(app, lambda session: session.logout(), path="/bye", method="POST")
    why = await manager.audit.explain(sid)
    assert (why.status, why.cause, why.user_id, why.actor) == ("ended", "logout", "42", None)
    assert (why.address, why.method, why.route) == ("203.0.113.0", "POST", "/{path}")
    assert why.signed_in_by == Actor.admin("joe")
    assert why.event is not None
    assert why.at == why.event.at
    when = why.at.strftime("%Y-%m-%d %H:%M:%S UTC")
    assert str(why) == (
        f"Session {sid} of user 42 (signed in by admin joe) signed out at {when} from 203.0.113.0 with POST /{{path}}."
    )


async def test_a_revocation_names_who_and_why(manager: SessionManager) -> None:
    """The operator's own words."""
    session = await manager.create(user_id=42)
    await manager.revoke(session.id, reason="lost phone", actor=Actor.service("fraud"))
    why = await manager.audit.explain(session.id)
    assert (why.cause, why.reason, why.actor) == ("revoked", "lost phone", Actor.service("fraud"))
    assert "was revoked by service fraud at " in why.sentence
    assert why.sentence.endswith(", because: lost phone.")


@pytest.mark.parametrize("revoke", ["revoke_user", "revoke_named", "revoke_everyone"])
async def test_a_revocation_by_name_is_explained_before_and_after_it_is_written(
    manager: SessionManager, revoke: str
) -> None:
    """The control log tells of it until the session's own `ended` event is there, and of who did it after that too."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.login(42, names={"tenant": "acme"}))
    whom = {"revoke_user": (42,), "revoke_named": ("tenant", "acme"), "revoke_everyone": ()}[revoke]
    name = {"revoke_user": "user:42", "revoke_named": "tenant:acme", "revoke_everyone": "everyone"}[revoke]
    with manager.acting_as(Actor.admin("joe"), ticket="OPS-7"):
        await getattr(manager, revoke)(*whom, reason="incident 7")
    before = await manager.audit.explain(browser.session_id)
    sid = browser.session_id
    await browser.visit(app)
    await manager.sweep()
    after = await manager.audit.explain(sid)
    for why in (before, after):
        assert (why.status, why.cause, why.name, why.reason) == ("ended", "revoked", name, "incident 7")
        assert (why.user_id, why.actor, why.ticket) == ("42", Actor.admin("joe"), "OPS-7")
        assert why.at == before.at
        whose = "everyone's sessions" if name == "everyone" else f"all sessions of {name}"
        assert f"of user 42 was revoked with {whose} by admin joe (ticket OPS-7) at " in why.sentence
    assert before.event is None
    assert "still to be written" in before.sentence
    assert after.event is not None
    assert (await manager.audit.explain((await manager.create(user_id=42)).id)).status == "alive"


async def test_a_living_session_says_until_when(manager: SessionManager) -> None:
    """Its idle deadline moves, the absolute one does not."""
    session = await manager.create(user_id=42)
    info = await manager.get(session.id)
    assert info is not None
    assert info.created_at is not None
    why = await manager.audit.explain(session.id)
    assert (why.status, why.cause, why.at, why.until) == ("alive", None, None, info.created_at + timedelta(hours=12))
    assert " of user 42 is alive, at version 1; it ends at " in why.sentence


@pytest.mark.parametrize(("minutes", "cause"), [(31, "idle"), (800, "absolute")])
async def test_a_passed_deadline_is_explained_before_and_after_it_is_written(
    clock: Clock, minutes: int, cause: str
) -> None:
    """By the header first, then by its event."""
    idle = timedelta(hours=13) if cause == "absolute" else timedelta(minutes=30)
    manager = in_memory(clock=clock, policy=SessionPolicy(idle_timeout=idle))
    session = await manager.create(user_id=42)
    clock.advance(minutes=minutes)
    before = await manager.audit.explain(session.id)
    assert (before.status, before.cause, before.event) == ("ended", cause, None)
    assert "still to be written" in before.sentence
    await manager.sweep()
    after = await manager.audit.explain(session.id)
    assert (after.status, after.cause, after.actor) == ("ended", cause, Actor.system("sweeper"))
    assert after.event is not None


@pytest.mark.parametrize("session_id", [NOBODY, "", "nonsense"])
async def test_an_unknown_session_is_called_so(manager: SessionManager, session_id: str) -> None:
    """With how far back the log reaches."""
    assert (await manager.audit.explain(session_id)).status == "unknown"
    await manager.create()
    why = await manager.audit.explain(NOBODY)
    assert why.status == "unknown"
    assert "the log reaches back to 20" in why.sentence


async def test_the_trail_is_read_on_a_server_too(server: Server) -> None:
    """By a worker that did nothing of it, and by one who only looks."""
    async with two_workers(server.url, audit=AuditPolicy(address="full")) as (one, two):
        browser = Browser()
        await browser.visit(app_of(one), lambda session: session.login(42))
        sid = browser.session_id
        await browser.visit(app_of(one), lambda session: session.logout())
        looking = SessionManager.from_url(server.url, secret_key=KEY, namespace="shop")
        async with looking.reading():
            for manager in (two, looking):
                why = await manager.audit.explain(sid)
                assert (why.cause, why.address) == ("logout", "203.0.113.77")
                assert (await manager.audit.history(sid))[-1].user_id == "42"
