"""What a store over three coroutines keeps of the contract, what its backend sees, and what it says that it cannot."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import anyio
import pytest

from evsession import (
    CachePolicy,
    ConfigError,
    CorruptSnapshot,
    SessionManager,
    SessionPolicy,
    StorePolicy,
    StoreUnavailable,
    Unsupported,
)
from evsession.store import Store
from evsession.stores.snapshots import COROUTINES, SnapshotStore, digest_of
from evsession.view import CONTROL, Beat
from evsession.wire import START
from tests.conftest import until
from tests.contract.builder import (
    HALF_DAY,
    HALF_HOUR,
    authenticated,
    begin,
    commit_of,
    created,
    ended,
    happened,
    opened,
    retried,
    state_of,
    stored,
    story,
    updated,
)
from tests.integration.apps import KEY, Act, Browser, app_of, setting
from tests.integration.lines import echo, signed_in, socket


@dataclass
class Service:
    """A backend in memory, which notes its calls; what it keeps goes through JSON as JavaScript writes it."""

    kept: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    before: Callable[[str], Any] | None = None

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        await anyio.lowlevel.checkpoint()
        if self.before is not None:
            await self.before(name)

    async def get_session_data(self, session_id: str) -> dict[str, Any] | None:
        await self._called("get")
        found = self.kept.get(session_id)
        return None if found is None else json.loads(found)

    async def save_session_data(self, session_id: str, data: dict[str, Any]) -> None:
        await self._called("save")
        self.kept[session_id] = json.dumps(data, sort_keys=True).replace(".0,", ",")

    async def delete_session_data(self, session_id: str) -> None:
        await self._called("delete")
        self.kept.pop(session_id, None)


class Time:
    """A clock that only the test moves, in ms."""

    now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def store(service: Service, time: Time) -> SnapshotStore:
    return SnapshotStore(service, clock=time)


# ── what it keeps of the contract ────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_committed_is_what_a_fill_brings(store: Store) -> None:
    """Bytes for bytes, whatever the service did to the JSON around them."""
    commit, after = commit_of(begin(), created(price=1.0, cart=["tea"]))
    reply = await store.commit(commit)
    packed = (await store.fill(after.sid)).packed
    assert (reply.status, reply.sid, packed) == ("ok", after.sid, commit.prefix + reply.tail + commit.body)
    assert packed is not None
    assert state_of(opened(after.sid, packed)) == after


async def test_deadlines_move_as_in_a_log(store: Store, time: Time) -> None:
    """An update slides the idle one, a login sets both, the stamps are the store's."""
    first, state = await happened(store, begin(), created())
    time.now += 1_000
    _, state = await happened(store, state, updated(a=1), idle=2 * HALF_HOUR)
    found = await stored(store, state.sid)
    assert (found.absolute_at, found.idle_at) == (first.now + HALF_DAY, time.now + 2 * HALF_HOUR)
    time.now += 1_000
    _, state = await happened(store, state, authenticated("42"), absolute=2 * HALF_DAY)
    found = await stored(store, state.sid)
    assert (found.created_at, found.authenticated_at) == (first.now, time.now)
    assert found.absolute_at == time.now + 2 * HALF_DAY


async def test_another_head_is_a_conflict(store: Store) -> None:
    """With the snapshot as it is, so that the caller rebases."""
    state = await story(store, [created(a=1)])
    _, newer = await happened(store, state, updated(a=2))
    reply = await store.commit(commit_of(state, updated(b=3))[0])
    assert (reply.status, state_of(opened(state.sid, reply.packed))) == ("conflict", newer)


async def test_a_retry_of_what_happened_happens_once(store: Store, service: Service) -> None:
    """Its event stands there already: told by the id, whatever the attempt."""
    state = await story(store, [created(a=1)])
    commit, after = commit_of(state, updated(a=2))
    await store.commit(commit)
    service.calls.clear()
    reply = await store.commit(retried(commit))
    assert (reply.status, state_of(opened(state.sid, reply.packed))) == ("ok", after)
    assert service.calls == ["get"]


async def test_a_retried_creation_is_found_too(store: Store) -> None:
    """The first attempt of one asks nothing: its id is new."""
    commit, after = commit_of(begin(), created(a=1))
    await store.commit(commit)
    reply = await store.commit(retried(commit))
    assert (reply.status, state_of(opened(after.sid, reply.packed))) == ("ok", after)


async def test_what_has_ended_is_gone(store: Store, service: Service) -> None:
    """Nothing is kept of it, and nothing brings it back."""
    state = await story(store, [created(a=1)])
    late = commit_of(state, updated(a=2))[0]
    await happened(store, state, ended("logout"))
    assert service.kept == {}
    assert (await store.commit(late)).status == "gone"
    assert (await store.touch(state.sid, HALF_DAY)).deadlines is None
    assert service.kept == {}


async def test_past_a_deadline_it_is_over(store: Store, time: Time, service: Service) -> None:
    """A change is refused; who asks for it deletes it."""
    state = await story(store, [created(a=1)])
    assert (await store.commit(commit_of(state, ended("idle"), condition="idle")[0])).status == "alive"
    time.now += HALF_HOUR
    assert (await store.commit(commit_of(state, updated(a=2))[0])).status == "ended"
    assert (await store.touch(state.sid, HALF_HOUR)).deadlines is None
    assert service.kept
    assert (await store.fill(state.sid)).packed is None
    assert service.kept == {}


async def test_a_touch_moves_the_idle_deadline_and_nothing_else(store: Store, time: Time) -> None:
    """Never back, and the head stands."""
    state = await story(store, [created(a=1)])
    before = await stored(store, state.sid)
    for idle, expected in ((2 * HALF_HOUR, time.now + 2 * HALF_HOUR), (1, time.now + 2 * HALF_HOUR)):
        assert (await store.touch(state.sid, idle)).deadlines == (expected, before.absolute_at)
    assert await stored(store, state.sid) == before._replace(idle_at=time.now + 2 * HALF_HOUR)


async def test_within_a_process_nothing_comes_between(store: Store) -> None:
    """Of two commits on one base one is told of the other; a touch does not overwrite what was committed meanwhile."""
    state = await story(store, [created(a=1)])
    commits = [commit_of(state, updated(**{name: 1}))[0] for name in "bc"]
    statuses: list[str] = []

    async def one(commit: Any) -> None:
        statuses.append((await store.commit(commit)).status)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one, commits[0])
        tasks.start_soon(store.touch, state.sid, HALF_DAY)
        tasks.start_soon(one, commits[1])
    found = await stored(store, state.sid)
    assert sorted(statuses) == ["conflict", "ok"]
    assert (len(found.snapshot.data), found.idle_at - found.created_at) == (2, HALF_DAY)


async def test_of_two_processes_the_last_one_wins(service: Service) -> None:
    """As is said wherever such a store is offered: between the look and the save another one may have saved."""
    ours, theirs = SnapshotStore(service), SnapshotStore(service)
    state = await story(ours, [created(a=1)])
    their_commit, _ = commit_of(state, updated(b=1))

    async def before(name: str) -> None:
        if name == "save":
            service.before = None
            assert (await theirs.commit(their_commit)).status == "ok"

    service.before = before
    assert (await ours.commit(commit_of(state, updated(c=1))[0])).status == "ok"
    assert (await stored(ours, state.sid)).snapshot.data == {"a": 1, "c": 1}


# ── what the backend sees, and does ──────────────────────────────────────────────────────────────────────────────────


async def test_the_backend_sees_a_digest_and_plain_json(store: Store, service: Service, time: Time) -> None:
    """Neither id nor secret; when it may be deleted stands in it as a number."""
    state = await story(store, [created(name="Ada")])
    ((key, text),) = service.kept.items()
    assert (key, len(key)) == (digest_of(state.sid), 64)
    assert state.sid not in text
    found = json.loads(text)
    assert found["expires_at"] == time.now + HALF_HOUR
    assert json.loads(found["body"])["d"] == {"name": "Ada"}


@pytest.mark.parametrize(
    "found",
    [
        {}, {"header": "AA==", "body": "{}", "event": ""}, {"header": 1, "body": "", "event": ""},
        {"header": "!", "body": "{}", "event": ""}, {"header": "A" * 168, "body": None, "event": ""}, [1], "text",
    ],
)  # fmt: skip
async def test_what_is_no_snapshot_is_refused(store: Store, service: Service, found: Any) -> None:
    """It is not taken for no session: somebody else wrote it."""
    sid = begin().sid
    service.kept[digest_of(sid)] = json.dumps(found)
    with pytest.raises(CorruptSnapshot):
        await store.fill(sid)


async def test_a_header_that_was_cut_is_refused(store: Store, service: Service) -> None:
    """Although everything that is read of it is there."""
    state = await story(store, [created(a=1)])
    found = json.loads(service.kept[digest_of(state.sid)])
    found["header"] = found["header"][:-4]
    service.kept[digest_of(state.sid)] = json.dumps(found)
    with pytest.raises(CorruptSnapshot):
        await store.fill(state.sid)


async def test_an_answer_for_another_session_is_refused(service: Service) -> None:
    """A backend that mixes up its replies hands nobody a stranger's session: the head covers the id."""
    manager = SessionManager(SnapshotStore(service), secret_key=KEY)
    browsers = [Browser(), Browser()]
    async with manager:
        app = app_of(manager)
        for n, browser in enumerate(browsers):
            await browser.visit(app, setting(n=n))
        one, two = (digest_of(browser.session_id) for browser in browsers)
        service.kept[one], service.kept[two] = service.kept[two], service.kept[one]
        assert [(await browser.visit(app)).status for browser in browsers] == [503, 503]


@pytest.mark.parametrize("error", [OSError("away"), KeyError("bug"), ConnectionResetError()])
async def test_whatever_a_backend_raises_is_an_outage(
    store: Store, service: Service, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged with its traceback; of a write nobody knows whether it happened."""
    state = await story(store, [created()])

    def failing_at(call: str) -> Callable[[str], Any]:
        async def before(name: str) -> None:
            if name == call:
                raise error

        return before

    for call, is_unknown in (("get", False), ("save", True)):
        service.before = failing_at(call)
        with caplog.at_level(logging.ERROR), pytest.raises(StoreUnavailable, match=type(error).__name__) as raised:
            await store.commit(commit_of(state, updated(a=1))[0])
        assert raised.value.outcome_unknown is is_unknown
    assert "Traceback" in caplog.text


async def test_an_error_of_ours_is_passed_on(store: Store, service: Service) -> None:
    """A backend that cannot do something may say so in our words."""

    async def before(_: str) -> None:
        raise Unsupported("this", "do that")

    service.before = before
    with pytest.raises(Unsupported, match="do that"):
        await store.fill(begin().sid)


async def test_a_backend_gets_as_long_as_a_command(service: Service) -> None:
    """Then the request is refused, not kept waiting."""
    store = SnapshotStore(service, policy=StorePolicy(command_timeout=timedelta(milliseconds=10)))

    async def before(_: str) -> None:
        await anyio.sleep_forever()

    service.before = before
    with pytest.raises(StoreUnavailable, match=r"did not answer within 0:00:00\.01"):
        await store.fill(begin().sid)


@pytest.mark.parametrize("name", COROUTINES)
def test_a_backend_needs_all_three(name: str) -> None:
    """Said at start, with the name."""
    backend = type("Backend", (), {other: None for other in COROUTINES if other != name})
    for given in (backend(), object(), None):
        with pytest.raises(ConfigError, match=name):
            SnapshotStore(given)  # type: ignore[arg-type]


# ── what needs a log ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.read("00", START, 1),
        lambda store: store.lines("00", START.id, 1),
        lambda store: store.counters("00"),
        lambda store: store.snapshots(0, 1),
        lambda store: store.walk(begin().sid, 1),
        lambda store: store.take_turn("00", "archive", "me", 1),
        lambda store: store.give_turn("00", "archive", "me", 1),
        lambda store: store.advance("00", "archive", "me", 1, b""),
        lambda store: store.checkpoint("00", "archive"),
        lambda store: store.members("42"),
        lambda store: store.users(),
        lambda store: store.deadline(begin().sid),
        lambda store: store.witness("00", START),
        lambda store: store.restore(commit_of(begin(), created())[0], b""),
    ],
)
async def test_what_needs_a_log_says_so(store: Store, ask: Callable[[Store], Any]) -> None:
    """And what to do instead."""
    with pytest.raises(Unsupported, match="a snapshot backend keeps no log: give the sessions a server"):
        await ask(store)


async def test_what_a_manager_cannot_do_without_a_log(service: Service) -> None:
    """Each says so, and changes nothing; a session by itself can be revoked all the same."""
    async with SessionManager(SnapshotStore(service), secret_key=KEY) as manager:
        browser = Browser()
        await browser.visit(app_of(manager), lambda session: session.login(42))
        for ask in (manager.revoke_user(42), manager.revoke_everyone(), manager.revoke_named("tenant", "acme")):
            with pytest.raises(Unsupported, match=r"url='redis://…'"):
                await ask
        with pytest.raises(Unsupported, match=r"url='redis://…'"):
            await manager.sessions_of(42)
        assert (await browser.visit(app_of(manager), lambda session: session.info.user_id)).json == "42"
        await manager.revoke(browser.session_id)
        assert service.kept == {}
    with pytest.raises(Unsupported, match=r"url='redis://…'"):
        SessionManager(SnapshotStore(service), secret_key=KEY, policy=SessionPolicy(max_sessions=3))


async def test_what_needs_none_does_nothing(store: Store) -> None:
    """So that a worker runs: nothing is due, nothing to trim, no records, and every heartbeat is answered."""
    assert (await store.due("00", 1), await store.trim("00", 1), await store.records("00")) == ((), 0, {})
    await store.settle("00", begin().sid)
    await store.forget("00", "worker", b"")
    assert [reply.end for reply in await store.heartbeat([Beat(CONTROL, None), Beat("00", START)])] == [START, START]


# ── a worker on it ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_serves_its_sessions(service: Service) -> None:
    """Set, read, sign in, sign out; each request asks the backend, and none believes what is not there any more."""
    async with SessionManager(SnapshotStore(service), secret_key=KEY) as manager:
        app, browser = app_of(manager), Browser()
        await browser.visit(app, lambda session: session.update(cart=["tea"]))
        assert service.calls == ["save"]
        await browser.visit(app, lambda session: session["cart"].append("milk"))
        assert service.calls == ["save", "get", "get", "save"]
        old = browser.twin()
        await browser.visit(app, lambda session: session.login(42))
        assert (await browser.visit(app)).json == {"cart": ["tea", "milk"]}
        assert (await old.visit(app)).json == {}
        with pytest.raises(Unsupported, match="the history of a session"):
            await manager.audit.history(browser.session_id)
        left = browser.twin()
        await browser.visit(app, lambda session: session.logout())
        assert service.kept == {}
        assert (await left.visit(app)).json == {}
        assert manager.stats().cache.forks == 0


async def test_what_another_process_did_is_seen_at_once(service: Service) -> None:
    """Nothing is cached, since nobody would tell."""
    stores = [SnapshotStore(service), SnapshotStore(service)]
    one, two = (SessionManager(store, secret_key=KEY) for store in stores)
    async with one, two:
        browser = Browser()
        await browser.visit(app_of(one), lambda session: session.update(n=1))
        assert (await browser.twin().visit(app_of(two))).json == {"n": 1}
        await browser.visit(app_of(one), lambda session: session.update(n=2))
        assert (await browser.twin().visit(app_of(two))).json == {"n": 2}
        await one.revoke(browser.session_id)
        assert (await browser.visit(app_of(two))).json == {}
        assert await two.get(browser.session_id) is None


async def test_100_requests_at_once_lose_nothing_in_one_process(service: Service) -> None:
    """Each sets its own key."""
    async with SessionManager(SnapshotStore(service), secret_key=KEY) as manager:
        app, browser = app_of(manager), Browser()
        await browser.visit(app, lambda session: session.update(n=0))

        async def one(number: int) -> None:
            await browser.twin().visit(app, lambda session: session.update({f"key{number}": number}))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(one, number)
        assert len((await browser.visit(app)).json) == 101


@pytest.mark.parametrize(
    ("act", "reason"),
    [(lambda session: session.logout(), "absolute"), (lambda session: session.login("ann"), "replaced")],
)
async def test_a_socket_closes_with_a_session_that_another_process_ended(
    service: Service, act: Act, reason: str
) -> None:
    """Nothing tells of it, so the backend is asked, once in each `max_staleness`; why it is gone nobody knows."""
    quick = CachePolicy(max_staleness=timedelta(milliseconds=150))
    one, two = (SessionManager(SnapshotStore(service), secret_key=KEY, cache=quick) for _ in range(2))
    async with one, two:
        browser = await signed_in(one)
        async with socket(one, browser, echo) as open_:
            asked = service.calls.count("get")
            await until(lambda: service.calls.count("get") >= asked + 2, "the backend to be asked twice")
            await open_.say("still here")
            await until(lambda: open_.texts == ["still here"], "the echo")
            await browser.twin().visit(app_of(two), act)
            await open_.over()
            assert open_.last == {"type": "websocket.close", "code": 4401, "reason": reason}
