"""What whoever verifies a namespace asks of the server: entries as they lie there, counters, all snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from evsession.store import Commit, CommitReply, Counters
from evsession.stores.redis.keys import Keys
from evsession.stores.redis.link import Link
from evsession.stores.redis.scripts import COUNT, RESTORE
from evsession.wire import START, Line, Position, StreamId, id_text, parse_id

FIELDS: Final = (b"t", b"s", b"n", b"p", b"i", b"o", b"a", b"c", b"d", b"k", b"m")
"""The fields of an entry, in the order in which `commit.lua` writes them; a newer version may add others."""


async def lines(link: Link, keys: Keys, after: StreamId, count: int) -> Sequence[Line]:
    """Return entries as they lie in a log, after an id."""
    reply = await link.call(b"XRANGE", keys.log, f"({id_text(after)}", b"+", b"COUNT", count)
    try:
        usual = [
            (id_, t, s, n, p, i, o, a, c, d, k, m)
            for id_, (t_, t, s_, s, n_, n, p_, p, i_, i, o_, o, a_, a, c_, c, d_, d, k_, k, m_, m) in reply
            if (t_, s_, n_, p_, i_, o_, a_, c_, d_, k_, m_) == FIELDS
        ]  # slices of the lists take half as long again
    except ValueError:
        usual = []
    return usual if len(usual) == len(reply) else [line_of(id_, fields) for id_, fields in reply]


def line_of(id_: bytes, fields: list[bytes]) -> Line:
    """Return an entry as it lies in a log, whatever the order of its fields."""
    if tuple(fields[::2]) == FIELDS:  # as nearly always, and a dict takes 2 µs
        return (id_, *fields[1::2])
    by_name = dict(zip(fields[::2], fields[1::2], strict=True))
    return (id_, *(by_name[name] for name in FIELDS)) if by_name.keys() >= set(FIELDS) else (id_,)


async def counters(link: Link, keys: Keys) -> Counters:
    """Return what a log counts of itself."""
    now, end, trimmed, *info = await link.run(COUNT, (keys.log, keys.end, keys.trimmed))
    told = dict(_pairs(info[0])) if info else {}
    id_, _, event = end.partition(b" ")
    return Counters(
        now=now,
        length=told.get(b"length", 0),
        first=_id_of(told.get(b"first-entry")),
        last=parse_id(told.get(b"last-generated-id", b"0-0")),
        end=Position(parse_id(id_), event) if end else START,
        trimmed=int(trimmed),
        added=told.get(b"entries-added") if info else 0,
        deleted=parse_id(told[b"max-deleted-entry-id"]) if b"max-deleted-entry-id" in told else None,
    )


def _pairs(flat: list[Any]) -> Iterator[tuple[bytes, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _id_of(entry: list[Any] | None) -> StreamId:
    return parse_id(entry[0]) if entry else START.id


async def restore(link: Link, keys: Keys, commit: Commit, header: bytes, ttls: tuple[int, int]) -> CommitReply:
    """Append an event to a session whose snapshot was lost."""
    touched = (keys.log, keys.expiry, keys.end, keys.birth, keys.ended, keys.snapshot(commit.sid))
    status, _, now, id_, tail, packed = await link.run(
        RESTORE, touched,
        commit.sid, commit.expected, commit.event_id, commit.prefix, commit.body, commit.actor, commit.context,
        commit.data, commit.worker_time, commit.notice, commit.first_version, commit.idle, commit.absolute, commit.type,
        commit.condition, keys.channel, b"PUBLISH", *ttls, header,
    )  # fmt: skip
    return CommitReply(status.decode(), commit.sid, now, parse_id(id_) if id_ else None, tail, packed)


async def deadline(link: Link, keys: Keys, sid: str) -> int | None:
    """Return a session's next deadline from the expiry index."""
    score = await link.call(b"ZSCORE", keys.expiry, sid)
    return None if score is None else int(float(score))


async def snapshots(link: Link, namespace: str, cursor: int, count: int) -> tuple[int, Sequence[tuple[str, bytes]]]:
    """Return some packed snapshots of a namespace, and the cursor to go on with."""
    pattern = f"{{{namespace}:??}}:s:*"
    next_, keys = await link.call(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", count)
    packed = await link.call(b"MGET", *keys) if keys else ()
    found = [(key.rpartition(b":")[2].decode(), one) for key, one in zip(keys, packed, strict=True) if one is not None]
    return int(next_), found
