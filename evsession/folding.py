"""Folding a session's events from the log, with the body that each head covers, quickly: most are plain updates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from evsession.canonical import dumps, loads
from evsession.codec import UPCASTERS, pack_body, split_body, status_of
from evsession.errors import CodecError
from evsession.events import Ended, Event
from evsession.state import Snapshot, evolve, key_of


class Folding:
    """The state of one session while its events pass.

    A plain update sets or removes keys that hold nothing secret. It is applied to the data in place, and the rest of
    the body is taken as it was: that takes 4 µs where decoding, `evolve` and encoding take 13 (measured). All else goes
    the long way, and both lead to the same snapshot and the same bytes.
    """

    __slots__ = ("_around", "_behind", "_data", "_marked", "_snapshot", "status")

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._behind = 0
        self._data: dict[str, Any] = {}
        self._around: tuple[bytes, bytes] | None = None
        self._marked: frozenset[str] = frozenset()
        self.status = status_of(snapshot)

    @property
    def snapshot(self) -> Snapshot:
        """The state after all events so far."""
        if self._behind:
            known = self._snapshot
            self._snapshot = replace(known, version=known.version + self._behind, data=dict(self._data))
            self._behind = 0
        return self._snapshot

    def update(self, raw: bytes) -> bytes | None:
        """Apply an `updated` event and return the body after it; None, and nothing is done, if it is not plain."""
        if self._around is None or UPCASTERS.get("updated"):
            return None
        try:
            changes = loads(raw)
            set_, unset = changes.pop("set", {}), changes.pop("unset", [])
            if changes or not _is_plain(set_, unset):
                return None
            if self._marked and not (self._marked.isdisjoint(set_) and self._marked.isdisjoint(unset)):
                return None
        except (ValueError, TypeError, AttributeError):
            return None
        self._data.update(set_)
        for key in unset:
            self._data.pop(key, None)
        self._behind += 1
        return self._around[0] + _canonical(self._data) + self._around[1]

    def fold(self, event: Event) -> bytes:
        """Apply any event and return the body after it.

        Raises:
            LookupError, TypeError, ValueError, CodecError: its changes cannot be applied; nobody with the key made it.
        """
        if isinstance(event, Ended):  # which forgets all but these
            return self._end(event)
        snapshot = evolve(self.snapshot, event)
        data = _canonical(snapshot.data)
        body = pack_body(snapshot, data)
        self._marked = frozenset(map(key_of, snapshot.marks))
        self._data = dict(snapshot.data)
        self._around = split_body(body, data) if snapshot.ended is None and data else None
        self._snapshot, self.status = snapshot, status_of(snapshot)
        return body

    def _end(self, event: Ended) -> bytes:
        known, version = self._snapshot, self._snapshot.version + self._behind
        before = known if known.ended is not None else Snapshot(sid=known.sid, version=version)
        self._snapshot, self._behind, self._around, self._data = evolve(before, event), 0, None, {}
        self.status = status_of(self._snapshot)
        return pack_body(self._snapshot, b"{}")


def _is_plain(set_: object, unset: object) -> bool:
    return isinstance(set_, dict) and isinstance(unset, list) and all(isinstance(key, str) for key in unset)


def _canonical(data: object) -> bytes:
    """Return data as heads cover it; nothing for what has no canonical form, which no head was made for."""
    try:
        return dumps(data)
    except CodecError:
        return b"null"
