"""The quick way to fold a session's log and the long way lead to the same snapshot and the same bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evsession.canonical import dumps
from evsession.chain import Heads, head_of, link_of
from evsession.codec import UPCASTERS, pack_body, pack_event, type_of, unpack_event
from evsession.events import Authenticated, Created, Ended, Event, Updated
from evsession.folding import Folding
from evsession.state import Snapshot, evolve
from tests.property.strategies import SID, blobs, events, names, scalars, values

KEY = b"k" * 32
BEGUN = Created(set_={"a": 1, "password": "p"}, redacted=("/password",), secret="s", control='5-0 "d":')


def folded(folding: Folding, type_: str, raw: bytes) -> bytes:
    """Return the body after one entry of the log, the way the prover goes."""
    folding.take_in(type_.encode(), raw)
    return folding.body


@given(st.lists(events(), max_size=8))
@example([BEGUN, Updated(set_={"password": "q"}, redacted=("/password",)), Updated(set_={"b": 2})])
@example([BEGUN, Updated(unset=("password",)), Updated(set_={"b": 2}, unset=("a",))])
@example([BEGUN, Updated(unset=("a", "none"))])
@example([BEGUN, Updated(set_={"b": 2}), Ended(cause="idle"), Updated(set_={"c": 3}), Ended(cause="logout")])
def test_both_ways_lead_to_the_same(history: list[Event]) -> None:
    """After every event, whatever came before it; asking for snapshots and bodies in between changes nothing."""
    folding, silent, snapshot = Folding(Snapshot(sid=SID)), Folding(Snapshot(sid=SID)), Snapshot(sid=SID)
    for number, event in enumerate(history):
        raw = pack_event(event, KEY, SID, snapshot.version + 1)
        body = folded(folding, type_of(event), raw)
        silent.take_in(type_of(event).encode(), raw)
        snapshot = evolve(snapshot, unpack_event(type_of(event), raw))
        assert body == pack_body(snapshot, dumps(snapshot.data))
        assert folding.status == (b"L" if snapshot.ended is None else b"E")
        assert folding.version == snapshot.version
        if number % 2:
            assert folding.snapshot == snapshot
    assert folding.snapshot == silent.snapshot == snapshot
    assert silent.body == folding.body


@pytest.mark.parametrize(
    "raw",
    [
        b"x", b"[]", b"1", b'{"v":1}', b'{"x":[]}', b'{"set":[]}', b'{"unset":{}}', b'{"unset":[1]}',
        b'{"unset":[["a"]]}', b'{"set":null}', b'{"set":{"b":1},"unset":null}',
        b'{"set":{"password":1}}', b'{"unset":["password"]}',
    ],
)  # fmt: skip
def test_what_is_not_plain_goes_the_long_way(raw: bytes) -> None:
    """Secret values, facts of another version, and what is no update at all; nothing has happened then."""
    folding = Folding(Snapshot(sid=SID))
    assert not folding.apply(b"updated", b"{}")  # there is nothing yet
    folding.fold(BEGUN)
    before = folding.snapshot
    assert not folding.apply(b"updated", raw)
    assert folding.snapshot == before


said = st.dictionaries(
    st.sampled_from(("set", "unset", "x", "secret", "control", "user", "names", "detected", "facts", "remember", "v")),
    st.one_of(values, st.lists(st.sampled_from(("/a", "/password", "a"))), st.dictionaries(names, scalars, max_size=2)),
)
"""What an event may say, or what nobody with the key would."""


@given(st.sampled_from(("created", "updated", "authenticated", "renewed", "moved")), said, st.booleans(), st.booleans())
@example("created", {"secret": "s", "set": None}, False, False)
@example("created", {"secret": "s", "x": [1]}, False, False)
@example("created", {"secret": "s", "control": 1}, False, False)
@example("created", {"secret": "s"}, True, False)
@example("authenticated", {"user": "ada", "secret": "s", "facts": []}, True, False)
@example("authenticated", {"user": "ada", "secret": "s", "remember": True}, True, False)
@example("authenticated", {"user": "ada", "secret": "s", "names": ["a", 1]}, True, False)
@example("authenticated", {"user": "ada", "secret": "s", "set": {"b": 2}, "x": ["/b"], "remember": 5}, True, False)
@example("authenticated", {"user": "ada", "secret": "s"}, True, True)
def test_what_is_applied_quickly_is_what_the_long_way_makes(
    type_: str, said: dict[str, Any], has_begun: bool, has_ended: bool
) -> None:
    """Whatever it says: the same snapshot as by `evolve`, or nothing at all."""
    before = Snapshot(sid=SID)
    for event in (BEGUN, Ended(cause="idle"))[: has_begun + (has_begun and has_ended)]:
        before = evolve(before, event)
    folding, raw = Folding(Snapshot(sid=SID)), dumps(said)
    if has_begun:
        folding.fold(BEGUN)
        if has_ended:
            folding.fold(Ended(cause="idle"))
    assert folding.snapshot == before
    if folding.apply(type_.encode(), raw):
        applied = unpack_event(type_, raw)
        assert folding.snapshot == evolve(before, applied)
        assert folding.remember == (applied.remember if isinstance(applied, Authenticated) else 0)
    else:
        assert folding.snapshot == before


@pytest.mark.parametrize("type_", ["created", "authenticated"])
def test_a_snapshot_that_was_handed_out_stays_as_it_was(type_: str) -> None:
    """Though updates are applied in place, and its data are those that were read."""
    folding = Folding(Snapshot(sid=SID))
    folding.take_in(
        type_.encode(), b'{"secret":"s","set":{"a":1}%s}' % (b',"user":"ada"' if type_ != "created" else b"")
    )
    before = folding.snapshot
    folding.take_in(b"updated", b'{"set":{"a":2}}')
    assert (before.version, before.data) == (1, {"a": 1})
    assert (folding.snapshot.version, folding.snapshot.data) == (2, {"a": 2})


def test_old_events_go_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """There they are brought to today's form first."""
    folding = Folding(Snapshot(sid=SID))
    folding.fold(BEGUN)
    assert folding.apply(b"updated", b'{"set":{"b":1}}')
    monkeypatch.setitem(UPCASTERS, "updated", (lambda data: data,))
    assert not folding.apply(b"updated", b'{"set":{"b":1}}')


def test_what_has_no_canonical_form_has_no_head() -> None:
    """Data too deep to be written folds to a body that nobody has made a head for, by either way."""
    folding = Folding(Snapshot(sid=SID))
    folding.fold(BEGUN)
    deep = b'{"set":{"a":' + b"[" * 260 + b"]" * 260 + b"}}"
    assert folding.apply(b"updated", deep)
    assert b'"d":null' in folding.body
    folding.fold(unpack_event("updated", deep))
    assert b'"d":null' in folding.body


@given(blobs, st.tuples(*[st.binary(max_size=1_100)] * 7), st.integers(1, 10**9), st.binary(max_size=1_100))
def test_heads_are_made_the_same_by_whoever_makes_many(
    previous: bytes, covered: tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes], version: int, body: bytes
) -> None:
    """To the byte, also where a part is long."""
    heads = Heads(KEY)
    assert heads.link(previous, covered) == link_of(KEY, previous, covered)
    head = heads.head(previous, b"sid", b"%d" % version, b"L", body)
    assert head == head_of(KEY, previous, b"sid", version, b"L", body)
