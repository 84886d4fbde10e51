"""A model server: per shard a list of entries and a dict of packed snapshots, made with the real codec."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from evsession.cache import Cache, Verdict
from evsession.canonical import dumps
from evsession.chain import FIRST, control_tag, head_of, link_of
from evsession.codec import (
    Stored,
    check_head,
    pack_body,
    pack_event,
    pack_prefix,
    redacted_body,
    status_of,
    type_of,
    unpack,
)
from evsession.config import CachePolicy
from evsession.control import Image
from evsession.events import Created, Event
from evsession.keys import Keyring
from evsession.redaction import Redactor
from evsession.state import Snapshot, evolve
from evsession.stores.revocations import image_of
from evsession.view import CONTROL, BeatReply, View
from evsession.wire import START, Entry, Position, id_text, pack_notice

KEYRING: Final = Keyring("the secret of the unit tests, which is long", namespace="unit")
KEYS: Final = KEYRING.signing
REDACTOR: Final = Redactor(("password",))
DEADLINE: Final = 9_000_000_000_000


def event_id(number: int) -> bytes:
    """Return the event id with a number."""
    return number.to_bytes(16)


def sid(number: int, shard: str = "00") -> str:
    """Return the session id with a number."""
    return f"{shard}{number:022d}"


def framed(prev: Position, id_: tuple[int, int], part: bytes) -> bytes:
    """Return what a store makes of a worker's part of a message."""
    return b"%b %b %d\n%b%b" % (id_text(prev.id).encode(), id_text(id_).encode(), len(part), prev.event, part)


@dataclass(slots=True)
class Log:
    """One shard of the server. Ids depend on the length alone, so a failover hands them out again."""

    shard: str
    incarnation: str = "first"
    entries: list[Entry] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    packed: dict[str, bytes] = field(default_factory=dict)
    before: list[tuple[str, bytes | None]] = field(default_factory=list)
    appended: int = 0
    trimmed: int = 0

    @property
    def end(self) -> Position:
        """The position of the last entry."""
        return self.entries[-1].position if self.entries else START

    def commit(self, sid: str, event: Event, *, own: bytes | None = None) -> bytes:
        """Append an event to a session's history, which begins if there is none; return the feed message."""
        packed = self.packed.get(sid)
        base = None if packed is None else unpack(sid, packed)
        self.before.append((sid, packed))
        return self._append(base, sid, event, self._event_id(own))

    def create(self, sid: str, **data: object) -> bytes:
        """Append the `created` of a session."""
        return self.commit(sid, Created(set_=data, secret="s", control=""))

    def revoke(self, name: str, keep: str | None = None, *, waits: bool = False) -> bytes:
        """Append a revocation to what must be the control log; return the feed message."""
        data = dumps({"name": name} | ({"keep": keep} if keep else {}) | ({"waits": True} if waits else {}))
        tag = control_tag(KEYS.head, event_id(self.appended + 1), b"", b"", data)
        return self.append("named_revoked", data, name, tag=tag)

    def image(self) -> Image:
        """Return what a worker loads that starts."""
        return image_of(self.entries)

    def append(self, type_: str, data: bytes, sid: str = "", version: int = 0, tag: bytes = FIRST) -> bytes:
        """Append an entry of any form that touches no snapshot; return the feed message."""
        base = self.stored(sid)
        self.before.append((sid, self.packed.get(sid)))
        heads = (FIRST if base is None else base.head, tag, FIRST)
        return self._publish(sid, version, type_, self._event_id(None), data=data, shown=data, heads=heads)

    def _append(self, base: Stored | None, sid: str, event: Event, own: bytes) -> bytes:
        snapshot = evolve(base.snapshot if base is not None else Snapshot(sid=sid), event)
        data = pack_event(event, KEYS.redact, sid, snapshot.version)
        previous = base.head if base is not None else FIRST
        link = link_of(KEYS.head, previous, (sid.encode(), data, own))
        body = pack_body(snapshot, dumps(snapshot.data))
        covered = redacted_body(KEYS.redact, snapshot, body)
        head = head_of(KEYS.head, link, sid.encode(), snapshot.version, status_of(snapshot), covered)
        shown = b"" if event.redacted else data
        message = self._publish(
            sid, snapshot.version, type_of(event), own, data=data, shown=shown, heads=(previous, head, link)
        )
        now, last = 1000 + len(self.entries), id_text(self.end.id)
        tail = b"%013d%013d%013d%013d%-24b%013d" % (now, 0, DEADLINE, DEADLINE, last.encode(), now)
        self.packed[sid] = pack_prefix(KEYS.key_id, head, link, snapshot) + tail + body
        return message

    def _event_id(self, own: bytes | None) -> bytes:
        self.appended += 1
        return own or event_id(self.appended)

    def _publish(
        self, sid: str, version: int, type_: str, own: bytes, *, data: bytes, shown: bytes, heads: tuple[bytes, ...]
    ) -> bytes:
        prev, previous, (previous_head, head, link) = self.end, id_text(self.end.id), heads
        self.entries.append(
            Entry(
                id=(1000 + self.trimmed + len(self.entries), 0),
                sid=sid,
                version=version,
                type=type_,
                previous=previous,
                event_id=own,
                offset=0,
                actor=b"",
                context=b"",
                data=data,
                key_id=KEYS.key_id,
                head=head,
            )
        )
        part = pack_notice(
            KEYS.message,
            sid=sid,
            version=version,
            previous_head=previous_head,
            head=head,
            link=link,
            event_id=own,
            key_id=KEYS.key_id,
            type_=type_,
            data=shown,
        )
        self.messages.append(framed(prev, self.end.id, part))
        return self.messages[-1]

    def stored(self, sid: str) -> Stored | None:
        """Return what a fill finds, checked like a fill."""
        packed = self.packed.get(sid)
        if packed is None:
            return None
        stored = unpack(sid, packed)
        check_head(KEYS.head, KEYS.redact, stored, packed)
        return stored

    def beat(self, position: Position | None) -> BeatReply:
        """Answer a heartbeat."""
        return BeatReply(self._judge(position), self.incarnation, self.end)

    def _judge(self, position: Position | None) -> Literal["ok", "fork", "trimmed"]:
        if position is None or position == START or any(entry.position == position for entry in self.entries):
            return "ok"
        return "trimmed" if self.entries and position.id < self.entries[0].id else "fork"

    def read(self, start: Position, count: int = 1000) -> list[Entry]:
        """Return the entries from a position's id on, that one included."""
        return [entry for entry in self.entries if entry.id >= start.id][:count]

    def lose(self, count: int) -> None:
        """Fail over to a replica that lacks the last entries."""
        for _ in range(min(count, len(self.entries))):
            self.entries.pop()
            self.messages.pop()
            sid, packed = self.before.pop()
            if packed is None:
                self.packed.pop(sid, None)
            else:
                self.packed[sid] = packed

    def trim(self, count: int) -> None:
        """Remove the oldest entries, never the last one."""
        count = min(count, len(self.entries) - 1)
        self.trimmed += max(count, 0)
        del self.entries[: max(count, 0)]
        del self.before[: max(count, 0)]
        del self.messages[: max(count, 0)]


class World:
    """One worker's cache beside a model server with a control log and the shard ``00``."""

    def __init__(self, policy: CachePolicy | None = None) -> None:
        self.cache = Cache(policy or CachePolicy(), KEYRING)
        self.log = Log("00")
        self.control = Log(CONTROL)
        self.view = self.cache.view("00")
        self.control_view = self.cache.view(CONTROL)

    @classmethod
    def proved(cls, policy: CachePolicy | None = None) -> World:
        """Return a world whose worker has both leases, from heartbeats that were sent at time 0."""
        world = cls(policy)
        world.prove(0.0)
        return world

    def log_of(self, view: View) -> Log:
        """Return the server's side of a view."""
        return self.control if view is self.control_view else self.log

    def prove(self, now: float) -> None:
        """Exchange heartbeats for both logs, sent at a time."""
        for view in (self.control_view, self.view):
            self.beat(view, now)

    def beat(self, view: View, now: float) -> bool:
        """Exchange one heartbeat, sent at a time."""
        beat = view.beat()
        return self.cache.beaten(view, beat, self.log_of(view).beat(beat.position), now)

    def repair(self, view: View) -> bool:
        """Read what the log has since the position."""
        if view.unloaded is not None:
            self.cache.loaded(view.unloaded, self.control.image())
        assert view.position is not None
        view.gap, start = False, view.position
        return self.cache.repaired(view, start, self.log_of(view).read(start))

    def fill(self, sid: str, deadline: float = float("inf")) -> Verdict:
        """Load a session at once."""
        return self.cache.finish(self.cache.begin(sid), self.log.stored(sid), deadline)

    def tell(self, *messages: bytes) -> None:
        """Deliver messages of the shard's feed."""
        for message in messages:
            self.cache.message("00", message)

    def served(self, sid: str, now: float = 1.0) -> dict[str, Any] | None:
        """Return the data that a request would be served from memory."""
        cached = self.cache.lookup(sid, now)
        return None if cached is None else dict(cached.stored.snapshot.data)
