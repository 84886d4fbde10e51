"""What the control log says: which sessions are revoked, by the newest entry of each of their names.

A session stands at the control position that its worker had applied when the request that began it began. It is dead
once a later entry names it. A position that is not in the log held belongs to a history that a failover ended: such a
session is dead too, unless the entry that stood there was issued again (`Again`) or was trimmed away long ago.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from evsession.canonical import dumps, loads
from evsession.positions import Positions, pack_position
from evsession.state import Snapshot
from evsession.wire import START, Position, StreamId, id_text, parse_id

EVERYONE: Final = "everyone"

MAX_RECENT: Final = 10_000
"""Entries that are kept whole, to be issued again should a failover lose them.

Source: what a replica lacks is a second or two of writes; of names whose entries are older, the newest is known anyway.
"""

FAR: Final[StreamId] = (2**62, 0)
"""Where an entry stands that a failover lost and nobody has issued again yet: after everything."""

Verdict = Literal["alive", "dead", "ahead"]
"""What the control log says of a session; `ahead` means that entries are missing here, so repair first."""


class Place(NamedTuple):
    """Where an entry stood in a history that a failover ended.

    `common` is the last id that this history shared with the next. `lost` is the packed position of the first entry
    that it did not, which names the history: ids alone do not, because a later one may hand out lower ids, and event
    ids alone do not, because what was issued again may be lost again.
    """

    id: StreamId
    common: StreamId
    lost: bytes


class Revocation(NamedTuple):
    """One entry of the control log: a name, the session that it excepts, and where else the entry has stood.

    `data` is the JSON of the log, which has the reason too; `waits` says that its caller counts the workers. `follows`
    is the entry of the same name before it, as far as it is known here.
    """

    position: Position
    name: str
    keep: str | None = None
    waits: bool = False
    places: tuple[Place, ...] = ()
    data: bytes = b""
    follows: StreamId = START.id


def revocation_of(position: Position, data: bytes) -> Revocation:
    """Return what an entry of the control log says.

    Raises:
        ValueError: it is not of this form.
    """
    try:
        return _revocation_of(position, data)
    except (AttributeError, TypeError, KeyError) as error:
        msg = "an entry of the control log is not of its form"
        raise ValueError(msg) from error


def _revocation_of(position: Position, data: bytes) -> Revocation:
    facts = loads(data)
    keep = facts.get("keep")
    places = tuple(
        Place(parse_id(id_.encode()), parse_id(common.encode()), bytes.fromhex(lost))
        for id_, common, lost in facts.get("places", ())
    )
    return Revocation(
        position, str(facts["name"]), None if keep is None else str(keep), bool(facts.get("waits")), places, data
    )


def data_of(entry: Revocation) -> bytes:
    """Return the data under which a lost entry is issued again: with the places where it has stood."""
    facts = loads(entry.data) if entry.data else {"name": entry.name} | ({"keep": entry.keep} if entry.keep else {})
    facts.pop("waits", None)
    places = [[id_text(place.id), id_text(place.common), place.lost.hex()] for place in entry.places]
    return dumps(facts | {"places": places})


class _Newest(NamedTuple):
    """The newest entry of a name, the session that it excepts, and the newest that does not except that one."""

    id: StreamId
    keep: str | None
    before: StreamId

    def limit(self, sid: str) -> StreamId:
        """Return the position from which on a session of this name lives."""
        return self.before if sid == self.keep else self.id

    @classmethod
    def parse(cls, raw: bytes) -> _Newest:
        id_, *kept = raw.split(b" ")
        return cls(parse_id(id_), kept[0].decode(), parse_id(kept[1])) if kept else cls(parse_id(id_), None, (0, 0))

    def text(self) -> bytes:
        kept = f" {self.keep} {id_text(self.before)}" if self.keep is not None else ""
        return f"{id_text(self.id)}{kept}".encode()


_NOTHING: Final = _Newest((0, 0), None, (0, 0))


class Image(NamedTuple):
    """The control log as a store has it for a worker that starts.

    `names` maps a name to its newest entry, ``id`` or ``id keep before``. `held` is the position of every entry, packed
    as `Positions` has it. `again` are position and data of the entries that were issued again. The names must have been
    read before the rest: what was appended since is applied from the log. Whoever takes an image in owns it.
    """

    names: dict[bytes, bytes]
    held: bytes
    again: Sequence[tuple[Position, bytes]] = ()


class Control:
    """The control log of one worker, as far as it was applied.

    `epoch` grows with every entry, so that a cached session is judged once for each and not at every read.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.lost: dict[bytes, Revocation] = {}
        """Entries that this worker knew and the log has lost, by event id, oldest first: to be issued again."""
        self._names: dict[bytes, bytes] = {}
        self._positions = Positions()
        self._again: dict[str, dict[bytes, Revocation]] = {}
        self._places: dict[Position, Place] = {}
        self._recent: OrderedDict[bytes, Revocation] = OrderedDict()
        self._passed_over: set[Position] = set()

    @property
    def highest(self) -> StreamId:
        """The highest id seen in any history; a new entry gets one above it, whatever a clock says."""
        ids = [self._positions.last.id, *(entry.position.id for entry in self.lost.values())]
        return max(ids)

    def knows(self, event: bytes) -> bool:
        """Tell whether an event id was applied lately: a message with it is a replay."""
        return event in self._recent and event not in self.lost

    def entry(self, event: bytes) -> Revocation | None:
        """Return an entry that was applied lately, as it stands in the log now; None if it is lost or unknown."""
        return self._recent.get(event) if event not in self.lost else None

    def has(self, position: Position) -> bool:
        """Tell whether the log held has an entry of ours there, so that it is in force here."""
        return self._positions.has(position) and position not in self._passed_over

    # ── taking in ────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply(self, entry: Revocation) -> None:
        """Take in the next entry of the log; one that is in force already changes nothing.

        That it is held is not enough: a log is loaded in parts, and the part with this entry's name may be older.
        """
        if self._positions.has(entry.position):
            if self._is_in_force(entry):
                return
        else:
            self._positions.add(entry.position)
        self._recent[entry.position.event] = entry._replace(follows=self._newest(entry.name).id)
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        if entry.places:
            self._issued_again(entry)
        else:
            self._names[entry.name.encode()] = self._after(entry).text()
        self.epoch += 1

    def _is_in_force(self, entry: Revocation) -> bool:
        if not entry.places:
            return self._newest(entry.name).id >= entry.position.id
        known = self._again.get(entry.name, {}).get(entry.position.event)
        return known is not None and known.position == entry.position

    def _after(self, entry: Revocation) -> _Newest:
        known = self._newest(entry.name)
        if entry.keep is None:
            return _Newest(entry.position.id, None, (0, 0))
        return _Newest(entry.position.id, entry.keep, known.before if known.keep == entry.keep else known.id)

    def _newest(self, name: str) -> _Newest:
        raw = self._names.get(name.encode())
        return _NOTHING if raw is None else _Newest.parse(raw)

    def _issued_again(self, entry: Revocation) -> None:
        event = entry.position.event
        self.lost.pop(event, None)
        self._again.setdefault(entry.name, {})[event] = entry
        for place in entry.places:
            self._places[Position(place.id, event)] = place

    def pass_over(self, position: Position) -> None:
        """Take in that an entry stands there which revokes nobody, because none of us wrote it."""
        if not self._positions.has(position):
            self._positions.add(position)
            self._passed_over.add(position)

    def load(self, image: Image) -> None:
        """Begin with a log as the store has it. What was known here and is not in it stays in force, as `lost`.

        Raises:
            ValueError: somebody else wrote into it; then all is as it was.
        """
        again = [revocation_of(position, data) for position, data in image.again]
        before, names, lost, known = self._positions, self._names, self.lost, self._whole()
        self._positions, self._names = Positions(image.held), image.names
        self._again, self._places, self.lost = {}, {}, {}
        for entry in again:
            self._issued_again(entry)
        here = ((event, one) for event, one in self._recent.items() if self._positions.has(one.position))
        self._recent = OrderedDict(here)
        self._passed_over = {position for position in self._passed_over if self._positions.has(position)}
        common = self._positions.common_with(before)
        is_back = {entry.position.event for entry in again}
        is_back.update(event for event, entry in (known | lost).items() if self._stands_where_it_stood(entry))
        after = list(before.after(common))
        gone = [at for at in after if at.event not in is_back and not self._positions.has(at)]
        found = [_at(entry, common, pack_position(after[0])) for entry in _known(gone, known, names)]
        found += [_still(entry, common) for event, entry in lost.items() if event not in is_back]
        for entry in sorted(found, key=lambda entry: entry.position.id):
            self._lose(entry)
        self.epoch += bool(image.held or len(before))

    def _stands_where_it_stood(self, entry: Revocation) -> bool:
        """Tell whether a lost entry is in the log after all: the history that holds it serves once more."""
        return any(self._positions.has(Position(place.id, entry.position.event)) for place in entry.places)

    def _whole(self) -> dict[bytes, Revocation]:
        """Return what is known of entries in the log beside names: those of late, and all that were issued again."""
        again = self._again.values()
        known = {event: entry for entries in again for event, entry in entries.items() if event not in self.lost}
        return known | self._recent

    def trim(self, first: Position) -> None:
        """Forget the entries before the log's first, which the store has removed since no living session is as old.

        If that is not held here, it may be another history's, and all that it lacks may have to be issued again.
        """
        if not self._positions.has(first) or not self._positions.trim(first.id):
            return
        self._names = {name: raw for name, raw in self._names.items() if _Newest.parse(raw).id >= first.id}
        self._passed_over = {position for position in self._passed_over if position.id >= first.id}
        for entries in self._again.values():
            for event in [event for event, entry in entries.items() if entry.position.id < first.id]:
                del entries[event]

    def _lose(self, entry: Revocation) -> None:
        """Keep an entry in force that the log has lost: as if it had been issued again after all others."""
        event = entry.position.event
        self.lost[event] = entry
        self._again.setdefault(entry.name, {})[event] = entry._replace(position=Position(FAR, event))
        self._places.update((Position(place.id, event), place) for place in entry.places)

    def settle(self, event: bytes, position: Position) -> None:
        """Give up a lost entry if the log held has another attempt at the same there; until then it stays in force."""
        if event not in self.lost or not self.has(position):
            return
        entry = self.lost.pop(event)
        del self._again[entry.name][event]
        for place in entry.places:
            self._places.pop(Position(place.id, event), None)
        self.epoch += 1

    # ── judging ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def is_dead(self, snapshot: Snapshot) -> bool:
        """Tell whether a session is revoked for certain."""
        return self.verdict(snapshot) == "dead"

    def verdict(self, snapshot: Snapshot) -> Verdict:
        """Return what the control log says of a session."""
        if not snapshot.control:
            return "dead" if self._kills(snapshot, START.id) else "alive"
        since = Position.parse(snapshot.control)
        if self._positions.has(since):
            return "dead" if self._kills(snapshot, since.id) else "alive"
        if (place := self._places.get(since)) is not None:
            return "dead" if self._kills_moved(snapshot, place) else "alive"
        if since.id > self._positions.last.id:
            return "ahead"
        if since.id < self._positions.first.id or since == START:
            return "dead" if self._kills(snapshot, since.id) else "alive"
        return "dead"

    def killer(self, snapshot: Snapshot) -> StreamId | None:
        """Return the id of the newest entry that names a session and stands in the log; None if there is none."""
        ids = [self._newest(name).limit(snapshot.sid) for name in _all_names(snapshot)]
        for name in _all_names(snapshot):
            ids += [entry.position.id for entry in self._again.get(name, {}).values() if entry.position.id != FAR]
        newest = max(ids)
        return None if newest == (0, 0) else newest

    def newest_of(self, names: Iterable[str], sid: str) -> StreamId:
        """Return the newest entry that names any of these and does not except a session."""
        return max((self._newest(name).limit(sid) for name in names), default=(0, 0))

    def _kills(self, snapshot: Snapshot, since: StreamId) -> bool:
        """Judge a session that stands in the log held."""
        sid = snapshot.sid
        for name in _all_names(snapshot):
            raw = self._names.get(name.encode())
            if raw is not None and since < _Newest.parse(raw).limit(sid):
                return True
            if any(since < again.position.id and again.keep != sid for again in self._again.get(name, {}).values()):
                return True
        return False

    def _kills_moved(self, snapshot: Snapshot, since: Place) -> bool:
        """Judge a session that stands at an entry which was lost: after what the histories share, before all else.

        Of the entries that were issued again, those that came before its own in the same lost history spare it.
        """
        sid = snapshot.sid
        for name in _all_names(snapshot):
            if self._newest(name).limit(sid) > since.common:
                return True
            for again in self._again.get(name, {}).values():
                came_before = any(at.lost == since.lost and at.id <= since.id for at in again.places)
                if again.keep != sid and again.position.id > since.common and not came_before:
                    return True
        return False


def _known(
    gone: Sequence[Position], whole: Mapping[bytes, Revocation], names: Mapping[bytes, bytes]
) -> Iterator[Revocation]:
    """Yield what is known of lost entries: those known whole, and the newest of each name.

    If that excepts a session, also the newest that does not: whom else this one excepted the later one has revoked.
    """
    yield from (whole[position.event] for position in gone if position.event in whole)
    older = {position.id: position for position in gone if position.event not in whole}
    for name, raw in names.items() if older else ():
        newest = _Newest.parse(raw)
        for id_, keep in ((newest.id, newest.keep), (newest.before, None)):
            if id_ in older:
                yield Revocation(older[id_], name.decode(), keep)


def _at(entry: Revocation, common: StreamId, lost: bytes) -> Revocation:
    """Return an entry that was lost, with the place where it stood."""
    return entry._replace(places=(*_shared(entry.places, common), Place(entry.position.id, common, lost)))


def _still(entry: Revocation, common: StreamId) -> Revocation:
    """Return an entry that was lost before and has not come back.

    Of what was lost only now, nobody can tell whether it came before: sessions at such an entry may be killed by that.
    """
    return entry._replace(places=_shared(entry.places, common))


def _shared(places: Iterable[Place], common: StreamId) -> tuple[Place, ...]:
    """Return the places of an entry after one more failover: what each of their histories shares with the log is less.

    The new log may hand out ids lower than what was shared before, so an entry at such an id came later all the same.
    """
    return tuple(place._replace(common=min(place.common, common)) for place in places)


def _all_names(snapshot: Snapshot) -> tuple[str, ...]:
    return (EVERYONE, *names_of(snapshot))


def name_of(kind: str, value: object) -> str:
    """Return the name that a session can be revoked by.

    Raises:
        ValueError: the kind is not a plain word, is reserved, or the value is empty.
    """
    text = str(value)
    if not kind.isidentifier() or kind in ("user", EVERYONE) or not text:
        msg = f"{kind!r} and {text!r} make no name; give a word such as 'tenant' and a value, or use revoke_user(id)"
        raise ValueError(msg)
    return f"{kind}:{text}"


def names_of(snapshot: Snapshot) -> tuple[str, ...]:
    """Return what a session can be revoked by, beside `everyone`."""
    return snapshot.names if snapshot.user_id is None else (f"user:{snapshot.user_id}", *snapshot.names)
