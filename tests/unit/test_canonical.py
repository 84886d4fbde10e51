"""Canonical JSON: what it accepts is what it can write, and one value has one text."""

from __future__ import annotations

import enum
import math
from collections import UserDict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import pytest

from evsession.canonical import check_key, check_scalar, check_size, check_value, dumps, dumps_to_keep, loads, same
from evsession.config import SessionPolicy
from evsession.errors import CodecError, SessionTooLarge

LIMITS = SessionPolicy(max_bytes=20, max_key_length=5, max_depth=3, max_keys=2)


class Pair(NamedTuple):
    left: int
    right: int


class Colour(enum.StrEnum):
    RED = "red"


class Precise(float):
    pass


class Labels(dict[str, Any]):
    pass


def test_the_order_of_keys_is_no_difference() -> None:
    """Two dicts with the same members have the same text, at every depth."""
    assert (
        dumps({"b": {"y": 1, "x": 2}, "a": 0}) == dumps({"a": 0, "b": {"x": 2, "y": 1}}) == b'{"a":0,"b":{"x":2,"y":1}}'
    )


@pytest.mark.parametrize(
    ("left", "right"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ("1", 1), (None, False), ([], {}), ("", None)]
)
def test_values_that_python_may_call_equal_are_different(left: object, right: object) -> None:
    """`1`, `1.0` and `True` have different texts, so replacing one by the other is a change."""
    assert not same(left, right)
    assert not same([left], [right])


def test_a_tuple_is_the_same_as_a_list() -> None:
    """JSON has one kind of sequence."""
    assert same((1, (2,)), [1, [2]])


@pytest.mark.parametrize(
    "value", [None, True, 0, -(2**63), 2**64 - 1, 1.5, "", "é", Colour.RED, [], (), {}, Labels(a=1), [{"a": [1]}]]
)
def test_what_passes_the_check_can_be_written(value: object) -> None:
    """`check_value` never lets through what `dumps` refuses."""
    check_value("key", value, LIMITS)
    assert same(loads(dumps(value)), value)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (2**64, "integer over 64 bits"),
        (-(2**63) - 1, "integer over 64 bits"),
        (math.nan, "float nan"),
        (math.inf, "float inf"),
        (-math.inf, "float -inf"),
        ("\ud800", "lone surrogate"),
        ({1}, "set"),
        (b"x", "bytes"),
        (Decimal(1), "Decimal"),
        (datetime(2026, 1, 1, tzinfo=UTC), "datetime"),
        (UUID(int=1), "UUID"),
        (Precise(1), "Precise"),
        (Pair(1, 2), "Pair"),
        (UserDict(), "UserDict"),
        (object, "type"),
    ],
)
def test_what_json_has_not_raises_on_the_spot(value: object, found: str) -> None:
    """The error names the path of the value and what was found there."""
    with pytest.raises(CodecError, match=found) as caught:
        check_value("cart", {"items": [0, value]}, LIMITS)
    assert caught.value.key == "cart.items[1]"


@pytest.mark.parametrize(
    "value", [math.nan, 2**64, "\ud800", {1}, Precise(1), {1: 2}, datetime(2026, 1, 1, tzinfo=UTC)]
)
def test_writing_what_was_never_checked_raises_nothing_else(value: object) -> None:
    """An unchecked value is a `CodecError` too, but for NaN, which JSON's writer takes for null."""
    if isinstance(value, float) and math.isnan(value):
        assert dumps(value) == b"null"
        return
    with pytest.raises(CodecError):
        dumps(value)


@pytest.mark.parametrize(
    ("value", "is_container"),
    [([], True), ((), True), ({}, True), ("", False), (0, False), (0.5, False), (None, False)],
)
def test_containers_are_told_from_scalars(value: object, is_container: bool) -> None:
    """`check_scalar` says for which values somebody must look inside."""
    assert check_scalar("key", value) is is_container


def test_nesting_is_limited() -> None:
    """Three containers pass where three are allowed, a fourth does not, and a cycle ends there too."""
    check_value("key", [[[1]]], LIMITS)
    with pytest.raises(CodecError, match="max_depth=3"):
        check_value("key", [[[[]]]], LIMITS)
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(CodecError, match="max_depth=3"):
        check_value("key", cycle, LIMITS)


def test_what_cannot_be_read_deeper_cannot_be_written() -> None:
    """The reader takes deeper nesting than the writer; the writer's refusal is a `CodecError`."""
    with pytest.raises(CodecError, match="ecursion"):
        dumps(loads(b"[" * 300 + b"]" * 300))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (1, "key of type int"),
        (Colour.RED, "key of type Colour"),
        ("toolong", "max_key_length=5"),
        ("\ud800", "surrogate"),
    ],
)
def test_names_are_plain_short_texts(name: object, found: str) -> None:
    """A key is checked at the top and at every depth, and what `dumps` would refuse is refused at once."""
    with pytest.raises(CodecError, match=found):
        check_key(name, LIMITS)
    with pytest.raises(CodecError, match=found):
        check_value("key", [{name: 1}], LIMITS)


def test_a_key_of_just_the_allowed_length_passes() -> None:
    """`max_key_length` counts characters, not bytes."""
    check_key("ééééé", LIMITS)


def test_the_size_of_a_session_is_limited() -> None:
    """At the limit it passes; one byte or one key over it, the error names the largest key and the unit."""
    check_size({"a": 1, "b": "xx"}, b"x" * 20, LIMITS)
    with pytest.raises(SessionTooLarge) as caught:
        check_size({"a": 1, "b": "xx"}, b"x" * 21, LIMITS)
    assert (caught.value.size, caught.value.limit, caught.value.largest_key, caught.value.unit) == (
        21,
        20,
        "b",
        "bytes",
    )
    with pytest.raises(SessionTooLarge) as caught:
        check_size({"a": [1], "b": 1, "c": 2}, b"", LIMITS)
    assert (caught.value.size, caught.value.limit, caught.value.largest_key, caught.value.unit) == (3, 2, "a", "keys")


def test_a_limit_below_an_empty_session_is_still_an_error_of_its_own() -> None:
    """With no key at all there is no largest one to name."""
    with pytest.raises(SessionTooLarge) as caught:
        check_size({}, b"{}", SessionPolicy(max_bytes=1))
    assert caught.value.largest_key == ""


def test_what_was_read_belongs_to_the_caller() -> None:
    """Two readings share nothing."""
    first, second = loads(b'{"a":[]}'), loads(b'{"a":[]}')
    first["a"].append(1)
    assert second == {"a": []}


def test_what_is_kept_is_the_same_text() -> None:
    """Only its memory differs."""
    assert dumps_to_keep({"a": 1}) == dumps({"a": 1})


def test_a_text_that_is_no_json_raises_a_value_error() -> None:
    """Whoever reads foreign bytes can rely on one kind of error."""
    with pytest.raises(orjson.JSONDecodeError):
        loads(b"{")
    assert issubclass(orjson.JSONDecodeError, ValueError)
