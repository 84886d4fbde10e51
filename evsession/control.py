"""What the control log says: from which position on each name is revoked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from evsession.state import Snapshot
from evsession.wire import Position, StreamId

EVERYONE = "everyone"


@dataclass(frozen=True, slots=True)
class Revoked:
    """The newest revocation of a name, the session that it excepts, and the newest that does not except that one."""

    id: StreamId
    kept: str | None = None
    before: StreamId = (0, 0)

    def kills(self, sid: str, since: StreamId) -> bool:
        """Tell whether a session of this name that stands at a control position is revoked."""
        return since < (self.before if sid == self.kept else self.id)


class Control:
    """The newest revocation of every name, as far as a worker has applied the control log.

    `epoch` grows with every entry, so that a cached session is judged once for each and not at every read.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._names: dict[str, Revoked] = {}

    def revoke(self, name: str, id_: StreamId, kept: str | None) -> None:
        """Take in one entry, in any order; the same one again changes nothing."""
        known = self._names.get(name, Revoked((0, 0)))
        if known.id < id_:
            newest = Revoked(id_, kept, known.before if known.kept == kept else known.id)
        elif known.before < id_ <= known.id and known.kept != kept:  # equal: given out again after a failover
            newest = replace(known, before=id_)
        else:
            return
        self._names[name] = newest
        self.epoch += 1

    def is_dead(self, snapshot: Snapshot) -> bool:
        """Tell whether an entry later than the session's control position names it."""
        if not self._names:
            return False
        since = Position.parse(snapshot.control).id if snapshot.control else (0, 0)
        revoked = (self._names.get(name) for name in (EVERYONE, *names_of(snapshot)))
        return any(entry.kills(snapshot.sid, since) for entry in revoked if entry is not None)


def names_of(snapshot: Snapshot) -> tuple[str, ...]:
    """Return what a session can be revoked by, beside `everyone`."""
    return snapshot.names if snapshot.user_id is None else (f"user:{snapshot.user_id}", *snapshot.names)
