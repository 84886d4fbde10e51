"""What a worker knows of one log: positions, gaps, repairs, forks and leases."""

from __future__ import annotations

from datetime import timedelta

import pytest

from evsession.config import CachePolicy
from evsession.events import Updated
from evsession.state import Snapshot
from evsession.view import CONTROL, REMEMBERED, Beat, BeatReply, View, WorkerRecord, worker_record
from evsession.wire import START, Position
from tests.property.model import World, event_id, framed, sid

NEVER = float("-inf")
A, B = sid(1), sid(2)


def position(number: int) -> Position:
    """Return the position with a number."""
    return Position((number, 0), event_id(number))


def test_a_view_that_knows_nothing_has_no_lease_and_asks_for_the_end() -> None:
    """It may serve nothing."""
    view = View("00")
    assert (view.lease_until, view.serve_until, view.is_waiting, view.gap) == (NEVER, NEVER, False, False)
    assert view.beat() == Beat("00", None)


def test_a_shard_is_adopted_at_its_end_and_the_control_log_once_it_was_loaded() -> None:
    """Of the control log everything counts, so all of it is missing; what was loaded proves nothing by itself."""
    reply = BeatReply("ok", "first", position(5))
    shard, control = View("00"), View(CONTROL)
    for view in (shard, control):
        view.adopt(reply)
        assert (view.incarnation, view.generation) == ("first", 1)
    assert (shard.position, shard.gap) == (position(5), False)
    assert (control.position, control.unloaded, control.gap) == (None, position(5), True)
    control.promise(position(5), 2.0)
    control.loaded(position(5))
    assert (control.position, control.unloaded, control.lease_until) == (position(5), None, NEVER)
    assert shard.beat() == Beat("00", position(5))


def test_an_empty_control_log_lacks_nothing() -> None:
    """Its start is its end."""
    view = View(CONTROL)
    view.adopt(BeatReply("ok", "first", START))
    assert (view.position, view.gap) == (START, False)


def test_a_lease_begins_when_the_position_stands_at_the_end_that_was_named() -> None:
    """Not a step earlier."""
    view = View("00")
    view.adopt(BeatReply("ok", "first", position(5)))
    view.promise(position(7), 2.0)
    assert (view.lease_until, view.is_waiting) == (NEVER, True)
    view.advance(position(6))
    assert (view.lease_until, view.is_waiting) == (NEVER, True)
    view.advance(position(7))
    assert (view.lease_until, view.is_waiting) == (2.0, False)


def test_an_end_that_was_passed_before_its_reply_came_counts_at_once() -> None:
    """The feed may be faster than the heartbeat's answer."""
    view = View("00")
    view.adopt(BeatReply("ok", "first", position(5)))
    view.advance(position(6))
    view.advance(position(7))
    for end, until in ((5, 2.0), (6, 3.0), (7, 4.0)):
        view.promise(position(end), until)
        assert view.lease_until == until


def test_a_later_id_of_another_history_redeems_nothing() -> None:
    """A failover hands ids out again: position 7 of the old log is not past position 6 of the new one."""
    view = View("00")
    view.adopt(BeatReply("ok", "first", position(5)))
    view.promise(Position((6, 0), event_id(66)), 2.0)
    view.advance(position(6))
    view.advance(position(7))
    view.promise(Position((6, 0), event_id(66)), 3.0)
    assert (view.lease_until, view.is_waiting) == (NEVER, True)


def test_several_ends_are_waited_for_at_once() -> None:
    """On a busy log each heartbeat names a later end; the lease must not starve."""
    view = View("00")
    view.adopt(BeatReply("ok", "first", position(5)))
    view.promise(position(6), 2.0)
    view.promise(position(7), 3.0)
    view.advance(position(6))
    assert (view.lease_until, view.is_waiting) == (2.0, True)
    view.advance(position(7))
    assert (view.lease_until, view.is_waiting) == (3.0, False)


def test_a_later_heartbeat_makes_an_earlier_promise_pointless() -> None:
    """And an earlier one that comes late shortens nothing."""
    view = View("00")
    view.adopt(BeatReply("ok", "first", position(5)))
    view.promise(position(6), 2.0)
    view.promise(position(5), 3.0)
    assert (view.lease_until, view.is_waiting) == (3.0, False)
    view.promise(position(5), 1.0)
    assert view.lease_until == 3.0


def test_two_promises_for_one_end_are_the_longer_one() -> None:
    """In whichever order they come."""
    view = View("00")
    view.adopt(BeatReply("ok", "first", position(5)))
    for until in (2.0, 3.0, 2.5):
        view.promise(position(6), until)
    view.advance(position(6))
    assert view.lease_until == 3.0


def test_the_last_applied_positions_are_remembered_but_not_for_ever() -> None:
    """With their event ids: an id alone proves nothing."""
    view = View("00")
    view.adopt(BeatReply("ok", "first", position(0)))
    for number in range(1, REMEMBERED + 1):
        view.advance(position(number))
    assert not view.has_applied(position(0))
    assert view.has_applied(position(1))
    assert view.has_applied(position(REMEMBERED))
    assert not view.has_applied(Position((1, 0), event_id(99_999)))


def test_forgetting_leaves_nothing_of_the_old_history() -> None:
    """No position, no lease, no promise; a new generation, so nothing cached counts."""
    view = View("00")
    view.adopt(BeatReply("ok", "first", position(5)))
    view.promise(position(5), 2.0)
    view.promise(position(6), 3.0)
    view.gap, generation = True, view.generation
    view.forget()
    assert (view.position, view.incarnation, view.gap, view.is_waiting) == (None, None, False, False)
    assert (view.lease_until, view.serve_until) == (NEVER, NEVER)
    assert view.generation == generation + 1
    assert not view.has_applied(position(5))


def test_a_lease_counts_from_when_its_heartbeat_was_sent() -> None:
    """Given a heartbeat sent at 10, when its answer comes, then the lease ends `max_staleness` after 10."""
    world = World(CachePolicy(max_staleness=timedelta(seconds=0.5)))
    world.prove(10.0)
    assert world.cache.may_serve("00", 10.49)
    assert not world.cache.may_serve("00", 10.5)


def test_nothing_but_a_heartbeat_extends_a_lease() -> None:
    """Given a lease, when messages, fills, commits and repairs come, then it ends when it would have ended."""
    world = World.proved()
    world.tell(world.log.create(A), world.log.commit(A, Updated(set_={"a": 1})))
    assert world.fill(A) == "kept"
    flight = world.cache.begin(A, event_id(9))
    world.cache.finish(flight, world.log.stored(A), 99.0)
    assert world.repair(world.view)
    assert (world.view.lease_until, world.view.serve_until) == (2.0, 2.0)


@pytest.mark.parametrize("late", ["shard", "control"])
def test_both_leases_are_needed(late: str) -> None:
    """The control log's lease limits every shard, and a shard's own lease limits it too."""
    world = World.proved()
    world.beat(world.control_view if late == "shard" else world.view, 1.0)
    assert world.cache.may_serve("00", 1.9)
    assert not world.cache.may_serve("00", 2.0)
    world.prove(1.5)
    assert world.cache.may_serve("00", 3.4)
    assert not world.cache.may_serve("01", 1.6)


def test_messages_redeem_what_a_heartbeat_promised() -> None:
    """Given a heartbeat whose end is ahead of the position, when the missing messages come, then the lease begins."""
    world = World.proved()
    messages = [world.log.create(A), world.log.create(B)]
    world.prove(1.0)
    assert world.view.is_waiting
    assert (world.view.lease_until, world.cache.may_serve("00", 2.0)) == (2.0, False)
    world.tell(messages[0])
    assert not world.cache.may_serve("00", 2.0)
    world.tell(messages[1])
    assert world.cache.may_serve("00", 2.9)
    assert not world.view.is_waiting


def test_a_repair_redeems_it_too() -> None:
    """Given lost messages, when the log is read instead, then the lease begins."""
    world = World.proved()
    world.log.create(A)
    world.prove(1.0)
    assert world.repair(world.view)
    assert (world.view.lease_until, world.cache.stats.repaired) == (3.0, 1)


def test_a_message_lost_in_between_is_a_gap() -> None:
    """Given a lost message, when the next one comes, then a repair is due and the position stays where it was."""
    world = World.proved()
    world.log.create(A)
    world.tell(world.log.create(B))
    assert (world.view.gap, world.cache.stats.gaps) == (True, 1)
    assert world.view.position == START
    assert world.repair(world.view)
    assert (world.view.gap, world.view.position) == (False, world.log.end)


def test_a_doubled_message_is_nothing() -> None:
    """Given applied messages, when they come again, then no repair is due and nothing moves."""
    world = World.proved()
    messages = [world.log.create(A), world.log.create(B), world.log.commit(A, Updated())]
    world.tell(*messages, *messages)
    assert (world.view.gap, world.cache.stats.gaps) == (False, 0)
    assert world.view.position == world.log.end


def test_the_message_of_an_adopted_end_is_a_duplicate() -> None:
    """Given a position adopted from a heartbeat, when the message of that entry is late, then no repair is due."""
    world = World()
    late = world.log.create(A)
    world.prove(0.0)
    world.tell(world.log.create(B))
    world.tell(late)
    assert not world.view.gap


def test_before_the_first_heartbeat_messages_are_nothing() -> None:
    """There is no position that they could continue."""
    world = World()
    world.tell(world.log.create(A))
    assert (world.view.position, world.view.gap) == (None, False)


def test_a_read_that_began_before_messages_came_applies_only_what_is_new() -> None:
    """Given a repair under way, when the feed moves the position meanwhile, then its entries are not applied twice."""
    world = World.proved()
    world.tell(world.log.create(A))
    start = world.log.end
    world.tell(world.log.commit(A, Updated(set_={"n": 1})))
    entries = world.log.read(start)
    world.tell(world.log.commit(A, Updated(set_={"n": 2})))
    world.fill(A)
    assert world.cache.repaired(world.view, start, entries)
    assert (world.view.position, world.cache.stats.repaired) == (world.log.end, 0)
    assert world.served(A) == {"n": 2}


def test_a_read_of_another_history_than_the_feed_brought_is_a_fork() -> None:
    """Given a repair under way, when the feed brings what a failover then loses, then the read reveals a fork."""
    world = World.proved()
    world.tell(world.log.create(A))
    start = world.log.end
    world.tell(world.log.commit(A, Updated(set_={"lost": 1})))
    world.log.lose(1)
    world.log.commit(A, Updated(set_={"won": 1}))
    world.log.commit(A, Updated(set_={"won": 2}))
    assert not world.cache.repaired(world.view, start, world.log.read(start))
    assert (world.view.position, world.cache.stats.forks) == (None, 1)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_repair_without_its_own_position_is_a_fork(lost: int) -> None:
    """Given a failover that lost our position, when the log is read from there, then all is forgotten."""
    world = World.proved()
    world.tell(world.log.create(B), world.log.create(A, n=1))
    world.fill(A)
    generation = world.view.generation
    world.log.lose(lost)
    assert not world.repair(world.view)
    assert (world.view.position, world.view.generation) == (None, generation + 1)
    assert world.cache.lookup(A, 0.1) is None
    assert world.cache.newest(A) is None


def test_the_same_id_with_another_event_is_a_fork() -> None:
    """Given a failover that hands our position's id out again, when the log is read, then the event id tells."""
    world = World.proved()
    world.tell(world.log.create(A))
    world.log.lose(1)
    world.log.create(A)
    assert not world.repair(world.view)
    assert world.cache.stats.forks == 1


def test_a_trimmed_position_proves_nothing() -> None:
    """Given a log trimmed beyond our position, when it is read, then everything is loaded anew."""
    world = World.proved()
    world.tell(world.log.create(A))
    world.fill(A)
    world.log.create(B)
    world.log.create(sid(3))
    world.log.trim(2)
    assert not world.repair(world.view)
    assert world.served(A, 0.1) is None


def test_from_the_start_of_a_log_nothing_cached_is_believed() -> None:
    """Given a position before the first entry, when the log is read, then what was trimmed may concern any entry."""
    world = World.proved()
    world.fill(A)
    world.log.create(A, n=1)
    assert world.fill(A) == "kept"
    world.log.create(B)
    world.log.trim(1)
    assert world.repair(world.view)
    assert world.served(A) is None
    assert world.view.position == world.log.end


def test_from_the_start_the_feed_may_have_led_on() -> None:
    """Given a read from the start under way, when messages prove the way, then what rests on them is kept."""
    world = World.proved()
    world.tell(world.log.create(A, n=1))
    world.fill(A)
    assert world.cache.repaired(world.view, START, world.log.read(START))
    assert world.served(A) == {"n": 1}


def test_the_start_of_the_control_log_is_its_beginning() -> None:
    """Given revocations before this worker began, when it has read them all, then and only then its lease counts."""
    world = World()
    world.control.revoke("user:1")
    world.control.revoke("user:2")
    world.prove(0.0)
    generation = world.control_view.generation
    assert (world.control_view.gap, world.cache.may_serve("00", 0.1)) == (True, False)
    assert world.repair(world.control_view)
    assert world.cache.control.killer(Snapshot(sid=A, user_id="2")) == world.control.end.id
    assert not world.cache.may_serve("00", 0.1)
    world.prove(0.05)
    assert world.cache.may_serve("00", 0.1)
    assert world.control_view.generation == generation


def test_an_empty_read_of_an_empty_log_is_no_fork() -> None:
    """Given an empty log, when it is read, then its start is still its end."""
    world = World.proved()
    assert world.repair(world.view)
    assert (world.view.position, world.cache.stats.forks) == (START, 0)


def test_a_repair_after_the_view_was_forgotten_is_nothing() -> None:
    """Given a repair under way, when a fork is found by somebody else, then what it read is dropped."""
    world = World.proved()
    world.log.create(A)
    world.cache.fork(world.view)
    assert not world.cache.repaired(world.view, START, world.log.read(START))
    assert (world.view.position, world.cache.stats.forks) == (None, 1)


@pytest.mark.parametrize("status", ["fork", "trimmed"])
def test_a_refused_heartbeat_adopts_the_new_end(status: str) -> None:
    """Given a position that the log has not, when a heartbeat says so, then the shard begins anew at the end."""
    world = World.proved()
    world.tell(world.log.create(A))
    world.fill(A)
    if status == "fork":
        world.log.lose(1)
    else:
        world.log.create(B)
        world.log.trim(1)
    assert world.log.beat(world.view.position).status == status
    assert world.beat(world.view, 1.0)
    assert world.view.position == world.log.end
    assert world.served(A) is None
    assert (world.view.lease_until, world.cache.stats.forks) == (3.0, 1)


def test_another_incarnation_is_a_fork() -> None:
    """Given a log that was flushed, when it has grown back to the very same position, then its incarnation tells."""
    world = World.proved()
    world.tell(world.log.create(A))
    world.fill(A)
    world.log.incarnation = "second"
    assert world.beat(world.view, 1.0)
    assert (world.view.incarnation, world.cache.stats.forks) == ("second", 1)
    assert world.served(A) is None


def test_a_fork_of_the_control_log_ends_every_lease_and_promise() -> None:
    """Given shards with leases, when the control log forks, then nobody serves until all of it was loaded again."""
    world = World.proved()
    message = world.log.create(A)
    world.prove(1.0)
    world.control.revoke("user:1")
    world.control.incarnation = "second"
    world.beat(world.control_view, 1.0)
    world.tell(message)
    assert (world.view.lease_until, world.control_view.lease_until) == (NEVER, NEVER)
    assert world.repair(world.control_view)
    world.beat(world.view, 1.0)
    assert not world.cache.may_serve("00", 1.0)
    world.beat(world.control_view, 1.0)
    assert world.cache.may_serve("00", 2.9)


def test_a_fork_of_a_shard_leaves_the_others_alone() -> None:
    """Given two shards, when one forks, then the other serves on."""
    world = World.proved()
    other = world.cache.view("01")
    world.cache.beaten(other, other.beat(), BeatReply("ok", "first", START), 0.0)
    world.cache.fork(world.view)
    assert not world.cache.may_serve("00", 1.0)
    assert world.cache.may_serve("01", 1.0)


def test_a_heartbeat_without_a_position_proves_none() -> None:
    """Given two first heartbeats, when the second's answer comes after the first's, then it extends no lease."""
    world = World()
    first = world.view.beat()
    world.prove(0.0)
    assert not world.cache.beaten(world.view, first, world.log.beat(None), 1.0)
    assert world.view.lease_until == 2.0


def test_a_control_message_is_followed_like_any_other() -> None:
    """Given both leases, when a revocation comes by the feed, then the position of the control log moves."""
    world = World.proved()
    world.cache.message(CONTROL, world.control.revoke("user:1"))
    assert world.control_view.position == world.control.end
    world.control.revoke("user:2")
    world.cache.message(CONTROL, world.control.revoke("user:3"))
    assert (world.control_view.gap, world.view.gap) == (True, False)
    assert world.repair(world.control_view)
    assert all(world.cache.control.newest_of((f"user:{n}",), A) > (0, 0) for n in (1, 2, 3))


@pytest.mark.parametrize("shard", ["00", CONTROL])
@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"1", b'{"name":1}', b'{"cause":1}', b'{"keep":"x"}', b'{"name":"a","keep":1}']
)
@pytest.mark.parametrize("type_", ["merged", "ended", "updated", "named_revoked"])
def test_an_entry_that_cannot_be_read_never_stops_a_log(shard: str, data: bytes, type_: str) -> None:
    """Given an event of a newer version, or garbage in the log, then feed and repair pass it all the same."""
    for by_feed in (True, False):
        world = World.proved()
        view = world.cache.view(shard)
        log = world.log_of(view)
        first = log.create(A, n=1) if shard == "00" else log.revoke("user:1")
        world.cache.message(shard, first)
        world.fill(A)
        message = log.append(type_, data, sid=A, version=2)
        if by_feed:
            world.cache.message(shard, message)
        else:
            assert world.repair(view)
        assert (view.position, view.gap) == (log.end, False)
        is_readable = type_ == "updated" and data.startswith(b'{"') and by_feed  # fields of no meaning are no change
        assert shard == CONTROL or is_readable or world.cache.newest(A) is None
        world.cache.message(shard, log.create(B) if shard == "00" else log.revoke("user:2"))
        assert view.position == log.end


def test_what_is_forged_moves_nothing() -> None:
    """Given a good position, when parts with bad tags or unknown keys come, then a repair is due and nothing else."""
    world = World.proved()
    world.log.create(A)
    [entry] = world.log.entries
    good = world.log.messages[0]
    part = good[good.index(b"\n") + 17 :]
    flipped = part[:-1] + bytes([part[-1] ^ 1])
    unknown = part.replace(entry.key_id.encode(), b"zzzz")
    for number, bad in enumerate((flipped, unknown, b""), 1):
        world.view.gap = False
        world.tell(framed(START, entry.id, bad))
        assert (world.view.gap, world.view.position, world.cache.stats.forged) == (True, START, number)
    world.view.gap = False
    world.tell(b"no message at all")
    assert (world.view.gap, world.cache.stats.forged) == (True, 4)
    world.tell(good)
    assert world.view.position == entry.position


def test_a_cut_message_counts_as_far_as_it_is_whole() -> None:
    """Given two commits in one message, when it was cut, then the first is applied and a repair is due."""
    world = World.proved()
    message = world.log.create(A) + world.log.create(B)
    world.tell(message[:-1])
    assert (world.view.gap, world.view.position) == (True, world.log.entries[0].position)
    world.tell(message)
    assert world.view.position == world.log.end


def test_a_replayed_part_at_a_made_up_place_is_found_by_the_next_heartbeat() -> None:
    """Given a true part with a false id, when it was applied, then no lease begins by it, and a heartbeat forks."""
    world = World.proved()
    message = world.log.create(A)
    part = message[message.index(b"\n") + 17 :]
    world.tell(message)
    lost = world.log.create(B)
    world.prove(1.0)
    world.tell(framed(world.log.entries[0].position, (10**15, 0), part))
    assert world.view.lease_until == 2.0
    world.tell(lost)
    assert world.view.lease_until == 2.0
    assert world.beat(world.view, 1.5)
    assert (world.view.position, world.cache.stats.forks) == (world.log.end, 1)


def test_the_entry_of_a_repair_carries_no_wrong_position() -> None:
    """Given entries with another event id at the start, when they are taken in, then it is a fork."""
    world = World.proved()
    world.tell(world.log.create(A))
    [entry] = world.log.entries
    assert not world.cache.repaired(world.view, entry.position, [entry._replace(event_id=event_id(77))])


@pytest.mark.parametrize("raw", [b"", b"x y z", b"0-0 0 0 2000", b"0-0 2000", b"0-0 1 -5", b"0-0 1 2000\n"])
def test_a_record_of_no_form_of_ours_is_none(raw: bytes) -> None:
    """Whoever can write to the server can leave anything there."""
    assert worker_record(raw) is None
    assert worker_record(b"5-1 7 2000") == WorkerRecord((5, 1), 7, 2000)
