"""Proving the control log: that each revocation was made with the key, and that a worker which starts is told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from evsession.audit.pages import log_pages
from evsession.chain import control_tag
from evsession.control import Image, Revocation, revocation_of
from evsession.keys import Keyring
from evsession.positions import RECORD, id_of, pack_position
from evsession.proof import Fault, FaultKind
from evsession.store import Store
from evsession.stores.revocations import latest
from evsession.view import CONTROL
from evsession.wire import Entry, Line, StreamId, entry_of, id_text, parse_id

_MALFORMED: Final = (ValueError, LookupError, TypeError, AttributeError)


async def revocation_faults(store: Store, keys: Keyring) -> AsyncIterator[Fault]:
    """Yield what is wrong with the control log, one fault for each kind.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    seen: set[FaultKind] = set()
    end = (await store.counters(CONTROL)).last
    told = _Told(await store.image())
    log = _Log(end)
    async for page in log_pages(store, CONTROL, end):
        for line in page:
            for fault in _faults_of(keys, line, log, told):
                if fault.kind not in seen:
                    seen.add(fault.kind)
                    yield fault
    strays = log.strays(told)
    if strays and (strays := strays & log.strays(_Told(await store.image()))):  # in neither: removed meanwhile
        yield _fault("unfounded", min(strays), "a worker that starts is told of a revocation that the log has not")


class _Told:
    """What a worker that starts is told."""

    def __init__(self, image: Image) -> None:
        self.names = image.names
        self.held = {image.held[at : at + RECORD] for at in range(0, len(image.held), RECORD)}
        self.again = {position.event: pack_position(position) for position, _ in image.again}

    def of(self, entry: Entry, revocation: Revocation) -> bool:
        """Tell whether it learns of an entry: of its place, and of what it revokes."""
        if pack_position(entry.position) not in self.held:
            return False
        if revocation.places:
            return entry.event_id in self.again
        newest = self.names.get(revocation.name.encode())
        return newest is not None and parse_id(newest.partition(b" ")[0]) >= entry.id


class _Log:
    """What the log says, to compare with what a worker that starts is told."""

    def __init__(self, end: StreamId) -> None:
        self.end = end
        self._first: StreamId | None = None
        self._held: set[bytes] = set()
        self._names: dict[bytes, bytes] = {}

    def add(self, entry: Entry, revocation: Revocation) -> None:
        """Take in the next entry."""
        self._first = self._first or entry.id
        self._held.add(pack_position(entry.position))
        if not revocation.places:
            name = entry.sid.encode()
            self._names[name] = latest(entry.id, revocation.keep, self._names.get(name, b"0-0"))

    def strays(self, told: _Told) -> set[str]:
        """Return the ids of what is told and was not in the log, up to its end."""
        ids = map(id_of, told.held.union(told.again.values()) - self._held)
        return {id_text(id_) for id_ in ids if id_ <= self.end} | {
            newest.partition(b" ")[0].decode("ascii", "replace")
            for name, newest in told.names.items()
            if not self._says(newest, self._names.get(name, b""))
        }

    def _says(self, told: bytes, known: bytes) -> bool:
        """Tell whether the log says what is told of a name, as far back as it goes."""
        try:
            id_, *kept = told.split(b" ")
            if told == known or parse_id(id_) > self.end or (known and parse_id(id_) < parse_id(known.split(b" ")[0])):
                return True  # a newer one; or an older one, which is `forgotten`
            known_id, *known_kept = known.split(b" ")
            if known_id != id_ or len(kept) != 2 or len(known_kept) != 2 or kept[0] != known_kept[0]:
                return False
            return known_kept[1] == b"0-0" and self._first is not None and parse_id(kept[1]) < self._first
        except ValueError:
            return False


def _faults_of(keys: Keyring, line: Line, log: _Log, told: _Told) -> Iterator[Fault]:
    """Add an entry to what the log says, and yield what is wrong with it; one that is not ours says nothing."""
    try:
        entry = entry_of(line)
        revocation = revocation_of(entry.position, entry.data)
    except _MALFORMED:
        yield _fault("foreign", line[0].decode(), "an entry that evsession did not write")
        return
    log.add(entry, revocation)
    id_, key = id_text(entry.id), keys.head(entry.key_id)
    if key is None:
        yield _fault("unknown_key", id_, "it was made with a key that was not given; give old keys as well")
    elif entry.head != control_tag(key, entry.event_id, entry.actor, entry.context, entry.data):
        yield _fault("altered", id_, "its tag is not that of what it says")
    elif (entry.sid, entry.type) != (revocation.name, "named_revoked"):
        yield _fault("altered", id_, "it stands under another name than it was made for")
    if entry.id <= log.end and not told.of(entry, revocation):
        yield _fault("forgotten", id_, "a worker that starts would not be told of it")


def _fault(kind: FaultKind, id_: str, detail: str) -> Fault:
    return Fault(kind=kind, shard=CONTROL, id=id_, detail=detail)
