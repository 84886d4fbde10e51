"""Canonical JSON: the one text in which values are stored, compared and digested.

Keys are sorted, so the order of keys is no change. ``1``, ``1.0`` and ``True`` have different texts, so they are
different changes. What JSON does not have (sets, dates, NaN, integers over 64 bits, lone surrogates) raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from evsession.errors import CodecError, SessionTooLarge

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_CONTAINERS = frozenset((dict, list, tuple))


class DataLimits(Protocol):
    """The limits that a session's data must keep; `SessionPolicy` has them."""

    @property
    def max_bytes(self) -> int: ...
    @property
    def max_keys(self) -> int: ...
    @property
    def max_key_length(self) -> int: ...
    @property
    def max_depth(self) -> int: ...


def dumps(value: object) -> bytes:
    """Return the canonical JSON of a value that `check_value` accepts."""
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        raise CodecError("", str(error)) from error


def dumps_to_keep(value: object) -> bytes:
    """Return the canonical JSON of a value in no more memory than it needs.

    Source: `tracemalloc` on orjson 3.13, whose results hold 4 KiB each, whatever `sys.getsizeof` says of them.
    """
    return bytes(memoryview(dumps(value)))


loads: Final[Callable[[bytes], Any]] = orjson.loads
"""Returns the value of a JSON text; the caller owns it."""


def is_flat(data: Mapping[str, Any]) -> bool:
    """Tell whether no value is a container, so that a copy of the top level is a copy of all."""
    return _CONTAINERS.isdisjoint(map(type, data.values()))  # canonical data has no subclasses


def check_scalar(key: str, value: object) -> bool:
    """Tell whether a value is a container; raise for one that JSON does not have.

    Raises:
        CodecError: the value has no JSON form; nothing was stored.
    """
    match value:
        case None | bool():
            return False
        case int():
            if not _INT_MIN <= value <= _INT_MAX:
                raise CodecError(key, "integer over 64 bits")
            return False
        case float() if type(value) is float:  # orjson refuses subclasses of float and tuple, named tuples among them
            if not math.isfinite(value):
                raise CodecError(key, f"float {value!r}")
            return False
        case str():
            _check_text(key, value)
            return False
        case dict() | list():
            return True
        case tuple() if type(value) is tuple:
            return True
        case _:
            raise CodecError(key, type(value).__name__)


def _check_text(key: str, text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CodecError(key, "text with a lone surrogate") from error


def check_value(key: str, value: object, limits: DataLimits, depth: int = 1) -> None:
    """Raise unless a value nests no deeper than the limits and has a JSON form throughout.

    Raises:
        CodecError: with the path of the first offending value as its key; nothing was stored.
    """
    if not check_scalar(key, value):
        return
    if depth > limits.max_depth:
        raise CodecError(key, f"nesting deeper than max_depth={limits.max_depth}")
    if isinstance(value, dict):
        for name, member in value.items():
            check_key(name, limits, within=key)
            check_value(f"{key}.{name}", member, limits, depth + 1)
    elif isinstance(value, list | tuple):  # pragma: no branch (`check_scalar` knows no other container)
        for index, member in enumerate(value):
            check_value(f"{key}[{index}]", member, limits, depth + 1)


def check_key(name: object, limits: DataLimits, within: str = "") -> None:
    """Raise unless a name can be a key.

    Raises:
        CodecError: the name is no plain `str`, has a lone surrogate, or is longer than `max_key_length` characters.
    """
    if type(name) is not str:  # a subclass, such as a member of a StrEnum, would come back as another type
        raise CodecError(within, f"key of type {type(name).__name__}")
    if len(name) > limits.max_key_length:
        found = f"key of {len(name)} characters, over max_key_length={limits.max_key_length}"
        raise CodecError(f"{within}{name[:32]}…", found)
    _check_text(within, name)


def check_size(data: Mapping[str, Any], raw: bytes, limits: DataLimits) -> None:
    """Raise unless a session's data keeps the limits on its keys and on its encoded bytes.

    Raises:
        SessionTooLarge: with the size, the limit and the largest key; nothing was written.
    """
    if len(data) > limits.max_keys:
        raise SessionTooLarge(len(data), limits.max_keys, _largest(data), unit="keys")
    if len(raw) > limits.max_bytes:
        raise SessionTooLarge(len(raw), limits.max_bytes, _largest(data))


def _largest(data: Mapping[str, Any]) -> str:
    return max(data, key=lambda name: len(dumps(data[name])), default="")


def same(left: object, right: object) -> bool:
    """Tell whether two values have the same canonical JSON."""
    return left is right or dumps(left) == dumps(right)
