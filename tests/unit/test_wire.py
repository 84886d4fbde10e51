"""Positions, entries and feed messages as bytes."""

from __future__ import annotations

import pytest

from evsession.wire import (
    START,
    Entry,
    Notice,
    Position,
    control_text,
    entry_of,
    id_text,
    line_of,
    notice_key_id,
    notice_tag_is_good,
    pack_notice,
    parse_id,
    split_message,
    unpack_notice,
)
from tests.property.model import framed

KEY = b"k" * 32
SID = "00" + "a" * 22
PREV = Position((5, 1), b"p" * 16)
NOTICE = Notice(
    prev=PREV,
    id=(6, 0),
    sid=SID,
    version=7,
    previous_head=b"1" * 16,
    head=b"2" * 16,
    link=b"3" * 16,
    event_id=b"4" * 16,
    key_id="0a1b",
    type="updated",
    data=b'{"set":{"a": 1}}',
)


def packed(notice: Notice = NOTICE, key: bytes = KEY) -> bytes:
    """Return the worker's part of a message."""
    return pack_notice(
        key,
        sid=notice.sid,
        version=notice.version,
        previous_head=notice.previous_head,
        head=notice.head,
        link=notice.link,
        event_id=notice.event_id,
        key_id=notice.key_id,
        type_=notice.type,
        data=notice.data,
    )


def test_an_id_compares_in_the_order_of_the_log() -> None:
    """As text `9-0` would come after `10-0`."""
    assert parse_id(b"9-0") < parse_id(b"10-0") < parse_id(b"10-2") < parse_id(b"10-10")
    assert parse_id(b"5") == (5, 0)
    assert id_text(parse_id(b"1700000000000-12")) == "1700000000000-12"


@pytest.mark.parametrize("position", [START, PREV, Position((2**64 - 1, 2**64 - 1), bytes(range(240, 256)))])
def test_a_position_survives_as_text(position: Position) -> None:
    """It stands so in every session."""
    assert Position.parse(position.text()) == position
    assert "=" not in position.text()


def test_the_start_of_the_control_log_is_no_text_at_all() -> None:
    """Most sessions stand there, and it would cost bytes in each."""
    assert control_text(None) == control_text(START) == ""
    assert Position.parse(control_text(PREV)) == PREV


def test_positions_with_one_id_and_two_events_differ() -> None:
    """After a failover an id can come again with another event."""
    assert Position((5, 0), b"a" * 16) != Position((5, 0), b"b" * 16)
    assert Position((0, 0), bytes(16)) == START


def test_an_entry_stands_at_its_id_and_event() -> None:
    """That is its place in the log."""
    entry = Entry(
        id=(6, 0),
        sid=SID,
        version=1,
        type="created",
        previous="0-0",
        event_id=b"e" * 16,
        offset=0,
        actor=b"",
        context=b"",
        data=b"{}",
        key_id="0a1b",
        head=b"h" * 16,
    )
    assert entry.position == Position((6, 0), b"e" * 16)


def test_an_entry_lies_in_the_log_as_its_id_and_its_values() -> None:
    """In the order of design section 3, for digests are made of these very bytes."""
    entry = Entry((6, 1), SID, 12, "updated", "5-1", b"e" * 16, -3, b"user 1", b"{}", b'{"a":1}', "0a1b", b"h" * 16)
    facts = (b"6-1", b"updated", SID.encode(), b"12", b"5-1", b"e" * 16, b"-3", b"user 1", b"{}", b'{"a":1}')
    assert line_of(entry) == (*facts, b"0a1b", b"h" * 16)
    assert entry_of(line_of(entry)) == entry
    with pytest.raises(ValueError, match="not enough values"):
        entry_of((b"6-1",))


def test_a_message_carries_what_was_packed() -> None:
    """The server adds where in the log it stands."""
    [(prev, id_, part)] = split_message(framed(PREV, (6, 0), packed()))
    assert notice_tag_is_good(KEY, part)
    assert notice_key_id(part) == "0a1b"
    assert unpack_notice(prev, id_, part) == NOTICE


def test_a_message_is_a_list() -> None:
    """Several commits in one message come out in their order; an empty message is an empty list."""
    first, second = framed(PREV, (6, 0), packed()), framed(Position((6, 0), b"4" * 16), (7, 0), b"other\npart")
    assert [(prev.id, id_, part) for prev, id_, part in split_message(first + second)] == [
        ((5, 1), (6, 0), packed()),
        ((6, 0), (7, 0), b"other\npart"),
    ]
    assert list(split_message(b"")) == []


@pytest.mark.parametrize(
    "message",
    [
        b"no line end",
        b"5-1 6-0\n" + bytes(16),
        b"5-1 6-0 0 0\n" + bytes(16),
        b"5-1 6-0 x\n" + bytes(16),
        b"5-1 6-0 -1\n" + bytes(16),
        b"5-1 6-0 -28\n" + bytes(16),
        b"5-1 6-0 0\n" + bytes(15),
        b"5-1 6-0 1\n" + bytes(16),
        b"5-1 -6-0 0\n" + bytes(16),
        b"x-1 6-0 0\n" + bytes(16),
        b"5-1 6-0 " + b"9" * 5000 + b"\n" + bytes(16),
    ],
)
def test_what_is_no_message_is_a_value_error(message: bytes) -> None:
    """Whoever can PUBLISH can send anything."""
    with pytest.raises(ValueError, match=r"\w"):
        list(split_message(message))


@pytest.mark.parametrize("length", [*range(len(packed()) - 20), 1000])
def test_a_part_without_a_type_is_a_value_error(length: int) -> None:
    """Cut anywhere before the end of the type, it is refused; only the tag would have told otherwise."""
    part = packed()[:length] if length < 1000 else packed().replace(b" ", b"_")
    with pytest.raises(ValueError, match=r"\w"):
        unpack_notice(PREV, (6, 0), part)


def test_a_part_without_data_is_whole() -> None:
    """So a change with a secret value is told of."""
    empty = pack_notice(
        KEY,
        sid=SID,
        version=7,
        previous_head=NOTICE.previous_head,
        head=NOTICE.head,
        link=NOTICE.link,
        event_id=NOTICE.event_id,
        key_id="0a1b",
        type_="updated",
        data=b"",
    )
    assert unpack_notice(PREV, (6, 0), empty).data == b""


def test_only_the_key_makes_a_good_tag() -> None:
    """Another key's tag, a cut one and none at all are refused."""
    assert not notice_tag_is_good(b"o" * 32, packed())
    assert not notice_tag_is_good(KEY, packed()[:15])
    assert not notice_tag_is_good(KEY, b"")


def test_the_key_id_of_garbage_is_a_text() -> None:
    """It is read before anything is known to be good."""
    assert notice_key_id(b"") == ""
    assert notice_key_id(b"\xff" * 200) == "\ufffd" * 4
