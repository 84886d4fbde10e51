"""The control log in memory: what revoke.lua and its like do, on a shard that holds nothing but its log."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from evsession.canonical import loads
from evsession.control import Image
from evsession.positions import pack_position
from evsession.store import EVENT_KEY, NamedRevoked
from evsession.stores.shard import Shard
from evsession.wire import START, Entry, Position, StreamId, id_text


def found(shard: Shard, entry: NamedRevoked) -> Position | None:
    """Return where an entry stands already, if an earlier attempt or another worker has appended it."""
    if entry.is_again:
        events = (known for known in reversed(shard.log) if known.event_id == entry.event_id)
        if again := next((known.position for known in events if b'"places"' in known.data), None):
            return again
    later = takewhile(lambda known: known.id >= entry.since, reversed(shard.log))
    key = entry.event_id[:EVENT_KEY]
    return next((known.position for known in later if known.event_id[:EVENT_KEY] == key), None)


def appended(shard: Shard, entry: NamedRevoked, now: int) -> Entry:
    """Return the entry as it is to stand: under an id that trusts no clock."""
    ms, seq = max(shard.end.id, entry.highest)
    id_: StreamId = (now, 0) if now > ms else (ms, seq + 1)
    return Entry(
        id=id_,
        sid=entry.name,
        version=1,
        type="named_revoked",
        previous=id_text(START.id),
        event_id=entry.event_id,
        offset=entry.worker_time - now,
        actor=entry.actor,
        context=entry.context,
        data=entry.data,
        key_id=entry.key_id,
        head=entry.tag,
    )


def image_of(log: Sequence[Entry]) -> Image:
    """Return the whole control log as a worker needs it that starts."""
    names: dict[bytes, bytes] = {}
    again: dict[bytes, tuple[Position, bytes]] = {}
    for entry in log:
        facts = loads(entry.data)
        if facts.get("places"):
            again[entry.event_id] = (entry.position, entry.data)
        else:
            name = entry.sid.encode()
            names[name] = latest(entry.id, facts.get("keep"), names.get(name, b"0-0"))
    return Image(names, b"".join(pack_position(entry.position) for entry in log), tuple(again.values()))


def latest(id_: StreamId, keep: str | None, known: bytes) -> bytes:
    """Return what is held of a name's newest entry; `known` is what was held before it."""
    if keep is None:
        return id_text(id_).encode()
    known_id, *kept = known.split(b" ")
    before = kept[1] if kept and kept[0].decode() == keep else known_id
    return f"{id_text(id_)} {keep} {before.decode()}".encode()
