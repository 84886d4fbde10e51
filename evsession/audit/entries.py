"""Where readings of the trail get entries that the log in Redis does not hold any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from evsession.wire import Entry, StreamId


class Entries(Protocol):
    """Entries of the past, such as an archive has; what is still in the log is read there."""

    def between(self, shard: str, first: StreamId, last: StreamId) -> AsyncIterator[Entry]:
        """Yield the entries of a shard from `first` to `last`, both included, in the order of the log.

        The control log is the shard `evsession.view.CONTROL`. What was never archived is passed over without a word:
        the caller knows where the log begins, and whether an entry's predecessor is missing. Nothing is held in memory
        beyond one file's worth of entries.

        Raises:
            StoreUnavailable: the archive cannot be reached.
        """
