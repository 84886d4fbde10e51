"""What is known of a session beside its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from evsession.codec import Stored, idle_of
from evsession.control import names_of
from evsession.device import describe
from evsession.errors import ConfigError
from evsession.events import Changes

_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """What is known of a session beside its data; holds no token.

    `id` is public and safe to log, None before the first commit. Times are aware UTC, on the server's clock.
    A user that only the data named has a `user_id` and no `authenticated_at`. `last_seen` is exact to a tenth of the
    idle timeout. In a list of a user's sessions, `is_current` marks the one that asked for it, and `address` and
    `user_agent` are those of the login, as far as `AuditPolicy` keeps them.
    `changes` names what would be committed now. `stale` marks a session served past its lease by policy.
    `source` says where this request found its session: in the worker's ``memory``, asked of the ``server``, ``stale``
    or not at all because of an ``outage``, or ``none``, when there was no cookie to look for.
    """

    id: str | None
    version: int
    user_id: str | None
    names: tuple[str, ...]
    created_at: datetime | None
    authenticated_at: datetime | None
    expires_at: datetime | None
    is_new: bool
    stale: bool = False
    changes: Changes = field(default_factory=Changes)
    facts: Mapping[str, Any] = field(default_factory=dict)
    source: str = "none"
    last_seen: datetime | None = None
    address: str | None = None
    user_agent: str | None = None
    is_current: bool = False

    @property
    def device(self) -> str | None:
        """The browser and its system for people, such as ``Firefox 128 on Linux``; see `evsession.device.describe`."""
        return describe(self.user_agent)


def info_of(
    base: Stored | None, *, idle: timedelta, stale: bool = False, changes: Changes | None = None
) -> SessionInfo:
    """Return what is known of a stored session, or of one that does not exist yet; `idle` is the idle timeout."""
    if base is None:
        return SessionInfo(
            id=None, version=0, user_id=None, names=(), created_at=None, authenticated_at=None, expires_at=None,
            is_new=True, stale=stale, changes=changes or Changes(),
        )  # fmt: skip
    snapshot = base.snapshot
    return SessionInfo(
        id=snapshot.sid,
        version=snapshot.version,
        user_id=snapshot.user_id,
        names=names_of(snapshot),
        created_at=time_of(base.created_at),
        authenticated_at=time_of(base.authenticated_at) if base.authenticated_at and not snapshot.detected else None,
        expires_at=time_of(base.deadline),
        is_new=False,
        stale=stale,
        changes=changes or Changes(),
        facts=snapshot.facts,
        last_seen=time_of(base.idle_at - idle_of(base, idle // timedelta(milliseconds=1))),
    )


def time_of(milliseconds: int) -> datetime:
    """Return a time of the server's clock as an aware datetime."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def milliseconds_of(time: datetime) -> int:
    """Return the millisecond of the server's clock that a time lies in.

    Raises:
        ConfigError: the time has no zone.
    """
    if time.tzinfo is None:
        msg = "a time without a zone names no moment; use datetime.now(UTC) or datetime(…, tzinfo=UTC)"
        raise ConfigError(msg)
    return (time - _EPOCH) // timedelta(milliseconds=1)
