"""What became of a request's session, in one word for the log."""

from __future__ import annotations

from typing import Literal

from evsession.codec import Stored

Outcome = Literal[
    "untouched",  # the handler did not look at it
    "read",
    "unchanged",  # what was set was there already
    "created",
    "committed",
    "merged",  # committed, onto what others had committed meanwhile
    "ended",
    "replaced",  # ended, and another one begun
    "rolled_back",  # the handler raised, so its changes were not committed
    "dropped",  # the changes could not be committed; a WARNING has the reason
    "dead",  # the token was of a session that is over, or another one has replaced it
]


def outcome_of(before: Stored | None, after: Stored | None) -> Outcome:
    """Return what a commit has done, from the session that it began with and the one that it led to."""
    if after is None:
        return "ended"
    if before is None:
        return "created"
    if before.snapshot.sid != after.snapshot.sid:
        return "replaced"
    match after.snapshot.version - before.snapshot.version:
        case 0:
            return "unchanged"
        case 1:
            return "committed"
        case _:
            return "merged"
