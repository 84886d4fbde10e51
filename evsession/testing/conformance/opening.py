"""Opening and closing, and the facts that all workers share."""

from __future__ import annotations

from evsession.store import Store
from evsession.testing.conformance.builder import Heard, created, happened, stored, story, updated
from evsession.testing.conformance.connecting import Connect


async def test_new_sessions_go_to_shards_of_two_characters(store: Store) -> None:
    """Each once, none of them the control log's; and there is a log, without which nothing here would hold."""
    assert store.has_log
    assert set(store.shards) >= {"00", "01"}
    assert {len(shard) for shard in store.shards} == {2}
    assert len(set(store.shards)) == len(store.shards)


async def test_a_store_opens_again(store: Store) -> None:
    """After it was closed, twice even, or dropped because its event loop ended: all is there, and more can come."""
    state = await story(store, [created(n=0)])
    await store.close()
    await store.close()
    await store.open("worker-2", 2_000, Heard())
    _, state = await happened(store, state, updated(n=1))
    store.abandon()
    await store.open("worker-3", 2_000, Heard())
    _, state = await happened(store, state, updated(n=2))
    assert (await stored(store, state.sid)).snapshot == state.snapshot


async def test_the_first_claim_of_a_fact_stands(connect: Connect) -> None:
    """Every later one learns it; facts that nobody claimed before are added."""
    one, two = (await connect("one")).store, (await connect("two")).store
    assert (await one.claim({"application": "shop"})).items() >= {("application", "shop")}
    found = await two.claim({"application": "blog", "format": "1"})
    assert (found["application"], found["format"]) == ("shop", "1")
    assert await one.claim({}) == found


async def test_a_number_is_raised_and_never_lowered(connect: Connect) -> None:
    """By whichever worker: the longest time ever granted."""
    one, two = (await connect("one")).store, (await connect("two")).store
    assert await one.raise_to("longest", 5) == 5
    assert await two.raise_to("longest", 3) == 5
    assert await two.raise_to("longest", 34_560_000_000) == 34_560_000_000
    assert (await one.claim({}))["longest"] == "34560000000"


async def test_advice_is_given_and_changes_nothing(store: Store) -> None:
    """Whatever the server tells of itself, or refuses to."""
    state = await story(store, [created(n=0)])
    await store.advise()
    assert (await stored(store, state.sid)).snapshot == state.snapshot
