"""Archived events as text: one JSON object a line, from which every byte of the entry can be had again.

Context and data stand in a line as JSON, so that any tool can read them. Heads cover their bytes, so only what has the
canonical form is written so; anything else, which only a foreign writer can have left in the log, stands as a string,
and what is not even text as hex digits under ``raw``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import orjson

from evsession.canonical import dumps, loads
from evsession.errors import CodecError
from evsession.wire import Entry, StreamId, id_text, parse_id

_LOOSE: Final = ("actor", "context", "data")
"""The fields that the log holds as bytes of any kind."""

_BEGIN: Final = b'{"id":"'


def to_line(entry: Entry) -> bytes:
    """Return the line of an entry, its newline included; the same entry always has the same line."""
    line = {
        "id": id_text(entry.id),
        "sid": entry.sid,
        "version": entry.version,
        "type": entry.type,
        "previous": entry.previous,
        "event_id": entry.event_id.hex(),
        "offset": entry.offset,
        "key_id": entry.key_id,
        "head": entry.head.hex(),
    }
    try:
        line["actor"] = entry.actor.decode()
        line["context"] = _remembered(entry.context)
        line["data"] = _json(entry.data)
    except UnicodeDecodeError:
        line |= {"raw": {name: getattr(entry, name).hex() for name in _LOOSE}}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _json(raw: bytes) -> orjson.Fragment | str:
    try:
        is_canonical = raw[:1] == b"{" and dumps(loads(raw)) == raw
    except (orjson.JSONDecodeError, CodecError):
        is_canonical = False
    return orjson.Fragment(raw) if is_canonical else raw.decode()


_remembered: Final = lru_cache(maxsize=4096)(_json)
"""The same for contexts: one worker, route and network make one, and few are new."""


def from_line(line: bytes) -> Entry:
    """Return the entry of a line.

    Raises:
        ValueError: this is no line of an archive.
    """
    try:
        return _entry(loads(line))
    except (ValueError, LookupError, TypeError, AttributeError, CodecError) as error:
        msg = f"no archived event: {line[:80]!r}"
        raise ValueError(msg) from error


def _entry(line: dict[str, Any]) -> Entry:
    if "raw" in line:
        actor, context, data = (bytes.fromhex(line["raw"][name]) for name in _LOOSE)
    else:
        actor, context, data = line["actor"].encode(), _bytes(line["context"]), _bytes(line["data"])
    return Entry(
        id=parse_id(line["id"].encode()),
        sid=line["sid"],
        version=line["version"],
        type=line["type"],
        previous=line["previous"],
        event_id=bytes.fromhex(line["event_id"]),
        offset=line["offset"],
        actor=actor,
        context=context,
        data=data,
        key_id=line["key_id"],
        head=bytes.fromhex(line["head"]),
    )


def _bytes(value: object) -> bytes:
    match value:
        case str():
            return value.encode()
        case dict():
            return dumps(value)
        case _:
            raise TypeError(type(value).__name__)


def id_of_line(line: bytes) -> StreamId:
    """Return the id that a line begins with, without reading the rest of it.

    Raises:
        ValueError: this is no line of an archive.
    """
    end = line.index(b'"', len(_BEGIN))
    return parse_id(line[len(_BEGIN) : end])
