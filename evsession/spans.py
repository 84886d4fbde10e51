"""OpenTelemetry's view of what a worker does: a span and a measurement for each operation.

Names follow the semantic conventions for database clients. One span is one operation as its caller sees it, whatever
travelled for it: attempts, heartbeats sent along, and a queue before them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from opentelemetry.context import attach, detach
from opentelemetry.metrics import Meter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span, set_span_in_context

from evsession.errors import EvsessionError
from evsession.manager import SessionManager
from evsession.metrics import HISTOGRAMS, NAMESPACE
from evsession.operations import BOUNDS, Fact, Kind, Observed
from evsession.store import Store

PARENTS: Final[frozenset[Kind]] = frozenset({"revoke", "sweep"})
"""What other operations take place in. The rest is not made current, for nothing in it has spans of its own."""

SYSTEM: Final = "redis"
"""Source: the conventions' name for whatever speaks Redis' protocol; Valkey has none of its own."""


class Spans:
    """Tells OpenTelemetry of each operation of one manager; an `Observer`."""

    def __init__(self, manager: SessionManager, tracer: Tracer, meter: Meter, *, session_ids: bool) -> None:
        self._tracer = tracer
        self._place = _place_of(manager.worker.store)
        self._session_ids = session_ids
        self._known: dict[tuple[Kind, str], tuple[str, SpanKind, dict[str, Fact]]] = {}
        self._common: dict[str, Fact] = {NAMESPACE: manager.worker.keys.namespace}
        self._histograms = {
            histogram.operation: meter.create_histogram(
                histogram.name,
                unit=histogram.unit,
                description=histogram.description,
                explicit_bucket_boundaries_advisory=BOUNDS,
            )
            for histogram in HISTOGRAMS
        }

    def begun(self, operation: Observed) -> Callable[[float, BaseException | None], None]:
        """Begin a span in what is current here, and return what ends it."""
        name, kind, attributes = self._begins(operation.kind, operation.subject)
        if operation.sid:
            attributes = attributes | {"evsession.shard": operation.sid[:2]}
            if self._session_ids:
                attributes["evsession.session.id"] = operation.sid
        span = self._tracer.start_span(name, kind=kind, attributes=attributes)
        context = set_span_in_context(span)
        token = attach(context) if operation.kind in PARENTS else None
        histogram = self._histograms.get(operation.kind)

        def ended(seconds: float, error: BaseException | None) -> None:
            if histogram is not None:
                histogram.record(seconds, self._common if error is None else self._common | _failure(error), context)
            if token is not None:
                detach(token)
            if span.is_recording():
                _conclude(span, operation, error)
            span.end()

        return ended

    def _begins(self, kind: Kind, subject: str) -> tuple[str, SpanKind, dict[str, Fact]]:
        """Return a span's name, its kind, and the attributes that all such have, made once."""
        known = self._known.get((kind, subject))
        if known is None:
            is_remote = bool(self._place) and kind != "sweep"
            database = self._place | {"db.operation.name": kind} if is_remote else {}
            span_kind = SpanKind.CLIENT if is_remote else SpanKind.INTERNAL
            known = self._known[kind, subject] = (f"{kind} {subject}", span_kind, self._common | database)
        return known

    def traceparent(self) -> str:
        """Return the W3C `traceparent` of the span that is current here, or nothing.  Source: Trace Context, 3.2."""
        current = get_current_span().get_span_context()
        if not current.is_valid:
            return ""
        return f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}"


def _place_of(store: Store) -> dict[str, Fact]:
    """Return where a store's server is; nothing if it has none, or is not one of ours."""
    if not store.is_remote:
        return {}
    from evsession.stores.redis import RedisStore

    if not isinstance(store, RedisStore):
        return {}
    address = store.address
    place: dict[str, Fact] = {"db.system.name": SYSTEM, "db.namespace": str(address.db)}
    if address.path is not None:
        return place | {"server.address": address.path}
    return place | {"server.address": address.host, "server.port": address.port}


def _conclude(span: Span, operation: Observed, error: BaseException | None) -> None:
    span.set_attributes({f"evsession.{name}": fact for name, fact in operation.facts.items()})
    if error is not None:
        span.set_attributes(_failure(error))
        # The text of an error of ours holds no secrets; an application's may hold anything.
        span.set_status(StatusCode.ERROR, str(error) if isinstance(error, EvsessionError) else None)


def _failure(error: BaseException) -> dict[str, Fact]:
    return {"error.type": type(error).__name__}
