"""Figures: times of interleaved rounds, and what they say once bare Starlette's time is taken away."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Final

BARE: Final = "bare Starlette"
SIGNED: Final = "signed cookie"
STARSESSIONS: Final = "starsessions"
SDK: Final = "fastapi-redis-sdk"
OURS: Final = "evsession"
LIMIT: Final = "limit study"


@dataclass(frozen=True, slots=True)
class Spread:
    """The least, the median and the greatest of several rounds."""

    least: float
    middle: float
    greatest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Return the spread of a list that is not empty."""
        return cls(min(values), median(values), max(values))


@dataclass(frozen=True, slots=True)
class Series:
    """What one case took with each peer: microseconds a request, one figure for each round, in the rounds' order.

    All peers were measured in every round, one after the other, so that round n of one belongs to round n of another.
    """

    case: str
    times: dict[str, list[float]]

    def time(self, peer: str) -> Spread:
        """Return the time of a request."""
        return Spread.of(self.times[peer])

    def overhead(self, peer: str) -> Spread:
        """Return what a peer adds to a request on bare Starlette."""
        return Spread.of(self._overheads(peer))

    def ratio(self, peer: str, other: str) -> Spread:
        """Return a peer's overhead as a multiple of another's, round by round."""
        pairs = zip(self._overheads(peer), self._overheads(other), strict=True)
        return Spread.of([own / its for own, its in pairs])

    def _overheads(self, peer: str) -> list[float]:
        return [time - bare for time, bare in zip(self.times[peer], self.times[BARE], strict=True)]
