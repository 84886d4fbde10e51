"""By what right a connection is open: the secret that it came with, as renewals carry it on, and nothing since."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from evsession.events import Authenticated, Cause, Ended, Event, Renewed
from evsession.state import Snapshot

Verdict = Cause | Literal["replaced", "unproven", "restarted"]
"""Why a connection closes: its session ended; a login or `rotate` replaced the secret that it came with; this worker
cannot prove it; or this worker stops, or was made anew.
"""

TRANSIENT: Final[frozenset[Verdict]] = frozenset(("unproven", "restarted"))
"""What says nothing against the session: its client may connect again."""


class Standing:
    """What one connection was opened under. `doubtful` says that only the store can tell whether it still holds.

    `snapshot` has what the control log judges by; `version` is the newest that is accounted for.
    """

    __slots__ = ("doubtful", "secrets", "snapshot", "version")

    def __init__(self, snapshot: Snapshot, secret: str) -> None:
        self.secrets = {secret, *snapshot.secrets}
        self.snapshot = snapshot
        self.version = snapshot.version
        self.doubtful = False

    def outlast(self) -> None:
        """Be made to last: keep no more of the session than is needed."""
        snapshot = self.snapshot
        self.snapshot = _judged(snapshot.sid, snapshot.user_id, snapshot.names, snapshot.control)

    def expect(self, secret: str) -> None:
        """Allow for a secret that this very connection is about to replace its own by."""
        self.secrets.add(secret)

    def heed(self, version: int, event: Event | None) -> Verdict | None:
        """Return why an event of the session closes the connection, or None; events come in the order of the log."""
        if isinstance(event, Ended):
            return event.cause
        if self.doubtful or version <= self.version:
            return None
        match event:
            case Renewed(phase="issued" | "used"):
                self.secrets.add(event.secret)
            case Authenticated() | Renewed() if event.secret not in self.secrets:
                return "replaced"
            case Authenticated():
                self.snapshot = _judged(self.snapshot.sid, event.user_id, event.names, event.control)
            case None:
                self.doubtful = True
                return None
        self.version = version
        return None

    def meet(self, snapshot: Snapshot) -> Verdict | None:
        """Return why a state that came ahead of its events closes the connection; in doubt it does not."""
        if snapshot.ended is not None:
            return snapshot.ended
        if not self.doubtful and snapshot.version > self.version:
            self.doubtful = self.secrets.isdisjoint(snapshot.secrets)
            if not self.doubtful:
                self._take(snapshot)
        return None

    def is_known_by(self, snapshot: Snapshot) -> bool:
        """Tell whether a state has one of the secrets; otherwise `confirm` needs the events that led to it."""
        return not self.secrets.isdisjoint(snapshot.secrets)

    def confirm(self, snapshot: Snapshot, events: Iterable[tuple[int, Event | None]] = ()) -> Verdict | None:
        """Return why the newest state closes the connection, or None and have no doubt any more.

        `events` are the last ones of the session, with their versions, oldest first: they tell a renewal, which closes
        nothing, from a login. What they do not tell closes.
        """
        if snapshot.ended is not None:
            return snapshot.ended
        for version, event in events:
            if version == self.version + 1 <= snapshot.version:
                self.version = version
                if isinstance(event, Renewed) and event.phase != "rotated":
                    self.secrets.add(event.secret)
                elif isinstance(event, Authenticated | Renewed | None):
                    break
        if not self.is_known_by(snapshot):
            return "replaced"
        self._take(snapshot)
        return None

    def _take(self, snapshot: Snapshot) -> None:
        self.doubtful = False
        self.version = snapshot.version
        self.secrets.update(snapshot.secrets)
        self.snapshot = _judged(snapshot.sid, snapshot.user_id, snapshot.names, snapshot.control)


def _judged(sid: str, user_id: str | None, names: tuple[str, ...], control: str) -> Snapshot:
    return Snapshot(sid=sid, user_id=user_id, names=names, control=control)
