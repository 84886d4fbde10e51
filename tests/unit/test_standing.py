"""What closes a connection and what does not, event by event and state by state."""

from __future__ import annotations

import pytest

from evsession.events import Authenticated, Created, Ended, Event, Renewed, Updated
from evsession.standing import Standing
from evsession.state import Snapshot, evolve, fold

FIRST = fold(Snapshot(sid="s"), [Created(secret="one", control="1-0 x")])
LOGIN = Authenticated(user_id="42", secret="two", control="5-0 x", names=("tenant:acme",))


def issued(secret: str) -> Renewed:
    return Renewed(secret=secret, phase="issued")


def used(secret: str) -> Renewed:
    return Renewed(secret=secret, phase="used")


def rotated(secret: str) -> Renewed:
    return Renewed(secret=secret, phase="rotated")


@pytest.mark.parametrize(
    ("event", "verdict"),
    [
        (Updated(set_={"a": 1}), None),
        (issued("two"), None),
        (used("two"), None),
        (rotated("two"), "replaced"),
        (LOGIN, "replaced"),
        (Ended(cause="revoked"), "revoked"),
        (Ended(cause="idle"), "idle"),
    ],
)
def test_an_event_closes_or_does_not(event: Event, verdict: str | None) -> None:
    """A renewal closes nothing; a login, a rotation and an end do, whoever did it."""
    standing = Standing(FIRST, "one")
    assert standing.heed(2, event) == verdict
    assert not standing.doubtful


def test_what_lasts_keeps_no_data() -> None:
    """A socket may be open for days; what the control log judges by stays."""
    standing = Standing(fold(FIRST, [Updated(set_={"a": "x" * 1000}), LOGIN]), "two")
    standing.outlast()
    snapshot = standing.snapshot
    assert (snapshot.sid, snapshot.data, snapshot.user_id, snapshot.control) == ("s", {}, "42", "5-0 x")
    assert snapshot.names == ("tenant:acme",)


def test_an_event_that_is_accounted_for_closes_nothing() -> None:
    """A connection that was opened after a login is not closed by its late message; an end always counts."""
    standing = Standing(evolve(FIRST, LOGIN), "two")
    assert standing.heed(2, LOGIN) is None
    assert standing.heed(1, rotated("zero")) is None
    assert standing.heed(1, Ended(cause="logout")) == "logout"


def test_what_a_connection_asked_for_itself_does_not_close_it() -> None:
    """It stands under the new secret from then on, and under the new names."""
    standing = Standing(FIRST, "one")
    standing.expect("two")
    assert standing.heed(2, LOGIN) is None
    assert (standing.snapshot.user_id, standing.snapshot.names) == ("42", ("tenant:acme",))
    assert standing.snapshot.control == "5-0 x"
    standing.expect("three")
    assert standing.heed(3, rotated("three")) is None
    assert standing.heed(4, rotated("four")) == "replaced"


def test_a_renewed_connection_is_closed_by_the_next_login() -> None:
    """However often its secret was renewed."""
    standing = Standing(FIRST, "one")
    for version, event in enumerate((issued("a"), used("a"), issued("b")), start=2):
        assert standing.heed(version, event) is None
    assert standing.heed(5, LOGIN) == "replaced"


def test_an_event_that_cannot_be_read_is_a_doubt() -> None:
    """What follows counts for nothing, until the store was asked; an end does."""
    standing = Standing(FIRST, "one")
    assert standing.heed(2, None) is None
    assert standing.doubtful
    assert standing.heed(3, issued("two")) is None
    assert standing.meet(Snapshot(sid="s", version=3, secrets=("one",))) is None
    assert standing.doubtful
    assert standing.heed(4, Ended(cause="evicted")) == "evicted"


def test_a_newer_state_closes_or_raises_a_doubt() -> None:
    """A state alone does not say whether a secret was renewed or replaced."""
    standing = Standing(FIRST, "one")
    assert standing.meet(Snapshot(sid="s", version=2, ended="switched")) == "switched"
    assert standing.meet(Snapshot(sid="s", version=1, secrets=("other",))) is None
    assert not standing.doubtful
    newer = Snapshot(sid="s", version=5, secrets=("two", "one"), names=("tenant:acme",))
    assert standing.meet(newer) is None
    assert (standing.version, standing.secrets, standing.snapshot.names) == (5, {"one", "two"}, ("tenant:acme",))
    assert standing.meet(Snapshot(sid="s", version=6, secrets=("three",))) is None
    assert (standing.doubtful, standing.version) == (True, 5)


RENEWED = (Updated(), issued("two"), used("two"))


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        (RENEWED, None),
        ((*RENEWED, Updated()), None),
        ((*RENEWED, issued("three"), used("three")), None),
        ((rotated("two"),), "replaced"),
        ((LOGIN,), "replaced"),
        ((*RENEWED, rotated("three")), "replaced"),
        ((rotated("two"), issued("three")), "replaced"),
        ((Ended(cause="revoked"),), "revoked"),
    ],
)
def test_the_events_that_led_to_a_state_settle_a_doubt(events: tuple[Event, ...], verdict: str | None) -> None:
    """They tell renewals from all else."""
    standing = Standing(FIRST, "one")
    standing.doubtful = True
    state = fold(FIRST, events)
    numbered: list[tuple[int, Event]] = [(1, Created(secret="one", control="")), *enumerate(events, start=2)]
    assert standing.confirm(state, numbered) == verdict
    if verdict is None:
        assert (standing.doubtful, standing.version) == (False, state.version)
        assert standing.is_known_by(state)


def test_without_the_events_a_foreign_state_closes() -> None:
    """They may have been trimmed, be unreadable, or not lead there: then it closes."""
    state = fold(FIRST, RENEWED)
    numbered: list[tuple[int, Event | None]] = list(enumerate(RENEWED, start=2))
    unreadable: list[tuple[int, Event | None]] = [(2, None), *numbered[1:]]
    for known in ([], numbered[1:], numbered[:1], unreadable):
        standing = Standing(FIRST, "one")
        assert standing.confirm(state, known) == "replaced"


def test_events_beyond_the_state_do_not_count() -> None:
    """The store was asked for both, one after the other."""
    standing = Standing(FIRST, "one")
    state = fold(FIRST, [rotated("two")])
    assert standing.confirm(state, [(3, issued("two")), (4, used("two"))]) == "replaced"


def test_a_state_of_another_history_that_has_the_secret_is_believed() -> None:
    """After a failover versions may be lower than before."""
    standing = Standing(fold(FIRST, [Updated(), Updated()]), "one")
    assert standing.confirm(FIRST) is None
    assert standing.version == 1
