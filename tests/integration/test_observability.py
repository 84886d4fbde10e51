"""What monitoring sees: the same numbers in OpenTelemetry and Prometheus, under the names of page and dashboard."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from evsession import SessionManager, Unsupported
from evsession.metrics import METRICS
from evsession.observability import instrument, metrics_route, prometheus_text
from tests.conftest import until
from tests.integration.apps import KEY, in_memory
from tests.servers import Server

DOCS = Path(__file__).parents[2] / "docs/reference"


def observed(reader: InMemoryMetricReader) -> dict[str, float]:
    """Return what OpenTelemetry has of each metric; there is one namespace, so one point."""
    data = reader.get_metrics_data()
    found: dict[str, float] = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics if data is not None else ():
        for point in metric.data.data_points:
            assert isinstance(point, NumberDataPoint)
            assert point.attributes == {"evsession.namespace": "evsession"}
            found[metric.name] = point.value
    return found


def scraped(manager: SessionManager) -> dict[str, float]:
    """Return what Prometheus reads, by the names that it shows."""
    families = text_string_to_metric_families(prometheus_text(manager).decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


async def test_a_worker_tells_what_it_did(server: Server) -> None:
    """Counts by both ways, the leases, and a revocation that was applied."""
    reader = InMemoryMetricReader()
    async with SessionManager.from_url(server.url, secret_key=KEY) as manager:
        provider = MeterProvider([reader])
        instrument(manager, meter_provider=provider)
        created = await manager.create(user_id="42")
        await manager.update(created.id, lambda data: data.update(a=1))
        await manager.revoke_user("42")
        await until(lambda: manager.stats().cache.revocations == 1, "the revocation to be applied")
        seen = observed(reader)
        assert seen["evsession.sessions.created"] == 1
        assert seen["evsession.commits"] >= 2
        assert seen["evsession.revocations"] == 1
        assert 0 <= seen["evsession.lease.age"] < 2
        assert 0 < seen["evsession.lease.remaining"] <= 2
        page = scraped(manager)
        assert set(page) == {metric.prometheus_name for metric in METRICS}
        assert page["evsession_commits_total"] == manager.stats().counts.commits
        assert page["evsession_revocations_total"] == 1
        server.kill()
        await until(lambda: observed(reader)["evsession.lease.remaining"] == 0, "the last lease to end")
        assert "evsession.lease.age" not in observed(reader)
        provider.shutdown()


async def test_a_worker_in_memory_has_no_leases_to_tell_of() -> None:
    """All the rest is there, and the page is for Prometheus and no cache."""
    manager = in_memory()
    await manager.create(user_id="42")
    app = Starlette(routes=[metrics_route(manager)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.headers["cache-control"] == "no-store"
    assert 'evsession_sessions_created_total{evsession_namespace="evsession"} 1.0' in answer.text
    assert {metric.prometheus_name for metric in METRICS} - set(scraped(manager)) == {
        "evsession_lease_age_seconds",
        "evsession_lease_remaining_seconds",
    }


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    monkeypatch.setitem(sys.modules, "prometheus_client.exposition", None)
    with pytest.raises(Unsupported, match=r"evsession\[otel\]"):
        instrument(in_memory())
    with pytest.raises(Unsupported, match=r"evsession\[prometheus\]"):
        metrics_route(in_memory())


def test_the_packages_are_loaded_only_when_asked_for() -> None:
    """Neither the middleware nor the module itself needs them."""
    program = (
        "import sys, evsession.middleware, evsession.observability\n"
        "print([name for name in ('opentelemetry', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_page_names_every_metric_with_its_unit() -> None:
    """A new metric needs its line, and a line its metric."""
    rows = re.findall(r"^\| `(evsession\.[\w.]+)` \| `([^`]+)` \| (\S+) \|", (DOCS / "metrics.md").read_text(), re.M)
    assert rows == [(metric.name, metric.unit, metric.kind) for metric in METRICS]


def test_the_dashboard_asks_for_what_there_is() -> None:
    """Every metric is on it, under the name that Prometheus shows, and nothing else."""
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    named = set(re.findall(r"\bevsession_\w+", asked)) - {"evsession_namespace"}
    assert named == {metric.prometheus_name for metric in METRICS}
