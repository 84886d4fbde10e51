"""Heads: keyed digests that chain each event of a session to all that came before it.

``link = MAC(previous head, event)`` and ``head = MAC(link, sid, version, status, redacted body)``. A snapshot carries
both, so that one fill is checked by itself, and an entry carries the head, so that the whole chain can be recomputed.
Deadlines are outside, because the server sets them.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from evsession.keys import LENGTHS, length, mac

FIRST: Final = bytes(16)
"""The head before a session's first event."""

_LINK: Final = length(b"link") + b"link" + length(FIRST)
_HEAD: Final = length(b"head") + b"head" + length(FIRST)

LIVE: Final = b"L"
ENDED: Final = b"E"


def link_of(key: bytes, previous: bytes, covered: tuple[bytes, ...]) -> bytes:
    """Return the 16-byte digest of the head before and of the event's covered fields."""
    return mac(key, b"link", previous, *covered)


def head_of(key: bytes, link: bytes, sid: bytes, version: int, status: bytes, body: bytes) -> bytes:  # noqa: PLR0917
    """Return the 16-byte head of a state; `body` is the redacted form."""
    return mac(key, b"head", link, sid, b"%d" % version, status, body)


def control_tag(key: bytes, *covered: bytes) -> bytes:
    """Return the 16-byte tag of an entry of the control log: its event id, actor, context and data."""
    return mac(key, b"control", *covered)


class Heads:
    """Makes the same digests as `link_of` and `head_of` with one key, for whoever makes millions of them.

    Joined and fed at once into a copy of the keyed state they take 1.0 µs instead of 2.0 (measured). Where a part is
    long, the plain way takes no longer.
    """

    __slots__ = ("_copy", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._copy = blake2b(key=key, digest_size=16).copy

    def link(self, previous: bytes, covered: tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes]) -> bytes:
        """Return the digest of the head before and of sid, version, type, event id, actor, context and data."""
        a, b, c, d, e, f, g = covered
        n = LENGTHS
        try:
            parts = (
                _LINK, previous, n[len(a)], a, n[len(b)], b, n[len(c)], c, n[len(d)], d, n[len(e)], e, n[len(f)], f,
                n[len(g)], g,
            )  # fmt: skip
        except IndexError:
            return link_of(self._key, previous, covered)
        digest = self._copy()
        digest.update(b"".join(parts))
        return digest.digest()

    def head(self, link: bytes, sid: bytes, version: bytes, status: bytes, body: bytes) -> bytes:
        """Return the head of a state."""
        n = LENGTHS
        try:
            parts = (_HEAD, link, n[len(sid)], sid, n[len(version)], version, n[1], status, n[len(body)], body)
        except IndexError:
            return mac(self._key, b"head", link, sid, version, status, body)
        digest = self._copy()
        digest.update(b"".join(parts))
        return digest.digest()
