"""Why a session is over, or until when it lives: one sentence, and what it is made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from evsession.audit.reader import Reader, user_in
from evsession.audit.record import reason_of, recorded, said_by
from evsession.codec import Stored
from evsession.context import parse_actor, parse_context
from evsession.control import EVERYONE, names_of
from evsession.events import Actor, Cause, Ended, RecordedEvent
from evsession.info import time_of
from evsession.state import Snapshot
from evsession.tokens import is_sid
from evsession.view import CONTROL
from evsession.wire import START, Entry, Position, id_text, parse_id

PAGE: Final = 512
"""Entries of the control log that are read at once.  Source: that of repairs."""

_HOW: Final[dict[str, str]] = {
    "logout": "signed out",
    "idle": "expired: nobody used it for as long as the idle timeout",
    "absolute": "expired: it reached its absolute timeout",
    "revoked": "was revoked",
    "evicted": "was ended to make room: its user had as many sessions as max_sessions allows",
    "token_reused": "was ended because a cookie that had been replaced was used again, which looks like theft",
    "switched": "ended because another user signed in in the same browser",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What became of a session; as text, the sentence.

    `at` is when it ended, and `until` when it will at the latest, if it is alive. `actor` is who ended it, if not its
    own user, and `ticket` the number under which that was asked for.
    `address`, `method` and `route` are of the request that did it. `name` is what was revoked, such as
    ``user:42``, if it was no single session. `signed_in_by` is who signed its user in, if it was somebody else. `event`
    is the `ended` event; None while it is still to be written.
    """

    session_id: str
    status: Literal["alive", "ended", "unknown"]
    sentence: str = ""
    user_id: str | None = None
    cause: Cause | None = None
    reason: str = ""
    at: datetime | None = None
    until: datetime | None = None
    actor: Actor | None = None
    ticket: str | None = None
    signed_in_by: Actor | None = None
    address: str | None = None
    method: str | None = None
    route: str | None = None
    name: str | None = None
    event: RecordedEvent | None = None

    def __str__(self) -> str:
        return self.sentence


async def read_explanation(reader: Reader, session_id: str) -> Explanation:
    """Return what became of a session; see `Audit.explain`."""
    entries = await reader.newest(session_id, 1)
    if entries and entries[-1].type == "ended":
        return await _ended(reader, entries[-1])
    stored, now = await _living(reader, session_id)
    if stored is None:
        return await _unknown(reader, session_id, entries)
    if (entry := await killer_of(reader, stored.snapshot)) is not None:
        return _revoked(stored.snapshot, entry)
    if now >= stored.deadline:
        return _expired(stored)
    _, signed_in_by = await _login(reader, entries[-1]) if entries else (None, None)
    return _alive(stored, signed_in_by)


async def _living(reader: Reader, session_id: str) -> tuple[Stored | None, int]:
    if not is_sid(session_id):
        return None, 0
    reply = await reader.worker.store.fill(session_id)
    return (None if reply.packed is None else reader.worker.replica.checked(session_id, reply.packed)), reply.now


# ── it has ended ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _ended(reader: Reader, entry: Entry) -> Explanation:
    user_id, signed_in_by = await _login(reader, entry)
    event = recorded(entry, user_id)
    found = Explanation(
        session_id=event.session_id,
        status="ended",
        user_id=user_id,
        cause=event.cause,
        reason=event.reason,
        at=event.at,
        actor=event.actor,
        signed_in_by=signed_in_by,
        **_where(event.context),
        event=event,
    )
    if (revocation := await _named(reader, event)) is not None:
        found = replace(found, **_of_revocation(revocation))
    return replace(found, sentence=_sentence(found, _how(found)))


async def _named(reader: Reader, event: RecordedEvent) -> Entry | None:
    """Return the entry of the control log that an end was written for; None for another end, or if it was trimmed."""
    if not isinstance(event.event, Ended) or not event.event.by:
        return None
    id_ = parse_id(event.event.by.encode())
    entries = await reader.worker.store.read(CONTROL, Position(id_, b""), 1)
    return entries[0] if entries and entries[0].id == id_ else None


async def _login(reader: Reader, last: Entry) -> tuple[str | None, Actor | None]:
    """Return the user of a session's last event, and who signed them in, if that was somebody else."""
    entry = last if last.type == "authenticated" else await reader.login_before(last)
    if entry is None:
        return await reader.user_before(last), None
    user_id, actor = user_in(entry), parse_actor(entry.actor)
    return user_id, None if actor == Actor(kind="user", id=user_id or "") else actor


def _where(context: Mapping[str, Any]) -> dict[str, Any]:
    return {name: context.get(name) or None for name in ("address", "method", "route", "ticket")}


def _sentence(found: Explanation, how: str, afterwards: str = "") -> str:
    parts = [f"{_subject(found)} {how}"]
    if found.actor is not None:
        parts.append(f"by {_who(found.actor)}" + (f" (ticket {found.ticket})" if found.ticket else ""))
    if found.at is not None:
        parts.append(f"at {_time(found.at)}")
    if found.address:
        parts.append(f"from {found.address}")
    if found.route:
        parts.append(f"with {found.method or 'a request to'} {found.route}")
    reason = f", because: {found.reason}" if found.reason else ""
    return f"{' '.join(parts)}{reason}{afterwards}."


def _subject(found: Explanation) -> str:
    of = "" if found.user_id is None else f" of user {found.user_id}"
    by = f" (signed in by {_who(found.signed_in_by)})" if found.signed_in_by is not None else ""
    return f"Session {found.session_id}{of}{by}"


def _who(actor: Actor) -> str:
    return f"{actor.kind} {actor.id}"


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


# ── it is over, but nobody has written so yet ────────────────────────────────────────────────────────────────────────


async def killer_of(reader: Reader, snapshot: Snapshot) -> Entry | None:
    """Return the first entry of the control log that revoked a session by one of its names.

    Raises:
        StoreUnavailable: the store did not answer.
        UnknownFormat: a newer version wrote to the control log.
    """
    since = Position.parse(snapshot.control) if snapshot.control else START
    names, position = {EVERYONE, *names_of(snapshot)}, since
    while entries := await reader.worker.store.read(CONTROL, position, PAGE):
        for entry in entries:
            if entry.id > since.id and _kills(entry, names, snapshot.sid, since):
                return entry
        if len(entries) < PAGE:
            break
        position = entries[-1].position
    return None


def _kills(entry: Entry, names: Collection[str], sid: str, since: Position) -> bool:
    revoked = said_by(entry)
    if revoked.name not in names or revoked.keep == sid:
        return False
    return all(place.id != since.id for place in revoked.places)  # it stood there before a failover


def _revoked(snapshot: Snapshot, entry: Entry) -> Explanation:
    found = Explanation(
        session_id=snapshot.sid, status="ended", user_id=snapshot.user_id, cause="revoked", **_of_revocation(entry)
    )
    afterwards = f" (entry {id_text(entry.id)} of the control log; its own `ended` event is still to be written)"
    return replace(found, sentence=_sentence(found, _how(found), afterwards))


def _of_revocation(entry: Entry) -> dict[str, Any]:
    revoked = said_by(entry)
    return {
        "reason": reason_of(revoked),
        "at": time_of(entry.id[0]),
        "actor": parse_actor(entry.actor),
        **_where(parse_context(entry.context)),
        "name": revoked.name,
    }


def _how(found: Explanation) -> str:
    if found.name is None:
        return _HOW[found.cause or "logout"]
    whose = "everyone's sessions" if found.name == EVERYONE else f"all sessions of {found.name}"
    return f"was revoked with {whose}"


def _expired(stored: Stored) -> Explanation:
    cause: Cause = "absolute" if stored.absolute_at <= stored.idle_at else "idle"
    found = Explanation(
        session_id=stored.snapshot.sid,
        status="ended",
        user_id=stored.snapshot.user_id,
        cause=cause,
        at=time_of(stored.deadline),
    )
    return replace(found, sentence=_sentence(found, _HOW[cause], " (its `ended` event is still to be written)"))


# ── it is alive, or not known ────────────────────────────────────────────────────────────────────────────────────────


def _alive(stored: Stored, signed_in_by: Actor | None) -> Explanation:
    snapshot, idle, absolute = stored.snapshot, time_of(stored.idle_at), time_of(stored.absolute_at)
    found = Explanation(
        session_id=snapshot.sid,
        status="alive",
        user_id=snapshot.user_id,
        until=absolute,
        signed_in_by=signed_in_by,
    )
    idly = f"it ends at {_time(idle)} unless it is used, and " if idle < absolute else "it ends "
    how = f"is alive, at version {snapshot.version}; {idly}at {_time(absolute)} at the latest"
    return replace(found, sentence=_sentence(found, how))


async def _unknown(reader: Reader, session_id: str, entries: Sequence[Entry]) -> Explanation:
    begins = await reader.worker.store.read(session_id[:2], START, 1) if is_sid(session_id) else ()
    since = f", and the log reaches back to {_time(time_of(begins[0].id[0]))}" if begins else ""
    sentence = f"Nothing is known of a session {session_id}{since}."
    if entries:
        sentence = f"Session {session_id} has events but no snapshot, so it cannot be used; run `evsession rebuild`."
    return Explanation(session_id=session_id, status="unknown", sentence=sentence)
