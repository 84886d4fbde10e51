"""`manager.audit`: every reading of the trail, in one place."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from evsession.audit.entries import Entries
from evsession.audit.explain import Explanation, read_explanation
from evsession.audit.history import History, read_history
from evsession.audit.reader import Reader
from evsession.audit.travel import Difference, Moment, PastState, read_difference, read_state
from evsession.errors import ConfigError

if TYPE_CHECKING:
    from evsession.audit.report import Progress, Report
    from evsession.worker import Worker


class Audit:
    """Reads the log of one manager's namespace, and the archive where one is given.

    Nothing here writes, and no request waits for it.
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

    async def history(self, session_id: str, limit: int = 1000, before: str | None = None) -> History:
        """Return the last `limit` events of a session, 1 to 10,000, oldest first.

        `before` is the `id` of an event: only earlier ones are returned. One round trip, and a second one where the
        page does not tell who was signed in. An ended session is found as long as the log holds its end, and after that
        by a scan of the archive.

        Raises:
            StoreUnavailable: the store did not answer.
            UnknownFormat: a newer version wrote one of them.
        """
        return await read_history(self._reader, session_id, limit, before)

    async def state_at(
        self, session_id: str, *, version: int | None = None, at: datetime | None = None
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
        return await read_state(self._reader, session_id, moment)

    async def diff(self, session_id: str, a: Moment, b: Moment) -> Difference:
        """Return what turns a session as it was at `a` into what it was at `b`: versions, or times.

        Raises:
            ConfigError: a time without a zone.
            LogTrimmed: its first events are in neither log nor archive.
            StoreUnavailable: the store did not answer.
            UnknownFormat: a newer version wrote one of its events.
        """
        return await read_difference(self._reader, session_id, a, b)

    async def explain(self, session_id: str) -> Explanation:
        """Return when, why, by whom and from where a session ended, or until when it lives.

        Of a session that was revoked by name and whose `ended` event is still to be written, the control log tells.

        Raises:
            StoreUnavailable: the store did not answer.
            CorruptSnapshot: somebody without the key wrote to the store.
            UnknownFormat: a newer version wrote its last event.
        """
        return await read_explanation(self._reader, session_id)

    async def verify(self, progress: Progress | None = None) -> Report:
        """Check every event and every snapshot of the namespace against each other and against the keys.

        It reads all of both and keeps this process busy, 20 µs for each event: not for one that serves requests.

        Raises:
            StoreUnavailable: the store did not answer.
            OSError: the disk is full: large logs are sorted in a temporary directory, which TMPDIR can name.
        """
        from evsession.audit.verify import verify

        worker = self._reader.worker
        await worker.ensure_open()
        absolute = worker.session_policy.absolute_timeout
        return await verify(worker.store, worker.keys, absolute=absolute, progress=progress)
