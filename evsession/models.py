"""Typed sessions: a session, or one of its keys, as an object of a class of the application's own.

The object is live: what was changed in it is written into the session, field by field, before the session says what it
wants committed, and it follows the session when that moves to a newer state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import is_
from typing import Any

from evsession.adapters import Misfit, adapter_of
from evsession.canonical import dumps, loads
from evsession.errors import SessionInvalid
from evsession.state import diff


class LiveModel:
    """One object, and where in the session it lives: the whole of it, or one key."""

    __slots__ = ("_adapter", "_plain", "_raw", "_seen", "_written", "key", "model", "type")

    def __init__(self, type_: Any, key: str | None, raw: bytes) -> None:
        self.type = type_
        self.key = key
        self._adapter = adapter_of(type_)
        self.model = self._load(raw)
        self._begin(raw)

    def _begin(self, raw: bytes) -> None:
        """Remember what the object is like now, so that a change will be seen.

        Where no value can change in place, the very same values are no change; that spares most reads all writing of
        JSON, which is half of what a typed session costs (measured).
        """
        self._raw = raw
        self._plain = self._adapter.plain(self.model)
        self._seen = self._written = b"" if self._plain is not None else self._dump(self.model)

    def changes(self) -> tuple[dict[str, Any], tuple[str, ...]] | None:
        """Return the fields to set and to unset since the last call, checked; None if the object is as it was.

        The value of a key is written as a whole, so all its fields are named. Of the whole session only those that
        changed are: others may be changing the rest.

        Raises:
            SessionInvalid: the object does not fit its class any more; the next call says so again.
        """
        if self._is_untouched():
            return None
        if self._plain is not None:
            self._plain = None
            self._seen = self._written = self._dump(self._load(self._raw))
        now = self._dump(self.model)
        if now == self._seen:
            return None
        written = self._dump(self._load(now))
        before, after = loads(self._written), loads(written)
        changed = diff(before, after)
        self._seen, self._written = now, written
        return (after if self.key is not None else dict(changed.set_)), changed.unset

    def renew(self, raw: bytes, *, is_other: bool = False) -> bool:
        """Follow the session to a newer state; False if that does not fit the class.

        Changes that were not written yet stay, unless it `is_other` people's session from now on.
        """
        if not is_other and self._is_changed():
            return True
        try:
            newer = self._load(raw)
        except SessionInvalid:
            return False
        self._adapter.assign(self.model, newer)
        self._begin(raw)
        return True

    def _is_untouched(self) -> bool:
        if self._plain is None:
            return False
        now = self._adapter.plain(self.model)
        return now is not None and all(map(is_, now, self._plain))

    def _is_changed(self) -> bool:
        if self._plain is not None:
            return not self._is_untouched()
        try:
            return self._dump(self.model) != self._seen
        except SessionInvalid:
            return True

    def _load(self, raw: bytes) -> Any:
        try:
            return self._adapter.load(raw)
        except Misfit as error:
            raise self._invalid(error) from error

    def _dump(self, model: Any) -> bytes:
        try:
            return self._adapter.dump(model)
        except Misfit as error:
            raise self._invalid(error) from error

    def _invalid(self, error: Misfit) -> SessionInvalid:
        inner = error.path if self.key is None or error.path.startswith("[") else f".{error.path}".rstrip(".")
        return SessionInvalid(self.type.__qualname__, f"{self.key or ''}{inner}", error.problem)


def merged(before: object, set_: Mapping[str, Any], unset: Iterable[str]) -> dict[str, Any]:
    """Return the value of a key after the fields of its object changed; fields that the class does not know stay."""
    gone = frozenset(unset)
    known = before if isinstance(before, dict) else {}
    return {**{name: value for name, value in known.items() if name not in gone}, **set_}


def text_of(value: object) -> bytes:
    """Return the JSON from which an object is made."""
    return dumps(value)
