"""The law of carried digests: a worker that remembers what it digested makes the same commits as one that does not."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from evsession.codec import Stored, check_head, unpack
from evsession.config import SessionPolicy
from evsession.draft import Drafter, Stamp
from evsession.events import Ended, Event, Updated
from evsession.keys import Keyring
from tests.property import strategies

OLD, NEW = "the key of the first days, 32 characters", "the key that took its place, 32 chars.."
KEYRINGS = (Keyring(OLD, namespace="shop"), Keyring([NEW, OLD], namespace="shop"))
STAMP = Stamp(event_id=b"e" * 16)
TAIL = b"%013d%013d%013d%013d%-24b%013d" % (1_000, 0, 5_000, 9_000, b"1-0", 1_000)

steps = st.tuples(strategies.events(), st.integers(0, 2), st.booleans())
"""An event, which of three workers commits it (the last one has the new key), and whether it loads the session anew."""


def worker(number: int) -> Drafter:
    """Return what makes the commits of a worker, with nothing carried so far."""
    keys = KEYRINGS[number == 2]
    return Drafter(keys, strategies.REDACTOR, SessionPolicy(max_bytes=2**20), idle=1, absolute=2)


PASSWORD = Updated(set_={"password": 1}, redacted=("/password",))
NESTED = Updated(set_={"a": {"token": 1, "b": 2}}, redacted=("/a/token",))
OTHER = Updated(set_={"id": 1})


@given(st.lists(steps, max_size=8))
@example([(PASSWORD, 0, False), (OTHER, 0, False), (OTHER, 0, False), (OTHER, 0, True)])
@example([(PASSWORD, 0, False), (PASSWORD, 0, False), (OTHER, 0, False)])
@example([(PASSWORD, 0, False), (PASSWORD, 1, False), (OTHER, 0, False), (OTHER, 1, False)])
@example([(PASSWORD, 0, False), (OTHER, 2, False), (OTHER, 2, False), (OTHER, 0, False)])
@example([(PASSWORD, 0, False), (NESTED, 0, False), (OTHER, 0, False), (Updated(set_={"a": 1}), 0, False)])
@example([(PASSWORD, 0, False), (Updated(unset=("password",)), 0, False), (PASSWORD, 0, False), (OTHER, 0, False)])
@example([(PASSWORD, 0, False), (Updated(set_={"api_token": 1}, redacted=("/api_token",)), 0, False), (OTHER, 0, True)])
def test_what_is_carried_changes_no_byte(story: list[tuple[Event, int, bool]]) -> None:
    """Whoever set the value, under whichever key, and whether it was replaced, removed or left alone since."""
    workers, base = [worker(number) for number in range(3)], None
    for event, number, is_loaded in story:
        draft = workers[number].draft(base, strategies.SID, event, STAMP)
        assert draft == worker(number).draft(base, strategies.SID, event, STAMP)
        packed = draft.commit.prefix + TAIL + draft.commit.body
        loaded = unpack(strategies.SID, packed)
        _check(loaded, packed)
        if isinstance(event, Ended):
            return
        base = loaded if is_loaded else draft.accepted(TAIL)


def _check(stored: Stored, packed: bytes) -> None:
    keys = KEYRINGS[1]
    head, redact = keys.head(stored.key_id), keys.redact(stored.key_id)
    assert head is not None
    assert redact is not None
    check_head(head, redact, stored, packed)
