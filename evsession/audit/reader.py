"""One session's events: from the log by its links, and further back from the archive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from evsession.codec import Stored, unpack_event
from evsession.events import Authenticated
from evsession.tokens import is_sid
from evsession.wire import START, Entry, StreamId, parse_id

if TYPE_CHECKING:
    from evsession.audit.entries import Entries
    from evsession.worker import Worker

MAX_WALK: Final = 10_000
"""Events that one walk on the server reads at most.  Source: so many hold it for about 20 ms."""

FIRST_PAGE: Final = 100
"""Events of the first page that looks for something further back; each next one is ten times as long."""

LAST_ID: Final[StreamId] = (2**64 - 1, 2**64 - 1)


class Reader:
    """Reads sessions for one manager; `archive` continues where the log was trimmed."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.archive: Entries | None = None

    async def newest(self, sid: str, limit: int) -> Sequence[Entry]:
        """Return the last `limit` events of a session, oldest first; none of one that is unknown.

        Raises:
            StoreUnavailable: store or archive did not answer.
        """
        if not is_sid(sid):
            return []
        await self.worker.ensure_open()
        entries = list(await self.worker.store.walk(sid, min(limit, MAX_WALK)))
        if not entries:
            return (await self._searched(sid))[-limit:]
        return await self._completed(sid, entries, limit)

    async def before(self, sid: str, id_: StreamId, limit: int) -> Sequence[Entry]:
        """Return the last `limit` events of a session that came before the one with this id, oldest first.

        Raises:
            StoreUnavailable: store or archive did not answer.
        """
        if not is_sid(sid):
            return []
        await self.worker.ensure_open()
        entries = list(await self.worker.store.walk(sid, min(limit + 1, MAX_WALK), id_))
        if not entries:
            return [entry for entry in await self._searched(sid) if entry.id < id_][-limit:]
        return (await self._completed(sid, entries, limit + 1))[:-1]

    async def _completed(self, sid: str, entries: list[Entry], limit: int) -> list[Entry]:
        """Go on along the links until there are `limit` events, or no more to be had."""
        while len(entries) < limit and (link := link_of(entries[0])) is not None:
            page = await self.worker.store.walk(sid, min(limit - len(entries), MAX_WALK), link)
            page = page or await self._archived(sid, link, link)
            if not page:
                break
            entries = [*page, *entries]
        return entries

    async def _searched(self, sid: str) -> list[Entry]:
        """Return all events of a session that the log knows nothing of; takes a scan of its shard's archive."""
        return await self._archived(sid, START.id, LAST_ID)

    async def _archived(self, sid: str, first: StreamId, last: StreamId) -> list[Entry]:
        if self.archive is None:
            return []
        return [entry async for entry in self.archive.between(sid[:2], first, last) if entry.sid == sid]

    async def user_before(self, first: Entry) -> str | None:
        """Return who was signed in before an event, as far back as log and archive tell.

        Raises:
            StoreUnavailable: store or archive did not answer.
        """
        if first.version == 1:
            return None
        login = await self.login_before(first)
        return await self._user_now(first) if login is None else user_in(login)

    async def login_before(self, first: Entry) -> Entry | None:
        """Return the last login of a session before an event, None if there is none in log and archive.

        Raises:
            StoreUnavailable: store or archive did not answer.
        """
        entry, size = first, FIRST_PAGE
        while (link := link_of(entry)) is not None:
            page = await self.worker.store.walk(entry.sid, size, link) or await self._archived(entry.sid, link, link)
            for earlier in reversed(page):
                if earlier.type == "authenticated":
                    return earlier
            if not page:
                break
            entry, size = page[0], min(10 * size, MAX_WALK)
        return None

    async def _user_now(self, first: Entry) -> str | None:
        """Return the user of a living session whose login was trimmed, unless another login followed `first`."""
        stored = await self.stored(first.sid)
        if stored is None or stored.authenticated_at >= first.id[0]:
            return None
        return stored.snapshot.user_id

    async def shards(self) -> Sequence[str]:
        """Return every shard that may have events: who only reads may not know how many the application has.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        store = self.worker.store
        if not self.worker.is_reader:
            return store.shards
        configured = [name for name in await store.claim({}) if name.startswith("shards:")]
        most = max((int(name.removeprefix("shards:")) for name in configured), default=0)
        return sorted({*store.shards, *(f"{number:02x}" for number in range(most))})

    async def stored(self, sid: str) -> Stored | None:
        """Return a session's snapshot as it is now, asked without becoming a worker.

        Raises:
            StoreUnavailable: the store did not answer.
            CorruptSnapshot: somebody without the key wrote it.
            UnknownFormat: a newer version wrote it.
        """
        reply = await self.worker.store.fill(sid)
        return None if reply.packed is None else self.worker.replica.checked(sid, reply.packed)


def link_of(entry: Entry) -> StreamId | None:
    """Return the id of the session's event before, None for its first."""
    link = parse_id(entry.previous.encode())
    return None if link == START.id else link


def user_in(entry: Entry) -> str | None:
    """Return who signed in with this event, None if it is no login."""
    if entry.type != "authenticated":
        return None
    event = unpack_event(entry.type, entry.data)
    return event.user_id if isinstance(event, Authenticated) else None
