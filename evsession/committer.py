"""The one loop that appends events: attempt, rebase on conflict, retry after a lost reply, and never twice."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Final

import anyio

from evsession.cache import TOUCHES
from evsession.codec import Stored
from evsession.draft import Draft, Drafter, Stamp
from evsession.errors import SessionEnded, StoreUnavailable
from evsession.events import Ended, Event
from evsession.operations import Operation
from evsession.patience import RETRY_AFTER
from evsession.replica import Replica
from evsession.state import Snapshot
from evsession.store import CommitReply, Condition, Entrance, Store

FIRST_PAUSE: Final = 0.001
LONGEST_PAUSE: Final = 0.05
"""Seconds between attempts, doubled and drawn at random.  Source: 8 without jitter refused one of 20 writers."""

Decide = Callable[[Snapshot | None], Event | None]
"""Given the snapshot that an attempt is based on, the event to append, or None if nothing is left to do.

It is asked anew for every attempt, and raises when what it stands for is no longer allowed there.
"""


class Committer:
    """Appends events for one worker. Commits of one session queue here before they would collide at the server."""

    def __init__(
        self, store: Store, replica: Replica, drafter: Drafter, clock: Callable[[], float], *, patience: float
    ) -> None:
        self._store = store
        self._replica = replica
        self._drafter = drafter
        self._clock = clock
        self._patience = patience
        self._turns: dict[str, deque[anyio.Event]] = {}
        self.appended = 0
        self.on_left: Callable[[str, str], None] = lambda user, sid: None
        """Called with the user and id of each session that this worker has ended; the owner sets it."""
        self.conflicts = 0
        self.retries = 0

    async def append(
        self,
        sid: str,
        base: Stored | None,
        decide: Decide,
        stamp: Stamp,
        *,
        absolute: int = 0,
        condition: Condition = "",
        entrance: Entrance | None = None,
    ) -> Stored | None:
        """Append the event that `decide` names, and return the snapshot it produced, or the last base if it named none.

        Without a base, `decide` gets None and begins a session. A condition that does not hold yet returns the living
        snapshot. An entrance puts the session into the index of its user first, and learns what it found there.

        Raises:
            SessionEnded: the session is over or past a deadline; nothing was written.
            StoreUnavailable: not within the commit time-out; with `outcome_unknown`, the event may stand in the log.
        """
        with self._replica.operations.commit(sid) as operation:
            if sid in self._turns:
                await self._take_turn(sid)
            else:
                self._turns[sid] = deque()
            try:
                return await self._append(
                    sid,
                    base,
                    decide,
                    stamp,
                    operation,
                    absolute=absolute,
                    condition=condition,
                    entrance=entrance,
                )
            finally:
                self._pass_turn(sid)

    async def _append(
        self,
        sid: str,
        base: Stored | None,
        decide: Decide,
        stamp: Stamp,
        operation: Operation,
        *,
        absolute: int,
        condition: Condition,
        entrance: Entrance | None,
    ) -> Stored | None:
        give_up_at = self._clock() + self._patience
        first_version, pause = 0, FIRST_PAUSE
        base = self._newest(sid, base)
        while True:
            attempted = 0
            try:
                if base is not None and not self._replica.cache.may_serve(sid[:2], self._clock()):
                    await self._replica.ensure_lease(sid[:2])
                event = decide(None if base is None else base.snapshot)
                if event is None:
                    return base
                draft = self._drafter.draft(
                    base, sid, event, stamp, first_version=first_version, absolute=absolute, condition=condition
                )
                attempted = draft.snapshot.version
                reply, stored = await self._attempt(draft, entrance, operation)
            except StoreUnavailable as error:
                if error.outcome_unknown and attempted:
                    # After a failover the event may stand at an earlier version than the first attempt was for.
                    first_version = min(first_version or attempted, attempted)
                    stamp = stamp.again()
                if not first_version or self._clock() + pause >= give_up_at:
                    raise StoreUnavailable(RETRY_AFTER, error.detail, outcome_unknown=first_version > 0) from error
                self.retries += 1
            else:
                if reply.status in ("ok", "alive"):
                    if base is not None and isinstance(event, Ended) and reply.status == "ok":
                        self._leave(base.snapshot)
                    return stored
                if reply.status != "conflict":
                    raise SessionEnded(cause_of(stored, reply.now))
                base = stored
                self.conflicts += 1
                operation.count("conflicts")
                # An end is not given up: whoever is to be out must not stay in because others are busy.
                if self._clock() + pause >= give_up_at and not isinstance(event, Ended):
                    raise StoreUnavailable(RETRY_AFTER, f"session {sid} changes faster than it can be written")
            await anyio.sleep(pause * random.random())
            pause = min(2 * pause, LONGEST_PAUSE)
            if not first_version:  # otherwise our event may be in it already, which only the server can tell
                base = self._newest(sid, base)

    def _newest(self, sid: str, base: Stored | None) -> Stored | None:
        known = self._replica.cache.newest(sid)
        if known is None or base is None or known.stored.snapshot.version <= base.snapshot.version:
            return base
        return known.stored

    def _leave(self, was: Snapshot) -> None:
        if was.user_id is not None:
            self.on_left(was.user_id, was.sid)

    async def _attempt(
        self, draft: Draft, entrance: Entrance | None, operation: Operation
    ) -> tuple[CommitReply, Stored | None]:
        sent_at = self._clock()
        cache, commit = self._replica.cache, draft.commit
        operation.tried(commit.type, draft.snapshot.version)
        flight = cache.begin(commit.sid, commit.event_id)
        cache.expect(commit.notice, draft.notice)
        try:
            if entrance is not None:
                commit = commit._replace(entrance=entrance)
            reply = await self._store.commit(commit)
            stored = self._stored(draft, reply)
        except BaseException:
            cache.abandon(flight)
            if entrance is not None:
                entrance.in_doubt = True
            raise
        if reply.status == "ok":
            self.appended += 1
        else:
            cache.retract(commit.notice)
        fresh_until = sent_at + self._drafter.idle / TOUCHES / 1000 if reply.tail else 0.0
        self._replica.settle(flight, stored, sent_at, reply.now, fresh_until)
        if entrance is not None and reply.found is not None:
            entrance.found = reply.found
            entrance.in_doubt = entrance.in_doubt or not reply.found.was_there
        return reply, stored

    def _stored(self, draft: Draft, reply: CommitReply) -> Stored | None:
        if reply.tail:
            return draft.accepted(reply.tail)
        return self._replica.checked(reply.sid, reply.packed) if reply.packed else None

    async def _take_turn(self, sid: str) -> None:
        queue = self._turns[sid]
        turn = anyio.Event()
        queue.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._pass_turn(sid)
            else:
                queue.remove(turn)
            raise

    def _pass_turn(self, sid: str) -> None:
        queue = self._turns[sid]
        if queue:
            queue.popleft().set()
        else:
            del self._turns[sid]


def cause_of(stored: Stored | None, now: int) -> str:
    """Return why a session is over, given the server's time in ms; a passed deadline counts before it is written."""
    if stored is None:
        return "absolute"
    return stored.snapshot.ended or ("absolute" if now >= stored.absolute_at else "idle")
