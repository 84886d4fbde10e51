"""Which values are secret, and what stands in their place."""

from __future__ import annotations

from typing import Any

import pytest

from evsession.config import DEFAULT_REDACT
from evsession.events import Changes
from evsession.redaction import (
    MAX_DIGESTS,
    MAX_STATES,
    PREFIX,
    Carried,
    Redactor,
    digest,
    redact,
    redact_changes,
    redact_snapshot,
    without,
)
from evsession.state import Snapshot

KEY = b"k" * 32
DEFAULT = Redactor(DEFAULT_REDACT)


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWORD",
        "userPassword",
        "accessToken",
        "ID-TOKEN",
        "tokens",
        "api_key",
        "apiKey",
        "API key",
        "credit_card",
        "code-verifier",
        "_state_google_abc",
        "_STATE_x",
        "p.a.s.s.w.d",
    ],
)
def test_secret_names_are_found_in_any_spelling(name: str) -> None:
    """Case and punctuation make no difference."""
    assert DEFAULT.hides(name)


@pytest.mark.parametrize("name", ["", "cart", "user_id", "state", "x_state_x", "pass", "key", "api", "é", "\n"])
def test_other_names_are_not(name: str) -> None:
    """A glob must match the whole name, a word all of itself."""
    assert not DEFAULT.hides(name)


def test_no_pattern_hides_nothing_and_a_star_everything() -> None:
    """The two extremes."""
    assert not Redactor(()).hides("password")
    assert not Redactor(()).hides("")
    assert Redactor(("*",)).hides("anything\nat all")
    assert Redactor(("*",)).hides("")


@pytest.mark.parametrize("pattern", ["-", "_", "", "$"])
def test_a_pattern_of_punctuation_matches_only_itself(pattern: str) -> None:
    """Without case and punctuation it would be the empty text, which stands in every name."""
    redactor = Redactor((pattern,))
    assert redactor.hides(pattern)
    assert not redactor.hides("cart")
    assert not redactor.hides(f"cart{pattern}x")


def test_a_pattern_is_no_regular_expression() -> None:
    """Its letters mean themselves."""
    assert not Redactor(("p.n",)).hides("pan")
    assert Redactor(("p.n",)).hides("P.N.")


def test_paths_lead_to_the_outermost_secrets_through_every_container() -> None:
    """Dicts, lists and tuples are walked; what is within a secret is not; names are escaped."""
    data: dict[str, Any] = {
        "password": {"token": 1},
        "a/b": {"~": {"token": None}},
        "cards": [1],
        "list": [0, {"token": 1}, ({"token": ()}, [{"x": 1}])],
        "plain": {"x": [1, "password"]},
        "": {"token": 1},
    }
    assert DEFAULT.paths(data) == (
        "/password",
        "/a~1b/~0/token",
        "/cards",
        "/list/1/token",
        "/list/2/0/token",
        "//token",
    )


def test_redaction_puts_a_digest_at_each_mark_and_changes_nothing_else() -> None:
    """Tuples are read like lists; what is not on the way to a mark is shared, and the data given is untouched."""
    data: dict[str, Any] = {"a/b": ({"token": 1}, {"~": [2, 3]}), "other": {"x": 1}, "pin": 4}
    kept = {"a/b": ({"token": 1}, {"~": [2, 3]}), "other": {"x": 1}, "pin": 4}
    result = redact(KEY, "s", data, {"/a~1b/0/token": 1, "/a~1b/1/~0/1": 2, "/pin": 3})
    assert result == {
        "a/b": [{"token": digest(KEY, "s", 1, "/a~1b/0/token", 1)}, {"~": [2, digest(KEY, "s", 2, "/a~1b/1/~0/1", 3)]}],
        "other": {"x": 1},
        "pin": digest(KEY, "s", 3, "/pin", 4),
    }
    assert result["other"] is data["other"]
    assert data == kept


def test_without_marks_the_data_is_the_very_same() -> None:
    """The ordinary case costs nothing."""
    data = {"a": 1}
    assert redact(KEY, "s", data, {}) is data


def test_a_digit_is_a_name_in_a_dict_and_an_index_in_a_list() -> None:
    """A pointer does not say which; the container does."""
    assert redact(KEY, "s", {"0": ["x", "y"]}, {"/0/1": 1}) == {"0": ["x", digest(KEY, "s", 1, "/0/1", "y")]}
    assert redact(KEY, "s", {"0": {"1": "y"}}, {"/0/1": 1}) == {"0": {"1": digest(KEY, "s", 1, "/0/1", "y")}}


def test_a_snapshot_is_redacted_under_its_own_id() -> None:
    """The marks say where and since when."""
    snapshot = Snapshot(sid="s", version=7, data={"pin": 1}, marks={"/pin": 4})
    assert redact_snapshot(KEY, snapshot) == {"pin": digest(KEY, "s", 4, "/pin", 1)}


def test_a_digest_says_what_it_is_and_not_what_it_was() -> None:
    """It is recognisable, of fixed length, and depends on a key."""
    text = digest(KEY, "s", 1, "/pin", "1234")
    assert text.startswith(PREFIX)
    assert len(text) == len(PREFIX) + 32
    assert text != digest(b"o" * 32, "s", 1, "/pin", "1234")
    assert "1234" not in text


def test_changes_are_redacted_at_the_version_that_they_make() -> None:
    """And those without a secret are what they are."""
    changes = Changes(set_={"pin": 1, "n": 2}, redacted=("/pin",))
    assert redact_changes(KEY, "s", 4, changes) == {"pin": digest(KEY, "s", 4, "/pin", 1), "n": 2}
    assert redact_changes(KEY, "s", 4, Changes(set_={"n": 2})) == {"n": 2}


# ── what is carried from commit to commit ────────────────────────────────────────────────────────────────────────────


SHOWN = {"pin": "redacted:1"}


def test_the_digests_of_the_newest_state_of_a_session_are_known() -> None:
    """By its head, so of another state, which came from elsewhere, nothing is known."""
    carried = Carried()
    carried.keep("s", b"1", SHOWN)
    assert [carried.of("s", b"1"), carried.of("s", b"2"), carried.of("t", b"1")] == [SHOWN, {}, {}]
    carried.keep("s", b"2", SHOWN | {"n": "redacted:2"})
    assert [carried.of("s", b"1"), carried.of("s", b"2")] == [{}, SHOWN | {"n": "redacted:2"}]


def test_only_so_many_sessions_are_known() -> None:
    """With one more it begins anew; those that are known already may go on."""
    carried = Carried()
    for number in [*range(MAX_STATES), 0]:
        carried.keep(str(number), b"head", SHOWN)
    assert carried.of("0", b"head") == carried.of(str(MAX_STATES - 1), b"head") == SHOWN
    carried.keep("more", b"head", SHOWN)
    assert (carried.of("0", b"head"), carried.of("more", b"head")) == ({}, SHOWN)


def test_a_state_is_known_up_to_so_many_digests() -> None:
    """Memory stays bounded, whatever a session holds."""
    carried, most = Carried(), {f"pin{number}": "redacted:1" for number in range(MAX_DIGESTS)}
    carried.keep("most", b"head", most)
    carried.keep("more", b"head", most | SHOWN)
    assert (carried.of("most", b"head"), carried.of("more", b"head")) == (most, {})


@pytest.mark.parametrize("value", [{"pin": "redacted:1", "name": "x"}, ["redacted:1"], 1])
def test_nothing_but_digests_is_kept(value: Any) -> None:
    """A container with a secret deep in it may be long, and is none."""
    carried = Carried()
    carried.keep("s", b"head", SHOWN | {"bank": value})
    assert carried.of("s", b"head") == {}


def test_what_is_known_as_a_digest_only_can_be_removed() -> None:
    """At every depth, and nothing beside it; the data that was given is untouched."""
    data = {
        "token": "t",
        "bank": {"iban": "x", "name": "y"},
        "list": [{"pin": 1, "k": 2}],
        "a/b~": {"secret": 1},
        "n": 1,
    }
    marks = dict.fromkeys(("/token", "/bank/iban", "/list/0/pin", "/a~1b~0/secret"), 1)
    changes = without(data, marks)
    assert changes == Changes(set_={"bank": {"name": "y"}, "list": [{"k": 2}], "a/b~": {}}, unset=("token",))
    assert data["bank"] == {"iban": "x", "name": "y"}
    assert without(data, {}) == Changes()
