"""SessionMiddleware: pure ASGI for http, websocket and lifespan. The fast path is one function, without I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from logging import DEBUG
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evsession.bearer import has_token, token_sent, two_tokens, version_seen
from evsession.context import current
from evsession.conversation import CLOSE, Conversation, tell, unavailable_response
from evsession.cookies import raw_value, same_origin
from evsession.errors import ConfigError, EvsessionError, SessionDetached, StoreUnavailable
from evsession.exchange import Exchange, OnError
from evsession.manager import SessionManager
from evsession.renewing import judge
from evsession.session import Session
from evsession.tokens import Purpose, Ticket

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
INSTALLED: Final = "evsession.installed"
"""Where a scope names the managers whose sessions it has already."""

log = logging.getLogger("evsession.request")


class SessionMiddleware:
    """Gives each request and WebSocket its session, and commits what the handler wanted.

    `exclude` are paths, with all below them, that have no session and cost nothing. `passive` ones have it but do not
    keep it alive. `on_error` may answer a failed commit in the place of the default. The same manager twice passes
    through; two managers need different cookie names and `scope_key`.
    """

    new_exchange: Callable[..., Conversation] = Conversation

    def __init__(
        self,
        app: ASGIApp,
        manager: SessionManager | None = None,
        *,
        exclude: Sequence[str] = (),
        passive: Sequence[str] = (),
        scope_key: str = "session",
        on_error: OnError | None = None,
    ) -> None:
        self.app = app
        self.manager = manager if manager is not None else SessionManager()
        self._installed = (self.manager,)
        self.exclude = prefixes(exclude)
        self.passive = prefixes(passive)
        self.scope_key = scope_key
        self.on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: PLR0912  # the fast path
        kind = scope["type"]
        if (kind != "http" or self.exclude or INSTALLED in scope) and not self._serves(scope):
            await (self._lifespan if kind == "lifespan" else self.app)(scope, receive, send)
            return
        scope[INSTALLED] = scope.get(INSTALLED, ()) + self._installed
        manager = self.manager
        exchange = self.new_exchange(manager, scope, receive, send, self.on_error)
        if exchange.control is None:
            await self._prepare(exchange)
        raw = raw_value(scope["headers"], manager.cookie_name)
        if manager.takes_bearer:
            sent = token_sent(scope["headers"])
            if sent is not None and manager.takes_cookies and has_token(raw):
                await tell(send, two_tokens(scope))
                return
            raw = exchange.choose(raw, sent)
        if raw is not None and not self._recall(exchange, raw, kind) and not await self._is_loaded(exchange, send):
            return
        scope[self.scope_key] = exchange.serve()
        if exchange.is_former and not await self._is_judged(exchange, send):
            return
        outer = current.get()
        current.set(exchange)
        try:
            if kind == "http":
                await self.app(scope, exchange.receive_http, exchange.send_http)
            else:
                exchange.line.go_live(is_passive=_is_below(scope["path"], self.passive))
                await self.app(scope, exchange.line.receive_websocket, exchange.send_websocket)
        except BaseException as error:
            await exchange.fail(error)
        else:
            if exchange.connection is not None or exchange.session.might_differ():
                await exchange.end()
        finally:
            if outer is not None and not outer.is_over:
                current.set(outer)
            if log.isEnabledFor(DEBUG):
                exchange.log()
            exchange.close()

    async def _prepare(self, exchange: Exchange) -> None:
        """Have the control log known before a request begins; without it, what begins now is older than all of it."""
        try:
            await self.manager.prove()
        except EvsessionError as error:
            log.debug("the control log is not known yet: %s", error)
        else:
            exchange.control = self.manager.worker.control.position

    def _serves(self, scope: Scope) -> bool:
        """Tell whether a connection gets its session here."""
        if scope["type"] not in ("http", "websocket") or _is_below(scope["path"], self.exclude):
            return False
        return INSTALLED not in scope or not self._is_inner(scope)

    def _is_inner(self, scope: Scope) -> bool:
        for other in scope[INSTALLED]:
            if self._is_same(other):
                return True
            if other.cookie.name == self.manager.cookie.name:
                msg = (
                    f"two session managers use the cookie {self.manager.cookie.name!r};"
                    " give one of them cookie=CookiePolicy(name=…) and scope_key= of its own"
                )
                raise ConfigError(msg)
        return False

    def _is_same(self, other: SessionManager) -> bool:
        """Tell whether what another manager serves is what this one would serve."""
        return other is self.manager

    def _recall(self, exchange: Exchange, raw: bytes | tuple[bytes, ...], kind: str) -> bool:
        """Serve from memory where that can be proved; False calls for `_load`."""
        manager = self.manager
        transport = exchange.transport
        if isinstance(raw, bytes):
            ticket, exchange.raw = manager.ticket(raw, transport), raw
        else:
            ticket, exchange.raw = self._only_ticket(raw, transport)
        if ticket is None:
            return True
        if transport == "bearer":
            ticket = replace(ticket, fence=max(ticket.fence, version_seen(exchange.scope["headers"])))
        elif kind == "websocket" and not self._origin_is_good(exchange.scope):
            log.warning("a WebSocket handshake from a foreign origin counts as one without a session")
            return True
        exchange.ticket = ticket
        now = manager.clock()
        exchange.cached = cached = manager.worker.cache.lookup(ticket.sid, now)
        exchange.source = "memory"
        return cached is not None and cached.version >= ticket.fence and now < cached.touch_at

    def _only_ticket(self, values: tuple[bytes, ...], transport: Purpose) -> tuple[Ticket | None, bytes]:
        """Return the ticket of several tokens if all good ones are the same, with the highest fence, and its token."""
        ticket_of = self.manager.ticket
        good = sorted(
            ((t, value) for value in values if (t := ticket_of(value, transport))), key=lambda one: one[0].fence
        )
        if len({(ticket.sid, ticket.secret_hash) for ticket, _ in good}) > 1:
            sids = sorted({ticket.sid for ticket, _ in good})
            log.warning("two different session tokens in one request count as none: %s", sids)
            return None, b""
        return good[-1] if good else (None, b"")

    def _origin_is_good(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None:
            return True
        scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "ws"), "http")
        return same_origin(origin, headers.get(b"host", b""), scheme, self.manager.allowed_origins)

    async def _is_loaded(self, exchange: Exchange, send: Send) -> bool:
        """Load what memory does not have; False if the client was refused instead."""
        try:
            await self._load(exchange)
        except EvsessionError as error:
            if not self._is_degraded(exchange, error):
                await self._refuse(exchange.scope, send, error)
                return False
        return True

    async def _is_judged(self, exchange: Exchange, send: Send) -> bool:
        """Have the server decide about a token that was renewed; False if the client was refused instead."""
        try:
            await judge(exchange)
        except EvsessionError as error:
            await self._refuse(exchange.scope, send, error)
            return False
        exchange.scope[self.scope_key] = exchange.session
        return True

    async def _load(self, exchange: Exchange) -> None:
        """Ask the store where the cache does not do, and slide the idle deadline where it is due."""
        manager, ticket, cached = self.manager, exchange.ticket, exchange.cached
        if ticket is None:
            return
        if cached is None or cached.version < ticket.fence:
            exchange.cached = cached = await manager.fetch(ticket.sid, may_join=not ticket.fence)
            exchange.source = "server"
            if cached is not None and cached.version < ticket.fence:
                exchange.mends = exchange.owes = True
        if cached is not None:
            manager.slide(cached, exchange.scope, is_passive=_is_below(exchange.scope["path"], self.passive))

    def _is_degraded(self, exchange: Exchange, error: EvsessionError) -> bool:
        """Tell whether the policy lets a request go on while the store is away, and arrange what it gets."""
        manager, ticket = self.manager, exchange.ticket
        if ticket is None or not isinstance(error, StoreUnavailable):
            return False
        manager.worker.counts.unavailable += 1
        match manager.cache_policy.on_outage:
            case "stale" if exchange.scope.get("method") in SAFE_METHODS:
                exchange.cached = manager.worker.cache.lookup_stale(ticket.sid, manager.clock())
                exchange.source = "stale"
                return exchange.cached is not None
            case "anonymous":
                exchange.cached = exchange.ticket = None
                exchange.source = "outage"
                return True
            case _:
                return False

    async def _refuse(self, scope: Scope, send: Send, error: EvsessionError) -> None:
        log.error("the session cannot be served: %s", error)
        await tell(send, CLOSE if scope["type"] == "websocket" else unavailable_response((), error))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        manager = self.manager
        try:
            if INSTALLED in scope and self._is_inner(scope):
                await self.app(scope, receive, send)
                return
            scope[INSTALLED] = (*scope.get(INSTALLED, ()), manager)
            await manager.start()
        except ConfigError as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise  # as Starlette does: to its TestClient the message alone is no failure

        async def stop_first(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await manager.stop()  # the server may end the event loop once it was told
            await send(message)

        try:
            await self.app(scope, receive, stop_first)
        finally:
            await manager.stop()


def prefixes(paths: Sequence[str]) -> tuple[str, ...]:
    """Return paths as what every path below them begins with."""
    return tuple(path.rstrip("/") for path in paths)


def _is_below(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)


def session_of(connection: HTTPConnection, scope_key: str = "session") -> Session:
    """Return the session of a request or WebSocket, typed.

    Raises:
        ConfigError: the middleware is not installed, or is another library's.
    """
    session = _found(connection, scope_key)
    session.mark_accessed()
    return session


def manager_of(connection: HTTPConnection, scope_key: str = "session") -> SessionManager:
    """Return the manager of a request's session; the response does not depend on the session for that.

    Raises:
        ConfigError: the middleware is not installed, or is another library's.
        SessionDetached: the request is over.
    """
    return _exchange_of(connection, scope_key).manager


def transport_of(connection: HTTPConnection, scope_key: str = "session") -> Purpose:
    """Return how a request's token came; for a request without one, how it would be handed out.

    Raises:
        ConfigError: the middleware is not installed, or is another library's.
        SessionDetached: the request is over.
    """
    return _exchange_of(connection, scope_key).transport


def _exchange_of(connection: HTTPConnection, scope_key: str) -> Exchange:
    exchange = _found(connection, scope_key)._binding
    if not isinstance(exchange, Exchange):
        raise SessionDetached("this")
    return exchange


def _found(connection: HTTPConnection, scope_key: str) -> Session:
    session = connection.scope.get(scope_key)
    if not isinstance(session, Session):
        fact = f"there is no evsession session in scope[{scope_key!r}]"
        key = "" if scope_key == "session" else f", scope_key={scope_key!r}"
        msg = f"{fact}; app.add_middleware(SessionMiddleware, manager=manager{key})"
        raise ConfigError(msg)
    return session
