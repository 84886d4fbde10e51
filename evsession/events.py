"""The facts that can happen to a session, and how they look once they are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from evsession.errors import ConfigError

Cause = Literal["logout", "idle", "absolute", "revoked", "evicted", "token_reused", "switched"]
CAUSES: Final[frozenset[str]] = frozenset(
    ("logout", "idle", "absolute", "revoked", "evicted", "token_reused", "switched")
)
DEADLINES: Final[frozenset[str]] = frozenset(("idle", "absolute"))
Kind = Literal["user", "admin", "service", "system"]
KINDS: Final[tuple[str, ...]] = ("user", "admin", "service", "system")
MAX_ACTOR: Final = 256
"""Characters of an actor's id: as many as a user's id may have."""

Phase = Literal["rotated", "issued", "used"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an event does to the data: keys set and keys removed, never the same key in both.

    `redacted` holds a JSON pointer for each value within `set_` that leaves the worker only as a digest.
    """

    set_: Mapping[str, Any] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Created(Changes):
    """An anonymous session began."""

    secret: str
    control: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated(Changes):
    """The data changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated(Changes):
    """Somebody signed in; with version 1, the session began with it.

    The secret that came before is dead at once. `detected` says that only the data told, no call of `login`.
    `remember` is the time to the absolute deadline in ms that the login asked for, 0 for the policy's.
    """

    user_id: str
    secret: str
    control: str
    names: tuple[str, ...] = ()
    detected: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    remember: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed(Changes):
    """The secret was replaced: `rotated` at once, or `issued` and later `used` by a renewal.

    `seed` says from what the issued secret was derived, beside the old one; see `tokens.renew`.
    """

    secret: str
    phase: Phase
    seed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Changes):
    """The session is over, for good. `by` is the id of the control log's entry if it was revoked by name."""

    cause: Cause
    reason: str = ""
    by: str = ""


Event = Created | Updated | Authenticated | Renewed | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who did it: a kind that only code can set, and an id.

    `Actor.user("42")`, `Actor.admin("joe")`, `Actor.service("billing")`, `Actor.system("sweeper")`.

    Raises:
        ConfigError: there is no such kind, or the id is no text of 1 to 256 characters.
    """

    kind: Kind
    id: str

    def __post_init__(self) -> None:
        _check_actor(self.kind, self.id)

    @classmethod
    def user(cls, id: str) -> Actor:
        """Return an end user as actor."""
        return cls(kind="user", id=id)

    @classmethod
    def admin(cls, id: str) -> Actor:
        """Return a member of staff as actor."""
        return cls(kind="admin", id=id)

    @classmethod
    def service(cls, id: str) -> Actor:
        """Return a program as actor."""
        return cls(kind="service", id=id)

    @classmethod
    def system(cls, id: str) -> Actor:
        """Return evsession itself as actor, as for a passed deadline."""
        return cls(kind="system", id=id)


def _check_actor(kind: object, id: object) -> None:
    if kind not in KINDS or not isinstance(id, str) or not 0 < len(id) <= MAX_ACTOR:
        msg = (
            f"an actor has one of the kinds {', '.join(KINDS)} and a text of 1 to {MAX_ACTOR} characters as id;"
            " write Actor.admin('joe'), or Actor.user(str(user_id))"
        )
        raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """One event as the log has it.

    A revocation by `name`, such as ``user:42``, is an event of no session: `session_id` is empty, `version` 0, and
    `event` is what it means for each session of that name; one that was excepted stands in `context` as ``kept``.

    `id` is the stream id, `at` its time on the server's clock (aware, UTC). Redacted values stand as digests.
    """

    id: str
    session_id: str
    version: int
    type: str
    at: datetime
    actor: Actor | None
    user_id: str | None
    context: Mapping[str, Any]
    set: Mapping[str, Any]
    unset: tuple[str, ...]
    cause: Cause | None
    reason: str
    cursor: str
    event: Event
    name: str | None = None
