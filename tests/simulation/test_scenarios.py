"""Failovers too rare for chance to find within a minute, played step by step."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

import pytest

from evsession.cache import Cache
from evsession.committer import Committer, Decide
from evsession.config import CachePolicy, SessionPolicy
from evsession.control import Control, Image, Revocation, revocation_of
from evsession.draft import Drafter, Stamp
from evsession.errors import StoreUnavailable
from evsession.events import Authenticated, Created, Event, Updated
from evsession.redaction import Redactor
from evsession.replica import Replica
from evsession.revocation import Revoker
from evsession.state import Snapshot
from evsession.store import EVENT_KEY, Commit, CommitReply, NamedRevoked, RevokeReply
from evsession.view import CONTROL
from evsession.wire import START, Entry, Position
from tests.simulation.model import Operation, Primary
from tests.simulation.world import KEYS

SID = "00" + "A" * 22


class LosesReplies(Primary):
    """A primary whose replies to commits are lost as often as there is something to do first."""

    def __init__(self) -> None:
        super().__init__(random.Random(0), lambda: 1.0, is_crowded=True)
        self.before_losing: list[Callable[[], object]] = []
        self.is_asked_by_others = False

    async def commit(self, commit: Commit) -> CommitReply:
        reply = await super().commit(commit)
        if reply.status != "ok" or self.is_asked_by_others or not self.before_losing:
            return reply
        self.before_losing.pop(0)()
        raise StoreUnavailable(timedelta(seconds=1), outcome_unknown=True)


class Writer:
    """A worker that only commits."""

    def __init__(self, primary: Primary) -> None:
        self.primary = primary
        self.cache = Cache(CachePolicy(), KEYS)
        self.replica = Replica(primary, self.cache, KEYS, lambda: 1.0)
        drafter = Drafter(KEYS, Redactor(()), SessionPolicy(), idle=60_000, absolute=600_000)
        self.committer = Committer(primary, self.replica, drafter, lambda: 1.0, patience=10.0)

    async def write(self, name: str, event: Event) -> None:
        """Append an event in the name of an operation, to the newest state."""
        cached = await self.replica.fill(SID)
        base = cached.stored if cached is not None else None
        secret = base.snapshot.secrets[0] if base is not None else ""
        self.primary.operations[name] = Operation(name, "write", secret, dict(event.set_))
        stamp = Stamp(name.encode().ljust(16, b"\0"), context=b'["w","POST %b"]' % name.encode())
        decide: Decide = lambda snapshot: event if _still_changes(snapshot, event) else None  # noqa: E731
        await self.committer.append(SID, base, decide, stamp)


def _still_changes(snapshot: Snapshot | None, event: Event) -> bool:
    return snapshot is None or any(snapshot.data.get(key) != value for key, value in event.set_.items())


async def test_a_retry_finds_its_event_at_a_lower_version_than_it_began_with() -> None:
    """A failover takes versions away; the event then stands lower, and is not appended once more."""
    primary = LosesReplies()
    writer, other = Writer(primary), Writer(primary)
    await writer.write("begin", Created(secret="s", control=""))
    for name in ("a", "b", "c"):
        await writer.write(name, Updated(set_={name: 1}))

    async def overwritten() -> None:
        primary.is_asked_by_others = True
        for name in ("d", "e", "f"):
            await other.write(name, Updated(set_={"mine": name}))
        primary.is_asked_by_others = False

    primary.before_losing = [lambda: primary.fail_over(4, 0), lambda: _run(overwritten())]
    await writer.write("mine", Updated(set_={"mine": "mine"}))
    assert [entry.version for entry in primary.history if entry.event_id.startswith(b"mine")] == [2]
    assert primary.truth(SID).stored.snapshot.data["mine"] == "f"  # type: ignore[union-attr]


async def test_an_event_appended_anew_never_has_the_position_that_a_failover_took() -> None:
    """Id and event id together would prove a past that is another: a session changed before it would stay as it was."""
    primary = LosesReplies()
    writer = Writer(primary)
    await writer.write("begin", Created(secret="s", control=""))
    lost = []

    def fail_over() -> None:
        lost.append(primary.history[-1].position)
        primary.fail_over(1, 0)

    primary.before_losing = [fail_over]
    await writer.write("again", Updated(set_={"x": 1}))
    found = primary.history[-1].position
    assert found.id == lost[0].id
    assert found.event[:EVENT_KEY] == lost[0].event[:EVENT_KEY]
    assert found != lost[0]


@pytest.mark.parametrize("kept", [None, "00other"])
def test_a_revocation_with_the_id_of_a_lost_one_spares_nobody(kept: str | None) -> None:
    """The lost one excepted a session; the one that has its id now does not."""
    control = Control()
    control.apply(Revocation(Position((7, 0), bytes(16)), "user:42", SID))
    control.load(Image({}, b""))
    control.apply(Revocation(Position((7, 0), b"another one's id"), "user:42", kept))
    begun = Authenticated(secret="s", control="", user_id="42")
    assert control.is_dead(Snapshot(sid=SID, user_id=begun.user_id))


class Attempts(Primary):
    """A primary with something to do after it has appended a revocation, or before it is read."""

    def __init__(self) -> None:
        super().__init__(random.Random(0), lambda: 1.0, is_crowded=True)
        self.after_appending: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.while_loading: Callable[[], Coroutine[Any, Any, object]] | None = None
        self.is_cut = False
        self.at_reads: Callable[[], object] = lambda: None

    async def revoke(self, entry: NamedRevoked) -> RevokeReply:
        reply = await super().revoke(entry)
        after, self.after_appending = self.after_appending, None
        if after is not None:
            await after()
        return reply

    async def read(self, shard: str, start: Position, count: int) -> Sequence[Entry]:
        self.at_reads()
        if self.is_cut:
            raise StoreUnavailable(timedelta(seconds=1))
        return await super().read(shard, start, count)

    async def image(self) -> Image:
        names = (await super().image()).names
        if self.while_loading is not None:
            await self.while_loading()
        return (await super().image())._replace(names=names)


class Follower:
    """A worker that only revokes, and hears of others when it asks."""

    def __init__(self, primary: Primary) -> None:
        self.cache = Cache(CachePolicy(), KEYS)
        self.replica = Replica(primary, self.cache, KEYS, lambda: 1.0)
        self.revoker = Revoker(primary, self.replica, KEYS, lambda: 1.0, patience=10.0)

    async def revoke(self, name: str) -> Position:
        """Append an entry, as often as that must be tried."""
        return await self.revoker.append(name, Stamp(os.urandom(16)), keep=None, reason="", waits=False)

    async def follow(self) -> None:
        """Apply all that the log holds, whichever history it has by now."""
        await self.replica.prove(())
        await self.replica.repair_all()
        await self.replica.prove(())

    def is_dead(self) -> bool:
        """Tell whether a session of user 42 is revoked here that began before all entries."""
        return self.cache.control.is_dead(Snapshot(sid=SID, user_id="42"))


async def given_a_lost_attempt_and_a_second() -> tuple[Attempts, Follower]:
    """Return a worker that has applied what a failover lost, and not yet what its caller then appended once more."""
    primary = Attempts()
    caller, follower = Follower(primary), Follower(primary)
    await caller.follow()
    await follower.follow()

    async def fail_over() -> None:
        await follower.follow()
        primary.fail_over(1, 0)
        await follower.follow()
        raise StoreUnavailable(timedelta(seconds=1), outcome_unknown=True)

    primary.after_appending = fail_over
    await caller.revoke("user:42")
    assert len(follower.cache.control.lost) == 1
    return primary, follower


async def test_a_lost_revocation_stays_in_force_while_another_attempt_is_read() -> None:
    """At no moment is neither in force: a session could be served just then."""
    primary, follower = await given_a_lost_attempt_and_a_second()
    seen: list[bool] = []
    primary.at_reads = lambda: seen.append(follower.is_dead())
    await follower.revoker.issue_again()
    assert seen
    assert all(seen)
    assert follower.is_dead()
    assert not follower.cache.control.lost
    assert len(primary.revocations) == 1


async def test_a_lost_revocation_stays_in_force_until_another_attempt_can_be_read() -> None:
    """The log cannot be read just then; the next call settles it."""
    primary, follower = await given_a_lost_attempt_and_a_second()
    primary.is_cut = True
    await follower.revoker.issue_again()
    assert follower.is_dead()
    assert len(follower.cache.control.lost) == 1
    primary.is_cut = False
    await follower.revoker.issue_again()
    assert follower.is_dead()
    assert not follower.cache.control.lost


async def test_a_lost_revocation_may_be_settled_by_others_meanwhile() -> None:
    """While one task asks, another one of this worker repairs; what the first had in mind is done already."""
    primary, follower = await given_a_lost_attempt_and_a_second()
    (event,) = follower.cache.control.lost

    def settle() -> None:
        primary.at_reads = lambda: None
        follower.cache.control.apply(revocation_of(primary.revocations[0].position, b'{"name":"user:42"}'))
        follower.cache.control.settle(event, primary.revocations[0].position)

    primary.at_reads = settle
    await follower.revoker.issue_again()
    assert follower.is_dead()
    assert not follower.cache.control.lost


async def test_a_revocation_while_the_log_is_loaded_is_in_force() -> None:
    """It came after the names were read and before the positions were."""
    primary = Attempts()
    caller, started = Follower(primary), Follower(primary)
    await caller.revoke("user:43")
    primary.while_loading = lambda: caller.revoke("user:42")
    await started.follow()
    assert started.is_dead()


async def test_a_lost_revocation_is_issued_again_with_all_that_is_known_by_then() -> None:
    """A second failover while the first of two was under way: of the other's history, less is shared than before."""
    primary = Attempts()
    worker = Follower(primary)
    await worker.follow()
    for name in ("user:41", "user:42", "user:43"):
        await worker.revoke(name)
    primary.fail_over(2, 0)
    await worker.follow()

    async def fail_over() -> None:
        primary.fail_over(2, 0)
        await worker.follow()

    primary.after_appending = fail_over
    await worker.revoker.issue_again()
    last = revocation_of(*_last_of(primary))
    assert (last.name, [place.common for place in last.places]) == ("user:43", [START.id])


async def test_an_entry_issued_again_twice_never_stands_at_one_position_in_two_histories() -> None:
    """Whoever stood there in the first would take the second for the same, and never read what was lost with it."""
    random.seed(0)
    primary = Attempts()
    one, two = Follower(primary), Follower(primary)
    await one.follow()
    await one.revoke("user:42")
    await two.follow()
    primary.fail_over(1, -300)
    for worker in (one, two):
        await worker.follow()
    await one.revoker.issue_again()
    first = primary.revocations[-1].position
    primary.fail_over(1, 0)
    await two.revoker.issue_again()
    second = primary.revocations[-1].position
    assert first.event == second.event
    assert first.id != second.id


def _last_of(primary: Primary) -> tuple[Position, bytes]:
    entry = primary._shard(CONTROL).log[-1]
    return entry.position, entry.data


def _run(work: object) -> None:
    """Run a coroutine that never waits, since the store does not."""
    with pytest.raises(StopIteration):
        work.send(None)  # type: ignore[attr-defined]
