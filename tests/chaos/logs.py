"""What the log of a session says, compared with its snapshot."""

from __future__ import annotations

from evsession import SessionManager
from evsession.codec import unpack
from evsession.events import RecordedEvent
from evsession.state import Snapshot, fold


async def snapshot_and_log(manager: SessionManager, sid: str) -> tuple[Snapshot, list[RecordedEvent]]:
    """Return a session as it stands on the server and all its events; fail unless the one is the fold of the others."""
    packed = (await manager.worker.store.fill(sid)).packed
    assert packed is not None
    snapshot = unpack(sid, packed).snapshot
    history = await manager.audit.history(sid, limit=10_000)
    assert history.is_complete
    assert [event.version for event in history] == list(range(1, len(history) + 1))
    assert fold(Snapshot(sid=sid), (event.event for event in history)) == snapshot
    return snapshot, list(history)
