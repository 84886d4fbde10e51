"""The index of users in memory: what the hashes of `stores/redis/lua/enter.lua` are to Redis."""

from __future__ import annotations

from bisect import bisect_right

from evsession.store import Indexed, Member, Users, in_order
from evsession.stores.deadlines import Deadlines

PURGED_AT_ONCE = 16
"""Lapsed users that one entrance removes: more than the one that it may add, too few to be noticed."""


class MemoryIndex:
    """Which sessions each user may have, and since when, on the clock of whoever calls (ms)."""

    def __init__(self) -> None:
        self._entered: dict[str, dict[str, Member]] = {}
        self._lapses = Deadlines()

    def enter(self, user: str, sid: str, keep: int, now: int, device: bytes, *, anew: bool) -> Indexed:
        """Put a session into the index of its user, which is kept for `keep` ms at least."""
        self._purge(now)
        entered = self._entered.setdefault(user, {})
        before = entered.get(sid)
        if before is None or anew:
            entered[sid] = Member(sid, max(now, before.at + 1 if before else 0), device)
        self._lapses.set(user, max(now + keep, self._lapses.at(user) or 0))
        return self.members(user, now)._replace(was_there=before is not None)

    def leave(self, user: str, sid: str, at: int | None) -> bool:
        """Take a session out of the index; with `at` only if it entered then."""
        entered = self._entered.get(user, {})
        if sid not in entered or at not in (None, entered[sid].at):
            return False
        del entered[sid]
        if not entered:
            del self._entered[user]
            self._lapses.remove(user)
        return True

    def members(self, user: str, now: int) -> Indexed:
        """Return the sessions of a user, in the order in which they entered."""
        if (lapse := self._lapses.at(user)) is None or lapse <= now:
            return Indexed(now, [])
        return Indexed(now, in_order(self._entered[user].values()))

    def users(self, cursor: str, count: int) -> Users:
        """Return the users that follow a cursor, in the order of their ids."""
        names = sorted(self._entered)
        start = bisect_right(names, cursor) if cursor else 0
        page = names[start : start + count]
        return Users(page, page[-1] if start + count < len(names) else "")

    def _purge(self, now: int) -> None:
        for user in self._lapses.passed(now, PURGED_AT_ONCE):
            self._lapses.remove(user)
            del self._entered[user]
