"""Following the log of every shard as it grows, from a cursor on that moves with it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Final

import anyio

from evsession.audit.cursor import Cursor
from evsession.audit.reader import Reader
from evsession.audit.record import shard_of
from evsession.audit.selection import Selection, Sieve
from evsession.audit.stream import Stream
from evsession.audit.together import settled, together
from evsession.errors import StoreUnavailable
from evsession.events import RecordedEvent
from evsession.wire import START, Entry, Position

POLL_EVERY: Final = timedelta(milliseconds=200)
"""How often the end of the logs is looked at: one round trip, of 5 µs of the server's time for each shard."""

LOOK_FOR_SHARDS: Final = 10.0
"""Seconds between looks for shards that were added: one round trip."""

Since = str | datetime
"""Where to begin: ``"start"``, ``"now"``, an aware datetime, or the text of a cursor."""

log = logging.getLogger("evsession.audit")


class Follower(AsyncIterator[RecordedEvent]):
    """Events of the log as they happen: at least once, those of a session in their order, none left out.

    `cursor` stands after the event that was returned last, and moves past events that were not wanted too. Keep it once
    an event is dealt with, and go on from there with ``follow(since=cursor)``. An outage is waited out.
    """

    def __init__(self, reader: Reader, selection: Selection, since: Since, poll_every: timedelta) -> None:
        self._reader = reader
        self._selection = selection
        self._since = cursor_of(since)
        self._begins_now = since == "now"
        self._is_strict = is_cursor(since)
        self._pause = poll_every.total_seconds()
        self._sieve = Sieve(reader, selection)
        self._streams: dict[str, Stream] = {}
        self._positions: dict[str, Position] = {}
        self._fetched: Sequence[Entry] = ()
        self._waiting: deque[Entry] = deque()
        self._looked_at = 0.0
        self._rewinds = 0
        self._is_away = False

    @property
    def cursor(self) -> str:
        """Where to go on, as opaque text."""
        if self._begins_now:
            return "now"
        return Cursor({**self._since.positions, **self._positions}, self._since.elsewhere).text()

    @property
    def rewinds(self) -> int:
        """How often a failover made it read a part again."""
        return sum(stream.rewinds for stream in self._streams.values())

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> RecordedEvent:
        """Return the next event, however long it takes.

        Raises:
            LogTrimmed: what comes next was removed from the log, and there is no archive.
            UnknownFormat: a newer version wrote it; the cursor stands before it.
        """
        while True:
            while self._waiting:
                if (event := self._passed(self._waiting.popleft())) is not None:
                    return event
            if not await self._look():
                await anyio.sleep(self._pause)

    def _passed(self, entry: Entry) -> RecordedEvent | None:
        event = self._sieve.passed(entry)
        self._positions[shard_of(entry)] = entry.position
        return event

    async def _look(self) -> bool:
        """Read what is new; return whether there was anything."""
        try:
            await self._reader.worker.ensure_open()
            await self._keep_streams()
            if not self._fetched:
                self._fetched = await self._pages()
            await self._sieve.prepare(self._fetched)
        except StoreUnavailable as error:
            if not self._is_away:
                log.warning("following the log waits for the store: %s", error)
            self._is_away = True
            return False
        self._is_away = False
        self._waiting.extend(self._fetched)
        self._fetched = ()
        return bool(self._waiting)

    async def _pages(self) -> Sequence[Entry]:
        """Return the next page of each shard; what some brought is not lost when another fails."""
        streams = self._streams.values()
        results = await settled(stream.fetch() for stream in streams)
        entries = [entry for stream in streams for entry in stream.take()]
        failures = [failure for failure in results if failure is not None]
        if failures and not entries:
            raise failures[0]
        if self.rewinds != self._rewinds:
            self._rewinds = self.rewinds
            self._sieve.forget()
        return sorted(entries, key=lambda entry: entry.id)

    async def _keep_streams(self) -> None:
        """Have a stream for each shard; those that are added later begin at their start."""
        is_first = not self._streams
        now = anyio.current_time()
        if not is_first and now < self._looked_at + LOOK_FOR_SHARDS:
            return
        shards = await self._selection.shards(self._reader)
        if self._begins_now:
            self._since = await end_of_all(self._reader, shards)
            self._begins_now = False
        for shard in shards:
            if shard not in self._streams:
                self._positions[shard] = position = self._since.at(shard) if is_first else START
                self._streams[shard] = Stream(self._reader, shard, position, strict=self._is_strict, follows=True)
        self._looked_at = now


def is_cursor(since: Since) -> bool:
    """Tell whether somebody has read up to there, so that nothing after it may be left out in silence."""
    return not (isinstance(since, datetime) or since in ("start", "now"))


def cursor_of(since: Since) -> Cursor:
    """Return the cursor that `since` stands for; that of ``"now"`` is found out when the log is looked at first.

    Raises:
        ConfigError: it is neither a cursor nor a time in a zone.
    """
    if isinstance(since, datetime):
        return Cursor.at_time(since)
    return Cursor({}) if since in ("start", "now") else Cursor.parse(since)


async def end_of_all(reader: Reader, shards: Sequence[str]) -> Cursor:
    """Return the cursor after all that the logs hold at this moment.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    counters = await together(reader.worker.store.counters(shard) for shard in shards)
    return Cursor({shard: found.end for shard, found in zip(shards, counters, strict=True)})
