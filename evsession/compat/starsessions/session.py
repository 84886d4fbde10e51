"""The functions of starsessions, and the handler behind them."""

from __future__ import annotations

import secrets
import time
from typing import Any, NoReturn, Protocol, cast

from starlette.requests import HTTPConnection

from evsession.canonical import dumps, same
from evsession.compat.starsessions.exceptions import SessionNotLoaded
from evsession.compat.starsessions.serializers import Serializer, encode
from evsession.compat.starsessions.types import SessionMetadata
from evsession.plan import Plan
from evsession.starlette import Session


def generate_session_id() -> str:
    """Return a random id; sessions get theirs, and their secret, when they begin."""
    return secrets.token_hex(16)


def regenerate_session_id(connection: HTTPConnection) -> str:
    """Replace the secret in the cookie, the old one dead at once, and return the session's id, which stays.

    Raises:
        ResponseStarted: it is too late for a cookie; nothing was changed.
    """
    return get_session_handler(connection).regenerate_id()


def get_session_id(connection: HTTPConnection) -> str | None:
    """Return the session's id, safe to log; None for one that has not begun, or whose cookie is not ours."""
    return get_session_handler(connection).session_id


def get_session_handler(connection: HTTPConnection) -> SessionHandler:
    """Return the handler of a connection's session."""
    return cast(SessionHandler, connection.scope["session_handler"])


async def load_session(connection: HTTPConnection) -> None:
    """Put the session in the place of the guard; once more does nothing."""
    await get_session_handler(connection).load()


def is_loaded(connection: HTTPConnection) -> bool:
    """Tell whether the session was loaded."""
    return get_session_handler(connection).is_loaded


def get_session_metadata(connection: HTTPConnection) -> SessionMetadata:
    """Return what is known of the session beside its data.

    Raises:
        SessionNotLoaded: it was not loaded.
    """
    metadata = get_session_handler(connection).metadata
    if metadata is None:
        raise SessionNotLoaded("Cannot read session metadata because session was not loaded.")
    return metadata


def get_session_remaining_seconds(connection: HTTPConnection) -> int:
    """Return the seconds until a lifetime that began with the session is over.

    Raises:
        SessionNotLoaded: it was not loaded.
    """
    metadata = get_session_metadata(connection)
    return int(metadata["created"] + metadata["lifetime"] - time.time())


class Turnable(Protocol):
    """What can keep a cookie, and say under which id a session will begin."""

    def keep_cookie(self) -> None:
        """Set the cookie once more with the response, unless something else is set."""

    def reserve_id(self) -> str:
        """Return the id under which a session will begin, if it does."""


class LoadGuard:
    """Stands in the scope until the session is loaded; whatever is done with it raises."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__doc__"):
            return object.__getattribute__(self, name)
        raise _unloaded()

    def __getitem__(self, key: str) -> NoReturn:
        raise _unloaded()

    def __setitem__(self, key: str, value: Any) -> NoReturn:
        raise _unloaded()

    def __delitem__(self, key: str) -> NoReturn:
        raise _unloaded()

    def __contains__(self, key: object) -> NoReturn:
        raise _unloaded()

    def __iter__(self) -> NoReturn:
        raise _unloaded()

    def __len__(self) -> NoReturn:
        raise _unloaded()

    def __repr__(self) -> str:
        return "<LoadGuard: the session was not loaded>"


def _unloaded() -> SessionNotLoaded:
    return SessionNotLoaded("Attempt to access session that has not been loaded yet.")


class MirroredSession(Session):
    """A session whose handler works on a plain dict, of values that a serializer makes of JSON and back."""

    __slots__ = ("_mirror", "_serializer", "_taken")

    _serializer: Serializer | None
    _mirror: dict[str, Any]
    _taken: dict[str, Any]

    def reflect(self, serializer: Serializer) -> dict[str, Any]:
        """Return the dict that the handler gets; what it holds at the commit is what is committed."""
        self._serializer = serializer
        self._mirror = serializer.deserialize(dumps(self))
        self._taken = encode(serializer, self._mirror)
        return self._mirror

    def might_differ(self) -> bool:
        """Take in what the handler did, and tell whether a plan could ask for anything."""
        self._take_in()
        return super().might_differ()

    def plan(self) -> Plan:
        """Take in what the handler did, and return what is to be committed."""
        self._take_in()
        return super().plan()

    def _take_in(self) -> None:
        serializer = getattr(self, "_serializer", None)
        if serializer is None:
            return
        before, after = self._taken, encode(serializer, self._mirror)
        self._taken = after
        for key in before.keys() - after.keys():
            if dict.__contains__(self, key):
                del self[key]
        for key, value in after.items():
            if key not in before or not same(before[key], value):
                self[key] = value


class SessionHandler:
    """The session of one connection; private in starsessions, so its fields are the same and no more."""

    def __init__(
        self,
        connection: HTTPConnection,
        session: MirroredSession,
        exchange: Turnable,
        *,
        serializer: Serializer | None,
        lifetime: int,
        rolling: bool,
    ) -> None:
        self.connection = connection
        self.serializer = serializer
        self.lifetime = lifetime
        self.rolling = rolling
        self.is_loaded = False
        self.initially_empty = False
        self.metadata: SessionMetadata | None = None
        self._session = session
        self._exchange = exchange
        self._reserved: str | None = None

    @property
    def session_id(self) -> str | None:
        """The session's id; None for one that has not begun."""
        base = self._session.base
        return self._reserved if base is None else base.snapshot.sid

    @property
    def is_empty(self) -> bool:
        """Whether the session holds nothing."""
        return len(self.connection.session) == 0

    async def load(self) -> None:
        """Put the session in the place of the guard."""
        self.load_now()

    def load_now(self) -> None:
        """Put the session in the place of the guard; it is here already."""
        if self.is_loaded:
            return
        self.is_loaded = True
        session, now = self._session, time.time()
        created = now if session.base is None else session.base.created_at / 1000
        self.metadata = {"lifetime": self.lifetime, "created": created, "last_access": now}
        self.initially_empty = not dict.__len__(session)
        handed_out = session if self.serializer is None else session.reflect(self.serializer)
        self.connection.scope["session"] = handed_out
        if self.rolling and self.lifetime:
            self._exchange.keep_cookie()

    async def save(self, remaining_time: int = 0) -> str:
        """Commit now, and return the session's id; none if there is nothing to be kept."""
        await self._session.save()
        return self.session_id or ""

    async def destroy(self) -> None:
        """End the session."""
        self._session.logout()

    def regenerate_id(self) -> str:
        """Replace the secret; return the session's id, of a new one that under which it will begin."""
        if self._session.base is not None:
            self._session.rotate()
            return self._session.base.snapshot.sid
        self._reserved = self._exchange.reserve_id()
        return self._reserved
