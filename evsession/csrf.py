"""Cross-site request forgery: the token that only our pages know, and where a request came from.

A token is the text ``key.salt.tag``: the id of the key, 16 random bytes and a tag over session and salt. It belongs to
one session, until that is signed in anew: whoever planted a cookie on a visitor knows no token of the session that the
visitor then signs in to. A renewed secret changes nothing, so a form in another tab still works. No two tokens are
alike, so that the length of compressed pages tells nothing about them (BREACH).
Source: OWASP Cross-Site Request Forgery Prevention Cheat Sheet, "HMAC CSRF Token"; OWASP ASVS 5.0, 3.5.1.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hmac import compare_digest
from typing import Final

from evsession.cookies import is_listed, same_origin
from evsession.keys import Keyring, mac

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""Methods that change nothing.  Source: RFC 9110, 9.2.1."""

SALT_BYTES: Final = 16
_LONGEST: Final = 64
"""Characters of a token that are looked at: it has 50."""


def make(keyring: Keyring, sid: str, since: int, salt: bytes) -> str:
    """Return a token for a session that was last signed in at `since` (ms, 0 for never); `salt` is random."""
    return _signed(keyring.signing.csrf, keyring.key_id, sid, since, _text(salt))


def is_good(keyring: Keyring, text: str, sid: str, since: int) -> bool:
    """Tell whether one of our keys made a token for this session since it was last signed in; never raises."""
    if len(text) > _LONGEST or not text.isascii():
        return False
    key_id, _, rest = text.partition(".")
    key = keyring.csrf(key_id)
    return key is not None and compare_digest(_signed(key, key_id, sid, since, rest.partition(".")[0]), text)


def is_from_here(headers: Iterable[tuple[bytes, bytes]], scheme: str, allowed: Sequence[str]) -> bool:
    """Tell whether a request was sent by a page of ours, or of an origin that is listed; False if it does not say.

    Browsers that say where a request comes from (``Sec-Fetch-Site``) are believed first: no script can set it. Where it
    is missing, ``Origin`` must be ours.
    """
    said = dict(headers)
    site, origin = said.get(b"sec-fetch-site"), said.get(b"origin")
    if site == b"same-origin":
        return True
    if origin is None:
        return False
    if site is not None:
        return is_listed(origin, allowed)
    return same_origin(origin, said.get(b"host", b""), scheme, allowed)


def _signed(key: bytes, key_id: str, sid: str, since: int, salt: str) -> str:
    tag = mac(key, sid.encode(), b"%d" % since, salt.encode())
    return f"{key_id}.{salt}.{_text(tag)}"


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")
