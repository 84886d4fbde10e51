"""Every way to forge a log or its snapshots that we know, at every position; the page docs/explanation/integrity.md
lists the same ones under the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple

from evsession.stores.shard import has_ended
from evsession.tokens import new_sid
from evsession.wire import Entry, StreamId, id_text
from tests.proof.world import World

Finder = Literal["verify", "the archive", "nothing"]
Change = Callable[[World], None]
Forgery = tuple[str, Change]


class Kind(NamedTuple):
    """A kind of forgery: who finds it, under which kinds of faults (any of them), and all its cases in a world.

    Without a kind of fault it looks like retention, and takes nothing away from who has an archive.
    """

    finder: Finder
    faults: frozenset[str]
    cases: Callable[[World], Iterator[Forgery]]


KINDS: Final[dict[str, Kind]] = {}


def kind(name: str, finder: Finder, *faults: str) -> Callable[[Callable[[World], Iterator[Forgery]]], None]:
    """Register a kind of forgery under the name that the docs give it."""

    def register(cases: Callable[[World], Iterator[Forgery]]) -> None:
        KINDS[name] = Kind(finder, frozenset(faults), cases)

    return register


def _put(at: int, **changes: Any) -> Change:
    return lambda world: world.put(at, **changes)


def _put_snapshot(sid: str, packed: bytes) -> Change:
    return lambda world: world.put_snapshot(sid, packed)


def _then(*changes: Change) -> Change:
    def change(world: World) -> None:
        for one in changes:
            one(world)

    return change


def _late(world: World, offset: int = 1) -> StreamId:
    return (world.log[-1].id[0] + offset, 0)


def _ends(world: World) -> Iterator[tuple[str, list[Entry]]]:
    for sid in dict.fromkeys(entry.sid for entry in world.log):
        yield sid, world.of(sid)


# ── what verifying finds, although links, counters and headers were made to fit ──────────────────────────────────────


@kind("a field of an entry changed", "verify", "altered", "hole", "repeated", "unlinked", "unknown_key", "unreadable",
      "misplaced", "foreign")  # fmt: skip
def _(world: World) -> Iterator[Forgery]:
    sids = {one.sid for one in world.log} | {new_sid("00", bytes(16)), new_sid("01", bytes(16)), "x"}
    for at, entry in enumerate(world.log):
        others: dict[str, set[Any]] = {
            "type": {"created", "updated", "authenticated", "renewed", "ended", "x"} - {entry.type},
            "sid": sids - {entry.sid},
            "version": {entry.version + 1, entry.version - 1, entry.version + 7, 0},
            "previous": {"0-0", id_text((1, 1)), id_text(entry.id), "x"} - {entry.previous},
            "event_id": {bytes(16), entry.event_id[:15] + b"\xff"},
            "actor": {b"admin eve", b"x"},
            "context": {b"", b'{"w":"efgh"}'},
            "data": {
                b"{}", b"[]", b"x", entry.data[:-1] + b',"unset":["q"]}', entry.data[:-1] + b',"x":["q"]}',
                entry.data[:-1] + b',"set":{"role":"root"}}', b'{"set":' + b"[" * 900 + b"]" * 900 + b"}",
                b'{"set":{"a":' + b"[" * 300 + b"]" * 300 + b"}}",
            },
            "key_id": {"beef", "", "\n"},
            "head": {bytes(16), b"", entry.head[:15] + bytes((entry.head[15] ^ 1,))},
        }  # fmt: skip
        for name, values in others.items():
            for value in sorted(values, key=repr):
                yield f"{name} of entry {at}: {value!r:.40}", _put(at, **{name: value})


@kind("an entry made up", "verify", "altered")
def _(world: World) -> Iterator[Forgery]:
    def grow(sid: str) -> Change:
        def change(w: World) -> None:
            like = (w.of(sid) or w.log)[-1]
            made = like._replace(
                id=_late(w), sid=sid, version=len(w.of(sid)) + 1, event_id=b"e" * 16, data=b'{"set":{"role":"root"}}',
                type="updated" if w.of(sid) else "created", previous=id_text(like.id if w.of(sid) else (0, 0)),
            )  # fmt: skip
            w.log.append(made if w.of(sid) else made._replace(data=b'{"secret":"x"}'))
            w.count_anew()

        return change

    living = [sid for sid, own in _ends(world) if own[-1].type != "ended"]
    for sid in (*living, new_sid("00", b"n" * 16)):
        yield f"at the end of {sid}", grow(sid)


@kind("an entry replayed later in the log", "verify", "repeated")
def _(world: World) -> Iterator[Forgery]:
    for at, entry in enumerate(world.log):
        for place in range(at + 1, len(world.log) + 1):

            def change(w: World, entry: Entry = entry, place: int = place) -> None:
                ms, seq = w.log[place - 1].id
                w.log.insert(place, entry._replace(id=(ms, seq + 1)))
                w.count_anew()

            yield f"entry {at} again before {place}", change
            yield f"entry {at} again before {place}, linked", _then(change, World.link_anew)


@kind("an entry deleted", "verify", "hole", "unlinked", "snapshot_ahead")
def _(world: World) -> Iterator[Forgery]:
    for at, entry in enumerate(world.log):
        own = world.of(entry.sid)
        if at == 0 or (entry == own[-1] and entry.sid not in world.snapshots):
            continue  # "the log cut at its beginning", and "a session rolled back"

        def change(w: World, at: int = at) -> None:
            del w.log[at]
            w.count_anew()

        yield f"entry {at}", change
        if entry.version > 1 and entry != own[-1]:
            yield f"entry {at}, the others linked", _then(change, World.link_anew)


@kind("the entries of a session reordered", "verify", "altered", "hole", "repeated", "unlinked")
def _(world: World) -> Iterator[Forgery]:
    for a, one in enumerate(world.log):
        for b in range(a + 1, len(world.log)):
            if world.log[b].sid == one.sid:

                def change(w: World, a: int = a, b: int = b) -> None:
                    first, second = w.log[a], w.log[b]
                    w.log[a], w.log[b] = second._replace(id=first.id), first._replace(id=second.id)
                    w.count_anew()

                yield f"entries {a} and {b}", change
                yield f"entries {a} and {b}, linked", _then(change, World.link_anew)


@kind("an entry moved into another session", "verify", "altered")
def _(world: World) -> Iterator[Forgery]:
    for at, entry in enumerate(world.log):
        for other in (one for one in world.log if one.sid != entry.sid and one.version == entry.version):

            def change(w: World, at: int = at, other: Entry = other) -> None:
                w.put(at, type=other.type, event_id=other.event_id, data=other.data, head=other.head)
                w.count_anew()

            yield f"{other.event_id[-1]} in the place of entry {at}", change


@kind("an entry moved into the log of another shard", "verify", "misplaced")
def _(world: World) -> Iterator[Forgery]:
    for at, _entry in enumerate(world.log):

        def change(w: World, at: int = at) -> None:
            w.other.log.append(w.log[at]._replace(id=(w.other.end.id[0] + 1, 0)))
            w.other.end = w.other.log[-1].position
            w.other.added += 1

        yield f"entry {at}", change


@kind("something else written into the log", "verify", "foreign")
def _(world: World) -> Iterator[Forgery]:
    for at in range(len(world.log)):
        yield f"in the place of entry {at}", _put(at, sid="hello")


# ── what the log's counters show ─────────────────────────────────────────────────────────────────────────────────────


@kind("the log cut at its end", "verify", "cut", "snapshot_ahead")
def _(world: World) -> Iterator[Forgery]:
    for count in range(1, len(world.log) + 1):

        def change(w: World, count: int = count) -> None:
            del w.log[-count:]

        def repair_counters(w: World) -> None:
            w.count_anew()

        yield f"by {count}", change
        yield f"by {count}, counters made to fit", _then(change, repair_counters)
        yield f"by {count}, snapshots put back", _then(change, World.roll_back_snapshots)


@kind("the log cut at its beginning", "verify", "removed")
def _(world: World) -> Iterator[Forgery]:
    for count in range(1, len(world.log)):

        def change(w: World, count: int = count) -> None:
            del w.log[:count]

        yield f"by {count}", change


@kind("a session deleted", "verify", "removed")
def _(world: World) -> Iterator[Forgery]:
    for sid, _own in _ends(world):
        yield sid, _without(sid)


def _without(sid: str) -> Change:
    def change(w: World) -> None:
        w.home.log[:] = [entry for entry in w.log if entry.sid != sid]
        w.home.snapshots.pop(sid, None)
        w.home.lapses.remove(sid)
        w.home.end = w.log[-1].position

    return change


# ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────────────────


@kind("a snapshot changed", "verify", "snapshot_altered", "snapshot_differs", "unknown_key", "unreadable",
      "snapshot_ahead", "snapshot_stale")  # fmt: skip
def _(world: World) -> Iterator[Forgery]:
    for sid, packed in world.snapshots.items():
        deadlines = range(75, 101)
        for at in (at for at in range(len(packed)) if at not in deadlines):
            byte = packed[at] + (1 if packed[at] != ord("9") else -1)
            changed = b"%b%c%b" % (packed[:at], byte, packed[at + 1 :])
            yield f"byte {at} of {sid}", _put_snapshot(sid, changed)
        yield f"{sid} emptied", _put_snapshot(sid, b"")


@kind("an older snapshot put back", "verify", "snapshot_stale")
def _(world: World) -> Iterator[Forgery]:
    for sid, packs in world.older.items():
        if sid[:2] == "00":
            for version, packed in enumerate(packs[:-1], 1):
                yield f"version {version} of {sid}", _put_snapshot(sid, packed)


@kind("the snapshot of another session", "verify", "snapshot_altered")
def _(world: World) -> Iterator[Forgery]:
    for sid in world.older:
        for other, packed in world.snapshots.items():
            if other != sid and sid[:2] == "00":
                yield f"{other} as {sid}", _put_snapshot(sid, packed)


@kind("a snapshot deleted", "verify", "snapshot_missing")
def _(world: World) -> Iterator[Forgery]:
    for sid, packed in world.snapshots.items():
        if not has_ended(packed):

            def change(w: World, sid: str = sid) -> None:
                del w.snapshots[sid]
                w.home.lapses.remove(sid)

            yield sid, change


# ── what only an archive can show ────────────────────────────────────────────────────────────────────────────────────


@kind("times changed, links and snapshots made to fit", "the archive", "archive_differs")
def _(world: World) -> Iterator[Forgery]:
    for at, entry in enumerate(world.log):

        def change(w: World, at: int = at, ms: int = entry.id[0] + 1) -> None:
            w.put(at, id=(ms, 0))
            w.count_anew()
            w.link_anew()

        yield f"entry {at} a millisecond later", change


@kind("the worker's clock in an entry changed", "the archive", "archive_differs")
def _(world: World) -> Iterator[Forgery]:
    for at in range(len(world.log)):
        yield f"entry {at}", _put(at, offset=99)


@kind("entries of different sessions reordered, links and snapshots made to fit", "the archive", "archive_differs")
def _(world: World) -> Iterator[Forgery]:
    for at in range(len(world.log) - 1):
        if world.log[at].sid != world.log[at + 1].sid:

            def change(w: World, at: int = at) -> None:
                first, second = w.log[at], w.log[at + 1]
                w.log[at], w.log[at + 1] = second._replace(id=first.id), first._replace(id=second.id)
                w.count_anew()
                w.link_anew()

            yield f"entries {at} and {at + 1}", change


@kind(
    "a session rolled back: its last events deleted, its old snapshot put back, counters made to fit",
    "the archive",
    "archive_differs",
)
def _(world: World) -> Iterator[Forgery]:
    for sid, own in _ends(world):
        for version in range(1, len(own)):

            def change(w: World, sid: str = sid, version: int = version) -> None:
                w.home.log[:] = [entry for entry in w.log if entry.sid != sid or entry.version <= version]
                w.put_snapshot(sid, w.older[sid][version - 1])
                w.count_anew()

            yield f"{sid} to version {version}", change


@kind("a session deleted, counters made to fit", "the archive", "archive_differs")
def _(world: World) -> Iterator[Forgery]:
    for sid, _own in _ends(world):
        yield sid, _then(_without(sid), World.count_anew)


@kind("the log cut at its beginning and said to be trimmed", "the archive")
def _(world: World) -> Iterator[Forgery]:
    for count in range(1, len(world.log)):

        def change(w: World, count: int = count) -> None:
            del w.log[:count]
            w.home.trimmed += count

        yield f"by {count}", change


@kind("the snapshot of a session whose events were all trimmed put back", "the archive", "snapshot_stale")
def _(world: World) -> Iterator[Forgery]:
    for sid, own in _ends(world):
        if own[-1].type == "ended":

            def change(w: World, sid: str = sid) -> None:
                count = w.log.index(w.of(sid)[-1]) + 1
                del w.log[:count]
                w.home.trimmed += count
                w.put_snapshot(sid, w.older[sid][-2])

            yield sid, change


# ── what nothing shows ───────────────────────────────────────────────────────────────────────────────────────────────


@kind("the end that was not archived yet cut off, snapshots and counters as they were before it", "nothing")
def _(world: World) -> Iterator[Forgery]:
    for count in range(1, len(world.log) + 1):

        def change(w: World, count: int = count) -> None:
            del w.log[len(w.log) - count :]
            w.count_anew()
            w.roll_back_snapshots()

        yield f"by {count}", change


@kind("the deadlines of a snapshot moved", "nothing")
def _(world: World) -> Iterator[Forgery]:
    for sid, packed in world.snapshots.items():
        moved = packed[:75] + b"%013d%013d" % (int(packed[75:88]) + 10**7, int(packed[88:101]) + 10**7) + packed[101:]
        yield sid, _put_snapshot(sid, moved)
