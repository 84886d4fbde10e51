"""The sessions of a user: what the index names, once each of them was looked at.

The index is a superset of the living: a session enters before its login is committed, and leaves after its end. So
nothing that it names is believed: each session is asked for, and what is over is taken out on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import anyio

from evsession.cache import Cached
from evsession.codec import Stored, lifetime
from evsession.config import SessionPolicy
from evsession.errors import CorruptSnapshot, EvsessionError
from evsession.store import Entrance, Member
from evsession.worker import Worker, milliseconds

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


class UserIndex:
    """The index of users, as one worker uses it."""

    def __init__(self, worker: Worker, policy: SessionPolicy) -> None:
        self._worker = worker
        self._policy = policy
        self._absolute = milliseconds(policy.absolute_timeout.total_seconds())

    def entrance(self, user: str, device: bytes = b"", absolute: int = 0) -> Entrance:
        """Return what a login of a user asks of the index; `absolute` is the time to its deadline, 0 the policy's."""
        return Entrance(user, (absolute or self._absolute) + KEPT_PAST_ABSOLUTE_MS, device)

    async def keep(self, stored: Stored, device: bytes) -> None:
        """Put a session that lives back into the index, should a failover have lost it."""
        user = stored.snapshot.user_id
        if user is not None:
            lasts = milliseconds(lifetime(stored).total_seconds())
            keep = lasts + KEPT_PAST_ABSOLUTE_MS
            await self._worker.store.enter(user, stored.snapshot.sid, keep, device, anew=False)

    async def living(self, user: str, limit: int) -> list[tuple[Member, Cached]]:
        """Return up to `limit` living sessions of a user, who signed in last first.

        Raises:
            StoreUnavailable, UnknownFormat: it is not known which live.
        """
        await self._worker.ensure_open()
        index = await self._worker.store.members(user)
        found: list[tuple[Member, Cached]] = []
        for batch in _batches(index.members[::-1]):
            for member, cached in zip(batch, await self._look_at(batch), strict=True):
                standing = self._standing(user, cached)
                if cached is not None and standing == "living":
                    found.append((member, cached))
                elif standing == "over" or index.now - member.at > IN_FLIGHT_MS:
                    self._worker.forget_quietly(user, member.sid, member.at)
            if len(found) >= limit:
                break
        return found[:limit]

    async def _look_at(self, members: Sequence[Member]) -> list[Cached | None]:
        results: dict[str, Cached | None] = {}
        errors: list[EvsessionError] = []

        async def look_at(sid: str) -> None:
            try:
                results[sid] = await self._worker.replica.fill(sid)
            except CorruptSnapshot:  # logged where it was found; it cannot be served
                results[sid] = None
            except EvsessionError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for member in members:
                group.start_soon(look_at, member.sid)
        if errors:
            raise errors[0]
        self._worker.counts.fills += len(members)
        return [results[member.sid] for member in members]

    def _standing(self, user: str, cached: Cached | None) -> Standing:
        """Tell what became of a session; `unknown` is one that is not there or nobody's, as before its login."""
        if cached is None or self._worker.clock() >= cached.deadline:
            return "unknown"
        if cached.dead or cached.stored.snapshot.ended is not None:
            return "over"
        return "living" if cached.stored.snapshot.user_id == user else "unknown"


def _batches(members: Sequence[Member]) -> Iterator[Sequence[Member]]:
    return (members[start : start + BATCH] for start in range(0, len(members), BATCH))
