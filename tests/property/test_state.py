"""The laws of fold, diff and rebase."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from evsession.canonical import dumps, same
from evsession.events import Authenticated, Changes, Created, Ended, Event, Renewed, Updated
from evsession.redaction import redact
from evsession.state import NEVER_RENEWED, Snapshot, diff, evolve, fold, key_of, rebase, right_of
from tests.property import strategies

EMPTY = Snapshot(sid=strategies.SID)


def applied(data: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """Return data after changes, by the one function that applies them."""
    event = Updated(set_=changes.set_, unset=changes.unset)
    return dict(evolve(Snapshot(sid="s", data=data), event).data)


@given(strategies.data, strategies.data)
@example({"a": 1}, {"a": True})
@example({"a": 1}, {"a": 1.0})
@example({"a": 0.0}, {"a": -0.0})
@example({"a": {"b": 1}}, {"a": {"b": True}})
@example({"a": None}, {})
def test_what_diff_finds_leads_to_the_target(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Applying a difference to where it began gives where it leads, to the last byte."""
    changes = diff(before, after)
    assert dumps(applied(before, changes)) == dumps(after)


@given(strategies.data, strategies.data)
def test_diff_names_no_key_for_nothing(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Each key named is a real change, none stands in both halves, and two equal states have no difference."""
    changes = diff(before, after)
    assert not set(changes.set_) & set(changes.unset)
    for key in changes.set_:
        assert not same(before[key], after[key]) if key in before else key in after
    assert set(changes.unset) == before.keys() - after.keys()
    assert diff(after, after) == Changes()


@given(strategies.data, strategies.data, strategies.data)
@example({}, {"a": 1}, {"a": True})
@example({"a": 1}, {"a": True}, {"a": 1})
def test_rebased_changes_keep_what_others_wrote(
    base: dict[str, Any], mine: dict[str, Any], others: dict[str, Any]
) -> None:
    """The keys I touched are as I left them, all others as the others left them: no update is lost."""
    changes = diff(base, mine)
    merged = applied(others, rebase(changes, others))
    touched = {*changes.set_, *changes.unset}
    for key in {*base, *mine, *others}:
        expected = mine if key in touched else others
        assert (key in merged) == (key in expected)
        assert key not in expected or same(merged[key], expected[key])


@given(strategies.data, strategies.data, strategies.data)
def test_a_rebase_is_done_once(base: dict[str, Any], mine: dict[str, Any], others: dict[str, Any]) -> None:
    """What has been applied has nothing left to do, and rebasing where nothing happened changes nothing."""
    changes = diff(base, mine)
    assert rebase(changes, base) == changes
    merged = applied(others, rebase(changes, others))
    assert rebase(changes, merged) == Changes()


@given(strategies.changes(), strategies.data)
def test_rebase_forgets_no_secret(changes: Changes, others: dict[str, Any]) -> None:
    """Whatever is still set is redacted where it was redacted before, and no path leads to what is no longer set."""
    left = rebase(changes, others)
    assert set(left.redacted) == {path for path in changes.redacted if key_of(path) in left.set_}


@given(strategies.histories, st.integers(0, 5))
def test_a_fold_can_be_interrupted_anywhere(history: list[Event], at: int) -> None:
    """Folding in two steps is folding in one, and each event brings the next version."""
    whole = fold(EMPTY, history)
    assert fold(fold(EMPTY, history[:at]), history[at:]) == whole
    assert whole.version == len(history)


@given(strategies.histories, strategies.causes, strategies.histories)
def test_nothing_brings_an_ended_session_back(history: list[Event], cause: Any, more: list[Event]) -> None:
    """An end is the end: no data, user or secret ever comes back, and the first cause stands."""
    ended = fold(EMPTY, [*history, Ended(cause=cause), *more])
    assert ended == Snapshot(sid=EMPTY.sid, version=len(history) + 1 + len(more), ended=cause)


@given(strategies.histories)
def test_marks_stand_for_what_is_there(history: list[Event]) -> None:
    """Every mark leads to a value, so redaction can never miss; and no secret is without one."""
    snapshot = fold(EMPTY, history)
    assert set(snapshot.marks) == set(strategies.REDACTOR.paths(snapshot.data))
    redact(b"k", snapshot.sid, snapshot.data, snapshot.marks)
    assert all(1 <= since <= snapshot.version for since in snapshot.marks.values())


@given(strategies.histories)
@example([Created(secret="1", control=""), Renewed(secret="2", phase="issued"), Renewed(secret="3", phase="issued")])
def test_the_root_changes_with_whoever_replaces_the_secret_at_once(events: list[Event]) -> None:
    """And with nothing else: what was begun under a secret goes on however often that is renewed."""
    snapshot = EMPTY
    for event in (Created(secret="root", control=""), *events):
        before, snapshot = snapshot, evolve(snapshot, event)
        if isinstance(event, Created | Authenticated) or (isinstance(event, Renewed) and event.phase == "rotated"):
            assert snapshot.root == event.secret
            assert snapshot.renewal == NEVER_RENEWED
        else:
            assert snapshot.root == before.root


@given(strategies.histories)
def test_at_most_two_secrets_are_good_and_a_third_is_remembered(events: list[Event]) -> None:
    """The newest of them is the one that the last event named."""
    snapshot = fold(EMPTY, events)
    named = [event.secret for event in events if not isinstance(event, Updated | Ended)]
    assert snapshot.secrets[:1] == tuple(named[-1:])
    assert len(snapshot.secrets) <= 2


@given(st.lists(st.sampled_from(("renew", "use", "rotate", "login", "write")), max_size=12))
def test_a_secret_never_gets_better(steps: list[str]) -> None:
    """Whatever happens: the newest is good, and one that was replaced at once never counts again."""
    worth = {"good": 3, "new": 3, "old": 3, "former": 2, "none": 1}
    made, snapshot, best = ["0"], evolve(EMPTY, Created(secret="0", control="")), dict[str, int]()
    for step in steps:
        is_pending = len(snapshot.secrets) > 1
        match step:
            case "renew" if not is_pending:
                made.append(str(len(made)))
                event: Event = Renewed(secret=made[-1], phase="issued", seed="x")
            case "use" if is_pending:
                event = Renewed(secret=made[-1], phase="used")
            case "rotate" | "login":
                made, best = [*made, str(len(made))], dict.fromkeys(made, 1)
                event = Renewed(secret=made[-1], phase="rotated")
                if step == "login":
                    event = Authenticated(user_id="42", secret=made[-1], control="")
            case _:
                event = Updated(set_={"n": len(made)})
        snapshot = evolve(snapshot, event)
        assert right_of(snapshot, made[-1]) in ("good", "new")
        for secret in made:
            now = worth[right_of(snapshot, secret)]
            assert now <= best.get(secret, 3)
            best[secret] = now
        assert sum(right_of(snapshot, secret) == "former" for secret in made) <= 1
