"""Proving the control log: that each revocation was made with the key, and that a worker which starts is told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from evsession.audit.pages import log_pages
from evsession.chain import control_tag
from evsession.control import Image, revocation_of
from evsession.keys import Keyring
from evsession.positions import pack_position
from evsession.proof import Fault, FaultKind
from evsession.store import Store
from evsession.stores.revocations import latest
from evsession.view import CONTROL
from evsession.wire import Entry, Line, Position, StreamId, entry_of, id_text, parse_id

_MALFORMED: Final = (ValueError, LookupError, TypeError, AttributeError)


async def revocation_faults(store: Store, keys: Keyring) -> AsyncIterator[Fault]:
    """Yield what is wrong with the control log, one fault for each kind.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    seen: set[FaultKind] = set()
    end = (await store.counters(CONTROL)).last
    image = await store.image()
    held = {image.held[at : at + 26] for at in range(0, len(image.held), 26)}
    log = _Log(end)
    async for page in log_pages(store, CONTROL, end):
        for line in page:
            log.add(line)
            for fault in _faults_of(keys, line, image, held, end):
                if fault.kind not in seen:
                    seen.add(fault.kind)
                    yield fault
    strays = log.strays(image)
    if strays and (strays := strays & log.strays(await store.image())):  # what is in neither was removed meanwhile
        yield _fault("unfounded", min(strays), "a worker that starts is told of a revocation that the log has not")


class _Log:
    """What the log says, to compare with what a worker that starts is told."""

    def __init__(self, end: StreamId) -> None:
        self._end = end
        self._first: StreamId | None = None
        self._held: set[bytes] = set()
        self._names: dict[bytes, bytes] = {}

    def add(self, line: Line) -> None:
        """Take in an entry; one that is not ours says nothing."""
        try:
            entry = entry_of(line)
            revocation = revocation_of(entry.position, entry.data)
        except _MALFORMED:
            return
        self._first = self._first or entry.id
        self._held.add(pack_position(entry.position))
        if not revocation.places:
            name = entry.sid.encode()
            self._names[name] = latest(entry.id, revocation.keep, self._names.get(name, b"0-0"))

    def strays(self, image: Image) -> set[str]:
        """Return the ids of what is told and was not in the log, up to its end."""
        packed = {image.held[at : at + 26] for at in range(0, len(image.held), 26)}
        packed |= {pack_position(position) for position, _ in image.again}
        ids = {(int.from_bytes(one[:6], "big"), int.from_bytes(one[6:10], "big")) for one in packed - self._held}
        found = {id_text(id_) for id_ in ids if id_ <= self._end}
        return found | {
            told.partition(b" ")[0].decode("ascii", "replace")
            for name, told in image.names.items()
            if not self._says(told, self._names.get(name, b""))
        }

    def _says(self, told: bytes, known: bytes) -> bool:
        """Tell whether the log says what is told of a name, as far back as it goes."""
        try:
            id_, *kept = told.split(b" ")
            if told == known or parse_id(id_) > self._end or (known and parse_id(id_) < parse_id(known.split(b" ")[0])):
                return True  # a newer one; or an older one, which is `forgotten`
            known_id, *known_kept = known.split(b" ")
            if known_id != id_ or len(kept) != 2 or len(known_kept) != 2 or kept[0] != known_kept[0]:
                return False
            return known_kept[1] == b"0-0" and self._first is not None and parse_id(kept[1]) < self._first
        except ValueError:
            return False


def _faults_of(keys: Keyring, line: Line, image: Image, held: set[bytes], end: StreamId) -> Iterator[Fault]:
    try:
        entry = entry_of(line)
        revocation = revocation_of(entry.position, entry.data)
    except _MALFORMED:
        yield _fault("foreign", line[0].decode(), "an entry that evsession did not write")
        return
    id_, key = id_text(entry.id), keys.head(entry.key_id)
    if key is None:
        yield _fault("unknown_key", id_, "it was made with a key that was not given; give old keys as well")
    elif entry.head != control_tag(key, entry.event_id, entry.actor, entry.context, entry.data):
        yield _fault("altered", id_, "its tag is not that of what it says")
    elif (entry.sid, entry.type) != (revocation.name, "named_revoked"):
        yield _fault("altered", id_, "it stands under another name than it was made for")
    if entry.id <= end and not _is_told(entry, revocation.name, image, held, is_again=bool(revocation.places)):
        yield _fault("forgotten", id_, "a worker that starts would not be told of it")


def _is_told(entry: Entry, name: str, image: Image, held: set[bytes], *, is_again: bool) -> bool:
    """Tell whether a worker that starts learns of an entry: of its place, and of what it revokes."""
    if pack_position(Position(entry.id, entry.event_id)) not in held:
        return False
    if is_again:
        return any(position.event == entry.event_id for position, _ in image.again)
    newest = image.names.get(name.encode())
    return newest is not None and parse_id(newest.partition(b" ")[0]) >= entry.id


def _fault(kind: FaultKind, id_: str, detail: str) -> Fault:
    return Fault(kind=kind, shard=CONTROL, id=id_, detail=detail)
