"""The laws of the codec: what goes in comes out, and what nobody wrote never does."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from evsession.canonical import dumps, loads
from evsession.codec import HEADER_LENGTH, check_head, pack_body, pack_event, type_of, unpack, unpack_event
from evsession.errors import CorruptSnapshot, UnknownFormat
from evsession.events import Event
from evsession.state import Snapshot, fold
from tests.property import strategies
from tests.property.model import KEYS, Log

SID = strategies.SID


def packed_after(history: list[Event]) -> bytes:
    """Return the packed snapshot of a session with a history."""
    log = Log("00")
    for event in history:
        log.commit(SID, event)
    return log.packed[SID]


@given(st.lists(strategies.events(), min_size=1, max_size=5))
def test_a_snapshot_round_trips_and_bears_its_head(history: list[Event]) -> None:
    """What the commit packed, the fill reads, whatever happened before."""
    packed = packed_after(history)
    stored = unpack(SID, packed)
    check_head(KEYS.head, KEYS.redact, stored, packed)
    expected = fold(Snapshot(sid=SID), history)
    assert dumps(stored.snapshot.data) == dumps(expected.data) == stored.raw
    assert pack_body(stored.snapshot, stored.raw) == packed[HEADER_LENGTH:]
    assert (stored.snapshot.version, stored.snapshot.ended) == (expected.version, expected.ended)
    assert (stored.snapshot.user_id, stored.snapshot.secrets) == (expected.user_id, expected.secrets)
    assert stored.snapshot.marks == expected.marks


@given(strategies.events())
def test_an_event_round_trips(event: Event) -> None:
    """Once read, it packs to the same bytes, its digests standing for what they stood for."""
    raw = pack_event(event, KEYS.redact, SID, 1)
    read = unpack_event(type_of(event), raw)
    assert type(read) is type(event)
    assert (read.unset, read.redacted) == (event.unset, event.redacted)
    if not event.redacted:
        assert dumps(read.set_) == dumps(event.set_)
        assert pack_event(read, KEYS.redact, SID, 1) == raw


@given(strategies.histories, st.integers(min_value=0), st.binary(min_size=1, max_size=4))
def test_a_garbled_snapshot_is_refused_or_the_same(history: list[Event], at: int, garbage: bytes) -> None:
    """Bytes written over a snapshot change times at most; nothing but the two named errors comes out."""
    packed = packed_after(history)
    at %= len(packed)
    garbled = packed[:at] + garbage + packed[at + len(garbage) :]
    with suppress(CorruptSnapshot, UnknownFormat):
        stored = unpack(SID, garbled)
        check_head(KEYS.head, KEYS.redact, stored, garbled)
        assert stored.raw == unpack(SID, packed).raw
        assert stored.snapshot == unpack(SID, packed).snapshot


@given(st.binary(max_size=200))
def test_garbage_is_no_snapshot_and_no_event(raw: bytes) -> None:
    """One kind of error for each, whatever stands in Redis."""
    for packed in (raw, b"01" + raw):
        with suppress(CorruptSnapshot, UnknownFormat):
            raise AssertionError(unpack(SID, packed))
    with suppress(UnknownFormat):
        unpack_event("updated", raw)


@given(strategies.data, st.sampled_from(("created", "updated", "authenticated", "renewed", "ended", "other")))
def test_any_json_is_an_event_or_of_an_unknown_format(data: dict[str, object], type_: str) -> None:
    """Fields that are missing or of another type are no crash."""
    for raw in (dumps(data), dumps({"set": data, "unset": list(data), "secret": "s", "control": "", "user": "1"})):
        with suppress(UnknownFormat):
            event = unpack_event(type_, raw)
            assert loads(dumps(event.set_)) == event.set_
            fold(Snapshot(sid=SID), [event])
