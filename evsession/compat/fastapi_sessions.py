"""The middlewares and the backend of a well-known tutorial, which no published library has: its programs run here.

A ``backend=`` of three coroutines keeps snapshots; see `evsession.stores.snapshots` for what that means. When a cookie
is set and how it is spelled are Starlette's rules, as in `evsession.starlette`.
"""

from __future__ import annotations

import logging
from typing import Final, Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from evsession.config import CookiePolicy
from evsession.errors import ConfigError
from evsession.keys import SECRET_LENGTH
from evsession.manager import SessionManager
from evsession.middleware import INSTALLED
from evsession.starlette import (
    TWO_WEEKS,
    Cookies,
    RuledMiddleware,
    SecretKey,
    memory_of,
    passive_for,
    policy_for,
    stretched,
    texts_of,
    warn_of_memory,
)
from evsession.store import Store
from evsession.stores.memory import MemoryStore
from evsession.stores.snapshots import Backend, SnapshotStore

__all__ = ["Backend", "InMemoryBackend", "InmemoryBackend", "SessionAutoloadMiddleware", "SessionMiddleware"]

SameSite = Literal["lax", "strict", "none"]

log = logging.getLogger("evsession.compat")


class InMemoryBackend:
    """Sessions in the memory of this process, with all that a log can do; middlewares given the same one share them."""

    def __init__(self) -> None:
        self.store: Final = MemoryStore()


InmemoryBackend = InMemoryBackend
"""As the tutorial also spells it."""


class SessionMiddleware(RuledMiddleware):
    """Sessions in memory, or where a backend keeps them.

    `secret_key` is bytes or text. `backend` is an `InMemoryBackend`, or any object with the coroutines
    ``get_session_data(id)``, ``save_session_data(id, data)`` and ``delete_session_data(id)``. A session lives `max_age`
    seconds after its last change. With or without `autoload_cookie` it is there when the handler begins.

    Raises:
        ConfigError: the backend lacks a coroutine, or a browser would drop the cookie; the text names the fix.
    """

    def __init__(
        self,
        app: ASGIApp,
        secret_key: SecretKey,
        cookie_name: str = "session",
        cookie_https_only: bool = True,
        *,
        autoload_cookie: bool = True,
        backend: Backend | InMemoryBackend | None = None,
        max_age: int | None = TWO_WEEKS,
        cookie_same_site: SameSite = "lax",
        cookie_domain: str | None = None,
        cookie_path: str = "/",
    ) -> None:
        cookie = CookiePolicy(
            name=cookie_name, path=cookie_path, domain=cookie_domain, secure=cookie_https_only,
            same_site=cookie_same_site,
        )  # fmt: skip
        secrets = texts_of(secret_key)
        manager = SessionManager(
            _store(backend, secrets[0]),
            secret_key=[stretched(secret) for secret in secrets],
            cookie=cookie,
            policy=policy_for(max_age),
        )
        super().__init__(app, manager, passive=passive_for(max_age))
        self.manager.renderer = Cookies(cookie, max_age, cookie_same_site)


def _store(backend: Backend | InMemoryBackend | None, secret: str | bytes) -> Store:
    if backend is None:
        warn_of_memory()
        return memory_of(secret)
    if isinstance(backend, InMemoryBackend):
        warn_of_memory()
        return backend.store
    if len(secret) < SECRET_LENGTH:
        log.warning(
            "secret_key has %d characters: whoever guesses it and can write to the backend can forge sessions;"
            " use at least %d", len(secret), SECRET_LENGTH,
        )  # fmt: skip
    return SnapshotStore(backend)


class SessionAutoloadMiddleware:
    """With a secret, sessions in memory for simple cases, over http too; without, or beside the other, nothing.

    There is nothing to autoload: every session is there when the handler begins.
    """

    def __init__(
        self,
        app: ASGIApp,
        secret_key: SecretKey | None = None,
        cookie_name: str = "session",
        cookie_https_only: bool = False,
        *,
        backend: Backend | InMemoryBackend | None = None,
    ) -> None:
        if secret_key is None and backend is not None:
            msg = "SessionAutoloadMiddleware with a backend= needs secret_key= as well"
            raise ConfigError(msg)
        self.app = app
        self.sessions: ASGIApp = app
        if secret_key is not None:
            self.sessions = SessionMiddleware(app, secret_key, cookie_name, cookie_https_only, backend=backend)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.app if INSTALLED in scope else self.sessions)(scope, receive, send)
