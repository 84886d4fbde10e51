"""What a commit has done, in one word."""

from __future__ import annotations

import pytest

from evsession.codec import Stored
from evsession.outcome import Outcome, outcome_of
from evsession.state import Snapshot


def at(version: int, sid: str = "a") -> Stored:
    """Return a stored session at a version."""
    return Stored(
        snapshot=Snapshot(sid=sid, version=version), raw=b"{}", head=b"", link=b"", key_id="", created_at=0,
        authenticated_at=0, idle_at=0, absolute_at=0, last_id="", secret_at=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        (None, at(1), "created"),
        (at(2), at(3), "committed"),
        (at(2), at(5), "merged"),
        (at(2), at(2), "unchanged"),
        (at(2), None, "ended"),
        (at(2), at(1, sid="b"), "replaced"),
    ],
)
def test_the_outcome_of_a_commit(before: Stored | None, after: Stored | None, outcome: Outcome) -> None:
    """Told by the session before and after it."""
    assert outcome_of(before, after) == outcome
