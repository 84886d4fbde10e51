"""The two middlewares of starsessions. Which of them is added first does not matter."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, cast

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from evsession import middleware
from evsession.compat.starsessions.exceptions import ImproperlyConfigured
from evsession.compat.starsessions.homes import KEPT, home_of, secret_keys_of
from evsession.compat.starsessions.serializers import Serializer, own_serializer
from evsession.compat.starsessions.session import LoadGuard, MirroredSession, SessionHandler, load_session
from evsession.compat.starsessions.stores.base import SessionStore
from evsession.config import CookiePolicy, SameSite, SessionPolicy
from evsession.conversation import Conversation
from evsession.cookies import CookieRenderer, Headers
from evsession.manager import SessionManager
from evsession.session import Session
from evsession.starlette import EVERYWHERE, LONGEST, WHOLE_LIFE, SecretKey, user_of

_AUTOLOAD: Final = "evsession.autoload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the middleware was given; `lifetime` is in seconds, 0 for a cookie that goes with the browser."""

    lifetime: int
    rolling: bool
    serializer: Serializer | None
    path: str | None
    cookie: CookiePolicy

    @property
    def policy(self) -> SessionPolicy:
        """How long sessions live: from their beginning, with `rolling` from their last use."""
        lifetime = timedelta(seconds=min(self.lifetime, LONGEST))
        if self.lifetime and not self.rolling:
            return SessionPolicy(idle_timeout=lifetime, absolute_timeout=lifetime, user_key=user_of)
        idle = lifetime or KEPT
        return SessionPolicy(idle_timeout=idle, absolute_timeout=max(idle, WHOLE_LIFE), user_key=user_of)

    def dressed(self, cookie: bytes, scope: Scope, remaining: int) -> bytes:
        """Return a Set-Cookie value with its attributes, as starsessions spells them.

        `remaining` is how many seconds of the lifetime are left.
        """
        bare = cookie.decode("ascii")
        path = f"path={self.path or scope.get('root_path', '') or '/'}"
        domain = [f"domain={self.cookie.domain}"] if self.cookie.domain else []
        secure = ["secure"] if self.cookie.secure else []
        flags = ["httponly", f"samesite={self.cookie.same_site}", *secure]
        if bare.endswith(_CLEARED):
            parts = [bare, path, "expires=Thu, 01 Jan 1970 00:00:00 GMT", *flags, *domain]
        else:
            age = [f"max-age={remaining}"] if self.lifetime and "; max-age=" not in bare else []
            parts = [bare, path, *age, *domain, *flags]
        return "; ".join(parts).encode("ascii")


_CLEARED: Final = "=''"


class BareCookies(CookieRenderer):
    """Writes name and value only: the path and what is left of a lifetime depend on the request."""

    def set(self, value: str, max_age: timedelta | None = None) -> bytes:
        """Return the name and the value, and an age only where a login asked for its own."""
        age = "" if max_age is None else f"; max-age={max_age // timedelta(seconds=1)}"
        return f"{self._name}={value}{age}".encode("ascii")

    def clear(self) -> bytes:
        """Return the name and what starsessions writes for no value."""
        return f"{self._name}{_CLEARED}".encode("ascii")


class GuardedExchange(Conversation):
    """One exchange whose session is behind a guard until it is loaded."""

    new_session = MirroredSession.of

    def __init__(self, settings: Settings, *parts: Any) -> None:
        super().__init__(*parts)
        self._settings = settings
        self._reserved: str | None = None

    def serve(self) -> Session:
        """Make the session, and put a guard in its place unless it is to be loaded at once."""
        session, settings, scope = cast(MirroredSession, super().serve()), self._settings, self.scope
        handler = SessionHandler(
            HTTPConnection(scope), session, self,
            serializer=settings.serializer, lifetime=settings.lifetime, rolling=settings.rolling,
        )  # fmt: skip
        scope["session_handler"], scope["session"] = handler, LoadGuard()
        if scope.get(_AUTOLOAD):
            handler.load_now()
        return cast(Session, scope["session"])

    def close(self) -> None:
        """Be over; the handler leaves the scope, which it holds."""
        self.scope.pop("session_handler", None)
        super().close()

    def carried(self) -> Headers:
        """Return the headers that the response must carry, the cookie with its attributes."""
        headers = super().carried()
        if not self.cookie:
            return headers
        dressed = self._settings.dressed(self.cookie, self.scope, self._remaining())
        return [(name, dressed if value is self.cookie else value) for name, value in headers]

    def _remaining(self) -> int:
        base, lifetime = self.session.base, self._settings.lifetime
        known = None if base is None else self.manager.worker.cache.newest(base.snapshot.sid)
        if known is None or self._settings.rolling:
            return lifetime
        return max(0, round(known.deadline - self.manager.clock()))

    def keep_cookie(self) -> None:
        """Set the cookie once more with the response, unless something else is set."""
        base = self.session.base
        if base is not None and not self.cookie and not self.started:
            self._fence(base)

    def reserve_id(self) -> str:
        """Return the id under which a session will begin, if it does."""
        self._reserved = super()._new_sid()
        return self._reserved

    def _new_sid(self) -> str:
        return self._reserved or super()._new_sid()


class SessionMiddleware(middleware.SessionMiddleware):
    """Gives each connection a session that is there once it was loaded.

    `secret_key`, which starsessions has not, signs cookies and seals what is stored; without, it is taken from
    ``EVSESSION_SECRET_KEY``, and else made of what the store is, which is warned of.

    Raises:
        ImproperlyConfigured: the lifetime is negative.
        ConfigError: a browser would drop the cookie, or the secret is another than before.
        Unsupported: the serializer writes no JSON.
    """

    def __init__(  # noqa: PLR0917 (starsessions' order)
        self,
        app: ASGIApp,
        store: SessionStore,
        lifetime: int | timedelta = 0,
        rolling: bool = False,
        cookie_name: str = "session",
        cookie_same_site: str = "lax",
        cookie_https_only: bool = True,
        cookie_domain: str | None = None,
        cookie_path: str | None = None,
        serializer: Serializer | None = None,
        *,
        secret_key: SecretKey | None = None,
    ) -> None:
        seconds = int(lifetime.total_seconds() if isinstance(lifetime, timedelta) else lifetime)
        if seconds < 0:
            msg = f"lifetime={lifetime} is negative; use 0 for a cookie that goes with the browser"
            raise ImproperlyConfigured(msg)
        cookie = CookiePolicy(
            name=cookie_name, path=cookie_path or "/", domain=cookie_domain, secure=cookie_https_only,
            same_site=cast(SameSite, cookie_same_site),
        )  # fmt: skip
        settings = Settings(
            lifetime=seconds, rolling=rolling, serializer=own_serializer(serializer), path=cookie_path, cookie=cookie
        )
        home = home_of(store, seconds)
        namespace = getattr(home, "namespace", "starsessions")
        manager = SessionManager(
            home, secret_key=secret_keys_of(store, secret_key), namespace=namespace, cookie=cookie,
            policy=settings.policy,
        )  # fmt: skip
        super().__init__(app, manager, passive=EVERYWHERE if seconds and not rolling else ())
        self.store = store
        self.lifetime = seconds
        self.rolling = rolling
        self.manager.renderer = BareCookies(cookie)
        self.new_exchange = partial(GuardedExchange, settings)


class SessionAutoloadMiddleware:
    """Loads the session of each connection whose path begins as one of `paths` does; without paths, of all.

    A path is text or a compiled pattern, and is matched as a regular expression from its beginning.
    """

    def __init__(self, app: ASGIApp, paths: Iterable[str | re.Pattern[str]] | None = None) -> None:
        self.app = app
        self.paths = list(paths or ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and self.should_autoload(HTTPConnection(scope)):
            if "session_handler" in scope:
                await load_session(HTTPConnection(scope))
            else:
                scope[_AUTOLOAD] = True
        await self.app(scope, receive, send)

    def should_autoload(self, connection: HTTPConnection) -> bool:
        """Tell whether the session of a connection is to be loaded."""
        return not self.paths or any(re.match(path, connection.url.path) for path in self.paths)
