"""The cache's rules about sessions: what is kept, folded, dropped, served, and for how long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from evsession.cache import ENTRY_OVERHEAD, MAX_SENT, MAX_SENT_BYTES, MAX_TOMBSTONES, Cache, UnfedCache
from evsession.canonical import is_flat
from evsession.config import CachePolicy
from evsession.events import Authenticated, Created, Ended, Event, Renewed, Updated
from evsession.view import CONTROL, BeatReply
from evsession.wire import START, Notice, Position
from tests.property.model import KEYRING, World, event_id, framed, sid

INFINITY = float("inf")
A, B, C = sid(1), sid(2), sid(3)
LOGIN = Authenticated(user_id="42", secret="s2", control="", names=("tenant:acme",))


def world_with(session: str = A, policy: CachePolicy | None = None, **data: object) -> World:
    """Return a proved world whose worker has one session cached."""
    world = World.proved(policy)
    world.tell(world.log.create(session, **data))
    assert world.fill(session) == "kept"
    return world


# ── hits ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cached_session_is_served_until_its_lease_ends() -> None:
    """Given a fill, when nothing happens, then it is served to the end of the lease and not a moment longer."""
    world = world_with(n=1)
    assert world.served(A, 1.9) == {"n": 1}
    assert world.served(A, 2.0) is None
    assert world.cache.stats.hits == 1
    world.prove(1.5)
    assert world.served(A, 3.4) == {"n": 1}


def test_what_was_never_filled_is_not_served() -> None:
    """Given both leases, when a session is unknown, then it calls for a fill."""
    world = World.proved()
    assert world.cache.lookup(A, 1.0) is None
    assert world.cache.newest(A) is None
    assert len(world.cache) == 0


def test_a_session_past_its_deadline_is_not_believed() -> None:
    """Given a deadline that touches may have moved on the server, when it is reached here, then the server is asked."""
    world = World.proved()
    world.log.create(A)
    world.repair(world.view)
    world.fill(A, deadline=1.0)
    assert world.served(A, 0.99) == {}
    assert world.served(A, 1.0) is None


def test_the_newest_copy_needs_no_lease() -> None:
    """Given no lease any more, when a commit looks for its base, then the copy will do: the server checks it."""
    world = world_with(n=1)
    cached = world.cache.newest(A)
    assert cached is not None
    assert cached.stored.snapshot.data == {"n": 1}
    world.cache.fork(world.view)
    assert world.cache.newest(A) is None


def test_without_a_feed_nothing_is_served() -> None:
    """Given a store that tells of no change, when a session is asked for, then the answer is always a fill."""
    world = world_with(n=1)
    world.cache.__class__ = UnfedCache
    assert world.served(A, 0.1) is None
    assert world.cache.newest(A) is not None


def test_a_session_is_proved_to_who_has_its_secret() -> None:
    """Given a cached session, then its secret is good while it may be served, and not beyond; nor is another."""
    world = world_with()
    assert world.cache.proves(A, "s", 1.9)
    assert not world.cache.proves(A, "other", 1.9)
    assert not world.cache.proves(A, "s", 2.0)
    assert not world.cache.proves(B, "s", 1.9)
    world.tell(world.log.commit(A, Renewed(secret="s2", phase="rotated")))
    assert not world.cache.proves(A, "s", 1.9)
    assert world.cache.proves(A, "s2", 1.9)
    world.cache.message(CONTROL, world.control.revoke("everyone"))
    assert not world.cache.proves(A, "s2", 1.9)
    assert world.cache.stats.hits == 0


def test_what_is_proven_for_a_while_is_proved_for_a_while() -> None:
    """Given a fill ahead of the feed, or a deadline, then neither is believed beyond its time."""
    world = World.proved()
    world.log.create(A)
    world.cache.finish(world.cache.begin(A), world.log.stored(A), 5.0, sent_at=0.0, now=0.1)
    world.beat(world.view, 1.5)
    world.beat(world.control_view, 1.5)
    assert world.cache.proves(A, "s", 1.9)
    assert not world.cache.proves(A, "s", 2.0)
    ended = world_with()
    ended.tell(ended.log.commit(A, Ended(cause="logout")))
    assert not ended.cache.proves(A, "s", 1.0)


def test_stale_copies_are_served_as_far_as_the_policy_says() -> None:
    """Given `stale_for`, when the lease is over, then a copy may be served that much longer; after a fork never."""
    policy = CachePolicy(on_outage="stale", stale_for=timedelta(seconds=5))
    world = world_with(policy=policy, n=1)
    assert world.cache.lookup_stale(A, 6.9) is not None
    assert world.cache.lookup_stale(A, 7.0) is None
    assert world.cache.lookup_stale(B, 1.0) is None
    assert world.served(A, 2.0) is None
    world.cache.fork(world.view)
    assert world.cache.lookup_stale(A, 0.1) is None


def test_by_default_nothing_stale_is_served() -> None:
    """Given no `stale_for`, when the lease is over, then it is over."""
    world = world_with(n=1)
    assert world.cache.lookup_stale(A, 1.9) is not None
    assert world.cache.lookup_stale(A, 2.0) is None


def test_a_stale_copy_has_a_deadline_too() -> None:
    """Given `stale_for`, when the session's own deadline is reached, then it is not served."""
    world = World.proved(CachePolicy(on_outage="stale", stale_for=timedelta(seconds=5)))
    world.log.create(A)
    world.repair(world.view)
    world.fill(A, deadline=3.0)
    assert world.cache.lookup_stale(A, 2.9) is not None
    assert world.cache.lookup_stale(A, 3.0) is None


def test_whether_a_copy_of_the_top_is_a_copy_of_all_is_known() -> None:
    """Given a container of any kind, a request needs a deeper copy."""
    for data, flat in (({"a": 1}, True), ({}, True), ({"a": []}, False), ({"a": {}}, False)):
        cached = world_with(**data).cache.newest(A)
        assert cached is not None
        assert is_flat(cached.stored.snapshot.data) is flat
        assert cached.flat is (cached.stored.snapshot.data if flat else None)


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_in_order_is_folded_in_place() -> None:
    """Given a cached copy, when the next change comes, then the copy is what a fill would have brought."""
    world = world_with(n=1)
    world.tell(world.log.commit(A, Updated(set_={"m": [2]}, unset=("n",))))
    assert world.served(A) == {"m": [2]}
    assert world.cache.stats.folded == 1
    folded, stored = world.cache.newest(A), world.log.stored(A)
    assert folded is not None
    assert stored is not None
    assert (folded.stored.snapshot, folded.stored.raw) == (stored.snapshot, stored.raw)
    assert (folded.stored.head, folded.stored.link) == (stored.head, stored.link)
    assert folded.stored.last_id == "1001-0"
    assert folded.flat is None
    world.tell(world.log.commit(A, Updated(set_={"m": 3})))
    assert world.served(A) == {"m": 3}


def test_a_fold_keeps_what_this_worker_knows_beside_the_state() -> None:
    """Given a deadline and a time to touch, when a change is folded, then both stay."""
    world = World.proved()
    world.tell(world.log.create(A))
    world.fill(A, deadline=1.5)
    before = world.cache.lookup(A, 1.0)
    assert before is not None
    before.touch_at = 7.0
    world.tell(world.log.commit(A, Updated(set_={"n": 1})))
    after = world.cache.newest(A)
    assert after is not None
    assert after is not before
    assert (after.deadline, after.touch_at, after.used) == (1.5, 7.0, True)


@pytest.mark.parametrize(
    "event",
    [
        Updated(set_={"password": "x"}, redacted=("/password",)),
        LOGIN,
    ],
)
def test_what_a_message_does_not_tell_in_full_drops_the_copy(event: Event) -> None:
    """Given a change with a secret value, or a login, which moves deadlines, when it comes, then a fill must follow."""
    world = world_with(n=1)
    world.tell(world.log.commit(A, event))
    assert world.cache.newest(A) is None
    assert (world.cache.stats.folded, world.cache.stats.dropped) == (0, 1)
    assert world.fill(A) == "kept"


def test_a_renewal_is_folded_too() -> None:
    """Given a cached copy, when its secret is replaced, then the old secret no longer opens it here."""
    world = world_with()
    world.tell(world.log.commit(A, Renewed(secret="new", phase="rotated")))
    cached = world.cache.lookup(A, 1.0)
    assert cached is not None
    assert cached.stored.snapshot.secrets == ("new",)


def test_an_end_is_folded_and_outlives_every_deadline() -> None:
    """Given a cached copy, when the session ends, then it is known as ended, whatever its deadline was."""
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    world.fill(A, deadline=1.0)
    world.tell(world.log.commit(A, Ended(cause="logout")))
    cached = world.cache.lookup(A, 1.9)
    assert cached is not None
    assert (cached.stored.snapshot.ended, cached.stored.snapshot.data) == ("logout", {})
    assert cached.deadline == INFINITY


def test_a_copy_two_changes_behind_is_dropped() -> None:
    """Given a copy older than the change before, when a message comes, then it is not folded onto the wrong base."""
    world = World.proved()
    first = world.log.create(A, n=1)
    flight = world.cache.begin(A)
    old = world.log.stored(A)
    world.tell(first, world.log.commit(B, Created(secret="s", control="")))
    world.cache.finish(flight, old, INFINITY)
    world.log.commit(A, Updated(set_={"n": 2}))
    third = world.log.commit(A, Updated(set_={"m": 3}))
    # the second message is lost, and the third is told as if it were the next: its previous head says otherwise
    world.tell(b"1001-0" + third[third.index(b" ") :].replace(b"\n" + event_id(3), b"\n" + event_id(2), 1))
    assert world.cache.newest(A) is None
    assert world.cache.stats.dropped == 1


def test_a_copy_that_is_newer_than_a_message_stays() -> None:
    """Given a fill that overtook the feed, when the messages of what it contains come, then they change nothing."""
    world = World.proved()
    messages = [world.log.create(A, n=1), world.log.commit(A, Updated(set_={"n": 2}))]
    world.fill(A)
    kept = world.cache.newest(A)
    world.tell(*messages)
    assert world.cache.newest(A) is kept
    assert world.view.position == world.log.end


def test_an_equal_version_with_another_head_is_dropped() -> None:
    """Given a copy from a history that was lost, when the same version comes with other content, then it goes."""
    world = World.proved()
    world.log.create(A, n=1)
    world.fill(A)
    world.log.lose(1)
    world.tell(world.log.create(A, n=2))
    assert world.cache.newest(A) is None
    assert world.cache.stats.dropped == 1


def test_a_message_of_a_session_that_is_not_cached_is_cheap() -> None:
    """Given no copy, when a message comes, then only the position moves: nothing is loaded unasked."""
    world = World.proved()
    world.tell(world.log.create(A))
    assert (len(world.cache), world.cache.stats.messages, world.cache.stats.dropped) == (0, 1, 0)


def test_an_entry_read_by_a_repair_drops_the_copy() -> None:
    """Given a lost message, when the log is read instead, then the old copy goes: an entry has no head before."""
    world = world_with(n=1)
    world.log.commit(A, Updated(set_={"n": 2}))
    world.repair(world.view)
    assert world.cache.newest(A) is None
    assert (world.cache.stats.dropped, world.cache.stats.repaired) == (1, 1)


# ── fills and floors ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fill_below_the_floor_is_outdated() -> None:
    """Given a fill under way, when a newer version is told of meanwhile, then what the fill brings is never kept."""
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    flight = world.cache.begin(A)
    old = world.log.stored(A)
    world.tell(world.log.commit(A, Updated(set_={"n": 2})))
    assert world.cache.finish(flight, old, INFINITY) == "outdated"
    assert world.cache.newest(A) is None
    assert world.fill(A) == "kept"
    assert world.served(A) == {"n": 2}


def test_a_repair_raises_the_floor_too() -> None:
    """Given a fill under way, when the log is read meanwhile, then what the fill brings must be as new."""
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    flight = world.cache.begin(A)
    old = world.log.stored(A)
    world.log.commit(A, Updated(set_={"n": 2}))
    world.repair(world.view)
    assert world.cache.finish(flight, old, INFINITY) == "outdated"


def test_a_fill_that_missed_a_creation_is_outdated() -> None:
    """Given a fill that found nothing, when the session was created meanwhile, then it must be asked for again."""
    world = World.proved()
    flight = world.cache.begin(A)
    world.tell(world.log.create(A, n=1))
    assert world.cache.finish(flight, None, 0.0) == "outdated"
    assert world.fill(A) == "kept"


def test_a_fill_at_the_floor_is_kept() -> None:
    """Given a fill under way, when the version that it brings is told of meanwhile, then it is new enough."""
    world = World.proved()
    flight = world.cache.begin(A)
    message = world.log.create(A, n=1)
    stored = world.log.stored(A)
    world.tell(message)
    assert world.cache.finish(flight, stored, INFINITY) == "kept"


def test_a_floor_stands_while_anything_is_in_flight_and_no_longer() -> None:
    """Given two fills, when one has landed, then the floor still holds for the other; then it is forgotten."""
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    old = world.log.stored(A)
    first, second = world.cache.begin(A), world.cache.begin(A)
    world.tell(world.log.commit(A, Updated(set_={"n": 2})))
    world.cache.abandon(first)
    assert world.cache.finish(second, old, INFINITY) == "outdated"
    third = world.cache.begin(A)
    assert world.cache.finish(third, old, INFINITY) == "kept"


def test_a_floor_never_falls() -> None:
    """Given a fill under way, when an entry with a lower version follows a higher one, then the higher one binds."""
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    flight = world.cache.begin(A)
    old = world.log.stored(A)
    world.tell(world.log.commit(A, Updated(set_={"n": 2})), world.log.append("updated", b"{}", sid=A, version=1))
    assert world.cache.finish(flight, old, INFINITY) == "outdated"


def test_an_older_fill_never_replaces_a_newer_copy() -> None:
    """Given a fill that was overtaken by a commit of this worker, when it comes, then the newer copy stays."""
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    old = world.log.stored(A)
    fill = world.cache.begin(A)
    commit = world.cache.begin(A, event_id(50))
    world.log.commit(A, Updated(set_={"n": 2}), own=event_id(50))
    assert world.cache.finish(commit, world.log.stored(A), INFINITY) == "kept"
    assert world.cache.finish(fill, old, INFINITY) == "kept"
    assert world.served(A) == {"n": 2}


def test_a_fill_that_finds_nothing_drops_the_copy() -> None:
    """Given a copy of a session that lapsed, when a fill finds none, then it is gone."""
    world = world_with(n=1)
    del world.log.packed[A]
    assert world.fill(A) == "gone"
    assert world.cache.newest(A) is None


def test_a_fill_that_outlives_a_failover_counts_no_more() -> None:
    """Given a fill under way, when the shard forks and begins anew meanwhile, then its answer is not kept."""
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    flight = world.cache.begin(A)
    stored = world.log.stored(A)
    world.log.lose(1)
    assert world.beat(world.view, 0.5)
    assert world.cache.finish(flight, stored, INFINITY) == "outdated"
    assert world.cache.newest(A) is None


def test_a_fill_of_another_generation_counts_no_more() -> None:
    """Given a fill under way, when the shard forks meanwhile, then what it brings is of a history that may be lost."""
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    flight = world.cache.begin(A)
    stored = world.log.stored(A)
    world.cache.fork(world.view)
    assert world.cache.finish(flight, stored, INFINITY) == "outdated"
    world.prove(0.0)
    assert world.served(A) is None


def test_a_fill_without_a_position_is_not_kept() -> None:
    """Given no heartbeat yet, when a fill comes, then no message could ever tell that it became old."""
    world = World()
    world.log.create(A, n=1)
    assert world.fill(A) == "outdated"
    assert len(world.cache) == 0


@pytest.mark.parametrize("told", [False, True])
def test_a_fill_behind_its_own_first_heartbeats_counts(told: bool) -> None:
    """Given a cold read in one round trip, when its heartbeats adopted the end, then the fill behind them counts."""
    world = World()
    world.log.create(A, n=1)
    flight = world.cache.begin(A)
    beats = [world.control_view.beat(), world.view.beat()]
    replies = [world.control.beat(None), world.log.beat(None)]
    stored = world.log.stored(A)
    for view, beat, reply in zip((world.control_view, world.view), beats, replies, strict=True):
        if world.cache.beaten(view, beat, reply, 0.0) and view is flight.view:
            world.cache.adopted(flight)
    if told:
        world.tell(world.log.commit(A, Updated(set_={"n": 2})))
    assert world.cache.finish(flight, stored, INFINITY) == ("outdated" if told else "kept")


def test_a_floor_of_a_lost_history_binds_nobody() -> None:
    """Given a floor from before a failover, when versions are lower now, then a new fill is kept all the same."""
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    hanging = world.cache.begin(A)
    world.tell(world.log.commit(A, Updated()), world.log.commit(A, Updated()))
    world.log.lose(2)
    assert world.beat(world.view, 0.5)
    assert world.fill(A) == "kept"
    assert world.served(A) == {"n": 1}
    flight = world.cache.begin(A)
    stored = world.log.stored(A)
    world.tell(world.log.commit(A, Updated(set_={"n": 2})))
    assert world.cache.finish(flight, stored, INFINITY) == "outdated"
    world.cache.abandon(hanging)


# ── own commits ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_message_of_an_own_commit_is_not_folded() -> None:
    """Given a commit under way, when its message comes before its reply, then the reply brings the copy."""
    world = world_with(n=1)
    flight = world.cache.begin(A, event_id(50))
    world.tell(world.log.commit(A, Updated(set_={"n": 2}), own=event_id(50)))
    assert (world.cache.newest(A), world.cache.stats.folded) == (None, 0)
    assert world.cache.finish(flight, world.log.stored(A), INFINITY) == "kept"
    assert world.served(A) == {"n": 2}


def test_the_message_of_an_own_commit_after_its_reply_is_nothing() -> None:
    """Given a commit whose reply came first, when its message comes, then the copy is that new already."""
    world = world_with(n=1)
    flight = world.cache.begin(A, event_id(50))
    message = world.log.commit(A, Updated(set_={"n": 2}), own=event_id(50))
    world.cache.finish(flight, world.log.stored(A), INFINITY)
    kept = world.cache.newest(A)
    world.tell(message)
    assert world.cache.newest(A) is kept
    assert world.view.position == world.log.end


def announced(world: World, part: bytes) -> tuple[Notice, bytes]:
    """Return the notice of a commit to the cached session, and its message with other bytes as the worker's part."""
    before = world.log.end
    world.log.commit(A, Updated(set_={"n": 2}), own=event_id(50))
    stored = world.log.stored(A)
    assert stored is not None
    notice = Notice(
        START, START.id, A, 2, b"", stored.head, stored.link, event_id(50), KEYRING.key_id, "updated", b""
    )  # fmt: skip
    return notice, framed(before, world.log.end.id, part)


def test_an_own_message_is_known_by_its_bytes_once() -> None:
    """Given a commit under way, when its very bytes come back, then they need no tag; a second time they do."""
    world = world_with(n=1)
    flight = world.cache.begin(A, event_id(50))
    notice, message = announced(world, b"bytes without a tag that is good, as long as a part must be")
    world.cache.expect(b"bytes without a tag that is good, as long as a part must be", notice)
    world.tell(message)
    assert (world.view.position, world.cache.stats.forged, world.cache.newest(A)) == (world.log.end, 0, None)
    assert world.cache.finish(flight, world.log.stored(A), INFINITY) == "kept"
    assert world.served(A, 100.0) is None
    world.prove(1.0)
    assert world.served(A, 2.5) == {"n": 2}
    world.tell(message)
    assert world.cache.stats.forged == 1


def test_own_bytes_at_another_place_of_the_log_are_a_gap() -> None:
    """Given an expected message, when it names an entry before it that is not ours, then the log is asked."""
    world = world_with(n=1)
    notice, _ = announced(world, b"part")
    world.cache.expect(b"part", notice)
    kept = world.cache.newest(A)
    world.tell(framed(Position((1, 0), event_id(99)), (2, 0), b"part"))
    assert (world.view.gap, world.cache.newest(A)) == (True, kept)


def test_a_refused_commit_expects_no_message() -> None:
    """Given a conflict, when the bytes come all the same, then nobody of ours has sent them."""
    world = world_with(n=1)
    notice, message = announced(world, b"part")
    world.cache.expect(b"part", notice)
    world.cache.retract(b"part")
    world.tell(message)
    assert world.cache.stats.forged == 1


def test_after_a_gap_no_message_is_expected() -> None:
    """Given an expected message, when messages were lost, then it may never come, and is no longer waited for."""
    world = world_with(n=1)
    notice, message = announced(world, b"part")
    world.cache.expect(b"part", notice)
    world.cache.missed("00")
    assert (world.view.gap, world.cache.stats.gaps) == (True, 1)
    world.tell(message)
    assert world.cache.stats.forged == 1


def test_a_long_message_is_not_expected() -> None:
    """Given a large session, when its message comes back, then it is read as anybody's."""
    world = world_with(n=1)
    notice, message = announced(world, bytes(MAX_SENT_BYTES + 1))
    world.cache.expect(bytes(MAX_SENT_BYTES + 1), notice)
    world.tell(message)
    assert world.cache.stats.forged == 1


def test_only_so_many_messages_are_expected() -> None:
    """Given messages that never come, then they do not pile up, and the newest is known all the same."""
    world = world_with(n=1)
    notice, message = announced(world, b"part")
    for number in range(MAX_SENT):
        world.cache.expect(event_id(number), notice)
    world.cache.expect(b"part", notice)
    world.tell(message)
    assert (world.view.position, world.cache.stats.forged) == (world.log.end, 0)


def test_a_commit_overtaken_by_another_is_outdated() -> None:
    """Given a commit under way, when a later change of somebody else is told of first, then its reply is old."""
    world = world_with(n=1)
    flight = world.cache.begin(A, event_id(50))
    messages = [world.log.commit(A, Updated(set_={"n": 2}), own=event_id(50))]
    stored = world.log.stored(A)
    messages.append(world.log.commit(A, Updated(set_={"n": 3})))
    world.tell(*messages)
    assert world.cache.finish(flight, stored, INFINITY) == "outdated"
    assert world.served(A) is None


def test_an_abandoned_commit_drops_the_copy() -> None:
    """Given a commit whose reply was lost, then nobody knows whether it happened, and its message is no longer own."""
    world = world_with(n=1)
    world.cache.abandon(world.cache.begin(A, event_id(50)))
    assert world.cache.newest(A) is None
    world.fill(A)
    world.tell(world.log.commit(A, Updated(set_={"n": 2}), own=event_id(50)))
    assert (world.served(A), world.cache.stats.folded) == ({"n": 2}, 1)


def test_an_abandoned_fill_drops_nothing() -> None:
    """Given a copy, when a fill fails, then the copy is as good as before."""
    world = world_with(n=1)
    world.cache.abandon(world.cache.begin(A))
    assert world.served(A) == {"n": 1}


# ── what a failover may have lost ────────────────────────────────────────────────────────────────────────────────────


def committed(world: World, sent_at: float = 0.0, now: float = 0.0) -> bytes:
    """Let the worker commit to a cached session; return the message that it has not had yet."""
    flight = world.cache.begin(A, event_id(50))
    message = world.log.commit(A, Updated(set_={"n": 2}), own=event_id(50))
    assert world.cache.finish(flight, world.log.stored(A), INFINITY, sent_at=sent_at, now=now) == "kept"
    return message


def test_what_the_feed_has_not_told_is_proven_for_a_while_only() -> None:
    """Given a reply ahead of the feed, when nothing else comes, then it is served for `max_staleness`."""
    world = world_with(n=1)
    committed(world, sent_at=-1.0)
    assert world.served(A, 0.9) == {"n": 2}
    assert world.served(A, 1.0) is None
    assert world.cache.newest(A) is not None


def test_stale_copies_that_were_not_told_of_end_with_their_proof() -> None:
    """Given `stale_for`, when a reply is ahead of the feed, then it counts from the end of its own proof."""
    world = world_with(policy=CachePolicy(on_outage="stale", stale_for=timedelta(seconds=5)), n=1)
    committed(world, sent_at=-1.0)
    assert world.cache.lookup_stale(A, 5.9) is not None
    assert world.cache.lookup_stale(A, 6.0) is None


@pytest.mark.parametrize("by_feed", [True, False])
def test_what_the_log_has_told_is_proven_by_leases_alone(by_feed: bool) -> None:
    """Given a reply ahead of the feed, when message or repair tell of the same, then it lasts as long as any other."""
    world = world_with(n=1)
    message = committed(world, sent_at=-1.0)
    if by_feed:
        world.tell(message)
    else:
        world.repair(world.view)
    world.prove(1.0)
    assert world.served(A, 2.9) == {"n": 2}
    assert world.cache.stats.forks == 0


def test_what_the_log_told_before_the_reply_needs_no_proof() -> None:
    """Given a commit whose message was faster, when its reply comes, then nothing is ahead of the feed."""
    world = world_with(n=1)
    flight = world.cache.begin(A, event_id(50))
    world.tell(world.log.commit(A, Updated(set_={"n": 2}), own=event_id(50)))
    world.cache.finish(flight, world.log.stored(A), INFINITY, sent_at=-1.0, now=0.0)
    assert world.served(A, 1.9) == {"n": 2}


def test_what_a_failover_lost_without_a_trace_is_dropped() -> None:
    """Given a commit that was acknowledged and lost, when a later heartbeat is proved, then it is a fork."""
    world = world_with(n=1)
    message = committed(world, now=0.1)
    world.log.lose(1)
    world.prove(0.05)
    assert (world.served(A), world.cache.stats.forks) == ({"n": 2}, 0)
    world.prove(0.2)
    assert (world.cache.newest(A), world.cache.stats.forks) == (None, 1)
    world.prove(0.3)
    assert world.cache.stats.forks == 1
    assert message


def test_a_newer_copy_in_place_of_a_lost_one_stays() -> None:
    """Given a lost commit, when the copy was replaced by what the log has, then only the loss is noted."""
    world = world_with(n=1)
    committed(world, now=0.1)
    world.log.lose(1)
    world.fill(A)
    world.prove(0.2)
    assert (world.served(A), world.cache.stats.forks) == ({"n": 1}, 1)


def test_a_fork_forgets_what_was_ahead_of_the_lost_history() -> None:
    """Given replies ahead of two shards, when one forks, then only the other's are still waited for."""
    world = world_with(n=1)
    committed(world, now=0.1)
    other = world.cache.view("01")
    world.cache.fork(other)
    world.log.lose(1)
    world.cache.fork(world.view)
    world.prove(0.2)
    assert world.cache.stats.forks == 2


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_number_of_entries_is_bounded() -> None:
    """Given room for two, when a third comes, then the one that was not used goes."""
    world = World.proved(CachePolicy(max_entries=2))
    for session in (A, B):
        world.tell(world.log.create(session))
        world.fill(session)
    for session in (A, B):
        cached = world.cache.newest(session)
        assert cached is not None
        cached.used = False
    assert world.served(A) == {}
    world.tell(world.log.create(C))
    world.fill(C)
    assert [world.served(session) for session in (A, B, C)] == [{}, None, {}]
    assert (len(world.cache), world.cache.stats.evicted) == (2, 1)


def test_what_has_just_been_filled_is_not_what_goes() -> None:
    """Given a full cache of used entries, when one more comes, then it is kept and the oldest goes."""
    world = World.proved(CachePolicy(max_entries=2))
    for session in (A, B, C):
        world.tell(world.log.create(session))
        world.fill(session)
    assert [world.served(session) for session in (A, B, C)] == [None, {}, {}]


def test_what_a_fork_has_emptied_goes_first() -> None:
    """Given entries of an earlier generation, when there is no room, then they go, however much they were used."""
    world = World.proved(CachePolicy(max_entries=2))
    for session in (A, B):
        world.tell(world.log.create(session))
        world.fill(session)
    other = world.cache.view("01")
    world.cache.beaten(other, other.beat(), BeatReply("ok", "first", START), 0.0)
    world.cache.fork(world.view)
    world.prove(0.0)
    world.fill(B)
    world.log.create(C)
    world.repair(world.view)
    world.fill(C)
    assert [world.served(session) for session in (A, B, C)] == [None, {}, {}]


def test_the_bytes_are_bounded() -> None:
    """Given room for two small sessions, when one grows, then another goes; the count is exact throughout."""
    world = World.proved(CachePolicy(max_bytes=2 * ENTRY_OVERHEAD + 100))
    for session in (A, B):
        world.tell(world.log.create(session))
        world.fill(session)
    assert world.cache.bytes == 2 * (ENTRY_OVERHEAD + 3 * len(b"{}"))
    world.tell(world.log.commit(B, Updated(set_={"x": "y" * 100})))
    assert (world.served(A), len(world.cache)) == (None, 1)
    assert world.cache.bytes == ENTRY_OVERHEAD + 3 * len(dict_of(100))
    world.tell(world.log.commit(B, Ended(cause="logout")))
    assert world.cache.bytes == ENTRY_OVERHEAD + 3 * len(b"{}")
    world.cache.abandon(world.cache.begin(B, event_id(60)))
    assert (world.cache.bytes, len(world.cache)) == (0, 0)


def dict_of(length: int) -> str:
    """Return the JSON of a dict with one text of a length."""
    return '{"x":"' + "y" * length + '"}'


def test_a_session_larger_than_the_cache_is_held_alone() -> None:
    """Given no room even for one, when it is filled, then it is kept until another comes, or no fill would ever end."""
    world = World.proved(CachePolicy(max_bytes=1))
    for session in (A, B):
        world.tell(world.log.create(session))
        assert world.fill(session) == "kept"
        assert (world.served(session), len(world.cache)) == ({}, 1)


def test_a_fill_again_replaces_without_counting_twice() -> None:
    """Given a copy, when it is filled again, then it takes its place."""
    world = world_with(n=1)
    size = world.cache.bytes
    world.fill(A)
    assert (world.cache.bytes, len(world.cache)) == (size, 1)


# ── revocations ──────────────────────────────────────────────────────────────────────────────────────────────────────


def signed_in(world: World, session: str = A, control: str = "") -> None:
    """Cache a session of user 42."""
    event: Any = Authenticated(user_id="42", secret="s", control=control, names=("tenant:acme",))
    world.tell(world.log.commit(session, event))
    world.fill(session)


def is_dead(world: World, session: str = A) -> bool:
    """Tell what a request would learn from memory."""
    cached = world.cache.lookup(session, 1.0)
    assert cached is not None
    return cached.dead


@pytest.mark.parametrize("name", ["user:42", "tenant:acme", "everyone"])
def test_a_revocation_kills_what_is_cached(name: str) -> None:
    """Given a cached session, when the control log names it, then the next request knows."""
    world = World.proved()
    signed_in(world)
    assert not is_dead(world)
    world.cache.message(CONTROL, world.control.revoke(name))
    assert is_dead(world)


def test_a_revocation_kills_what_is_filled_later() -> None:
    """Given a revocation, when an older session is loaded, then it is dead on arrival."""
    world = World.proved()
    world.cache.message(CONTROL, world.control.revoke("user:42"))
    signed_in(world)
    assert is_dead(world)


def test_a_login_after_the_revocation_lives() -> None:
    """Given a session that stands at the revocation, then it is not meant."""
    world = World.proved()
    world.cache.message(CONTROL, world.control.revoke("user:42"))
    signed_in(world, control=world.control.end.text())
    assert not is_dead(world)
    signed_in(world, session=B, control=Position((0, 1), event_id(1)).text())
    assert is_dead(world, B)


def test_a_revocation_that_somebody_tells_again_kills_nobody() -> None:
    """Given a login after it, when its message is replayed at a made-up later place, then only a repair is due."""
    world = World.proved()
    message, end = world.control.revoke("user:42"), world.control.end
    assert not world.cache.message(CONTROL, message)
    signed_in(world, control=end.text())
    part = message[message.index(b"\n") + 17 :]
    assert world.cache.message(CONTROL, framed(end, (10**14, 0), part))
    assert (is_dead(world), world.control_view.position) == (False, end)


def test_the_kept_session_stays() -> None:
    """Given two sessions of a user, when all but one are revoked, then that one lives."""
    world = World.proved()
    signed_in(world, A)
    signed_in(world, B)
    world.cache.message(CONTROL, world.control.revoke("user:42", keep=A))
    assert (is_dead(world, A), is_dead(world, B)) == (False, True)


def test_a_revocation_that_was_read_from_the_log_kills_too() -> None:
    """Given a lost control message, when the control log is repaired, then it counts as if it had come."""
    world = World.proved()
    signed_in(world)
    world.control.revoke("user:42")
    world.repair(world.control_view)
    assert is_dead(world)


def test_a_session_ahead_of_the_control_log_is_not_served_before_a_repair() -> None:
    """Its worker has applied an entry that is missing here; if no repair finds it, the session is dead."""
    world = World.proved()
    signed_in(world, control=Position((9_999_999, 0), event_id(9)).text())
    assert world.cache.lookup(A, 1.0) is None
    cached = world.cache.newest(A)
    assert cached is not None
    assert not world.cache.judge(cached)
    assert world.cache.judge(cached, is_final=True)
    assert is_dead(world)


def test_who_waits_for_a_revocation_is_to_be_answered() -> None:
    """By the shard that it stands in: the control log, or that of a session which was revoked by itself."""
    world = World.proved()
    world.cache.message(CONTROL, world.control.revoke("user:42"))
    assert world.cache.asked == set()
    world.cache.message(CONTROL, world.control.revoke("user:42", waits=True))
    assert world.cache.asked == {CONTROL}
    world.cache.asked.clear()
    for number, event in enumerate((Ended(cause="revoked", by="1-0"), Ended(cause="logout"), Ended(cause="revoked"))):
        session = sid(10 + number)
        world.tell(world.log.create(session), world.log.commit(session, event))
        assert world.cache.asked == ({"00"} if number == 2 else set())


@pytest.mark.parametrize("key_id", [None, "zzzz"])
def test_a_revocation_in_the_log_that_none_of_us_wrote_kills_nobody(key_id: str | None) -> None:
    """Whether its tag is wrong or of an unknown key; the log goes on behind it."""
    world = World.proved()
    signed_in(world)
    world.control.revoke("user:42")
    forged = world.control.entries[-1]._replace(head=bytes(16))
    world.control.entries[-1] = forged if key_id is None else forged._replace(key_id=key_id)
    assert world.repair(world.control_view)
    assert not is_dead(world)
    assert (world.cache.stats.forged, world.control_view.position) == (1, world.control.end)


def test_revocations_outlive_a_fork_of_the_control_log() -> None:
    """Given a revocation that a failover lost, then it stays in force here until it is issued again."""
    world = World.proved()
    signed_in(world)
    world.cache.message(CONTROL, world.control.revoke("user:42"))
    world.control.lose(1)
    world.prove(0.5)
    assert is_dead(world)


def test_a_copy_is_judged_when_asked_and_when_folded() -> None:
    """Given a revocation, when the copy changes or somebody judges it, then `dead` is up to date."""
    world = World.proved()
    signed_in(world)
    world.cache.message(CONTROL, world.control.revoke("user:42"))
    cached = world.cache.newest(A)
    assert cached is not None
    world.cache.judge(cached)
    assert cached.dead
    world.tell(world.log.commit(A, Updated(set_={"n": 1})))
    assert is_dead(world)


@pytest.mark.parametrize(
    "login",
    [
        Authenticated(user_id="42", secret="s", control=""),
        Authenticated(user_id="1", secret="s", control="", names=("tenant:acme",)),
    ],
)
def test_a_newer_state_is_judged_anew_where_somebody_signed_in(login: Authenticated) -> None:
    """Given a living copy, when a state with other names takes its place, then it may be one that is revoked."""
    world = World.proved()
    for name in ("user:42", "tenant:acme"):
        world.cache.message(CONTROL, world.control.revoke(name))
    world.tell(world.log.create(A), world.log.commit(A, Authenticated(user_id="1", secret="r", control="")))
    world.fill(A)
    assert not is_dead(world)
    flight = world.cache.begin(A, event_id(50))
    world.log.commit(A, login, own=event_id(50))
    assert world.cache.finish(flight, world.log.stored(A), INFINITY) == "kept"
    assert is_dead(world)


def test_a_newer_state_is_judged_anew_after_a_revocation() -> None:
    """Given a copy that was judged before a revocation, when a newer state takes its place, then that is dead."""
    world = World.proved()
    signed_in(world)
    assert not is_dead(world)
    world.cache.message(CONTROL, world.control.revoke("user:42"))
    flight = world.cache.begin(A, event_id(50))
    world.log.commit(A, Updated(set_={"n": 2}), own=event_id(50))
    world.cache.finish(flight, world.log.stored(A), INFINITY)
    kept = world.cache.newest(A)
    assert kept is not None
    assert kept.dead


def test_a_newer_state_is_judged_anew_where_it_stands_elsewhere() -> None:
    """Given a dead copy, when its user has signed in again since the revocation, then the newer state lives."""
    world = World.proved()
    signed_in(world)
    world.cache.message(CONTROL, world.control.revoke("user:42"))
    assert is_dead(world)
    event: Any = Authenticated(user_id="42", secret="t", control=world.control.end.text(), names=("tenant:acme",))
    flight = world.cache.begin(A, event_id(50))
    world.log.commit(A, event, own=event_id(50))
    assert world.cache.finish(flight, world.log.stored(A), INFINITY) == "kept"
    assert not is_dead(world)


def test_who_is_dead_is_known_of_the_cached_state_and_asked_of_any_other() -> None:
    """Given a copy that was judged, then its verdict counts until the next entry; other states are judged here."""
    world = World.proved()
    signed_in(world)
    cached = world.cache.newest(A)
    assert cached is not None
    snapshot = cached.stored.snapshot
    assert not world.cache.is_dead(snapshot)
    world.cache.message(CONTROL, world.control.revoke("user:42"))
    assert world.cache.is_dead(snapshot)
    world.cache.judge(cached)
    assert world.cache.is_dead(snapshot)
    assert not world.cache.is_dead(snapshot._replace(user_id="1"))
    world.cache.fork(world.view)
    assert world.cache.is_dead(snapshot._replace(sid=B))


# ── tombstones ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ended_sessions_are_remembered_however_they_were_learned_of() -> None:
    """Given an end by the feed, by a repair or by a fill, then a failover that loses it can be mended from here."""
    world = World.proved()
    for session in (A, B, C):
        world.tell(world.log.create(session))
    world.tell(world.log.commit(A, Ended(cause="logout")))
    world.log.commit(B, Ended(cause="idle"))
    world.repair(world.view)
    assert dict(world.cache.tombstones("00")) == {A: "logout", B: "idle"}
    filled = World.proved()
    filled.log = world.log
    assert filled.fill(A) == "kept"
    assert dict(filled.cache.tombstones("00")) == {A: "logout"}
    assert dict(filled.cache.tombstones("01")) == {}


def test_tombstones_outlive_a_fork() -> None:
    """Given an end, when the shard forks, then it is still known."""
    world = World.proved()
    world.tell(world.log.create(A), world.log.commit(A, Ended(cause="logout")))
    world.cache.fork(world.view)
    assert dict(world.cache.tombstones("00")) == {A: "logout"}


def test_tombstones_are_bounded() -> None:
    """Given more ends than are remembered, then the oldest go."""
    world = World.proved()
    for number in range(MAX_TOMBSTONES + 1):
        world.tell(world.log.append("ended", b'{"cause":"idle"}', sid=sid(number), version=2))
    tombs = world.cache.tombstones("00")
    assert len(tombs) == MAX_TOMBSTONES
    assert sid(0) not in tombs
    assert list(tombs)[-1] == sid(MAX_TOMBSTONES)


def test_a_cache_begins_with_the_control_log_only() -> None:
    """Given a new worker, then it knows no shard, and asking for one makes it known."""
    cache = Cache(CachePolicy(), KEYRING)
    assert list(cache.views) == [CONTROL]
    assert cache.view("00") is cache.view("00")
    assert list(cache.views) == [CONTROL, "00"]
    assert not cache.may_serve("00", 0.0)
