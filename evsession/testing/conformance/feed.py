"""The feed: one message for each commit, in the order of the log, to every worker that follows the shard."""

from __future__ import annotations

from evsession.store import Store
from evsession.testing.conformance.builder import (
    Heard,
    begin,
    commit_of,
    created,
    ended,
    happened,
    retried,
    story,
    updated,
)
from evsession.testing.conformance.connecting import Connect, Worker, until
from evsession.view import Beat
from evsession.wire import START, split_message


async def follow(worker: Worker[Store], *shards: str) -> None:
    """Subscribe to shards, and wait until the subscription stands where the store has one."""
    for shard, beat in zip(shards, await worker.store.heartbeat([Beat(shard, None) for shard in shards]), strict=True):
        worker.store.follow(shard, beat.incarnation)
    if worker.store.is_remote:
        await until(lambda: set(shards) <= set(worker.heard.gaps), "the first gap of each shard")


async def hears(heard: Heard, count: int, shard: str = "00") -> None:
    """Wait for a number of messages."""
    await until(lambda: len(heard.notices(shard)) >= count, f"{count} messages of shard {shard}")


async def test_a_commit_is_told_to_every_worker(connect: Connect) -> None:
    """The one that made it among them: its own commits come back through the feed."""
    one, two = await connect("worker-1"), await connect("worker-2")
    await follow(one, "00")
    await follow(two, "00")
    commit, after = commit_of(begin(), created(a=1))
    reply = await one.store.commit(commit)
    for worker in (one, two):
        await hears(worker.heard, 1)
        (notice,) = worker.heard.notices()
        assert (notice.prev, notice.id) == (START, reply.id)
        assert (notice.sid, notice.version, notice.head) == (after.sid, 1, after.head)
        assert (notice.event_id, notice.type, notice.data) == (commit.event_id, "created", commit.data)


async def test_a_message_carries_the_bytes_of_the_worker(connect: Connect) -> None:
    """The part that it tagged comes through unchanged, whatever bytes there are in it."""
    worker = await connect("worker-1")
    await follow(worker, "00")
    commit, _ = commit_of(begin(), created(text="ä\x00\n€"), event_id=b"\n \x00\xff" * 4)
    await worker.store.commit(commit)
    await hears(worker.heard, 1)
    ((_, message),) = worker.heard.messages
    assert [part for _, _, part in split_message(message)] == [commit.notice]


async def test_messages_form_a_chain_in_the_order_of_the_log(connect: Connect) -> None:
    """Each names the position before it, so that a worker sees what it has missed."""
    one, two = await connect("worker-1"), await connect("worker-2")
    await follow(two, "00")
    for _ in range(5):
        await story(one.store, [created(), updated(a=1), ended("logout")])
    await hears(two.heard, 15)
    positions = [entry.position for entry in await one.store.read("00", START, 100)]
    notices = two.heard.notices()
    assert [notice.prev for notice in notices] == [START, *positions[:-1]]
    assert [(notice.id, notice.event_id) for notice in notices] == positions


async def test_what_did_not_happen_is_not_told(connect: Connect) -> None:
    """Refused commits and repeated ones are silent."""
    worker = await connect("worker-1")
    await follow(worker, "00")
    commit, state = commit_of(begin(), created())
    await worker.store.commit(commit)
    await worker.store.commit(retried(commit))
    await worker.store.commit(commit)
    await worker.store.commit(commit_of(state, ended("idle"), condition="idle")[0])
    await happened(worker.store, state, updated(a=1))
    await hears(worker.heard, 2)
    assert [notice.version for notice in worker.heard.notices()] == [1, 2]


async def test_each_shard_has_a_feed_of_its_own(connect: Connect) -> None:
    """A message is told under the name of its shard."""
    worker = await connect("worker-1")
    await follow(worker, "00", "01")
    here, there = await story(worker.store, [created()], "00"), await story(worker.store, [created()], "01")
    await hears(worker.heard, 1, "00")
    await hears(worker.heard, 1, "01")
    assert [notice.sid for notice in worker.heard.notices("00")] == [here.sid]
    assert [notice.sid for notice in worker.heard.notices("01")] == [there.sid]


async def test_following_twice_is_following_once(connect: Connect) -> None:
    """Nothing is told twice."""
    worker = await connect("worker-1")
    await follow(worker, "00")
    await follow(worker, "00")
    await story(worker.store, [created(), updated(a=1)])
    await hears(worker.heard, 2)
    assert [notice.version for notice in worker.heard.notices()] == [1, 2]


async def test_a_closed_store_hears_nothing_more(connect: Connect) -> None:
    """All others do, and the closed one can be opened again."""
    one = await connect("worker-1")
    await one.store.close()
    heard = Heard()
    await one.store.open("worker-3", 2_000, heard)
    again = Worker(one.store, heard)
    await follow(again, "00")
    await story(one.store, [created()])
    await hears(heard, 1)
    assert one.heard.messages == []
