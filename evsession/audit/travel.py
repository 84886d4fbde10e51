"""Time travel: a session as it was at a version or a moment, and what lies between two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from evsession.audit.reader import MAX_WALK, Reader
from evsession.audit.record import recorded
from evsession.codec import unpack_event
from evsession.errors import LogTrimmed
from evsession.events import Cause, RecordedEvent
from evsession.info import milliseconds_of, time_of
from evsession.state import Snapshot, diff, evolve
from evsession.wire import Entry, id_text, parse_id

Moment = int | datetime
"""A version, 0 being before the first event, or an aware time of the server's clock."""

MAX_VERSION: Final = 10**10 - 1
"""The highest version that a header can hold, so later than any."""

_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, repr=False)
class SessionState:
    """A session as it was after one of its events.

    What only passed without an event, such as a deadline that nobody has noticed yet, is not in it.
    """

    _snapshot: Snapshot
    _id: bytes
    user_id: str | None
    """Who was signed in; of an ended session, who had been."""

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"<{kind}: session {self.session_id}, version {self.version}, user_id={self.user_id!r}>"

    @property
    def session_id(self) -> str:
        """The session."""
        return self._snapshot.sid

    @property
    def version(self) -> int:
        """The version after the event."""
        return self._snapshot.version

    @property
    def data(self) -> Mapping[str, Any]:
        """Its data, with digests in the place of redacted values."""
        return self._snapshot.data

    @property
    def redacted(self) -> tuple[str, ...]:
        """The JSON pointers of the redacted values."""
        return tuple(self._snapshot.marks)

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which it could be revoked, beside its user's."""
        return self._snapshot.names

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the login said of itself."""
        return self._snapshot.facts

    @property
    def ended(self) -> Cause | None:
        """Why it was over, None while it lived."""
        return self._snapshot.ended

    @property
    def at(self) -> datetime:
        """When the event happened, on the server's clock (aware, UTC)."""
        return time_of(parse_id(self._id)[0])


@dataclass(frozen=True, slots=True, repr=False)
class PastState(SessionState):
    """A session as it was after one of its events, and that event."""

    last: RecordedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What turns one state of a session into another; None stands for the time before its first event.

    `set` and `unset` are about the data. An end empties it.
    """

    before: PastState | None
    after: PastState | None
    set: Mapping[str, Any]
    unset: tuple[str, ...]


async def read_state(reader: Reader, session_id: str, moment: Moment) -> PastState | None:
    """Return a session as it was; see `Audit.state_at`."""
    entries = await _up_to(reader, session_id, moment)
    return _folded(entries) if entries else None


async def read_difference(reader: Reader, session_id: str, a: Moment, b: Moment) -> Difference:
    """Return what lies between two moments; see `Audit.diff`."""
    before, after = await read_state(reader, session_id, a), await read_state(reader, session_id, b)
    changes = diff(before.data if before else {}, after.data if after else {})
    return Difference(before=before, after=after, set=changes.set_, unset=changes.unset)


def _is_until(moment: Moment) -> Callable[[Entry], bool]:
    if isinstance(moment, int):
        return lambda entry: entry.version <= moment
    last = milliseconds_of(moment)
    return lambda entry: entry.id[0] <= last


async def _up_to(reader: Reader, session_id: str, moment: Moment) -> Sequence[Entry]:
    """Return a session's events from its first up to a moment."""
    is_until = _is_until(moment)
    page = list(await reader.newest(session_id, _PAGE))
    kept = list(filter(is_until, page))
    while page and page[0].version > 1:
        first = page[0]
        page = list(await reader.before(session_id, first.id, MAX_WALK))
        if not page:
            raise LogTrimmed(f"session {session_id}", time_of(first.id[0]))
        kept = [*filter(is_until, page), *kept]
    return kept


def _folded(entries: Sequence[Entry]) -> PastState:
    last, user = entries[-1], None
    snapshot = Snapshot(sid=last.sid)
    for entry in entries:
        if entry.version != snapshot.version + 1:
            raise LogTrimmed(f"session {last.sid}", time_of(entry.id[0]))
        user = snapshot.user_id
        snapshot = evolve(snapshot, unpack_event(entry.type, entry.data))
    user = snapshot.user_id or user
    return PastState(snapshot, id_text(last.id).encode(), user, recorded(last, user))
