"""Who is revoked, given the control log so far."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evsession.canonical import loads
from evsession.control import (
    EVERYONE,
    FAR,
    MAX_RECENT,
    Control,
    Image,
    Revocation,
    data_of,
    names_of,
    revocation_of,
)
from evsession.positions import pack_position
from evsession.state import Snapshot
from evsession.wire import Position, StreamId

ALICE = Snapshot(sid="alice", user_id="42", names=("tenant:acme", "idp:x|1"))


def position(id_: StreamId | int) -> Position:
    """Return the position with an id, at which one certain event stands."""
    ms, seq = (id_, 0) if isinstance(id_, int) else id_
    return Position((ms, seq), (1000 * ms + seq).to_bytes(16))


def standing_at(id_: StreamId | int, sid: str = "alice") -> Snapshot:
    """Return Alice's session as of a control position."""
    return Snapshot(sid=sid, user_id="42", names=("tenant:acme",), control=position(id_).text())


def revoke(control: Control, name: str, id_: StreamId | int, keep: str | None = None) -> None:
    """Apply one entry."""
    control.apply(Revocation(position(id_), name, keep))


def with_others(*ids: int) -> Control:
    """Return a control log with entries that name somebody else."""
    control = Control()
    for id_ in ids:
        revoke(control, "user:somebody", id_)
    return control


def test_a_session_has_the_names_of_its_user_and_of_its_login() -> None:
    """An anonymous session has only the names it was given."""
    assert names_of(ALICE) == ("user:42", "tenant:acme", "idp:x|1")
    assert names_of(Snapshot(sid="anonymous", names=("tenant:acme",))) == ("tenant:acme",)
    assert names_of(Snapshot(sid="anonymous")) == ()


@pytest.mark.parametrize("name", ["user:42", "tenant:acme", EVERYONE])
def test_a_later_entry_kills_a_session_of_that_name(name: str) -> None:
    """The position decides, not the time: what stood at or past the entry lives."""
    control = with_others(4)
    revoke(control, name, 5)
    revoke(control, "user:somebody", 6)
    assert [control.verdict(standing_at(id_)) for id_ in (4, 5, 6)] == ["dead", "alive", "alive"]


def test_ids_compare_as_numbers_within_a_millisecond() -> None:
    """`5-10` is later than `5-9`."""
    control = Control()
    revoke(control, "user:somebody", (5, 9))
    revoke(control, "user:42", (5, 10))
    assert control.is_dead(standing_at((5, 9)))


def test_another_name_kills_nobody_else() -> None:
    """Only exact names count; nothing known kills nobody."""
    control = Control()
    assert control.verdict(Snapshot(sid="s", user_id="42")) == "alive"
    for number, name in enumerate(("user:4", "user:421", "tenant:42", "42"), 1):
        revoke(control, name, number)
    assert control.verdict(Snapshot(sid="s", user_id="42")) == "alive"


def test_a_session_without_a_position_is_older_than_every_entry() -> None:
    """What nobody knows the beginning of fails safe."""
    control = Control()
    revoke(control, EVERYONE, (0, 1))
    assert control.is_dead(Snapshot(sid="s"))


def test_a_position_ahead_of_the_log_calls_for_a_repair() -> None:
    """Its worker has applied an entry that is missing here."""
    assert Control().verdict(standing_at(1)) == "ahead"
    assert with_others(3).verdict(standing_at(4)) == "ahead"


def test_a_position_of_another_history_is_dead() -> None:
    """Between the first and the last entry, all that were ever there are known."""
    control = with_others(3, 9)
    assert control.verdict(standing_at(5)) == "dead"
    other = Position((3, 0), bytes(16)).text()
    assert control.verdict(Snapshot(sid="s", control=other)) == "dead"


def test_a_position_older_than_the_first_entry_was_trimmed() -> None:
    """It is judged by its id."""
    control = with_others(3)
    assert control.verdict(standing_at(1)) == "alive"
    revoke(control, "user:42", 4)
    assert control.verdict(standing_at(1)) == "dead"


def test_the_kept_session_survives_and_only_that_one() -> None:
    """`keep` excepts one session from one entry."""
    control = with_others(1)
    revoke(control, "user:42", 5, "alice")
    assert control.verdict(standing_at(1)) == "alive"
    assert control.is_dead(standing_at(1, sid="elsewhere"))


def test_keeping_a_session_does_not_undo_an_earlier_revocation() -> None:
    """A revocation that its worker had not yet heard of is not undone by excepting the session from a later one."""
    control = with_others(4)
    revoke(control, "user:42", 5)
    revoke(control, "user:42", 9, "alice")
    assert control.is_dead(standing_at(4))
    assert control.verdict(standing_at(5)) == "alive"


def test_the_epoch_moves_with_what_is_news_and_with_nothing_else() -> None:
    """A cached session is judged again exactly when the answer may have changed."""
    control = Control()
    revoke(control, "user:42", 5, "alice")
    revoke(control, "user:42", 5, "alice")
    assert control.epoch == 1
    control.load(Image({}, b""))
    assert control.epoch == 2


def test_an_event_that_was_applied_is_known() -> None:
    """A message with its event id is a replay; one that a failover lost may come again."""
    control = with_others(3)
    entry = control.entry(position(3).event)
    assert entry is not None
    assert (entry.position, entry.follows) == (position(3), (0, 0))
    assert (control.knows(position(3).event), control.knows(position(4).event)) == (True, False)
    control.load(Image({}, b""))
    assert (control.knows(position(3).event), control.entry(position(3).event)) == (False, None)


def test_entries_kept_whole_are_bounded() -> None:
    """The oldest goes first; what it revoked stays in force."""
    control = Control()
    for number in range(1, MAX_RECENT + 2):
        revoke(control, "user:42", number)
    assert (control.entry(position(1).event), control.knows(position(2).event)) == (None, True)
    assert control.is_dead(standing_at(1))


def test_who_kills_a_session_is_the_newest_entry_in_the_log_that_names_it() -> None:
    """One that was lost stands nowhere yet."""
    control = Control()
    assert control.killer(ALICE) is None
    revoke(control, "tenant:acme", 3)
    revoke(control, "user:42", 5)
    revoke(control, "user:somebody", 7)
    assert control.killer(ALICE) == (5, 0)
    assert control.newest_of(("user:42", "tenant:acme"), "alice") == (5, 0)
    assert control.newest_of((), "alice") == (0, 0)
    control.load(Image({b"tenant:acme": b"3-0"}, pack_position(position(3))))
    assert control.killer(ALICE) == (3, 0)


def test_ids_stay_above_all_that_was_seen_in_any_history() -> None:
    """The next entry of a caller that has seen more than the log holds now is later than all of it."""
    control = with_others(3, 9)
    assert control.highest == (9, 0)
    control.load(Image({b"user:somebody": b"3-0"}, pack_position(position(3))))
    assert control.highest == (9, 0)
    assert control.entry(position(9).event) is None


def test_what_is_older_than_the_log_is_forgotten() -> None:
    """Names and what was issued again with it; the same cut twice does nothing."""
    control = with_others(1)
    control.apply(Revocation(position(2), "user:7", places=revocation_of(position(2), AGAIN).places, data=AGAIN))
    revoke(control, "user:42", 3)
    control.pass_over(position(4))
    control.trim(position(3))
    control.trim(position(3))
    assert (control.has(position(3)), control.has(position(4))) == (True, False)
    assert control.killer(Snapshot(sid="s", user_id="7")) is None
    assert control.killer(Snapshot(sid="s", user_id="somebody")) is None
    assert control.is_dead(standing_at(2))
    control.load(Image({b"user:42": b"3-0"}, pack_position(position(3)) + pack_position(position(4))))
    assert not control.has(position(4))


def test_a_log_that_begins_where_nothing_is_known_is_another_one() -> None:
    """A server that began anew has lost what is older, and it is to be issued again, not forgotten."""
    control = with_others(1)
    revoke(control, "user:42", 3)
    control.trim(Position((9, 0), bytes(16)))
    control.load(Image({}, pack_position(Position((9, 0), bytes(16)))))
    assert control.verdict(standing_at(1)) == "dead"
    assert len(control.lost) == 2


AGAIN = b'{"name":"user:7","places":[["1-5","0-0","' + b"ab" * 16 + b'"]]}'


def test_an_entry_issued_again_moves_those_who_stood_at_it() -> None:
    """They are after all that their history held, and before whatever else came since."""
    control = Control()
    event = bytes(16)
    control.load(Image({}, pack_position(Position((9, 0), event)), [(Position((9, 0), event), AGAIN)]))
    stood = Snapshot(sid="s", user_id="7", control=Position((1, 5), event).text())
    assert control.verdict(stood) == "alive"
    assert control.killer(stood) == (9, 0)
    assert control.killer(stood) != FAR
    revoke(control, "user:7", 12)
    assert control.verdict(stood) == "dead"


def test_a_lost_entry_that_was_tried_again_is_given_up() -> None:
    """Then the other attempt counts, and whoever stood at the lost one is of another history."""
    control = with_others(1)
    revoke(control, "user:42", 5)
    control.load(Image({}, pack_position(position(1))))
    assert control.verdict(standing_at(5)) == "alive"
    assert control.verdict(standing_at(1)) == "dead"
    revoke(control, "user:somebody", 7)
    control.settle(position(5).event, position(7))
    assert (control.lost, control.verdict(standing_at(5)), control.verdict(standing_at(1))) == ({}, "dead", "alive")
    control.settle(position(5).event, position(7))


def test_a_lost_entry_stays_in_force_until_the_other_attempt_is() -> None:
    """One that the log is said to hold kills nobody here before it was applied, nor does what somebody else wrote."""
    control = with_others(1)
    revoke(control, "user:42", 5)
    control.load(Image({}, pack_position(position(1))))
    control.pass_over(position(7))
    for other in (position(7), position(9)):
        assert not control.has(other)
        control.settle(position(5).event, other)
        assert control.verdict(standing_at(1)) == "dead"
    revoke(control, "user:42", 9)
    assert control.has(position(9))
    control.settle(position(5).event, position(9))
    assert (control.lost, control.verdict(standing_at(1)), control.verdict(standing_at(9))) == ({}, "dead", "alive")


def test_an_entry_that_was_issued_again_and_loaded_is_lost_like_any_other() -> None:
    """A worker that has started since knows it as well as the one that had issued it."""
    control = Control()
    event = bytes(16)
    control.load(Image({}, pack_position(Position((9, 0), event)), [(Position((9, 0), event), AGAIN)]))
    control.load(Image({}, b""))
    (lost,) = control.lost.values()
    assert (lost.name, [place.id for place in lost.places]) == ("user:7", [(1, 5), (9, 0)])
    assert control.is_dead(Snapshot(sid="s", user_id="7"))


def test_a_log_that_cannot_be_read_changes_nothing() -> None:
    """What the worker knew stays in force, and is found lost once the log can be read."""
    control = with_others(1)
    revoke(control, "user:42", 5)
    with pytest.raises(ValueError, match="form"):
        control.load(Image({}, b"", [(position(7), b"[]")]))
    assert control.verdict(standing_at(1)) == "dead"
    control.load(Image({}, pack_position(position(1))))
    assert (control.verdict(standing_at(1)), len(control.lost)) == ("dead", 1)


def test_of_entries_known_by_name_only_the_newest_is_issued_again() -> None:
    """A worker that has started since has no more than that, and the newest that spares nobody whom that one spares."""
    control = Control()
    names = {b"user:42": b"5-0", b"user:7": b"6-0 alice 3-0", b"user:8": b"1-0"}
    held = b"".join(pack_position(position(id_)) for id_ in (1, 3, 5, 6))
    control.load(Image(names, held))
    control.load(Image({b"user:8": b"1-0"}, pack_position(position(1))))
    lost = [(entry.name, entry.keep, [place.id for place in entry.places]) for entry in control.lost.values()]
    assert lost == [("user:7", None, [(3, 0)]), ("user:42", None, [(5, 0)]), ("user:7", "alice", [(6, 0)])]
    assert loads(data_of(control.lost[position(6).event])) == {
        "name": "user:7", "keep": "alice", "places": [["6-0", "1-0", pack_position(position(3)).hex()]],
    }  # fmt: skip
    assert control.is_dead(standing_at(1))


def test_an_entry_that_is_held_and_was_not_named_yet_is_applied() -> None:
    """It came while the log was loaded, after the names and before the rest; once it is in force it is no news."""
    control = Control()
    event = bytes(16)
    held = pack_position(position(1)) + pack_position(position(5)) + pack_position(Position((9, 0), event))
    control.load(Image({}, held))
    assert [control.verdict(standing_at(1, sid)) for sid in ("alice", "bob")] == ["alive", "alive"]
    again = Revocation(Position((9, 0), event), "user:7", places=revocation_of(position(9), AGAIN).places, data=AGAIN)
    for _ in range(2):
        revoke(control, "user:42", 5, "bob")
        control.apply(again)
        assert [control.verdict(standing_at(1, sid)) for sid in ("alice", "bob")] == ["dead", "alive"]
        assert control.is_dead(Snapshot(sid="s", user_id="7"))
        assert (control.epoch, len(control._positions)) == (3, 3)


def test_an_entry_that_none_of_us_wrote_is_passed_over() -> None:
    """It revokes nobody, and sessions may stand at it."""
    control = Control()
    control.pass_over(position(3))
    control.pass_over(position(3))
    assert control.verdict(standing_at(3)) == "alive"
    assert control.killer(ALICE) is None


@pytest.mark.parametrize(
    "data", [b"", b"1", b"{}", b"[]", b'{"name":"a","places":[1]}', b'{"name":"a","places":[["x"]]}']
)
def test_data_of_another_form_is_refused(data: bytes) -> None:
    """By the error that the cache looks for."""
    with pytest.raises(ValueError, match=r"form|unexpected|empty|values"):
        revocation_of(position(1), data)


entries = st.lists(
    st.tuples(
        st.sampled_from(("user:42", "tenant:acme", EVERYONE)),
        st.integers(1, 6),
        st.sampled_from((None, "alice", "bob")),
    )
)


@given(entries, st.integers(0, 7))
@example([("user:42", 1, None), ("user:42", 3, "alice")], 0)
@example([("user:42", 2, "bob"), ("user:42", 3, "alice")], 0)
@example([("user:42", 2, None), ("user:42", 3, "alice"), ("user:42", 4, "alice")], 1)
def test_the_newest_entries_say_as_much_as_all_of_them(log: list[tuple[str, int, str | None]], since: int) -> None:
    """A session is dead exactly if an entry later than its position names it and does not keep it."""
    unique = sorted({at: (name, at, kept) for name, at, kept in log}.values(), key=lambda entry: entry[1])
    control = Control()
    if since:
        control.pass_over(position(since))
    for name, at, kept in unique:
        revoke(control, name, at, kept)
    dead = any(at > since and kept != "alice" for _, at, kept in unique)
    assert control.is_dead(standing_at(since)) == dead
