"""evsession: event-sourced sessions for ASGI apps, cached in every worker, logged out everywhere at once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from evsession.config import AuditPolicy, CachePolicy, CookiePolicy, SessionPolicy, StorePolicy
    from evsession.desk import NewSession
    from evsession.errors import (
        ArchiveUnavailable,
        CodecError,
        ConfigError,
        ConnectionClosed,
        CorruptArchive,
        CorruptSnapshot,
        EvsessionError,
        InvalidUserId,
        LogTrimmed,
        ProcessDied,
        ResponseStarted,
        SessionConflict,
        SessionDetached,
        SessionEnded,
        SessionError,
        SessionInvalid,
        SessionLimitReached,
        SessionTooLarge,
        StoreUnavailable,
        UnknownFormat,
        Unsupported,
    )
    from evsession.events import Actor, RecordedEvent
    from evsession.info import SessionInfo
    from evsession.manager import Health, SessionManager, Stats
    from evsession.middleware import SessionMiddleware, session_of
    from evsession.revocation import Receipt
    from evsession.session import Session
    from evsession.stores.memory import MemoryStore
    from evsession.stores.redis import RedisStore

_HOMES: Final = {
    "config": ("AuditPolicy", "CachePolicy", "CookiePolicy", "SessionPolicy", "StorePolicy"),
    "errors": (
        "ArchiveUnavailable", "CodecError", "ConfigError", "ConnectionClosed", "CorruptArchive", "CorruptSnapshot",
        "EvsessionError", "InvalidUserId", "LogTrimmed", "ProcessDied", "ResponseStarted", "SessionConflict",
        "SessionDetached", "SessionEnded", "SessionError", "SessionInvalid", "SessionLimitReached", "SessionTooLarge",
        "StoreUnavailable", "UnknownFormat", "Unsupported",
    ),
    "events": ("Actor", "RecordedEvent"),
    "desk": ("NewSession",),
    "manager": ("Health", "SessionManager", "Stats"),
    "middleware": ("SessionMiddleware", "session_of"),
    "info": ("SessionInfo",),
    "revocation": ("Receipt",),
    "session": ("Session",),
    "stores.memory": ("MemoryStore",),
    "stores.redis": ("RedisStore",),
}  # fmt: skip

_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Actor",
    "ArchiveUnavailable",
    "AuditPolicy",
    "CachePolicy",
    "CodecError",
    "ConfigError",
    "ConnectionClosed",
    "CookiePolicy",
    "CorruptArchive",
    "CorruptSnapshot",
    "EvsessionError",
    "Health",
    "InvalidUserId",
    "LogTrimmed",
    "MemoryStore",
    "NewSession",
    "ProcessDied",
    "Receipt",
    "RecordedEvent",
    "RedisStore",
    "ResponseStarted",
    "Session",
    "SessionConflict",
    "SessionDetached",
    "SessionEnded",
    "SessionError",
    "SessionInfo",
    "SessionInvalid",
    "SessionLimitReached",
    "SessionManager",
    "SessionMiddleware",
    "SessionPolicy",
    "SessionTooLarge",
    "Stats",
    "StorePolicy",
    "StoreUnavailable",
    "UnknownFormat",
    "Unsupported",
    "session_of",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home when it is first asked for: the core needs neither redis nor fastapi."""
    if name not in _HOME_OF:
        msg = f"module 'evsession' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"evsession.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
