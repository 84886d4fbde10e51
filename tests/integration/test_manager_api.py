"""The manager without a request: create, get, edit, update, revoke, history, health, and how one is made."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from inspect import signature
from typing import Any

import anyio
import pytest

from evsession import (
    Actor,
    CodecError,
    ConfigError,
    CookiePolicy,
    Health,
    Session,
    SessionConflict,
    SessionEnded,
    SessionManager,
    SessionPolicy,
    SessionTooLarge,
    StorePolicy,
    Unsupported,
)
from evsession.errors import InvalidUserId
from evsession.manager import Options
from evsession.revocation import NOTHING
from evsession.store import Commit, CommitReply
from evsession.stores.memory import MemoryStore
from tests.integration.apps import KEY, Browser, Clock, app_of, in_memory, two_workers, types_of
from tests.servers import Server

NOBODY = "00AAAAAAAAAAAAAAAAAAAAAA"


# ── create, get ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_created_session_opens_with_its_token(manager: SessionManager) -> None:
    """As if a login had made it; the token hides when it is printed."""
    new = await manager.create(user_id=42, data={"cart": ["tea"]})
    assert new.token.value[25:] not in repr(new)
    assert (await Browser(new.token.value).visit(app_of(manager))).json == {"cart": ["tea"]}
    info = await manager.get(new.id)
    assert info is not None
    assert (info.id, info.version, info.user_id, info.names, info.is_new) == (new.id, 1, "42", ("user:42",), False)
    assert info.authenticated_at is not None


async def test_creating_without_a_user_is_anonymous(manager: SessionManager) -> None:
    """Unless the data name one, who is detected as anywhere."""
    anonymous, detected = await manager.create(), await manager.create(data={"user_id": 42})
    assert await types_of(manager, anonymous.id) == ["created"]
    (event,) = await manager.audit.history(detected.id)
    assert (event.type, event.user_id, event.event.detected) == ("authenticated", "42", True)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"user_id": True}, InvalidUserId),
        ({"data": {"user_id": 4.2}}, InvalidUserId),
        ({"data": {"a": object()}}, CodecError),
        ({"data": {1: 2}}, CodecError),
        ({"data": {"a": "x" * 70_000}}, SessionTooLarge),
    ],
)
async def test_what_cannot_be_created_is_refused(
    manager: SessionManager, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """Before anything is written."""
    with pytest.raises(error):
        await manager.create(**arguments)
    assert manager.stats().counts.commits == manager.stats().counts.created == 0


@pytest.mark.parametrize("session_id", [NOBODY, "", "ctl", "x", "../../etc/passwd", "00" + "A" * 500, "é" * 24])
async def test_whatever_stands_in_a_url_can_be_looked_up(server: Server, session_id: str) -> None:
    """It is nobody's session, and leaves no key behind."""
    async with two_workers(server.url) as (manager, _):
        assert await manager.get(session_id) is None
        assert await manager.revoke(session_id) == NOTHING
        assert list(await manager.audit.history(session_id)) == []
        with pytest.raises(SessionEnded):
            await manager.update(session_id, lambda data: data)
        with pytest.raises(SessionEnded):
            async with manager.edit(session_id):
                pass
    assert {key.partition(b"}")[0] for key in server.cli("KEYS", "*")} <= {b"{shop:00", b"{shop:ctl", b"{shop:meta"}


# ── edit, update ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_edit_commits_at_the_end_of_its_block(manager: SessionManager) -> None:
    """One event with what changed; nothing at all if nothing did, or if the block raised."""
    sid = (await manager.create(data={"n": 1, "old": 1})).id
    async with manager.edit(sid) as data:
        data["n"] = 2
        data["list"] = [1]
        del data["old"]
    async with manager.edit(sid) as data:
        data["n"] = 2
    with pytest.raises(ZeroDivisionError):
        async with manager.edit(sid) as data:
            data["n"] = 1 / 0
    last = (await manager.audit.history(sid))[-1]
    assert (last.version, last.set, last.unset) == (2, {"n": 2, "list": [1]}, ("old",))


async def test_edit_refuses_what_somebody_else_changed_meanwhile(manager: SessionManager) -> None:
    """And names the keys; other keys are no conflict."""
    sid = (await manager.create(data={"a": 1, "b": 1, "c": 1})).id

    async def conflict() -> None:
        async with manager.edit(sid) as mine:
            mine |= {"a": 2, "b": 2, "c": 2}
            async with manager.edit(sid) as theirs:
                theirs |= {"c": 3, "a": 3}
                del theirs["b"]

    with pytest.raises(SessionConflict) as caught:
        await conflict()
    assert caught.value.keys == ("a", "b", "c")
    async with manager.edit(sid) as mine:
        mine["a"] = 4
        async with manager.edit(sid) as theirs:
            theirs["c"] = 4
    async with manager.edit(sid) as data:
        assert data == {"a": 4, "c": 4}


async def test_edit_and_update_of_a_session_that_ends_meanwhile_say_so(manager: SessionManager) -> None:
    """Not that there is a conflict; and the function of an update never sees the empty data of an end."""
    sid = (await manager.create(data={"n": 1})).id

    async def late() -> None:
        async with manager.edit(sid) as data:
            data["n"] = 2
            await manager.revoke(sid)

    with pytest.raises(SessionEnded, match="revoked"):
        await late()
    with pytest.raises(SessionEnded):
        await manager.update(sid, lambda data: data["n"])


class Held(MemoryStore):
    """A memory store that takes commits only once `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = anyio.Event(), anyio.Event()

    async def commit(self, commit: Commit) -> CommitReply:
        self.asked.set()
        await self.go.wait()
        return await super().commit(commit)


async def cause_of(manager: SessionManager, session_id: str) -> str:
    """Return why a session can be changed no more."""
    with pytest.raises(SessionEnded) as updated:
        await manager.update(session_id, lambda data: data.update(n=1))
    with pytest.raises(SessionEnded) as edited:
        async with manager.edit(session_id):
            pytest.fail("there was something to edit")
    assert edited.value.cause == updated.value.cause
    return updated.value.cause


async def test_edit_and_update_of_a_session_that_is_over_say_why() -> None:
    """Whether its end is written or still to be: after a revocation by name, or a deadline that nobody has noticed."""
    clock = Clock()
    policy = SessionPolicy(idle_timeout=timedelta(minutes=5), absolute_timeout=timedelta(minutes=7))
    manager = in_memory(clock=clock, policy=policy)
    one, named, unused, used = [(await manager.create(user_id=user)).id for user in ("ada", "bob", "cyd", "dan")]
    await manager.revoke(one)
    await manager.revoke_user("bob")
    assert (await cause_of(manager, one), await cause_of(manager, named)) == ("revoked", "revoked")
    clock.advance(minutes=4)
    await manager.update(used, lambda data: data.update(n=1))
    clock.advance(minutes=1)
    assert await cause_of(manager, unused) == "idle"
    clock.advance(minutes=2)
    assert await cause_of(manager, used) == "absolute"
    assert await cause_of(manager, NOBODY) == "logout"


async def test_an_update_that_waits_behind_an_end_never_runs() -> None:
    """Its function would find data that were emptied."""
    store = Held()
    manager = in_memory(store)
    store.go.set()
    sid = (await manager.create(data={"n": 1})).id
    await manager.get(sid)
    store.asked, store.go = anyio.Event(), anyio.Event()
    ran: list[dict[str, Any]] = []

    async def update() -> None:
        with pytest.raises(SessionEnded, match="revoked"):
            await manager.update(sid, ran.append)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager.revoke, sid)
        await store.asked.wait()
        tasks.start_soon(update)
        await anyio.wait_all_tasks_blocked()
        store.go.set()
    assert ran == []


async def test_edit_of_the_session_of_a_request_is_seen_by_it(manager: SessionManager) -> None:
    """What is pending there stays pending; so does it with `update`."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))

    async def act(session: Session) -> dict[str, int]:
        session["pending"] = 1
        async with manager.edit(session) as data:
            data["edited"] = 1
        await manager.update(session, lambda data: data.update(n=data["n"] + 1))
        return dict(session)

    expected = {"n": 2, "pending": 1, "edited": 1}
    assert (await browser.visit(app, act)).json == expected
    assert (await browser.visit(app)).json == expected


async def test_100_increments_at_once_are_100(manager: SessionManager) -> None:
    """The function runs again on each conflict; its last result is returned."""
    sid = (await manager.create(data={"n": 0})).id
    results: list[int] = []

    def increment(data: dict[str, int]) -> int:
        data["n"] += 1
        return data["n"]

    async def one() -> None:
        results.append(await manager.update(sid, increment))

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(one)
    assert sorted(results) == list(range(1, 101))


async def test_100_increments_on_two_workers_are_100(server: Server) -> None:
    """On a real server, where they conflict."""
    async with two_workers(server.url) as workers:
        sid = (await workers[0].create(data={"n": 0})).id

        async def one(manager: SessionManager) -> None:
            await manager.update(sid, lambda data: data.update(n=data["n"] + 1))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(one, workers[number % 2])
        history = await workers[1].audit.history(sid)
        assert [event.set["n"] for event in history] == list(range(101))


@pytest.mark.parametrize("change", [{"user_id": 1}, {"user_id": None}, {"user_id": "43"}])
async def test_the_user_cannot_change_outside_a_request(manager: SessionManager, change: dict[str, Any]) -> None:
    """Whoever holds the token would be somebody else all at once; the text says what to do instead."""
    sid = (await manager.create(user_id=42, data={"user_id": 42})).id
    with pytest.raises(Unsupported, match=r"session\.login"):
        await manager.update(sid, lambda data: data.update(change))
    with pytest.raises(Unsupported, match=r"session\.login"):
        async with manager.edit(sid) as data:
            del data["user_id"]
    await manager.update(sid, lambda data: data.update(user_id="42", n=1))
    info = await manager.get(sid)
    assert info is not None
    assert (info.version, info.user_id) == (2, "42")


# ── revoke ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_revoke_ends_a_session_with_a_reason(manager: SessionManager) -> None:
    """Once: the second time there is nothing to end. The log says who and why."""
    sid = (await manager.create(user_id=42)).id
    with manager.acting_as(Actor.admin("joe")):
        assert await manager.revoke(sid, reason="stolen laptop")
    receipt = await manager.revoke(sid)
    assert (receipt.complete, receipt.id) == (True, (await manager.audit.history(sid))[-1].id)
    assert await manager.get(sid) is None
    ended = (await manager.audit.history(sid))[-1]
    assert (ended.cause, ended.reason, ended.actor) == ("revoked", "stolen laptop", Actor.admin("joe"))


async def test_revoke_takes_whatever_names_a_session(manager: SessionManager) -> None:
    """An id, an info, or the session itself; one that was never committed cannot be named."""
    one, two = await manager.create(), await manager.create()
    info = await manager.get(one.id)
    assert info is not None
    assert (await manager.revoke(info, actor=Actor.service("fraud"))).complete
    assert (await manager.audit.history(one.id))[-1].actor == Actor.service("fraud")

    async def act(session: Session) -> bool:
        session["bad"] = [object()]
        revoked = await manager.revoke(session)
        session.clear()
        return revoked.complete

    assert (await Browser(two.token.value).visit(app_of(manager), act)).json is True

    async def nameless(session: Session) -> None:
        with pytest.raises(SessionEnded):
            await manager.revoke(session)

    await Browser().visit(app_of(manager), nameless)


# ── acting_as, history ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_acting_as_names_who_acts_until_its_end(manager: SessionManager) -> None:
    """In this task and those it starts, and nowhere else."""
    sid = (await manager.create(data={"n": 0})).id
    with manager.acting_as(Actor.admin("joe")):
        await manager.update(sid, lambda data: data.update(n=1))
    await manager.update(sid, lambda data: data.update(n=2))
    assert [event.actor for event in await manager.audit.history(sid)] == [None, Actor.admin("joe"), None]


async def test_history_is_the_newest_page_oldest_first(manager: SessionManager) -> None:
    """`before` takes the id of an event, so that pages join without a gap."""
    sid = (await manager.create(data={"n": 0})).id
    for number in range(1, 10):
        await manager.update(sid, partial(dict.update, n=number))
    page = await manager.audit.history(sid, limit=4)
    assert [event.version for event in page] == [7, 8, 9, 10]
    assert not page.is_complete
    page = await manager.audit.history(sid, limit=4, before=page[0].id)
    assert [event.version for event in page] == [3, 4, 5, 6]
    page = await manager.audit.history(sid, limit=4, before=page[0].id)
    assert [event.version for event in page] == [1, 2]
    assert page.is_complete
    assert list(await manager.audit.history(sid, before=page[0].id)) == []
    assert len(await manager.audit.history(sid, limit=0)) == 1
    assert [event.set for event in (await manager.audit.history(sid))[:2]] == [{"n": 0}, {"n": 1}]


async def test_the_trail_takes_a_session_its_info_or_its_id(manager: SessionManager) -> None:
    """As the rest of the manager does; nothing has happened to one that has not begun."""
    asked: list[object] = []

    async def handler(session: Session) -> None:
        for named in (session, session.info):
            types = [event.type for event in await manager.audit.history(named)]
            asked.append((types, (await manager.audit.explain(named)).status))
            asked.append(await manager.audit.state_at(named, version=1))
            asked.append(dict((await manager.audit.diff(named, 0, 1)).set))

    await Browser().visit(app_of(manager), handler)
    assert asked == [([], "unknown"), None, {}] * 2
    asked.clear()
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.update(n=1))
    await browser.visit(app_of(manager), handler)
    state = await manager.audit.state_at(browser.session_id, version=1)
    assert asked == [(["created"], "alive"), state, {"n": 1}] * 2


async def test_history_on_a_server_is_the_same(server: Server) -> None:
    """Followed link by link on the server, over what other sessions did in between."""
    async with two_workers(server.url) as (one, two):
        sid = (await one.create(data={"n": 0})).id
        await one.create()
        for number in range(1, 6):
            await one.update(sid, partial(dict.update, n=number))
        page = await two.audit.history(sid, limit=3)
        assert [event.version for event in page] == [4, 5, 6]
        assert [event.version for event in await two.audit.history(sid, before=page[0].id)] == [1, 2, 3]


async def test_an_event_says_all_that_is_known(manager: SessionManager) -> None:
    """Times are aware; ids order events."""
    sid = (await manager.create(user_id=42)).id
    (event,) = await manager.audit.history(sid)
    assert event.at.tzinfo is not None
    assert (event.session_id, event.user_id) == (sid, "42")
    assert event.context == {"worker": manager.worker.id}


# ── health, stats, life ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_health_says_whether_this_worker_can_serve(server: Server) -> None:
    """And what keeps it from it, without the password of the url."""
    async with two_workers(server.url) as (one, _):
        assert await one.health() == Health(True, ())
    away = SessionManager.from_url("redis://:geheim@127.0.0.1:1/0", secret_key=KEY)
    async with away:
        health = await away.health()
        assert not health.ready
        assert health.problems
        assert "geheim" not in str(health)


async def test_stats_count_what_this_worker_did(manager: SessionManager) -> None:
    """They are a copy of that moment."""
    app, browser = app_of(manager), Browser()
    before = manager.stats()
    await manager.start()
    await browser.visit(app, lambda session: session.update(a=1))
    await browser.visit(app)
    await manager.create()
    after = manager.stats()
    assert (before.counts.created, before.cache.hits) == (0, 0)
    assert (after.counts.created, after.cache.hits, after.entries, after.worker) == (2, 1, 2, manager.worker.id)
    assert after.bytes > 2_000


async def test_a_manager_can_be_started_again(server: Server) -> None:
    """As a new worker, which finds what the old one left."""
    manager = SessionManager.from_url(server.url, secret_key=KEY, namespace="shop")
    async with manager:
        first, new = manager.worker.id, await manager.create(data={"n": 1})
    async with manager:
        assert manager.worker.id != first
        assert (await Browser(new.token.value).visit(app_of(manager))).json == {"n": 1}


# ── how one is made ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_manager_without_arguments_keeps_sessions_in_memory() -> None:
    """Under a key of its own; `memory://` is the same."""
    assert not SessionManager().worker.store.is_remote
    assert not SessionManager.from_url("memory://").worker.store.is_remote


def test_an_unknown_scheme_lists_those_that_are_known() -> None:
    """So does a url without any."""
    for url in ("mysql://localhost", "localhost:6379", ""):
        with pytest.raises(ConfigError, match=r"memory://.*embedded://.*redis://.*rediss://.*unix://"):
            SessionManager.from_url(url, secret_key=KEY)


def test_a_shared_store_needs_a_secret_key() -> None:
    """The text says how to make one; a short one is refused."""
    with pytest.raises(ConfigError, match=r"secret_key=.*token_urlsafe"):
        SessionManager.from_url("redis://localhost")
    with pytest.raises(ConfigError, match="32"):
        SessionManager.from_url("redis://localhost", secret_key="short")
    with pytest.raises(ConfigError, match="empty"):
        SessionManager.from_url("redis://localhost", secret_key=[])


async def test_a_manager_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Url, namespace and keys, the first of which signs; what is passed counts more."""
    new = "another key, that signs from now on, 02"
    monkeypatch.setenv("SHOP_URL", server.url)
    monkeypatch.setenv("SHOP_NAMESPACE", "shop")
    monkeypatch.setenv("SHOP_SECRET_KEY", f"{new.replace(' ', '_')} {KEY.replace(' ', '_')}")
    manager = SessionManager.from_env("SHOP_", cookie=CookiePolicy.for_localhost())
    keys = manager.worker.keys
    assert (keys.namespace, len(keys.verifying), manager.cookie.name) == ("shop", 2, "session")
    assert SessionManager.from_env("SHOP_", namespace="other").worker.keys.namespace == "other"
    async with manager:
        assert (await manager.health()).ready


def test_a_passphrase_with_spaces_is_given_as_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment it would be several keys, each too short; what is given counts before it."""
    monkeypatch.setenv("EVSESSION_URL", "redis://localhost")
    monkeypatch.setenv("EVSESSION_SECRET_KEY", KEY)
    with pytest.raises(ConfigError, match=r"EVSESSION_SECRET_KEY is read as \d+ secrets"):
        SessionManager.from_env()
    assert len(SessionManager.from_env(secret_key=KEY).worker.keys.verifying) == 1
    monkeypatch.setenv("EVSESSION_SECRET_KEY", "k" * 32)
    monkeypatch.setenv("EVSESSION_AUDIT_KEY", KEY)
    with pytest.raises(ConfigError, match=r"EVSESSION_AUDIT_KEY is read as \d+ secrets"):
        SessionManager.from_env()


def test_every_option_can_be_given_with_a_url() -> None:
    """Type checkers know them there too: a new one of the constructor needs its line in `Options`."""
    named = {"self", "store", "namespace", "patience"}
    assert Options.__annotations__.keys() == signature(SessionManager.__init__).parameters.keys() - named


def test_an_environment_without_a_url_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of the variable."""
    monkeypatch.delenv("EVSESSION_URL", raising=False)
    with pytest.raises(ConfigError, match="EVSESSION_URL"):
        SessionManager.from_env()


async def test_a_manager_that_nobody_started_opens_at_the_first_need(server: Server) -> None:
    """Such as below a server that knows no lifespan: also when the first request of all is a write."""
    manager = SessionManager.from_url(server.url, secret_key=KEY, namespace="shop")
    browser = Browser()
    answer = await browser.visit(app_of(manager), lambda session: session.update(a=1))
    assert answer.status == 200
    assert (await browser.visit(app_of(manager))).json == {"a": 1}
    await manager.stop()


async def test_a_namespace_of_another_application_is_refused_at_start(server: Server) -> None:
    """Two shops in one namespace would read each other's sessions; nothing runs on afterwards."""
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="shop", application="shop"):
        pass
    with pytest.raises(ConfigError, match=r"'shop', not 'blog'.*namespace="):
        async with SessionManager.from_url(server.url, secret_key=KEY, namespace="shop", application="blog"):
            pass


async def test_other_keys_in_a_known_namespace_are_refused_at_start(server: Server) -> None:
    """A typing error in a key must not sign everybody out; with the old key beside the new one it is a rotation."""
    new = "another key, that signs from now on, 02"
    async with SessionManager.from_url(server.url, secret_key=KEY, namespace="shop"):
        pass
    with pytest.raises(ConfigError, match=r"secret_key=\[new, old\]"):
        await SessionManager.from_url(server.url, secret_key=new, namespace="shop").start()
    for keys in ([KEY, new], [new, KEY], [new]):
        async with SessionManager.from_url(server.url, secret_key=keys, namespace="shop") as manager:
            assert (await manager.health()).ready


async def test_a_server_that_is_away_is_no_error_at_start() -> None:
    """The worker keeps trying; a commit says that the store is away."""
    manager = SessionManager.from_url("redis://127.0.0.1:1/0", secret_key=KEY, patience=StorePolicy())
    async with manager:
        answer = await Browser().visit(app_of(manager), lambda session: session.update(a=1))
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert (await Browser().visit(app_of(manager))).status == 200
