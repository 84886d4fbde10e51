"""Every session of a user, alive or over, as far back as log and archive reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from evsession.audit.cursor import Cursor
from evsession.audit.reader import LAST_ID, Reader, user_in
from evsession.audit.replay import in_order
from evsession.codec import unpack_event
from evsession.context import parse_context
from evsession.events import Cause, Ended
from evsession.info import time_of
from evsession.wire import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One session of a user: when they signed in and from where, when it changed last, and why it is over, if it is.

    `cause` is None for one that has no `ended` event. `events` counts from the login on.
    """

    session_id: str
    signed_in_at: datetime
    address: str | None
    last_at: datetime
    events: int
    cause: Cause | None = None


async def read_visits(reader: Reader, user_id: str, since: Cursor | None) -> Sequence[Visit]:
    """Return the sessions of a user; see `Audit.sessions_by_user`."""
    await reader.worker.ensure_open()
    found: dict[str, Visit] = {}
    async for entries in in_order(reader, await reader.shards(), since or Cursor({}), LAST_ID, strict=False):
        for entry in entries:
            if entry.sid in found:
                found[entry.sid] = _after(found[entry.sid], entry)
            elif entry.type == "authenticated" and user_in(entry) == user_id:
                found[entry.sid] = _begun(entry)
    return tuple(found.values())


def _begun(entry: Entry) -> Visit:
    at, context = time_of(entry.id[0]), parse_context(entry.context)
    return Visit(session_id=entry.sid, signed_in_at=at, address=context.get("address"), last_at=at, events=1)


def _after(visit: Visit, entry: Entry) -> Visit:
    event = unpack_event(entry.type, entry.data) if entry.type == "ended" else None
    cause = event.cause if isinstance(event, Ended) else None
    return replace(visit, last_at=time_of(entry.id[0]), events=visit.events + 1, cause=cause)
