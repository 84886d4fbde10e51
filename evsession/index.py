"""The sessions of a user: what the index names, once each of them was looked at, and how many there may be.

The index is a superset of the living: a session enters before its login is committed, and leaves after its end. So
nothing that it names is believed: each session is asked for, and what is over is taken out on the way.

`max_sessions` is kept by two rules, which hold for logins on any number of workers at once, by no clock:

- **evict_oldest**: a login enters, commits, enters once more and looks: of those that live, all but the newest are
  ended, be it this one. Suppose more than the limit were left once all logins have been answered. The one among them
  that looked last did so after all others had committed, so it saw them live, and ended one. And none of the newest
  ends: whoever ended it saw as many newer ones.
- **reject**: a login enters and looks before it commits: if as many others as the limit live or may be about to, it
  leaves and is refused. What is not there, and entered a while ago, is taken for dead and taken out, unless it has
  entered again since. With its commit a login enters once more: if somebody had taken it out, or that is not known, it
  looks again afterwards, and if there is no room it ends its own session. Suppose more than the limit were left. The
  one among them that came into the index last found all others in it, none of which was taken out later, so it counted
  them.

A login that got no further than its commit has handed out no token: its session is served to nobody, and is the oldest
before long.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Literal, NamedTuple, TypeVar

import anyio

from evsession.cache import Cached
from evsession.codec import Stored, lifetime
from evsession.committer import Decide
from evsession.config import SessionPolicy
from evsession.draft import Stamp
from evsession.errors import CorruptSnapshot, EvsessionError, SessionEnded, SessionError, SessionLimitReached
from evsession.events import Ended, Event
from evsession.state import Snapshot
from evsession.store import Entrance, Indexed, Member
from evsession.worker import Worker, milliseconds

T = TypeVar("T")
R = TypeVar("R")

BATCH: Final = 100
"""Sessions asked for at once, in one pipeline: about 35 KB, a millisecond or two of the server's time."""

IN_FLIGHT_MS: Final = 10_000
"""How long a session that is not there may be one whose login is under way: five commit time-outs.

No promise rests on it: whoever enters and comes later than that enters once more.
"""

KEPT_PAST_ABSOLUTE_MS: Final = 86_400_000
"""How long past the last absolute deadline an index is kept: as long as a session waits for the sweeper."""

Standing = Literal["living", "over", "unknown"]

log = logging.getLogger("evsession.index")


class Looked(NamedTuple):
    """A session that the index names, and what became of it; `cached` is None if it is not there."""

    member: Member
    cached: Cached | None
    standing: Standing

    @property
    def signed_in(self) -> tuple[int, str]:
        """When, as an order that everybody who looks finds the same: once a login is there, its time stays."""
        return (0 if self.cached is None else self.cached.stored.authenticated_at), self.member.sid


class UserIndex:
    """The index of users, as one worker uses it."""

    def __init__(self, worker: Worker, policy: SessionPolicy) -> None:
        self._worker = worker
        self._policy = policy

    # ── logins ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def admit(
        self, user: str, sid: str, base: Stored | None, *, device: bytes = b"", remember: int = 0
    ) -> Entrance:
        """Return what a login asks of the index; `remember` is the time to its deadline in ms, 0 for the policy's.

        Raises:
            SessionLimitReached: the user has as many sessions as may be; nothing was changed.
            StoreUnavailable: the store did not answer.
        """
        absolute = remember or self._worker.drafter.absolute
        await self._worker.grant(absolute)
        most = self._policy.max_sessions
        entrance = Entrance(user, sid, absolute + KEPT_PAST_ABSOLUTE_MS, device, counts=most is not None)
        if most is not None and self._policy.on_limit == "reject" and not self._is_living(user, base):
            index = await self._worker.store.enter(user, sid, entrance.keep, device)
            if not await self._has_room(entrance, index, most):
                await self._worker.store.leave(user, sid)
                raise SessionLimitReached(most, "max_sessions")
        return entrance

    def _is_living(self, user: str, base: Stored | None) -> bool:
        if base is None or base.snapshot.user_id != user:
            return False
        return not self._worker.cache.control.is_dead(base.snapshot)

    async def append(
        self, entrance: Entrance, base: Stored | None, decide: Decide, stamp: Stamp, *, remember: int = 0
    ) -> Stored | None:
        """Append a login that was admitted, as `Committer.append` does, and keep the limit of sessions.

        Raises:
            SessionEnded: the session is over, `evicted` if as many others as may be have signed in since.
            SessionLimitReached: others took the last place meanwhile; the session has ended.
            StoreUnavailable: not within the commit time-out, or the limit could not be kept: hand out no token.
        """
        absolute = remember or self._worker.drafter.absolute
        try:
            stored = await self._worker.committer.append(
                entrance.sid, base, decide, stamp, absolute=absolute, entrance=entrance
            )
        except SessionError as error:
            if isinstance(error, SessionEnded) or not self._is_living(entrance.user, base):
                self._worker.forget_quietly(entrance.user, entrance.sid)
            raise
        if entrance.found is not None and self._policy.max_sessions is not None:
            await self._keep_limit(entrance, entrance.found, self._policy.max_sessions, stamp.context)
        return stored

    async def _keep_limit(self, entrance: Entrance, index: Indexed, most: int, context: bytes) -> None:
        if len(index.members) <= most:
            return
        if self._policy.on_limit == "evict_oldest":
            await self._evict(entrance, index, most, context)
        elif entrance.in_doubt and not await self._has_room(entrance, index, most):
            await self._end(entrance.user, entrance.sid, context)
            raise SessionLimitReached(most, "max_sessions")

    async def _has_room(self, entrance: Entrance, index: Indexed, most: int) -> bool:
        """Tell whether fewer others than the limit live, or may be about to."""
        others = [member for member in index.members if member.sid != entrance.sid]
        if len(others) < most:
            return True
        counted = 0
        for looked in await self._look_at(entrance.user, others):
            counted += looked.standing == "living" or not await self._is_gone(entrance.user, looked, index.now)
        return counted < most

    async def _is_gone(self, user: str, looked: Looked, now: int) -> bool:
        """Tell whether a session never comes to life any more; what is not there must be out of the index for that."""
        if looked.standing == "over":
            self._worker.forget_quietly(user, looked.member.sid, looked.member.at)
            return True
        is_late = now - looked.member.at > IN_FLIGHT_MS
        return is_late and await self._worker.store.leave(user, looked.member.sid, looked.member.at)

    async def _evict(self, entrance: Entrance, index: Indexed, most: int, context: bytes) -> None:
        looked = await self._look_at(entrance.user, index.members)
        living = [sid for _, sid in sorted(one.signed_in for one in looked if one.standing == "living")]
        evicted = living[: max(0, len(living) - most)]
        await _each(evicted, lambda sid: self._end(entrance.user, sid, context))
        if entrance.sid in evicted or entrance.sid not in living:
            raise SessionEnded("evicted")

    async def _end(self, user: str, sid: str, context: bytes) -> None:
        """End a session as evicted, if it still is the user's."""
        worker = self._worker
        known = worker.cache.newest(sid)

        def decide(snapshot: Snapshot | None) -> Event | None:
            if snapshot is None or snapshot.ended is not None or snapshot.user_id != user:
                return None
            return Ended(cause="evicted", reason=f"max_sessions={self._policy.max_sessions}")

        cached = known or await worker.replica.fill(sid)
        if cached is None:
            return
        try:
            await worker.committer.append(sid, cached.stored, decide, worker.stamp(b"system max_sessions", context))
        except SessionEnded:
            return

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def living(self, user: str, limit: int) -> list[tuple[Member, Cached]]:
        """Return up to `limit` living sessions of a user, who signed in last first.

        Raises:
            StoreUnavailable, UnknownFormat: it is not known which live.
        """
        await self._worker.ensure_open()
        index = await self._worker.store.members(user)
        found: list[tuple[Member, Cached]] = []
        for batch in _batches(index.members[::-1]):
            for member, cached, standing in await self._look_at(user, batch):
                if cached is not None and standing == "living":
                    found.append((member, cached))
                elif standing == "over" or index.now - member.at > IN_FLIGHT_MS:
                    self._worker.forget_quietly(user, member.sid, member.at)
            if len(found) >= limit:
                break
        return found[:limit]

    async def keep(self, stored: Stored, device: bytes) -> None:
        """Put a session that lives back into the index, should a failover have lost it."""
        user = stored.snapshot.user_id
        if user is not None:
            lasts = milliseconds(lifetime(stored).total_seconds())
            keep = lasts + KEPT_PAST_ABSOLUTE_MS
            await self._worker.store.enter(user, stored.snapshot.sid, keep, device, anew=False)

    async def _look_at(self, user: str, members: Sequence[Member]) -> list[Looked]:
        """Ask for sessions at the primary, and judge each."""
        self._worker.counts.fills += len(members)
        looked = []
        for batch in _batches(members):
            for member, cached in zip(batch, await _each(batch, self._fill), strict=True):
                looked.append(Looked(member, cached, self._standing(user, cached)))
        return looked

    async def _fill(self, member: Member) -> Cached | None:
        try:
            return await self._worker.replica.fill(member.sid)
        except CorruptSnapshot:  # logged where it was found; it cannot be served
            return None

    def _standing(self, user: str, cached: Cached | None) -> Standing:
        """Tell what became of a session; `unknown` is one that a login which is under way may bring to life."""
        if cached is None or self._worker.clock() >= cached.deadline:
            return "unknown"
        if cached.stored.snapshot.ended is not None:
            return "over"
        return "living" if cached.stored.snapshot.user_id == user and not cached.dead else "unknown"


def _batches(members: Sequence[Member]) -> Iterator[Sequence[Member]]:
    return (members[start : start + BATCH] for start in range(0, len(members), BATCH))


async def _each(items: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Do the same for all items at once, and return the results in their order; raise the first error after all."""
    results: dict[int, R] = {}
    errors: list[EvsessionError] = []

    async def do(number: int, item: T) -> None:
        try:
            results[number] = await work(item)
        except EvsessionError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for number, item in enumerate(items):
            group.start_soon(do, number, item)
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(items))]
