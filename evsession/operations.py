"""What a worker does while somebody waits for it, from the call to its end: how long it takes, and who is told.

Commits and fills are always timed; a span is made only while somebody observes. Reads from memory are none of these.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Literal, Protocol, Self

Kind = Literal["commit", "fill", "revoke", "sweep"]
Fact = str | int | bool

BOUNDS: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Seconds up to which each bucket counts.

Source: those that OpenTelemetry advises for `db.client.operation.duration`, which begin at 1 ms, and two below, since a
commit on a server nearby takes 0.3 to 0.5 ms (measured); those in between halve the steps of the advice.
"""


class Buckets:
    """How long operations took: how many up to each of `BOUNDS` and above the one before, last those above all."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each bound, infinity last, with how many took at most that long."""
        so_far = 0
        for bound, count in zip((*BOUNDS, float("inf")), self.counts, strict=True):
            so_far += count
            yield bound, so_far


class Durations:
    """How long all operations of one kind took, by the name of the error that ended them; "" is none."""

    __slots__ = ("by_error", "clock", "kind")

    def __init__(self, kind: Kind, clock: Callable[[], float]) -> None:
        self.kind = kind
        self.clock = clock
        self.by_error: dict[str, Buckets] = {"": Buckets()}

    def add(self, began: float, error: str) -> float:
        """Count one more that ends now; return how many seconds it took."""
        seconds = self.clock() - began
        try:
            buckets = self.by_error[error]
        except KeyError:
            buckets = self.by_error[error] = Buckets()
        buckets.counts[bisect_left(BOUNDS, seconds)] += 1
        buckets.total += seconds
        return seconds


class Operation:
    """One operation under way: ``with operations.fill(sid) as fill:``. This one is timed, and nobody else is told."""

    __slots__ = ("_began", "_durations")

    def __init__(self, durations: Durations) -> None:
        self._durations = durations
        self._began = durations.clock()

    def note(self, name: str, fact: Fact) -> None:
        """Tell a fact; `name` is what an attribute of a span has after ``evsession.``."""

    def count(self, name: str) -> None:
        """Tell that something happened once more."""

    def tried(self, event_type: str, version: int) -> None:
        """Tell of one more attempt to append an event, which brings its session to a version."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, type_: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._durations.add(self._began, "" if type_ is None else type_.__name__)


class Observed(Operation):
    """An operation that an observer is told of. `sid` is "" where it is not of one session."""

    __slots__ = ("_ended", "facts", "kind", "sid", "subject")

    def __init__(self, durations: Durations, observer: Observer, subject: str, sid: str) -> None:
        super().__init__(durations)
        self.kind = durations.kind
        self.subject = subject
        self.sid = sid
        self.facts: dict[str, Fact] = {}
        self._ended = observer.begun(self)

    def note(self, name: str, fact: Fact) -> None:
        self.facts[name] = fact

    def count(self, name: str) -> None:
        self.facts[name] = int(self.facts.get(name, 0)) + 1

    def tried(self, event_type: str, version: int) -> None:
        self.count("attempts")
        self.facts["event.type"] = event_type
        self.facts["session.version"] = version

    def __exit__(self, type_: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended(self._durations.add(self._began, "" if type_ is None else type_.__name__), error)


class Observer(Protocol):
    """Who is told of operations; `evsession.observability.instrument` makes one for OpenTelemetry."""

    def begun(self, operation: Observed) -> Callable[[float, BaseException | None], None]:
        """Learn that an operation begins; return what is to be called with its seconds and its error at the end."""

    def traceparent(self) -> str:
        """Return the W3C `traceparent` of the span that is current here, or nothing."""


class Operations:
    """All operations of one worker. `clock` is local time in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.commits = Durations("commit", clock)
        self.fills = Durations("fill", clock)
        self._revocations = Durations("revoke", clock)
        self._sweeps = Durations("sweep", clock)
        self.observer: Observer | None = None
        """Who is told of each from now on."""

    def commit(self, sid: str) -> Operation:
        """Begin the append of one event, its queue, rebases and repetitions included."""
        if self.observer is None:
            return Operation(self.commits)
        return Observed(self.commits, self.observer, "session", sid)

    def fill(self, sid: str) -> Operation:
        """Begin one loading of a session from the store, or the wait for another's that will do."""
        if self.observer is None:
            return Operation(self.fills)
        return Observed(self.fills, self.observer, "session", sid)

    def revocation(self, what: str, sid: str = "") -> Operation:
        """Begin a revocation of a ``session``, a ``user``, another kind of name, or ``everyone``, receipt included."""
        if self.observer is None:
            return Operation(self._revocations)
        return Observed(self._revocations, self.observer, what, sid)

    def sweep(self) -> Operation:
        """Begin the end of a batch of sessions whose deadline has passed."""
        if self.observer is None:
            return Operation(self._sweeps)
        return Observed(self._sweeps, self.observer, "sessions", "")

    def traceparent(self) -> str:
        """Return the `traceparent` of the current span, for the audit trail, or nothing."""
        return "" if self.observer is None else self.observer.traceparent()
