"""The dict that a handler holds, without a request: what it records, what it plans, how it goes on after a commit."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import orjson
import pytest

from evsession.canonical import dumps, is_flat
from evsession.codec import Stored
from evsession.config import SessionPolicy
from evsession.errors import CodecError, InvalidUserId, ResponseStarted, SessionDetached, Unsupported
from evsession.events import Actor, Changes
from evsession.info import info_of
from evsession.plan import Login, Plan, detect, names_user, user_keys
from evsession.session import Session, sid_of
from evsession.state import Snapshot
from evsession.tokens import Purpose, Token, is_sid

SID = "00" + "A" * 22
POLICY = SessionPolicy()
IDLE = POLICY.idle_timeout


def stored(data: Mapping[str, Any], **fields: Any) -> Stored:
    """Return a stored session with this data."""
    snapshot = Snapshot(sid=SID, data=data, **{"version": 1, **fields})
    return Stored(
        snapshot=snapshot, raw=dumps(data), head=b"h" * 16, link=b"l" * 16, key_id="beef", created_at=1_000,
        authenticated_at=2_000 if snapshot.user_id else 0, idle_at=5_000, absolute_at=9_000, last_id="1-0",
        secret_at=1_000,
    )  # fmt: skip


class Request:
    """What binds a session in these tests: it says what was asked of it."""

    def __init__(self, *, is_over: bool = False, has_started: bool = False) -> None:
        self.is_over = is_over
        self.has_started = has_started
        self.source = "memory"
        self.issued: Token | None = None
        self.asked: list[str] = []

    def check_transport(self, transport: Purpose) -> None:
        if transport != "cookie":
            raise Unsupported(f"transport={transport!r}", "use cookies")

    def check_open(self, operation: str) -> None:
        if self.is_over:
            raise SessionDetached(operation)

    def needs_cookie(self, operation: str) -> None:
        self.check_open(operation)
        if self.has_started:
            raise ResponseStarted(operation)

    async def save(self, session: Session) -> None:
        self.asked.append("save")

    async def revalidate(self, session: Session) -> None:
        self.asked.append("revalidate")


def begun(data: Mapping[str, Any] | None = None, *, policy: SessionPolicy = POLICY, **fields: Any) -> Session:
    """Return the session of a request: a new one without data, else one that was stored."""
    base = None if data is None else stored(data, **fields)
    flat = data if is_flat(data or {}) else None
    session = Session(policy, base, flat)
    session._binding = Request()
    return session


# ── the dict ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_a_dict_for_whoever_takes_one() -> None:
    """json, orjson, copies, `**`, `==` and pickles see plain data."""
    session = begun({"a": 1, "b": [1, {"c": None}]})
    data = {"a": 1, "b": [1, {"c": None}]}
    assert json.loads(json.dumps(session)) == orjson.loads(orjson.dumps(session)) == data
    assert session == data == {**session} == dict(session) == session.copy() == session | {}
    assert type(copy.copy(session)) is type(pickle.loads(pickle.dumps(session))) is type(copy.deepcopy(session)) is dict
    assert copy.deepcopy(session) == pickle.loads(pickle.dumps(session)) == data


@pytest.mark.parametrize(
    "read",
    [
        lambda s: s["a"],
        lambda s: s.get("a"),
        lambda s: "a" in s,
        lambda s: s.keys(),
        lambda s: s.values(),
        lambda s: s.items(),
        lambda s: s.setdefault("a", 2),
        lambda s: s.mark_accessed(),
    ],
)
def test_reading_is_noticed_and_is_no_change(read: Callable[[Session], object]) -> None:
    """The answer then depends on the cookie."""
    session = begun({"a": 1})
    assert (session.accessed, session.modified) == (False, False)
    read(session)
    assert (session.accessed, session.modified, session.might_differ()) == (True, False, False)


def _ior(session: Session, other: Any) -> None:
    session |= other


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.__setitem__("b", 2), {"a": 1, "b": 2}),
        (lambda s: s.__delitem__("a"), {}),
        (lambda s: s.pop("a"), {}),
        (lambda s: s.popitem(), {}),
        (lambda s: s.setdefault("b", 2), {"a": 1, "b": 2}),
        (lambda s: s.setdefault("b"), {"a": 1, "b": None}),
        (lambda s: s.update({"b": 2}, c=3), {"a": 1, "b": 2, "c": 3}),
        (lambda s: s.update([("b", 2)]), {"a": 1, "b": 2}),
        (lambda s: _ior(s, {"b": 2}), {"a": 1, "b": 2}),
        (lambda s: _ior(s, [("b", 2)]), {"a": 1, "b": 2}),
    ],
)
def test_every_way_of_changing_is_noticed(change: Callable[[Session], object], expected: dict[str, object]) -> None:
    """As Starlette's flags want it."""
    session = begun({"a": 1})
    change(session)
    assert session == expected
    assert (session.accessed, session.modified, session.might_differ()) == (True, True, True)


def test_ways_that_change_nothing_are_none() -> None:
    """A default where nothing is, and an error."""
    session = begun({})
    assert session.pop("nothing", 7) == 7
    with pytest.raises(KeyError):
        session.pop("nothing")
    assert not session.modified
    with pytest.raises(KeyError):
        session.popitem()
    with pytest.raises(KeyError):
        del session["nothing"]
    assert not session.plan()


@pytest.mark.parametrize("value", [object(), {1}, b"x", 2**70, float("inf"), "\ud800", 1j])
def test_a_value_that_json_has_not_raises_on_its_line(value: object) -> None:
    """And leaves all as it was, other keys of the same call included."""
    session = begun({"a": 1})
    for change in (
        lambda: session.__setitem__("b", value),
        lambda: session.setdefault("b", value),
        lambda: session.update(c=1, b=value),
        lambda: _ior(session, {"c": 1, "b": value}),
    ):
        with pytest.raises(CodecError) as caught:
            change()
        assert caught.value.key == "b"
    assert session == {"a": 1}


@pytest.mark.parametrize("value", [True, 4.2, [42], {"id": 1}, "", "a\n"])
def test_a_user_that_cannot_be_one_raises_on_its_line(value: object) -> None:
    """Under any of the policy's names; elsewhere it is a value like others, and None says nobody."""
    session = begun({}, policy=SessionPolicy(user_key=("uid", "account")))
    for key in ("uid", "account"):
        with pytest.raises(InvalidUserId):
            session[key] = value
        session[key] = None
    session["user_id"] = value
    assert detect(session._policy, session) is None


# ── what it plans ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nested_edits_are_found_at_any_depth() -> None:
    """Also when nothing was assigned; and the copy of others stays as it was."""
    data = {"a": [1], "b": {"c": 1}, "d": {"e": {"f": [1]}}, "n": 1}
    edits: tuple[Callable[[Session], object], ...] = (
        lambda s: s["a"].append(2),
        lambda s: s["b"].update(c=2),
        lambda s: s["d"]["e"]["f"].append(2),
    )
    for edit in edits:
        session = begun(data)
        assert not session.might_differ()
        edit(session)
        assert session.might_differ()
        assert len(session.plan().changes.set_) == 1
    assert data == {"a": [1], "b": {"c": 1}, "d": {"e": {"f": [1]}}, "n": 1}


@pytest.mark.parametrize(
    "data", [{"a": [[1]], "b": [1]}, {"a": {"b": [1]}}, {"a": [1], "b": {"c": 1}}, {"a": 1, "b": []}]
)
def test_no_container_is_shared_with_the_snapshot(data: dict[str, Any]) -> None:
    """Whatever its depth."""
    session = begun(data)
    assert session == data
    for key, value in data.items():
        assert session[key] is not value or not isinstance(value, dict | list)


def test_a_value_deep_inside_that_json_has_not_is_named() -> None:
    """By its place; `might_differ` never hides it."""
    session = begun({"a": [1, {"b": 2}]})
    session["a"][1]["b"] = {3}
    assert session.might_differ()
    with pytest.raises(CodecError) as caught:
        session.plan()
    assert caught.value.key == "a[1].b"


def test_what_only_the_encoder_refuses_is_raised_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nesting that the limits allow and JSON does not; nothing is planned."""
    policy = SessionPolicy(max_depth=10_000)
    session = begun({"a": 1}, policy=policy)
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    session["a"] = deep
    with pytest.raises(CodecError):
        session.plan()


def test_a_plan_says_what_it_would_do() -> None:
    """Empty ones are false; names of keys are for logs."""
    assert not Plan()
    assert not Plan(begins=True)
    assert Plan(end="logout")
    assert Plan(rotate=True)
    assert Plan(login=Login(user_id="1"))
    assert Plan(changes=Changes(set_={"a": 1}, unset=("b",))).keys == ("a", "b")


def test_a_new_session_begins_with_all_that_was_set() -> None:
    """And without anything there is nothing to begin."""
    session = begun()
    assert not session.plan()
    session.update(a=1, b=[2])
    session.pop("a")
    assert session.plan() == Plan(begins=True, changes=Changes(set_={"b": [2]}))
    session.pop("b")
    assert not session.plan()


def test_a_login_says_who_and_by_which_names() -> None:
    """Facts and actor with it; the rest of the data stays."""
    session = begun({"cart": 1})
    actor = Actor.admin("joe")
    session.login(42, names={"tenant": "acme", "idp": "x|1"}, facts={"mfa": True}, actor=actor)
    session["seen"] = 1
    login = Login(user_id="42", names=("tenant:acme", "idp:x|1"), facts={"mfa": True}, actor=actor)
    assert session.plan() == Plan(login=login, changes=Changes(set_={"seen": 1}))


@pytest.mark.parametrize("names", [{"user": "43"}, {"everyone": "x"}, {"a b": "x"}, {"tenant": ""}])
def test_a_login_with_a_name_that_nobody_could_revoke_is_refused(names: dict[str, str]) -> None:
    """Where it is made, and not when somebody wants to revoke it; nor can it pass for another user's."""
    session = begun({"a": 1})
    with pytest.raises(ValueError, match="give a word such as 'tenant'"):
        session.login(42, names=names)
    assert not session.plan()


@pytest.mark.parametrize("known", [None, "42"])
def test_a_login_of_nobody_or_of_the_same_user_goes_on(known: str | None) -> None:
    """In the session that there is."""
    session = begun({"cart": 1}, user_id=known)
    session.login("42")
    assert session.plan() == Plan(login=Login(user_id="42"))


def test_a_login_may_choose_how_the_client_gets_its_token() -> None:
    """What the manager does not take is refused on the line that asks for it, and changes nothing."""
    session = begun({"a": 1})
    session.login("ann", transport="cookie")
    assert session.plan().login == Login(user_id="ann", transport="cookie")
    with pytest.raises(Unsupported):
        session.login("joe", transport="bearer")
    assert session.plan().login == Login(user_id="ann", transport="cookie")


def test_only_what_was_issued_here_is_a_token() -> None:
    """A session that is bound to nothing has none."""
    assert Session(SessionPolicy()).token is None
    session = begun({"a": 1})
    assert session.token is None
    request = Request()
    request.issued = Token("x" * 91, "hash")
    session._binding = request
    assert session.token is request.issued


def test_a_login_of_another_user_leaves_all_behind_that_was_there() -> None:
    """Only what this request has set, before or after, goes with it."""
    session = begun({"cart": 1, "n": 1}, user_id="1")
    session["n"] = 2
    session.login(2)
    session["late"] = 1
    assert session == {"n": 2, "late": 1}
    assert session.plan() == Plan(
        end="switched", begins=True, login=Login(user_id="2"), changes=Changes(set_={"n": 2, "late": 1})
    )


def test_the_last_of_several_logins_counts() -> None:
    """The session that was there ends once."""
    session = begun({"cart": 1}, user_id="1")
    session.login(2)
    session.login(3)
    plan = session.plan()
    assert (plan.end, plan.login) == ("switched", Login(user_id="3"))


def test_a_logout_forgets_what_came_before_it() -> None:
    """Data, login and rotation; what comes after it begins anew."""
    session = begun({"cart": 1}, user_id="1")
    session.rotate()
    session.login(2)
    session["n"] = 1
    session.logout()
    assert session == {}
    assert session.plan() == Plan(end="logout", begins=True)
    session["flash"] = "bye"
    session.login(3)
    assert session.plan() == Plan(
        end="logout", begins=True, login=Login(user_id="3"), changes=Changes(set_={"flash": "bye"})
    )


def test_a_logout_without_a_session_ends_none() -> None:
    """What was set is gone."""
    session = begun()
    session["a"] = 1
    session.clear()
    assert not session.plan()


def test_a_rotation_needs_a_session() -> None:
    """A new one has a new secret anyway."""
    session = begun({"a": 1})
    session.rotate()
    assert session.plan() == Plan(rotate=True)
    session = begun()
    session.rotate()
    assert not session.plan()


# ── detection ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_policy_names_the_keys_that_tell_the_user() -> None:
    """One, several in order, none, or whatever a function finds."""
    assert user_keys(SessionPolicy(user_key="uid")) == ("uid",)
    assert user_keys(SessionPolicy(user_key=("a", "b"))) == ("a", "b")
    assert user_keys(SessionPolicy(user_key=None)) == user_keys(SessionPolicy(user_key=len)) == ()
    assert detect(SessionPolicy(user_key=("a", "b")), {"a": None, "b": 2}) == "2"
    assert detect(SessionPolicy(user_key=("a", "b")), {"a": 1, "b": 2}) == "1"
    assert detect(SessionPolicy(user_key=lambda data: data.get("me")), {"me": UUID(int=1)}) == str(UUID(int=1))
    assert detect(SessionPolicy(user_key=None), {"user_id": 1}) is None
    with pytest.raises(InvalidUserId):
        detect(SessionPolicy(user_key=lambda data: 4.2), {})


@pytest.mark.parametrize(
    ("data", "known", "change", "expected"),
    [
        ({}, None, {"user_id": 1}, Plan(login=Login(user_id="1", detected=True), changes=Changes(set_={"user_id": 1}))),
        ({"user_id": 1}, "1", {"user_id": "1"}, Plan(changes=Changes(set_={"user_id": "1"}))),
        ({}, "1", {"user_id": 1}, Plan(changes=Changes(set_={"user_id": 1}))),
        ({"user_id": 2}, "1", {"n": 1}, Plan(changes=Changes(set_={"n": 1}))),
        (
            {"user_id": 1, "cart": 1},
            "1",
            {"user_id": 2},
            Plan(
                end="switched",
                begins=True,
                login=Login(user_id="2", detected=True),
                changes=Changes(set_={"user_id": 2}),
            ),
        ),
        ({"user_id": 1, "n": 1}, "1", {"user_id": None}, Plan(
            end="logout", begins=True, changes=Changes(set_={"n": 1, "user_id": None}))),
        ({"user_id": 1}, None, {"user_id": None}, Plan(changes=Changes(set_={"user_id": None}))),
    ],
)  # fmt: skip
def test_a_user_in_the_data_is_detected(
    data: dict[str, Any], known: str | None, change: dict[str, Any], expected: Plan
) -> None:
    """New, unchanged, known from a login, changed, gone; and gone where nobody was known."""
    session = begun(data, user_id=known)
    session.update(change)
    assert session.plan() == expected


def test_an_explicit_login_needs_no_detection() -> None:
    """It counts more than what the data say."""
    session = begun({})
    session.login(1)
    session["user_id"] = 2
    plan = session.plan()
    assert plan.login == Login(user_id="1")


def test_a_new_session_with_a_user_begins_with_a_login() -> None:
    """After a logout too."""
    session = begun()
    session["user_id"] = 1
    login = Login(user_id="1", detected=True)
    assert session.plan() == Plan(begins=True, login=login, changes=Changes(set_={"user_id": 1}))
    session = begun({"user_id": 2}, user_id="2")
    session.logout()
    session["user_id"] = 1
    assert session.plan() == Plan(end="logout", begins=True, login=login, changes=Changes(set_={"user_id": 1}))


# ── dead sessions ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_dead_session_plans_only_what_will_be_dropped() -> None:
    """So that its names can be logged; `info` promises nothing."""
    session = Session(POLICY, is_dead=True)
    session._binding = Request()
    session["a"] = 1
    assert session.plan() == Plan(changes=Changes(set_={"a": 1}))
    assert session.info.changes == Changes()
    assert session.surviving() == Plan()


@pytest.mark.parametrize("is_detected", [False, True])
def test_a_login_brings_a_dead_session_to_life(is_detected: bool) -> None:
    """By `login` with only what is set after it; by the data with those data."""
    session = Session(POLICY, is_dead=True)
    session._binding = Request()
    if is_detected:
        session.update(user_id=1, a=1)
    else:
        session["before"] = 1
        session.login(1)
        session["a"] = 1
    plan = session.plan()
    assert (plan.begins, plan.end) == (True, None)
    assert plan.login == Login(user_id="1", detected=is_detected)
    assert plan.changes.set_ == ({"user_id": 1, "a": 1} if is_detected else {"a": 1})
    session.committed(stored(plan.changes.set_, user_id="1"), plan)
    assert not session.is_dead


# ── after a commit ───────────────────────────────────────────────────────────────────────────────────────────────────


def _commit(session: Session, others: Mapping[str, Any] | None = None) -> Plan:
    """Let a session go on as if its plan had been committed on top of what others did."""
    plan = session.plan()
    before = {} if plan.begins or session.base is None else session.base.snapshot.data
    data = {**before, **(others or {}), **json.loads(dumps(plan.changes.set_))}
    for key in plan.changes.unset:
        data.pop(key, None)
    session.committed(stored(data, version=2, user_id=plan.login and plan.login.user_id), plan)
    return plan


def test_after_a_commit_nothing_is_pending() -> None:
    """And nested edits that follow are seen again."""
    session = begun({"a": 1})
    session["list"] = []
    _commit(session)
    assert not session.might_differ()
    assert not session.plan()
    session["list"].append(1)
    assert session.plan().changes == Changes(set_={"list": [1]})
    _commit(session)
    session.pop("list")
    _commit(session)
    assert not session.might_differ()
    assert session._flat


def test_what_others_changed_appears_after_a_commit() -> None:
    """Beside what this session did."""
    session = begun({"a": 1, "gone": 1})
    session["mine"] = 1
    session.pop("gone")
    _commit(session, {"theirs": [1]})
    assert session == {"a": 1, "mine": 1, "theirs": [1]}
    assert not session.plan()


def test_what_was_set_while_a_commit_was_under_way_stays_pending() -> None:
    """Set or removed."""
    session = begun({"a": 1, "b": 1})
    session["c"] = 1
    plan = session.plan()
    session["late"] = [1]
    session.pop("b")
    session.committed(stored({"a": 1, "b": 1, "c": 1, "theirs": 1}, version=3), plan)
    assert session == {"a": 1, "c": 1, "late": [1], "theirs": 1}
    assert session.modified
    assert session.plan() == Plan(changes=Changes(set_={"late": [1]}, unset=("b",)))


def test_nothing_of_the_old_user_is_pending_after_a_detected_switch() -> None:
    """What the data still held belongs to somebody else, and must not follow in a second event."""
    session = begun({"user_id": 1, "cart": ["tea"]}, user_id="1")
    session["user_id"] = 2
    plan = _commit(session)
    assert plan.end == "switched"
    assert session == {"user_id": 2}
    assert not session.might_differ()


def test_after_an_end_the_session_is_new() -> None:
    """And alive: what is set begins another one."""
    session = begun({"a": 1})
    session.logout()
    session.committed(None, session.plan())
    assert (session.base, session.is_dead, dict(session), session.might_differ()) == (None, False, {}, False)
    session["b"] = 1
    assert session.plan().begins


def test_what_is_dropped_leaves_the_session_as_it_was() -> None:
    """Data, login, end and rotation; with `is_over` nothing is left at all, for good."""
    session = begun({"a": [1]})
    session["a"].append(2)
    session.rotate()
    session.login(1)
    session.dropped()
    assert (dict(session), bool(session.plan()), session.is_dead) == ({"a": [1]}, False, False)
    session.logout()
    session.dropped()
    assert (dict(session), bool(session.plan())) == ({"a": [1]}, False)
    session["b"] = 1
    session.dropped(is_over=True)
    assert (dict(session), session.base, session.is_dead) == ({}, None, True)
    session["b"] = 1
    session.committed(None, session.plan())
    assert session.is_dead


def test_rebasing_keeps_what_is_pending() -> None:
    """On top of the newer data."""
    session = begun({"a": 1, "b": 1})
    session["a"] = 2
    session.pop("b")
    session.rebased(stored({"a": 3, "b": 3, "c": 3}, version=5))
    assert session == {"a": 2, "c": 3}
    assert session.plan() == Plan(changes=Changes(set_={"a": 2}, unset=("b",)))
    session = begun({"a": 1})
    session.rebased(stored({"a": 3}, version=5))
    assert not session.might_differ()


# ── after an error ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "known", "act", "expected"),
    [
        ({"n": 1}, "1", lambda s: s.update(n=2), Plan()),
        ({"n": 1}, "1", lambda s: s.update(n=[{1}]), Plan()),
        ({"n": 1}, None, lambda s: s.login(1), Plan()),
        ({"n": 1}, "1", lambda s: s.login(2), Plan()),
        ({"n": 1}, "1", lambda s: s.logout(), Plan(end="logout", begins=True)),
        ({"n": 1}, "1", lambda s: s.logout() or s.update(n=2), Plan(end="logout", begins=True)),
        ({"n": 1}, "1", lambda s: s.rotate() or s.update(n=2), Plan(rotate=True)),
        ({"user_id": 1}, "1", lambda s: s.pop("user_id"), Plan(end="logout", begins=True)),
        ({"user_id": 1}, "1", lambda s: s.update(user_id=2), Plan()),
        ({"user_id": 1}, None, lambda s: s.pop("user_id"), Plan()),
        (None, None, lambda s: s.update(n=1), Plan()),
    ],
)
def test_an_end_and_a_rotation_survive_an_error(
    data: dict[str, Any] | None, known: str | None, act: Callable[[Session], object], expected: Plan
) -> None:
    """No data, no login, no switch; and values that JSON has not are in nobody's way."""
    session = begun(data, user_id=known)
    act(session)
    assert session.surviving() == expected


# ── its request ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_save_and_revalidate_are_its_requests_work() -> None:
    """The session only asks."""
    session, request = begun({}), Request()
    session._binding = request
    await session.save()
    await session.revalidate()
    assert request.asked == ["save", "revalidate"]


async def test_without_a_request_it_is_a_dict_and_nothing_more() -> None:
    """Data can be set; what needs a request says so."""
    session = Session(POLICY)
    session["a"] = 1
    uses: tuple[Callable[[], object], ...] = (partial(session.login, 1), session.logout, session.rotate, session.clear)
    for use in uses:
        with pytest.raises(SessionDetached):
            use()
    with pytest.raises(SessionDetached):
        await session.save()
    with pytest.raises(SessionDetached):
        await session.revalidate()
    assert session == {"a": 1}


def test_after_its_request_nothing_can_be_changed() -> None:
    """It can still be read."""
    session = begun({"a": 1})
    session._binding = Request(is_over=True)
    for change in (
        lambda: session.__setitem__("a", 2),
        lambda: session.pop("a"),
        session.popitem,
        session.logout,
        session.rotate,
        lambda: session.login(1),
    ):
        with pytest.raises(SessionDetached):
            change()
    assert session["a"] == 1


def test_what_needs_a_cookie_raises_once_the_response_has_started() -> None:
    """And changes nothing; an end needs none."""
    session = begun({"a": 1}, user_id="1")
    session._binding = Request(has_started=True)
    uses: tuple[Callable[[], object], ...] = (partial(session.login, 2), session.rotate)
    for use in uses:
        with pytest.raises(ResponseStarted):
            use()
    assert (dict(session), session.modified) == ({"a": 1}, False)
    session.logout()
    assert session.plan().end == "logout"


@pytest.mark.parametrize("user", [True, 4.2, None, [1], ""])
def test_a_login_of_what_is_no_user_changes_nothing(user: object) -> None:
    """It raises first."""
    session = begun({"a": 1}, user_id="1")
    with pytest.raises(InvalidUserId):
        session.login(user)
    assert not session.modified


# ── info ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_info_of_a_stored_session() -> None:
    """Times are aware UTC; the earlier deadline is when it expires."""
    info = info_of(stored({"a": 1}, user_id="1", names=("tenant:acme",), facts={"mfa": True}), idle=IDLE, stale=True)
    assert (info.id, info.version, info.user_id, info.names) == (SID, 1, "1", ("user:1", "tenant:acme"))
    times = (info.created_at, info.authenticated_at, info.expires_at)
    assert [time and time.isoformat() for time in times] == [
        "1970-01-01T00:00:01+00:00",
        "1970-01-01T00:00:02+00:00",
        "1970-01-01T00:00:05+00:00",
    ]
    assert (info.is_new, info.stale, info.facts, info.changes) == (False, True, {"mfa": True}, Changes())


def test_info_says_when_a_session_was_last_seen() -> None:
    """The idle deadline tells."""
    info = info_of(stored({}, user_id="1"), idle=timedelta(seconds=2))
    assert info.last_seen is not None
    assert info.last_seen.isoformat() == "1970-01-01T00:00:03+00:00"
    assert (info.address, info.user_agent, info.device) == (None, None, None)
    assert replace(info, user_agent="curl/8.5.0").device == "curl 8"


def test_a_detected_user_has_not_shown_who_they_are() -> None:
    """So there is no time at which they did."""
    assert info_of(stored({}, user_id="1", detected=True), idle=IDLE).authenticated_at is None
    assert info_of(stored({}), idle=IDLE).authenticated_at is None


@pytest.mark.parametrize("source", ["memory", "stale"])
def test_a_session_tells_whether_it_is_served_past_its_lease(source: str) -> None:
    """As whoever bound it says."""
    session, request = begun({"a": 1}), Request()
    request.source = source
    session._binding = request
    assert session.stale == session.info.stale == (source == "stale")


def test_info_of_a_session_that_does_not_exist_yet() -> None:
    """It has changes at most."""
    session = begun()
    session["a"] = 1
    info = session.info
    assert info == replace(info_of(None, idle=IDLE), changes=Changes(set_={"a": 1}), source="memory")
    assert Session(POLICY).info == info_of(None, idle=IDLE)
    assert (info.is_new, info.id, info.version) == (True, None, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SID, True),
        (SID + "\n", False),
        (SID[:-1], False),
        (SID[:-1] + "B", False),
        ("", False),
        ("00" + "é" * 22, False),
    ],
)
def test_an_id_has_one_form(text: str, expected: bool) -> None:
    """What has not is nobody's, and is never looked up."""
    assert is_sid(text) == expected


def test_only_changes_of_a_users_key_can_name_another_user() -> None:
    """A function may look at anything, so after it every change is looked at."""
    cart, user, gone = Changes(set_={"cart": 1}), Changes(set_={"user_id": "1"}), Changes(unset=("user_id",))
    assert [names_user(SessionPolicy(), changes) for changes in (cart, user, gone)] == [False, True, True]
    assert names_user(SessionPolicy(user_key=lambda data: data.get("cart")), cart)


@pytest.mark.parametrize("remember", [timedelta(0), timedelta(milliseconds=999), timedelta(days=401)])
def test_a_user_is_remembered_for_a_second_to_400_days(remember: timedelta) -> None:
    """Anything else raises on the line that asks, and signs nobody in."""
    session = begun()
    with pytest.raises(ValueError, match="a second to 400 days"):
        session.login(42, remember=remember)
    assert session.plan().login is None
    session.login(42, remember=timedelta(days=400))
    assert session.plan().login == Login(user_id="42", remember=timedelta(days=400))


async def test_a_living_session_can_be_kept_by_a_revocation() -> None:
    """The store is asked first; too late for a token, or without a session, nothing is kept."""
    session = begun({"a": 1})
    assert await session.keepable() == SID
    assert isinstance(session._binding, Request)
    assert session._binding.asked == ["revalidate"]
    session._binding = Request(has_started=True)
    with pytest.raises(ResponseStarted):
        await session.keepable()
    for session in (Session(SessionPolicy()), begun(None)):
        with pytest.raises(SessionDetached):
            await session.keepable()


def test_a_session_is_named_by_itself_its_info_or_its_id() -> None:
    """One that was never committed has no id, however it is given."""
    session = begun({"n": 1})
    assert [sid_of(session), sid_of(session.info), sid_of(SID)] == [SID] * 3
    assert (sid_of(begun()), sid_of(begun().info)) == (None, None)
