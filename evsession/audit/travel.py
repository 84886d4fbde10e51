"""Time travel: a session as it was at a version or a moment, and what lies between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from evsession.audit.reader import MAX_WALK, Reader
from evsession.audit.record import recorded
from evsession.codec import unpack_event
from evsession.errors import ConfigError, LogTrimmed
from evsession.events import Cause, RecordedEvent
from evsession.info import time_of
from evsession.state import Snapshot, diff, evolve
from evsession.wire import Entry

Moment = int | datetime
"""A version, 0 being before the first event, or an aware time of the server's clock."""

MAX_VERSION: Final = 10**10 - 1
"""The highest version that a header can hold, so later than any."""

_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PastState:
    """A session as it was after one of its events.

    `at` is when that event, `last`, happened. `data` has digests in the place of redacted values, `redacted` their JSON
    pointers. What only passed without an event, such as a deadline that nobody has noticed yet, is not in it.
    """

    session_id: str
    version: int
    at: datetime
    data: Mapping[str, Any]
    user_id: str | None
    names: tuple[str, ...]
    facts: Mapping[str, Any]
    ended: Cause | None
    redacted: tuple[str, ...]
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
    check(moment)
    entries = await _up_to(reader, session_id, moment)
    return _folded(entries) if entries else None


async def read_difference(reader: Reader, session_id: str, a: Moment, b: Moment) -> Difference:
    """Return what lies between two moments; see `Audit.diff`."""
    before, after = await read_state(reader, session_id, a), await read_state(reader, session_id, b)
    changes = diff(before.data if before else {}, after.data if after else {})
    return Difference(before=before, after=after, set=changes.set_, unset=changes.unset)


def check(moment: Moment) -> None:
    """Raise `ConfigError` for a time without a zone."""
    if isinstance(moment, datetime) and moment.tzinfo is None:
        msg = "a time without a zone names no moment; use datetime.now(UTC) or datetime(…, tzinfo=UTC)"
        raise ConfigError(msg)


def _is_after(entry: Entry, moment: Moment) -> bool:
    return entry.version > moment if isinstance(moment, int) else time_of(entry.id[0]) > moment


async def _up_to(reader: Reader, session_id: str, moment: Moment) -> Sequence[Entry]:
    """Return a session's events from its first up to a moment."""
    page = list(await reader.newest(session_id, _PAGE))
    kept = [entry for entry in page if not _is_after(entry, moment)]
    while page and page[0].version > 1:
        first = page[0]
        page = list(await reader.before(session_id, first.id, MAX_WALK))
        if not page:
            raise LogTrimmed(f"session {session_id}", time_of(first.id[0]))
        kept = [*(entry for entry in page if not _is_after(entry, moment)), *kept]
    return kept


def _folded(entries: Sequence[Entry]) -> PastState:
    last, user = entries[-1], None
    snapshot = Snapshot(sid=last.sid)
    for entry in entries:
        if entry.version != snapshot.version + 1:
            raise LogTrimmed(f"session {last.sid}", time_of(entry.id[0]))
        user = snapshot.user_id
        snapshot = evolve(snapshot, unpack_event(entry.type, entry.data))
    return past_state(snapshot, last, user)


def past_state(snapshot: Snapshot, last: Entry, user: str | None) -> PastState:
    """Return a folded state as readers see it, given its last event and who was signed in before that."""
    return PastState(
        session_id=last.sid,
        version=snapshot.version,
        at=time_of(last.id[0]),
        data=snapshot.data,
        user_id=snapshot.user_id or user,
        names=snapshot.names,
        facts=snapshot.facts,
        ended=snapshot.ended,
        redacted=tuple(snapshot.marks),
        last=recorded(last, user),
    )


def parse_moment(text: str) -> Moment:
    """Return the moment that a text names: a version, or a time as ISO 8601 has it (UTC where it names no zone).

    Raises:
        ConfigError: it is neither.
    """
    if text.isdigit():
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        msg = f"{text!r} is neither a version nor a time; write 7, or 2026-11-21T08:30:00"
        raise ConfigError(msg) from error
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
