"""How many sessions a user may have: the oldest ends, or the login is refused, also when many sign in at once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from evsession import Session, SessionEnded, SessionLimitReached, SessionManager, SessionPolicy, Unsupported
from evsession.errors import StoreUnavailable
from evsession.index import IN_FLIGHT_MS
from evsession.store import Commit, CommitReply
from evsession.stores.memory import MemoryStore
from evsession.stores.snapshots import SnapshotStore
from evsession.tokens import new_sid
from evsession.wire import START
from tests.integration.apps import Answer, Browser, Clock, app_of, in_memory, types_of
from tests.integration.rivals import MAX_STALENESS, manager_of
from tests.integration.test_round_trips import worker_on
from tests.servers import Server

ROOT = Path(__file__).parents[2]
DAY = 86_400_000
TWO = SessionPolicy(max_sessions=2)
NO_MORE_THAN_TWO = SessionPolicy(max_sessions=2, on_limit="reject")


async def sign_in(manager: SessionManager, user: object = 42, browser: Browser | None = None) -> tuple[Browser, Answer]:
    """Return the browser in which a user tried to sign in, and the answer."""
    browser = browser or Browser()
    return browser, await browser.visit(app_of(manager), lambda session: session.login(user))


async def who(manager: SessionManager, browser: Browser) -> str | None:
    """Return as whom a browser is served."""
    user: str | None = (await browser.visit(app_of(manager), lambda session: session.info.user_id)).json
    return user


# ── evict_oldest ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_one_that_signed_in_longest_ago_ends(clock: Clock) -> None:
    """It says why: cause, reason, and by whom; others go on, and so does the one that signed in again."""
    manager = in_memory(clock=clock, policy=TWO)
    browsers = []
    for _ in range(2):
        browsers.append((await sign_in(manager))[0])
        clock.advance(seconds=1)
    await sign_in(manager, browser=browsers[0])
    clock.advance(seconds=1)
    browsers.append((await sign_in(manager))[0])
    assert [await who(manager, browser) for browser in browsers] == ["42", None, "42"]
    last = (await manager.audit.history(browsers[1].session_id))[-1]
    assert (last.cause, last.reason, last.actor and last.actor.id) == ("evicted", "max_sessions=2", "max_sessions")
    assert {info.id for info in await manager.sessions_of(42)} == {browsers[0].session_id, browsers[2].session_id}


async def test_users_do_not_evict_each_other(clock: Clock) -> None:
    """Nor does an anonymous session count."""
    manager = in_memory(clock=clock, policy=SessionPolicy(max_sessions=1))
    ann, bob = [(await sign_in(manager, user))[0] for user in ("ann", "bob")]
    await manager.create(data={"cart": []})
    assert (await who(manager, ann), await who(manager, bob)) == ("ann", "bob")


@pytest.mark.parametrize("way", ["login", "detected", "create"])
async def test_every_way_of_signing_in_counts(clock: Clock, way: str) -> None:
    """By a call, by the data, or without a request."""
    manager = in_memory(clock=clock, policy=SessionPolicy(max_sessions=1))
    first, _ = await sign_in(manager)
    clock.advance(seconds=1)
    match way:
        case "login":
            await sign_in(manager)
        case "detected":
            await Browser().visit(app_of(manager), lambda session: session.update(user_id=42))
        case _:
            await manager.create(user_id=42)
    assert await who(manager, first) is None
    assert (await manager.audit.history(first.session_id))[-1].cause == "evicted"


async def test_sessions_that_are_over_take_no_place(clock: Clock) -> None:
    """Whoever signed out, expired, or never got further than the index."""
    manager = in_memory(clock=clock, policy=TWO)
    kept, _ = await sign_in(manager)
    await manager.worker.store.enter("42", new_sid("00", bytes(16)), DAY)
    gone, _ = await sign_in(manager)
    over = gone.session_id
    await gone.visit(app_of(manager), Session.logout)
    await manager.worker.store.enter("42", over, DAY)
    await sign_in(manager)
    assert await who(manager, kept) == "42"


async def test_a_lower_limit_takes_hold_with_the_next_login(clock: Clock) -> None:
    """However many there were."""
    store = MemoryStore(clock=clock.server)
    before = in_memory(store, clock=clock)
    browsers = []
    for _ in range(5):
        browsers.append((await sign_in(before))[0])
        clock.advance(seconds=1)
    manager = in_memory(store, clock=clock, policy=TWO)
    assert (await sign_in(manager))[1].status == 200
    assert [await who(manager, browser) for browser in browsers] == [None] * 4 + ["42"]


class SlowStore(MemoryStore):
    """Lets another login pass between a commit and whatever follows it."""

    between: Any = None

    async def commit(self, commit: Commit) -> CommitReply:
        between, self.between, entrance = self.between, None, commit.entrance
        if entrance is None or between is None:
            return await super().commit(commit)
        reply = await super().commit(commit._replace(entrance=replace(entrance, counts=False)))
        await between()
        return reply._replace(found=await self.enter(entrance.user, commit.sid, entrance.keep))


async def test_a_login_that_newer_ones_have_overtaken_is_itself_the_oldest(clock: Clock) -> None:
    """It has ended by the time it would be answered, and is told so: 503 and no cookie."""
    store = SlowStore(clock=clock.server)
    manager, other = (in_memory(store, clock=clock, policy=TWO) for _ in range(2))
    others = list[Browser]()

    async def two_others() -> None:
        clock.advance(seconds=1)
        others.extend([(await sign_in(other))[0] for _ in range(2)])

    store.between = two_others
    late, answer = await sign_in(manager)
    assert (answer.status, late.token) == (503, None)
    assert [await who(manager, browser) for browser in others] == ["42", "42"]


async def test_an_overtaken_login_raises_at_save(clock: Clock) -> None:
    """Where the handler asked."""
    store = SlowStore(clock=clock.server)
    manager, other = (in_memory(store, clock=clock, policy=SessionPolicy(max_sessions=1)) for _ in range(2))

    async def act(session: Session) -> None:
        session.login(42)
        with pytest.raises(SessionEnded, match="newer sessions") as caught:
            await session.save()
        assert caught.value.cause == "evicted"

    async def another() -> None:
        clock.advance(seconds=1)
        await sign_in(other)

    store.between = another
    await Browser().visit(app_of(manager), act)


# ── reject ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_login_beyond_the_limit_is_refused(clock: Clock) -> None:
    """403 and no cookie; nothing was written, and an anonymous session with its cart goes on."""
    manager = in_memory(clock=clock, policy=NO_MORE_THAN_TWO)
    inside = [(await sign_in(manager))[0] for _ in range(2)]
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.update(cart=["tea"]))
    _, answer = await sign_in(manager, browser=browser)
    assert (answer.status, answer.set_cookie, answer.header("retry-after")) == (403, None, None)
    assert b"sign out" in answer.body
    assert (await browser.visit(app_of(manager))).json == {"cart": ["tea"]}
    assert await types_of(manager, browser.session_id) == ["created"]
    assert [await who(manager, one) for one in inside] == ["42", "42"]
    assert len((await manager.worker.store.members("42")).members) == 2
    await inside[0].visit(app_of(manager), Session.logout)
    assert (await sign_in(manager, browser=browser))[1].status == 200
    assert (await browser.visit(app_of(manager))).json == {"cart": ["tea"]}


async def test_a_refused_change_of_user_leaves_the_other_signed_in(clock: Clock) -> None:
    """It is refused before the old session would end."""
    manager = in_memory(clock=clock, policy=NO_MORE_THAN_TWO)
    for _ in range(2):
        await sign_in(manager)
    browser, _ = await sign_in(manager, "bob")
    assert (await sign_in(manager, 42, browser))[1].status == 403
    assert await who(manager, browser) == "bob"


async def test_who_is_inside_may_sign_in_again(clock: Clock) -> None:
    """As for a recent login: that takes no further place."""
    manager = in_memory(clock=clock, policy=NO_MORE_THAN_TWO)
    inside = [(await sign_in(manager))[0] for _ in range(2)]
    for browser in inside:
        assert (await sign_in(manager, browser=browser))[1].status == 200
    assert [await who(manager, browser) for browser in inside] == ["42", "42"]


async def test_a_refusal_raises_where_the_program_asked(clock: Clock) -> None:
    """With the way out."""
    manager = in_memory(clock=clock, policy=SessionPolicy(max_sessions=1, on_limit="reject"))
    await manager.create(user_id=42)
    with pytest.raises(SessionLimitReached, match="on_limit='evict_oldest'") as caught:
        await manager.create(user_id=42)
    assert (caught.value.limit, caught.value.what) == (1, "max_sessions")

    async def act(session: Session) -> None:
        session.login(42)
        with pytest.raises(SessionLimitReached):
            await session.save()
        session.logout()

    assert (await Browser().visit(app_of(manager), act)).status == 200


async def test_a_login_that_died_on_its_way_takes_a_place_for_seconds(clock: Clock) -> None:
    """Until then nobody knows that it will never commit."""
    manager = in_memory(clock=clock, policy=SessionPolicy(max_sessions=1, on_limit="reject"))
    await manager.worker.store.enter("42", new_sid("00", bytes(16)), DAY)
    assert (await sign_in(manager))[1].status == 403
    clock.advance(seconds=IN_FLIGHT_MS / 1000 + 1)
    assert (await sign_in(manager))[1].status == 200
    assert len((await manager.worker.store.members("42")).members) == 1


async def test_a_login_that_was_taken_for_dead_does_not_come_back_beside_another(clock: Clock) -> None:
    """Its worker stood still between the look and the commit; its place has gone to somebody else."""
    store = MemoryStore(clock=clock.server)
    policy = SessionPolicy(max_sessions=1, on_limit="reject")
    manager, other = (in_memory(store, clock=clock, policy=policy) for _ in range(2))
    enter, answers = store.enter, list[Answer]()

    async def stand_still(*args: Any, **options: Any) -> Any:
        entered = await enter(*args, **options)
        store.enter = enter  # type: ignore[method-assign]
        clock.advance(seconds=IN_FLIGHT_MS / 1000 + 1)
        answers.append((await sign_in(other))[1])
        return entered

    store.enter = stand_still  # type: ignore[method-assign]
    late, answer = await sign_in(manager)
    assert [one.status for one in (*answers, answer)] == [200, 403]
    assert late.token is None
    assert len(await manager.sessions_of(42)) == 1


# ── many at once ─────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _rival(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.integration.rivals", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def compete(url: str, *numbers: int) -> list[tuple[str, int, str | None]]:
    """Return what four processes were answered that signed the same users in at the same moment."""
    with ExitStack() as stack:
        rivals = [stack.enter_context(_rival(url, *map(str, numbers))) for _ in range(4)]
        for rival in rivals:
            assert rival.stdout is not None
            assert rival.stdout.readline() == "ready\n"
        for rival in rivals:
            assert rival.stdin is not None
            rival.stdin.write("go\n")
            rival.stdin.flush()
        outputs = [rival.communicate(timeout=120)[0] for rival in rivals]
    return [tuple(json.loads(line)) for output in outputs for line in output.splitlines()]


async def test_parallel_logins_of_four_processes_keep_the_limit(server: Server) -> None:
    """Never more than three of twelve are served, and never fewer: whoever gave way did so for another."""
    users, at_once, most = 15, 3, 3
    logins = await asyncio.to_thread(compete, server.url, users, at_once, most)
    manager = manager_of(server.url, "reject", most)
    async with manager:
        served, seen = Counter[str](), Counter[tuple[str, int]]()
        for user, status, token in logins:
            assert (token is None) == (status != 200)
            served[user] += token is not None and await who(manager, Browser(token)) == user
            seen[user.partition(" ")[0], status] += 1
        assert served == dict.fromkeys((f"{way} {n}" for way in ("evict_oldest", "reject") for n in range(users)), most)
        assert (seen["reject", 200], seen["reject", 403]) == (users * most, users * (4 * at_once - most))
        assert seen["evict_oldest", 200] + seen["evict_oldest", 503] == users * 4 * at_once
        ends = [entry.data for entry in await manager.worker.store.read("00", START, 10_000) if entry.type == "ended"]
        assert len(ends) == users * (4 * at_once - most)
        assert all(b'"cause":"evicted"' in data for data in ends)


async def test_another_worker_serves_an_evicted_session_for_max_staleness_at_most(server: Server) -> None:
    """As after every end: from its memory, and no longer than that."""
    one, two = (manager_of(server.url, "evict_oldest", 1) for _ in range(2))
    async with one, two:
        first, _ = await sign_in(one)
        assert await who(two, first) == "42"
        await sign_in(one)
        await asyncio.sleep(MAX_STALENESS.total_seconds())
        assert await who(two, first) is None


# ── what it costs, and where there is none ───────────────────────────────────────────────────────────────────────────


async def test_a_login_within_the_limit_is_one_round_trip(server: Server) -> None:
    """It enters, commits, and learns who else is there, in one write; a refusal takes a look before it."""
    async with worker_on(server, policy=SessionPolicy(max_sessions=1000)) as worker:
        assert await worker.cost(lambda: sign_in(worker.manager)) == (3, 1)
    async with worker_on(server, policy=SessionPolicy(max_sessions=1000, on_limit="reject")) as worker:
        assert await worker.cost(lambda: sign_in(worker.manager)) == (4, 2)


async def test_an_outage_while_the_limit_is_kept_hands_out_no_token(clock: Clock) -> None:
    """The session that was begun is served to nobody."""
    manager = in_memory(clock=clock, policy=SessionPolicy(max_sessions=1))
    await sign_in(manager)

    async def away(sid: str, **options: Any) -> None:
        raise StoreUnavailable(timedelta(seconds=1))

    manager.worker.replica.fill = away  # type: ignore[method-assign]
    browser, answer = await sign_in(manager)
    assert (answer.status, browser.token) == (503, None)


def test_a_snapshot_backend_can_count_nobody() -> None:
    """It has no index."""

    class Backend:
        async def get_session_data(self, session_id: str, /) -> dict[str, Any] | None: ...
        async def save_session_data(self, session_id: str, data: dict[str, Any], /) -> object: ...
        async def delete_session_data(self, session_id: str, /) -> object: ...

    with pytest.raises(Unsupported, match="redis://"):
        SessionManager(SnapshotStore(Backend()), secret_key="k" * 32, policy=TWO)
