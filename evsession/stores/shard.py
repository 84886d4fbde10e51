"""One shard in memory: what lies under one hash tag in Redis, and the header of a snapshot as a script reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import takewhile
from operator import attrgetter
from typing import Final, Literal, NamedTuple

from evsession.chain import ENDED
from evsession.stores.deadlines import Deadlines
from evsession.wire import START, Entry, Position, StreamId, parse_id

PURGED_AT_ONCE: Final = 16
"""Lapsed snapshots that one commit removes: more than the one that it may add, too few to be noticed."""

HEAD, STATUS = slice(6, 22), slice(38, 39)
CREATED, AUTHENTICATED, IDLE, ABSOLUTE, LAST, SECRET = (
    slice(49, 62), slice(62, 75), slice(75, 88), slice(88, 101), slice(101, 125), slice(125, 138),
)  # fmt: skip


NEW_SECRET: Final = frozenset(("created", "authenticated", "renewed"))
"""Events that make a secret, or tell of its first use."""


class Held(NamedTuple):
    """Who has the turn at a background job, and until when in ms."""

    holder: str
    fence: int
    until: int


class Shard:
    """What lies under one hash tag: log, snapshots, expiry index and the records of workers."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.end = START
        self.ended: dict[str, StreamId] = {}
        """The last entry of each ended session, in the order of the log."""
        self.added = self.trimmed = 0
        self.snapshots: dict[str, bytes] = {}
        self.expiry = Deadlines()
        self.lapses = Deadlines()
        self.workers: dict[str, bytes] = {}
        self.turns: dict[str, Held] = {}
        self.checkpoints: dict[str, bytes] = {}

    # ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def next_id(self, now: int) -> StreamId:
        """Return the id of an entry appended now, later than the last one whatever the clock says."""
        (ms, seq), _ = self.end
        return (now, 0) if now > ms else (ms, seq + 1)

    def append(self, entry: Entry, most: int) -> None:
        """Append an entry; a log of more than `most` loses its oldest tenth."""
        self.log.append(entry)
        self.end = entry.position
        self.added += 1
        if entry.type == "ended":
            self.ended[entry.sid] = entry.id
        if len(self.log) > most:
            self._drop(max(1, most // 10))

    def _drop(self, entries: int) -> None:
        del self.log[:entries]
        self.trimmed += entries
        first = self.log[0].id if self.log else self.end.id
        for sid in [sid for sid, _ in takewhile(lambda one: one[1] < first, self.ended.items())]:
            del self.ended[sid]

    def index(self, id_: StreamId) -> int:
        """Return where in the log the first entry stands that is not before `id_`."""
        return bisect_left(self.log, id_, key=attrgetter("id"))

    def entry(self, id_: StreamId) -> Entry | None:
        """Return the entry with this very id."""
        at = self.index(id_)
        return self.log[at] if at < len(self.log) and self.log[at].id == id_ else None

    def links(self, id_: StreamId) -> Iterator[Entry]:
        """Yield the events of one session from an entry backwards, as far as the log reaches."""
        while (entry := self.entry(id_)) is not None:
            yield entry
            id_ = parse_id(entry.previous.encode())

    def status_of(self, position: Position | None) -> Literal["ok", "fork", "trimmed"]:
        """Tell whether a position stands in this log, was trimmed away, or belongs to another history."""
        if position is None or position.id == START.id:
            return "ok"
        if entry := self.entry(position.id):
            return "ok" if entry.event_id == position.event else "fork"
        return "trimmed" if self.log and position.id < self.log[0].id else "fork"

    def trim(self, horizon: StreamId) -> int:
        """Remove the entries before an id, never the last one nor what no archive has; return how many went."""
        archived = self.checkpoints.get("archive")
        safe = self.end.id if archived is None else parse_id(archived.partition(b" ")[0])
        went = self.index(min(horizon, self.end.id, safe))
        self._drop(went)
        return went

    # ── turns at background jobs ─────────────────────────────────────────────────────────────────────────────────────

    def take(self, job: str, holder: str, now: int, length: int) -> int | None:
        """Take or keep the turn at a job and return its fencing number; None while another has it."""
        held = self.turns.get(job, Held("", 0, 0))
        if held.holder != holder and now < held.until:
            return None
        fence = held.fence + (held.holder != holder)
        self.turns[job] = Held(holder, fence, now + length)
        return fence

    def holds(self, job: str, holder: str, fence: int) -> bool:
        """Tell whether nobody else has taken the turn since."""
        held = self.turns.get(job)
        return held is not None and (held.holder, held.fence) == (holder, fence)

    # ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self, sid: str, now: int) -> bytes | None:
        """Return a packed snapshot whose time to live has not passed."""
        lapse = self.lapses.at(sid)
        return self.snapshots[sid] if lapse is not None and now < lapse else None

    def keep(self, sid: str, packed: bytes, lapse: int) -> None:
        """Store a snapshot until `lapse`, and bring the expiry index in line."""
        self.snapshots[sid] = packed
        self.lapses.set(sid, lapse)
        self.index_expiry(sid, packed)

    def index_expiry(self, sid: str, packed: bytes | None) -> None:
        """Bring the expiry index in line with a snapshot's header, which is the authority."""
        if packed is None or has_ended(packed):
            self.expiry.remove(sid)
        else:
            self.expiry.set(sid, min(deadlines_of(packed)))

    def purge(self, now: int) -> None:
        """Remove some of the snapshots whose time to live has passed."""
        for sid in self.lapses.passed(now, PURGED_AT_ONCE):
            self.lapses.remove(sid)
            self.expiry.remove(sid)
            del self.snapshots[sid]


def has_ended(packed: bytes) -> bool:
    """Tell whether a snapshot's header says that the session is over."""
    return packed[STATUS] == ENDED


def deadlines_of(packed: bytes) -> tuple[int, int]:
    """Return the idle and the absolute deadline in a header."""
    return int(packed[IDLE]), int(packed[ABSOLUTE])


def last_id_of(packed: bytes) -> StreamId:
    """Return the id of a session's last event from its header."""
    return parse_id(packed[LAST].rstrip())
