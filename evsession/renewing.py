"""Renewal of a cookie's secret: when it is due, who is told of it, and what the use of an old one means.

A renewal issues a secret that follows from the old one, so every worker that sees the old one can hand the new one out,
and a lost response logs nobody out: the old one stays good until the new one has been used. From then on it is good for
the grace, for requests that were on their way. Whoever comes with it later has it from somewhere else: the session ends
as `token_reused`. Whether the grace is over, the server decides by its own clock, in the step that ends the session.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from evsession.codec import Stored
from evsession.errors import SessionEnded, StoreUnavailable
from evsession.events import Actor, Ended, Event, Renewed
from evsession.state import Snapshot, right_of
from evsession.store import EVENT_KEY
from evsession.tokens import seed_of, successor

if TYPE_CHECKING:
    from evsession.exchange import Exchange

log = logging.getLogger("evsession.renewal")


def look(exchange: Exchange, stored: Stored) -> None:
    """See what a good secret calls for: a renewal or a note of its first use with the response, or the newer one."""
    manager, ticket = exchange.manager, exchange.ticket
    if ticket is None or exchange.transport != "cookie":
        return
    match right_of(stored.snapshot, ticket.secret_hash):
        case "good":
            if manager.server_now() >= stored.secret_at + manager.renew_ms:
                exchange.is_due = exchange.owes = True
        case "new":
            exchange.is_due = exchange.owes = True
        case _:
            tell(exchange, stored)


def tell(exchange: Exchange, stored: Stored) -> None:
    """Give the client the newest secret in the place of the one that it came with."""
    manager = exchange.manager
    token = successor(manager.worker.keys, manager.cookie.name, exchange.raw, stored.snapshot.renewal.seed)
    if token is not None and token.secret_hash == stored.snapshot.secrets[0]:
        exchange.take_over(token, stored)


async def renew(exchange: Exchange) -> None:
    """Issue a new secret with this response, or note that the one issued was used; what fails is left to the next."""
    exchange.is_due = False
    manager, base, ticket = exchange.manager, exchange.session.base, exchange.ticket
    if base is None or ticket is None or exchange.started:
        return
    stamp = manager.stamp(exchange.scope)
    seed = seed_of(manager.worker.keys, stamp.event_id[:EVENT_KEY])
    token = successor(manager.worker.keys, manager.cookie.name, exchange.raw, seed)
    before = right_of(base.snapshot, ticket.secret_hash)

    def decide(snapshot: Snapshot | None) -> Event | None:
        if snapshot is None or token is None:
            return None
        exchange.check_token(snapshot)
        match right_of(snapshot, ticket.secret_hash):
            case "good" if before == "good":
                return Renewed(secret=token.secret_hash, phase="issued", seed=seed)
            case "new" if before == "new":
                return Renewed(secret=ticket.secret_hash, phase="used")
            case _:
                return None

    try:
        stored = await manager.worker.committer.append(ticket.sid, base, decide, stamp)
    except (SessionEnded, StoreUnavailable) as error:
        log.debug("session %s is not renewed now: %s", ticket.sid, error)
        return
    if stored is not None:
        exchange.session.rebased(stored)
        if right_of(stored.snapshot, ticket.secret_hash) in ("old", "former"):
            tell(exchange, stored)


async def judge(exchange: Exchange) -> None:
    """Serve a secret that a renewal has replaced, within the grace; after it, end the session.

    Raises:
        StoreUnavailable, CorruptSnapshot, UnknownFormat: it is not known which.
    """
    manager, cached, ticket = exchange.manager, exchange.cached, exchange.ticket
    if cached is None or ticket is None or cached.dead or exchange.source == "stale":
        return
    stored: Stored | None = cached.stored
    if stored is None or right_of(stored.snapshot, ticket.secret_hash) != "former":
        return

    def decide(snapshot: Snapshot | None) -> Event | None:
        if snapshot is None or snapshot.ended is not None or right_of(snapshot, ticket.secret_hash) != "former":
            return None
        return Ended(cause="token_reused")

    await manager.worker.ensure_open()
    stamp = manager.stamp(exchange.scope, Actor.system("renewal"))
    try:
        stored = await manager.worker.committer.append(
            ticket.sid, stored, decide, stamp, condition=_end_of_grace(stored, manager.grace_ms)
        )
    except SessionEnded:
        return
    if stored is None or stored.snapshot.ended is not None:
        log.warning("session %s has ended: a token came back that was renewed long ago", ticket.sid)
    elif right_of(stored.snapshot, ticket.secret_hash) == "former":
        await _serve_anyway(exchange, stored)


def _end_of_grace(stored: Stored, grace: int) -> str:
    """Return the server's time, in ms, from which on the former secret is stolen: none if a newer one is on its way."""
    return "0" if len(stored.snapshot.secrets) > 1 else str(stored.secret_at + grace)


async def _serve_anyway(exchange: Exchange, stored: Stored) -> None:
    manager, sid = exchange.manager, stored.snapshot.sid
    cached = manager.worker.cache.lookup(sid, manager.clock()) or await manager.fetch(sid)
    if cached is not None and not cached.dead and cached.stored.snapshot.root == stored.snapshot.root:
        exchange.cached = cached
        exchange.bind(exchange.new_session(manager.policy, cached.stored, cached.flat))
        tell(exchange, cached.stored)
