"""Snapshots and events as bytes, both ways, with versions and upcasters.

A packed snapshot is 138 readable characters of fixed width (two digests in it are raw bytes) and a JSON body::

    format 2 · key id 4 · head 16 · link 16 · status 1 · version 10        written by the worker
    created 13 · authenticated 13 · idle 13 · absolute 13 · last id 24 · secret 13     written by the script
    body                                                                   written by the worker
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple, assert_never, get_args

import orjson

from evsession.canonical import dumps, dumps_to_keep, loads
from evsession.chain import ENDED, LIVE, head_of
from evsession.errors import CodecError, CorruptSnapshot, UnknownFormat
from evsession.events import Authenticated, Created, Ended, Event, Phase, Renewed, Updated
from evsession.redaction import redact_changes, redact_snapshot
from evsession.state import NEVER_RENEWED, Renewal, Snapshot
from evsession.wire import id_text, parse_id

_MALFORMED: Final = (ValueError, LookupError, TypeError, AttributeError, CodecError)
"""What reading bytes of another form can raise; `CodecError` is nesting that can be read but not written."""

FORMAT: Final = 1
"""The newest format that this version writes; it reads this one and the one before."""

PREFIX_LENGTH: Final = 49
HEADER_LENGTH: Final = 138


class Stored(NamedTuple):
    """A snapshot with all that its header says.

    `raw` is the canonical JSON of the snapshot's data. Times are milliseconds on the server's clock, 0 where there is
    none. `idle_at` is a lower bound: a touch moves it on the server without a word. `secret_at` is when the newest
    secret was made, or first used if it was renewed.
    """

    snapshot: Snapshot
    raw: bytes
    head: bytes
    link: bytes
    key_id: str
    created_at: int
    authenticated_at: int
    idle_at: int
    absolute_at: int
    last_id: str
    secret_at: int

    @property
    def deadline(self) -> int:
        """The first of the two deadlines."""
        return min(self.idle_at, self.absolute_at)


def lifetime(stored: Stored) -> timedelta:
    """Return the absolute timeout that a session was given when it began, or by the last login."""
    return timedelta(milliseconds=max(1, stored.absolute_at - max(stored.created_at, stored.authenticated_at)))


def idle_of(stored: Stored, usual: int) -> int:
    """Return the idle timeout of a session in ms: the usual one, or all of its life if the login asked for that."""
    if not stored.snapshot.remembered:
        return usual
    return max(usual, lifetime(stored) // timedelta(milliseconds=1))


def pack_body(snapshot: Snapshot, data: bytes) -> bytes:
    """Return the JSON body of a snapshot whose data has the canonical JSON `data`."""
    if snapshot.ended is not None:
        return dumps({"e": snapshot.ended})
    body: dict[str, Any] = {"s": snapshot.secrets}
    if snapshot.control:
        body["c"] = snapshot.control
    if snapshot.user_id is not None:
        body["u"] = snapshot.user_id
    if snapshot.names:
        body["n"] = snapshot.names
    if snapshot.facts:
        body["f"] = snapshot.facts
    if snapshot.marks:
        body["x"] = snapshot.marks
    if snapshot.detected:
        body["t"] = True
    if snapshot.remembered:
        body["r"] = True
    if snapshot.renewal != NEVER_RENEWED:
        body["w"] = tuple(snapshot.renewal)
    body["d"] = orjson.Fragment(data)
    return dumps(body)


def split_body(body: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and after the data in the body of a living session.

    Nothing before it can look like its name: what comes earlier in the order of keys is a text with its quotes escaped.
    """
    at = body.index(b'"d":') + 4
    return body[:at], body[at + len(data) :]


def redacted_body(redact_key: bytes, snapshot: Snapshot, body: bytes) -> bytes:
    """Return the form of a body that heads cover: the body itself, unless a value in it is redacted."""
    if not snapshot.marks:
        return body
    return pack_body(snapshot, dumps(redact_snapshot(redact_key, snapshot)))


def pack_prefix(key_id: str, head: bytes, link: bytes, snapshot: Snapshot) -> bytes:
    """Return the worker's part of a header."""
    return b"%02d%b%b%b%b%010d" % (FORMAT, key_id.encode(), head, link, status_of(snapshot), snapshot.version)


def pack_header(stored: Stored) -> bytes:
    """Return the header of a snapshot, the server's part included."""
    times = (stored.created_at, stored.authenticated_at, stored.idle_at, stored.absolute_at)
    prefix = pack_prefix(stored.key_id, stored.head, stored.link, stored.snapshot)
    return b"%b%013d%013d%013d%013d%-24b%013d" % (prefix, *times, stored.last_id.encode(), stored.secret_at)


def status_of(snapshot: Snapshot) -> bytes:
    """Return the status byte of a header."""
    return LIVE if snapshot.ended is None else ENDED


def unpack(sid: str, packed: bytes) -> Stored:
    """Return a snapshot from its bytes; its head is not checked yet.

    Raises:
        UnknownFormat: a newer version wrote it.
        CorruptSnapshot: it is not a snapshot.
    """
    try:
        if (format_ := _number(packed, 0, 2)) != FORMAT:
            raise UnknownFormat(what=f"snapshot of session {sid}", found=str(format_), known=str(FORMAT))
        return _unpack(sid, packed)
    except _MALFORMED as error:
        raise CorruptSnapshot(sid) from error


def _unpack(sid: str, packed: bytes) -> Stored:
    body = loads(packed[HEADER_LENGTH:])
    data = _dict(body.get("d", {}))
    snapshot = Snapshot(
        sid=sid,
        version=_number(packed, 39, PREFIX_LENGTH),
        data=data,
        user_id=body.get("u"),
        names=tuple(body.get("n", ())),
        secrets=tuple(body.get("s", ())),
        control=body.get("c", ""),
        facts=_dict(body.get("f", {})),
        marks=_dict(body.get("x", {})),
        detected=body.get("t", False),
        remembered=body.get("r", False),
        renewal=Renewal(*body["w"]) if "w" in body else NEVER_RENEWED,
        ended=body["e"] if packed[38:39] == ENDED else None,
    )
    return Stored(
        snapshot=snapshot,
        raw=dumps_to_keep(data),
        head=packed[6:22],
        link=packed[22:38],
        key_id=packed[2:6].decode(),
        created_at=_number(packed, 49, 62),
        authenticated_at=_number(packed, 62, 75),
        idle_at=_number(packed, 75, 88),
        absolute_at=_number(packed, 88, 101),
        last_id=id_text(parse_id(packed[101:125].rstrip())),
        secret_at=_number(packed, 125, HEADER_LENGTH),
    )


def _number(packed: bytes, start: int, stop: int) -> int:
    digits = packed[start:stop]
    if len(digits) != stop - start or not digits.isdigit():  # `int` would take signs and spaces
        raise ValueError(digits)
    return int(digits)


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(type(value).__name__)
    return value


def check_head(head_key: bytes, redact_key: bytes, stored: Stored, packed: bytes) -> None:
    """Raise unless a snapshot's body is the one that its head was made for.

    Raises:
        CorruptSnapshot: somebody who has no key wrote to Redis.
    """
    snapshot = stored.snapshot
    try:
        body = redacted_body(redact_key, snapshot, packed[HEADER_LENGTH:])
    except _MALFORMED as error:  # its marks lead nowhere
        raise CorruptSnapshot(snapshot.sid) from error
    expected = head_of(head_key, stored.link, snapshot.sid.encode(), snapshot.version, packed[38:39], body)
    if expected != stored.head:
        raise CorruptSnapshot(snapshot.sid)


_TYPES: Final[dict[type, str]] = {class_: class_.__name__.lower() for class_ in get_args(Event)}


def type_of(event: Event) -> str:
    """Return the name of an event's type as the log has it."""
    return _TYPES[type(event)]


Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
Upcasters = Mapping[str, tuple[Upcaster, ...]]
UPCASTERS: Final[dict[str, tuple[Upcaster, ...]]] = {}
"""For each type the steps that bring the data of an old event to today's form: step n leads from version n to n + 1.

Data says its version under ``v``; without one it is version 0.
"""


def pack_event(event: Event, redact_key: bytes, sid: str, version: int, upcasters: Upcasters = UPCASTERS) -> bytes:
    """Return an event's facts and changes as JSON, secret values as digests."""
    return pack_shown(event, redact_changes(redact_key, sid, version, event), upcasters)


def pack_shown(event: Event, shown: Mapping[str, Any], upcasters: Upcasters = UPCASTERS) -> bytes:
    """Return the same as `pack_event`, given the values as the log has them."""
    data = _facts(event)
    if upcasters and (steps := upcasters.get(type_of(event))):
        data["v"] = len(steps)
    if shown:
        data["set"] = shown
    if event.unset:
        data["unset"] = event.unset
    if event.redacted:
        data["x"] = event.redacted
    return dumps(data)


def _facts(event: Event) -> dict[str, Any]:
    match event:
        case Updated():
            return {}
        case Created():
            return {"secret": event.secret} | ({"control": event.control} if event.control else {})
        case Authenticated():
            facts: dict[str, Any] = {"user": event.user_id, "secret": event.secret}
            optional = {
                "control": event.control,
                "names": event.names,
                "detected": event.detected,
                "facts": event.facts,
                "remember": event.remember,
            }
            return facts | {name: value for name, value in optional.items() if value}
        case Renewed():
            return {"secret": event.secret, "phase": event.phase} | ({"seed": event.seed} if event.seed else {})
        case Ended():
            optional = {"reason": event.reason, "by": event.by}
            return {"cause": event.cause} | {name: value for name, value in optional.items() if value}
        case _:
            assert_never(event)


def unpack_event(type_: str, raw: bytes, upcasters: Upcasters = UPCASTERS) -> Event:
    """Return an event from its type and JSON.

    Raises:
        UnknownFormat: a newer version wrote it, or nobody did: it has not the form that this version reads.
    """
    try:
        data = _dict(loads(raw))
        if "v" in data or (upcasters and type_ in upcasters):  # seldom; 100,000 events a second pass here
            data = _upcast(type_, data, upcasters.get(type_, ()))
        return _event(type_, data)
    except _MALFORMED as error:
        raise UnknownFormat(what=f"{type_} event", found="unreadable", known="its own fields") from error


def _event(type_: str, data: dict[str, Any]) -> Event:
    set_ = _dict(data["set"]) if "set" in data else {}
    unset = _texts(data["unset"]) if "unset" in data else ()
    redacted = _pointers(data["x"]) if "x" in data else ()
    match type_:
        case "updated":
            return Updated(set_=set_, unset=unset, redacted=redacted)
        case "created":
            secret, control = _text(data["secret"]), _text(data.get("control", ""))
            return Created(set_=set_, unset=unset, redacted=redacted, secret=secret, control=control)
        case "authenticated":
            return Authenticated(
                set_=set_,
                unset=unset,
                redacted=redacted,
                user_id=_text(data["user"]),
                secret=_text(data["secret"]),
                control=_text(data.get("control", "")),
                names=_texts(data["names"]) if "names" in data else (),
                detected=bool(data.get("detected", False)),
                facts=_dict(data["facts"]) if "facts" in data else {},
                remember=_milliseconds(data.get("remember", 0)),
            )
        case "renewed":
            return Renewed(
                set_=set_,
                unset=unset,
                redacted=redacted,
                secret=_text(data["secret"]),
                phase=_phase(data["phase"]),
                seed=_text(data.get("seed", "")),
            )
        case "ended":
            reason, by = _text(data.get("reason", "")), _text(data.get("by", ""))
            return Ended(set_=set_, unset=unset, redacted=redacted, cause=_text(data["cause"]), reason=reason, by=by)
        case _:
            raise UnknownFormat(what="event", found=type_, known="created, updated, authenticated, renewed, ended")


def _text(value: object) -> Any:
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value


def _phase(value: object) -> Phase:
    if value not in ("rotated", "issued", "used"):
        raise ValueError(value)
    return value


def _milliseconds(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(type(value).__name__)
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(type(value).__name__)
    for text in value:  # a generator would take thrice as long
        if not isinstance(text, str):
            raise TypeError(type(text).__name__)
    return tuple(value)


def _pointers(value: object) -> tuple[str, ...]:
    pointers = _texts(value)
    for pointer in pointers:
        if pointer[:1] != "/":  # which would lead to no key
            raise ValueError(pointer)
    return pointers


def _upcast(type_: str, data: dict[str, Any], steps: tuple[Upcaster, ...]) -> dict[str, Any]:
    version = data.pop("v", 0)
    if not 0 <= version <= len(steps):
        raise UnknownFormat(what=f"{type_} event", found=str(version), known=str(len(steps)))
    for step in steps[version:]:
        data = step(data)
    return data
