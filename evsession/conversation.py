"""One HTTP exchange or WebSocket on its way through.

What the handler sends first waits for the commit of what it wanted; what stays open closes with its session.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import anyio
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from evsession.connections import Connection
from evsession.cookies import Headers, append_vary, forbid_store
from evsession.errors import (
    ConnectionClosed,
    CorruptSnapshot,
    EvsessionError,
    ResponseStarted,
    SessionEnded,
    SessionLimitReached,
    StoreUnavailable,
    UnknownFormat,
)
from evsession.exchange import Exchange
from evsession.patience import RETRY_AFTER
from evsession.plan import Plan
from evsession.session import Session
from evsession.standing import TRANSIENT, Verdict

OnError = Callable[[HTTPConnection, EvsessionError], Any]
"""Answers errors that only the commit knows: gets the connection and the error, returns an ASGI response or None."""

CLOSE: Final[list[Message]] = [{"type": "websocket.close", "code": 1013, "reason": "try again later"}]
"""Closes a WebSocket whose session cannot be served now.  Source: IANA's registry of close codes, 1013."""

LOGGED_OUT: Final = 4401
"""Closes a WebSocket whose session is over; the reason says why.  Source: 4000 to 4999 are the application's own
(RFC 6455, 7.4.2), and 4401 is what is widely used there for HTTP's 401.
"""

BODILESS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
"""Methods whose requests have a body only if a header says so."""

HUNG_UP: Final = (OSError, RuntimeError, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""What servers raise when a client went away, or was told of the end, at the very same moment."""

GONE: Final = (ConnectionClosed, WebSocketDisconnect, ClientDisconnect)
"""How a handler ends that was told of a disconnect and made nothing of it."""

REFUSED: Final = (StoreUnavailable, SessionLimitReached, CorruptSnapshot, UnknownFormat)
"""What a commit may meet through no fault of the handler: it is answered with 503."""

_NO_PLAN: Final = Plan()

log = logging.getLogger("evsession.request")


class Conversation:
    """One request or WebSocket on its way through: what goes out is held back where a commit must come first.

    WebSockets and event streams are `live`: what passes in either direction is asked for first. A request is that only
    until its body has arrived.
    """

    __slots__ = (
        "_exchange", "_has_begun", "_is_heard", "_is_live", "_is_passive", "_is_replaced", "_lost", "_on_error",
        "_receive", "_scope", "_send", "_waits",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, receive: Receive, send: Send, on_error: OnError | None) -> None:
        self._exchange = exchange
        self._on_error = on_error
        self._scope = exchange.scope
        self._receive = receive
        self._send = send
        self._is_replaced = False
        self._has_begun = False
        self._is_heard = False
        self._is_live = False
        self._is_passive = True
        self._waits: tuple[anyio.CancelScope, ...] = ()
        self._lost: EvsessionError | None = None

    async def end(self) -> None:
        """Be over, as the application is."""
        await self.answer_cut()
        await self.commit_late()
        await self.finish()

    async def fail(self, error: BaseException) -> None:
        """Commit what survives what the application raised, and raise it on unless it was but its way to end."""
        if self._is_way_to_end(error):
            await self.end()
            return
        try:
            if isinstance(error, WebSocketDisconnect):
                await self.commit_late()  # how a socket that nobody closed ends
            else:
                await self._after_error(error)
        finally:
            await self.finish()
        raise error

    def _is_way_to_end(self, error: BaseException) -> bool:
        connection = self._exchange.connection
        if connection is None or connection.verdict is None:
            return False
        if isinstance(error, BaseExceptionGroup):
            return error.split(GONE)[1] is None
        return isinstance(error, GONE)

    # ── what stays open ──────────────────────────────────────────────────────────────────────────────────────────────

    def open_socket(self, *, is_passive: bool) -> None:
        """Have a WebSocket close with its session; what its client says keeps that alive unless it is passive."""
        self._is_live = True
        self._is_passive = is_passive
        self._join_live()

    def _join_live(self) -> None:
        connection = self._joined()
        if connection is not None:
            connection.watch(is_passive=self._is_passive)

    def _joined(self) -> Connection | None:
        """Return what closes with the session of this moment; None without a session."""
        exchange = self._exchange
        if exchange.connection is None:
            base, ticket = exchange.session.base, exchange.ticket
            if base is not None and ticket is not None:
                connections = exchange.manager.worker.connections
                exchange.connection = connections.open(self, base.snapshot, ticket.secret_hash)
        return exchange.connection

    def interrupt(self) -> None:
        """Wake whoever waits for the client."""
        for scope in self._waits:
            scope.cancel()

    async def hang_up(self, verdict: Verdict) -> None:
        """Tell the client that it is over."""
        if self._scope["type"] == "websocket":
            message: Message = {"type": "websocket.close", "code": _code_of(verdict), "reason": verdict}
        else:
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        with suppress(*HUNG_UP):
            await self._send(message)

    async def answer_cut(self) -> None:
        """Answer a request whose body was cut off and whose handler left it at that."""
        exchange = self._exchange
        connection = exchange.connection
        is_answered = self._has_begun or self._is_live or self._is_replaced
        if is_answered or connection is None or connection.verdict is None:
            return
        self._is_replaced = exchange.started = True
        error = StoreUnavailable(RETRY_AFTER) if connection.verdict in TRANSIENT else SessionEnded(connection.verdict)
        with suppress(*HUNG_UP):
            for message in unavailable_response((), error):
                await self._send(message)

    async def finish(self) -> None:
        """Be over, once the client was told what there was to tell."""
        if self._exchange.connection is not None:
            await self._exchange.connection.finish()
            self._exchange.connection = None  # they refer to each other

    # ── what comes in ────────────────────────────────────────────────────────────────────────────────────────────────

    async def receive_http(self) -> Message:
        """Return the next part of the request, or a disconnect in the place of what no longer is that user's."""
        exchange = self._exchange
        if not (self._is_heard or exchange.is_over):
            if _may_have_body(self._scope):
                self._joined()
            else:
                self._is_heard = True
        message = await self._heard()
        if message["type"] == "http.request" and not self._is_heard:
            if exchange.connection is not None and not await self._may_hear(exchange.connection):
                return self._disconnect()
            self._is_heard = not message.get("more_body", False)
            if self._is_heard and not self._is_live:
                exchange.leave()
        return message

    async def _may_hear(self, connection: Connection) -> bool:
        if not connection.is_proven() and self._exchange.source != "stale":
            try:
                await connection.ask()
            except StoreUnavailable:
                connection.close("unproven")
        return connection.verdict is None

    async def receive_websocket(self) -> Message:
        """Return the client's next message, or a disconnect once the socket was closed."""
        if not self._exchange.started:
            return await self._receive()  # the handshake itself; an answer to it is not let through
        message = await self._heard()
        connection = self._exchange.connection
        if connection is not None and message["type"] == "websocket.receive":
            if not (connection.is_proven() or await connection.prove()):
                return self._disconnect()
            self._exchange.manager.slide_open(connection)
        return message

    async def _heard(self) -> Message:
        """Return what comes next: a disconnect once the connection was closed, also in the middle of the wait."""
        connection = self._exchange.connection
        if connection is None or connection.verdict is None:
            with anyio.CancelScope() as scope:
                self._waits += (scope,)
                try:
                    return await self._receive()
                finally:
                    self._waits = tuple(other for other in self._waits if other is not scope)
        return self._disconnect()

    def _disconnect(self) -> Message:
        if self._scope["type"] == "http":
            return {"type": "http.disconnect"}
        verdict = self._exchange.connection.verdict if self._exchange.connection is not None else None
        return {"type": "websocket.disconnect", "code": _code_of(verdict), "reason": verdict}

    # ── what goes out ────────────────────────────────────────────────────────────────────────────────────────────────

    def send_http(self, message: Message) -> Awaitable[None]:
        """Send a part of a response; its start waits for the commit."""
        exchange = self._exchange
        if message["type"] == "http.response.start":
            session = exchange.session
            is_changed = session.might_differ()
            if is_changed or exchange.cookie or exchange.bearer or exchange.mends:
                return self._commit_and_start(message, is_changed=is_changed)
            exchange.started = True
            if session.accessed:
                message["headers"] = headers = list(message.get("headers", ()))
                append_vary(headers, exchange.manager.vary)
            if session.base is not None and _is_event_stream(message):
                return self._start_stream(message)
            self._has_begun = True
        elif self._is_replaced:
            return _nothing()
        elif self._is_live:
            return self._send_live(message)
        return self._send(message)

    def send_websocket(self, message: Message) -> Awaitable[None]:
        """Send a message; the handshake's end waits for the commit."""
        if self._is_replaced:
            return _nothing()
        if message["type"] == "websocket.accept" and not self._exchange.started:
            return self._commit_and_start(message, is_changed=self._exchange.session.might_differ())
        if self._is_live:
            return self._send_live(message)
        return self._send(message)

    async def _start_stream(self, message: Message) -> None:
        await self._send(message)
        self._is_live = True
        self._join_live()

    async def _send_live(self, message: Message) -> None:
        """Send what the session still allows; the end of a conversation needs no leave.

        Raises:
            ConnectionClosed: it was closed, and nothing was sent.
        """
        connection = self._exchange.connection
        if connection is None:
            await self._send(message)
            return
        is_last = _is_last(message)
        if is_last and connection.verdict is None and not message.get("body"):
            self._exchange.leave()
            await self._send(message)
            return
        if not (connection.is_proven() or await connection.prove()):
            if is_last:
                return
            raise ConnectionClosed(str(connection.verdict))
        try:
            await self._send(message)
        except HUNG_UP as error:
            if connection.verdict is None:
                raise
            raise ConnectionClosed(connection.verdict) from error

    async def _commit_and_start(self, message: Message, *, is_changed: bool) -> None:
        exchange, session = self._exchange, self._exchange.session
        if is_changed and not await self._commit():
            return
        exchange.mend()
        exchange.started = True
        headers = message["headers"] = list(message.get("headers", ()))
        self._add_to(headers)
        if session.accessed or is_changed:
            append_vary(headers, exchange.manager.vary)
        if self._is_live:
            self._join_live()
            await self._send_live(message)
        elif session.base is not None and _is_event_stream(message):
            await self._start_stream(message)
        else:
            self._has_begun = True
            await self._send(message)

    async def _commit(self) -> bool:
        """Commit before the response starts; return whether the application's own response may go out."""
        exchange = self._exchange
        plan = _NO_PLAN
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
        if self._scope["type"] == "websocket":
            await tell(self._send, CLOSE if default else ())
            self._is_replaced = default
            return default
        response = None
        if self._on_error is not None:
            response = self._on_error(HTTPConnection(self._scope), error)
            if inspect.isawaitable(response):
                response = await response
        if response is None and not default:
            return False
        self._is_replaced = self._exchange.started = True
        if response is not None:
            await response(self._scope, self._receive, self._with_news)
        else:
            await tell(self._send, unavailable_response(self._exchange.carried(), error))
        return True

    async def _with_news(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"] = list(message.get("headers", ()))
            self._add_to(headers)
        await self._send(message)

    def _add_to(self, headers: Headers) -> None:
        """Add what the client must be told: its cookie, or its token and version."""
        exchange = self._exchange
        if carried := exchange.carried():
            headers += carried
            forbid_store(headers)
            if exchange.cookie:
                exchange.manager.warn_about_insecure(self._scope)

    async def commit_late(self) -> None:
        """Commit what was set while the body streamed, or in a background task."""
        exchange = self._exchange
        exchange.started = True
        plan = _NO_PLAN
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


async def tell(send: Send, messages: Iterable[Message]) -> None:
    """Send messages, one after the other."""
    for message in messages:
        await send(message)


def unavailable_response(carried: Iterable[tuple[bytes, bytes]], error: EvsessionError) -> list[Message]:
    """Return the messages of a 503 that asks to come back, with the headers that it must carry."""
    body = b"Service Unavailable: %b." % _EXPLAINED.get(type(error), _UNEXPLAINED)
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"1"),
        (b"cache-control", b"no-store"),
        *carried,
    ]
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


def _may_have_body(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return bool(value.strip() != b"0")
        if name == b"transfer-encoding":
            return True
    return scope["method"] not in BODILESS  # HTTP/2 need not say how long a body is


def _is_event_stream(message: Message) -> bool:
    for name, value in message.get("headers", ()):
        if name.lower() == b"content-type":
            return bool(value.lower().startswith(b"text/event-stream"))
    return False


def _is_last(message: Message) -> bool:
    if message["type"] == "http.response.body":
        return not message.get("more_body", False)
    return bool(message["type"] == "websocket.close")


def _code_of(verdict: Verdict | None) -> int:
    return 1013 if verdict in TRANSIENT else LOGGED_OUT


async def _nothing() -> None:
    return None


def _named(keys: Iterable[str]) -> str:
    """Return the names of keys as one line of printable ASCII."""
    return json.dumps(list(keys))
