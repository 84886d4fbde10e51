"""Bearer tokens: what is read from a request's headers, and what a response says."""

from __future__ import annotations

import pytest

from evsession.bearer import has_token, news, token_sent, two_tokens, version_seen
from evsession.keys import Keyring
from evsession.tokens import has_form, mint, new_sid, parse

RING = Keyring("o" * 32, namespace="shop")
TOKEN, OTHER = (mint(RING, "bearer", "session", new_sid("00", bytes([n] * 16)), bytes(range(32))) for n in (1, 2))
TEXT, OTHER_TEXT = TOKEN.value.encode(), OTHER.value.encode()
JWT = b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], None),
        ([b"Bearer " + TEXT], TEXT),
        ([b"bEaReR \t " + TEXT + b" "], TEXT),
        ([b"Bearer " + TEXT + b"~7"], TEXT + b"~7"),
        ([b"Bearer" + TEXT], None),
        ([b"Basic " + TEXT], None),
        ([TEXT], None),
        ([b""], None),
        ([b"Bearer "], None),
        ([b"Bearer " + JWT], None),
        ([b"Bearer " + TEXT + b"x"], None),
        ([b"Bearer " + TEXT, b"Bearer " + TEXT], TEXT),
        ([b"Bearer " + JWT, b"Bearer " + TEXT], TEXT),
        ([b"Bearer " + TEXT, b"Bearer " + OTHER_TEXT], (TEXT, OTHER_TEXT)),
    ],
)
def test_a_token_is_found_in_the_authorization_header(values: list[bytes], found: object) -> None:
    """The scheme's name is compared without case; what has not the form of our tokens is somebody else's."""
    headers = [(b"host", b"shop.example"), *((b"authorization", value) for value in values)]
    assert token_sent(headers) == found


@pytest.mark.parametrize(
    ("values", "version"),
    [
        ([], 0),
        ([b"7"], 7),
        ([b" 7\t"], 7),
        ([b"9999999999"], 9_999_999_999),
        ([b"99999999999"], 0),
        ([b"7", b"9"], 9),
        ([b""], 0),
        ([b"-1"], 0),
        ([b"1.5"], 0),
        (["²".encode()], 0),
    ],
)
def test_a_client_says_which_version_it_has_seen(values: list[bytes], version: int) -> None:
    """What is no version, or too long to be one, counts as none."""
    assert version_seen([(b"session-version", value) for value in values]) == version


def test_a_cookie_that_holds_a_token_is_one_too_many() -> None:
    """An empty one, or another library's, is not."""
    assert has_token(TEXT)
    assert has_token((b"x", TEXT + b"~3"))
    assert not has_token(None)
    assert not has_token(b"")
    assert not has_token((b"x", b"y"))


def test_the_form_says_nothing_of_the_maker() -> None:
    """It only tells ours from other kinds of credentials."""
    forged = TEXT[:-1] + (b"A" if TEXT[-1:] != b"A" else b"Q")
    assert has_form(forged)
    assert parse(RING, "bearer", "session", forged) is None
    assert not has_form(JWT)


def test_a_response_tells_the_version_and_hands_out_a_token() -> None:
    """The token stands there only when there is a new one."""
    assert news(7) == [(b"session-version", b"7")]
    assert news(7, TOKEN) == [(b"session-token", TEXT), (b"session-version", b"7")]


def test_two_tokens_are_answered_with_400() -> None:
    """A handshake gets it where the server can send it, and is closed where not."""
    start, body = two_tokens({"type": "http"})
    assert (start["type"], start["status"], body["type"]) == ("http.response.start", 400, "http.response.body")
    assert (b"content-length", b"%d" % len(body["body"])) in start["headers"]
    able = {"type": "websocket", "extensions": {"websocket.http.response": {}}}
    assert [message["type"] for message in two_tokens(able)] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert [message["type"] for message in two_tokens({"type": "websocket"})] == ["websocket.close"]
