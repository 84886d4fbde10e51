"""Transitions, event by event, and the small rules of diff and rebase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from evsession.canonical import same
from evsession.events import Authenticated, Changes, Created, Ended, Renewed, Updated
from evsession.state import NEVER_RENEWED, Renewal, Snapshot, diff, evolve, fold, key_of, rebase, right_of

EMPTY = Snapshot(sid="s")
CREATED = Created(set_={"a": 1}, secret="first", control="0-0 x")
LOGIN = Authenticated(user_id="42", secret="second", control="5-0 x", names=("tenant:acme",), facts={"amr": ["pwd"]})


def test_a_session_begins_with_its_data_secret_and_control_position() -> None:
    """The first event brings version 1."""
    snapshot = evolve(EMPTY, CREATED)
    assert snapshot == Snapshot(sid="s", version=1, data={"a": 1}, secrets=("first",), control="0-0 x")


def test_a_login_replaces_the_secret_and_everything_about_the_user() -> None:
    """The secret before is dead at once, and the data stays."""
    snapshot = fold(EMPTY, [CREATED, LOGIN])
    assert snapshot.secrets == ("second",)
    assert (snapshot.user_id, snapshot.names, snapshot.control) == ("42", ("tenant:acme",), "5-0 x")
    assert snapshot.facts == {"amr": ["pwd"]}
    assert not snapshot.detected
    assert snapshot.data == {"a": 1}
    again = evolve(snapshot, Authenticated(user_id="42", secret="third", control="6-0 x", detected=True))
    assert (again.names, again.facts, again.detected) == ((), {}, True)


@pytest.mark.parametrize(
    ("phase", "secrets"), [("rotated", ("third",)), ("issued", ("third", "second")), ("used", ("third",))]
)
def test_a_renewal_keeps_the_old_secret_only_while_it_is_issued(phase: Any, secrets: tuple[str, ...]) -> None:
    """Who and since which control position stays as it was."""
    before = fold(EMPTY, [CREATED, LOGIN])
    after = evolve(before, Renewed(secret="third", phase=phase))
    assert after.secrets == secrets
    assert (after.user_id, after.names, after.control, after.facts) == ("42", ("tenant:acme",), "5-0 x", before.facts)


def test_two_renewals_in_a_row_keep_two_secrets_not_three() -> None:
    """Only the newest of the old secrets has a grace."""
    issued = [Renewed(secret=secret, phase="issued") for secret in ("second", "third")]
    assert fold(EMPTY, [CREATED, *issued]).secrets == ("third", "second")


def test_a_renewal_remembers_what_it_came_from() -> None:
    """Where the chain of secrets began, which one was replaced last, and what the newest was made of."""
    issued = fold(EMPTY, [CREATED, Renewed(secret="second", phase="issued", seed="x")])
    assert issued.renewal == Renewal("first", "", "x")
    used = evolve(issued, Renewed(secret="second", phase="used"))
    assert (used.secrets, used.renewal) == (("second",), Renewal("first", "first", "x"))
    again = fold(used, [Renewed(secret="third", phase="issued", seed="y"), Renewed(secret="third", phase="used")])
    assert (again.secrets, again.renewal) == (("third",), Renewal("first", "second", "y"))
    assert evolve(again, Renewed(secret="fourth", phase="rotated")).renewal == NEVER_RENEWED
    assert evolve(again, LOGIN).renewal == NEVER_RENEWED


def test_a_login_says_whether_to_remember() -> None:
    """The next one says it anew."""
    login = Authenticated(user_id="42", secret="second", control="", remember=1)
    assert fold(EMPTY, [CREATED, login, Updated(set_={"a": 2})]).remembered
    assert not fold(EMPTY, [login, LOGIN]).remembered


def test_an_end_leaves_nothing_but_its_cause() -> None:
    """No data, no user and no secret outlive a session."""
    ended = fold(EMPTY, [CREATED, LOGIN, Ended(cause="logout", set_={"x": 1})])
    assert ended == Snapshot(sid="s", version=3, ended="logout")


@pytest.mark.parametrize("event", [CREATED, LOGIN, Updated(set_={"a": 1}), Renewed(secret="x", phase="rotated")])
def test_what_has_ended_stays_ended(event: Any) -> None:
    """Not even an event that should never have been written brings a session back."""
    ended = Snapshot(sid="s", version=3, ended="logout")
    assert evolve(ended, event) == Snapshot(sid="s", version=4, ended="logout")
    assert evolve(ended, Ended(cause="idle")).ended == "logout"


def test_the_snapshot_before_is_untouched() -> None:
    """Others still serve it."""
    before = evolve(EMPTY, Created(set_={"a": 1, "b": {"c": 1}}, redacted=("/b",), secret="s", control=""))
    evolve(before, Updated(set_={"a": 2}, unset=("b",)))
    assert before.data == {"a": 1, "b": {"c": 1}}
    assert before.marks == {"/b": 1}


def test_an_event_without_changes_shares_the_data() -> None:
    """Nothing is copied for nothing."""
    before = evolve(EMPTY, CREATED)
    assert evolve(before, Updated()).data is before.data


def test_removing_what_is_not_there_is_nothing() -> None:
    """Somebody else may have removed it first."""
    assert evolve(evolve(EMPTY, CREATED), Updated(unset=("b",))).data == {"a": 1}


def test_a_mark_lives_as_long_as_the_value_it_marks() -> None:
    """It says the version that set the value, and goes when the key is set anew or removed."""
    created = Created(set_={"a": {"token": 1}, "b": 1}, redacted=("/a/token", "/b"), secret="s", control="")
    marks = [
        fold(EMPTY, [created, event]).marks
        for event in (
            Updated(set_={"c": 1}),
            Updated(set_={"b": 2}, redacted=("/b",)),
            Updated(set_={"a": {"x": 1}}),
            Updated(unset=("b",)),
        )
    ]
    assert marks == [{"/a/token": 1, "/b": 1}, {"/a/token": 1, "/b": 2}, {"/b": 1}, {"/a/token": 1}]


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/a", "a"),
        ("/a/b", "a"),
        ("/a~1b/c", "a/b"),
        ("/~0", "~"),
        ("/~01", "~1"),
        ("/~0~1", "~/"),
        ("/", ""),
        ("//a", ""),
    ],
)
def test_a_pointer_leads_into_one_key(path: str, key: str) -> None:
    """`~01` is the text `~1`, not a slash.  Source: RFC 6901, 4."""
    assert key_of(path) == key


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({}, {}, Changes()),
        ({"a": 1}, {"a": 1}, Changes()),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}, Changes()),
        ({"a": 1}, {"a": 2}, Changes(set_={"a": 2})),
        ({"a": 1}, {}, Changes(unset=("a",))),
        ({}, {"a": None}, Changes(set_={"a": None})),
        ({"a": None}, {}, Changes(unset=("a",))),
        ({"a": [1]}, {"a": [1, 2]}, Changes(set_={"a": [1, 2]})),
    ],
)
def test_diff_finds_what_changed(before: Mapping[str, Any], after: Mapping[str, Any], changes: Changes) -> None:
    """A key is the unit of change, and the order of keys is none."""
    assert diff(before, after) == changes


@pytest.mark.parametrize(("left", "right"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ([1], [True])])
def test_diff_and_rebase_see_what_equality_hides(left: object, right: object) -> None:
    """`1 == True` in Python, and a change all the same."""
    for one, other in ((left, right), (right, left)):
        assert same(diff({"a": one}, {"a": other}).set_, {"a": other})
        assert same(rebase(Changes(set_={"a": other}), {"a": one}).set_, {"a": other})
        assert rebase(Changes(set_={"a": one}), {"a": one}) == Changes()


def test_rebase_drops_what_others_have_done_already() -> None:
    """What is left is what the request still has to do, and what is secret in it stays secret."""
    changes = Changes(set_={"a": 1, "b": {"token": 2}}, unset=("c", "d"), redacted=("/b/token",))
    assert rebase(changes, {"a": 1, "c": 0, "e": 0}) == Changes(
        set_={"b": {"token": 2}}, unset=("c",), redacted=("/b/token",)
    )
    assert rebase(changes, {"a": 1, "b": {"token": 2}}) == Changes()


def test_what_a_secret_is_good_for() -> None:
    """From the login on, through two renewals and a rotation."""
    steps = (
        (CREATED, {"first": "good", "other": "none"}),
        (Renewed(secret="second", phase="issued", seed="x"), {"first": "old", "second": "new", "other": "none"}),
        (Renewed(secret="second", phase="used"), {"first": "former", "second": "good", "other": "none"}),
        (Renewed(secret="third", phase="issued", seed="y"), {"first": "former", "second": "old", "third": "new"}),
        (Renewed(secret="third", phase="used"), {"first": "none", "second": "former", "third": "good"}),
        (Renewed(secret="fourth", phase="rotated"), {"second": "none", "third": "none", "fourth": "good"}),
    )
    snapshot = EMPTY
    for event, rights in steps:
        snapshot = evolve(snapshot, event)
        assert {secret: right_of(snapshot, secret) for secret in rights} == rights
    assert right_of(snapshot, "") == "none"
