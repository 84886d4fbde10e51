"""Proving a log: what a session's events and its snapshot must be to each other. Every kind of fault is found here.

Without I/O: `Prover` is told all snapshots of some sessions first, then their entries in the order of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from evsession.chain import ENDED, FIRST, Heads
from evsession.codec import Stored, check_head, unpack, unpack_event
from evsession.errors import CodecError, CorruptSnapshot, UnknownFormat
from evsession.events import Authenticated, Ended
from evsession.folding import Folding
from evsession.keys import AuditKeys, Keyring
from evsession.state import Snapshot
from evsession.store import Counters
from evsession.tokens import is_sid
from evsession.wire import START, Line, StreamId, id_text, parse_id

FaultKind = Literal[
    "foreign",  # an entry that has not the form of ours
    "misplaced",  # an entry in the log of another shard than its session's
    "unknown_key",  # made with a key that is none of ours
    "unreadable",  # a newer version wrote it, or somebody who did not know the format
    "altered",  # its head is not the digest of the head before, the event and the state after it
    "hole",  # a session's version is missing
    "repeated",  # a version that had come already
    "unlinked",  # it does not name the session's event before it
    "after_end",  # the session had ended
    "snapshot_altered",  # its body is not the one that its head was made for
    "snapshot_differs",  # it says other than the event of its version
    "snapshot_stale",  # it is older than the log
    "snapshot_ahead",  # it is newer than the log
    "snapshot_missing",  # the session lives, and has none
    "removed",  # entries were taken out of the log, or its counter was changed
    "deleted",  # an entry was deleted by its id
    "cut",  # the log does not end where the last commit said
    "forgotten",  # a revocation that a worker which starts would not be told of
    "unfounded",  # what a worker that starts is told of a revocation, and no entry says
    "archive_differs",  # the archive has another entry there
    "archive",  # a file of the archive, its manifest or its signature
]
FAULT_KINDS: Final[tuple[str, ...]] = get_args(FaultKind)

NO_ID: Final = b"0-0"
NEW_SECRET: Final = frozenset((b"created", b"authenticated", b"renewed"))
"""Events that make a secret, or tell of its first use; their time stands in the snapshot's header."""

_MALFORMED: Final = (LookupError, TypeError, ValueError, CodecError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What was found, and where first. Without a `session_id` it is about the log itself.

    `kind` is one of `FAULT_KINDS`; `id` and `version` may be unknown (empty and 0). `detail` says it for people, and
    may quote what stands in the log.
    """

    kind: FaultKind
    shard: str
    session_id: str = ""
    id: str = ""
    version: int = 0
    detail: str


class Reach(NamedTuple):
    """What is there of a shard's log: its first entry, and where it ended before the snapshots were read."""

    first: StreamId
    scanned: StreamId


_NOWHERE: Final = Reach((0, 0), (0, 0))


class Trace:
    """What is known of one session while its events pass.

    `head`, `last_id` and `key_id` are those of the last event, `remember` is what the last login asked for.
    `is_partial` says that the session's first events are gone, `stored` is its snapshot if that can be read.
    """

    __slots__ = (
        "authenticated_id", "first_id", "folding", "has_snapshot", "head", "is_partial", "key_id", "last_id", "link",
        "overtaken_at", "remember", "secret_id", "stored", "version",
    )  # fmt: skip

    def __init__(self, stored: Stored | None = None) -> None:
        self.stored = stored
        self.version = 0
        self.folding: Folding | None = None
        self.head: bytes | None = None
        self.link: bytes | None = None
        self.last_id = NO_ID
        self.first_id = b""
        self.authenticated_id = b""
        self.secret_id = b""
        self.key_id = b""
        self.overtaken_at = b""
        self.remember = 0
        self.has_snapshot = stored is not None
        self.is_partial = False

    @property
    def snapshot(self) -> Snapshot | None:
        """The folded state, None while it cannot be known."""
        return None if self.folding is None else self.folding.snapshot

    @property
    def has_ended(self) -> bool:
        """Whether an end was among the events."""
        return self.folding is not None and self.folding.status == ENDED


class Prover:
    """Proves the sessions that it is told of; what it holds grows with them, not with their events.

    `report` receives each fault, one for each session and kind.
    """

    def __init__(
        self, keys: Keyring | AuditKeys, reaches: Mapping[str, Reach], report: Callable[[Fault], None]
    ) -> None:
        self._keys = keys
        self._reaches = reaches
        self._report = report
        self._heads: dict[bytes, Heads | None] = {}
        self._traces: dict[bytes, Trace] = {}
        self._found: dict[bytes, set[FaultKind]] = {}

    # ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self, sid: str, packed: bytes) -> None:
        """Take in a snapshot as it is stored, and check it by itself."""
        name = sid.encode()
        try:
            stored = unpack(sid, packed)
            self._check_snapshot(stored, packed)
        except UnknownFormat as error:
            self._fault(name, "unreadable", detail=str(error))
        except CorruptSnapshot:
            self._fault(name, "snapshot_altered", detail="the snapshot does not match its head")
        else:
            self._traces[name] = Trace(stored)
            return
        self._traces[name] = Trace()
        self._traces[name].has_snapshot = True

    def _check_snapshot(self, stored: Stored, packed: bytes) -> None:
        head_key, redact_key = self._keys.head(stored.key_id), self._keys.redact(stored.key_id)
        if head_key is None or redact_key is None:
            name, detail = stored.snapshot.sid.encode(), _unknown(stored.key_id)
            self._fault(name, "unknown_key", stored.last_id.encode(), stored.snapshot.version, detail)
        else:
            check_head(head_key, redact_key, stored, packed)

    # ── entries ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def entry(self, shard: bytes, line: Line) -> None:
        """Take in the next entry of a shard's log, and check it against all that came before in its session."""
        try:
            id_, type_, sid, number, previous, event_id, _, actor, context, data, key_id, head = line
            version = int(number)
            trace = self._traces.get(sid) or self._new(sid)
        except ValueError:
            self._fault(b"", "foreign", line[0], detail="an entry that evsession did not write", shard=shard.decode())
            return
        if sid[:2] != shard:
            name = shard.decode()
            self._fault(sid, "misplaced", id_, version, f"it stands in the log of shard {name}", shard=name)
            return
        if not trace.first_id:
            self._begin(trace, line, version)
        folding = trace.folding
        is_over = folding is not None and folding.status == ENDED
        if (is_over or version != trace.version + 1) and not self._follows(trace, sid, id_, version):
            return
        if previous != trace.last_id:
            self._fault(sid, "unlinked", id_, version, "it does not name the session's event before it")
        body, trace.link = self._after(trace, line, version), None
        folding, before = trace.folding, trace.head
        if (
            body is not None
            and folding is not None
            and before is not None
            and (heads := self._heads.get(key_id) or self._heads_of(line, version)) is not None
        ):
            link = heads.link(before, (sid, number, type_, event_id, actor, context, data))
            if heads.head(link, sid, number, folding.status, body) == head:
                trace.link = link
            else:
                self._fault(sid, "altered", id_, version, "its head is not what the event and all before it make")
        if type_ in NEW_SECRET:
            trace.secret_id = id_
            if type_ == b"authenticated":
                trace.authenticated_id = id_
        trace.version, trace.head, trace.last_id, trace.key_id = version, head, id_, key_id
        stored = trace.stored
        if stored is not None and version >= stored.snapshot.version:
            self._compare(trace, stored, sid)

    def _new(self, sid: bytes) -> Trace:
        if not is_sid(sid.decode()):
            raise ValueError(sid)
        trace = self._traces[sid] = Trace()
        return trace

    def _begin(self, trace: Trace, line: Sequence[bytes], version: int) -> None:
        """Expect a session's first event, or go on from where the log begins."""
        trace.first_id = line[0]
        first = self._reach(line[2]).first
        if line[4] != NO_ID and version > 1 and _id(line[4]) < first:
            trace.version, trace.last_id, trace.is_partial = version - 1, line[4], True
        else:
            trace.folding, trace.head = Folding(Snapshot(sid=line[2].decode())), FIRST

    def _follows(self, trace: Trace, sid: bytes, id_: bytes, version: int) -> bool:
        """Tell whether an entry that does not simply go on is to be taken in; one that came already is not."""
        if version == trace.version + 1:
            self._fault(sid, "after_end", id_, version, "the session had ended before")
            return True
        if version <= trace.version:
            self._fault(sid, "repeated", id_, version, f"version {version} came already")
            return False
        self._fault(sid, "hole", id_, version, f"version {trace.version + 1} is missing")
        trace.folding = trace.head = None
        return True

    def _after(self, trace: Trace, line: Sequence[bytes], version: int) -> bytes | None:
        """Return the body after an entry, None if it cannot be known; an end is known without what came before."""
        folding, sid = trace.folding, line[2]
        try:
            if folding is None or not folding.apply(line[1], line[9]):
                event = unpack_event(line[1].decode(), line[9])
                if folding is None and isinstance(event, Ended):
                    folding = trace.folding = Folding(Snapshot(sid=sid.decode(), version=version - 1))
                if folding is None:
                    if isinstance(event, Authenticated):
                        trace.remember = event.remember
                    return None
                folding.fold(event)
            trace.remember = folding.remember
            return folding.body
        except UnknownFormat as error:
            self._fault(sid, "unreadable", line[0], version, str(error))
        except _MALFORMED:
            self._fault(sid, "unreadable", line[0], version, "its changes have no form that can be applied")
        trace.folding = None
        return None

    def _heads_of(self, line: Sequence[bytes], version: int) -> Heads | None:
        key_id = line[10]
        if key_id not in self._heads:
            key = self._keys.head(key_id.decode("ascii", "replace"))
            self._heads[key_id] = None if key is None else Heads(key)
        heads = self._heads[key_id]
        if heads is None:
            self._fault(line[2], "unknown_key", line[0], version, _unknown(key_id.decode("ascii", "replace")))
        return heads

    def _compare(self, trace: Trace, stored: Stored, sid: bytes) -> None:
        if trace.version == stored.snapshot.version:
            if difference := _difference(trace, stored):
                detail = f"the snapshot has another {difference} than the log"
                self._fault(sid, "snapshot_differs", trace.last_id, trace.version, detail)
        elif trace.version == stored.snapshot.version + 1:
            trace.overtaken_at = trace.last_id

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def finish(self, may_have_lapsed: Callable[[Trace], bool]) -> Iterator[tuple[str, Trace]]:
        """Check what only the end shows, and return each session with what is known of it.

        `may_have_lapsed` tells whether a session without a snapshot may have outlived its time to live.
        """
        for sid, trace in self._traces.items():
            self._check_end(sid, trace, self._reach(sid), may_have_lapsed)
            yield sid.decode(), trace
        self._traces.clear()

    def _reach(self, sid: bytes) -> Reach:
        return self._reaches.get(sid[:2].decode(), _NOWHERE)

    def faults_of(self, sid: str) -> frozenset[FaultKind]:
        """Return the kinds of faults that were found with a session so far."""
        return frozenset(self._found.get(sid.encode(), ()))

    def _check_end(self, sid: bytes, trace: Trace, reach: Reach, may_have_lapsed: Callable[[Trace], bool]) -> None:
        stored, last = trace.stored, trace.last_id
        if not trace.first_id:
            self._check_without_events(sid, trace, reach)
        elif stored is None:
            is_awaited = _id(trace.first_id) <= reach.scanned and not trace.has_snapshot
            if is_awaited and not (trace.has_ended or trace.is_partial or may_have_lapsed(trace)):
                self._fault(sid, "snapshot_missing", last, trace.version, "the session lives and has no snapshot")
        elif stored.snapshot.version > trace.version:
            detail = f"the snapshot is of version {stored.snapshot.version}, which the log has not"
            self._fault(sid, "snapshot_ahead", last, trace.version, detail)
        elif trace.overtaken_at and _id(trace.overtaken_at) <= reach.scanned:
            detail = f"the snapshot is still of version {stored.snapshot.version}"
            self._fault(sid, "snapshot_stale", trace.overtaken_at, stored.snapshot.version + 1, detail)

    def _check_without_events(self, sid: bytes, trace: Trace, reach: Reach) -> None:
        if trace.stored is None:
            return
        last_id = trace.stored.last_id.encode()
        if _id(last_id) < reach.first:
            trace.is_partial = True
        else:
            detail = "the log has none of its events"
            self._fault(sid, "snapshot_ahead", last_id, trace.stored.snapshot.version, detail)

    def _fault(
        self, sid: bytes, kind: FaultKind, id_: bytes = b"", version: int = 0, detail: str = "", *, shard: str = ""
    ) -> None:
        found = self._found.setdefault(sid or shard.encode(), set())
        if kind not in found:
            found.add(kind)
            name = sid.decode("ascii", "replace")
            place = id_.decode("ascii", "replace")
            self._report(
                Fault(kind=kind, shard=shard or name[:2], session_id=name, id=place, version=version, detail=detail)
            )


def counter_faults(shard: str, counters: Counters, last: Sequence[bytes] | None) -> Iterator[Fault]:
    """Yield what a log's own counters show; `last` is the entry where the last commit said, if there is one."""
    if counters.added is not None and (lacking := counters.added - counters.trimmed - counters.length):
        detail = f"{lacking} entries were removed" if lacking > 0 else f"{-lacking} more entries than were appended"
        yield Fault(kind="removed", shard=shard, id=id_text(counters.first), detail=f"{detail}, and not by trimming")
    if counters.deleted is not None and counters.deleted > START.id:
        yield Fault(kind="deleted", shard=shard, id=id_text(counters.deleted), detail="an entry was deleted by its id")
    end = counters.end
    is_there = end == START if last is None else len(last) > 5 and last[5] == end.event
    if not is_there or counters.last != end.id:
        yield Fault(
            kind="cut", shard=shard, id=id_text(end.id), detail="the log does not end where the last commit did"
        )


def _difference(trace: Trace, stored: Stored) -> str:
    """Return what a snapshot has otherwise than the event of its version, or nothing."""
    if stored.head != trace.head or (trace.link is not None and stored.link != trace.link):
        return "head"
    if stored.last_id.encode() != trace.last_id:
        return "last event"
    if trace.is_partial:
        return ""
    if stored.created_at != _id(trace.first_id)[0]:
        return "time of creation"
    if stored.secret_at != _id(trace.secret_id or trace.first_id)[0]:
        return "time of its secret"
    authenticated_at = _id(trace.authenticated_id)[0] if trace.authenticated_id else 0
    return "time of login" if stored.authenticated_at != authenticated_at else ""


def _id(text: bytes) -> StreamId:
    """Return an id as numbers; what is none is the greatest, so that it lies in no trimmed part."""
    try:
        return parse_id(text)
    except ValueError:
        return (2**64, 0)


def _unknown(key_id: str) -> str:
    name = key_id if key_id.isalnum() else "?"
    return f"it was made with the key {name}, which was not given; give old keys as well: secret_key=[new, old]"
