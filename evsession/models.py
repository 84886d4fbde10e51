"""Typed sessions: a session, or one of its keys, as an object of a class of the application's own.

The object is live: what was changed in it is written into the session, field by field, before the session says what it
wants committed, and it follows the session when that moves to a newer state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import is_
from types import NoneType
from typing import Any, Final

from evsession.adapters import Misfit, adapter_of
from evsession.canonical import dumps
from evsession.errors import CodecError, SessionInvalid
from evsession.state import diff

_PLAIN: Final = frozenset((str, int, float, bool, NoneType))
"""Types whose values never change in place."""


class LiveModel:
    """One object, and where in the session it lives: the whole of it, or one key."""

    __slots__ = ("_adapter", "_fields", "_next", "_next_fields", "_plain", "_raw", "_seen", "key", "model", "type")

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
        adapter, model = self._adapter, self.model
        values = adapter.values(model)
        if _PLAIN.issuperset(map(type, values)) and not adapter.is_open:
            self._plain: tuple[Any, ...] | None = values
        else:
            self._plain = None
            self._seen, self._fields = self._dump(model), adapter.builtins(model)

    def changes(self) -> tuple[dict[str, Any], tuple[str, ...]] | None:
        """Return the fields to set and to unset since `written` was called, checked; None if there is no change.

        The value of a key is written as a whole, so all its fields are named. Of the whole session only those that
        changed are: others may be changing the rest.

        Raises:
            SessionInvalid: the object does not fit its class any more.
        """
        if self._plain is not None:
            if self._is_untouched():
                return None
            self._plain = None
            old = self._load(self._raw)
            self._seen, self._fields = self._dump(old), self._adapter.builtins(old)
        self._next = self._dump(self.model)
        if self._next == self._seen:
            return None
        self._next_fields = self._adapter.builtins(self._load(self._next))
        set_, unset = _between(self._fields, self._next_fields)
        if not set_ and not unset:  # such as another order of keys
            self.written()
            return None
        return (self._next_fields if self.key is not None else set_), unset

    def written(self) -> None:
        """Learn that the changes stand in the session: they are none any more."""
        self._seen, self._fields = self._next, self._next_fields

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
        return self._plain is not None and all(map(is_, self._adapter.values(self.model), self._plain))

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


def _between(before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields to set and to unset; all, if one has no JSON form: the session names it when it is set."""
    try:
        changed = diff(before, after)
    except CodecError:
        return after, tuple(name for name in before if name not in after)
    return dict(changed.set_), changed.unset


def merged(before: object, set_: Mapping[str, Any], unset: Iterable[str]) -> dict[str, Any]:
    """Return the value of a key after the fields of its object changed; fields that the class does not know stay."""
    gone = frozenset(unset)
    known = before if isinstance(before, dict) else {}
    return {**{name: value for name, value in known.items() if name not in gone}, **set_}


def text_of(value: object) -> bytes:
    """Return the JSON from which an object is made."""
    return dumps(value)
