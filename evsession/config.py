"""The policies: frozen, keyword-only, checked when they are made.

Durations are `timedelta`, so no number is ever taken for another unit. A wrong setting raises `ConfigError`, whose text
names the setting that works.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from evsession.errors import ConfigError
from evsession.events import Actor
from evsession.keys import Secret, check_secret

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
else:  # whoever resolves the annotations of a policy, such as pydantic-settings, finds no name missing
    HTTPConnection = Any

OnLimit = Literal["evict_oldest", "reject"]
OnOutage = Literal["refuse", "stale", "anonymous"]
OnLostLease = Literal["close", "keep"]
Transport = Literal["cookie", "bearer"]
SameSite = Literal["lax", "strict", "none"]
Address = Literal["none", "truncated", "full"]
UserKey = str | tuple[str, ...] | Callable[[Mapping[str, Any]], object] | None

DEFAULT_REDACT: Final[tuple[str, ...]] = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "card",
    "cvv",
    "iban",
    "ssn",
    "code_verifier",
    "api_key",
    "private_key",
    "credential",
    "_state_*",
)
"""Names whose values leave the worker only as digests: parts of a name, and globs for whole names.

Add to it with ``redact=(*DEFAULT_REDACT, "pin")``.
``_state_*`` is where Authlib keeps an OAuth exchange.
Source: OWASP ASVS 5.0, 16.2.5, and Logging Cheat Sheet, "Data to exclude".
"""

_TRANSPORTS: Final[tuple[tuple[Transport, ...], ...]] = (
    ("cookie",), ("bearer",), ("cookie", "bearer"), ("bearer", "cookie")
)  # fmt: skip
UNIX: Final = "unix"
"""What stands in `trusted_proxies` for whoever connects over a unix socket."""

_MILLISECOND: Final = timedelta(milliseconds=1)
_LONGEST: Final = timedelta(days=3650)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH: Final = re.compile(r"/[ -:<-~]*")
_DOMAIN: Final = re.compile(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionPolicy:
    """How long sessions live, who they belong to, and how large they may be.

    idle_timeout: 30 minutes without a request end a session.
        Source: NIST SP 800-63B-3, 4.2.3 (AAL2), which OWASP ASVS 5.0, 7.1.1 refers to.
    absolute_timeout: 12 hours end it, whatever happens; set at creation and anew by a login, moved by nothing else.
        Source: the same.
    renew_after: replace the secret of a cookie this long after it was made; None, the default, never.
        Source: OWASP Session Management Cheat Sheet, "Renewal Timeout", which leaves it to the application.
    renew_grace: how long the old secret stays good after the first use of the new one: 30 s, the time that a browser's
        parallel requests and their retries are under way. Shorter than `renew_after`.
    user_key: the key of the data that tells the user of an app which never calls `login`; several names (the first that
        is set counts), a function of the data, or None to detect nothing. ``"user_id"`` is what most apps write.
    max_sessions: living sessions of one user, from 1; None, the default, is no limit.
    on_limit: end the oldest one, or refuse the login. Evicting is the default: it locks no owner out.
    keep_on_error: commit what was changed also when the handler raised; no, as a database would roll back.
    max_bytes: bytes of JSON. 64 KiB is 190 times an ordinary snapshot (350 B in Redis, measured).
    max_key_length: characters of a key. max_keys: keys at the top level. max_depth: containers within each other,
        far below the depth at which parsers refuse. All three only stop runaway programs.
    anonymous_per_second: sessions without a user that one worker creates: 100, so that a flood costs at most 100 KB of
        Redis a second (a session of two events has 0.89 KB, measured).
    """

    idle_timeout: timedelta = timedelta(minutes=30)
    absolute_timeout: timedelta = timedelta(hours=12)
    renew_after: timedelta | None = None
    renew_grace: timedelta = timedelta(seconds=30)
    user_key: UserKey = "user_id"
    max_sessions: int | None = None
    on_limit: OnLimit = "evict_oldest"
    keep_on_error: bool = False
    max_bytes: int = 65_536
    max_key_length: int = 256
    max_depth: int = 32
    max_keys: int = 1024
    anonymous_per_second: int = 100

    def __post_init__(self) -> None:
        _check_durations(self, "idle_timeout", "absolute_timeout", "renew_grace")
        _check_counts(self, "max_bytes", "max_key_length", "max_depth", "max_keys", "anonymous_per_second")
        _check_choice(self, "on_limit", ("evict_oldest", "reject"))
        _check_flags(self, "keep_on_error")
        _check_user_key(self.user_key)
        if self.max_sessions is not None:
            _check_counts(self, "max_sessions")
        if self.renew_after is not None:
            self._check_renewal(self.renew_after)

    def _check_renewal(self, renew_after: timedelta) -> None:
        _check_durations(self, "renew_after")
        if self.renew_grace >= renew_after:
            fact = f"renew_grace={self.renew_grace} is not shorter than renew_after={renew_after}"
            msg = f"{fact}; make renew_after longer"
            raise ConfigError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class CookiePolicy:
    """The cookie, and everything that a browser is told about it.

    name: ``__Host-`` makes browsers insist on Secure, Path=/ and no Domain, so no sister domain can plant one.
        Source: RFC 6265bis, 4.1.3; OWASP ASVS 5.0, 3.3.3.
    secure, http_only: only over https; invisible to scripts.  Source: OWASP ASVS 5.0, 3.3.1 and 3.3.4.
    same_site: ``lax`` keeps links from other sites signed in, and cross-site POSTs out.
        Source: RFC 6265bis, 4.1.2.7; OWASP ASVS 5.0, 3.3.2.
    persistent: keep the cookie until the absolute timeout, instead of until the browser closes; no, because a session
        cookie never touches the disk.  Source: OWASP Session Management Cheat Sheet, "Expire and Max-Age Attributes".
    partitioned: a jar of its own under each top-level site, for apps that are embedded in others.  Source: CHIPS.
    """

    name: str = "__Host-session"
    path: str = "/"
    domain: str | None = None
    secure: bool = True
    http_only: bool = True
    same_site: SameSite = "lax"
    persistent: bool = False
    partitioned: bool = False

    @classmethod
    def for_localhost(cls) -> CookiePolicy:
        """Return the policy for development over plain http: the name ``session``, not Secure, all else as usual."""
        return cls(name="session", secure=False)

    def __post_init__(self) -> None:
        _check_choice(self, "same_site", ("lax", "strict", "none"))
        _check_flags(self, "secure", "http_only", "persistent", "partitioned")
        self._check_texts()
        prefix = self.name.lower()  # as browsers compare prefixes: RFC 6265bis
        if prefix.startswith("__host-") and (self.domain is not None or self.path != "/"):
            fact = f"cookie name {self.name!r} allows neither a domain nor a path other than '/'"
            msg = f"{fact}; drop them, or use name='__Secure-session'"
            raise ConfigError(msg)
        if not self.secure:
            self._check_insecure(prefixed=prefix.startswith(("__host-", "__secure-")))

    def _check_texts(self) -> None:
        if not _matches(_TOKEN, self.name):
            msg = f"cookie name {self.name!r} is no token of RFC 6265; use letters, digits, '-' and '_'"
            raise ConfigError(msg)
        if not _matches(_PATH, self.path):
            msg = f"cookie path {self.path!r} does not work; begin it with '/' and use printable ASCII without ';'"
            raise ConfigError(msg)
        if self.domain is not None and not _matches(_DOMAIN, self.domain):
            msg = f"cookie domain {self.domain!r} is no host name; write it like 'example.com', or use domain=None"
            raise ConfigError(msg)

    def _check_insecure(self, *, prefixed: bool) -> None:
        if prefixed:
            msg = f"cookie name {self.name!r} needs secure=True; on http://localhost use CookiePolicy.for_localhost()"
            raise ConfigError(msg)
        if self.same_site == "none":
            msg = "browsers drop a same_site='none' cookie that is not secure; use secure=True, or same_site='lax'"
            raise ConfigError(msg)
        if self.partitioned:
            msg = "browsers drop a partitioned cookie that is not secure; use secure=True, or partitioned=False"
            raise ConfigError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePolicy:
    """What a worker keeps in memory, and how far it may lag behind Redis.

    max_staleness: the bound, from 50 ms (a third of it is the pace of heartbeats). 2 s is the longest that one who is
        logged out by force should still get through; typical are 1 to 3 ms (measured).
    max_entries, max_bytes: 50,000 sessions or 64 MiB, whichever comes first: the least recently used ones go.
    on_outage: with Redis away, ``refuse`` answers 503; ``stale`` serves safe methods from memory for `stale_for`
        longer; ``anonymous`` goes on as if there were no cookie.  Source: OWASP ASVS 5.0, 16.5.3 (fail securely).
    stale_for: widens `max_staleness` while Redis is away, so it needs ``stale``, and ``stale`` needs it.
    on_lost_lease: what becomes of open WebSockets and event streams that this worker cannot prove any more. Nothing
        passes through them, either way, until it can; ``close`` ends them after `lease_grace`, so that their clients
        try other workers, ``keep`` waits for as long as it takes.
    lease_grace: 20 s, so that a failover closes nothing: Redis Cluster begins one after 15 s, its cluster-node-timeout.
        Source: redis.conf; uvicorn, too, waits 20 s for a client that does not answer.
    """

    max_staleness: timedelta = timedelta(seconds=2)
    max_entries: int = 50_000
    max_bytes: int = 64 * 1024 * 1024
    on_outage: OnOutage = "refuse"
    stale_for: timedelta = timedelta(0)
    on_lost_lease: OnLostLease = "close"
    lease_grace: timedelta = timedelta(seconds=20)

    def __post_init__(self) -> None:
        _check_durations(self, "max_staleness", minimum=timedelta(milliseconds=50))
        _check_durations(self, "stale_for", "lease_grace", minimum=timedelta(0))
        _check_counts(self, "max_entries", "max_bytes")
        _check_choice(self, "on_outage", ("refuse", "stale", "anonymous"))
        _check_choice(self, "on_lost_lease", ("close", "keep"))
        if self.on_outage == "stale" and not self.stale_for:
            msg = "on_outage='stale' needs a stale_for over zero, such as timedelta(seconds=30); or on_outage='refuse'"
            raise ConfigError(msg)
        if self.stale_for and self.on_outage != "stale":
            msg = f"stale_for={self.stale_for} does nothing with on_outage={self.on_outage!r}; use on_outage='stale'"
            raise ConfigError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class StorePolicy:
    """How long Redis may take, and how long it keeps the log.

    command_timeout, connect_timeout: 1 s each, hundreds of times an ordinary round trip (0.45 ms, measured).
    probe_every: how often an open breaker tries again. resubscribe_at_most: the longest back-off of the feed.
    commit_timeout: a commit is retried for this long, then answered with 503; at least `command_timeout`.
    retention: how much of the log stays in Redis: 7 days, so that a weekend's incident is still there on Monday.
        An archive keeps the rest.
    """

    command_timeout: timedelta = timedelta(seconds=1)
    connect_timeout: timedelta = timedelta(seconds=1)
    probe_every: timedelta = timedelta(seconds=0.5)
    resubscribe_at_most: timedelta = timedelta(seconds=1)
    commit_timeout: timedelta = timedelta(seconds=2)
    retention: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        _check_durations(self, *self.__slots__)
        if self.commit_timeout < self.command_timeout:
            fact = f"commit_timeout={self.commit_timeout} is shorter than command_timeout={self.command_timeout}"
            msg = f"{fact}, so no reply could be awaited; make command_timeout shorter or commit_timeout longer"
            raise ConfigError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditPolicy:
    """What the log says about those who act, and what it must not say.

    redact: names whose values are logged as keyed digests; see `DEFAULT_REDACT`.
    context: facts to add to each event, from the connection; must be quick, JSON, and raise nothing.
    actor: who acts, from the connection; None is the session's own user.
    address: the client's address, cut to a network by default (/24, /48): enough to tell places, not people.
        Source: GDPR, article 5 (1) (c), data minimisation.
    max_user_agent: how much of the browser's User-Agent a login keeps for the list of a user's devices: 256
        characters, half as much again as the usual ones have at most; 0 keeps none.
    trusted_proxies: networks of proxies of your own, such as ``("10.0.0.0/8",)``, and ``"unix"`` for a unix socket: of
        a connection from there the address is the last one in X-Forwarded-For that is none of them. From anybody else
        that header says nothing.
    key: its own key for heads and redaction, at least 32 characters; several (newest first) while it is being replaced.
    request_ids: add the request id and the traceparent, the client's claims, which costs 120 B an event (measured);
        where `instrument` has spans made, the traceparent is that of the span that is current.
    archive: where `evsession archive` puts what leaves the log, a folder or such as ``s3://bucket/folder``, so that
        readings of `manager.audit` go on there; needs the extra ``archive``.
    """

    redact: tuple[str, ...] = DEFAULT_REDACT
    context: Callable[[HTTPConnection], Mapping[str, Any]] | None = None
    actor: Callable[[HTTPConnection], Actor | None] | None = None
    address: Address = "truncated"
    trusted_proxies: tuple[str, ...] = ()
    max_user_agent: int = 256
    key: Secret | tuple[Secret, ...] | None = field(default=None, repr=False)
    request_ids: bool = False
    archive: str | None = None

    def __post_init__(self) -> None:
        if not _is_names(self.redact):
            msg = "redact must be a tuple of names, such as (*DEFAULT_REDACT, 'pin'); use () to redact nothing"
            raise ConfigError(msg)
        _check_choice(self, "address", ("none", "truncated", "full"))
        _check_proxies(self.trusted_proxies)
        _check_counts(self, "max_user_agent", minimum=0)
        _check_flags(self, "request_ids")
        _check_functions(self, "context", "actor")
        if self.archive is not None and not _is_text(self.archive):
            msg = f"archive={self.archive!r} is no place; name a folder, or a URL such as 's3://bucket/folder'"
            raise ConfigError(msg)
        if self.key is not None:
            for key in self.key if isinstance(self.key, tuple) else (self.key,):
                check_secret(key, "AuditPolicy.key")


def check_transports(transports: object) -> tuple[Transport, ...]:
    """Return the ways in which tokens come, the one that new sessions begin with first.

    Raises:
        ConfigError: there is none, one that is unknown, or one twice.
    """
    for known in _TRANSPORTS:
        if transports in (known, list(known)):
            return known
    msg = f"transports={transports!r} does not work; use ('cookie',), ('bearer',) or ('cookie', 'bearer')"
    raise ConfigError(msg)


def _check_proxies(proxies: object) -> None:
    if not _is_names(proxies):
        msg = f"trusted_proxies={proxies!r} is no tuple of networks; write trusted_proxies=('10.0.0.0/8',)"
        raise ConfigError(msg)
    for text in cast("tuple[str, ...]", proxies):
        try:
            _ = text == UNIX or ip_network(text)
        except ValueError as error:
            msg = f"trusted_proxies has {text!r} ({error}); write a network such as '10.0.0.0/8', or 'unix'"
            raise ConfigError(msg) from error


def _check_durations(policy: object, *names: str, minimum: timedelta = _MILLISECOND) -> None:
    for name in names:
        value = getattr(policy, name)
        if not isinstance(value, timedelta):
            msg = f"{name} must be a timedelta, not {type(value).__name__}; write {name}=timedelta(seconds=…)"
            raise ConfigError(msg)
        if not minimum <= value <= _LONGEST:
            msg = f"{name}={value} is out of range; use {minimum} to {_LONGEST}"
            raise ConfigError(msg)


def _check_counts(policy: object, *names: str, minimum: int = 1) -> None:
    for name in names:
        value = getattr(policy, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            msg = f"{name}={value!r} does not work; use a whole number from {minimum}"
            raise ConfigError(msg)


def _check_choice(policy: object, name: str, choices: Collection[str]) -> None:
    value = getattr(policy, name)
    if value not in choices:
        msg = f"{name}={value!r} is unknown; use {' or '.join(map(repr, choices))}"
        raise ConfigError(msg)


def _check_flags(policy: object, *names: str) -> None:
    for name in names:
        value = getattr(policy, name)
        if not isinstance(value, bool):
            msg = f"{name}={value!r} is neither yes nor no; use True or False"
            raise ConfigError(msg)


def _check_functions(policy: object, *names: str) -> None:
    for name in names:
        value = getattr(policy, name)
        if value is not None and not callable(value):
            msg = f"{name} must be a function, not {type(value).__name__}; pass the function itself, or None"
            raise ConfigError(msg)


def _check_user_key(user_key: object) -> None:
    named = isinstance(user_key, str) and user_key
    listed = user_key and _is_names(user_key)
    if not (user_key is None or named or listed or callable(user_key)):
        msg = f"user_key={user_key!r} names no key; use a name, a tuple of names, a function of the data, or None"
        raise ConfigError(msg)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_names(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) and name for name in value)


def _matches(pattern: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None
