"""Archived events as text: one JSON object a line, from which every byte of the entry can be had again.

Context and data stand in a line as JSON, so that any tool can read them. Heads cover their bytes, so only what has the
canonical form is written so; anything else, which only a foreign writer can have left in the log, stands as a string,
and what is not even text as hex digits under ``raw``.
"""

from __future__ import annotations

import re
from binascii import hexlify
from collections.abc import Sequence
from operator import eq
from typing import Any, Final

import orjson

from evsession.canonical import dumps, loads
from evsession.errors import CodecError
from evsession.wire import Entry, Line, StreamId, entry_of, id_text, parse_id

_LOOSE: Final = ("actor", "context", "data")
"""The fields that the log holds as bytes of any kind."""

_BEGIN: Final = b'{"id":"'


def to_lines(page: Sequence[Line]) -> list[bytes]:
    """Return the archived line of each log entry, its newline included; nothing for one that is none of ours.

    The same entry always has the same line, whatever stands beside it. A page is checked column by column, which takes
    two thirds of the time (measured); line by line only if something in it is not as we write it.
    """
    return _plain_lines(page) or [_line_of(line) for line in page]


def _plain_lines(page: Sequence[Line]) -> list[bytes] | None:
    """Return the lines of entries that are all as we write them; None if one is not."""
    try:
        ids, types, sids, versions, before, _, offsets, actors, contexts, data, key_ids, _ = zip(*page, strict=True)
        texts, numbers = b"".join((*types, *sids, *before, *key_ids)), {*versions, *offsets}
        if texts.translate(None, _PLAIN) or not (all(map(_IS_ID, ids)) and all(map(_IS_NUMBER, numbers))):
            return None
        if not _are_canonical([*(raw for raw in contexts if raw[:1] == b"{"), *data]):
            return None
        actor_of = {raw: _text(raw) for raw in set(actors)}
        return [
            _FORM % (
                id_, sid, version, type_, previous, hexlify(event_id), offset, key_id, hexlify(head), actor_of[actor],
                context if context[:1] == b"{" else _text(context), body,
            )
            for id_, type_, sid, version, previous, event_id, offset, actor, context, body, key_id, head in page
        ]  # fmt: skip
    except (ValueError, CodecError):
        return None


_PLAIN: Final = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))
"""What stands in JSON's strings as it is."""

_IS_ID: Final = re.compile(rb"\d+-\d+").fullmatch
_IS_NUMBER: Final = re.compile(rb"0|-?[1-9]\d{0,17}").fullmatch

_FORM: Final = (
    b'{"id":"%b","sid":"%b","version":%b,"type":"%b","previous":"%b","event_id":"%b","offset":%b,"key_id":"%b",'
    b'"head":"%b","actor":%b,"context":%b,"data":%b}\n'
)


def _are_canonical(texts: Sequence[bytes]) -> bool:
    """Tell whether all of these are objects in canonical JSON.

    Raises:
        ValueError: one of them is no JSON; a `CodecError` says the same.
    """
    return {raw[:1] for raw in texts} == {b"{"} and all(map(eq, map(dumps, map(loads, texts)), texts))


def _line_of(line: Line) -> bytes:
    """Return the line of an entry of any form, nothing if it is none of ours."""
    try:
        return _to_line(entry_of(line))
    except (ValueError, TypeError):  # too few fields, or what stands in them is of no form of ours
        return b""


def _to_line(entry: Entry) -> bytes:
    line: dict[str, Any] = {
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
        loose = _text(entry.actor), _json(entry.context), _json(entry.data)
        line |= {name: orjson.Fragment(json) for name, json in zip(_LOOSE, loose, strict=True)}
    except UnicodeDecodeError:
        line |= {"raw": {name: getattr(entry, name).hex() for name in _LOOSE}}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _json(raw: bytes) -> bytes:
    """Return bytes as JSON: as they are if they are canonical, else as a string."""
    try:
        is_canonical = _are_canonical([raw])
    except (orjson.JSONDecodeError, CodecError):
        is_canonical = False
    return raw if is_canonical else _text(raw)


def _text(raw: bytes) -> bytes:
    return orjson.dumps(raw.decode())


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
