"""What a session asks to be committed, and which user its data names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, NamedTuple

from evsession.config import SessionPolicy
from evsession.events import Actor, Cause, Changes
from evsession.tokens import Purpose, normalise_user_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What `login` was called with; `detected` when only the data told, `transport` None for that of the request.

    `remember` is the time to the absolute deadline, None for the policy's.
    """

    user_id: str
    names: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    actor: Actor | None = None
    detected: bool = False
    remember: timedelta | None = None
    transport: Purpose | None = None


_NOTHING: Final = Changes()


class Plan(NamedTuple):
    """What a session asks to be committed: first an end, then a change of what is there, or a new beginning.

    `end` ends the session that was there. `changes`, `login` and `rotate` then apply to a new session if `begins`,
    else to the one that was there.
    """

    end: Cause | None = None
    begins: bool = False
    changes: Changes = _NOTHING
    login: Login | None = None
    rotate: bool = False

    def __bool__(self) -> bool:
        return bool(self.end or self.login or self.rotate or self.changes.set_ or self.changes.unset)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the keys that change, for logs."""
        return (*self.changes.set_, *self.changes.unset)


def user_keys(policy: SessionPolicy) -> tuple[str, ...]:
    """Return the names of the keys that tell the user, for apps that never call `login`."""
    key = policy.user_key
    if isinstance(key, str):
        return (key,)
    return key if isinstance(key, tuple) else ()


def names_user(policy: SessionPolicy, changes: Changes) -> bool:
    """Tell whether changes can make a difference to `detect`."""
    if callable(policy.user_key):
        return True
    keys = user_keys(policy)
    return not (changes.set_.keys().isdisjoint(keys) and set(keys).isdisjoint(changes.unset))


def detect(policy: SessionPolicy, data: Mapping[str, Any]) -> str | None:
    """Return the user that the data names, by the policy's key, keys or function; None for nobody.

    Raises:
        InvalidUserId: what stands there cannot be a user.
    """
    if callable(policy.user_key):
        found = policy.user_key(data)
    else:
        found = next((data[key] for key in user_keys(policy) if data.get(key) is not None), None)
    return None if found is None else normalise_user_id(found)
