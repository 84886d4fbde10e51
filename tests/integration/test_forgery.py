"""Who can write to the server without our keys, and what a newer version writes, must never become a session."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from evsession import CookiePolicy, Session, SessionManager
from evsession.codec import HEADER_LENGTH
from evsession.errors import UnknownFormat
from evsession.events import Updated
from evsession.wire import pack_notice, split_message
from tests.conftest import until
from tests.integration.apps import KEY, Browser, app_of, in_memory, logged, setting, tap, two_workers, types_of
from tests.servers import Server

Workers = tuple[SessionManager, SessionManager]


@pytest.fixture
async def workers(server: Server) -> AsyncIterator[Workers]:
    """Two workers in step: both subscriptions of each are confirmed, and what they may have missed is repaired."""
    async with two_workers(server.url) as both:
        for manager in both:
            await until(lambda manager=manager: _is_in_step(manager), "the feeds")  # type: ignore[misc]
        yield both


def _is_in_step(manager: SessionManager) -> bool:
    cache = manager.worker.cache
    return cache.stats.gaps >= 2 and not any(view.gap for view in cache.views.values())


async def _begun(manager: SessionManager, **data: Any) -> Browser:
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.update(data))
    return browser


def _snapshot_key(sid: str) -> str:
    return f"{{shop:00}}:s:{sid}"


# ── the feed ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _publish(server: Server, message: bytes) -> None:
    """Publish on the channel of the sessions' shard, where both workers listen."""
    (channel,) = server.cli("PUBSUB", "CHANNELS", "{shop:00}:feed:*")
    assert server.cli("PUBLISH", channel, message) == 2


def _message(server: Server, part: bytes) -> bytes:
    """Return a message that continues the log as it stands now."""
    id_, _, event = server.cli("GET", "{shop:00}:end").partition(b" ")
    return b"%b %b0 %d\n%b%b" % (id_, id_, len(part), event, part)


def _part(manager: SessionManager, sid: str, key: bytes) -> bytes:
    """Return a worker's part that says in every right way that a session got a new key."""
    cached = manager.worker.cache.newest(sid)
    assert cached is not None
    stored = cached.stored
    return pack_notice(
        key, sid=sid, version=stored.snapshot.version + 1, previous_head=stored.head, head=b"h" * 16, link=b"l" * 16,
        event_id=b"e" * 16, key_id=manager.worker.keys.key_id, type_="updated", data=b'{"set":{"admin":true}}',
    )  # fmt: skip


@pytest.mark.parametrize("cut", [0, 1, 40])
async def test_a_message_without_our_key_changes_nothing(server: Server, workers: Workers, cut: int) -> None:
    """It is counted, the log is read instead, and the feed goes on."""
    one, two = workers
    browser = await _begun(one, owner="ann")
    assert (await browser.visit(app_of(two))).json == {"owner": "ann"}
    part = _part(two, browser.session_id, b"somebody else's key, 32 bytes...")
    _publish(server, _message(server, part[cut:]))
    for manager in workers:
        stats = manager.stats
        await until(lambda stats=stats: stats().cache.forged == 1, "the forgery to be seen")  # type: ignore[misc]
        assert (await browser.visit(app_of(manager))).json == {"owner": "ann"}
    last = await _until_folded(two, one, browser)
    assert (await browser.visit(app_of(two))).json == {"owner": "ann", "n": last}


async def _until_folded(reads: SessionManager, writes: SessionManager, browser: Browser) -> int:
    """Count up on one worker until the feed has brought the other a number, and return the last one."""
    folded, number = reads.stats().cache.folded, 0

    async def is_folded() -> bool:
        nonlocal number
        number += 1
        await browser.visit(app_of(writes), setting(n=number))
        return reads.stats().cache.folded > folded

    await until(is_folded, "a message to be folded")
    return number


@pytest.mark.parametrize("message", [b"", b"\n", b"x" * 100, b"0-0 1-1 -5\n", b"0-0 1-1 99999999999\n", b"\xff" * 50])
async def test_rubbish_on_the_channel_changes_nothing(server: Server, workers: Workers, message: bytes) -> None:
    """Whatever it is."""
    one, two = workers
    browser = await _begun(one, owner="ann")
    assert (await browser.visit(app_of(two))).json == {"owner": "ann"}
    _publish(server, message)
    await browser.visit(app_of(one), lambda session: session.update(n=1))
    assert (await browser.visit(app_of(two))).json == {"owner": "ann", "n": 1}


async def test_the_replay_of_a_genuine_message_under_a_new_id_does_no_harm(server: Server, workers: Workers) -> None:
    """Ids are not tagged, so a worker may be led astray for a moment; what it serves is never older for it."""
    one, two = workers
    browser = await _begun(one, n=0)
    await browser.visit(app_of(two))
    with tap(server) as heard:
        await browser.visit(app_of(one), lambda session: session.update(n=1))
        ((_, message),) = heard(1)
        ((_, _, part),) = split_message(message)
    await browser.visit(app_of(one), lambda session: session.update(n=2))
    _publish(server, _message(server, part))
    for number in range(3, 6):
        assert (await browser.visit(app_of(two))).json == {"n": number - 1}
        await browser.visit(app_of(one), setting(n=number))
    unfenced = Browser(str(browser.token).partition("~")[0])

    async def is_new() -> bool:
        return bool((await unfenced.visit(app_of(two))).json == {"n": 5})

    await until(is_new, "the second worker to be in step again")
    await _until_folded(two, one, browser)


# ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _promoted(packed: bytes) -> bytes:
    return packed.replace(b'"role":"user"', b'"role":"root"')


def _other_user(packed: bytes) -> bytes:
    return packed.replace(b'"u":"1"', b'"u":"2"')


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "another value": _promoted,
    "another user": _other_user,
    "another version": lambda packed: packed[:39] + b"0000000009" + packed[49:],
    "another key id": lambda packed: packed[:2] + b"beef" + packed[6:],
    "another status": lambda packed: packed[:38] + b"E" + packed[39:],
    "no body": lambda packed: packed[:HEADER_LENGTH],
    "no JSON": lambda packed: packed[:HEADER_LENGTH] + b"{" * 50,
    "a list": lambda packed: packed[:HEADER_LENGTH] + b"[]",
    "a byte": lambda packed: b"\x00",
    "nothing": lambda packed: b"",
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_snapshot_that_somebody_changed_is_never_served(
    server: Server, workers: Workers, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with Retry-After, and an alarm in the log."""
    one, two = workers
    browser = Browser()
    await browser.visit(app_of(one), lambda session: session.login(1) or session.update(role="user"))
    key = _snapshot_key(browser.session_id)
    packed = server.cli("GET", key)
    forged = FORGERIES[name](packed)
    assert forged != packed
    server.cli("SET", key, forged, "KEEPTTL")
    answer = await browser.visit(app_of(two))
    assert (answer.status, answer.header("retry-after"), answer.set_cookie) == (503, "1", None)
    assert b"root" not in answer.body
    (alarm,) = logged(caplog, logging.CRITICAL)
    assert browser.session_id in alarm.getMessage()
    server.cli("SET", key, packed, "KEEPTTL")
    assert (await browser.visit(app_of(two))).json == {"role": "user"}


async def test_the_snapshot_of_another_session_is_never_served(server: Server, workers: Workers) -> None:
    """Nor can one's own be put in the place of an admin's, or the other way round."""
    one, two = workers
    admin = await _begun(one, role="root")
    mine = await _begun(one, role="user")
    server.cli("SET", _snapshot_key(mine.session_id), server.cli("GET", _snapshot_key(admin.session_id)))
    assert (await mine.visit(app_of(two))).status == 503


async def test_a_write_that_meets_a_forged_snapshot_is_dropped(
    server: Server, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    """Not merged into it: 503 before the response has started."""
    one, _ = workers
    browser = await _begun(one, role="user")
    key = _snapshot_key(browser.session_id)
    packed = server.cli("GET", key)

    def act(session: Session) -> None:
        session["n"] = 1
        server.cli("SET", key, packed[:6] + b"h" * 16 + _promoted(packed)[22:])

    answer = await browser.visit(app_of(one), act)
    assert (answer.status, answer.header("retry-after"), answer.set_cookie) == (503, "1", None)
    assert '["n"]' in caplog.text
    assert one.stats().counts.dropped_changes == 1


# ── newer versions ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_snapshot_of_a_newer_format_is_told_to_upgrade(server: Server, workers: Workers) -> None:
    """503, never "no session": the browser keeps its cookie, others are served, and the feed goes on."""
    one, two = workers
    browser, other = await _begun(one, n=0), await _begun(one, n=0)
    await other.visit(app_of(two))
    key = _snapshot_key(browser.session_id)
    packed = server.cli("GET", key)
    server.cli("SET", key, b"02" + packed[2:])
    answer = await browser.visit(app_of(two))
    assert (answer.status, answer.set_cookie) == (503, None)
    assert b"upgrade" in answer.body
    await other.visit(app_of(one), lambda session: session.update(n=1))
    assert (await other.visit(app_of(two))).json == {"n": 1}
    assert two.stats().cache.forged == 0


async def test_an_event_of_a_newer_version_does_not_stop_the_feed(workers: Workers) -> None:
    """The copy that it makes old is dropped and read anew; only the history of that session asks to upgrade."""
    one, two = workers
    browser, other = await _begun(one, n=0), await _begun(one, n=0)
    for each in (browser, other):
        assert (await each.visit(app_of(two))).json == {"n": 0}
    await _commit_of_the_future(one, browser.session_id)
    await until(lambda: two.stats().cache.unreadable, "the event to be met")
    assert (await browser.visit(app_of(two))).json == {"n": 7}
    last = await _until_folded(two, one, other)
    assert (await other.visit(app_of(two))).json == {"n": last}
    assert two.stats().cache.forged == 0
    with pytest.raises(UnknownFormat, match="upgrade"):
        await two.audit.history(browser.session_id)
    await browser.visit(app_of(two), lambda session: session.update(n=8))
    assert (await browser.visit(app_of(one))).json == {"n": 8}


async def _commit_of_the_future(manager: SessionManager, sid: str) -> None:
    """Append an event whose type only a newer version knows."""
    worker = manager.worker
    cached = await worker.replica.fill(sid)
    assert cached is not None
    base = cached.stored
    draft = worker.drafter.draft(base, sid, Updated(set_={"n": 7}), worker.stamp())
    keys = worker.keys
    notice = pack_notice(
        keys.message(keys.key_id) or b"", sid=sid, version=draft.snapshot.version, previous_head=base.head,
        head=draft.head, link=draft.link, event_id=draft.commit.event_id, key_id=keys.key_id, type_="teleported",
        data=b"{}",
    )  # fmt: skip
    reply = await worker.store.commit(draft.commit._replace(type="teleported", notice=notice))
    assert reply.status == "ok"


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_of_another_namespace_on_the_same_server_opens_nothing(server: Server) -> None:
    """Not even if the session's id exists in both."""
    options: dict[str, Any] = {"secret_key": KEY, "cookie": CookiePolicy()}
    async with (
        SessionManager.from_url(server.url, namespace="shop", **options) as shop,
        SessionManager.from_url(server.url, namespace="blog", **options) as blog,
    ):
        browser = await _begun(shop, owner="ann")
        sid = browser.session_id
        server.cli("COPY", f"{{shop:00}}:s:{sid}", f"{{blog:00}}:s:{sid}")
        assert (await browser.visit(app_of(blog))).json == {}
        assert await types_of(shop, sid) == ["created"]


async def test_an_id_that_an_attacker_chose_is_never_adopted() -> None:
    """A new session always has a new id."""
    manager, browser = in_memory(), Browser("00AAAAAAAAAAAAAAAAAAAAAA." + "A" * 43 + "." + "A" * 22)
    chosen = browser.session_id
    await browser.visit(app_of(manager), lambda session: session.update(a=1))
    assert browser.session_id != chosen
