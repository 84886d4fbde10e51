"""What only the stores on a server have: keys and their time to live, scripts, turns, subscriptions that break."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from evsession.errors import ConfigError, StoreUnavailable
from evsession.store import Entrance
from evsession.stores.redis.connection import pack
from evsession.stores.redis.keys import Keys, check_one_slot, hash_slot, meta_key, user_key
from evsession.stores.redis.scripts import ALL, ENTER, FILL, Call
from evsession.stores.redis.store import ENDED_KEPT_MS, KEPT_PAST_ABSOLUTE_MS, SWEEP_TURN_MS
from evsession.view import CONTROL, Beat
from evsession.wire import START, parse_id
from tests.conftest import until
from tests.contract.builder import (
    HALF_DAY,
    HALF_HOUR,
    Heard,
    authenticated,
    begin,
    commit_of,
    created,
    ended,
    happened,
    retried,
    story,
    updated,
)
from tests.contract.conftest import ConnectRedis, Remote
from tests.contract.test_feed import follow, hears
from tests.servers import NAMES


async def test_a_living_snapshot_is_kept_a_day_past_its_absolute_deadline(
    connect_redis: ConnectRedis, remote: Remote, namespace: str
) -> None:
    """Idle expiry belongs to the sweeper, never to the time to live; a touch leaves it."""
    store, _ = await connect_redis("worker-1")
    key = Keys(namespace, "00").snapshot
    state = await story(store, [created()], idle=1_000)
    for _ in range(2):
        assert HALF_DAY < remote.cli("PTTL", key(state.sid)) <= HALF_DAY + KEPT_PAST_ABSOLUTE_MS
        await store.touch(state.sid, 5_000)


async def test_an_ended_snapshot_is_kept_for_ten_minutes(
    connect_redis: ConnectRedis, remote: Remote, namespace: str
) -> None:
    """Long enough for every request in flight to learn of it."""
    store, _ = await connect_redis("worker-1")
    state = await story(store, [created(), ended("logout")])
    assert 0 < remote.cli("PTTL", Keys(namespace, "00").snapshot(state.sid)) <= ENDED_KEPT_MS


async def test_the_index_has_the_earlier_deadline(connect_redis: ConnectRedis, remote: Remote, namespace: str) -> None:
    """After a commit, a touch and a repair alike, whichever of the two it is."""
    store, _ = await connect_redis("worker-1")
    index = Keys(namespace, "00").expiry
    reply, state = await happened(store, begin(), created(), absolute=2 * HALF_HOUR)
    assert int(remote.cli("ZSCORE", index, state.sid)) == reply.now + HALF_HOUR
    touched = (await store.touch(state.sid, HALF_HOUR + 60_000)).deadlines
    assert touched is not None
    assert int(remote.cli("ZSCORE", index, state.sid)) == touched[0]
    await store.touch(state.sid, HALF_DAY)
    assert int(remote.cli("ZSCORE", index, state.sid)) == reply.now + 2 * HALF_HOUR
    remote.cli("DEL", index)
    await store.settle("00", state.sid)
    assert int(remote.cli("ZSCORE", index, state.sid)) == reply.now + 2 * HALF_HOUR


async def test_an_end_whose_snapshot_has_lapsed_is_gone(
    connect_redis: ConnectRedis, remote: Remote, namespace: str
) -> None:
    """And the index forgets it when the sweeper settles it."""
    store, _ = await connect_redis("worker-1")
    state = await story(store, [created()], idle=0)
    remote.cli("DEL", Keys(namespace, "00").snapshot(state.sid))
    assert (await store.commit(commit_of(state, ended("idle"), condition="idle")[0])).status == "gone"
    assert list(await store.due("00", 10)) == [state.sid]
    await store.settle("00", state.sid)
    assert list(await store.due("00", 10)) == []


async def test_a_session_missing_from_the_index_is_put_back(
    connect_redis: ConnectRedis, remote: Remote, namespace: str
) -> None:
    """Settling repairs it in either direction."""
    store, _ = await connect_redis("worker-1")
    state = await story(store, [created()], idle=0)
    remote.cli("DEL", Keys(namespace, "00").expiry)
    await store.settle("00", state.sid)
    assert list(await store.due("00", 10)) == [state.sid]


async def test_one_worker_sweeps_a_shard_at_a_time(connect_redis: ConnectRedis, remote: Remote, namespace: str) -> None:
    """Another is told that nothing is due until the turn is over."""
    one, two = (await connect_redis("worker-1")).store, (await connect_redis("worker-2")).store
    state = await story(one, [created()], idle=0)
    assert list(await one.due("00", 10)) == [state.sid]
    assert list(await two.due("00", 10)) == []
    assert 0 < remote.cli("PTTL", Keys(namespace, "00").sweep_turn) <= SWEEP_TURN_MS
    remote.cli("DEL", Keys(namespace, "00").sweep_turn)
    assert list(await two.due("00", 10)) == [state.sid]
    assert list(await one.due("00", 10)) == []


async def test_all_keys_of_a_shard_and_its_channel_are_in_one_slot(namespace: str) -> None:
    """A wrong hash tag passes unnoticed on small clusters."""
    keys = Keys(namespace, "a7")
    named = [keys.log, keys.expiry, keys.end, keys.birth, keys.workers, keys.sweep_turn, keys.snapshot("a7x")]
    assert {hash_slot(key) for key in [*named, keys.channel + b"0123abcd"]} == {hash_slot(keys.tag.encode())}
    assert hash_slot(b"123456789") == 0x31C3  # Source: CRC-16/XMODEM's check value, below 16,384.
    assert hash_slot(meta_key(namespace)) == hash_slot(f"{namespace}:meta".encode())
    check_one_slot(keys.channel, *named)
    with pytest.raises(ConfigError, match=r"the same \{tag\}"):
        check_one_slot(keys.log, Keys(namespace, "a8").channel)


@pytest.mark.parametrize("length", [0, 1023, 1024, 70_000])
def test_a_call_is_packed_as_hiredis_packs_it(length: int) -> None:
    """By digest, and by the text of the script; one key more than those that are always the same."""
    call = Call(FILL, (b"a", b"\r\n"), (b"", b"end"))
    varying = (b"key", b"", bytes(range(256)), b"4", b"5", b"6", bytes(length), b"8", b"9", b"10", b"11")
    words = (b"3", b"a", b"\r\n", *varying, b"", b"end")
    assert call.pack(varying) == pack((b"EVALSHA", FILL.digest, *words))
    assert call.pack_text(varying) == pack((b"EVAL", FILL.source, *words))


async def test_one_operation_is_one_command(connect_redis: ConnectRedis) -> None:
    """A round trip each, however many checks the server makes; a heartbeat is one for each shard."""
    store, _ = await connect_redis("worker-1")
    commit, state = commit_of(begin(), created())
    before = store.calls
    await store.commit(commit)
    await store.commit(retried(commit))
    await store.fill(state.sid)
    await store.touch(state.sid, 5_000_000)
    await store.read("00", START, 10)
    await store.walk(state.sid, 10)
    await store.due("00", 10)
    await store.settle("00", state.sid)
    await store.trim("00", 1_000)
    assert store.calls - before == 9
    await store.heartbeat([Beat("00", None), Beat(CONTROL, None)])
    assert store.calls - before == 11
    await store.fill(state.sid, [Beat("00", None), Beat(CONTROL, None)])
    assert store.calls - before == 14


async def test_a_server_that_has_forgotten_the_scripts_is_told_again(
    connect_redis: ConnectRedis, remote: Remote
) -> None:
    """SCRIPT FLUSH, or a failover to a replica that never had them, is invisible."""
    store, _ = await connect_redis("worker-1")
    state = await story(store, [created()])
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.commit(commit_of(state, updated(a=1))[0]),
        lambda: store.fill(state.sid, [Beat("00", None), Beat(CONTROL, None)]),
        lambda: store.touch(state.sid, 5_000_000),
        lambda: store.walk(state.sid, 10),
        lambda: store.due("00", 10),
        lambda: store.settle("00", state.sid),
        lambda: store.trim("00", 1_000),
    ]
    for call in calls:
        remote.cli("SCRIPT", "FLUSH")
        await call()
    assert [entry.version for entry in await store.walk(state.sid, 10)] == [1, 2]


async def test_a_fill_is_never_older_than_its_heartbeats(connect_redis: ConnectRedis, remote: Remote) -> None:
    """Where the server knows only one of the scripts, the heartbeat runs late, and the fill once more after it."""
    store, _ = await connect_redis("worker-1")
    state = await story(store, [created()])
    remote.cli("SCRIPT", "FLUSH")
    remote.cli("SCRIPT", "LOAD", FILL.source)
    before = store.calls
    assert (await store.fill(state.sid, [Beat("00", None)])).packed is not None
    assert store.calls - before == 4
    await store.fill(state.sid, [Beat("00", None)])
    assert store.calls - before == 6


async def test_an_entrance_that_counts_never_looks_before_its_commit(
    connect_redis: ConnectRedis, remote: Remote
) -> None:
    """Where the server knows only the script of entrances, the commit runs late, and the entrance again after it."""
    store, _ = await connect_redis("worker-1")
    for calls in (3, 5):
        commit, _ = commit_of(begin(), authenticated("42"))
        if calls > 3:
            remote.cli("SCRIPT", "FLUSH")
            remote.cli("SCRIPT", "LOAD", ENTER.source)
        before = store.calls
        reply = await store.commit(commit._replace(entrance=Entrance("42", commit.sid, 1_000, counts=True)))
        assert reply.found is not None
        assert (reply.found.was_there, store.calls - before) == (False, calls)


@pytest.mark.parametrize("counts", [False, True])
async def test_a_login_that_could_not_enter_is_in_doubt(
    connect_redis: ConnectRedis, remote: Remote, namespace: str, counts: bool
) -> None:
    """The index must have every living session, so who signs in tries again, and finds what was committed."""
    store, _ = await connect_redis("worker-1")
    commit, _ = commit_of(begin(), authenticated("42"))
    entrance = Entrance("42", commit.sid, 1_000, counts=counts)
    remote.cli("SET", user_key(namespace, "42"), "no index", "PX", 60_000)
    with pytest.raises(StoreUnavailable) as failed:
        await store.commit(commit._replace(entrance=entrance))
    assert failed.value.outcome_unknown
    remote.cli("DEL", user_key(namespace, "42"))
    assert (await store.commit(retried(commit)._replace(entrance=entrance))).status == "ok"
    assert [member.sid for member in (await store.members("42")).members] == [commit.sid]
    assert len(await store.walk(commit.sid, 10)) == 1


def test_every_script_says_what_it_does() -> None:
    """KEYS, ARGV and Cost stand in its header, which is not sent to the server."""
    for script in ALL:
        assert not any(line.startswith(b"--") for line in script.source.splitlines()), script.name


# ── the server loses its data, or a connection ───────────────────────────────────────────────────────────────────────


async def test_an_emptied_server_has_another_incarnation(connect_redis: ConnectRedis, remote: Remote) -> None:
    """Even if the same worker begins the new log; every position of the old one is a fork."""
    store, _ = await connect_redis("worker-1")
    await story(store, [created()])
    (before,) = await store.heartbeat([Beat("00", None)])
    remote.cli("FLUSHALL")
    (after,) = await store.heartbeat([Beat("00", before.end)])
    assert (after.status, after.end) == ("fork", START)
    assert after.incarnation != before.incarnation


async def test_after_an_emptying_the_feed_goes_on_under_the_new_name(
    connect_redis: ConnectRedis, remote: Remote
) -> None:
    """Following the new incarnation replaces the old one, and begins with a gap."""
    one, two = await connect_redis("worker-1"), await connect_redis("worker-2")
    await follow(one, "00")
    remote.cli("FLUSHALL")
    await story(two.store, [created()])
    (beat,) = await one.store.heartbeat([Beat("00", None)])
    told = len(one.heard.gaps)
    one.store.follow("00", beat.incarnation)
    await until(lambda: len(one.heard.gaps) > told, "the gap of the new subscription")
    state = await story(two.store, [created()])
    await hears(one.heard, 1)
    assert one.heard.notices()[0].sid == state.sid


@pytest.mark.parametrize("remote", NAMES, indirect=True)
async def test_a_lost_subscription_is_a_gap(connect_redis: ConnectRedis, remote: Remote) -> None:
    """Every loss is told, and every subscription after it; what comes later is heard again."""
    one, two = await connect_redis("worker-1"), await connect_redis("worker-2")
    await follow(one, "00")
    for round_ in range(1, 4):
        told = len(one.heard.gaps)
        assert remote.cli("CLIENT", "KILL", "TYPE", "pubsub") == 1
        await until(partial(_has_gaps, one.heard, told + 2), "a gap for the loss, one for the subscription")
        await story(two.store, [created()])
        await hears(one.heard, round_)
    assert len(one.heard.notices()) == 3


def _has_gaps(heard: Heard, count: int) -> bool:
    return len(heard.gaps) >= count


async def test_an_entry_of_a_newer_version_is_read(connect_redis: ConnectRedis, remote: Remote) -> None:
    """Fields that this version does not know, and another order, are no reason to lose an event."""
    store = (await connect_redis("worker-1")).store
    await story(store, [created()])
    (entry,) = await store.read("00", START, 10)
    key = store.keys("00").log
    ((_, fields),) = remote.cli("XRANGE", key, "-", "+")
    newer = [b"z", b"a new field", *fields[2:], *fields[:2]]
    id_ = remote.cli("XADD", key, "*", *newer)
    assert (await store.read("00", START, 10))[1] == entry._replace(id=parse_id(id_))
