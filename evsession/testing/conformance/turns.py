"""Turns at a background job of a shard: one holder at a time, fencing numbers, and what is left for the next."""

from __future__ import annotations

from evsession.store import Store
from evsession.testing.conformance.builder import begin, created, happened, story, updated
from evsession.testing.conformance.connecting import until
from evsession.testing.conformance.log import A_NODE
from evsession.view import CONTROL
from evsession.wire import START, id_text

LONG = 60_000


async def test_one_holder_at_a_time(store: Store) -> None:
    """Two archivers of one shard do not work against each other; the control log has a turn of its own."""
    assert await store.take_turn("00", "archive", "ann", LONG) is not None
    assert await store.take_turn("00", "archive", "bob", LONG) is None
    assert await store.take_turn("01", "archive", "bob", LONG) is not None
    assert await store.take_turn(CONTROL, "archive", "bob", LONG) is not None


async def test_a_holder_keeps_its_turn_under_the_same_number(store: Store) -> None:
    """Work that takes longer than a turn renews it."""
    first = await store.take_turn("00", "archive", "ann", LONG)
    again = await store.take_turn("00", "archive", "ann", LONG)
    assert first is not None
    assert again is not None
    assert again.fence == first.fence


async def test_a_turn_lapses(store: Store) -> None:
    """The next holder has a higher number, and the late one leaves nothing behind any more."""
    late = await store.take_turn("00", "archive", "ann", 1)
    assert late is not None

    async def taken() -> bool:
        return await store.take_turn("00", "archive", "bob", LONG) is not None

    await until(taken, "the turn to lapse")
    now = await store.take_turn("00", "archive", "bob", LONG)
    assert now is not None
    assert now.fence > late.fence
    assert not await store.advance("00", "archive", "ann", late.fence, b"1-0 stale")
    assert await store.checkpoint("00", "archive") == b""


async def test_a_turn_given_back_is_free_at_once(store: Store) -> None:
    """Only its holder can give it back, and the number still grows."""
    first = await store.take_turn("00", "archive", "ann", LONG)
    assert first is not None
    await store.give_turn("00", "archive", "bob", first.fence)
    assert await store.take_turn("00", "archive", "bob", LONG) is None
    await store.give_turn("00", "archive", "ann", first.fence)
    second = await store.take_turn("00", "archive", "bob", LONG)
    assert second is not None
    assert second.fence == first.fence + 1
    assert not await store.advance("00", "archive", "ann", first.fence, b"1-0 stale")


async def test_the_next_holder_finds_what_the_last_one_left(store: Store) -> None:
    """With the log's end, so that it knows how far there is to go."""
    first = await store.take_turn("00", "archive", "ann", LONG)
    assert first is not None
    assert (first.checkpoint, first.end) == (b"", START)
    assert await store.advance("00", "archive", "ann", first.fence, b"1-0 \x00\xff any bytes")
    await store.give_turn("00", "archive", "ann", first.fence)
    reply, _ = await happened(store, begin(), created())
    second = await store.take_turn("00", "archive", "bob", LONG)
    assert second is not None
    assert second.checkpoint == await store.checkpoint("00", "archive") == b"1-0 \x00\xff any bytes"
    assert second.end.id == reply.id


async def test_nothing_is_trimmed_that_the_archive_does_not_have(store: Store) -> None:
    """However old it is: neither past the checkpoint, nor the entry at it, which proves the history."""
    await story(store, [created(), *(updated(n=n) for n in range(3 * A_NODE))])
    turn = await store.take_turn("00", "archive", "ann", LONG)
    assert turn is not None
    assert await store.advance("00", "archive", "ann", turn.fence, b"0-0 nothing yet")
    assert await store.trim("00", -1_000) == 0
    safe = (await store.read("00", START, 3 * A_NODE))[2 * A_NODE].position
    assert await store.advance("00", "archive", "ann", turn.fence, f"{id_text(safe.id)} safe".encode())
    assert await store.trim("00", -1_000) > 0
    assert (await store.read("00", safe, 1))[0].position == safe


async def test_the_last_entry_stays_whatever_the_checkpoint_says(store: Store) -> None:
    """After a failover the checkpoint can be ahead of the log."""
    await story(store, [created(), *(updated(n=n) for n in range(A_NODE))])
    turn = await store.take_turn("00", "archive", "ann", LONG)
    assert turn is not None
    last = turn.end
    assert await store.advance("00", "archive", "ann", turn.fence, b"%d-0 ahead" % (last.id[0] + 60_000))
    await store.trim("00", -120_000)
    assert (await store.read("00", last, 1))[0].position == last
