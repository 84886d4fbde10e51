"""Tell a monitoring system what a worker does: OpenTelemetry's metrics and spans, and a page for Prometheus.

Numbers are read when somebody asks, from counts that the worker keeps anyway. A read from memory pays for nothing; a
commit and a fill have a span where somebody traces. Both ways give `METRICS` and `HISTOGRAMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from evsession.errors import Unsupported
from evsession.manager import SessionManager
from evsession.metrics import ALL, HISTOGRAMS, METRICS, NAMESPACE, Histogram, Metric, read
from evsession.operations import Durations

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

ERROR: Final = "error.type"
"""The attribute of a measurement that an error ended; Prometheus' label is empty where none did."""


# ── OpenTelemetry ────────────────────────────────────────────────────────────────────────────────────────────────────


def instrument(
    manager: SessionManager,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    session_ids: bool = True,
) -> None:
    """Have OpenTelemetry observe a manager, once and for as long as the process lives.

    Without providers the global ones are meant; without an SDK nothing is observed. For metrics alone give a
    ``NoOpTracerProvider()``. `session_ids` says whether spans carry the public id of their session, never its token.

    Raises:
        Unsupported: opentelemetry-api is not installed.
    """
    try:
        from opentelemetry.metrics import get_meter
        from opentelemetry.trace import get_tracer
    except ImportError as error:
        raise Unsupported("instrument() without opentelemetry-api", "pip install 'evsession[otel]'") from error
    from evsession.spans import Spans

    meter = get_meter("evsession", meter_provider=meter_provider)
    for metric in METRICS:
        _observe(meter, metric, manager)
    tracer = get_tracer("evsession", tracer_provider=tracer_provider)
    manager.worker.operations.observer = Spans(manager, tracer, meter, session_ids=session_ids)


def _observe(meter: Meter, metric: Metric, manager: SessionManager) -> None:
    from opentelemetry.metrics import Observation

    attributes = {NAMESPACE: manager.worker.keys.namespace}

    def observed(_: CallbackOptions) -> Iterable[Observation]:
        value = metric.read(read(manager))
        return () if value is None else (Observation(value, attributes),)

    about = {"unit": metric.unit, "description": metric.description}
    match metric.kind:
        case "counter":
            meter.create_observable_counter(metric.name, [observed], **about)
        case "updowncounter":
            meter.create_observable_up_down_counter(metric.name, [observed], **about)
        case "gauge":
            meter.create_observable_gauge(metric.name, [observed], **about)


# ── Prometheus ───────────────────────────────────────────────────────────────────────────────────────────────────────


class PrometheusCollector:
    """Reads a manager for a registry of prometheus_client: ``REGISTRY.register(PrometheusCollector(manager))``."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager

    def describe(self) -> Iterator[Family]:
        """Name what `collect` yields, so that a registry finds out whether a name is taken."""
        return map(_family, ALL)

    def collect(self) -> Iterator[Family]:
        """Yield each metric with its value at this moment."""
        reading, labels = read(self._manager), (self._manager.worker.keys.namespace,)
        for metric in METRICS:
            family, value = _family(metric), metric.read(reading)
            if value is not None:
                family.add_metric(labels, value)  # type: ignore[attr-defined]
            yield family
        for histogram in HISTOGRAMS:
            family = _family(histogram)
            _fill_in(family, histogram.read(self._manager.worker.operations), labels)
            yield family


def _fill_in(family: Family, durations: Durations, labels: tuple[str, ...]) -> None:
    for error, taken in list(durations.by_error.items()):
        buckets = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in taken.cumulative()]
        family.add_metric((*labels, error), buckets, taken.total)  # type: ignore[attr-defined]


def _family(metric: Metric | Histogram) -> Family:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    labels: tuple[str, ...] = (NAMESPACE.replace(".", "_"),)
    if isinstance(metric, Histogram):
        labels = (*labels, ERROR.replace(".", "_"))
        return HistogramMetricFamily(metric.prometheus_name, metric.description, labels=labels)
    if metric.kind == "counter":
        return CounterMetricFamily(metric.prometheus_name, metric.description, labels=labels)
    return GaugeMetricFamily(metric.prometheus_name, metric.description, labels=labels)


def prometheus_text(manager: SessionManager) -> bytes:
    """Return what this worker did, in Prometheus' text format 0.0.4.

    Raises:
        Unsupported: prometheus-client is not installed.
    """
    generate, _ = _prometheus()
    return generate(_registry(manager))


def metrics_route(manager: SessionManager, path: str = "/metrics") -> Route:
    """Return the route of a page for Prometheus: ``app.router.routes.append(metrics_route(manager))``.

    It answers for this worker alone and is open to whoever reaches it: keep it inside your network.

    Raises:
        Unsupported: prometheus-client is not installed.
    """
    from starlette.responses import Response
    from starlette.routing import Route

    generate, content_type = _prometheus()
    registry = _registry(manager)

    async def metrics(_: Request) -> Response:
        headers = {"content-type": content_type, "cache-control": "no-store"}
        return Response(generate(registry), headers=headers)

    return Route(path, metrics, methods=["GET"], include_in_schema=False)


def _registry(manager: SessionManager) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(PrometheusCollector(manager))
    return registry


def _prometheus() -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
    except ImportError as error:
        what = "a page for Prometheus without prometheus-client"
        raise Unsupported(what, "pip install 'evsession[prometheus]'") from error
    return generate_latest, CONTENT_TYPE_PLAIN_0_0_4
