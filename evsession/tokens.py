"""Tokens: making, parsing, tagging, checking.

A token is the text ``sid.secret.tag``, 91 characters long, and may be followed by a fence::

    sid     24  two of the shard, 22 of 16 random bytes; public
    secret  43  32 random bytes; the snapshot holds its SHA-256
    tag     22  16 bytes over purpose, cookie name, sid and secret, under a key of the namespace
    fence       "~" and the version that the browser has seen, at most 10 digits; not covered by the tag

Bytes are written as url-safe base64 without padding, in the one canonical way. What is not exactly that is refused
here, before any I/O, and is as if there were no token.
Source: OWASP ASVS 5.0, 7.2.3 (128 bits of entropy or more).
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import Final
from uuid import UUID

from evsession.config import Transport
from evsession.errors import InvalidUserId
from evsession.keys import Keyring, mac

Purpose = Transport
"""What a token is good for: the way in which it comes."""

SID_LENGTH: Final = 24
_SECRET: Final = slice(25, 68)
_TAG: Final = slice(69, 91)
_LENGTH: Final = 91
FENCE_DIGITS: Final = 10
_SID_BYTES: Final = 16
_SECRET_BYTES: Final = 32

_SHARD: Final = re.compile(r"[0-9a-z]{2}")
# The last character of a text carries 2 bits of 16 bytes and 4 bits of 32; those that would stand for other bits too
# are not in its class, so each value has one text.
_TEXT: Final = re.compile(rb"[0-9a-z]{2}[\w-]{21}[AQgw]\.[\w-]{42}[AEIMQUYcgkosw048]\.[\w-]{21}[AQgw]")
_SID: Final = re.compile(r"[0-9a-z]{2}[\w-]{21}[AQgw]", re.ASCII)
_TO_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")

_USER_ID_LENGTH: Final = 256
_USER_ID_BITS: Final = 850
"""An integer with more bits has more than 256 digits, and Python would take quadratic time to write it."""
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Token:
    """A token that a client is to get; hides itself wherever it is printed.

    `value` is its text, `sid` the session's id, `secret_hash` what the snapshot keeps of it.
    """

    __slots__ = ("secret_hash", "sid", "value")

    def __init__(self, value: str, secret_hash: str) -> None:
        self.value = value
        self.sid = value[:SID_LENGTH]
        self.secret_hash = secret_hash

    def fenced(self, version: int) -> str:
        """Return the text with the version that its client has seen; without, if that has more than 10 digits."""
        digits = str(version)
        return self.value if len(digits) > FENCE_DIGITS else f"{self.value}~{digits}"

    def __repr__(self) -> str:
        return "<Token: hidden>"


@dataclass(slots=True)
class Ticket:
    """What a good token says; holds no secret. Nobody changes one: requests share it.

    `secret_hash` is the url-safe SHA-256 of the secret's text (43 characters). `fence` is the version that the client
    has seen, 0 if it did not say, and is the client's word only. `current_key` is false if an older secret key made
    the tag: `reissue` the token, if a cookie is set anyway.
    """

    sid: str
    secret_hash: str
    fence: int
    current_key: bool


def new_sid(shard: str, random: bytes) -> str:
    """Return the id of a new session.

    `shard` has two characters of 0-9 and a-z, `random` 16 bytes.

    Raises:
        ValueError: they have not.
    """
    if not _SHARD.fullmatch(shard):
        msg = f"shard {shard!r} must have two characters of 0-9 and a-z"
        raise ValueError(msg)
    return shard + _text(_exactly(_SID_BYTES, random)).decode()


def is_sid(text: str) -> bool:
    """Tell whether a text has the form of a session's id."""
    return _SID.fullmatch(text) is not None


def mint(keyring: Keyring, purpose: Purpose, cookie_name: str, sid: str, random: bytes) -> Token:
    """Return a token for a session; `random` has 32 bytes.

    Raises:
        ValueError: it has another length.
    """
    return _signed(keyring, purpose, cookie_name, sid.encode(), _text(_exactly(_SECRET_BYTES, random)))


def has_form(text: bytes) -> bool:
    """Tell whether a text has the form of a token, whoever made it."""
    return text[_LENGTH : _LENGTH + 1] in (b"", b"~") and _TEXT.fullmatch(text, 0, _LENGTH) is not None


def parse(keyring: Keyring, purpose: Purpose, cookie_name: str, text: bytes) -> Ticket | None:
    """Return what a token says, or None if none of our keys made it for this purpose; never raises."""
    key_index = _signer(keyring, purpose, cookie_name, text)
    if key_index is None:
        return None
    sid = text[:SID_LENGTH].decode()
    return Ticket(sid, _hash(text[_SECRET]), _fence(text), key_index == 0)


def reissue(keyring: Keyring, purpose: Purpose, cookie_name: str, text: bytes) -> Token | None:
    """Return an accepted token once more, tagged with the current key and without fence; None as in `parse`."""
    if _signer(keyring, purpose, cookie_name, text) is None:
        return None
    return _signed(keyring, purpose, cookie_name, text[:SID_LENGTH], text[_SECRET])


def renew(keyring: Keyring, key_id: str, cookie_name: str, text: bytes, event_id: bytes) -> Token | None:
    """Return the cookie that a renewal puts in the place of an accepted one; None as in `parse`, or for an unknown key.

    The new secret follows from the old one and the id of the `renewed` event, under the key that the event names, so
    every worker hands out the same one and nobody stores it.
    """
    key = keyring.renewal(key_id)
    if key is None or _signer(keyring, "cookie", cookie_name, text) is None:
        return None
    secret = mac(key, text[_SECRET], event_id, size=_SECRET_BYTES)
    return _signed(keyring, "cookie", cookie_name, text[:SID_LENGTH], _text(secret))


def seed_of(keyring: Keyring, event: bytes) -> str:
    """Return the seed of a renewal: which of our keys and which event it takes to find the new secret, as text."""
    return keyring.key_id + event.hex()


def successor(keyring: Keyring, cookie_name: str, text: bytes, seed: str) -> Token | None:
    """Return the cookie that follows an accepted one by a seed; None as in `renew`, or for what is no seed."""
    try:
        event = bytes.fromhex(seed[4:])
    except ValueError:
        return None
    return renew(keyring, seed[:4], cookie_name, text, event)


def normalise_user_id(value: object) -> str:
    """Return the one text that stands for a user: an app's 42 is the command line's ``"42"``.

    Nothing is trimmed or folded: ``"Bob"`` and ``"bob "`` are two users, as they may be in the app's database.

    Raises:
        InvalidUserId: it is no str, int or UUID (a bool is none), is empty, longer than 256 characters, or has control
            characters, line separators or lone surrogates.
    """
    match value:
        case bool():
            problem = "says yes or no, not who"
        case str():
            text = str.__str__(value)  # of an enum's member the value, not the name
            if not (problem := _problem(text)):
                return text
        case int() if value.bit_length() <= _USER_ID_BITS:
            return int.__repr__(value)
        case int():
            problem = "is too long"
        case UUID():
            return str(value)
        case _:
            problem = "cannot identify a user"
    raise InvalidUserId(type(value).__name__, problem)


def _problem(text: str) -> str:
    if not text:
        return "is empty"
    if len(text) > _USER_ID_LENGTH:
        return "is too long"
    return "has control characters" if _UNPRINTABLE.search(text) else ""


def _signer(keyring: Keyring, purpose: Purpose, cookie_name: str, text: bytes) -> int | None:
    if not has_form(text):
        return None
    parts = _covered(purpose, cookie_name, text[:SID_LENGTH], text[_SECRET])
    for index, keys in enumerate(keyring.verifying):
        if compare_digest(_text(mac(keys.tag, *parts)), text[_TAG]):
            return index
    return None


def _signed(keyring: Keyring, purpose: Purpose, cookie_name: str, sid: bytes, secret: bytes) -> Token:
    tag = _text(mac(keyring.signing.tag, *_covered(purpose, cookie_name, sid, secret)))
    return Token((b"%b.%b.%b" % (sid, secret, tag)).decode(), _hash(secret))


def _covered(purpose: Purpose, cookie_name: str, sid: bytes, secret: bytes) -> tuple[bytes, ...]:
    return purpose.encode(), cookie_name.encode(), sid, secret


def _fence(text: bytes) -> int:
    # The length is tested first: Python refuses to read thousands of digits, and would take quadratic time for fewer.
    digits = text[_LENGTH + 1 :]
    return int(digits) if len(digits) <= FENCE_DIGITS and digits.isdigit() else 0


def _hash(secret: bytes) -> str:
    return _text(sha256(secret).digest()).decode()


def _text(raw: bytes) -> bytes:
    return b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URL_SAFE)


def _exactly(length: int, random: bytes) -> bytes:
    if len(random) != length:
        msg = f"{length} random bytes are needed, not {len(random)}"
        raise ValueError(msg)
    return random
