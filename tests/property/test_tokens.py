"""Laws of tokens: round trip, no forgery, no exception."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from evsession.errors import InvalidUserId
from evsession.keys import Keyring
from evsession.tokens import Purpose, mint, new_sid, normalise_user_id, parse, reissue, renew

RING = Keyring(["n" * 32, "o" * 32], namespace="shop")
NAME = "__Host-session"
TOKEN = mint(RING, "cookie", NAME, new_sid("00", bytes(16)), bytes(32)).value.encode()

shards = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=2)
purposes = st.sampled_from(["cookie", "bearer"])
names = st.text("abcdefghijklmnopqrstuvwxyz-_", min_size=1, max_size=20)
garbage = st.binary(max_size=120)


@given(shards, st.binary(min_size=48, max_size=48), purposes, names, st.integers(1))
def test_what_is_minted_is_accepted(shard: str, random: bytes, purpose: Purpose, name: str, version: int) -> None:
    """Whatever the random bytes, a token comes back with its id, its hash and its fence."""
    token = mint(RING, purpose, name, new_sid(shard, random[:16]), random[16:])
    ticket = parse(RING, purpose, name, token.fenced(version).encode())
    assert ticket is not None
    assert (ticket.sid, ticket.secret_hash, ticket.current_key) == (token.sid, token.secret_hash, True)
    assert ticket.fence == (version if version < 10**10 else 0)


def test_every_flipped_bit_is_a_forgery() -> None:
    """No bit of a token is without meaning: all 728 are tried."""
    for place in range(len(TOKEN)):
        for bit in range(8):
            forged = bytearray(TOKEN)
            forged[place] ^= 1 << bit
            assert parse(RING, "cookie", NAME, bytes(forged)) is None


@given(st.integers(0, 90), st.integers(0, 91), garbage)
def test_nothing_spliced_in_is_accepted(start: int, length: int, spliced: bytes) -> None:
    """Any other text in the place of any part is refused, unless all it adds is a fence."""
    forged = TOKEN[:start] + spliced + TOKEN[start + length :]
    accepted = parse(RING, "cookie", NAME, forged) is not None
    assert accepted is (forged == TOKEN or forged.startswith(TOKEN + b"~"))


@given(garbage)
@example(b"\xff" * 91)
@example(b"~" * 91)
def test_no_bytes_raise(text: bytes) -> None:
    """Cookies come from anybody."""
    assert parse(RING, "cookie", NAME, text) is None
    assert reissue(RING, "cookie", NAME, text) is None
    assert renew(RING, RING.key_id, NAME, text, b"e" * 16) is None


@given(garbage)
@example(b"9" * 5000)
def test_no_fence_raises_or_refuses(suffix: bytes) -> None:
    """A fence is the client's word about what it saw; a token is as good without."""
    ticket = parse(RING, "cookie", NAME, TOKEN + b"~" + suffix)
    assert ticket is not None
    assert 0 <= ticket.fence < 10**10


@given(st.integers() | st.uuids() | st.text(max_size=300))
@example(-0)
@example("\ud800")
def test_a_normalised_user_id_is_its_own_text(value: object) -> None:
    """Normalising twice is normalising once, and what passes can be written to Redis."""
    try:
        text = normalise_user_id(value)
    except InvalidUserId:
        assert isinstance(value, str)
        return
    assert normalise_user_id(text) == text == str(value)
    assert text.encode().decode() == text
