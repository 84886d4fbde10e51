"""The laws of redaction: the log and the redacted state agree, and equal digests mean equal everything."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from evsession.canonical import dumps, same
from evsession.codec import pack_event, type_of, unpack_event
from evsession.events import Event, Updated
from evsession.redaction import PREFIX, digest, redact, redact_snapshot
from evsession.state import Snapshot, fold
from tests.property import strategies

KEY = b"k" * 32
EMPTY = Snapshot(sid=strategies.SID)


def recorded(history: list[Event]) -> list[Event]:
    """Return the events as the log has them."""
    packed = [(type_of(event), pack_event(event, KEY, EMPTY.sid, n)) for n, event in enumerate(history, 1)]
    return [unpack_event(type_, raw) for type_, raw in packed]


@given(strategies.histories)
@example([Updated(set_={"a/b": [{"~": {"password": 1}}]}, redacted=("/a~1b/0/~0/password",))])
@example([Updated(set_={"password": 1}, redacted=("/password",)), Updated(set_={"a": 1})])
@example([Updated(set_={"a": ({"token": 1},)}, redacted=("/a/0/token",)), Updated(set_={"a": 1})])
def test_the_redacted_state_is_the_fold_of_the_redacted_events(history: list[Event]) -> None:
    """`redact(snapshot) == fold(events)`, marks and all: what `verify` relies on."""
    snapshot, told = fold(EMPTY, history), fold(EMPTY, recorded(history))
    assert dumps(redact_snapshot(KEY, snapshot)) == dumps(told.data)
    assert told.marks == snapshot.marks
    assert (told.user_id, told.names, told.secrets) == (snapshot.user_id, snapshot.names, snapshot.secrets)


@given(strategies.data)
def test_no_secret_value_is_left(data: dict[str, Any]) -> None:
    """After redaction every value under a secret name is a digest, at every depth."""
    paths = strategies.REDACTOR.paths(data)
    result = redact(KEY, "s", data, dict.fromkeys(paths, 1))
    assert strategies.REDACTOR.paths(result) == paths
    left: list[Any] = [result]
    while left:
        match left.pop():
            case dict() as members:
                secret = [value for name, value in members.items() if strategies.REDACTOR.hides(name)]
                assert all(isinstance(value, str) and value.startswith(PREFIX) for value in secret)
                left.extend(members.values())
            case list() | tuple() as members:
                left.extend(members)


places = st.tuples(
    st.sampled_from(("s", "s1")), st.sampled_from((1, 11)), st.sampled_from(("/a", "1/a", "")), strategies.values
)


@given(places, places)
@example(("s", 1, "/a", 1), ("s", 1, "/a", True))
@example(("s", 1, "/a", 1), ("s", 1, "/a", 1.0))
@example(("s", 11, "/a", 1), ("s1", 1, "/a", 1))
@example(("s", 1, "1/a", 1), ("s", 11, "/a", 1))
@example(("s", 1, "/a", [1]), ("s", 1, "/a", (1,)))
def test_digests_are_equal_for_equal_place_version_and_value_only(
    one: tuple[str, int, str, Any], other: tuple[str, int, str, Any]
) -> None:
    """So the log does not tell that two people have one password, or that one kept theirs."""
    is_same = one[:3] == other[:3] and same(one[3], other[3])
    assert (digest(KEY, *one) == digest(KEY, *other)) == is_same
