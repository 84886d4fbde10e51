"""How often one user may ask something of one worker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MAX_USERS: Final = 10_000
"""Users whose rate is remembered; beyond, the one who asked longest ago begins anew.  Source: 2 MB of memory."""


class Limiter:
    """A bucket for each user: it holds a minute's worth of requests, and refills steadily."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._most = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, user: str) -> float:
        """Take one request from a user's bucket; return the seconds until there is one, 0.0 if there was."""
        now, per_second = self._clock(), self._most / 60
        left, since = self._buckets.get(user, (float(self._most), now))
        left = min(self._most, left + (now - since) * per_second)
        is_allowed = left >= 1
        self._buckets[user] = (left - is_allowed, now)
        self._buckets.move_to_end(user)
        if len(self._buckets) > MAX_USERS:
            self._buckets.popitem(last=False)
        return 0.0 if is_allowed else (1 - left) / per_second
