"""Typed sessions: a change through an object is the same as through the dict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic
from hypothesis import example, given
from hypothesis import strategies as st

from evsession.session import Session
from tests.unit.test_session import begun


class Model(pydantic.BaseModel):
    """Fields of every kind."""

    text: str = ""
    number: int = 0
    flag: bool = False
    maybe: float | None = None
    items: list[str] = []
    inner: dict[str, int] = {}


@dataclass
class Data:
    """The same as a dataclass."""

    text: str = ""
    number: int = 0
    flag: bool = False
    maybe: float | None = None
    items: list[str] = field(default_factory=list)
    inner: dict[str, int] = field(default_factory=dict)


class Struct(msgspec.Struct):
    """The same as a struct."""

    text: str = ""
    number: int = 0
    flag: bool = False
    maybe: float | None = None
    items: list[str] = []
    inner: dict[str, int] = {}


texts = st.text(st.characters(codec="utf-8"), max_size=5)
numbers = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": texts,
    "number": numbers,
    "flag": st.booleans(),
    "maybe": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "items": st.lists(texts, max_size=3),
    "inner": st.dictionaries(texts, numbers, max_size=3),
}
some = st.fixed_dictionaries({}, optional=VALUES)
KINDS: list[Any] = [Model, Data, Struct]
classes = st.sampled_from(KINDS)


def _by_dict(data: dict[str, Any], changes: dict[str, Any]) -> Session:
    session = begun(data)
    session.update(changes)
    return session


@given(classes, st.fixed_dictionaries(VALUES), some)
@example(Model, {"inner": {"a": 1, "b": 2}}, {"inner": {"b": 2, "a": 1}})
@example(Model, {"flag": True, "number": 1}, {"flag": True, "number": 1})
def test_fields_are_keys(class_: Any, data: dict[str, Any], changes: dict[str, Any]) -> None:
    """What is to be committed does not tell which of both was changed."""
    session = begun(data)
    found = session.model(class_)
    for name, value in changes.items():
        setattr(found, name, value)
    other = _by_dict(data, changes)
    assert session.might_differ() == bool(other.plan())
    assert session.plan() == other.plan()
    assert dict(session) == dict(other)


@given(classes, some)
def test_a_key_comes_back_as_it_went(class_: Any, values: dict[str, Any]) -> None:
    """Whatever fits is stored, and read as the same again, without a change."""
    session = begun({})
    for name, value in values.items():
        setattr(session.model(class_, "here"), name, value)
    stored = session.plan().changes.set_
    again = begun(dict(stored))
    for name, value in values.items():
        assert getattr(again.model(class_, "here"), name) == value
    assert not again.might_differ()
