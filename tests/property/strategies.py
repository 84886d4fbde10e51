"""Hypothesis strategies for what the core handles: JSON values, events, and histories of one session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from evsession.events import Authenticated, Cause, Changes, Created, Ended, Event, Renewed, Updated
from evsession.redaction import Redactor

REDACTOR = Redactor(("password", "token", "_state_*"))
SID = "00" + "a" * 22

names = st.sampled_from(("a", "b", "cart", "a/b", "~", "~1", "", "é", "password", "api_token", "_state_x", "id"))
"""Names of keys: awkward in a JSON pointer, empty, beyond ASCII, and secret."""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(0, 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)


def _nested(members: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.one_of(
        st.lists(members, max_size=3),
        st.lists(members, max_size=3).map(tuple),
        st.dictionaries(names, members, max_size=3),
    )


values: SearchStrategy[Any] = st.recursive(scalars, _nested, max_leaves=6)
data: SearchStrategy[dict[str, Any]] = st.dictionaries(names, values, max_size=4)
blobs = st.binary(min_size=16, max_size=16)
hashes = st.text("abcdef0123456789", min_size=4, max_size=4)
causes: SearchStrategy[Cause] = st.sampled_from(("logout", "idle", "absolute", "revoked", "evicted", "token_reused"))


@st.composite
def changes(draw: Callable[[SearchStrategy[Any]], Any]) -> Changes:
    """Draw what an event does to the data, with the secret paths in it found."""
    set_ = draw(data)
    unset = draw(st.lists(names.filter(lambda name: name not in set_), max_size=2, unique=True))
    return Changes(set_=set_, unset=tuple(unset), redacted=REDACTOR.paths(set_))


@st.composite
def events(draw: Callable[[SearchStrategy[Any]], Any], *, ending: bool = True) -> Event:
    """Draw any event; without `ending` one that leaves the session alive."""
    changed = draw(changes())
    shared: dict[str, Any] = {"set_": changed.set_, "unset": changed.unset, "redacted": changed.redacted}
    match draw(st.integers(0, 4 if ending else 3)):
        case 0:
            return Created(**shared, secret=draw(hashes), control=draw(texts))
        case 1:
            return Updated(**shared)
        case 2:
            return Authenticated(
                **shared,
                user_id=draw(texts),
                secret=draw(hashes),
                control=draw(texts),
                names=tuple(draw(st.lists(texts, max_size=2))),
                detected=draw(st.booleans()),
                facts=draw(data),
                remember=draw(st.integers(0, 2**40)),
            )
        case 3:
            phase = draw(st.sampled_from(("rotated", "issued", "used")))
            return Renewed(**shared, secret=draw(hashes), phase=phase, seed=draw(texts))
        case _:
            return Ended(**shared, cause=draw(causes), reason=draw(texts))


histories: SearchStrategy[list[Event]] = st.lists(events(ending=False), min_size=1, max_size=5)
"""What happened to one living session."""
