"""Restoring snapshots that were lost, from log and archive.

Each is restored by an event of its own, so that the trail tells who brought it back, and what it has lost: the values
that stand in the log as digests only.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import anyio

from evsession.audit.entries import Entries
from evsession.audit.pages import LAST_ID
from evsession.audit.report import MAX_LISTED, Progress
from evsession.audit.verify import Proved, Verification
from evsession.canonical import dumps
from evsession.codec import Stored, pack_header
from evsession.context import outside
from evsession.control import Control
from evsession.draft import Draft
from evsession.errors import SessionTooLarge
from evsession.events import Changes, Updated
from evsession.proof import Trace
from evsession.redaction import without
from evsession.state import Snapshot
from evsession.stores.revocations import image_of
from evsession.view import CONTROL
from evsession.wire import START, parse_id
from evsession.worker import milliseconds

if TYPE_CHECKING:
    from evsession.desk import Desk

ACTOR: Final = b"system rebuild"

AT_ONCE: Final = 100
"""Sessions that are restored at the same time, in shared round trips."""

Refusal = Literal["incomplete", "faulty", "revoked", "expired", "present"]
"""Why a session was not restored.

incomplete: its first events are in neither log nor archive.   faulty: its events do not verify.
revoked: a revocation by name has ended it, or that cannot be ruled out.
expired: a deadline has passed, as far as is known.
present: somebody else restored it meanwhile.
"""


class Restored(NamedTuple):
    """A session that was restored, or would be, and the JSON pointers of the secret values that it has lost."""

    session_id: str
    user_id: str | None
    version: int
    lost: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild did, or would do. Lists hold the first 1,000; the counts are whole.

    `living` sessions have their snapshots, and `ended` ones need none.
    """

    restored: list[Restored] = field(default_factory=list)
    restored_count: int = 0
    refused: dict[str, Refusal] = field(default_factory=dict)
    refused_counts: dict[Refusal, int] = field(default_factory=dict)
    living: int = 0
    ended: int = 0

    def add(self, sid: str, outcome: Restored | Refusal) -> None:
        """Take in what became of one session."""
        if isinstance(outcome, Restored):
            self.restored_count += 1
            if len(self.restored) < MAX_LISTED:
                self.restored.append(outcome)
            return
        self.refused_counts[outcome] = self.refused_counts.get(outcome, 0) + 1
        if len(self.refused) < MAX_LISTED:
            self.refused[sid] = outcome


async def rebuild(
    desk: Desk,
    *,
    writes: bool,
    idle_from_now: bool = False,
    archive: Entries | None = None,
    progress: Progress | None = None,
) -> Rebuilt:
    """Restore the snapshots of all living sessions that have none, or say which those are.

    Without the index of deadlines nobody knows when a session was last looked at: its idle timeout then runs from its
    last event, or with `idle_from_now` from now.

    Raises:
        StoreUnavailable: store or archive did not answer; run it again.
        OSError: the disk is full.
    """
    worker = desk.worker
    await worker.ensure_open()
    await worker.replica.ensure_lease(worker.store.shards[0])  # so that the revocations by name are known
    run = _Run(desk, writes=writes, idle_from_now=idle_from_now, archive=archive, progress=progress)
    if archive is not None:
        run.archived.load(image_of([entry async for entry in archive.between(CONTROL, START.id, LAST_ID)]))
    await run.all()
    return run.rebuilt


class _Run:
    """One run."""

    def __init__(
        self, desk: Desk, *, writes: bool, idle_from_now: bool, archive: Entries | None, progress: Progress | None
    ) -> None:
        self.rebuilt = Rebuilt()
        self._desk = desk
        self._worker = desk.worker
        self._control: Control = desk.worker.cache.control
        self.archived = Control()
        self._writes = writes
        self._idle_from_now = idle_from_now
        self._verification = Verification(
            desk.worker.store, desk.worker.keys, absolute=desk.policy.absolute_timeout, archive=archive,
            progress=progress,
        )  # fmt: skip

    async def all(self) -> None:
        """Go through all sessions, and restore those that lack a snapshot, many at a time."""
        lacking: list[Proved] = []
        async with aclosing(self._verification.sessions()) as sessions:
            async for proved in sessions:
                if self._lacks_snapshot(proved):
                    lacking.append(proved)
                if len(lacking) >= AT_ONCE:
                    await self._restore(lacking)
                    lacking = []
        await self._restore(lacking)

    def _lacks_snapshot(self, proved: Proved) -> bool:
        """Tell whether a session is to be restored; count it otherwise."""
        trace = proved.trace
        if trace.has_ended:
            self.rebuilt.ended += 1
        elif trace.has_snapshot or not trace.first_id:
            self.rebuilt.living += 1
        elif proved.faults - {"snapshot_missing"}:
            self.rebuilt.add(proved.sid, "faulty")
        elif trace.is_partial:
            self.rebuilt.add(proved.sid, "incomplete")
        elif "snapshot_missing" in proved.faults:
            return True
        elif self._verification.may_have_lapsed(trace):
            self.rebuilt.add(proved.sid, "expired")
        else:
            self.rebuilt.living += 1  # it began a moment ago
        return False

    async def _restore(self, lacking: list[Proved]) -> None:
        async with anyio.create_task_group() as group:
            for proved in lacking:
                group.start_soon(self._restore_one, proved.sid, proved.trace)

    async def _restore_one(self, sid: str, trace: Trace) -> None:
        self.rebuilt.add(sid, await self._outcome(sid, trace))

    async def _outcome(self, sid: str, trace: Trace) -> Restored | Refusal:
        snapshot = trace.snapshot
        if snapshot is None or trace.head is None or trace.link is None:
            return "faulty"
        if self._control.verdict(snapshot) != "alive" or self.archived.is_dead(snapshot):
            return "revoked"
        lost = await self._lost(sid, trace, snapshot, trace.head, trace.link)
        if self._verification.now >= lost.deadline:
            return "expired"
        if self._writes:
            return await self._write(lost)
        return Restored(sid, snapshot.user_id, snapshot.version, tuple(snapshot.marks))

    async def _lost(self, sid: str, trace: Trace, snapshot: Snapshot, head: bytes, link: bytes) -> Stored:
        """Return the snapshot as it was, as far as it can be known; secret values are digests still."""
        begun, last = _time(trace.first_id), _time(trace.last_id)
        signed_in = _time(trace.authenticated_id) if trace.authenticated_id else 0
        since = begun if snapshot.detected else signed_in or begun  # only a call of `login` begins the timeout anew
        absolute_at = since + (trace.remember or milliseconds(self._desk.policy.absolute_timeout.total_seconds()))
        due = await self._worker.store.deadline(sid)
        idle_at = absolute_at if self._idle_from_now else due or last + self._worker.idle_ms
        return Stored(
            snapshot=snapshot, raw=dumps(snapshot.data), head=head, link=link, key_id=trace.key_id.decode(),
            created_at=begun, authenticated_at=signed_in, idle_at=idle_at, absolute_at=absolute_at,
            last_id=trace.last_id.decode(), secret_at=_time(trace.secret_id or trace.first_id),
        )  # fmt: skip

    async def _write(self, lost: Stored) -> Restored | Refusal:
        snapshot = lost.snapshot
        try:
            draft = self._draft(lost, without(snapshot.data, snapshot.marks))
        except SessionTooLarge:  # the limit was lowered since
            return "faulty"
        await self._desk.index.keep(lost, b"")
        reply = await self._worker.store.restore(draft.commit, pack_header(lost))
        if reply.status == "ok":
            return Restored(snapshot.sid, snapshot.user_id, draft.snapshot.version, tuple(snapshot.marks))
        return "present" if reply.status == "conflict" else "expired"

    def _draft(self, lost: Stored, changes: Changes) -> Draft:
        worker, changes = self._worker, self._worker.drafter.changes(changes)
        event = Updated(set_=changes.set_, unset=changes.unset, redacted=changes.redacted)
        stamp = worker.stamp(ACTOR, outside(worker.id))
        return worker.drafter.draft(lost, lost.snapshot.sid, event, stamp)


def _time(id_: bytes) -> int:
    return parse_id(id_)[0]
