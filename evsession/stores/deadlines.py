"""Deadlines of many sessions, in the order in which they pass: what a sorted set is to Redis."""

from __future__ import annotations

from heapq import heapify, heappop, heappush


class Deadlines:
    """When each of many sessions is due, in ms. A change costs O(log n), and nothing when a deadline moves forward."""

    def __init__(self) -> None:
        self._at: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        self._queued: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._at)

    @property
    def places(self) -> int:
        """How many places the queue has, those included that mean nothing any more."""
        return len(self._heap)

    def set(self, sid: str, at: int) -> None:
        """Set a session's deadline in place of an earlier one."""
        self._at[sid] = at
        if sid not in self._queued or at < self._queued[sid]:
            self._queue(sid, at)
        # Removed and overtaken places go when their time comes, or here, before they outnumber the others.
        if len(self._heap) > 64 + 2 * len(self._at):
            self._queued = dict(self._at)
            self._heap = [(due, of) for of, due in self._at.items()]
            heapify(self._heap)

    def at(self, sid: str) -> int | None:
        """Return a session's deadline, None where there is none."""
        return self._at.get(sid)

    def remove(self, sid: str) -> None:
        """Forget a session; one that is not there is no error."""
        self._at.pop(sid, None)

    def passed(self, now: int, limit: int) -> list[str]:
        """Return up to `limit` sessions whose deadline has passed, the earliest first; they stay."""
        found: list[tuple[int, str]] = []
        while self._heap and self._heap[0][0] <= now and len(found) < limit:
            queued, sid = heappop(self._heap)
            if self._queued.get(sid) != queued:
                continue
            del self._queued[sid]
            at = self._at.get(sid)
            if at == queued:
                found.append((at, sid))
            elif at is not None:
                self._queue(sid, at)
        for at, sid in found:
            self._queue(sid, at)
        return [sid for _, sid in found]

    def _queue(self, sid: str, at: int) -> None:
        self._queued[sid] = at
        heappush(self._heap, (at, sid))
