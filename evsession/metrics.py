"""Every number that a worker tells of itself: its name, its unit, and where it is read.

`docs/reference/metrics.md` and the dashboard beside it name the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from evsession.manager import SessionManager, Stats
from evsession.operations import Durations, Operations
from evsession.operations import Kind as OperationKind

NAMESPACE: Final = "evsession.namespace"
"""The attribute of every measurement: which application's sessions, where one process has several managers."""

Kind = Literal["counter", "updowncounter", "gauge"]

_UNIT_SUFFIX: Final = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What one manager says at one moment."""

    stats: Stats
    behind: int
    lease_age: float | None
    lease_remaining: float | None


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name and unit by OpenTelemetry's conventions, and how it is read; None is nothing to report."""

    name: str
    kind: Kind
    unit: str
    description: str
    read: Callable[[Reading], float | None]

    @property
    def prometheus_name(self) -> str:
        """The name that Prometheus shows, as an OpenTelemetry collector would translate it."""
        name = self.name.replace(".", "_") + _UNIT_SUFFIX.get(self.unit, "")
        return f"{name}_total" if self.kind == "counter" else name


METRICS: Final[tuple[Metric, ...]] = (
    Metric("evsession.cache.hits", "counter", "{hit}", "Sessions served from memory", lambda r: r.stats.cache.hits),
    Metric("evsession.cache.fills", "counter", "{fill}", "Sessions asked of the store", lambda r: r.stats.counts.fills),
    Metric("evsession.cache.sessions", "updowncounter", "{session}", "Sessions in memory", lambda r: r.stats.entries),
    Metric("evsession.cache.size", "updowncounter", "By", "What they take, estimated", lambda r: r.stats.bytes),
    Metric(
        "evsession.cache.evictions",
        "counter",
        "{session}",
        "Sessions that left memory for want of room",
        lambda r: r.stats.cache.evicted,
    ),
    Metric(
        "evsession.cache.drops",
        "counter",
        "{session}",
        "Outdated copies that left memory, since the feed told of a change without its values",
        lambda r: r.stats.cache.dropped,
    ),
    Metric("evsession.feed.messages", "counter", "{message}", "Messages of the feed", lambda r: r.stats.cache.messages),
    Metric(
        "evsession.feed.gaps", "counter", "{gap}", "Times that messages may be missing", lambda r: r.stats.cache.gaps
    ),
    Metric(
        "evsession.feed.forged",
        "counter",
        "{message}",
        "Messages and revocations that nobody with a key has written",
        lambda r: r.stats.cache.forged,
    ),
    Metric(
        "evsession.feed.unreadable",
        "counter",
        "{event}",
        "Events of a type that this version does not know",
        lambda r: r.stats.cache.unreadable,
    ),
    Metric(
        "evsession.log.repairs",
        "counter",
        "{event}",
        "Events read from the log, since the feed had not brought them",
        lambda r: r.stats.cache.repaired,
    ),
    Metric(
        "evsession.log.forks",
        "counter",
        "{fork}",
        "Times that another history had taken the place of a log's: a failover lost writes",
        lambda r: r.stats.cache.forks,
    ),
    Metric(
        "evsession.log.behind",
        "gauge",
        "{shard}",
        "Shards whose log is known to hold what is not applied here yet",
        lambda r: r.behind,
    ),
    Metric(
        "evsession.lease.age",
        "gauge",
        "s",
        "Time since the oldest proof was asked for by which this worker serves from memory",
        lambda r: r.lease_age,
    ),
    Metric(
        "evsession.lease.remaining",
        "gauge",
        "s",
        "Time for which it may go on without another; 0 if it must ask the store",
        lambda r: r.lease_remaining,
    ),
    Metric("evsession.commits", "counter", "{event}", "Events appended", lambda r: r.stats.counts.commits),
    Metric(
        "evsession.commit.conflicts",
        "counter",
        "{conflict}",
        "Attempts that found the session changed, and were rebased",
        lambda r: r.stats.conflicts,
    ),
    Metric(
        "evsession.commit.retries",
        "counter",
        "{attempt}",
        "Attempts repeated because a reply was lost",
        lambda r: r.stats.retries,
    ),
    Metric(
        "evsession.changes.dropped",
        "counter",
        "{commit}",
        "Commits given up: the changes of a request are lost, and the log names their keys",
        lambda r: r.stats.counts.dropped_changes,
    ),
    Metric(
        "evsession.store.unavailable",
        "counter",
        "{occurrence}",
        "Requests and heartbeats that the store did not answer",
        lambda r: r.stats.counts.unavailable,
    ),
    Metric(
        "evsession.sessions.created", "counter", "{session}", "Sessions begun here", lambda r: r.stats.counts.created
    ),
    Metric(
        "evsession.sessions.swept",
        "counter",
        "{session}",
        "Sessions ended here because a deadline had passed",
        lambda r: r.stats.counts.swept,
    ),
    Metric(
        "evsession.sessions.touches",
        "counter",
        "{touch}",
        "Times that an idle deadline was moved",
        lambda r: r.stats.counts.touches,
    ),
    Metric(
        "evsession.revocations",
        "counter",
        "{revocation}",
        "Revocations by name that this worker has applied, whoever issued them",
        lambda r: r.stats.cache.revocations,
    ),
    Metric(
        "evsession.connections.open",
        "updowncounter",
        "{connection}",
        "WebSockets and event streams with a session",
        lambda r: r.stats.open,
    ),
    Metric(
        "evsession.connections.closed",
        "counter",
        "{connection}",
        "Of them, closed because of what became of their session",
        lambda r: r.stats.closed,
    ),
)
"""Every metric that is one number, in the order of the page in the docs."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long one kind of operation takes, in seconds, by the error that ended it."""

    name: str
    operation: OperationKind
    description: str
    read: Callable[[Operations], Durations]
    unit: str = "s"
    kind: str = "histogram"

    @property
    def prometheus_name(self) -> str:
        """The name that Prometheus shows, before ``_bucket``, ``_sum`` and ``_count``."""
        return self.name.replace(".", "_") + _UNIT_SUFFIX[self.unit]


HISTOGRAMS: Final[tuple[Histogram, ...]] = (
    Histogram(
        "evsession.commit.duration",
        "commit",
        "Time of a commit as a request waits for it: its queue, rebases and repetitions included",
        lambda operations: operations.commits,
    ),
    Histogram(
        "evsession.fill.duration",
        "fill",
        "Time of a session's loading from the store as a request waits for it",
        lambda operations: operations.fills,
    ),
)
"""Every metric that is a distribution, in the order of the page in the docs."""

ALL: Final[tuple[Metric | Histogram, ...]] = (*METRICS, *HISTOGRAMS)


def read(manager: SessionManager) -> Reading:
    """Return what a manager says now. Leases are of workers with a feed; others have none to tell of."""
    worker, now = manager.worker, manager.clock()
    views = tuple(worker.cache.views.values())
    age = remaining = None
    if worker.is_started and worker.store.is_remote and worker.store.has_log:
        left = min(view.lease_until for view in views) - now
        remaining = max(0.0, left)
        if left > 0:
            age = max(0.0, manager.cache_policy.max_staleness.total_seconds() - left)
    return Reading(
        stats=manager.stats(),
        behind=sum(view.gap or view.is_waiting for view in views),
        lease_age=age,
        lease_remaining=remaining,
    )
