"""Snapshots and events as bytes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from evsession.canonical import dumps
from evsession.codec import (
    FORMAT,
    HEADER_LENGTH,
    PREFIX_LENGTH,
    UPCASTERS,
    Stored,
    check_head,
    idle_of,
    lifetime,
    pack_body,
    pack_event,
    pack_header,
    pack_prefix,
    redacted_body,
    status_of,
    type_of,
    unpack,
    unpack_event,
)
from evsession.errors import CorruptSnapshot, UnknownFormat
from evsession.events import Authenticated, Created, Ended, Event, Renewed, Updated
from evsession.redaction import digest
from evsession.state import Snapshot
from tests.property.model import KEYS, Log, sid

SID = sid(1)
LOGIN = Authenticated(user_id="42", secret="s2", control="5-0 x", names=("t:a",), detected=True, facts={"amr": ["pwd"]})


def packed_after(*events: Event) -> bytes:
    """Return the packed snapshot of a session with a history."""
    log = Log("00")
    for event in events:
        log.commit(SID, event)
    return log.packed[SID]


PLAIN = packed_after(Created(set_={"a": 1}, secret="s", control=""))
SECRET = packed_after(
    Created(set_={"a": 1, "b": [{"password": "x"}]}, redacted=("/b/0/password",), secret="s", control="")
)
ENDED = packed_after(Created(set_={"a": 1}, secret="s", control=""), Ended(cause="logout"))


def check(packed: bytes) -> Stored:
    """Read a snapshot the way a fill does."""
    stored = unpack(SID, packed)
    check_head(KEYS.head, KEYS.redact, stored, packed)
    return stored


def with_body(packed: bytes, body: bytes) -> bytes:
    """Return a snapshot with another body."""
    return packed[:HEADER_LENGTH] + body


def test_a_header_has_its_fixed_places() -> None:
    """The scripts slice it by these numbers."""
    snapshot = Snapshot(sid=SID, version=7, data={"a": 1})
    prefix = pack_prefix("0a1b", b"h" * 16, b"l" * 16, snapshot)
    assert prefix == b"010a1b" + b"h" * 16 + b"l" * 16 + b"L" + b"0000000007"
    assert len(prefix) == PREFIX_LENGTH
    tail = b"%013d%013d%013d%013d%-24b%013d" % (1, 2, 30, 4, b"5-6", 7)
    packed = prefix + tail + pack_body(snapshot, b'{"a":1}')
    assert len(prefix + tail) == HEADER_LENGTH
    assert unpack(SID, packed) == Stored(
        snapshot=snapshot,
        raw=b'{"a":1}',
        head=b"h" * 16,
        link=b"l" * 16,
        key_id="0a1b",
        created_at=1,
        authenticated_at=2,
        idle_at=30,
        absolute_at=4,
        last_id="5-6",
        secret_at=7,
    )


def test_a_session_lasts_from_its_beginning_or_last_login_to_the_absolute_deadline() -> None:
    """Which is how long a browser should keep its cookie."""
    stored = check(PLAIN)._replace(created_at=5_000, authenticated_at=0, absolute_at=65_000)
    assert lifetime(stored) == timedelta(minutes=1)
    assert lifetime(stored._replace(authenticated_at=35_000)) == timedelta(seconds=30)


def test_a_remembered_session_is_never_idle() -> None:
    """Unless the usual time is the longer one."""
    stored = check(PLAIN)._replace(created_at=0, authenticated_at=5_000, absolute_at=65_000)
    remembered = stored._replace(snapshot=stored.snapshot._replace(remembered=True))
    assert [idle_of(stored, usual) for usual in (30_000, 90_000)] == [30_000, 90_000]
    assert [idle_of(remembered, usual) for usual in (30_000, 90_000)] == [60_000, 90_000]


@pytest.mark.parametrize(("idle", "absolute", "first"), [(1, 2, 1), (2, 1, 1)])
def test_the_first_deadline_counts(idle: int, absolute: int, first: int) -> None:
    """Whichever it is."""
    assert check(PLAIN)._replace(idle_at=idle, absolute_at=absolute).deadline == first


def test_everything_about_a_login_survives() -> None:
    """Names, facts, marks and the rest come back as they were."""
    packed = packed_after(Created(set_={"pin": 1}, redacted=("/pin",), secret="s", control=""), LOGIN)
    assert check(packed).snapshot == Snapshot(
        sid=SID,
        version=2,
        data={"pin": 1},
        user_id="42",
        names=("t:a",),
        secrets=("s2",),
        control="5-0 x",
        facts={"amr": ["pwd"]},
        marks={"/pin": 1},
        detected=True,
    )


def test_an_ended_snapshot_holds_nothing_but_its_cause() -> None:
    """No data of a session outlives it."""
    stored = check(ENDED)
    assert stored.snapshot == Snapshot(sid=SID, version=2, ended="logout")
    assert status_of(stored.snapshot) == b"E"
    assert ENDED[HEADER_LENGTH:] == b'{"e":"logout"}'


@pytest.mark.parametrize("packed", [PLAIN, SECRET, ENDED])
def test_a_truncated_snapshot_is_corrupt(packed: bytes) -> None:
    """Cut anywhere, it is refused and never taken for an empty session."""
    for length in range(len(packed)):
        with pytest.raises(CorruptSnapshot):
            check(packed[:length])


@pytest.mark.parametrize("packed", [PLAIN, SECRET, ENDED])
def test_a_flipped_bit_is_seen_wherever_the_head_covers_it(packed: bytes) -> None:
    """All but the key's id, the times, the last id, and names in a body with secrets that make no difference."""
    good = check(packed)
    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            stored = check(bytes(flipped))
        except (CorruptSnapshot, UnknownFormat):
            continue
        assert (stored.snapshot, stored.raw, stored.head) == (good.snapshot, good.raw, good.head)
        assert 2 <= bit // 8 < 6 or PREFIX_LENGTH <= bit // 8 < HEADER_LENGTH or packed is SECRET


@pytest.mark.parametrize("format_", [b"00", b"02", b"99"])
def test_a_newer_format_says_upgrade(format_: bytes) -> None:
    """It is never taken for damage, and never for "no session"."""
    with pytest.raises(UnknownFormat, match="upgrade") as caught:
        unpack(SID, format_ + PLAIN[2:])
    assert (caught.value.found, caught.value.known) == (str(int(format_)), str(FORMAT))
    with pytest.raises(UnknownFormat):
        unpack(SID, format_ + b"another layout")


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"1",
        b"null",
        b'"d"',
        b'{"d":[]}',
        b'{"d":null}',
        b'{"d":{},"n":1}',
        b'{"d":{},"s":null}',
        b'{"d":{},"f":1}',
        b'{"d":{},"x":["/a"]}',
        b'{"d":{},"x":{"/a":1}}',
        b'{"d":{},"x":{"":1}}',
        b'{"d":{"a":1},"x":{"/a/b":1}}',
        b'{"d":{"a":[1]},"x":{"/a/7":1}}',
        b'{"d":{"a":[1]},"x":{"/a/b":1}}',
        b'{"d":{"a":[1]},"x":{"/a/0":"1"}}',
        b'{"d":{"a":null},"x":{"/a/0":1}}',
        b'{"d":{"a":' + b"[" * 300 + b"]" * 300 + b"}}",
        b'{"d":{"a":"\xff"}}',
        b'{"d":{"a":1}} ',
        b'{"d":{"a":2}}',
        b"{}",
        b"",
    ],
)
@pytest.mark.parametrize("packed", [PLAIN, SECRET, ENDED])
def test_a_body_that_nobody_with_the_key_wrote_is_corrupt(packed: bytes, body: bytes) -> None:
    """Whatever its form: who can write to Redis cannot become an admin, nor crash a worker."""
    with pytest.raises(CorruptSnapshot):
        check(with_body(packed, body))


def test_another_session_s_snapshot_is_corrupt() -> None:
    """Copied from one key to another, it opens nothing."""
    stored = unpack(sid(2), PLAIN)
    with pytest.raises(CorruptSnapshot):
        check_head(KEYS.head, KEYS.redact, stored, PLAIN)


def test_a_secret_value_is_covered_by_the_head() -> None:
    """Only its digest is in the head, and that is enough; so is the version that set it."""
    check(SECRET)
    body = SECRET[HEADER_LENGTH:]
    for old, new in ((b'"x"}', b'"y"}'), (b":1}}", b":2}}")):
        assert old in body
        with pytest.raises(CorruptSnapshot):
            check(with_body(SECRET, body.replace(old, new)))


def test_the_covered_body_holds_no_secret() -> None:
    """An auditor without the data can compute it from the log."""
    stored = check(SECRET)
    body = redacted_body(KEYS.redact, stored.snapshot, SECRET[HEADER_LENGTH:])
    text = digest(KEYS.redact, SID, 1, "/b/0/password", "x")
    assert body == SECRET[HEADER_LENGTH:].replace(b'"x"}', dumps(text) + b"}")
    plain = check(PLAIN).snapshot
    assert redacted_body(KEYS.redact, plain, b"any body") == b"any body"


@pytest.mark.parametrize(
    ("event", "type_", "raw"),
    [
        (Updated(), "updated", b"{}"),
        (Updated(set_={"a": 1}, unset=("b",)), "updated", b'{"set":{"a":1},"unset":["b"]}'),
        (Created(secret="s", control="c"), "created", b'{"control":"c","secret":"s"}'),
        (Renewed(secret="s", phase="issued"), "renewed", b'{"phase":"issued","secret":"s"}'),
        (Ended(cause="idle"), "ended", b'{"cause":"idle"}'),
        (Ended(cause="revoked", reason="why"), "ended", b'{"cause":"revoked","reason":"why"}'),
        (
            Authenticated(user_id="1", secret="s", control="c"),
            "authenticated",
            b'{"control":"c","secret":"s","user":"1"}',
        ),
        (
            LOGIN,
            "authenticated",
            b'{"control":"5-0 x","detected":true,"facts":{"amr":["pwd"]},"names":["t:a"],"secret":"s2","user":"42"}',
        ),
        (
            Authenticated(user_id="1", secret="s", control="", remember=1000),
            "authenticated",
            b'{"remember":1000,"secret":"s","user":"1"}',
        ),
        (
            Renewed(secret="s", phase="issued", seed="x"),
            "renewed",
            b'{"phase":"issued","secret":"s","seed":"x"}',
        ),
    ],
)
def test_an_event_is_its_facts_and_nothing_empty(event: Event, type_: str, raw: bytes) -> None:
    """The log pays for every byte; and it reads back as it was."""
    assert type_of(event) == type_
    assert pack_event(event, KEYS.redact, SID, 1) == raw
    assert unpack_event(type_, raw) == event


def test_a_secret_value_enters_the_log_as_a_digest() -> None:
    """Bound to the session and the version."""
    event = Updated(set_={"pin": 1}, redacted=("/pin",))
    text = digest(KEYS.redact, SID, 9, "/pin", 1)
    raw = pack_event(event, KEYS.redact, SID, 9)
    assert raw == dumps({"set": {"pin": text}, "x": ["/pin"]})
    assert unpack_event("updated", raw) == Updated(set_={"pin": text}, redacted=("/pin",))


def test_an_unknown_type_says_upgrade() -> None:
    """A newer version wrote it."""
    with pytest.raises(UnknownFormat, match="upgrade") as caught:
        unpack_event("merged", b"{}")
    assert caught.value.found == "merged"


@pytest.mark.parametrize(
    ("type_", "raw"),
    [
        ("updated", b""),
        ("updated", b"{"),
        ("updated", b"[]"),
        ("updated", b"1"),
        ("updated", b'{"set":[]}'),
        ("updated", b'{"set":null}'),
        ("updated", b'{"unset":"abc"}'),
        ("updated", b'{"unset":[1]}'),
        ("updated", b'{"unset":[[]]}'),
        ("updated", b'{"x":{"/a":1}}'),
        ("updated", b'{"v":"1"}'),
        ("updated", b'{"v":-1}'),
        ("updated", b'{"v":1}'),
        ("created", b'{"control":"c"}'),
        ("renewed", b'{"secret":"s"}'),
        ("renewed", b'{"secret":"s","phase":"burnt"}'),
        ("renewed", b'{"secret":"s","phase":"issued","seed":1}'),
        ("authenticated", b'{"secret":"s","user":"1","remember":"long"}'),
        ("updated", b'{"set":{"a":1},"x":["a"]}'),
        ("updated", b'{"set":{"":1},"x":[""]}'),
        ("ended", b"{}"),
        ("ended", b'{"cause":1}'),
        ("ended", b'{"cause":"idle","reason":null}'),
        ("created", b'{"secret":null,"control":"c"}'),
        ("authenticated", b'{"secret":"s","control":"c","user":1}'),
        ("authenticated", b'{"secret":"s","control":"c","user":"1","facts":[]}'),
        ("authenticated", b'{"secret":"s","control":"c"}'),
        ("authenticated", b'{"secret":"s","control":"c","user":"1","names":1}'),
    ],
)
def test_an_event_of_another_form_is_of_an_unknown_format(type_: str, raw: bytes) -> None:
    """One kind of error for whatever stands in a log, so that no reader of it can be stopped."""
    with pytest.raises(UnknownFormat):
        unpack_event(type_, raw)


def rename(data: dict[str, Any]) -> dict[str, Any]:
    """Lead from version 0 to 1: the user was called `uid`."""
    return {"user": data.pop("uid"), **data}


def add_control(data: dict[str, Any]) -> dict[str, Any]:
    """Lead from version 1 to 2: there was no control position."""
    return {"control": "0-0", **data}


STEPS = {"authenticated": (rename, add_control)}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"uid":"1","secret":"s"}',
        b'{"v":0,"uid":"1","secret":"s"}',
        b'{"v":1,"user":"1","secret":"s"}',
        b'{"v":2,"user":"1","secret":"s","control":"0-0"}',
    ],
)
def test_old_events_are_read_step_by_step(raw: bytes) -> None:
    """Each version enters the chain of upcasters where it belongs."""
    event = unpack_event("authenticated", raw, STEPS)
    assert event == Authenticated(user_id="1", secret="s", control="0-0")


def test_an_event_from_the_future_says_upgrade() -> None:
    """Its version is beyond the last step."""
    with pytest.raises(UnknownFormat, match="upgrade") as caught:
        unpack_event("authenticated", b'{"v":3}', STEPS)
    assert (caught.value.found, caught.value.known) == ("3", "2")


def test_an_event_says_its_version_once_there_are_older_ones() -> None:
    """Else it would be taken for the oldest."""
    event = Authenticated(user_id="1", secret="s", control="0-0")
    raw = pack_event(event, KEYS.redact, SID, 1, STEPS)
    assert b'"v":2' in raw
    assert unpack_event("authenticated", raw, STEPS) == event
    assert b'"v"' not in pack_event(event, KEYS.redact, SID, 1)
    assert set(UPCASTERS) <= {"created", "updated", "authenticated", "renewed", "ended"}


@pytest.mark.parametrize("packed", [PLAIN, SECRET, ENDED])
def test_a_header_is_packed_as_the_server_wrote_it(packed: bytes) -> None:
    """To the byte."""
    assert pack_header(unpack(SID, packed)) == packed[:HEADER_LENGTH]
