"""SessionManager: the one meeting place of policies, store, cache and requests."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final, Self, TypedDict, Unpack

from evsession.archive import open_archive
from evsession.audit import Audit
from evsession.cache import TOUCHES, Cached, CacheStats
from evsession.codec import Stored, idle_of, lifetime
from evsession.config import AuditPolicy, CachePolicy, CookiePolicy, SessionPolicy, StorePolicy
from evsession.connections import Connection
from evsession.context import device_of
from evsession.cookies import CookieRenderer
from evsession.desk import Desk
from evsession.endings import OnEnded
from evsession.errors import ConfigError, StoreUnavailable, Unsupported
from evsession.keys import Keyring, Secret, listed_secrets
from evsession.store import Store
from evsession.stores import open_store
from evsession.stores.memory import MemoryStore
from evsession.tokens import Purpose, Ticket, parse
from evsession.worker import Counts, Worker, local_clock, milliseconds

log = logging.getLogger("evsession.manager")

_HASHING: Final = blake2b(digest_size=16)
# Copied for each cookie: to make one from nothing takes half as long again (4,400 and 3,100 instructions, counted).

MAX_MEMO: Final = 50_000
"""Checked cookies that are remembered, by digest: as many as sessions are cached by default."""

VARY: Final = {
    (True, False): b"Cookie",
    (False, True): b"Authorization",
    (True, True): b"Cookie, Authorization",
}
"""What a response that depends on the session varies by: whether cookies are taken, and bearer tokens."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether this worker can serve, and what keeps it from it."""

    ready: bool
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """What this worker did since it was started.

    `open` WebSockets and event streams have a session now, `closed` ones were closed because of what became of theirs.
    """

    worker: str
    entries: int
    bytes: int
    cache: CacheStats
    counts: Counts
    conflicts: int
    retries: int
    open: int
    closed: int


class Options(TypedDict, total=False):
    """What `SessionManager.from_url` and `from_env` hand on to the constructor."""

    secret_key: Secret | Sequence[Secret] | None
    application: str | None
    policy: SessionPolicy | None
    cookie: CookiePolicy | None
    cache: CachePolicy | None
    audit: AuditPolicy | None
    allowed_origins: Sequence[str]
    transports: Sequence[Purpose]
    clock: Callable[[], float]


class SessionManager(Desk):
    """Sessions for one application in one process.

    Without a store sessions live in this process's memory, under a key made for it. Use it as ``async with manager:``
    or give it to `SessionMiddleware`, which starts and stops it.

    Raises:
        ConfigError: settings contradict each other; the text names the fix.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        secret_key: Secret | Sequence[Secret] | None = None,
        namespace: str = "evsession",
        application: str | None = None,
        policy: SessionPolicy | None = None,
        cookie: CookiePolicy | None = None,
        cache: CachePolicy | None = None,
        audit: AuditPolicy | None = None,
        patience: StorePolicy | None = None,
        allowed_origins: Sequence[str] = (),
        transports: Sequence[Purpose] = ("cookie",),
        clock: Callable[[], float] = local_clock,
    ) -> None:
        home: Store = MemoryStore() if store is None else store
        if secret_key is None:
            if home.is_remote:
                msg = (
                    "secret_key= is required for a shared store; make one with"
                    " python -c 'import secrets; print(secrets.token_urlsafe(32))'"
                )
                raise ConfigError(msg)
            secret_key = secrets.token_urlsafe(32)
        policy, cookie, audit, cache = (
            policy or SessionPolicy(),
            cookie or CookiePolicy(),
            audit or AuditPolicy(),
            cache or CachePolicy(),
        )
        if policy.max_sessions is not None and not home.has_log:
            raise Unsupported("max_sessions= on a snapshot backend", "give the sessions a server, url='redis://…'")
        keys = Keyring(secret_key, namespace=namespace, audit_key=audit.key)
        worker = Worker(
            home,
            keys,
            application=application or namespace,
            session=policy,
            cache=cache,
            audit=audit,
            patience=patience or StorePolicy(),
            clock=clock,
        )
        super().__init__(worker, policy, cookie, audit, transports)
        self.takes_cookies = "cookie" in self.transports
        self.takes_bearer = "bearer" in self.transports
        self.vary = VARY[self.takes_cookies, self.takes_bearer]
        self.cache_policy = cache
        self.allowed_origins = tuple(allowed_origins)
        self.renew_ms = 0 if policy.renew_after is None else milliseconds(policy.renew_after.total_seconds())
        self.grace_ms = milliseconds(policy.renew_grace.total_seconds())
        self.renderer = CookieRenderer(self.cookie)
        self.cookie_name = self.cookie.name.encode()
        self.audit = Audit(self.worker)
        if audit.archive is not None:
            self.audit.archive = open_archive(audit.archive, namespace, self.worker.store)
        self._memo: dict[bytes, Ticket | None] = {}
        self._tokens_left = float(self.policy.anonymous_per_second)
        self._refilled_at = clock()
        self._has_warned = False

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        namespace: str = "evsession",
        patience: StorePolicy | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Return a manager on ``memory://``, ``embedded://[directory]``, ``redis://``, ``rediss://`` or ``unix://``.

        `options` are those of the constructor.

        Raises:
            ConfigError: the URL has another scheme, or a setting is wrong; the text names the fix.
        """
        store, own_key = open_store(url, namespace=namespace, policy=patience)
        if own_key is not None:
            options.setdefault("secret_key", own_key)
        return cls(store, namespace=namespace, patience=patience, **options)

    @classmethod
    def from_env(
        cls,
        prefix: str = "EVSESSION_",
        *,
        namespace: str | None = None,
        patience: StorePolicy | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Return a manager from ``EVSESSION_URL``, ``EVSESSION_NAMESPACE`` and ``EVSESSION_SECRET_KEY``.

        What is given here counts before the environment; `options` are those of the constructor. Several secret keys
        are separated by spaces, the one that signs first, so none has a space in it. ``EVSESSION_ARCHIVE`` is the place
        of the archive and ``EVSESSION_AUDIT_KEY`` the key for heads, unless `audit` is given. An auditor who has only
        the latter can read and verify, and no more.

        Raises:
            ConfigError: no URL is set, or a setting is wrong.
        """
        url = os.environ.get(f"{prefix}URL")
        if url is None:
            msg = f"the environment has no {prefix}URL; set it, for example {prefix}URL=redis://localhost:6379/0"
            raise ConfigError(msg)
        if "secret_key" not in options and (keys := _secrets_in(f"{prefix}SECRET_KEY")):
            options["secret_key"] = keys
        audit_keys = tuple(_secrets_in(f"{prefix}AUDIT_KEY"))
        if audit_keys:
            options.setdefault("secret_key", audit_keys)
        archive = os.environ.get(f"{prefix}ARCHIVE")
        if archive or audit_keys:
            options.setdefault("audit", AuditPolicy(archive=archive, key=audit_keys or None))
        if namespace is None:
            namespace = os.environ.get(f"{prefix}NAMESPACE") or "evsession"
        return cls.from_url(url, namespace=namespace, patience=patience, **options)

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Open the store. An outage is no error here: the worker keeps trying, and `health` tells.

        Raises:
            ConfigError: the namespace belongs to another application or other keys.
        """
        try:
            await self.prove()
        except StoreUnavailable as error:
            self.worker.problem = error
        except ConfigError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the background work and close the store; the manager can be started again, as a new worker."""
        await self.worker.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Self]:
        """Open the store to read the audit trail without being a worker: no heartbeat, record, sweep or subscription.

        For programs that look on, such as the command line. Only `audit` is of use within; a manager that is started
        already goes on as it is.

        Raises:
            ConfigError: nothing was ever written under this namespace, or under other keys.
            StoreUnavailable: the store did not answer.
        """
        if self.worker.is_started:
            yield self
            return
        self.worker.is_reader = True
        try:
            await self.worker.ensure_open()
            yield self
        finally:
            await self.stop()
            self.worker.is_reader = False

    async def prove(self) -> None:
        """Have the control log known, and leases that prove what is served from memory.

        Raises:
            StoreUnavailable, ConfigError: it cannot be had.
        """
        await self.worker.ensure_open()
        await self.worker.replica.ensure_lease(self.worker.store.shards[0])

    async def health(self) -> Health:
        """Return whether this worker can prove what it serves."""
        problems = []
        try:
            await self.prove()
        except (StoreUnavailable, ConfigError) as error:
            problems.append(str(error))
        return Health(not problems, tuple(problems))

    def stats(self) -> Stats:
        """Return what this worker did since it was started."""
        worker = self.worker
        cache, committer = worker.cache, worker.committer
        return Stats(
            worker=worker.id,
            entries=len(cache),
            bytes=cache.bytes,
            cache=replace(cache.stats),
            counts=replace(worker.counts, commits=committer.appended),
            conflicts=committer.conflicts,
            retries=committer.retries,
            open=len(worker.connections),
            closed=worker.connections.closed_count,
        )

    def on_ended(self, callback: OnEnded) -> OnEnded:
        """Have a function called on this worker with (session id, cause) once for each session that ends.

        It runs in the background and may be async; what it raises is logged. Usable as a decorator.
        """
        self.worker.endings.add(callback)
        return callback

    async def sweep(self) -> int:
        """End the sessions whose deadline has passed now, and return how many; background work does so every second.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        await self.worker.ensure_open()
        return await self.worker.sweep()

    # ── what the middleware calls ────────────────────────────────────────────────────────────────────────────────────

    def ticket(self, raw: bytes, purpose: Purpose = "cookie") -> Ticket | None:
        """Return what a token says; the memo is keyed by its digest, so that no token stays in memory."""
        hashing = _HASHING.copy()
        hashing.update(raw)
        digest = hashing.digest()
        if purpose != "cookie":
            digest += b"b"
        try:
            return self._memo[digest]
        except KeyError:
            return self._memoise(digest, parse(self.worker.keys, purpose, self.cookie.name, raw))

    def remember(self, value: str, ticket: Ticket) -> None:
        """Know what a cookie says before it comes back: every write gives it another fence, so another value.

        Source: to check a token anew took 27 µs of a write (measured, with cold caches).
        """
        self._memoise(blake2b(value.encode(), digest_size=16).digest(), ticket)

    def _memoise(self, digest: bytes, ticket: Ticket | None) -> Ticket | None:
        if len(self._memo) >= MAX_MEMO:
            self._memo.clear()
        self._memo[digest] = ticket
        return ticket

    def server_now(self) -> int:
        """Return about what the server's clock says, in ms: only for what may come a little early or late."""
        return round(self.clock() * 1000) + self.worker.replica.ahead

    async def touch(self, used: Cached | Connection, scope: Mapping[str, Any] | None = None) -> None:
        """Move the idle deadline of a session that was used, by the request that `scope` is of."""
        worker = self.worker
        sent_at = self.clock()
        idle = idle_of(used.stored, worker.idle_ms) if isinstance(used, Cached) else worker.idle_ms
        reply = await worker.store.touch(used.sid, idle)
        worker.counts.touches += 1
        if reply.deadlines is not None:
            used.deadline = max(used.deadline, sent_at + (min(reply.deadlines) - reply.now) / 1000)
            if scope is not None and isinstance(used, Cached):
                await self.index.keep(used.stored, device_of(scope, self.audit_policy))

    def slide(self, cached: Cached, scope: Mapping[str, Any], *, is_passive: bool) -> None:
        """Keep a used session alive: a touch in the background, at most `TOUCHES` times in an idle timeout."""
        if is_passive:
            return
        now, idle = self.clock(), self.worker.idle_ms / 1000
        lasts = idle_of(cached.stored, self.worker.idle_ms) / 1000
        is_fresh = cached.touch_at == 0.0 and cached.deadline - now > lasts - idle / TOUCHES
        cached.touch_at = now + idle / TOUCHES
        if not (is_fresh or cached.dead or cached.stored.snapshot.ended is not None):
            self.worker.spawn_or_run(self._touch_quietly(cached, scope))

    def slide_open(self, connection: Connection) -> None:
        """Keep the session of a WebSocket alive whose client has said something, as `slide` does for a request's."""
        now = self.clock()
        if now >= connection.touch_at:
            connection.touch_at = now + self.worker.connections.touch_every
            self.worker.spawn_or_run(self._touch_quietly(connection))

    async def _touch_quietly(self, used: Cached | Connection, scope: Mapping[str, Any] | None = None) -> None:
        try:
            await self.touch(used, scope)
        except StoreUnavailable as error:
            log.debug("a touch failed and is left to the next request: %s", error)

    def warn_about_insecure(self, scope: Mapping[str, Any]) -> None:
        """Say once that a Secure cookie leaves over plain http, where browsers other than on localhost drop it."""
        if self._has_warned or not self.cookie.secure or scope.get("scheme") not in ("http", "ws"):
            return
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").partition(b":")[0]
        if host in (b"localhost", b"127.0.0.1", b"testserver"):
            self._has_warned = True
            log.warning(
                "the Secure cookie %r leaves over plain http, and clients may drop it;"
                " for development use cookie=CookiePolicy.for_localhost()", self.cookie.name,
            )  # fmt: skip

    def set_cookie(self, value: str, stored: Stored) -> bytes:
        """Return the Set-Cookie value that hands out a token, kept by the browser as long as its session may live."""
        lasts = self.cookie.persistent or stored.snapshot.remembered
        return self.renderer.set(value, lifetime(stored) if lasts else None)

    def may_create_anonymous(self) -> bool:
        """Take one of the anonymous sessions that this worker may create in a second; False when none is left."""
        now, rate = self.clock(), self.policy.anonymous_per_second
        self._tokens_left = min(rate, self._tokens_left + (now - self._refilled_at) * rate)
        self._refilled_at = now
        if self._tokens_left < 1:
            return False
        self._tokens_left -= 1
        return True


def _secrets_in(variable: str) -> list[str]:
    return listed_secrets(os.environ.get(variable, ""), variable)
