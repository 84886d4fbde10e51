"""Folding a session's events from the log, with the body that each head covers, quickly: most are plain updates."""

from __future__ import annotations

from typing import Any

from evsession.canonical import dumps, loads
from evsession.chain import ENDED
from evsession.codec import UPCASTERS, pack_body, split_body, status_of, unpack_event
from evsession.errors import CodecError
from evsession.events import Ended, Event
from evsession.state import Snapshot, evolve, key_of


class Folding:
    """The state of one session while its events pass.

    A plain update sets or removes keys that hold nothing secret. It is applied to the data in place, and the rest of
    the state is taken as it was: that takes 2 µs where decoding and `evolve` take 7, and 4 with the body where
    they take 13 (measured). All else goes the long way, and both lead to the same snapshot and the same bytes.
    """

    __slots__ = ("_around", "_behind", "_data", "_is_living", "_marked", "_snapshot", "status")

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._behind = 0
        self._data: dict[str, Any] | None = None  # a copy of the snapshot's, once there is an update
        self._around: tuple[bytes, bytes] | None = None
        self._marked: frozenset[str] = frozenset()
        self._is_living = False
        self.status = status_of(snapshot)

    @property
    def version(self) -> int:
        """The version after all events so far."""
        return self._snapshot.version + self._behind

    @property
    def snapshot(self) -> Snapshot:
        """The state after all events so far."""
        if self._data is not None:
            self._snapshot = self._snapshot._replace(version=self.version, data=self._data)
            self._behind, self._data = 0, None
        return self._snapshot

    @property
    def body(self) -> bytes:
        """The body after all events so far, with digests for redacted values, as the log has them."""
        data = _canonical(self._snapshot.data if self._data is None else self._data)
        if self._around is not None:
            return self._around[0] + data + self._around[1]
        body = pack_body(self._snapshot, data)
        self._around = split_body(body, data) if self._is_living else None
        return body

    def take_in(self, type_: bytes, raw: bytes) -> None:
        """Apply the next event, given as the log has it.

        Raises:
            UnknownFormat: a newer version wrote it, or nobody did.
            LookupError, TypeError, ValueError: its changes cannot be applied; nobody with the key made it.
        """
        if type_ != b"updated" or not self.update(raw):
            self.fold(unpack_event(type_.decode(), raw))

    def update(self, raw: bytes) -> bool:
        """Apply an `updated` event if it is plain; False, and nothing is done, if it is not."""
        if not self._is_living or "updated" in UPCASTERS:
            return False
        try:
            changes = loads(raw)
            set_, unset = changes.get("set"), changes.get("unset")
        except (ValueError, AttributeError):
            return False
        if len(changes) != (set_ is not None) + (unset is not None) or not self._is_plain(set_, unset):
            return False
        data = self._data
        if data is None:
            data = self._data = dict(self._snapshot.data)
        if set_ is not None:
            data.update(set_)
        if unset is not None:
            for key in unset:
                data.pop(key, None)
        self._behind += 1
        return True

    def _is_plain(self, set_: object, unset: object) -> bool:
        """Tell whether changes have the form of changes and touch nothing secret."""
        marked = self._marked
        if set_ is not None and not (type(set_) is dict and (not marked or marked.isdisjoint(set_))):
            return False
        if unset is None:
            return True
        return type(unset) is list and all(type(key) is str for key in unset) and marked.isdisjoint(unset)

    def fold(self, event: Event) -> None:
        """Apply any event.

        Raises:
            LookupError, TypeError, ValueError: its changes cannot be applied; nobody with the key made it.
        """
        if type(event) is Ended:  # which forgets all that came before
            self._end(event)
            return
        snapshot = self._snapshot = evolve(self.snapshot, event)
        self._around, self._data, self._is_living = None, None, snapshot.ended is None
        if snapshot.marks or self._marked:
            self._marked = frozenset(map(key_of, snapshot.marks))

    def _end(self, event: Ended) -> None:
        known, version = self._snapshot, self.version
        before = known if known.ended is not None else Snapshot(sid=known.sid, version=version)
        self._snapshot, self.status = evolve(before, event), ENDED
        self._behind, self._around, self._data, self._is_living = 0, None, None, False


def _canonical(data: object) -> bytes:
    """Return data as heads cover it; nothing for what has no canonical form, which no head was made for."""
    try:
        return dumps(data)
    except CodecError:
        return b"null"
