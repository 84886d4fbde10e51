"""Spans of commits, fills and revocations: their names, whose children they are, and what they never say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanKind, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from evsession import AuditPolicy, SessionManager, SessionMiddleware, SessionPolicy, StorePolicy, StoreUnavailable
from evsession.observability import instrument
from tests.conftest import until
from tests.integration.apps import KEY, Browser, app_of, in_memory, setting, two_workers
from tests.servers import Server

NOT_AT_ALL = timedelta(0)
SHORT = timedelta(seconds=1)

SECRET = "what nobody else may read 4711"


class Traced:
    """A tracer provider of one's own, and the spans that ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Return those with this name, or all, oldest first."""
        return [span for span in self._exporter.get_finished_spans() if name in ("", span.name)]

    def clear(self) -> None:
        """Forget what was there."""
        self._exporter.clear()


@contextmanager
def traced(*managers: SessionManager, **options: Any) -> Iterator[Traced]:
    """Have spans made for these managers."""
    seen = Traced()
    for manager in managers:
        instrument(manager, tracer_provider=seen.provider, **options)
    yield seen
    seen.provider.shutdown()


@contextmanager
def instrumented(app: FastAPI, seen: Traced) -> Iterator[None]:
    """Have an application traced, and nothing afterwards: its instrumentation traces the background tasks of all."""
    FastAPIInstrumentor.instrument_app(app, tracer_provider=seen.provider, exclude_spans=["receive", "send"])
    try:
        yield
    finally:
        FastAPIInstrumentor.uninstrument_app(app)


def facts_of(span: ReadableSpan) -> dict[str, Any]:
    """Return a span's attributes."""
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> int | None:
    """Return the id of a span's parent."""
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    """Return the id of a span."""
    assert span.context is not None
    return int(span.context.span_id)


def trace_of(span: ReadableSpan) -> int:
    """Return the id of a span's trace."""
    assert span.context is not None
    return int(span.context.trace_id)


def traceparent_of(span: ReadableSpan) -> str:
    """Return what names a span to others, as OpenTelemetry's own propagator writes it."""
    carrier: dict[str, str] = {}
    assert span.context is not None
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(NonRecordingSpan(span.context)))
    return carrier["traceparent"]


async def test_a_commit_and_a_fill_have_a_span_and_a_cached_read_has_none(server: Server) -> None:
    """Names and attributes are those of a database client; no token, cookie or value is anywhere in them."""
    async with two_workers(server.url) as (one, two):
        with traced(one, two) as seen:
            browser = Browser()
            await browser.visit(app_of(one), setting(card=SECRET))
            (commit,) = seen.spans()
            assert (commit.name, commit.kind) == ("commit session", SpanKind.CLIENT)
            assert facts_of(commit) == {
                "db.system.name": "redis",
                "db.namespace": "0",
                "db.operation.name": "commit",
                "server.address": server.url.removeprefix("unix://"),
                "evsession.namespace": "shop",
                "evsession.shard": "00",
                "evsession.session.id": browser.session_id,
                "evsession.event.type": "created",
                "evsession.session.version": 1,
                "evsession.attempts": 1,
            }
            assert commit.status.status_code is StatusCode.UNSET
            seen.clear()
            await browser.visit(app_of(two), lambda session: session["card"])
            (fill,) = seen.spans()
            assert (fill.name, fill.kind) == ("fill session", SpanKind.CLIENT)
            assert facts_of(fill)["db.operation.name"] == "fill"
            assert facts_of(fill)["evsession.session.version"] == 1
            seen.clear()
            for _ in range(5):
                await browser.visit(app_of(two), lambda session: session["card"])
            assert seen.spans() == []
            await browser.visit(app_of(two), setting(card=SECRET * 2))
            secrets = (SECRET, browser.token, browser.token and browser.token[25:60])
            for span in (commit, fill, *seen.spans()):
                assert all(secret and secret not in span.to_json() for secret in secrets)


async def test_over_tcp_a_span_names_host_and_port(server: Server) -> None:
    """And the database, but never the password of the URL."""
    with Server.start(server.binary, config={"requirepass": SECRET.replace(" ", "-")}, tcp=True) as private:
        manager = SessionManager.from_url(f"{private.url}/3", secret_key=KEY)
        async with manager:
            with traced(manager) as seen:
                await manager.create()
                (span,) = seen.spans("commit session")
        facts = facts_of(span)
        assert f"@{facts['server.address']}:{facts['server.port']}" in private.url
        assert facts["db.namespace"] == "3"
        assert "4711" not in span.to_json()


async def test_each_commit_is_a_child_of_its_own_request(server: Server) -> None:
    """Forty requests at once, whose commits share round trips, under the instrumentation that applications use."""
    async with SessionManager.from_url(server.url, secret_key=KEY) as manager:
        with traced(manager) as seen:
            app = FastAPI()

            @app.get("/write")
            async def write(request: FastAPIRequest) -> None:
                request.session["n"] = 1

            @app.get("/plain")
            def plain(request: FastAPIRequest) -> None:
                request.session["n"] = 2

            app.add_middleware(SessionMiddleware, manager=manager)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="https://shop.example") as client:
                with instrumented(app, seen):
                    paths = ["/write", "/plain"] * 20
                    traces = [f"{number:032x}" for number in range(1, len(paths) + 1)]
                    await asyncio.gather(
                        *(
                            client.get(path, headers={"traceparent": f"00-{trace}-{1:016x}-01"})
                            for path, trace in zip(paths, traces, strict=True)
                        )
                    )
            requests = {id_of(span): span for span in seen.spans() if span.kind is SpanKind.SERVER}
            commits = seen.spans("commit session")
            assert len(requests) == len(commits) == 40
            assert {parent_of(commit) for commit in commits} == set(requests)
            assert {f"{trace_of(commit):032x}" for commit in commits} == set(traces)


async def test_what_runs_on_is_no_part_of_the_request_that_came_first(server: Server) -> None:
    """Without a lifespan a request opens the store; the sweeper that begins there has traces of its own."""
    policy = SessionPolicy(idle_timeout=SHORT)
    manager = SessionManager.from_url(server.url, secret_key=KEY, policy=policy)
    ended: list[int] = []

    @manager.on_ended
    def note(*_: object) -> None:
        ended.append(get_current_span().get_span_context().trace_id)

    try:
        with traced(manager) as seen:
            with seen.tracer.start_as_current_span("request") as request:
                await manager.create()
            await until(lambda: seen.spans("sweep sessions"), "the session to be swept")
            await until(lambda: ended, "the application to be told")
            (sweep,) = seen.spans("sweep sessions")[:1]
            assert (sweep.parent, sweep.kind) == (None, SpanKind.INTERNAL)
            assert facts_of(sweep)["evsession.sessions.ended"] == 1
            (end,) = (
                span for span in seen.spans("commit session") if facts_of(span)["evsession.event.type"] == "ended"
            )
            assert parent_of(end) == id_of(sweep)
            assert request.get_span_context().trace_id not in (trace_of(sweep), *ended)
    finally:
        await manager.stop()


async def test_a_revocation_says_what_its_receipt_says(server: Server) -> None:
    """How many workers know; never whom it was about."""
    async with two_workers(server.url) as (one, two):
        with traced(one) as seen:
            await one.create(user_id="user-4711")
            receipt = await one.revoke_user("user-4711", reason=SECRET)
            (span,) = seen.spans("revoke user")
            assert span.kind is SpanKind.CLIENT
            facts = facts_of(span)
            assert facts["evsession.receipt.id"] == receipt.id
            assert facts["evsession.receipt.complete"] is receipt.complete
            counts = [facts[f"evsession.receipt.{part}"] for part in ("confirmed", "fenced", "pending", "replicas")]
            assert counts == [len(receipt.confirmed), len(receipt.fenced), len(receipt.pending), receipt.replicas]
            assert "4711" not in span.to_json()
            await one.revoke_named("tenant", "acme", timeout=NOT_AT_ALL)
            await one.revoke_everyone(timeout=NOT_AT_ALL)
            assert [span.name for span in seen.spans() if span.name.startswith("revoke")][1:] == [
                "revoke tenant",
                "revoke everyone",
            ]
            created = await two.create()
            seen.clear()
            await one.revoke(created.id, timeout=NOT_AT_ALL)
            (span,) = seen.spans("revoke session")
            assert {child.name for child in seen.spans() if parent_of(child) == id_of(span)} == {
                "fill session",
                "commit session",
            }


async def test_a_commit_says_how_often_it_was_tried(server: Server) -> None:
    """Two workers write to one session until they collide; each conflict was one more attempt."""
    async with two_workers(server.url) as (one, two):
        with traced(one, two) as seen:
            created = await one.create(data={"n": 0})

            async def add(manager: SessionManager) -> None:
                await manager.update(created.id, lambda data: data.update(n=data["n"] + 1))

            async def have_met() -> bool:
                await asyncio.gather(*(add(manager) for manager in (one, two) * 10))
                return one.stats().conflicts + two.stats().conflicts > 0

            await until(have_met, "two commits to meet")
            commits = [facts_of(span) for span in seen.spans("commit session")]
            conflicts = [facts.get("evsession.conflicts", 0) for facts in commits]
            assert sum(conflicts) == one.stats().conflicts + two.stats().conflicts
            assert [facts["evsession.attempts"] for facts in commits] == [1 + number for number in conflicts]


async def test_a_fill_that_waits_for_another_says_so(server: Server) -> None:
    """Five cold reads at once are one trip, and five spans."""
    async with two_workers(server.url) as (one, two):
        created = await one.create()
        with traced(two) as seen:
            await asyncio.gather(*(two.get(created.id) for _ in range(5)))
            joined = [facts_of(span).get("evsession.joined", False) for span in seen.spans("fill session")]
            assert sorted(joined) == [False, True, True, True, True]


async def test_a_failure_is_named(server: Server) -> None:
    """The status is an error, with its type; an application's own text stays out of it."""
    brisk = timedelta(seconds=2)  # for what is on its way when the server is killed is tried again for so long
    patience = StorePolicy(command_timeout=brisk, connect_timeout=brisk, commit_timeout=brisk)
    async with SessionManager.from_url(server.url, secret_key=KEY, patience=patience) as manager:
        created = await manager.create()
        with traced(manager) as seen:

            def change(_: dict[str, Any]) -> None:
                raise ValueError(SECRET)

            with pytest.raises(ValueError, match=SECRET):
                await manager.update(created.id, change)
            (span,) = seen.spans("commit session")
            assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
            assert facts_of(span)["error.type"] == "ValueError"
            assert SECRET not in span.to_json()
            server.kill()
            seen.clear()
            with pytest.raises(StoreUnavailable):
                await manager.create()
            (span,) = seen.spans("commit session")
            assert span.status.status_code is StatusCode.ERROR
            assert facts_of(span)["error.type"] == "StoreUnavailable"


async def test_spans_can_do_without_session_ids(server: Server) -> None:
    """For who would rather not have them at whoever keeps the traces."""
    async with SessionManager.from_url(server.url, secret_key=KEY) as manager:
        with traced(manager, session_ids=False) as seen:
            created = await manager.create(user_id="42")
            await manager.revoke(created.id, timeout=NOT_AT_ALL)
            assert len(seen.spans()) >= 3
            assert not [span for span in seen.spans() if created.id in span.to_json()]


async def test_in_memory_spans_are_of_no_database() -> None:
    """Nothing is asked of anybody."""
    manager = in_memory()
    with traced(manager) as seen:
        await manager.create()
        (span,) = seen.spans()
        assert span.kind is SpanKind.INTERNAL
        assert not [name for name in facts_of(span) if name.startswith(("db.", "server."))]


async def test_an_event_names_the_trace_of_its_request(server: Server) -> None:
    """What the worker itself traces takes the place of what the client claims; in a script as in a request."""
    audit = AuditPolicy(request_ids=True)
    async with SessionManager.from_url(server.url, secret_key=KEY, audit=audit) as manager:
        browser, claimed = Browser(), f"00-{7:032x}-{8:016x}-01"
        headers = [(b"traceparent", claimed.encode()), (b"x-request-id", b"r1")]
        await browser.visit(app_of(manager), setting(n=0), headers=headers)
        with traced(manager) as seen:
            with seen.tracer.start_as_current_span("request"):
                await browser.visit(app_of(manager), setting(n=1), headers=headers)
            with seen.tracer.start_as_current_span("script"):
                await manager.update(browser.session_id, lambda data: data.update(n=2))
            await manager.update(browser.session_id, lambda data: data.update(n=3))
            spans = {span.name: span for span in seen.spans()}
            contexts = [event.context for event in await manager.audit.history(browser.session_id)]
        named = [traceparent_of(spans[name]) for name in ("request", "script")]
        assert [context.get("traceparent") for context in contexts] == [None, *named, None]
        assert contexts[0]["claimed"] == {"request_id": "r1", "traceparent": claimed}
        assert contexts[1]["claimed"] == {"request_id": "r1"}


async def test_no_event_names_a_trace_unless_ids_are_asked_for() -> None:
    """They are 60 B an event."""
    manager = in_memory()
    with traced(manager) as seen, seen.tracer.start_as_current_span("script"):
        created = await manager.create()
        (event,) = await manager.audit.history(created.id)
        assert set(event.context) == {"worker"}


def test_without_an_sdk_all_goes_on_and_nothing_is_made() -> None:
    """The API package alone makes no spans."""
    program = (
        "import sys, anyio\n"
        "from evsession import SessionManager\n"
        "from evsession.observability import instrument\n"
        "manager = SessionManager.from_url('memory://')\n"
        "instrument(manager)\n"
        "created = anyio.run(manager.create)\n"
        "receipt = anyio.run(manager.revoke, created.id)\n"
        "print(receipt.complete, 'opentelemetry.sdk' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
