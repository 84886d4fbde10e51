"""One HTTP exchange or WebSocket and its session: loading it, committing what it asks for, and the cookie."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from starlette.requests import HTTPConnection
from starlette.types import Receive, Send

from evsession.bearer import news
from evsession.cache import Cached
from evsession.canonical import check_size, dumps
from evsession.codec import Stored
from evsession.committer import Decide
from evsession.context import device_of
from evsession.control import EVERYONE, Revocation
from evsession.cookies import Found, Headers
from evsession.errors import (
    EvsessionError,
    ResponseStarted,
    SessionDetached,
    SessionEnded,
    SessionLimitReached,
    StoreUnavailable,
)
from evsession.events import DEADLINES, Authenticated, Changes, Created, Ended, Event, Renewed, Updated
from evsession.outcome import Outcome, outcome_of
from evsession.patience import RETRY_AFTER
from evsession.plan import Login, Plan
from evsession.renewing import look
from evsession.session import Session
from evsession.state import Snapshot, evolve, rebase
from evsession.store import Entrance
from evsession.tokens import Purpose, Ticket, Token, mint, new_sid, reissue
from evsession.wire import START, Position, control_text
from evsession.worker import milliseconds

if TYPE_CHECKING:
    from evsession.connections import Connection
    from evsession.line import Line
    from evsession.manager import SessionManager

log = logging.getLogger("evsession.request")

NO_COOKIE: Final = b""

OnError = Callable[[HTTPConnection, EvsessionError], Any]
"""Answers errors that only the commit knows: gets the connection and the error, returns an ASGI response or None."""


class Exchange:
    """Binds a session to the connection that it was loaded for; ends with it."""

    # What few requests ever set is a class's default: a cached read would pay for each of them.
    bearer: Sequence[tuple[bytes, bytes]] = ()
    """What the response is to tell a client without cookies."""
    changed: tuple[str, ...] = ()
    cookie = NO_COOKIE
    """The Set-Cookie value that the response is to carry."""
    is_due = is_former = is_over = mends = False
    issued: Token | None = None
    """The bearer token that the response hands out."""
    lost: EvsessionError | None = None
    """Why changes of this request were dropped."""
    outcome: Outcome | None = None
    """What became of the session, once it was more than read; for the log, as `changed` is."""
    root = ""
    """The secret, if this exchange has made one, from which all that its client may still use are renewed."""
    _revoked: tuple[Revocation, ...] = ()
    """What this very request has revoked: whoever signs in with it does so knowing."""

    new_session: ClassVar[Callable[..., Session]] = Session
    """Makes the session that a handler gets: policy, snapshot, its data if flat, whether the token was dead."""

    def __init__(
        self, manager: SessionManager, scope: Any, receive: Receive, send: Send, on_error: OnError | None = None
    ) -> None:
        self.manager = manager
        self.scope = scope
        self.receive = receive
        self.send = send
        self.on_error = on_error
        self.ticket: Ticket | None = None
        """What the cookie says; None without a good one."""
        self.raw = b""
        """The cookie's value as it came."""
        self.cached: Cached | None = None
        """The session that the ticket names, as it was when the request began."""
        self.connection: Connection | None = None
        """What closes with the session: a WebSocket, an event stream, or a body that is still arriving."""
        self.control = manager.worker.control.position
        """The control position that this worker had applied when the request began."""
        self.transport: Purpose = manager.transports[0]
        """How the token came; without one, how a new session's is to be handed out."""
        self.owes = False
        """Whether the response has to carry something although nothing has changed: `cookie`, `bearer`, what `mends`
        or `is_due` call for.
        """
        self.started = False
        self.is_replaced = False
        """Whether the client got another answer than the application's."""
        self._line: Line | None = None
        self.source = "none"

    def choose(self, cookie: Found, bearer: Found) -> Found:
        """Return what names the session, of a cookie and an Authorization header of which at most one holds a token."""
        if bearer is not None:
            self.transport = "bearer"
            return bearer
        if cookie is None or not self.manager.takes_cookies:
            return None
        self.transport = "cookie"
        return cookie

    # ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def serve(self) -> Session:
        """Make the session of this request from what was found.

        Without a session, or after one that expired, it is empty and a write begins a new one. After one that was
        ended, or with a secret that a login replaced, it is empty and dead: its writes are dropped, so that no answer
        to an old request can put its cookie in the place of a newer one.
        """
        policy, ticket, cached = self.manager.policy, self.ticket, self.cached
        if cached is not None and ticket is not None and ticket.secret_hash in cached.secrets and not cached.dead:
            session = self.new_session(policy, cached.stored, cached.flat)
            if self.manager.renew_ms and self.source != "stale":
                look(self, cached.stored)
        elif cached is None or ticket is None or cached.stored.snapshot.ended in DEADLINES:
            self.ticket = None
            session = self.new_session(policy)
        else:
            session = self.new_session(policy, is_dead=True)
            self.is_former = ticket.secret_hash == cached.stored.snapshot.renewal.former
            self.manager.worker.bury(cached)
        return self.bind(session)

    def bind(self, session: Session) -> Session:
        """Make a session the one of this request."""
        session._binding = self
        self.session = session
        return session

    async def revalidate(self, session: Session) -> None:
        """Bring the session to the newest state of the store; see `Session.revalidate`."""
        self.check_open("revalidate")
        if session.is_dead:
            raise SessionEnded("logout")
        if session.base is None:
            return
        cached = await self.manager.fetch(session.base.snapshot.sid, may_join=False)
        if cached is None:
            raise SessionEnded("absolute")
        self.check_token(cached.stored.snapshot, dead=cached.dead)
        session.rebased(cached.stored)

    # ── committing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def needs_cookie(self, operation: str) -> None:
        """Raise if it is too late for a cookie."""
        self.check_open(operation)
        if self.started:
            raise ResponseStarted(operation)

    def check_open(self, operation: str) -> None:
        """Raise if the request is over."""
        if self.is_over:
            raise SessionDetached(operation)

    def check_transport(self, transport: Purpose) -> None:
        """Raise if the manager takes no tokens of a transport."""
        self.manager.check_transport(transport)

    def close(self) -> None:
        """Be over. Leaves no cycle, in which the cookie would stay in memory until the garbage collector came by.

        Source: without cycles a cached read takes 10 % less (measured); the collector's runs come on top.
        """
        self.is_over = True
        self.scope = self._line = None
        self.raw = b""
        del self.session

    async def save(self, session: Session) -> None:
        """Commit what the session asks for, and leave the cookie that the response must carry in `cookie`."""
        self.check_open("save")
        await self.commit(session.plan())

    async def commit(self, plan: Plan) -> None:
        """Commit a plan: at most one event, or two when a session ends and another begins.

        Raises:
            SessionEnded: the session, or the token that came with the request, is dead; nothing was written.
            SessionLimitReached, SessionTooLarge, CodecError: nothing was written.
            ResponseStarted: a session cannot begin any more; nothing was written.
            StoreUnavailable: not within the commit time-out.
        """
        if not plan:
            return
        if self.source == "outage":
            raise StoreUnavailable(RETRY_AFTER, "it was away when the request began")
        session = self.session
        base = session.base
        try:
            stored = await self._carry_out(plan)
        except SessionEnded:
            session.dropped(is_over=True)
            if self.ticket is not None:  # not the cookie in which this very exchange ended the session
                self.cookie, self.bearer, self.issued = NO_COOKIE, (), None
            if plan.end is None or plan.login is not None or plan.changes.set_:
                raise
            log.debug("a session that was to end was over already")
        else:
            self.outcome, self.changed = outcome_of(base, stored), (*self.changed, *plan.keys)
            session.committed(stored, plan)

    async def _carry_out(self, plan: Plan) -> Stored | None:
        session, worker = self.session, self.manager.worker
        if session.is_dead and plan.login is None:
            raise SessionEnded("logout")
        await worker.ensure_open()
        changes = worker.drafter.changes(plan.changes)
        if not plan.begins and not self._has_revoked_itself(plan):
            return await self._change(session.base, plan, changes)
        entrance = None
        if plan.end is not None:
            check_size(changes.set_, dumps(changes.set_), self.manager.policy)  # before the end, not after it
        if plan.login is not None:
            entrance = await self._admit(plan.login, self._new_sid(), None)
        if plan.end is not None and session.base is not None:
            await self._end(session.base, plan)
        if plan.login is None and not changes.set_:
            return None
        try:
            return await self._begin(plan.login, entrance, changes)
        except EvsessionError:
            if plan.end is not None:
                session.dropped(is_over=True)
            raise

    def _has_revoked_itself(self, plan: Plan) -> bool:
        """Tell whether this request has revoked its own session, as a reset of a password does, and signs in anew."""
        base = self.session.base
        if plan.login is None or not self._revoked or base is None:
            return False
        return self.manager.worker.cache.control.is_dead(base.snapshot)

    async def _end(self, base: Stored, plan: Plan) -> None:
        cause = plan.end or "logout"
        if not self.started:
            self.leave()

        def decide(snapshot: Snapshot | None) -> Event | None:
            if snapshot is not None:
                self.check_token(snapshot)
            return Ended(cause=cause)

        try:
            await self.manager.worker.committer.append(base.snapshot.sid, base, decide, self._stamp(None))
        except SessionEnded:
            # Over already: a login goes on without it. Anything else is dropped, and the cookie that the browser has by
            # now stays what it is.
            if plan.login is None:
                raise
            return
        if not self.started:
            self._take_back()
        self.ticket = None

    def leave(self) -> None:
        """Have nothing that closes with the session any more: the request itself leaves it, or needs no more of it."""
        if self.connection is not None:
            self.connection.leave()
            self.connection = None

    async def _begin(self, login: Login | None, entrance: Entrance | None, changes: Changes) -> Stored:
        if self.started:
            raise ResponseStarted("a new session")
        manager = self.manager
        if login is None and not manager.may_create_anonymous():
            raise SessionLimitReached(manager.policy.anonymous_per_second, "anonymous_per_second")
        sid = self._new_sid() if entrance is None else entrance.sid
        token = self._new_token(sid, login)
        event = self._first_event(login, changes, token)

        def decide(_: Snapshot | None) -> Event:
            self._check_alive(evolve(Snapshot(sid=sid), event))
            return event

        stored = await self._append(sid, None, decide, login, entrance)
        if stored is None:  # the event was named, so it was appended
            raise SessionEnded("logout")
        manager.worker.counts.created += 1
        self._hand_out(token, stored, login)
        return stored

    def _new_sid(self) -> str:
        return new_sid(secrets.choice(self.manager.worker.store.shards), os.urandom(16))

    def _first_event(self, login: Login | None, changes: Changes, token: Token) -> Event:
        if login is not None:
            return self._authenticated(login, changes, token)
        control = control_text(self._control_of(token.sid, (EVERYONE,)))
        return Created(set_=changes.set_, redacted=changes.redacted, secret=token.secret_hash, control=control)

    def _authenticated(self, login: Login, changes: Changes, token: Token) -> Event:
        return Authenticated(
            set_=changes.set_,
            unset=changes.unset,
            redacted=changes.redacted,
            user_id=login.user_id,
            secret=token.secret_hash,
            control=control_text(self._control_of(token.sid, (EVERYONE, f"user:{login.user_id}", *login.names))),
            names=login.names,
            detected=login.detected,
            facts=login.facts,
            remember=_remembered(login),
        )

    async def _admit(self, login: Login, sid: str, base: Stored | None) -> Entrance:
        device = device_of(self.scope, self.manager.audit_policy)
        return await self.manager.index.admit(login.user_id, sid, base, device=device, remember=_remembered(login))

    def _append(
        self, sid: str, base: Stored | None, decide: Decide, login: Login | None, entrance: Entrance | None
    ) -> Awaitable[Stored | None]:
        manager, stamp = self.manager, self._stamp(login)
        if login is None or entrance is None:
            return manager.worker.committer.append(sid, base, decide, stamp)
        return manager.index.append(entrance, base, decide, stamp, remember=_remembered(login))

    async def _change(self, base: Stored | None, plan: Plan, wanted: Changes) -> Stored | None:
        if base is None:
            return None
        if self.started and plan.login is not None:
            raise ResponseStarted("login")
        login, sid = plan.login, base.snapshot.sid
        entrance = None if login is None else await self._admit(login, sid, base)
        token = self._new_token(sid, login) if login is not None or plan.rotate else None
        if token is not None and self.connection is not None:
            self.connection.standing.expect(token.secret_hash)

        def decide(snapshot: Snapshot | None) -> Event | None:
            if snapshot is None:
                return None
            self.check_token(snapshot)
            changes = wanted if snapshot is base.snapshot else rebase(wanted, snapshot.data)
            if login is not None and token is not None:
                event = self._authenticated(login, changes, token)
                self._check_alive(evolve(snapshot, event))
                return event
            if token is not None:
                return Renewed(
                    set_=changes.set_,
                    unset=changes.unset,
                    redacted=changes.redacted,
                    secret=token.secret_hash,
                    phase="rotated",
                )
            return _updated(changes)

        stored = await self._append(sid, base, decide, login, entrance)
        if stored is not None:
            if token is not None:
                self._hand_out(token, stored, login)
            elif not self.started:
                self._fence(stored)
        return stored

    def check_token(self, snapshot: Snapshot, *, dead: bool | None = None) -> None:
        """Raise unless the token of this request, or one that was renewed from it, is good in a snapshot.

        It was good when the request began: a renewal, or a grace that has run out since, takes nothing from it.
        """
        if snapshot.ended is not None:
            raise SessionEnded(snapshot.ended)
        if self.ticket is None or snapshot.root != (self.root or self._first_root()):
            raise SessionEnded("logout")
        if self.manager.worker.cache.is_dead(snapshot) if dead is None else dead:
            raise SessionEnded("revoked")

    def _first_root(self) -> str:
        return "" if self.cached is None else self.cached.stored.snapshot.root

    def has_revoked(self, entry: Revocation) -> None:
        """Take in that this request has revoked a name, so that a login in it lives."""
        self._revoked = (*self._revoked, entry)

    def _control_of(self, sid: str, names: tuple[str, ...]) -> Position | None:
        """Return the control position of a session that begins now: where this worker stood when the request began.

        What the request itself has revoked counts as known, unless somebody else has revoked one of the names since.
        """
        if not self._revoked:
            return self.control
        since = (self.control or START).id
        own = {entry.name: entry for entry in self._revoked}
        control = self.manager.worker.cache.control
        for name in names:
            newest = control.newest_of((name,), sid)
            is_own = name in own and newest <= own[name].position.id and own[name].follows <= since
            if newest > since and not is_own:
                return self.control
        return max(entry.position for entry in self._revoked)

    def _check_alive(self, snapshot: Snapshot) -> None:
        """Raise if a session is revoked before it begins, as by a logout everywhere while its password was checked."""
        if self.manager.worker.cache.control.is_dead(snapshot):
            raise SessionEnded("revoked")

    def _stamp(self, login: Login | None) -> Any:
        actor = login.actor if login is not None else None
        return self.manager.stamp(self.scope, actor)

    # ── what the client is told ──────────────────────────────────────────────────────────────────────────────────────

    def carried(self) -> Headers:
        """Return the headers that the response must carry."""
        cookie = [(b"set-cookie", self.cookie)] if self.cookie else []
        return [*cookie, *self.bearer]

    def _purpose(self, login: Login | None) -> Purpose:
        return self.transport if login is None or login.transport is None else login.transport

    def _new_token(self, sid: str, login: Login | None) -> Token:
        keys, name = self.manager.worker.keys, self.manager.cookie.name
        return mint(keys, self._purpose(login), name, sid, os.urandom(32))

    def _hand_out(self, token: Token, stored: Stored, login: Login | None) -> None:
        version = stored.snapshot.version
        purpose = self._purpose(login)
        if purpose != self.transport and self.ticket is not None:
            self._take_back()  # the client's other token is dead from now on
        self.transport, self.root, self.is_due = purpose, token.secret_hash, False
        self.ticket = Ticket(token.sid, token.secret_hash, version, True)
        self.raw = token.value.encode()
        if purpose == "bearer":
            self.issued = token
            self._fence(stored)
        else:
            self._set_cookie(token.fenced(version), stored)

    def take_over(self, token: Token, stored: Stored) -> None:
        """Go on with a token that was renewed from the one that came."""
        fenced = token.fenced(stored.snapshot.version)
        self.ticket = Ticket(token.sid, token.secret_hash, stored.snapshot.version, True)
        self.raw = token.value.encode()
        self._set_cookie(fenced, stored)
        self.manager.remember(fenced, self.ticket)

    def _take_back(self) -> None:
        """Make a browser forget its cookie. A client without cookies is told nothing: its token is dead as it is."""
        self.bearer, self.issued = (), None
        if self.transport == "cookie":
            self.cookie, self.owes = self.manager.renderer.clear(), True

    def _fence(self, stored: Stored) -> None:
        """Give the client the version that it must see from now on."""
        version = stored.snapshot.version
        if self.transport == "bearer":
            self.bearer, self.owes = news(version, self.issued), True
            return
        value, ticket = self.raw.partition(b"~")[0].decode(), self.ticket
        if ticket is not None and not ticket.current_key:
            token = reissue(self.manager.worker.keys, "cookie", self.manager.cookie.name, self.raw)
            value = token.value if token is not None else value
        fenced = f"{value}~{version}"
        self._set_cookie(fenced, stored)
        if ticket is not None:
            self.manager.remember(fenced, Ticket(ticket.sid, ticket.secret_hash, version, True))

    def _set_cookie(self, value: str, stored: Stored) -> None:
        self.cookie, self.owes = self.manager.set_cookie(value, stored), True

    def mend(self) -> None:
        """Correct a fence that named a version which does not exist any more."""
        base = self.session.base
        if self.mends and base is not None and not self.cookie and not self.bearer:
            self._fence(base)


def _remembered(login: Login) -> int:
    return 0 if login.remember is None else milliseconds(login.remember.total_seconds())


def _updated(changes: Changes) -> Updated | None:
    if not changes.set_ and not changes.unset:
        return None
    return Updated(set_=changes.set_, unset=changes.unset, redacted=changes.redacted)
