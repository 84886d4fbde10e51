"""Where exported events come from: the events of all sessions, and the revocations by name."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from evsession.audit.cursor import Cursor
from evsession.audit.follow import POLL_EVERY, Follower, Since, cursor_of, end_of_all, is_cursor
from evsession.audit.reader import Reader
from evsession.audit.replay import end_of, in_order
from evsession.audit.selection import SESSION_TYPES
from evsession.audit.stream import Stream
from evsession.canonical import loads
from evsession.context import parse_actor, parse_context
from evsession.errors import StoreUnavailable
from evsession.export.record import Record, record_of
from evsession.info import time_of
from evsession.view import CONTROL
from evsession.wire import Entry, Position, StreamId, id_text, parse_id

if TYPE_CHECKING:
    from evsession.manager import SessionManager

REVOKED: Final = "named_revoked"

IDLE: Final = 5.0
"""Seconds without a wanted event after which a follower tells how far it is, as the log goes on without one."""

log = logging.getLogger("evsession.export")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events are exported: of these types (all without), of this user (everybody without)."""

    types: frozenset[str] | None = None
    user_id: str | None = None

    @property
    def session_types(self) -> Collection[str]:
        """The types that sessions have."""
        return SESSION_TYPES if self.types is None else self.types - {REVOKED}

    @property
    def has_sessions(self) -> bool:
        """Whether any events of sessions are wanted."""
        return self.types is None or bool(self.types - {REVOKED})

    @property
    def has_revocations(self) -> bool:
        """Whether any revocations by name are wanted."""
        return self.types is None or REVOKED in self.types

    def has(self, revocation: Record) -> bool:
        """Tell whether a revocation by name is wanted."""
        return self.has_revocations and (self.user_id is None or revocation.name == f"user:{self.user_id}")


class Mark:
    """How far an export has come, in the control log and in every shard; begins where a cursor or a time says."""

    def __init__(self, cursor: Cursor) -> None:
        self._positions = dict(cursor.positions)
        self._elsewhere = cursor.elsewhere

    def move(self, record: Record) -> None:
        """Pass an event that has been dealt with."""
        shard, id_, proof = record.cursor.split(":")
        self._positions[shard] = Position(parse_id(id_.encode()), bytes.fromhex(proof))

    def reach(self, end: Cursor) -> None:
        """Pass everything up to a cursor; what was not wanted is dealt with as well."""
        for shard, position in end.positions.items():
            if position.id > self.cursor.at(shard).id:
                self._positions[shard] = position

    @property
    def cursor(self) -> Cursor:
        """Where to go on."""
        return Cursor(self._positions, self._elsewhere)


async def replayed(
    manager: SessionManager, wanted: Wanted, since: Since, until: datetime | None
) -> AsyncGenerator[Record, None]:
    """Yield the events from a cursor to before a time, or to the end that the logs have now, in the order of time.

    Raises:
        ConfigError: there is no such type, or the time has no zone.
        LogTrimmed: what came after the cursor was removed from the log, and there is no archive.
        StoreUnavailable: store or archive did not answer.
        UnknownFormat: a newer version wrote one of them.
    """
    await _warn_of_missing(manager, wanted, since)
    revocations = _revocations(manager, wanted, cursor_of(since), end_of(until))
    async with aclosing(revocations):
        revoked = await anext(revocations, None)
        if wanted.has_sessions:
            types, user = wanted.session_types, wanted.user_id
            async for event in manager.audit.replay(since=since, until=until, types=types, user_id=user):
                record = record_of(event)
                while revoked is not None and revoked.at <= record.at:
                    yield revoked
                    revoked = await anext(revocations, None)
                yield record
        while revoked is not None:
            yield revoked
            revoked = await anext(revocations, None)


async def _revocations(
    manager: SessionManager, wanted: Wanted, since: Cursor, until: StreamId
) -> AsyncGenerator[Record, None]:
    async for entries in in_order(_reader(manager), (CONTROL,), since, until, strict=False):
        for record in map(record_of_revocation, entries):
            if wanted.has(record):
                yield record


class Following:
    """Events as they happen, each with the cursor to go on from after it; after a while without one, the cursor alone.

    At least once, those of one session in their order, and none is left out; an outage is waited out.
    """

    def __init__(self, manager: SessionManager, wanted: Wanted, since: Since, *, idle: float = IDLE) -> None:
        self._manager = manager
        self._wanted = wanted
        self._since = since
        self._idle = idle
        self._revoked: deque[tuple[Record, Position]] = deque()

    async def __aiter__(self) -> AsyncIterator[tuple[Record | None, str]]:
        """Yield without end.

        Raises:
            ConfigError: there is no such type.
            LogTrimmed: what comes next was removed from the log, and there is no archive.
            UnknownFormat: a newer version wrote it.
        """
        since = (await end_of_logs(self._manager)).text() if self._since == "now" else self._since
        await _warn_of_missing(self._manager, self._wanted, since)
        sessions = cursor_of(since)
        follower, stream = self._readers(since)
        control, sources = sessions.at(CONTROL), self._sources(follower, stream)
        tasks = {asyncio.ensure_future(source()): source for source in sources}
        try:
            while True:
                done, _ = await asyncio.wait(tasks, timeout=self._idle, return_when=asyncio.FIRST_COMPLETED)
                if not done:  # all that was read was not wanted
                    sessions, control = Cursor.parse(follower.cursor), stream.position
                    yield None, _together(sessions, control)
                for task in done:
                    source = tasks.pop(task)
                    record, where = task.result()
                    if isinstance(where, Cursor):
                        sessions = where
                    else:
                        control = where
                    yield record, _together(sessions, control)
                    tasks[asyncio.ensure_future(source())] = source
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _readers(self, since: Since) -> tuple[Follower, Stream]:
        wanted = self._wanted
        follower = self._manager.audit.follow(since=since, types=wanted.session_types, user_id=wanted.user_id)
        return follower, Stream(_reader(self._manager), CONTROL, cursor_of(since).at(CONTROL), strict=False)

    def _sources(
        self, follower: Follower, stream: Stream
    ) -> list[Callable[[], Awaitable[tuple[Record, Cursor | Position]]]]:
        control = partial(self._next_revocation, stream)
        return [partial(_next_event, follower), control] if self._wanted.has_sessions else [control]

    async def _next_revocation(self, stream: Stream) -> tuple[Record, Position]:
        while True:
            while self._revoked:
                record, position = self._revoked.popleft()
                if self._wanted.has(record):
                    return record, position
            with suppress(StoreUnavailable):  # the follower of the sessions says so
                self._revoked.extend((record_of_revocation(entry), entry.position) for entry in await stream.page())
            if not self._revoked:
                await asyncio.sleep(POLL_EVERY.total_seconds())


async def _next_event(follower: Follower) -> tuple[Record, Cursor]:
    event = await anext(follower)
    return record_of(event), Cursor.parse(follower.cursor)


def _together(sessions: Cursor, control: Position) -> str:
    return Cursor({**sessions.positions, CONTROL: control}, sessions.elsewhere).text()


async def _warn_of_missing(manager: SessionManager, wanted: Wanted, since: Since) -> None:
    """Tell whether revocations by name may be missing, which leave the log when no session is as old.

    An error would stop every export whose last revocation is that old, although most often nothing came after it.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    if not (wanted.has_revocations and is_cursor(since)) or manager.audit.archive is not None:
        return
    begin, counters = cursor_of(since).at(CONTROL).id, await manager.worker.store.counters(CONTROL)
    if counters.trimmed and begin < counters.first:
        log.warning(
            "revocations by name between %s and %s are in the log no more, and may be missing from this export;"
            " export more often than sessions live at most, or give the archive as well",
            *(time_of(id_[0]).isoformat(timespec="seconds") for id_ in (begin, counters.first)),
        )


async def end_of_logs(manager: SessionManager) -> Cursor:
    """Return the cursor after all that the logs hold at this moment.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    reader = _reader(manager)
    return await end_of_all(reader, [CONTROL, *await reader.shards()])


def _reader(manager: SessionManager) -> Reader:
    reader = Reader(manager.worker)
    reader.archive = manager.audit.archive
    return reader


def record_of_revocation(entry: Entry) -> Record:
    """Return the record of an entry of the control log; one that nobody of us wrote has no reason."""
    id_ = id_text(entry.id)
    return Record(
        id=id_,
        shard=CONTROL,
        type=entry.type,
        at=time_of(entry.id[0]),
        actor=parse_actor(entry.actor),
        context=parse_context(entry.context),
        cause="revoked",
        reason=_reason(entry.data),
        name=entry.sid,
        cursor=f"{CONTROL}:{id_}:{entry.event_id[:8].hex()}",
    )


def _reason(data: bytes) -> str:
    try:
        facts = loads(data)
    except ValueError:
        return ""
    return str(facts.get("reason", "")) if isinstance(facts, dict) else ""
