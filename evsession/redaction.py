"""Finding the values that must not leave the worker, and the digests that stand for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final

from evsession.canonical import dumps
from evsession.events import Changes
from evsession.keys import mac
from evsession.state import Snapshot, diff, key_of

PREFIX: Final = "redacted:"
MAX_STATES: Final = 4_096
"""Sessions with secret values whose digests a worker knows; at one more it forgets them all, and digests again.

Source: 0.5 KiB each with one digest, 1.7 with the most (`tracemalloc`), so 2 to 7 MiB.
"""

MAX_DIGESTS: Final = 8
"""Digests of a state that are known; with more, none is.  Source: sessions have one or two secret values."""

NOTHING: Final[Mapping[str, Any]] = {}
_CONTAINERS: Final = (dict, list, tuple)
_MAPPINGS: Final = (dict, Mapping)  # in this order: to ask for a `Mapping` takes ten times as long


class Redactor:
    """Decides by the name of a key whether its value is secret.

    A pattern with a `*`, or without a letter or digit, matches the whole name; any other matches when the name, without
    case and punctuation, contains it: `token` finds `accessToken`, `ID-TOKEN` and `tokens`.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        globs, words = [], []
        for pattern in patterns:
            word = _bare(pattern)
            if "*" in pattern or not word:  # an empty word would be found in every name
                globs.append(translate(pattern.lower()))
            else:
                words.append(re.escape(word))
        self._globs = re.compile("|".join(globs) or r"(?!)")
        self._words = re.compile("|".join(words) or r"(?!)")
        self.hides = lru_cache(maxsize=4096)(self._hides)

    def _hides(self, name: str) -> bool:
        return bool(self._globs.fullmatch(name.lower()) or self._words.search(_bare(name)))

    def paths(self, data: Mapping[str, Any]) -> tuple[str, ...]:
        """Return a JSON pointer for each secret value, outermost only."""
        return tuple(self._within(data))

    def _within(self, value: Mapping[str, Any] | list[Any] | tuple[Any, ...]) -> list[str]:
        # Pointers are put together on the way back: nearly always there are none, and no text is made.
        found: list[str] = []
        if isinstance(value, _MAPPINGS):
            for name, member in value.items():
                if self.hides(name):
                    found.append(f"/{_escape(name)}")
                elif isinstance(member, _CONTAINERS):
                    found += [f"/{_escape(name)}{rest}" for rest in self._within(member)]
        else:
            for index, member in enumerate(value):
                if isinstance(member, _CONTAINERS):
                    found += [f"/{index}{rest}" for rest in self._within(member)]
        return found


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def digest(key: bytes, sid: str, version: int, path: str, value: object) -> str:
    """Return the text that stands for a value: keyed, and bound to its place and version.

    Equal values at two places, or set twice, have different digests, so the log does not tell that a password stayed.
    """
    return PREFIX + mac(key, sid.encode(), b"%d" % version, path.encode(), dumps(value)).hex()


def redact(key: bytes, sid: str, data: Mapping[str, Any], marks: Mapping[str, int]) -> Mapping[str, Any]:
    """Return the data with a digest at each marked path; shares what it does not change."""
    if not marks:
        return data
    result = dict(data)
    for path, version in marks.items():
        if path.count("/") == 1:  # a secret is mostly a key's whole value, and each later commit digests it again
            name = key_of(path)
            result[name] = digest(key, sid, version, path, result[name])
        else:
            _replace(result, path.split("/")[1:], lambda value, p=path, v=version: digest(key, sid, v, p, value))
    return result


def redact_changes(key: bytes, sid: str, version: int, changes: Changes) -> Mapping[str, Any]:
    """Return the values that changes set as the log has them."""
    return redact(key, sid, changes.set_, dict.fromkeys(changes.redacted, version))


class Carried:
    """What stands in the place of secret values in the newest state of a session that a worker made, by key.

    So a value is digested once, and not again at each commit after. It is known for the head of that state alone: a
    head covers the redacted data, so whatever has the same head has the same digests, and under another key the head
    is another one. Nothing is kept here but digests.
    """

    __slots__ = ("_by_sid",)

    def __init__(self) -> None:
        self._by_sid: dict[str, tuple[bytes, Mapping[str, Any]]] = {}

    def of(self, sid: str, head: bytes) -> Mapping[str, Any]:
        """Return what is known of the state that has this head, if anything."""
        known = self._by_sid.get(sid)
        return known[1] if known is not None and known[0] == head else NOTHING

    def keep(self, sid: str, head: bytes, shown: Mapping[str, Any]) -> None:
        """Know from now on what stands in a state for each key that has secrets, as far as the limits allow."""
        if len(shown) > MAX_DIGESTS:
            return
        for value in shown.values():
            if type(value) is not str:  # with secret values deeper in it, and others beside them
                return
        if len(self._by_sid) >= MAX_STATES and sid not in self._by_sid:
            self._by_sid.clear()  # which costs less than to keep an order, and what is in use comes back
        self._by_sid[sid] = (head, shown)


def without(data: Mapping[str, Any], marks: Mapping[str, int]) -> Changes:
    """Return the changes that remove every marked value, whose digest is all that is known of it."""
    kept = dict(data)
    for path in marks:
        _remove(kept, path.split("/")[1:])
    return diff(data, kept)


def _remove(holder: Any, steps: list[str]) -> None:
    key = steps[0].replace("~1", "/").replace("~0", "~")
    if len(steps) == 1:
        del holder[key]
        return
    at: Any = int(key) if isinstance(holder, list) else key
    holder[at] = dict(holder[at]) if isinstance(holder[at], Mapping) else list(holder[at])
    _remove(holder[at], steps[1:])


def redact_snapshot(key: bytes, snapshot: Snapshot) -> Mapping[str, Any]:
    """Return a snapshot's data as the log has it: `redact(snapshot) == fold(events)`."""
    return redact(key, snapshot.sid, snapshot.data, snapshot.marks)


def _replace(holder: Any, steps: list[str], change: Any) -> None:
    step = steps[0].replace("~1", "/").replace("~0", "~")
    key: Any = int(step) if isinstance(holder, list) else step
    if len(steps) == 1:
        holder[key] = change(holder[key])
        return
    member = holder[key]
    holder[key] = dict(member) if isinstance(member, Mapping) else list(member)
    _replace(holder[key], steps[1:], change)
