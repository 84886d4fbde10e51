"""CSRF tokens and origins: what is ours, and that everything else is refused."""

from __future__ import annotations

import pytest

from evsession.csrf import SALT_BYTES, is_from_here, is_good, make
from evsession.keys import Keyring

OLD, NEW = "o" * 32, "n" * 32
RING = Keyring(OLD, namespace="shop")
SID, OTHER_SID = "00AAAAAAAAAAAAAAAAAAAAAA", "00BAAAAAAAAAAAAAAAAAAAAA"
SALT = bytes(range(SALT_BYTES))
TOKEN = make(RING, SID, 5, SALT)


def test_a_token_is_good_for_its_session_and_login_only() -> None:
    """A new login, another session and another application have tokens of their own."""
    assert is_good(RING, TOKEN, SID, 5)
    assert not is_good(RING, TOKEN, SID, 6)
    assert not is_good(RING, TOKEN, OTHER_SID, 5)
    assert not is_good(Keyring(OLD, namespace="other"), TOKEN, SID, 5)
    assert not is_good(Keyring(NEW, namespace="shop"), TOKEN, SID, 5)


def test_a_token_outlives_the_rotation_of_keys() -> None:
    """As long as its key is given."""
    assert is_good(Keyring([NEW, OLD], namespace="shop"), TOKEN, SID, 5)
    assert make(Keyring([NEW, OLD], namespace="shop"), SID, 5, SALT) == make(
        Keyring(NEW, namespace="shop"), SID, 5, SALT
    )


def test_no_two_tokens_are_alike() -> None:
    """Neither salt nor tag, so a compressed page tells nothing."""
    other = make(RING, SID, 5, bytes(SALT_BYTES))
    assert is_good(RING, other, SID, 5)
    assert not {*other.split(".")[1:]} & {*TOKEN.split(".")[1:]}


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", TOKEN[:-1], TOKEN + "A", TOKEN.replace(".", "", 1), f"0000{TOKEN[4:]}", "é" * 50, "x" * 10_000]
    + [TOKEN[:place] + ("A" if TOKEN[place] != "A" else "B") + TOKEN[place + 1 :] for place in (6, 20, 30, 48)],
)
def test_what_is_not_exactly_a_token_is_refused(text: str) -> None:
    """Without an error, whatever it is."""
    assert not is_good(RING, text, SID, 5)


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "https://shop.example"}, False),
        ({"sec-fetch-site": "same-site", "origin": "https://partner.example"}, True),
        ({"origin": "https://shop.example"}, True),
        ({"origin": "https://partner.example"}, True),
        ({"origin": "http://shop.example"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"referer": "https://shop.example/cart"}, False),
    ],
)
def test_only_what_says_it_is_from_here_is(headers: dict[str, str], is_ours: bool) -> None:
    """Browsers that say where a request comes from are believed first; what says nothing is refused."""
    sent = [(b"host", b"shop.example"), *((name.encode(), value.encode()) for name, value in headers.items())]
    assert is_from_here(sent, "https", ["https://partner.example"]) == is_ours


def test_without_a_host_nothing_is_from_here() -> None:
    """As HTTP/1.0 allows."""
    assert not is_from_here([(b"origin", b"https://shop.example")], "https", [])
