"""The laws of feed messages: what is packed comes out, and nothing else ever gets in."""

from __future__ import annotations

from contextlib import nullcontext, suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evsession.wire import (
    Notice,
    Position,
    id_text,
    notice_key_id,
    notice_tag_is_good,
    pack_notice,
    parse_id,
    split_message,
    unpack_notice,
)
from tests.property import strategies
from tests.property.model import framed

KEY = b"k" * 32

ids = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
positions = st.builds(Position, ids, strategies.blobs)
notices = st.builds(
    Notice,
    prev=positions,
    id=ids,
    sid=st.text("0az_-", min_size=24, max_size=24),
    version=st.integers(0, 10**10 - 1),
    previous_head=strategies.blobs,
    head=strategies.blobs,
    link=strategies.blobs,
    event_id=strategies.blobs,
    key_id=strategies.hashes,
    type=st.sampled_from(("updated", "named_revoked", "ended")),
    data=st.binary(max_size=40),
)


def packed(notice: Notice) -> bytes:
    """Return the worker's part of a message."""
    return pack_notice(
        KEY,
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


@given(positions)
def test_a_position_survives_as_text(position: Position) -> None:
    """Ids and event ids of any size."""
    assert Position.parse(position.text()) == position
    assert parse_id(id_text(position.id).encode()) == position.id


@given(st.lists(notices, max_size=4))
def test_a_message_round_trips(sent: list[Notice]) -> None:
    """Whatever bytes heads, ids and data hold, line ends and spaces among them."""
    message = b"".join(framed(notice.prev, notice.id, packed(notice)) for notice in sent)
    received = [(prev, id_, part) for prev, id_, part in split_message(message)]
    assert [unpack_notice(*each) for each in received] == sent
    assert all(notice_tag_is_good(KEY, part) for _, _, part in received)
    assert [notice_key_id(part) for _, _, part in received] == [notice.key_id for notice in sent]


@given(notices)
def test_every_flipped_bit_is_refused(notice: Notice) -> None:
    """Not one bit of a worker's part can change without its tag."""
    part = packed(notice)
    for bit in range(len(part) * 8):
        flipped = bytearray(part)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not notice_tag_is_good(KEY, bytes(flipped))


@given(st.lists(notices, min_size=1, max_size=2))
def test_a_cut_message_yields_whole_commits_only(sent: list[Notice]) -> None:
    """What came before the cut comes out, what was cut raises, and no half commit ever does."""
    pieces = [framed(notice.prev, notice.id, packed(notice)) for notice in sent]
    message, first = b"".join(pieces), len(pieces[0])
    for at in range(1, len(message)):
        received: list[bytes] = []
        with nullcontext() if at == first else pytest.raises(ValueError, match=r"\w"):
            received.extend(part for _, _, part in split_message(message[:at]))
        assert received == ([packed(sent[0])] if at >= first else [])


@given(
    st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda part: b"1-0 2-0 %d\n%b" % (len(part), part)))
)
@example(b"1-0 2-0 0\n" + bytes(16))
@example(b"1-0 2-0 -16\n" + bytes(16))
def test_garbage_raises_value_errors_only(message: bytes) -> None:
    """Whoever can PUBLISH can neither crash a worker nor make a good tag."""
    with suppress(ValueError):
        for prev, id_, part in split_message(message):
            assert not notice_tag_is_good(KEY, part)
            assert isinstance(notice_key_id(part), str)
            unpack_notice(prev, id_, part)
