"""Who is revoked, given the control log so far."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evsession.control import EVERYONE, Control, names_of
from evsession.state import Snapshot
from evsession.wire import Position

ALICE = Snapshot(sid="alice", user_id="42", names=("tenant:acme", "idp:x|1"))


def standing_at(number: int, sid: str = "alice") -> Snapshot:
    """Return Alice's session as of a control position."""
    return Snapshot(sid=sid, user_id="42", names=("tenant:acme",), control=Position((number, 0), bytes(16)).text())


def test_a_session_has_the_names_of_its_user_and_of_its_login() -> None:
    """An anonymous session has only the names it was given."""
    assert names_of(ALICE) == ("user:42", "tenant:acme", "idp:x|1")
    assert names_of(Snapshot(sid="anonymous", names=("tenant:acme",))) == ("tenant:acme",)
    assert names_of(Snapshot(sid="anonymous")) == ()


@pytest.mark.parametrize("name", ["user:42", "tenant:acme", EVERYONE])
def test_a_later_entry_kills_a_session_of_that_name(name: str) -> None:
    """The position decides, not the time: what stood at or past the entry lives."""
    control = Control()
    control.revoke(name, (5, 0), None)
    assert control.is_dead(standing_at(4))
    assert not control.is_dead(standing_at(5))
    assert not control.is_dead(standing_at(6))


def test_ids_compare_as_numbers_within_a_millisecond() -> None:
    """`5-10` is later than `5-9`."""
    control = Control()
    control.revoke("user:42", (5, 10), None)
    assert control.is_dead(Snapshot(sid="s", user_id="42", control=Position((5, 9), bytes(16)).text()))


def test_another_name_kills_nobody_else() -> None:
    """Only exact names count; nothing known kills nobody."""
    control = Control()
    assert not control.is_dead(standing_at(0))
    for name in ("user:4", "user:421", "tenant:42", "42"):
        control.revoke(name, (5, 0), None)
    assert not control.is_dead(standing_at(0))


def test_a_session_without_a_position_is_older_than_every_entry() -> None:
    """What nobody knows the beginning of fails safe."""
    control = Control()
    control.revoke(EVERYONE, (0, 1), None)
    assert control.is_dead(Snapshot(sid="s"))


def test_the_kept_session_survives_and_only_that_one() -> None:
    """`keep` excepts one session from one entry."""
    control = Control()
    control.revoke("user:42", (5, 0), "alice")
    assert not control.is_dead(standing_at(1))
    assert control.is_dead(standing_at(1, sid="elsewhere"))


def test_keeping_a_session_does_not_undo_an_earlier_revocation() -> None:
    """A revocation that its worker had not yet heard of is not undone by excepting the session from a later one."""
    control = Control()
    control.revoke("user:42", (5, 0), None)
    control.revoke("user:42", (9, 0), "alice")
    assert control.is_dead(standing_at(4))
    assert not control.is_dead(standing_at(5))


def test_the_epoch_moves_with_what_is_news_and_with_nothing_else() -> None:
    """A cached session is judged again exactly when the answer may have changed."""
    control = Control()
    control.revoke("user:42", (5, 0), "alice")
    control.revoke("user:42", (5, 0), "alice")
    control.revoke("user:42", (4, 0), "alice")
    assert control.epoch == 1
    control.revoke("user:42", (3, 0), None)
    assert control.epoch == 2
    control.revoke("user:42", (2, 0), None)
    assert control.epoch == 2


entries = st.lists(
    st.tuples(
        st.sampled_from(("user:42", "tenant:acme", EVERYONE)),
        st.integers(1, 6),
        st.sampled_from((None, "alice", "bob")),
    )
)


@given(entries, st.integers(0, 7))
@example([("user:42", 1, None), ("user:42", 3, "alice")], 0)
@example([("user:42", 3, "alice"), ("user:42", 2, "bob")], 0)
@example([("user:42", 3, "alice"), ("user:42", 2, None), ("user:42", 4, "alice")], 1)
def test_the_newest_entries_say_as_much_as_all_of_them(log: list[tuple[str, int, str | None]], since: int) -> None:
    """In any order of entries, a session is dead exactly if one later than its position names and does not keep it."""
    unique = list({(name, at): (name, at, kept) for name, at, kept in log}.values())
    control = Control()
    for name, at, kept in unique:
        control.revoke(name, (at, 0), kept)
    assert control.is_dead(standing_at(since)) == any(at > since and kept != "alice" for _, at, kept in unique)
