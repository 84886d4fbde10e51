"""What monitoring sees: the same numbers in OpenTelemetry and Prometheus, under the names of page and dashboard."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from datetime import timedelta
from itertools import accumulate
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.websockets import WebSocket

from evsession import Session, SessionManager, Unsupported
from evsession.metrics import ALL, HISTOGRAMS, METRICS
from evsession.observability import instrument, metrics_route, prometheus_text
from evsession.operations import BOUNDS
from tests.conftest import until
from tests.integration.apps import KEY, Browser, app_of, in_memory, setting, two_workers
from tests.servers import Server

DOCS = Path(__file__).parents[2] / "docs/reference"


def measured(reader: InMemoryMetricReader) -> dict[str, list[NumberDataPoint | HistogramDataPoint]]:
    """Return what OpenTelemetry has of each metric."""
    data = reader.get_metrics_data()
    found: dict[str, list[NumberDataPoint | HistogramDataPoint]] = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics if data is not None else ():
        for point in metric.data.data_points:
            assert isinstance(point, NumberDataPoint | HistogramDataPoint)
            assert point.attributes is not None
            assert point.attributes["evsession.namespace"] in ("evsession", "shop")
            found.setdefault(metric.name, []).append(point)
    return found


def observed(reader: InMemoryMetricReader) -> dict[str, float]:
    """Return the value of each metric that is one number; there is one namespace, so one point."""
    found: dict[str, float] = {}
    for name, points in measured(reader).items():
        for point in points:
            if isinstance(point, NumberDataPoint):
                found[name] = point.value
    return found


def scraped(manager: SessionManager) -> dict[str, float]:
    """Return what Prometheus reads, by the names that it shows; of a histogram the first label's last bucket."""
    families = text_string_to_metric_families(prometheus_text(manager).decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def shown_names() -> set[str]:
    """Return every name that Prometheus shows."""
    parts = {f"{histogram.prometheus_name}_{part}" for histogram in HISTOGRAMS for part in ("bucket", "count", "sum")}
    return {metric.prometheus_name for metric in METRICS} | parts


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
        assert set(page) == shown_names()
        assert page["evsession_commits_total"] == manager.stats().counts.commits
        assert page["evsession_revocations_total"] == 1
        server.kill()
        await until(lambda: observed(reader)["evsession.lease.remaining"] == 0, "the last lease to end")
        assert "evsession.lease.age" not in observed(reader)
        await until(lambda: observed(reader)["evsession.log.behind"] > 0, "the lost subscription to be noticed")
        await until(lambda: observed(reader)["evsession.store.unavailable"] > 0, "a heartbeat to fail")
        provider.shutdown()


async def test_reads_and_what_keeps_them_fresh_are_counted(server: Server) -> None:
    """Fills, hits, and repairs once the subscriptions are gone."""
    async with two_workers(server.url) as (one, two):
        reader = InMemoryMetricReader()
        instrument(two, meter_provider=MeterProvider([reader]))
        created = await one.create(user_id="42")
        await two.get(created.id)
        await two.get(created.id)
        seen = observed(reader)
        assert (seen["evsession.cache.fills"], seen["evsession.cache.hits"]) == (1, 1)
        assert seen["evsession.cache.sessions"] == 1
        for number in range(200):
            server.cli("CLIENT", "KILL", "TYPE", "pubsub")
            await one.update(created.id, lambda data, number=number: data.update(n=number))  # type: ignore[misc]
            if observed(reader)["evsession.log.repairs"] and observed(reader)["evsession.feed.gaps"]:
                break
        assert observed(reader)["evsession.log.repairs"] > 0
        assert observed(reader)["evsession.feed.gaps"] > 0


async def test_a_fork_is_counted(server: Server) -> None:
    """A server that comes back without what it had acknowledged has another history."""
    async with two_workers(server.url) as (one, _):
        await one.create(user_id="42")
        server.restart(empty=True)
        await until(lambda: scraped(one)["evsession_log_forks_total"] > 0, "the fork to be found")


async def test_conflicts_and_dropped_changes_are_counted(server: Server) -> None:
    """Two workers write to one session until they collide; then it ends while a request is under way."""
    async with two_workers(server.url) as (one, two):
        browser, app = Browser(), app_of(one)
        await browser.visit(app, setting(n=0))
        sid = browser.session_id

        async def add(manager: SessionManager) -> None:
            await manager.update(sid, lambda data: data.update(n=data["n"] + 1))

        async def have_met() -> bool:
            await asyncio.gather(*(add(manager) for manager in (one, two) * 10))
            return sum(scraped(manager)["evsession_commit_conflicts_total"] for manager in (one, two)) > 0

        await until(have_met, "two commits to meet")

        async def change(session: Session) -> None:
            await two.revoke(sid, timeout=timedelta(0))
            session["lost"] = True

        await browser.visit(app, change)
        assert scraped(one)["evsession_changes_dropped_total"] == 1


async def test_closed_sockets_are_counted(server: Server) -> None:
    """A revocation closes what the session had open."""
    async with two_workers(server.url) as (one, two):
        browser, app = Browser(), app_of(one)
        await browser.visit(app, lambda session: session.login("42"))

        async def stay(websocket: WebSocket) -> None:
            await websocket.accept()
            assert scraped(one)["evsession_connections_open"] == 1
            await two.revoke_user("42", timeout=timedelta(0))
            await websocket.receive()

        await browser.connect(app, stay)
        page = scraped(one)
        assert (page["evsession_connections_open"], page["evsession_connections_closed_total"]) == (0, 1)
        assert page["evsession_revocations_total"] == 1


async def test_commits_and_fills_are_timed(server: Server) -> None:
    """The same distribution by both ways, in buckets fine enough for a server nearby; failures apart."""
    async with SessionManager.from_url(server.url, secret_key=KEY) as manager:
        reader = InMemoryMetricReader()
        instrument(manager, meter_provider=MeterProvider([reader]))
        created = await manager.create()
        for _ in range(10):
            await manager.update(created.id, lambda data: data.update(n=data.get("n", 0) + 1))
        with pytest.raises(ZeroDivisionError):
            await manager.update(created.id, lambda data: data.update(n=1 / 0))
        worked, failed = sorted(
            measured(reader)["evsession.commit.duration"], key=lambda point: len(point.attributes or {})
        )
        assert isinstance(worked, HistogramDataPoint)
        assert isinstance(failed, HistogramDataPoint)
        assert failed.attributes == {"evsession.namespace": "evsession", "error.type": "ZeroDivisionError"}
        assert (worked.count, failed.count) == (11, 1)
        assert 0 < worked.sum < 11
        assert tuple(worked.explicit_bounds) == BOUNDS
        (filled,) = measured(reader)["evsession.fill.duration"]
        assert isinstance(filled, HistogramDataPoint)
        assert filled.count == manager.stats().counts.fills
        page = prometheus_text(manager).decode()
        labels = 'evsession_namespace="evsession"'
        assert f'evsession_commit_duration_seconds_count{{error_type="",{labels}}} 11.0' in page
        assert f'evsession_commit_duration_seconds_bucket{{error_type="",{labels},le="+Inf"}} 11.0' in page
        assert f'evsession_commit_duration_seconds_count{{error_type="ZeroDivisionError",{labels}}} 1.0' in page
        counts = re.findall(r'commit_duration_seconds_bucket\{error_type="",\S+,le="(\S+)"\} (\S+)', page)
        assert [float(bound) for bound, _ in counts] == [*BOUNDS, float("inf")]
        assert [float(count) for _, count in counts] == list(accumulate(worked.bucket_counts))


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
    assert shown_names() - set(scraped(manager)) == {
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
    assert rows == [(metric.name, metric.unit, metric.kind) for metric in ALL]


def test_the_dashboard_asks_for_what_there_is() -> None:
    """Every metric is on it, under the name that Prometheus shows, and nothing else."""
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    named = set(re.findall(r"\bevsession_\w+", asked)) - {"evsession_namespace"}
    assert named <= shown_names()
    assert {name.removesuffix("_bucket") for name in named} == {metric.prometheus_name for metric in ALL}
