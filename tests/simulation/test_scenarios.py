"""Failovers too rare for chance to find within a minute, played step by step."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta

import pytest

from evsession.cache import Cache
from evsession.committer import Committer, Decide
from evsession.config import CachePolicy, SessionPolicy
from evsession.control import Control, Image, Revocation
from evsession.draft import Drafter, Stamp
from evsession.errors import StoreUnavailable
from evsession.events import Authenticated, Created, Event, Updated
from evsession.redaction import Redactor
from evsession.replica import Replica
from evsession.state import Snapshot
from evsession.store import EVENT_KEY, Commit, CommitReply
from evsession.wire import Position
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


def _run(work: object) -> None:
    """Run a coroutine that never waits, since the store does not."""
    with pytest.raises(StopIteration):
        work.send(None)  # type: ignore[attr-defined]
