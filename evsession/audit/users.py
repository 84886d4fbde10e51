"""Who was signed in at each event of a log that is read in order, whichever sessions it is of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from evsession.audit.reader import Reader, user_in
from evsession.audit.record import REVOKED
from evsession.audit.together import together
from evsession.wire import Entry

MAX_KNOWN: Final = 100_000
"""Sessions whose user is kept: about 25 MB. Of one that was dropped the log is asked again."""

AT_ONCE: Final = 64
"""Sessions that are asked for at once, so that requests do not wait behind them."""


class Users:
    """The user of each session as far as its events were passed over."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: OrderedDict[str, str | None] = OrderedDict()

    def forget(self) -> None:
        """Begin anew, as after a failover."""
        self._known.clear()

    async def learn(self, entries: Sequence[Entry]) -> None:
        """Find out who was signed in before the first of these events of each session.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        firsts = list(self._first_unknown(entries))
        for start in range(0, len(firsts), AT_ONCE):
            batch = firsts[start : start + AT_ONCE]
            users = await together(self._reader.user_before(entry) for entry in batch)
            for entry, user in zip(batch, users, strict=True):
                self._known[entry.sid] = user

    def _first_unknown(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        seen: set[str] = set()
        for entry in entries:
            if entry.sid not in seen and entry.sid not in self._known:
                seen.add(entry.sid)
                if entry.version > 1 and entry.type != REVOKED:
                    yield entry

    def passing(self, entry: Entry) -> str | None:
        """Return who was signed in when this event began, and take in what it changes."""
        known = self._known
        user = known.get(entry.sid)
        match entry.type:
            case "authenticated":
                known[entry.sid] = user_in(entry)
            case "created":
                known[entry.sid] = None
            case "ended":
                known.pop(entry.sid, None)
        if len(known) > MAX_KNOWN:
            known.popitem(last=False)
        return user
