"""Events as a test compares them: what happened, without ids and times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evsession.events import Cause, RecordedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """What a test cares about in an event; equal when type, user of a login, data, and cause of an end are.

    `recorded` is the whole event, None in one that the test has written down itself.
    """

    type: str
    user_id: str | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    unset: frozenset[str] = frozenset()
    cause: Cause | None = None
    recorded: RecordedEvent | None = field(default=None, compare=False, repr=False)


def happened(events: Iterable[RecordedEvent]) -> list[Happened]:
    """Return recorded events, such as those of `manager.audit.history`, to be compared."""
    return [
        Happened(
            type=event.type,
            user_id=event.user_id if event.type == "authenticated" else None,
            set=dict(event.set),
            unset=frozenset(event.unset),
            cause=event.cause,
            recorded=event,
        )
        for event in events
    ]


def created(**data: Any) -> Happened:
    """Return the begin of an anonymous session, with what it was given."""
    return Happened(type="created", set=data)


def authenticated(user_id: object, /, *, unset: Iterable[str] = (), **data: Any) -> Happened:
    """Return a login, with what it set and removed."""
    return Happened(type="authenticated", user_id=str(user_id), set=data, unset=frozenset(unset))


def updated(*, unset: Iterable[str] = (), **data: Any) -> Happened:
    """Return a change, with the keys that it set and removed."""
    return Happened(type="updated", set=data, unset=frozenset(unset))


def renewed() -> Happened:
    """Return a change of the secret."""
    return Happened(type="renewed")


def ended(cause: Cause) -> Happened:
    """Return the end of a session."""
    return Happened(type="ended", cause=cause)
