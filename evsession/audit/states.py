"""All sessions as they were at one moment: the whole log through `fold`, in one pass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import datetime
from typing import Final

import anyio.lowlevel

from evsession.audit.collector import collector_relaxed
from evsession.audit.pages import LAST_ID
from evsession.audit.reader import Reader
from evsession.audit.record import readable
from evsession.audit.stream import BEGINNING, Stream
from evsession.audit.travel import SessionState
from evsession.errors import LogTrimmed
from evsession.folding import Folding
from evsession.info import milliseconds_of, time_of
from evsession.state import Snapshot
from evsession.wire import Line, StreamId, parse_id

AT_ONCE: Final = 200
"""States that are made before others get their turn: about 5 ms."""

_BEGINNING: Final = b"0-0"


def read_states(reader: Reader, at: datetime | None) -> AsyncIterator[SessionState]:
    """Return all sessions that lived at a moment; see `Audit.states`."""
    if at is None:
        return _read(reader, LAST_ID)
    return _read(reader, (milliseconds_of(at), LAST_ID[1]))


async def _read(reader: Reader, last: StreamId) -> AsyncIterator[SessionState]:
    await reader.worker.ensure_open()
    unknown: dict[bytes, StreamId] = {}
    for shard in await reader.shards():
        with collector_relaxed():
            living = await _living(reader, shard, last)
        unknown |= living.unknown
        for number, state in enumerate(living.states()):
            if number % AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            yield state
    if unknown:
        raise LogTrimmed(f"{len(unknown):,} of the sessions that lived then", time_of(min(unknown.values())[0]))


async def _living(reader: Reader, shard: str, last: StreamId) -> Living:
    """Return the sessions of a shard that lived after the entry with an id.

    After a failover while they were read, which could mix two histories, they are read again.

    Raises:
        StoreUnavailable: store or archive did not answer.
        UnknownFormat: a newer version wrote an event, or nobody did.
    """
    end = min(last, (await reader.worker.store.counters(shard)).last)
    while True:
        stream, living, reached = Stream(reader, shard, BEGINNING, strict=False), Living(), BEGINNING.id
        while reached < end:
            lines = await stream.lines()
            if stream.rewinds or not lines:
                break
            reached = parse_id(lines[-1][0])
            with readable():
                living.take_in(lines if reached <= end else [line for line in lines if parse_id(line[0]) <= end])
        if not stream.rewinds:
            return living


class Living:
    """The sessions of one log that live after the entries so far.

    `unknown` go on from events which are not there; each with the id of the first that is.
    """

    def __init__(self) -> None:
        self.unknown: dict[bytes, StreamId] = {}
        self._known: dict[bytes, _Known] = {}

    def take_in(self, lines: Iterable[Line]) -> None:
        """Apply the next entries.

        Raises:
            UnknownFormat: a newer version wrote one of them, or nobody did.
            LookupError, TypeError, ValueError: nobody with the key wrote one of them.
        """
        known = self._known
        for line in lines:
            type_, sid, previous = line[1], line[2], line[4]
            if type_ == b"ended":  # whatever it was, and even if nothing is known of it
                known.pop(sid, None)
                self.unknown.pop(sid, None)
                continue
            session = known.get(sid)
            if session is None:
                if previous != _BEGINNING:
                    self.unknown.setdefault(sid, parse_id(line[0]))
                    continue
                session = known[sid] = _Known(Snapshot(sid=sid.decode()))
            elif session.last != previous:
                del known[sid]
                self.unknown[sid] = parse_id(line[0])
                continue
            session.last = line[0]
            session.take_in(type_, line[9])

    def states(self) -> Iterator[SessionState]:
        """Yield the state of each, which is then forgotten."""
        while self._known:
            _, session = self._known.popitem()
            snapshot = session.snapshot
            yield SessionState(snapshot, session.last, snapshot.user_id)


class _Known(Folding):
    """A session while its events pass, and the id of the last of them."""

    __slots__ = ("last",)
    last: bytes
