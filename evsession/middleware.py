"""SessionMiddleware: pure ASGI for http, websocket and lifespan. The fast path is one function, without I/O."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from evsession.cookies import append_vary, forbid_store, raw_value, same_origin
from evsession.errors import (
    ConfigError,
    CorruptSnapshot,
    EvsessionError,
    ResponseStarted,
    SessionEnded,
    SessionLimitReached,
    StoreUnavailable,
    UnknownFormat,
)
from evsession.exchange import Exchange
from evsession.manager import SessionManager
from evsession.plan import Plan
from evsession.session import Session
from evsession.tokens import Ticket

OnError = Callable[[HTTPConnection, EvsessionError], Any]
"""Answers errors that only the commit knows: gets the connection and the error, returns an ASGI response or None."""

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
CLOSE: Final[list[Message]] = [{"type": "websocket.close", "code": 1013, "reason": "try again later"}]
"""Closes a WebSocket whose session cannot be served now.  Source: IANA's registry of close codes, 1013."""

REFUSED: Final = (StoreUnavailable, SessionLimitReached, CorruptSnapshot, UnknownFormat)
"""What a commit may meet through no fault of the handler: it is answered with 503."""

_INSTALLED: Final = "evsession.installed"

log = logging.getLogger("evsession.request")


class SessionMiddleware:
    """Gives each request and WebSocket its session, and commits what the handler wanted.

    `exclude` are paths, with all below them, that have no session and cost nothing. `passive` ones have it but do not
    keep it alive. `on_error` may answer a failed commit in the place of the default. The same manager twice passes
    through; two managers need different cookie names and `scope_key`.
    """

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
        self.exclude = _prefixes(exclude)
        self.passive = _prefixes(passive)
        self.scope_key = scope_key
        self.on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if kind not in ("http", "websocket") or (self.exclude and _is_below(scope["path"], self.exclude)):
            await self.app(scope, receive, send)
            return
        if _INSTALLED in scope and self._is_inner(scope):
            await self.app(scope, receive, send)
            return
        scope[_INSTALLED] = scope[_INSTALLED] + self._installed if _INSTALLED in scope else self._installed
        exchange = Exchange(self.manager, scope)
        raw = raw_value(scope["headers"], self.manager.cookie_name)
        if raw is not None and not self._recall(exchange, raw):
            try:
                await self._load(exchange)
            except EvsessionError as error:
                if not self._is_degraded(exchange, error):
                    await self._refuse(scope, send, error)
                    return
        scope[self.scope_key] = exchange.serve()
        conversation = Conversation(self, exchange, receive, send)
        try:
            await self.app(scope, receive, conversation.send_http if kind == "http" else conversation.send_websocket)
        except BaseException as error:
            await conversation.fail(error)
            raise
        else:
            if exchange.session.might_differ():
                await conversation.commit_late()
        finally:
            if log.isEnabledFor(logging.DEBUG):
                conversation.log()
            exchange.close()

    def _is_inner(self, scope: Scope) -> bool:
        for other in scope[_INSTALLED]:
            if other is self.manager:
                return True
            if other.cookie.name == self.manager.cookie.name:
                msg = (
                    f"two session managers use the cookie {self.manager.cookie.name!r};"
                    " give one of them cookie=CookiePolicy(name=…) and scope_key= of its own"
                )
                raise ConfigError(msg)
        return False

    def _recall(self, exchange: Exchange, raw: bytes | tuple[bytes, ...]) -> bool:
        """Serve from memory where that can be proved; False calls for `_load`."""
        manager = self.manager
        ticket = manager.ticket(raw) if isinstance(raw, bytes) else self._only_ticket(exchange, raw)
        if ticket is None:
            return True
        if exchange.scope["type"] == "websocket" and not self._origin_is_good(exchange.scope):
            log.warning("a WebSocket handshake from a foreign origin counts as one without a session")
            return True
        exchange.ticket = ticket
        exchange.raw = exchange.raw or raw  # type: ignore[assignment]
        now = manager.clock()
        exchange.cached = cached = manager.worker.cache.lookup(ticket.sid, now)
        exchange.source = "memory"
        return cached is not None and cached.stored.snapshot.version >= ticket.fence and now < cached.touch_at

    def _only_ticket(self, exchange: Exchange, values: tuple[bytes, ...]) -> Ticket | None:
        """Return the ticket of several cookies of one name if all good ones are the same, with the highest fence."""
        good = sorted(
            ((t, value) for value in values if (t := self.manager.ticket(value))), key=lambda one: one[0].fence
        )
        if len({ticket[:2] for ticket, _ in good}) > 1:
            sids = sorted({ticket.sid for ticket, _ in good})
            log.warning("two different session cookies in one request count as none: %s", sids)
            return None
        if not good:
            return None
        ticket, exchange.raw = good[-1]
        return ticket

    def _origin_is_good(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None:
            return True
        scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "ws"), "http")
        return same_origin(origin, headers.get(b"host", b""), scheme, self.manager.allowed_origins)

    async def _load(self, exchange: Exchange) -> None:
        """Ask the store where the cache does not do, and slide the idle deadline where it is due."""
        manager, ticket, cached = self.manager, exchange.ticket, exchange.cached
        if ticket is None:
            return
        if cached is None or cached.stored.snapshot.version < ticket.fence:
            exchange.cached = cached = await manager.fetch(ticket.sid, may_join=not ticket.fence)
            exchange.source = "server"
            exchange.mends = cached is not None and cached.stored.snapshot.version < ticket.fence
        if cached is not None:
            manager.slide(cached, is_passive=_is_below(exchange.scope["path"], self.passive))

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
        for message in CLOSE if scope["type"] == "websocket" else unavailable_response(b"", error):
            await send(message)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        manager = self.manager
        try:
            if _INSTALLED in scope and self._is_inner(scope):
                await self.app(scope, receive, send)
                return
            scope[_INSTALLED] = (*scope.get(_INSTALLED, ()), manager)
            await manager.start()
        except ConfigError as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return

        async def stop_first(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await manager.stop()  # the server may end the event loop once it was told
            await send(message)

        try:
            await self.app(scope, receive, stop_first)
        finally:
            await manager.stop()


class Conversation:
    """One request or WebSocket on its way through: what goes out is held back where a commit must come first."""

    __slots__ = ("_exchange", "_is_replaced", "_lost", "_middleware", "_receive", "_scope", "_send")

    def __init__(self, middleware: SessionMiddleware, exchange: Exchange, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._exchange = exchange
        self._scope = exchange.scope
        self._receive = receive
        self._send = send
        self._is_replaced = False
        self._lost: EvsessionError | None = None

    async def fail(self, error: BaseException) -> None:
        """Commit what survives what the application raised."""
        if isinstance(error, WebSocketDisconnect):
            await self.commit_late()  # how a socket that nobody closed ends
        else:
            await self._after_error(error)

    def send_http(self, message: Message) -> Awaitable[None]:
        """Send a part of a response; its start waits for the commit."""
        exchange = self._exchange
        if message["type"] == "http.response.start":
            session = exchange.session
            if session.might_differ() or exchange.cookie or exchange.mends:
                return self._commit_and_start(message)
            exchange.started = True
            if session.accessed:
                message["headers"] = headers = list(message.get("headers", ()))
                append_vary(headers)
        elif self._is_replaced:
            return _nothing()
        return self._send(message)

    def send_websocket(self, message: Message) -> Awaitable[None]:
        """Send a message; the handshake's end waits for the commit."""
        if self._is_replaced:
            return _nothing()
        if message["type"] == "websocket.accept" and not self._exchange.started:
            return self._commit_and_start(message)
        return self._send(message)

    async def _commit_and_start(self, message: Message) -> None:
        exchange, session = self._exchange, self._exchange.session
        is_changed = session.might_differ()
        if is_changed and not await self._commit():
            return
        exchange.mend()
        exchange.started = True
        headers = message["headers"] = list(message.get("headers", ()))
        if exchange.cookie:
            headers.append((b"set-cookie", exchange.cookie))
            forbid_store(headers)
            exchange.manager.warn_about_insecure(self._scope)
        if session.accessed or is_changed:
            append_vary(headers)
        await self._send(message)

    async def _commit(self) -> bool:
        """Commit before the response starts; return whether the application's own response may go out."""
        exchange = self._exchange
        plan = Plan()
        try:
            plan = exchange.session.plan()
            await exchange.commit(plan)
        except SessionEnded as error:
            self._dropped(plan, error)
            if plan.login is not None:
                return not await self._answered(error, default=True)
        except REFUSED as error:
            self._dropped(plan, error)
            return not await self._answered(error, default=True)
        except EvsessionError as error:
            if not await self._answered(error, default=False):
                raise
            exchange.session.dropped()
            return False
        return True

    async def _answered(self, error: EvsessionError, *, default: bool) -> bool:
        """Answer an error in the application's place; return whether that was done."""
        on_error = self._middleware.on_error
        if self._scope["type"] == "websocket":
            for message in CLOSE if default else ():
                await self._send(message)
            self._is_replaced = default
            return default
        response = None
        if on_error is not None:
            response = on_error(HTTPConnection(self._scope), error)
            if inspect.isawaitable(response):
                response = await response
        if response is None and not default:
            return False
        self._is_replaced = self._exchange.started = True
        if response is not None:
            await response(self._scope, self._receive, self._with_cookie)
        else:
            for message in unavailable_response(self._exchange.cookie, error):
                await self._send(message)
        return True

    async def _with_cookie(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._exchange.cookie:
            headers = message["headers"] = list(message.get("headers", ()))
            headers.append((b"set-cookie", self._exchange.cookie))
            forbid_store(headers)
        await self._send(message)

    async def commit_late(self) -> None:
        """Commit what was set while the body streamed, or in a background task."""
        exchange = self._exchange
        exchange.started = True
        plan = Plan()
        try:
            plan = exchange.session.plan()
            if self._lost is not None and plan:  # a request that was refused is not half carried out
                raise self._lost
            await exchange.commit(plan)
        except (SessionEnded, ResponseStarted, *REFUSED) as error:
            self._dropped(plan, error)

    async def _after_error(self, error: BaseException) -> None:
        """After an unhandled exception: an end and a rotation survive it, other changes only by policy."""
        exchange = self._exchange
        if not isinstance(error, Exception) or not exchange.session.might_differ():
            return
        try:
            keeps = exchange.manager.policy.keep_on_error
            plan = exchange.session.plan() if keeps else exchange.session.surviving()
            exchange.started = True
            await exchange.commit(plan)
        except EvsessionError as second:
            log.warning("after an error in the handler the session could not be committed: %s", second)

    def _dropped(self, plan: Plan, error: EvsessionError) -> None:
        self._lost = error
        worker = self._exchange.manager.worker
        worker.counts.dropped_changes += 1
        base = self._exchange.session.base
        sid = self._exchange.ticket.sid if self._exchange.ticket is not None else None
        log.warning(
            "dropped changes of keys %s in session %s: %s",
            _named(plan.keys), base.snapshot.sid if base is not None else sid, error,
        )  # fmt: skip
        self._exchange.session.dropped()

    def log(self) -> None:
        """Write the line of this request; only for debugging, as it names keys."""
        exchange = self._exchange
        session: Session = exchange.session
        base = session.base
        log.debug(
            "session=%s source=%s version=%s keys=%s",
            base.snapshot.sid if base is not None else None, exchange.source,
            base.snapshot.version if base is not None else 0, _named(session),
        )  # fmt: skip


def unavailable_response(cookie: bytes, error: EvsessionError) -> list[Message]:
    """Return the messages of a 503 that asks to come back."""
    body = b"Service Unavailable: %b." % _EXPLAINED.get(type(error), _UNEXPLAINED)
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"1"),
        (b"cache-control", b"no-store"),
    ]
    if cookie:
        headers.append((b"set-cookie", cookie))
    return [
        {"type": "http.response.start", "status": 503, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]


_UNEXPLAINED: Final = b"this session cannot be served; the log says why"
_EXPLAINED: Final = {
    StoreUnavailable: b"the session store cannot be reached; try again in a moment",
    SessionLimitReached: b"too many new visitors; try again in a moment",
    SessionEnded: b"the session ended meanwhile; try again",
    UnknownFormat: b"a newer version wrote this session; upgrade evsession here",
}
"""What a client may know: the error's own text is for the log."""


async def _nothing() -> None:
    return None


def _named(keys: Iterable[str]) -> str:
    """Return the names of keys as one line of printable ASCII."""
    return json.dumps(list(keys))


def _prefixes(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(path.rstrip("/") for path in paths)


def _is_below(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)


def session_of(connection: HTTPConnection, scope_key: str = "session") -> Session:
    """Return the session of a request or WebSocket, typed.

    Raises:
        ConfigError: the middleware is not installed, or is another library's.
    """
    session = connection.scope.get(scope_key)
    if not isinstance(session, Session):
        fact = f"there is no evsession session in scope[{scope_key!r}]"
        msg = f"{fact}; app.add_middleware(SessionMiddleware, manager=manager)"
        raise ConfigError(msg)
    session.mark_accessed()
    return session
