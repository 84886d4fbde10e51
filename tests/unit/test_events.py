"""The classes of events, and of those who cause them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any, get_args

import pytest

from evsession.errors import ConfigError
from evsession.events import CAUSES, DEADLINES, Actor, Cause, Changes, Ended, Event, Updated


def test_the_causes_are_the_same_in_both_forms() -> None:
    """What type checkers know and what is checked at run time cannot drift apart."""
    assert set(get_args(Cause)) == CAUSES
    assert DEADLINES < CAUSES


def test_an_event_cannot_be_changed() -> None:
    """A fact stays what it was."""
    event = Ended(cause="logout")
    with pytest.raises(FrozenInstanceError):
        event.cause = "idle"  # type: ignore[misc]


def test_every_event_carries_changes() -> None:
    """A request that changes keys and logs in is one event."""
    assert all(issubclass(kind, Changes) for kind in get_args(Event))
    assert Updated() == Updated(set_={}, unset=(), redacted=())


@pytest.mark.parametrize(
    ("actor", "kind"),
    [
        (Actor.user("1"), "user"),
        (Actor.admin("1"), "admin"),
        (Actor.service("1"), "service"),
        (Actor.system("1"), "system"),
    ],
)
def test_only_code_says_what_kind_of_actor_it_is(actor: Actor, kind: str) -> None:
    """Each kind has its own constructor, so no id from outside can claim another kind."""
    assert (actor.kind, actor.id) == (kind, "1")


@pytest.mark.parametrize(
    ("kind", "id_"), [("root", "joe"), ("admin joe", "x"), ("admin", ""), ("admin", 7), ("admin", "x" * 257)]
)
def test_an_actor_is_of_a_known_kind_and_has_a_name(kind: Any, id_: Any) -> None:
    """A text from elsewhere cannot make a kind of its own."""
    with pytest.raises(ConfigError, match=r"write Actor\.admin\('joe'\)"):
        Actor(kind=kind, id=id_)
