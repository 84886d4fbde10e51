"""What is known of a session beside its data."""

from __future__ import annotations

from typing import TypedDict


class SessionMetadata(TypedDict):
    """How long a session lives, in seconds, and two times in seconds since 1970."""

    lifetime: int
    created: float
    last_access: float
