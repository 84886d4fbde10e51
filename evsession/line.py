"""One client on the line: what passes between it and the application, as long as the session allows."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from evsession.connections import Connection
from evsession.errors import ConnectionClosed, StoreUnavailable
from evsession.exchange import Exchange
from evsession.standing import TRANSIENT, Verdict

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


class Line:
    """Owns what comes in, and what goes out once it is `live`, as WebSockets and event streams are.

    Whatever passes there, in either direction, is asked for first. A request is asked about only until its body has
    arrived.
    """

    __slots__ = (
        "_exchange", "_is_heard", "_is_passive", "_receive", "_scope", "_send", "_waits", "is_live", "is_starting",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        self._exchange = exchange
        self._scope = exchange.scope
        self._receive = receive
        self._send = send
        self._is_heard = self._scope["type"] == "http" and not _may_have_body(self._scope)
        self._is_passive = True
        self._waits: list[anyio.CancelScope] = []
        self.is_live = False
        self.is_starting = False
        """Whether an event stream's start is on its way out."""

    def go_live(self, *, is_passive: bool = True) -> None:
        """Have this WebSocket or event stream close with its session.

        What the client of a WebSocket says keeps the session alive unless that is passive.
        """
        self.is_live = True
        self._is_passive = is_passive
        self.join()

    def join(self) -> None:
        """Have what is live close with the session of this moment; a handshake may have begun another."""
        connection = self._joined()
        if connection is not None:
            connection.watch(is_passive=self._is_passive)

    def _joined(self) -> Connection | None:
        exchange = self._exchange
        if exchange.connection is None:
            base, ticket = exchange.session.base, exchange.ticket
            if base is not None and ticket is not None:
                connections = exchange.manager.worker.connections
                exchange.connection = connections.open(self, base.snapshot, ticket.secret_hash)
        return exchange.connection

    def interrupt(self) -> None:
        """Wake whoever waits for the client."""
        for scope in tuple(self._waits):
            scope.cancel()

    async def hang_up(self, verdict: Verdict) -> None:
        """Tell the client that it is over."""
        if self._scope["type"] == "websocket":
            message: Message = {"type": "websocket.close", "code": _code_of(verdict), "reason": verdict}
        else:
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        with suppress(*HUNG_UP):
            await self._send(message)

    async def finish(self) -> None:
        """Be over, once the client was told what there was to tell."""
        if self._exchange.connection is not None:
            await self._exchange.connection.finish()
            self._exchange.connection = None  # they refer to each other

    def is_cut(self) -> bool:
        """Tell whether this was closed, and the application with nothing said to its client."""
        connection = self._exchange.connection
        is_answered = self.is_live or (self._exchange.started and not self.is_starting)
        return connection is not None and connection.verdict is not None and not is_answered

    def is_way_to_end(self, error: BaseException) -> bool:
        """Tell whether what a handler raised is but how it ends after a disconnect that it was told of."""
        connection = self._exchange.connection
        if connection is None or connection.verdict is None:
            return False
        if isinstance(error, BaseExceptionGroup):
            return error.split(GONE)[1] is None
        return isinstance(error, GONE)

    # ── what comes in ────────────────────────────────────────────────────────────────────────────────────────────────

    async def receive_http(self) -> Message:
        """Return the next part of the request, or a disconnect in the place of what no longer is that user's."""
        exchange = self._exchange
        message = await self._heard()
        if not (self._is_heard or exchange.is_over) and message["type"] == "http.request":
            if not (self._is_proven() or await self._may_hear()):
                return self._disconnect()
            self._is_heard = not message.get("more_body", False)
            if self._is_heard and not self.is_live:
                exchange.leave()
        return message

    def _is_proven(self) -> bool:
        exchange = self._exchange
        if exchange.connection is not None:
            return exchange.connection.is_proven()
        ticket = exchange.ticket
        if ticket is None or exchange.session.base is None:
            return True
        manager = exchange.manager
        return manager.worker.cache.proves(ticket.sid, ticket.secret_hash, manager.clock())

    async def _may_hear(self) -> bool:
        connection = self._joined()
        if connection is None or self._exchange.source == "stale":
            return True
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
                self._waits.append(scope)
                if not (self._is_heard or self._exchange.is_over):
                    self._joined()
                try:
                    return await self._receive()
                finally:
                    self._waits.remove(scope)
        return self._disconnect()

    def _disconnect(self) -> Message:
        if self._scope["type"] == "http":
            return {"type": "http.disconnect"}
        verdict = self._exchange.connection.verdict if self._exchange.connection is not None else None
        return {"type": "websocket.disconnect", "code": _code_of(verdict), "reason": verdict}

    # ── what goes out ────────────────────────────────────────────────────────────────────────────────────────────────

    async def start_stream(self, message: Message) -> None:
        """Send the start of an event stream, which then closes with its session."""
        self.is_starting = True
        await self._send(message)
        self.is_starting = False
        self.go_live()

    async def send(self, message: Message) -> None:
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


def _may_have_body(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return bool(value.strip() != b"0")
        if name == b"transfer-encoding":
            return True
    return scope["method"] not in BODILESS  # HTTP/2 need not say how long a body is


def is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether a response with these headers is an event stream; one of a known length is none that stays open."""
    for name, value in headers:
        if name == b"content-length":  # mostly the first, and this is asked of every response
            return False
        if name == b"content-type" and value.lower().startswith(b"text/event-stream"):
            return True
    return False


def _is_last(message: Message) -> bool:
    if message["type"] == "http.response.body":
        return not message.get("more_body", False)
    return bool(message["type"] == "websocket.close")


def _code_of(verdict: Verdict | None) -> int:
    return 1013 if verdict in TRANSIENT else LOGGED_OUT
