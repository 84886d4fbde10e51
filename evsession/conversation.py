"""One HTTP exchange or WebSocket on its way through.

What the handler sends first waits for the commit of what it wanted; what stays open closes with its session.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import Message, Send
from starlette.websockets import WebSocketDisconnect

from evsession.cookies import Headers, append_vary, forbid_store
from evsession.errors import (
    CorruptSnapshot,
    EvsessionError,
    ResponseStarted,
    SessionEnded,
    SessionLimitReached,
    StoreUnavailable,
    UnknownFormat,
)
from evsession.exchange import Exchange
from evsession.line import HUNG_UP, Line, is_event_stream
from evsession.outcome import Outcome
from evsession.patience import RETRY_AFTER
from evsession.plan import Plan
from evsession.renewing import renew
from evsession.session import Session
from evsession.standing import TRANSIENT

CLOSE: Final[list[Message]] = [{"type": "websocket.close", "code": 1013, "reason": "try again later"}]
"""Closes a WebSocket whose session cannot be served now.  Source: IANA's registry of close codes, 1013."""

REFUSED: Final = (StoreUnavailable, SessionLimitReached, CorruptSnapshot, UnknownFormat)
"""What a commit may meet through no fault of the handler: it is answered with 503."""

NO_FAULT: Final = (SessionEnded, *REFUSED)
"""What a handler may let out of its own `save`, `revalidate` or `revoke_user`, as it can do nothing about it."""

_NO_PLAN: Final = Plan()

log = logging.getLogger("evsession.request")


class Conversation(Exchange):
    """An exchange on its way through: what goes out is held back where a commit must come first.

    It is its own exchange, as every object more is paid for by each cached read.
    """

    @property
    def line(self) -> Line:
        """What the client is on; made when it is first needed, as most requests never ask for it."""
        if self._line is None:
            self._line = Line(self, self.receive, self.send)
        return self._line

    def receive_http(self) -> Awaitable[Message]:
        """Receive a part of the request."""
        return self.receive() if self.is_over else self.line.receive_http()

    async def end(self) -> None:
        """Be over, as the application is."""
        line = self._line
        if line is not None and line.is_cut() and not self.is_replaced:
            await self._answer_cut()
        await self.commit_late()
        if line is not None:
            await line.finish()

    async def _answer_cut(self) -> None:
        """Answer a request that was cut off and whose handler left it at that."""
        verdict = self.connection.verdict if self.connection is not None else None
        self.is_replaced = self.started = True
        error = StoreUnavailable(RETRY_AFTER) if verdict is None or verdict in TRANSIENT else SessionEnded(verdict)
        with suppress(*HUNG_UP):
            for message in unavailable_response((), error):
                await self.send(message)

    async def fail(self, error: BaseException) -> None:
        """Commit what survives what the application raised, and raise it on unless it was but its way to end."""
        line = self._line
        if line is not None and line.is_way_to_end(error):
            await self.end()
            return
        try:
            if isinstance(error, WebSocketDisconnect):
                await self.commit_late()  # how a socket that nobody closed ends
            elif isinstance(error, NO_FAULT) and not self.started:
                await self._excuse(error)
                return
            else:
                await self._after_error(error)
        finally:
            if line is not None:
                await line.finish()
        raise error

    def send_http(self, message: Message) -> Awaitable[None]:
        """Send a part of a response; its start waits for the commit."""
        if message["type"] == "http.response.start":
            session = self.session
            is_changed = session.might_differ()
            if is_changed or self.owes:
                return self._commit_and_start(message, is_changed=is_changed)
            self.started = True
            headers = message.get("headers", ())
            if session.accessed:
                message["headers"] = headers = list(headers)
                append_vary(headers, self.manager.vary)
            if session.base is not None and is_event_stream(headers):
                return self.line.start_stream(message)
        elif self.is_replaced:
            return _nothing()
        elif self._line is not None and self._line.is_live:
            return self._line.send(message)
        return self.send(message)

    def send_websocket(self, message: Message) -> Awaitable[None]:
        """Send a message; the handshake's end waits for the commit."""
        if self.is_replaced:
            return _nothing()
        if message["type"] == "websocket.accept" and not self.started:
            return self._commit_and_start(message, is_changed=self.session.might_differ())
        return self.line.send(message)

    async def _commit_and_start(self, message: Message, *, is_changed: bool) -> None:
        session = self.session
        if is_changed and not await self._commit():
            return
        if self.is_due:
            await renew(self)
        self.mend()
        self.started = True
        headers = message["headers"] = list(message.get("headers", ()))
        self._add_to(headers)
        if session.accessed or is_changed:
            append_vary(headers, self.manager.vary)
        if self.scope["type"] == "websocket":
            self.line.join()
            await self.line.send(message)
        elif session.base is not None and is_event_stream(headers):
            await self.line.start_stream(message)
        else:
            await self.send(message)

    async def _commit(self) -> bool:
        """Commit before the response starts; return whether the application's own response may go out."""
        plan = _NO_PLAN
        try:
            plan = self.session.plan()
            await self.commit(plan)
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
            self.outcome = "dropped"
            self.session.dropped()
            return False
        return True

    async def _answered(self, error: EvsessionError, *, default: bool) -> bool:
        """Answer an error in the application's place; return whether that was done."""
        if self.scope["type"] == "websocket":
            await tell(self.send, CLOSE if default else ())
            self.is_replaced = default
            return default
        response = None
        if self.on_error is not None:
            response = self.on_error(HTTPConnection(self.scope), error)
            if inspect.isawaitable(response):
                response = await response
        if response is None and not default:
            return False
        self.is_replaced = self.started = True
        if response is not None:
            await response(self.scope, self.receive, self._with_news)
        else:
            await tell(self.send, unavailable_response(self.carried(), error))
        return True

    async def _with_news(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"] = list(message.get("headers", ()))
            self._add_to(headers)
        await self.send(message)

    def _add_to(self, headers: Headers) -> None:
        """Add what the client must be told: its cookie, or its token and version."""
        if carried := self.carried():
            headers += carried
            forbid_store(headers)
            if self.cookie:
                self.manager.warn_about_insecure(self.scope)

    async def commit_late(self) -> None:
        """Commit what was set while the body streamed, or in a background task."""
        self.started = True
        plan = _NO_PLAN
        try:
            plan = self.session.plan()
            if self.lost is not None and plan:  # a request that was refused is not half carried out
                raise self.lost
            await self.commit(plan)
        except (ResponseStarted, *NO_FAULT) as error:
            self._dropped(plan, error)

    async def _excuse(self, error: EvsessionError) -> None:
        """Answer in the place of a handler that an outage or the session's end has stopped, as the commit would."""
        await self._after_error(error)
        if plan := self._pending():
            self._dropped(plan, error)
        else:
            log.warning("a handler could not go on: %s", error)
        await self._answered(error, default=True)

    def _pending(self) -> Plan:
        try:
            return self.session.plan()
        except EvsessionError as error:
            log.warning("what a handler left could not have been committed: %s", error)
            return _NO_PLAN

    async def _after_error(self, error: BaseException) -> None:
        """After an unhandled exception: an end and a rotation survive it, other changes only by policy."""
        if not isinstance(error, Exception) or not self.session.might_differ():
            return
        try:
            keeps = self.manager.policy.keep_on_error
            self.outcome = "rolled_back"
            plan = self.session.plan() if keeps else self.session.surviving()
            self.started = True
            await self.commit(plan)
        except EvsessionError as second:
            self.outcome = "dropped"
            log.warning("after an error in the handler the session could not be committed: %s", second)

    def _dropped(self, plan: Plan, error: EvsessionError) -> None:
        self.lost, self.outcome = error, "dropped"
        worker = self.manager.worker
        worker.counts.dropped_changes += 1
        base = self.session.base
        sid = self.ticket.sid if self.ticket is not None else None
        log.warning(
            "dropped changes of keys %s in session %s: %s",
            _named(plan.keys), base.snapshot.sid if base is not None else sid, error,
        )  # fmt: skip
        self.session.dropped()

    def log(self) -> None:
        """Write the line of this request; only for debugging, as it names keys."""
        session: Session = self.session
        base = session.base
        if base is None and self.cached is not None:
            base = self.cached.stored  # what is over still has a name
        log.debug(
            "session=%s source=%s version=%s outcome=%s changed=%s keys=%s",
            base.snapshot.sid if base is not None else None, self.source,
            base.snapshot.version if base is not None else 0, self.outcome or _outcome_of(session),
            _named(dict.fromkeys(self.changed)), _named(session),
        )  # fmt: skip


async def tell(send: Send, messages: Iterable[Message]) -> None:
    """Send messages, one after the other."""
    for message in messages:
        await send(message)


def unavailable_response(carried: Iterable[tuple[bytes, bytes]], error: EvsessionError) -> list[Message]:
    """Return the messages of a 503 that asks to come back, with the headers that it must carry.

    A user who has as many sessions as may be gets a 403: to come back does not help.
    """
    if isinstance(error, SessionLimitReached) and error.what == "max_sessions":
        return _refusal(403, b"Forbidden: signed in in %d other places; sign out in one first." % error.limit, carried)
    body = b"Service Unavailable: %b." % _EXPLAINED.get(type(error), _UNEXPLAINED)
    return _refusal(503, body, [(b"retry-after", b"1"), *carried])


def _refusal(status: int, body: bytes, more: Iterable[tuple[bytes, bytes]]) -> list[Message]:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *more,
    ]
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
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


def _outcome_of(session: Session) -> Outcome:
    """Return what became of a session of which nothing was committed."""
    if session.is_dead:
        return "dead"
    if session.modified:
        return "unchanged"
    return "read" if session.accessed else "untouched"


def _named(keys: Iterable[str]) -> str:
    """Return the names of keys as one line of printable ASCII."""
    return json.dumps(list(keys))
