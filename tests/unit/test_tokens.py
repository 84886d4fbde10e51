"""Tokens: what is made is accepted, what is not exactly that is refused, and none shows itself."""

from __future__ import annotations

import enum
from base64 import urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest

from evsession.errors import InvalidUserId, SessionError
from evsession.keys import Keyring
from evsession.tokens import (
    Ticket,
    Token,
    mint,
    new_sid,
    normalise_user_id,
    parse,
    reissue,
    renew,
    seed_of,
    successor,
)

OLD, NEW = "o" * 32, "n" * 32
RING = Keyring(OLD, namespace="shop")
NAME = "__Host-session"
SID = new_sid("0z", bytes(range(16)))
RANDOM = bytes(range(32))
TOKEN = mint(RING, "cookie", NAME, SID, RANDOM)
TEXT = TOKEN.value.encode()
UUID_TEXT = "12345678-1234-5678-1234-567812345678"


class Staff(enum.StrEnum):
    """User ids as an app may keep them."""

    JOE = "joe"


class Mixed(str, enum.Enum):  # noqa: UP042 - the older form prints itself differently
    """User ids of the older kind of enum, whose `str` is the member's name."""

    JOE = "joe"


class Number(enum.IntEnum):
    """Numbers as an app may keep them."""

    ANN = 42


def accepted(text: bytes, *, ring: Keyring = RING, name: str = NAME) -> Ticket | None:
    """Parse a cookie's text."""
    return parse(ring, "cookie", name, text)


def test_the_text_has_the_documented_form() -> None:
    """sid, secret and tag in url-safe base64 without padding, 91 characters."""
    sid, secret, tag = TOKEN.value.split(".")
    assert (len(sid), len(secret), len(tag), len(TOKEN.value)) == (24, 43, 22, 91)
    assert sid == SID == "0z" + urlsafe_b64encode(bytes(range(16))).decode().rstrip("=")
    assert secret == urlsafe_b64encode(RANDOM).decode().rstrip("=")
    assert urlsafe_b64encode(bytes([0xFB, 0xFF] * 8)).decode().rstrip("=") == new_sid("00", bytes([0xFB, 0xFF] * 8))[2:]


def test_the_tag_never_changes() -> None:
    """Another way of tagging signs everybody out: this value is part of the format."""
    assert TOKEN.value.rpartition(".")[2] == "ozWN5E44-YVof4RrOXoxLw"


def test_a_token_says_what_it_was_made_with() -> None:
    """The ticket has the id and the hash of the secret, and no secret."""
    secret = TOKEN.value.split(".")[1]
    expected = urlsafe_b64encode(sha256(secret.encode()).digest()).decode().rstrip("=")
    assert accepted(TEXT) == Ticket(SID, expected, 0, current_key=True)
    assert (TOKEN.sid, TOKEN.secret_hash) == (SID, expected)
    assert secret not in repr(accepted(TEXT))


def test_a_token_hides_itself() -> None:
    """In a traceback, in a log, in an f-string."""
    assert {repr(TOKEN), str(TOKEN), f"{TOKEN}", f"{TOKEN!r}"} == {"<Token: hidden>"}
    assert not hasattr(TOKEN, "__dict__")


@pytest.mark.parametrize("shard", ["", "0", "000", "A0", "é0", "0\n", "{}"])
def test_a_shard_is_two_characters(shard: str) -> None:
    """It becomes part of a hash tag."""
    with pytest.raises(ValueError, match="must have two characters of 0-9 and a-z"):
        new_sid(shard, bytes(16))


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_randomness_is_never_short(length: int) -> None:
    """A caller that passes the wrong amount is told, not served."""
    with pytest.raises(ValueError, match=f"16 random bytes are needed, not {length}"):
        new_sid("00", bytes(length))
    with pytest.raises(ValueError, match=f"32 random bytes are needed, not {length + 1}"):
        mint(RING, "cookie", NAME, SID, bytes(length + 1))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b".",
        b"..",
        b"~",
        TEXT[:-1],
        TEXT + b"A",
        TEXT + b" ",
        TEXT + b"\n",
        b" " + TEXT,
        b'"' + TEXT + b'"',
        TEXT + b"=",
        TEXT.replace(b".", b"~"),
        TEXT.upper(),
        TEXT.replace(b"-", b"+").replace(b"_", b"/").replace(b"A", b"/"),
        b"0Z" + TEXT[2:],
        TEXT[:24] + b"." + TEXT[25:68] + b"." + b"A" * 22,
        b"\xff" * 91,
        b"0" * 91,
        TEXT[:90] + b"\xa0",
    ],
)
def test_what_is_not_exactly_a_token_is_none(text: bytes) -> None:
    """As if there were no cookie: nothing is trimmed, padded or guessed."""
    assert accepted(text) is None
    assert reissue(RING, "cookie", NAME, text) is None
    assert renew(RING, RING.key_id, NAME, text, b"event") is None


@pytest.mark.parametrize("end", [24, 68, 91])
def test_only_the_canonical_text_is_taken(end: int) -> None:
    """A last character that also carries stray bits decodes to the same bytes, and is refused."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for stray in alphabet:
        altered = TEXT[: end - 1] + bytes([stray]) + TEXT[end:]
        assert (accepted(altered) is not None) is (altered == TEXT)


def test_stray_bits_are_refused_by_form_too() -> None:
    """A secret or sid with stray bits is no token even if its tag is good."""
    for sid, random in ((SID[:-1] + "B", RANDOM), (SID.upper(), RANDOM)):
        assert accepted(mint(RING, "cookie", NAME, sid, random).value.encode()) is None


@pytest.mark.parametrize(
    ("ring", "purpose", "name"),
    [
        (Keyring(NEW, namespace="shop"), "cookie", NAME),
        (Keyring(OLD, namespace="blog"), "cookie", NAME),
        (RING, "bearer", NAME),
        (RING, "cookie", "session"),
    ],
)
def test_a_token_is_good_for_one_place(ring: Keyring, purpose: Any, name: str) -> None:
    """Another key, namespace, purpose or cookie name refuses it."""
    assert parse(ring, purpose, name, TEXT) is None
    assert parse(RING, "cookie", NAME, TEXT) is not None


def test_parts_of_two_tokens_make_no_third() -> None:
    """The tag covers the sid and the secret together."""
    other = mint(RING, "cookie", NAME, new_sid("00", bytes(16)), bytes(32)).value.encode()
    assert accepted(other[:24] + TEXT[24:]) is None
    assert accepted(TEXT[:24] + other[24:68] + TEXT[68:]) is None
    assert accepted(TEXT[:69] + other[69:]) is None


@pytest.mark.parametrize(
    ("suffix", "fence"),
    [
        (b"~0", 0),
        (b"~1", 1),
        (b"~0017", 17),
        (b"~9999999999", 9_999_999_999),
        (b"~10000000000", 0),
        (b"~" + b"9" * 5000, 0),
        (b"~", 0),
        (b"~~1", 0),
        (b"~-1", 0),
        (b"~+1", 0),
        (b"~1_0", 0),
        (b"~ 1", 0),
        (b"~1 ", 0),
        (b"~1.5", 0),
        ("~\u0663".encode(), 0),
        (b"~\xb2", 0),
        (b"~\x00", 0),
    ],
)
def test_a_fence_is_one_to_ten_digits_or_nothing(suffix: bytes, fence: int) -> None:
    """It is the client's word: garbage is no fence, and never an error."""
    ticket = accepted(TEXT + suffix)
    assert ticket is not None
    assert ticket.fence == fence


@pytest.mark.parametrize(("version", "suffix"), [(1, "~1"), (9_999_999_999, "~9999999999"), (10_000_000_000, "")])
def test_a_cookie_carries_a_version_of_at_most_ten_digits(version: int, suffix: str) -> None:
    """A longer one could not be read again."""
    assert TOKEN.fenced(version) == TOKEN.value + suffix


def test_an_old_key_still_verifies_and_says_so() -> None:
    """During a rotation nobody is signed out; a cookie that is set anyway moves to the new key."""
    ring = Keyring([NEW, OLD], namespace="shop")
    ticket = accepted(TEXT + b"~5", ring=ring)
    assert ticket is not None
    assert (ticket.sid, ticket.secret_hash, ticket.fence, ticket.current_key) == (SID, TOKEN.secret_hash, 5, False)
    moved = reissue(ring, "cookie", NAME, TEXT + b"~5")
    assert moved is not None
    assert moved.value[:69] == TOKEN.value[:69]
    assert accepted(moved.value.encode(), ring=ring) == replace(ticket, fence=0, current_key=True)
    assert accepted(moved.value.encode()) is None


def test_reissue_of_a_current_token_changes_nothing() -> None:
    """It only takes the fence off."""
    same = reissue(RING, "cookie", NAME, TEXT + b"~5")
    assert same is not None
    assert (same.value, same.sid, same.secret_hash) == (TOKEN.value, TOKEN.sid, TOKEN.secret_hash)


def test_every_worker_renews_to_the_same_token() -> None:
    """The new secret follows from the old one and the event, so nobody stores it."""
    event_id = b"e" * 16
    renewed = renew(RING, RING.key_id, NAME, TEXT + b"~5", event_id)
    again = renew(Keyring(OLD, namespace="shop"), RING.key_id, NAME, TEXT, event_id)
    assert isinstance(renewed, Token)
    assert isinstance(again, Token)
    assert renewed.value == again.value
    assert renewed.sid == SID
    assert renewed.secret_hash != TOKEN.secret_hash
    ticket = accepted(renewed.value.encode())
    assert ticket is not None
    assert ticket.secret_hash == renewed.secret_hash
    other = renew(RING, RING.key_id, NAME, TEXT, b"f" * 16)
    assert other is not None
    assert other.secret_hash != renewed.secret_hash


def test_a_renewal_needs_a_key_that_we_have() -> None:
    """An event may name a key that was dropped since."""
    assert renew(RING, "0000", NAME, TEXT, b"e" * 16) is None


def test_a_bearer_token_is_never_renewed() -> None:
    """A program that holds it would not learn the new one."""
    bearer = mint(RING, "bearer", NAME, SID, RANDOM).value.encode()
    assert parse(RING, "bearer", NAME, bearer) is not None
    assert renew(RING, RING.key_id, NAME, bearer, b"e" * 16) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("42", "42"),
        (42, "42"),
        (-1, "-1"),
        (0, "0"),
        (2**850 - 1, str(2**850 - 1)),
        (UUID(UUID_TEXT), UUID_TEXT),
        (UUID_TEXT.upper(), UUID_TEXT.upper()),
        ("ann@example.com", "ann@example.com"),
        ("Jörg 😀 ", "Jörg 😀 "),
        ("x" * 256, "x" * 256),
        (Staff.JOE, "joe"),
        (Mixed.JOE, "joe"),
        (Number.ANN, "42"),
    ],
)
def test_a_user_id_has_one_text(value: object, text: str) -> None:
    """An app's 42 is the command line's "42"; the result is plain text, never an enum."""
    assert normalise_user_id(value) == text
    assert type(normalise_user_id(value)) is str


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (True, "of type bool says yes or no"),
        (1.0, "of type float cannot"),
        (float("nan"), "of type float cannot"),
        (None, "of type NoneType cannot"),
        (b"42", "of type bytes cannot"),
        ([42], "of type list cannot"),
        ({"id": "hunter2"}, "of type dict cannot"),
        ((1,), "of type tuple cannot"),
        ("", "of type str is empty"),
        ("x" * 257, "of type str is too long"),
        (2**850, "of type int is too long"),
        pytest.param(-(10**5000), "of type int is too long", id="digits"),
        ("a\nb", "of type str has control characters"),
        ("a\x00", "of type str has control characters"),
        ("a\x7f", "of type str has control characters"),
        ("a\x85", "of type str has control characters"),
        ("a\u2028", "of type str has control characters"),
        ("a\ud800", "of type str has control characters"),
    ],
)
def test_what_cannot_identify_a_user_raises(value: object, problem: str) -> None:
    """The text names the type and never shows the value, which may be anything."""
    with pytest.raises(InvalidUserId, match=problem) as caught:
        normalise_user_id(value)
    assert isinstance(caught.value, SessionError)
    assert isinstance(caught.value, ValueError)
    assert "hunter2" not in str(caught.value)


def test_a_seed_leads_every_worker_to_the_same_successor() -> None:
    """It names the key and the event, and is no secret: without the old token it leads nowhere."""
    seed = seed_of(RING, b"an event")
    assert seed == RING.key_id + b"an event".hex()
    token = successor(RING, NAME, TEXT, seed)
    expected = renew(RING, RING.key_id, NAME, TEXT, b"an event")
    assert token is not None
    assert expected is not None
    assert token.value == expected.value


@pytest.mark.parametrize("seed", ["", "0000", "0000ab", "zz", f"{RING.key_id}xyz", f"{RING.key_id}abc"])
def test_what_is_no_seed_has_no_successor(seed: str) -> None:
    """Nor has one under a key that is not ours any more."""
    assert successor(RING, NAME, TEXT, seed) is None
