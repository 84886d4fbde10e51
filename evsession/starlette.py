"""In the place of `starlette.middleware.sessions`: the same constructor, order, defaults and behaviour.

``from evsession.starlette import SessionMiddleware`` is the one line that changes. What is the same, and what is safer
on purpose, stands in docs/reference/starlette.md, rule by rule.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Final, Literal, Self, cast
from weakref import WeakValueDictionary

from starlette.datastructures import Secret
from starlette.types import ASGIApp

from evsession import middleware, session
from evsession.config import CookiePolicy, SameSite, SessionPolicy
from evsession.conversation import Conversation
from evsession.cookies import CookieRenderer
from evsession.errors import ConfigError, InvalidUserId, StoreUnavailable
from evsession.exchange import Exchange
from evsession.keys import SECRET_LENGTH
from evsession.manager import SessionManager
from evsession.middleware import prefixes
from evsession.plan import Plan
from evsession.stores.memory import MemoryStore
from evsession.tokens import normalise_user_id

SecretKey = str | bytes | Secret | Sequence[str | bytes | Secret]

TWO_WEEKS: Final = 14 * 24 * 60 * 60
"""Starlette's `max_age`, in seconds."""

UNUSED_FOR: Final = timedelta(seconds=TWO_WEEKS)
"""How long an unused session is kept for ``max_age=None``: Starlette, which keeps none, has no such time."""

WHOLE_LIFE: Final = timedelta(days=400)
"""When a session ends however it is used, unless `max_age` is longer.  Source: RFC 6265bis, 5.5, the longest that a
browser keeps a cookie."""

LONGEST: Final = 3650 * 24 * 60 * 60
"""Seconds of the longest duration that a policy takes."""

AT_ONCE: Final = timedelta(milliseconds=1)
"""How long a session lives when `max_age` is below 1: the shortest duration that a policy takes."""

EVERYWHERE: Final = ("/",)

log = logging.getLogger("evsession.starlette")

_memories: WeakValueDictionary[bytes, MemoryStore] = WeakValueDictionary()
"""The sessions in memory, by a digest of their secret: as with signed cookies, one secret is one set of sessions."""

_warned: set[str] = set()


class Session(session.Session):
    """Starlette's `Session`, with `accessed` and `modified`, and all that evsession's can do.

    It is made like a dict; the middleware makes those that are committed. Emptied, it ends.
    """

    __slots__ = ()

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(_ALONE)
        dict.update(self, *args, **values)

    @classmethod
    def of(cls, *args: Any, **values: Any) -> Self:
        """Return the session of a request, made as evsession's own."""
        made = cls.__new__(cls)
        session.Session.__init__(made, *args, **values)
        return made

    def pop(self, key: str, *default: Any) -> Any:
        """Remove a key and return its value; without it, nothing was accessed."""
        return super().pop(key, *default) if dict.__contains__(self, key) else dict.pop(self, key, *default)

    def popitem(self) -> tuple[str, Any]:
        """Remove the newest key and return it with its value; in an empty session, nothing was modified."""
        return super().popitem() if dict.__len__(self) else dict.popitem(self)

    def clear(self) -> None:
        """End the session; values set afterwards begin a new one."""
        if self._binding is not None:
            super().clear()
        else:
            self.mark_modified()
            dict.clear(self)

    def plan(self) -> Plan:
        """Return what is to be committed; a session from which the last key went is at its end, as its cookie is.

        Unless somebody was signed in by `login`: then it holds more than its keys.
        """
        plan, before = super().plan(), None if self.base is None else self.base.snapshot
        if self or before is None or not before.data or plan.end is not None or plan.login is not None:
            return plan
        by_login = before.user_id is not None and not before.detected
        return plan if by_login else Plan(end="logout", begins=True)


class RuledExchange(Conversation):
    """One exchange by Starlette's rules of when a cookie is set."""

    new_session = Session.of

    async def commit(self, plan: Plan) -> None:
        """Commit a plan; where only equal values were set there is nothing to commit, and the cookie is set anew."""
        await super().commit(plan)
        if not plan and not self.started and not self.cookie:
            await self._set_again()

    async def _set_again(self) -> None:
        base, cached = self.session.base, self.cached
        if base is None or cached is None or not self.session.modified:
            return
        try:
            await self.manager.touch(cached, self.scope)
        except StoreUnavailable as error:
            log.debug("a cookie is not set again: %s", error)
        else:
            self._fence(base)


class Cookies(CookieRenderer):
    """Spells cookies as Starlette does."""

    def __init__(self, policy: CookiePolicy, max_age: int | None, same_site: str) -> None:
        super().__init__(policy)
        self._age = "" if max_age is None else f"Max-Age={max_age}; "
        self._path = policy.path
        self._flags = "; ".join(_flags(policy, same_site))

    def set(self, value: str, max_age: timedelta | None = None) -> bytes:
        """Return the header that sets the cookie."""
        age = self._age if max_age is None else f"Max-Age={max_age // timedelta(seconds=1)}; "
        return self._spelled(value, age)

    def clear(self) -> bytes:
        """Return the header that makes a browser forget the cookie."""
        return self._spelled("null", "expires=Thu, 01 Jan 1970 00:00:00 GMT; ")

    def _spelled(self, value: str, age: str) -> bytes:
        return f"{self._name}={value}; path={self._path}; {age}{self._flags}".encode("ascii")


def _flags(policy: CookiePolicy, same_site: str) -> list[str]:
    flags = ["httponly", f"samesite={same_site}"]
    if policy.secure:
        flags.append("secure")
    if policy.domain is not None:
        flags.append(f"domain={policy.domain}")
    if policy.partitioned:
        flags.append("partitioned")
    return flags


class RuledMiddleware(middleware.SessionMiddleware):
    """Serves one manager's sessions by Starlette's rules."""

    new_exchange = RuledExchange

    async def _load(self, exchange: Exchange) -> None:
        """Load as everywhere; where no request keeps a session alive, none has to look at its idle deadline again."""
        await super()._load(exchange)
        if exchange.cached is not None and self.passive == prefixes(EVERYWHERE):
            exchange.cached.touch_at = float("inf")

    def _is_same(self, other: SessionManager) -> bool:
        """Tell whether it is this manager, or that of a middleware around this one with the same secret and cookie."""
        mine, store = self.manager, self.manager.worker.store
        is_one = other.worker.store is store or (store.is_remote and repr(other.worker.store) == repr(store))
        return is_one and _identity(other) == _identity(mine)


def _identity(manager: SessionManager) -> tuple[object, ...]:
    return manager.cookie_name, manager.worker.keys.fingerprints()


class SessionMiddleware(RuledMiddleware):
    """Starlette's `SessionMiddleware`, with sessions on the server.

    `url` says where: ``redis://…`` for several workers. Without, they live in this process's memory, and a warning says
    so once. `manager` is for everything else, and brings its own key, cookie and policies.

    Raises:
        ConfigError: settings contradict each other, or a browser would drop the cookie; the text names the fix.
    """

    def __init__(  # noqa: PLR0917 (Starlette's order)
        self,
        app: ASGIApp,
        secret_key: SecretKey | None = None,
        session_cookie: str = "session",
        max_age: int | None = TWO_WEEKS,
        path: str = "/",
        same_site: Literal["lax", "strict", "none"] = "lax",
        https_only: bool = False,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        url: str | None = None,
        manager: SessionManager | None = None,
    ) -> None:
        given = (secret_key, session_cookie, max_age, path, same_site, https_only, domain, partitioned, url)
        if manager is not None:
            _check_alone(given)
            super().__init__(app, manager)
            return
        if secret_key is None:
            msg = "SessionMiddleware needs secret_key=, or a manager= that has one"
            raise ConfigError(msg)
        cookie = CookiePolicy(
            name=session_cookie, path=path, domain=domain, secure=https_only,
            same_site=cast(SameSite, same_site.lower()), partitioned=partitioned,
        )  # fmt: skip
        super().__init__(app, _manager(secret_key, url, cookie, max_age), passive=passive_for(max_age))
        self.manager.renderer = Cookies(cookie, max_age, same_site)


def _check_alone(given: tuple[object, ...]) -> None:
    names = (
        "secret_key", "session_cookie", "max_age", "path", "same_site", "https_only", "domain", "partitioned", "url",
    )  # fmt: skip
    usual = (None, "session", TWO_WEEKS, "/", "lax", False, None, False, None)
    if both := [name for name, value, default in zip(names, given, usual, strict=True) if value != default]:
        settings = ", ".join(f"{name}=" for name in both)
        msg = f"manager= brings its own {settings}; drop what stands beside it, and give it to SessionManager"
        raise ConfigError(msg)


def passive_for(max_age: int | None) -> tuple[str, ...]:
    """Return the paths that do not keep a session alive: all, as to Starlette only what is written does.

    Without `max_age` none: then it lives as long as it is used.
    """
    return () if max_age is None else EVERYWHERE


def policy_for(max_age: int | None) -> SessionPolicy:
    """Return how long a session lives whose cookie has this `max_age`, in seconds."""
    idle = UNUSED_FOR if max_age is None else max(timedelta(seconds=min(max_age, LONGEST)), AT_ONCE)
    return SessionPolicy(idle_timeout=idle, absolute_timeout=max(idle, WHOLE_LIFE), user_key=user_of)


def user_of(data: Mapping[str, Any]) -> str | None:
    """Return the user that ``user_id`` in the data names; None for what cannot be one, which Starlette takes too."""
    try:
        return normalise_user_id(data.get("user_id"))
    except InvalidUserId:
        return None


_ALONE: Final = SessionPolicy(user_key=None)
"""The policy of a session outside of requests."""


def _manager(secret_key: SecretKey, url: str | None, cookie: CookiePolicy, max_age: int | None) -> SessionManager:
    secrets, policy = texts_of(secret_key), policy_for(max_age)
    if url is not None:
        return SessionManager.from_url(url, secret_key=secrets, cookie=cookie, policy=policy)
    warn_of_memory()
    secrets = [stretched(secret) for secret in secrets]
    return SessionManager(memory_of(secrets[0]), secret_key=secrets, cookie=cookie, policy=policy)


def texts_of(secret_key: SecretKey) -> list[str | bytes]:
    """Return the secrets in what may be one or several, the one that signs first."""
    listed = [secret_key] if isinstance(secret_key, str | bytes | Secret) else list(secret_key)
    return [str(secret) if isinstance(secret, Secret) else secret for secret in listed]


def stretched(secret: str | bytes) -> str | bytes:
    """Return a secret, or in the place of a short one its digest, which is no harder to guess, but long enough."""
    if len(secret) >= SECRET_LENGTH:
        return secret
    return blake2b(secret if isinstance(secret, bytes) else secret.encode(), person=b"evsession short").hexdigest()


def memory_of(secret: str | bytes) -> MemoryStore:
    """Return the memory in which the sessions under a secret live, as long as any middleware uses it."""
    digest = blake2b(secret if isinstance(secret, bytes) else secret.encode()).digest()
    memory = _memories.get(digest)
    if memory is None:
        memory = _memories[digest] = MemoryStore()
    return memory


def warn_of_memory() -> None:
    """Say once in a process that its sessions are its own."""
    if "memory" not in _warned:
        _warned.add("memory")
        log.warning(
            "sessions live in the memory of this process: they end with it, and no other worker has them;"
            " for production pass url='redis://…', or manager=SessionManager.from_env()"
        )
