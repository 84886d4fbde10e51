"""Heads: keyed digests that chain each event of a session to all that came before it.

``link = MAC(previous head, event)`` and ``head = MAC(link, sid, version, status, redacted body)``. A snapshot carries
both, so that one fill is checked by itself, and an entry carries the head, so that the whole chain can be recomputed.
Deadlines are outside, because the server sets them.
"""

from __future__ import annotations

from typing import Final

from evsession.keys import mac

FIRST: Final = bytes(16)
"""The head before a session's first event."""

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
