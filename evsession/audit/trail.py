"""`manager.audit`: every reading of the trail, in one place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from evsession.audit.entries import Entries
from evsession.audit.explain import Explanation, read_explanation
from evsession.audit.follow import POLL_EVERY, Follower, Since, cursor_of, end_of_all, is_cursor
from evsession.audit.history import History, read_history
from evsession.audit.reader import Reader
from evsession.audit.replay import end_of, read_span
from evsession.audit.selection import Selection
from evsession.audit.states import read_states
from evsession.audit.travel import Difference, Moment, PastState, SessionState, read_difference, read_state
from evsession.audit.visits import Visit, read_visits
from evsession.errors import ConfigError
from evsession.events import RecordedEvent
from evsession.info import SessionInfo
from evsession.session import Session, sid_of
from evsession.tokens import normalise_user_id
from evsession.view import CONTROL

if TYPE_CHECKING:
    from evsession.archive.signing import Trusted
    from evsession.audit.report import Progress, Report
    from evsession.worker import Worker


class Audit:
    """Reads the log of one manager's namespace, and the archive where one is given.

    Nothing here writes, and no request waits for it. A session is given as itself, as its info or as its id.

    Whatever is read in the archive may raise `CorruptArchive`, and `ConfigError` where its place has nothing of what
    was archived.
    """

    def __init__(self, worker: Worker) -> None:
        self._reader = Reader(worker)

    @property
    def archive(self) -> Entries | None:
        """What continues the log where it was trimmed; None without one."""
        return self._reader.archive

    @archive.setter
    def archive(self, archive: Entries | None) -> None:
        self._reader.archive = archive

    async def history(
        self, session: Session | SessionInfo | str, limit: int = 1000, before: str | None = None
    ) -> History:
        """Return the last `limit` events of a session, 1 to 10,000, oldest first; none of one that has not begun.

        `before` is the `id` of an event: only earlier ones are returned. One round trip, and a second one where the
        page does not tell who was signed in. An ended session is found as long as the log holds its end, and after that
        by a scan of the archive.

        Raises:
            StoreUnavailable: the store did not answer.
            UnknownFormat: a newer version wrote one of them.
        """
        return await read_history(self._reader, sid_of(session) or "", limit, before)

    async def state_at(
        self, session: Session | SessionInfo | str, *, version: int | None = None, at: datetime | None = None
    ) -> PastState | None:
        """Return a session as it was after an event, or at a moment; None if it did not exist then.

        A version that it has not reached yet is its newest. Redacted values are digests.

        Raises:
            ConfigError: not exactly one of `version` and `at` was given, or a time without a zone.
            LogTrimmed: its first events are in neither log nor archive.
            StoreUnavailable: the store did not answer.
            UnknownFormat: a newer version wrote one of its events.
        """
        moment: Moment | None = at if version is None else version
        if moment is None or (version is not None and at is not None):
            msg = "state_at needs either a version or a moment; pass version=7 or at=datetime.now(UTC)"
            raise ConfigError(msg)
        return await read_state(self._reader, sid_of(session) or "", moment)

    def states(self, *, at: datetime | None = None) -> AsyncIterator[SessionState]:
        """Return all sessions that lived at a moment, or that live now, as they were after their last event till then.

        It is `state_at` for all of them, without the events, by one pass over log and archive: in no order, shard by
        shard, and in a memory for those of one shard that live. A deadline that had passed without an event does not
        count. While iterating, it raises:

        Raises:
            ConfigError: at once, for a time without a zone.
            LogTrimmed: after all others were returned, if there are some whose first events are in neither log nor
                archive, so that their state is not known.
            StoreUnavailable: store or archive did not answer.
            UnknownFormat: a newer version wrote one of the events.
        """
        return read_states(self._reader, at)

    async def diff(self, session: Session | SessionInfo | str, a: Moment, b: Moment) -> Difference:
        """Return what turns a session as it was at `a` into what it was at `b`: versions, or times.

        Raises:
            ConfigError: a time without a zone.
            LogTrimmed: its first events are in neither log nor archive.
            StoreUnavailable: the store did not answer.
            UnknownFormat: a newer version wrote one of its events.
        """
        return await read_difference(self._reader, sid_of(session) or "", a, b)

    async def explain(self, session: Session | SessionInfo | str) -> Explanation:
        """Return when, why, by whom and from where a session ended, or until when it lives.

        Of a session that was revoked by name and whose `ended` event is still to be written, the control log tells.

        Raises:
            StoreUnavailable: the store did not answer.
            CorruptSnapshot: somebody without the key wrote to the store.
            UnknownFormat: a newer version wrote its last event.
        """
        return await read_explanation(self._reader, sid_of(session) or "")

    def replay(
        self,
        *,
        since: Since | None = None,
        until: datetime | None = None,
        types: Collection[str] | None = None,
        user_id: object = None,
        session_id: str | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """Return the events of all sessions, and revocations by name, in the order of time.

        They are those from `since` on, and before `until`.

        Without `since` it begins where archive or log do, without `until` it ends where the log ended when it was
        asked. A cursor will do for `since`. Memory does not grow with the log. While iterating, it raises:

        Raises:
            ConfigError: at once, for a type that does not exist, a session id that is none, a time without a zone.
            InvalidUserId: at once, for what identifies no user.
            LogTrimmed: what came after a cursor was removed from the log, and there is no archive.
            StoreUnavailable: store or archive did not answer.
            UnknownFormat: a newer version wrote one of the events.
        """
        begin = "start" if since is None else since
        if begin == "now":
            msg = "a replay ends now, so it cannot begin there; pass a time or a cursor, or follow the log instead"
            raise ConfigError(msg)
        selection = Selection.of(types, user_id, session_id)
        return read_span(self._reader, selection, cursor_of(begin), end_of(until), strict=is_cursor(begin))

    def follow(
        self,
        *,
        since: Since = "now",
        types: Collection[str] | None = None,
        user_id: object = None,
        session_id: str | None = None,
        poll_every: timedelta = POLL_EVERY,
    ) -> Follower:
        """Return an endless iterator over the events of all sessions, and revocations by name, from `since` on.

        `since` is a cursor, an aware datetime, ``"start"``, or ``"now"``: the moment of the first `anext`. Each event
        comes at least once, those of one session in their order, and none is left out, whether the server restarts or
        fails over. A cursor from which on the log was trimmed raises `LogTrimmed`, unless there is an archive.

        Raises:
            ConfigError: no cursor, a type that does not exist, a session id that is none, a time without a zone.
            InvalidUserId: this identifies no user.
        """
        return Follower(self._reader, Selection.of(types, user_id, session_id), since, poll_every)

    async def sessions_by_user(self, user_id: object, *, since: datetime | str | None = None) -> Sequence[Visit]:
        """Return every session that a user signed in to, alive or over, in the order of the logins.

        It reads the whole log, and the archive, from `since` on. For the living alone ask `manager.sessions_of`.

        Raises:
            InvalidUserId: this identifies no user.
            ConfigError: no cursor, or a time without a zone.
            StoreUnavailable: store or archive did not answer.
            UnknownFormat: a newer version wrote one of the events.
        """
        begin = None if since is None else cursor_of(since)
        return await read_visits(self._reader, normalise_user_id(user_id), begin)

    async def shards(self) -> Sequence[str]:
        """Return every shard that may have events; who only reads finds those that others made.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        await self._reader.worker.ensure_open()
        return await self._reader.shards()

    async def end(self) -> str:
        """Return the cursor after all that has happened so far.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        await self._reader.worker.ensure_open()
        return (await end_of_all(self._reader, (*await self._reader.shards(), CONTROL))).text()

    async def verify(
        self, progress: Progress | None = None, *, trusted: Trusted | None = None, jobs: int = 1
    ) -> Report:
        """Check every event and every snapshot of the namespace against each other and against the keys.

        With an archive its files are checked first: `trusted` are the keys that may have signed them, by default those
        that the application's own keys stand for. If they are in order, sessions are checked from their first event on,
        and what log and archive both have is compared.

        It reads everything and keeps this process busy, about 30 µs for each event: not for one that serves requests.
        With `jobs` of 2 or more it starts as many processes for most of that work, from 25,000 events on.

        Raises:
            ConfigError: `jobs` is less than 1.
            ProcessDied: a process was killed, or could not run.
            StoreUnavailable: store or archive did not answer.
            OSError: the disk is full: large logs are sorted in a temporary directory, which TMPDIR can name.
        """
        from evsession.audit.files import verify_all

        if jobs < 1:
            msg = f"jobs is {jobs}; pass 1 to verify in this process, or how many processes may work at it"
            raise ConfigError(msg)
        worker = self._reader.worker
        await worker.ensure_open()
        return await verify_all(worker, self.archive, trusted, progress, jobs)
