"""The simulated server: the memory store with failovers, restarts and revocations, and the whole truth about its past.

Each write is checked as it is executed: whatever breaks a promise raises `Violation` at once, where it happened.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from evsession.canonical import dumps
from evsession.chain import FIRST, head_of, link_of
from evsession.codec import Stored, pack_body, redacted_body, status_of, unpack, unpack_event
from evsession.context import parse_context
from evsession.control import EVERYONE, names_of
from evsession.keys import Keyring
from evsession.state import Snapshot, evolve
from evsession.store import EVENT_KEY, Commit, CommitReply, NamedRevoked, RevokeReply
from evsession.stores.memory import MemoryStore
from evsession.stores.shard import Shard
from evsession.view import CONTROL
from evsession.wire import START, Entry, Position, StreamId

SHARD: Final = "00"
LATEST_WRITE: Final = 0.75
"""Seconds after a revocation until which a write may still land: the staleness, and how long it may be under way."""

EPOCH_MS: Final = 1_700_000_000_000


class Violation(Exception):
    """A promise was broken."""


def breaks(simulation: Callable[[int], object], seed: int) -> bool:
    """Tell whether a simulation breaks a promise with this seed."""
    try:
        simulation(seed)
    except Violation:
        return True
    return False


@dataclass(slots=True, eq=False)
class Operation:
    """What one request is about to do: the only changes that may ever reach the log in its name."""

    name: str
    kind: str
    secret: str = ""
    sets: dict[str, Any] = field(default_factory=dict)
    began_at: float = 0.0
    is_acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    """What the serving primary held of one session from a moment (virtual seconds) on; None: nothing."""

    since: float
    packed: bytes | None
    stored: Stored | None

    def __str__(self) -> str:
        if self.stored is None:
            return f"nothing since {self.since:.4f}"
        return f"version {self.stored.snapshot.version} {self.stored.head.hex()[:4]} since {self.since:.4f}"

    @property
    def identity(self) -> tuple[int, bytes]:
        """Version and head: equal for two states only if they are one."""
        return (self.stored.snapshot.version, self.stored.head) if self.stored is not None else (0, b"")


@dataclass(frozen=True, slots=True)
class Revocation:
    """One entry of the control log: when it was executed first, and since when it stands where it does."""

    at: float
    position: Position
    name: str
    keep: str | None
    since: float

    def is_for(self, snapshot: Snapshot) -> bool:
        """Tell whether a session has this name and is not excepted."""
        return snapshot.sid != self.keep and self.name in (EVERYONE, *names_of(snapshot))


@dataclass(slots=True)
class _Shape:
    """One shard as it stood after a write; nothing in it is changed later."""

    log: list[Entry]
    end: Position
    snapshots: dict[str, tuple[bytes, int]]


@dataclass(slots=True)
class _Moment:
    """The whole server after a write."""

    shapes: dict[str, _Shape]
    history: tuple[Entry, ...]
    revocations: tuple[Revocation, ...]


class _CrowdedShard(Shard):
    """A shard whose log is ahead of the clock, as failovers leave it: ids come one by one, and again if lost."""

    def next_id(self, now: int) -> StreamId:
        return (EPOCH_MS, self.end.id[1] + 1)


class Primary(MemoryStore):
    """The serving primary, its clock, and what it ever held. `now` is virtual seconds."""

    def __init__(self, chance: random.Random, now: Callable[[], float], *, is_crowded: bool) -> None:
        super().__init__(clock=self._server_ms)
        self.operations: dict[str, Operation] = {}
        self.truths: dict[str, list[Truth]] = {}
        self.history: tuple[Entry, ...] = ()
        self.revocations: tuple[Revocation, ...] = ()
        self.lost: set[bytes] = set()
        """Event ids that a failover or restart took away."""
        self.lost_heads: set[bytes] = set()
        self.lost_names: set[str] = set()
        """Operations whose events were lost."""
        self.lost_ends: set[str] = set()
        """Sessions whose end was lost."""
        self.ever_revoked: list[Revocation] = []
        self.epoch = 0
        self.drift_ms = 0
        self.tell: Callable[[str, str, bytes], None] = lambda shard, incarnation, message: None
        self._chance = chance
        self._now = now
        self._is_crowded = is_crowded
        self._executed_at: dict[bytes, float] = {}
        self._began_at: dict[tuple[str, str], float] = {}
        self._moments: list[_Moment] = []
        self._remember()

    def _server_ms(self) -> int:
        return EPOCH_MS + self.drift_ms + int(self._now() * 1000)

    @property
    def server_ms(self) -> int:
        """The primary's own clock."""
        return self._server_ms()

    @property
    def incarnation(self) -> str:
        """The name of the log's life."""
        return self._incarnation

    def _shard(self, name: str) -> Shard:
        shard = self._tags.get(name)
        if shard is None:
            shard = self._tags[name] = _CrowdedShard() if self._is_crowded else Shard()
        return shard

    # ── writes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def commit(self, commit: Commit) -> CommitReply:
        before = self.truth(commit.sid)
        reply = await super().commit(commit)
        if reply.tail:
            self._committed(before, self._shard(SHARD).log[-1])
        return reply

    def _committed(self, before: Truth, entry: Entry) -> None:
        packed = self._shard(SHARD).snapshots[entry.sid]
        after = Truth(self._now(), packed, unpack(entry.sid, packed))
        if any(entry.event_id == known.event_id for known in self.history):
            msg = f"{entry.type} of {self._name_of(entry)} was applied twice"
            raise Violation(msg)
        self._check_transition(before.stored, after.stored, entry)
        self.truths.setdefault(entry.sid, []).append(after)
        if entry.type in ("created", "authenticated") and after.stored is not None:
            began_at = self.operations[self._name_of(entry)].began_at
            self._began_at[entry.sid, after.stored.snapshot.control] = began_at
        self._executed_at[entry.event_id] = self._now()
        self.history += (entry,)
        self._remember()

    def _check_transition(self, before: Stored | None, after: Stored | None, entry: Entry) -> None:
        name = self._name_of(entry)
        if before is not None and before.snapshot.ended is not None:
            msg = f"{name} brought an ended session back"
            raise Violation(msg)
        if after is None or after.snapshot.version != (before.snapshot.version if before is not None else 0) + 1:
            msg = f"{name} skipped a version"
            raise Violation(msg)
        is_of_system = entry.actor.startswith(b"system ")  # what a login evicts has the context of the login
        operation = None if is_of_system else self.operations.get(name)
        if operation is None:
            if entry.type != "ended":
                msg = f"nobody asked for {entry.type}"
                raise Violation(msg)
            return
        if any(self._name_of(known) == name and known.type == entry.type for known in self.history):
            msg = f"{name} was applied twice, as two events"
            raise Violation(msg)
        late = self._now() - LATEST_WRITE
        if before is not None and entry.type != "ended" and (killer := self.killer_of(before.snapshot, late)):
            msg = f"{name} wrote at {self._now():.4f} to a session that {killer} had revoked"
            raise Violation(msg)
        if before is not None and operation.secret not in before.snapshot.secrets:
            msg = f"{name} wrote with a replaced token"
            raise Violation(msg)
        if entry.type != "ended":
            expected = dict(before.snapshot.data if before is not None else {}) | operation.sets
            if dumps(after.snapshot.data) != dumps(expected):
                msg = f"{name} left {after.snapshot.data}, not {expected}"
                raise Violation(msg)

    @staticmethod
    def _name_of(entry: Entry) -> str:
        return str(parse_context(entry.context).get("route", entry.actor.decode()))

    async def revoke(self, entry: NamedRevoked) -> RevokeReply:
        before = len(self._shard(CONTROL).log)
        reply = await super().revoke(entry)
        if len(self._shard(CONTROL).log) > before:
            self._revoked(entry, reply.position)
        return reply

    def _revoked(self, entry: NamedRevoked, position: Position) -> None:
        key, now = entry.event_id[:EVENT_KEY], self._now()
        if any(known.position.event[:EVENT_KEY] == key for known in self.revocations):
            msg = f"{entry.name} was revoked twice by one call"
            raise Violation(msg)
        first = next((known for known in self.ever_revoked if known.position.event == position.event), None)
        revocation = Revocation(first.at if first else now, position, entry.name, entry.keep, since=now)
        self.revocations += (revocation,)
        self.ever_revoked.append(revocation)
        self._executed_at[position.event] = now
        self._remember()

    def _tell(self, shard: str, previous: Position, id_: StreamId, notice: bytes) -> None:
        head = f"{previous.id[0]}-{previous.id[1]} {id_[0]}-{id_[1]} {len(notice)}\n".encode()
        self.tell(shard, self._incarnation, head + previous.event + notice)

    def cut(self, shard: str, since: float) -> None:
        """Trim a log of what was executed before a moment, never of its last entry."""
        log = self._shard(shard).log
        while len(log) > 1 and self._executed_at[log[0].event_id] < since:
            del log[0]

    # ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _remember(self) -> None:
        shapes = {
            name: _Shape(
                list(shard.log), shard.end, {sid: (packed, shard.lapses.at(sid) or 0) for sid, packed in
                shard.snapshots.items()},
            )
            for name, shard in self._tags.items()
        }  # fmt: skip
        self._moments.append(_Moment(shapes, self.history, self.revocations))

    def fail_over(self, lost_writes: int, drift_ms: int) -> None:
        """Let a replica take over that had not yet received the last writes, and whose clock differs by `drift_ms`."""
        back = min(lost_writes, len(self._moments) - 1)
        self._moments = self._moments[: len(self._moments) - back]
        self.drift_ms += drift_ms
        self._become(self._moments[-1])

    def restart_empty(self) -> None:
        """Begin with nothing, under another incarnation."""
        self._incarnation = self._chance.randbytes(4).hex()
        self._moments = [_Moment({}, (), ())]
        self._become(self._moments[0])

    def _become(self, moment: _Moment) -> None:
        self.epoch += 1
        kept = {entry.event_id for entry in moment.history}
        gone = [entry for entry in self.history if entry.event_id not in kept]
        self.lost |= {entry.event_id for entry in gone}
        self.lost_heads |= {entry.head for entry in gone}
        self.lost_names |= {self._name_of(entry) for entry in gone}
        self.lost_ends |= {entry.sid for entry in gone if entry.type == "ended"}
        positions = {revocation.position.event for revocation in moment.revocations}
        self.lost |= {known.position.event for known in self.revocations} - positions
        self.history, self.revocations = moment.history, moment.revocations
        self._tags.clear()
        for name, shape in moment.shapes.items():
            shard = self._shard(name)
            shard.log, shard.end = list(shape.log), shape.end
            for sid, (packed, lapse) in shape.snapshots.items():
                shard.keep(sid, packed, lapse)
        for sid, truths in self.truths.items():
            held = self._shard(SHARD).snapshots.get(sid)
            truth = Truth(self._now(), held, unpack(sid, held) if held is not None else None)
            if truth.identity != truths[-1].identity:
                truths.append(truth)

    # ── the truth ────────────────────────────────────────────────────────────────────────────────────────────────────

    def truth(self, sid: str) -> Truth:
        """Return what is held of a session now; deadlines moved by touches are in the shard only."""
        return self.truths[sid][-1] if sid in self.truths else Truth(0.0, None, None)

    def truths_since(self, sid: str, since: float) -> Sequence[Truth]:
        """Return what was held of a session at some time since a moment, oldest first."""
        truths = self.truths.get(sid, [])
        begun = 0
        for at, truth in enumerate(truths):
            if truth.since <= since:
                begun = at
        first = truths[begun:]
        return first if truths and truths[0].since <= since else [Truth(0.0, None, None), *first]

    def deadline_ms(self, sid: str) -> int | None:
        """Return the first deadline in a living session's header, on the server's clock."""
        packed = self._shard(SHARD).snapshots.get(sid)
        return min(int(packed[75:88]), int(packed[88:101])) if packed is not None else None

    def killer_of(self, snapshot: Snapshot, before: float) -> Revocation | None:
        """Return a revocation that kills a session, in force before a moment.

        It was executed after the request began that began the session, or after the entry at which that stands. Where
        that stood, and whether it was lost and issued again since, is no excuse.
        """
        begun = self._begun_at(snapshot)
        return next(
            (one for one in self.revocations if one.since < before and one.at > begun and one.is_for(snapshot)), None
        )

    def killer_among(self, snapshot: Snapshot, applied: Collection[bytes]) -> Revocation | None:
        """Return a revocation that kills a session, of those with these event ids, lost by now or not.

        It counts from its first attempt on: where that comes back, a later one gives way to it.
        """
        begun = self._begun_at(snapshot)
        known = (one for one in self.ever_revoked if one.position.event in applied and one.is_for(snapshot))
        return next((one for one in known if self._tried_at(one) > begun), None)

    def _tried_at(self, revocation: Revocation) -> float:
        key = revocation.position.event[:EVENT_KEY]
        return next(one.at for one in self.ever_revoked if one.position.event[:EVENT_KEY] == key)

    def _begun_at(self, snapshot: Snapshot) -> float:
        return min(self._position_was_at(snapshot), self._began_at[snapshot.sid, snapshot.control])

    def _position_was_at(self, snapshot: Snapshot) -> float:
        """Return when the entry at which a session stands was executed at that very place."""
        at = Position.parse(snapshot.control) if snapshot.control else START
        return next((one.since for one in self.ever_revoked if one.position == at), float("-inf"))

    def may_be_dead(self, snapshot: Snapshot) -> bool:
        """Tell whether a session was revoked at some time, or stands at an entry that was lost at some time."""
        at = Position.parse(snapshot.control).event if snapshot.control else START.event
        return at in self.lost or any(one.is_for(snapshot) for one in self.ever_revoked)

    def verify(self, keys: Keyring) -> None:
        """Check that every snapshot is the fold of its events, and that every head follows from the one before."""
        folded: dict[str, Snapshot] = {}
        heads: dict[str, bytes] = {}
        for entry in self.history:
            event = unpack_event(entry.type, entry.data)
            snapshot = folded[entry.sid] = evolve(folded.get(entry.sid, Snapshot(sid=entry.sid)), event)
            heads[entry.sid] = self._head(keys, heads.get(entry.sid, FIRST), entry, snapshot)
            if heads[entry.sid] != entry.head:
                msg = f"version {entry.version} of {entry.sid} does not follow from the one before"
                raise Violation(msg)
        self._compare(folded, heads)

    @staticmethod
    def _head(keys: Keyring, previous: bytes, entry: Entry, snapshot: Snapshot) -> bytes:
        head_key, redact_key = keys.signing.head, keys.signing.redact
        sid, type_ = entry.sid.encode(), entry.type.encode()
        covered = (sid, b"%d" % entry.version, type_, entry.event_id, entry.actor, entry.context, entry.data)
        link = link_of(head_key, previous, covered)
        body = redacted_body(redact_key, snapshot, pack_body(snapshot, dumps(snapshot.data)))
        return head_of(head_key, link, sid, snapshot.version, status_of(snapshot), body)

    def _compare(self, folded: Mapping[str, Snapshot], heads: Mapping[str, bytes]) -> None:
        packed = self._shard(SHARD).snapshots
        if packed.keys() != folded.keys():
            msg = "log and snapshots do not hold the same sessions"
            raise Violation(msg)
        for sid, snapshot in folded.items():
            stored = unpack(sid, packed[sid])
            if stored.snapshot != snapshot or stored.head != heads[sid]:
                msg = f"the snapshot of {sid} is not what its events make of it"
                raise Violation(msg)
