"""The desk: what a program does with sessions outside of requests, and whoever acts there."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from evsession.cache import Cached
from evsession.canonical import dumps, loads
from evsession.codec import Stored
from evsession.committer import Decide
from evsession.config import AuditPolicy, CachePolicy, CookiePolicy, SessionPolicy, check_transports
from evsession.context import MAX_TEXT, Acting, acting, actor_of, context_of, current, outside
from evsession.control import EVERYONE, name_of
from evsession.device import unpack
from evsession.draft import Stamp
from evsession.errors import ConfigError, SessionConflict, SessionEnded, Unsupported
from evsession.events import Actor, Authenticated, Cause, Changes, Created, Event, Updated
from evsession.index import UserIndex
from evsession.info import SessionInfo, info_of
from evsession.operations import Operation
from evsession.plan import detect
from evsession.revocation import NOTHING, Receipt
from evsession.session import Session, sid_of
from evsession.state import Snapshot, diff, rebase
from evsession.tokens import Purpose, Token, is_sid, mint, new_sid, normalise_user_id
from evsession.view import CONTROL
from evsession.wire import Position, control_text, id_text
from evsession.worker import Worker

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session made without a request: its public id, and the token to hand out (hidden when printed)."""

    id: str
    token: Token


class Desk:
    """Reads, makes, edits and ends sessions by their id; `SessionManager` is one."""

    def __init__(
        self,
        worker: Worker,
        policy: SessionPolicy,
        cookie: CookiePolicy,
        audit: AuditPolicy,
        transports: Sequence[Purpose],
    ) -> None:
        self.worker = worker
        self.policy = policy
        self.cookie = cookie
        self.audit_policy = audit
        self.transports = check_transports(transports)
        self.clock = worker.clock
        self.index = UserIndex(worker, policy)
        self.cache_policy: CachePolicy = worker.cache_policy

    async def fetch(self, sid: str, *, may_join: bool = True) -> Cached | None:
        """Return a session from the store, None if it is not there or past a deadline.

        Raises:
            StoreUnavailable, CorruptSnapshot, UnknownFormat, ConfigError: it cannot be served.
        """
        worker = self.worker
        await worker.ensure_open()
        worker.counts.fills += 1
        cached = await worker.replica.fill(sid, may_join=may_join)
        await worker.sweep_if_due()
        if cached is None or self.clock() >= cached.deadline:
            return None
        return cached

    def stamp(self, scope: Mapping[str, Any] | None, actor: Actor | None = None) -> Stamp:
        """Return who, where and when for an event of this connection, or of this program without one.

        What a handler does by its manager is of its request too.
        """
        worker, exchange = self.worker, current.get()
        if scope is None and exchange is not None and exchange.manager is self:
            scope = exchange.scope  # None once the request is over
        trace = worker.operations.traceparent() if self.audit_policy.request_ids else ""
        context = outside(worker.id, trace) if scope is None else context_of(scope, self.audit_policy, worker.id, trace)
        return worker.stamp(actor_of(scope, self.audit_policy, actor), context)

    @contextmanager
    def acting_as(self, actor: Actor, *, ticket: str | None = None) -> Iterator[None]:
        """Name who acts in this block, and the number under which it was asked for, such as ``"OPS-12"``.

        For scripts and jobs. What a request's session commits with its response is not in the block; `session.save()`
        within it is.

        Raises:
            ConfigError: the ticket is no text of 1 to 256 characters.
        """
        if ticket is not None and not 0 < len(ticket) <= MAX_TEXT:
            msg = f"a ticket is a text of 1 to {MAX_TEXT} characters; write ticket='OPS-12', or leave it out"
            raise ConfigError(msg)
        token = acting.set(Acting(actor, ticket))
        try:
            yield
        finally:
            acting.reset(token)

    async def get(self, session_id: str) -> SessionInfo | None:
        """Return what is known of a session, or None if it is not alive.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        cached = await self._living(session_id)
        return None if cached is None else info_of(cached.stored, idle=self.policy.idle_timeout)

    async def sessions_of(
        self, user_id: object, *, current: Session | SessionInfo | str | None = None, limit: int = 100
    ) -> list[SessionInfo]:
        """Return the living sessions of a user, who signed in last first, for a list of devices; never a token.

        Each one is asked for at the primary, so none is shown that is over. `current` is the one that gets
        `is_current`, `limit` how many are returned at most.

        Raises:
            InvalidUserId: it cannot identify a user.
            StoreUnavailable: the store did not answer.
        """
        own = current if current is None or isinstance(current, str) else id_of(current)
        found = await self.index.living(normalise_user_id(user_id), limit)
        return [
            replace(
                info_of(cached.stored, idle=self.policy.idle_timeout),
                is_current=member.sid == own,
                **unpack(member.device)._asdict(),
            )
            for member, cached in found
        ]

    async def users(self, *, page: int = 1000) -> AsyncIterator[str]:
        """Yield the ids of all users that have sessions, or had some a moment ago; each once, in no order.

        The server is asked for pages of about `page`, so that it never stands still.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        await self.worker.ensure_open()
        seen, cursor, is_over = set[str](), "", False
        while not is_over:
            users, cursor = await self.worker.store.users(cursor, page)
            is_over = not cursor
            for user in users:
                if user not in seen:
                    seen.add(user)
                    yield user

    async def _living(self, session_id: str) -> Cached | None:
        if not is_sid(session_id):
            return None
        cached = self.worker.cache.lookup(session_id, self.clock()) or await self.fetch(session_id)
        if cached is None or cached.dead or cached.stored.snapshot.ended is not None:
            return None
        return cached

    async def _required(self, session_id: str) -> Cached:
        """Return a living session.

        Raises:
            SessionEnded: it is over; one of which the store knows nothing any more counts as signed out.
        """
        cached = await self._living(session_id)
        if cached is None:
            raise SessionEnded(await self._cause_of(session_id))
        return cached

    async def _cause_of(self, session_id: str) -> Cause:
        found = await self.worker.replica.fill(session_id) if is_sid(session_id) else None
        if found is None:
            return "logout"
        stored = found.stored
        if stored.snapshot.ended is not None:
            return stored.snapshot.ended
        if found.dead:
            return "revoked"
        return "absolute" if stored.absolute_at <= stored.idle_at else "idle"

    def check_transport(self, transport: Purpose) -> None:
        """Raise unless tokens of this transport are taken.

        Raises:
            Unsupported: they are not.
        """
        if transport not in self.transports:
            listed = (*self.transports, transport)
            raise Unsupported(f"transport={transport!r}", f"allow it with SessionManager(transports={listed})")

    async def create(
        self,
        user_id: object = None,
        data: Mapping[str, Any] | None = None,
        *,
        transport: Purpose | None = None,
    ) -> NewSession:
        """Create a session without a request, signed in if a user is given.

        `transport` says what its token is good for: ``"bearer"`` by default where the manager takes such, else
        ``"cookie"``. In a request that checked a password, `session.login` also knows what was revoked meanwhile.

        Raises:
            InvalidUserId, CodecError, SessionTooLarge, Unsupported: nothing was written.
            SessionLimitReached: the user has `SessionPolicy.max_sessions` already.
            StoreUnavailable: the store did not take it.
        """
        purpose: Purpose = transport or ("bearer" if "bearer" in self.transports else "cookie")
        self.check_transport(purpose)
        await self.worker.ensure_open()
        user = None if user_id is None else normalise_user_id(user_id)
        detected = user is None and (found := detect(self.policy, data or {})) is not None
        changes = self.worker.drafter.changes(Changes(set_=dict(data or {})))
        sid = new_sid(secrets.choice(self.worker.store.shards), os.urandom(16))
        token = mint(self.worker.keys, purpose, self.cookie.name, sid, os.urandom(32))
        control = control_text(self.worker.control.position)
        event: Event
        if user is None and not detected:
            event = Created(set_=changes.set_, redacted=changes.redacted, secret=token.secret_hash, control=control)
            await self.worker.committer.append(sid, None, lambda _: event, self.stamp(None))
        else:
            event = Authenticated(
                set_=changes.set_, redacted=changes.redacted, secret=token.secret_hash, control=control,
                user_id=user or str(found), detected=detected,
            )  # fmt: skip
            entrance = await self.index.admit(event.user_id, sid, None)
            await self.index.append(entrance, None, lambda _: event, self.stamp(None))
        self.worker.counts.created += 1
        return NewSession(sid, token)

    @asynccontextmanager
    async def edit(self, session: Session | SessionInfo | str) -> AsyncIterator[dict[str, Any]]:
        """Edit a session's data as a dict, in one attempt, committed at the end of the block.

        Raises:
            SessionConflict: somebody else changed one of the same keys meanwhile; nothing was written.
            SessionEnded: the session is over, or was never there; nothing was written.
            CodecError, SessionTooLarge: the data cannot be stored; nothing was written.
            Unsupported: the data would name another user; nothing was written.
            StoreUnavailable: the store did not take it in time; with `outcome_unknown` it may have.
        """
        cached = await self._required(id_of(session))
        before = cached.stored.snapshot.data
        data: dict[str, Any] = loads(cached.stored.raw)
        yield data
        changes = self.worker.drafter.changes(diff(before, data))

        def decide(snapshot: Snapshot | None) -> Event | None:
            if snapshot is None:
                return None
            self._check_living(snapshot)
            theirs = diff(before, snapshot.data)
            mine = {*changes.set_, *changes.unset}
            if both := sorted(mine & {*theirs.set_, *theirs.unset}):
                raise SessionConflict(both)
            return self._update_of(snapshot, changes)

        stored = await self._append(cached, decide)
        if isinstance(session, Session) and stored is not None:
            session.rebased(stored)

    async def update(self, session: Session | SessionInfo | str, change: Callable[[dict[str, Any]], R]) -> R:
        """Apply a function to a session's data; it runs again on every conflict, so it must depend on the data alone.

        For counters and stock: ``await manager.update(session, lambda data: data.update(n=data.get("n", 0) + 1))``.

        Raises:
            SessionEnded: the session is over, or was never there; nothing was written.
            CodecError, SessionTooLarge: the data cannot be stored; nothing was written.
            Unsupported: the data would name another user; nothing was written.
            StoreUnavailable: the store did not take it in time; with `outcome_unknown` it may have.
        """
        cached = await self._required(id_of(session))
        results: list[R] = []

        def decide(snapshot: Snapshot | None) -> Event | None:
            if snapshot is None:
                return None
            self._check_living(snapshot)
            data = loads(dumps(snapshot.data))
            results.append(change(data))
            return self._update_of(snapshot, self.worker.drafter.changes(diff(snapshot.data, data)))

        stored = await self._append(cached, decide)
        if isinstance(session, Session) and stored is not None:
            session.rebased(stored)
        return results[-1]

    def _check_living(self, snapshot: Snapshot) -> None:
        if snapshot.ended is not None:
            raise SessionEnded(snapshot.ended)
        if self.worker.cache.control.is_dead(snapshot):
            raise SessionEnded("revoked")

    def _update_of(self, snapshot: Snapshot, changes: Changes) -> Event | None:
        left = rebase(changes, snapshot.data)
        if not left.set_ and not left.unset:
            return None
        user = detect(self.policy, {**snapshot.data, **dict.fromkeys(left.unset), **left.set_})
        if user not in (detect(self.policy, snapshot.data), snapshot.user_id):
            raise Unsupported(
                "changing the user of a session outside its request",
                "use session.login(user_id) there, or manager.revoke(session)",
            )
        return Updated(set_=left.set_, unset=left.unset, redacted=left.redacted)

    async def _append(self, cached: Cached, decide: Decide) -> Stored | None:
        sid = cached.stored.snapshot.sid
        return await self.worker.committer.append(sid, cached.stored, decide, self.stamp(None))

    # ── revoking ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def revoke(
        self,
        session: Session | SessionInfo | str,
        *,
        reason: str = "",
        actor: Actor | None = None,
        timeout: timedelta | None = None,
    ) -> Receipt:
        """End a session, whoever holds it; the receipt tells which workers know, after at most `timeout`.

        `timeout` defaults to `max_staleness`; zero does not wait. A session that has ended already, or never was, is
        no error.

        Raises:
            StoreUnavailable: it is not known whether the session has ended; call again.
        """
        sid = id_of(session)
        if not is_sid(sid):
            return NOTHING
        with self.worker.operations.revocation("session", sid) as operation:
            receipt = await self._revoke_session(sid, reason, actor, timeout)
            _note(operation, receipt)
            return receipt

    async def _revoke_session(self, sid: str, reason: str, actor: Actor | None, timeout: timedelta | None) -> Receipt:
        started_at = self.clock()
        await self.worker.ensure_open()
        stamp = self.stamp(None, actor)
        await self.worker.end(sid, "revoked", reason=reason, actor=stamp.actor, context=stamp.context)
        appended_at = self.clock()
        position = await self.worker.place_of_end(sid)
        return NOTHING if position is None else await self._receipt(sid[:2], position, started_at, appended_at, timeout)

    async def revoke_user(
        self,
        user_id: object,
        *,
        reason: str = "",
        actor: Actor | None = None,
        keep: Session | None = None,
        timeout: timedelta | None = None,
    ) -> Receipt:
        """Sign a user out everywhere: one write, however many sessions there are, logins under way included.

        `keep` is the session of this very request, which lives on with a new token; its old one is dead. `reason` is
        an operator's sentence for the audit trail. `timeout` defaults to `max_staleness`; zero does not wait.

        Raises:
            InvalidUserId: no user can have this id.
            SessionDetached, SessionEnded, ResponseStarted: of `keep`; nothing was revoked.
            StoreUnavailable: with `outcome_unknown` it may be in force; call again.
        """
        user = normalise_user_id(user_id)
        receipt = await self._revoke_name(f"user:{user}", reason, actor, keep, timeout)
        self.worker.revoked_users.append(user)
        return receipt

    async def revoke_named(
        self,
        kind: str,
        value: object,
        *,
        reason: str = "",
        actor: Actor | None = None,
        keep: Session | None = None,
        timeout: timedelta | None = None,
    ) -> Receipt:
        """End all sessions with a name given at login, such as ``revoke_named("tenant", "acme")``.

        Parameters and errors are those of `revoke_user`.

        Raises:
            ValueError: the name has not the form ``kind:value``.
        """
        return await self._revoke_name(name_of(kind, value), reason, actor, keep, timeout)

    async def revoke_everyone(
        self,
        *,
        reason: str = "",
        actor: Actor | None = None,
        keep: Session | None = None,
        timeout: timedelta | None = None,
    ) -> Receipt:
        """End all sessions of this namespace, anonymous ones included; all else is as in `revoke_user`."""
        return await self._revoke_name(EVERYONE, reason, actor, keep, timeout)

    async def _revoke_name(
        self, name: str, reason: str, actor: Actor | None, keep: Session | None, timeout: timedelta | None
    ) -> Receipt:
        with self.worker.operations.revocation(name.partition(":")[0]) as operation:
            receipt = await self._revoke_all_with(name, reason, actor, keep, timeout)
            _note(operation, receipt)
            return receipt

    async def _revoke_all_with(
        self, name: str, reason: str, actor: Actor | None, keep: Session | None, timeout: timedelta | None
    ) -> Receipt:
        worker, started_at = self.worker, self.clock()
        await worker.ensure_open()
        kept = None if keep is None else await keep.keepable()
        is_waited_for = timeout is None or timeout > timedelta(0)
        position = await worker.revoker.append(
            name, self.stamp(None, actor), keep=kept, reason=reason, waits=is_waited_for
        )
        appended_at = self.clock()
        self._count_as_known(position)
        if keep is not None:
            keep.rotate()
            await keep.save()
        return await self._receipt(CONTROL, position, started_at, appended_at, timeout)

    def _count_as_known(self, position: Position) -> None:
        exchange, entry = current.get(), self.worker.cache.control.entry(position.event)
        if exchange is not None and not exchange.is_over and exchange.manager is self and entry is not None:
            exchange.has_revoked(entry)

    async def _receipt(
        self, shard: str, position: Position, started_at: float, appended_at: float, timeout: timedelta | None
    ) -> Receipt:
        seconds = (self.cache_policy.max_staleness if timeout is None else timeout).total_seconds()
        if seconds <= 0:
            return Receipt(id=id_text(position.id), complete=False)
        if not self.worker.store.is_remote:
            await self.worker.answer()
        return await self.worker.revoker.receipt(
            shard, position, started_at=started_at, appended_at=appended_at, timeout=seconds
        )


def _note(operation: Operation, receipt: Receipt) -> None:
    operation.note("receipt.id", receipt.id)
    operation.note("receipt.complete", receipt.complete)
    for part in ("confirmed", "fenced", "pending"):
        operation.note(f"receipt.{part}", len(getattr(receipt, part)))
    operation.note("receipt.replicas", receipt.replicas)


def id_of(session: Session | SessionInfo | str) -> str:
    """Return the id of a session, given as itself, as its info or as its id.

    Raises:
        SessionEnded: the session was never committed.
    """
    found = sid_of(session)
    if found is None:
        raise SessionEnded("logout")
    return found
