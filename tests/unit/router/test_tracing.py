"""OpenTelemetry: what the exporter gets, what the workers see, what a collector receives, and what is missing."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic, time_ns
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tercet.core.errors import MissingExtraError, UsageError
from tercet.http.server import Request, Responder, Server
from tercet.router.config import RouterConfig
from tercet.router.tracing import Tracing, provider_in_memory
from tests.unit.router.harness import Setup, routing, until

TRACE, PARENT = "a" * 32, "b" * 16
ABOVE = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}


@asynccontextmanager
async def traced(letters: str, mode: str, **config: Any) -> AsyncIterator[tuple[Setup, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    async with routing(letters, mode, **config) as setup:
        tracing = Tracing(provider_in_memory(exporter))
        object.__setattr__(setup.router.parts, "tracing", tracing)  # as with an endpoint, but here
        yield setup, exporter


async def split(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """Return the request's span and those under it, once it has ended."""
    await until(exporter.get_finished_spans)
    *children, own = exporter.get_finished_spans()
    return own, list(children)


def ids(headers: dict[str, str]) -> tuple[str, str, bool]:
    _, trace, span, flags = headers["traceparent"].split("-")
    return trace, span, int(flags, 16) & 1 == 1


async def test_phases_are_siblings_under_the_requests_span_which_is_under_the_clients() -> None:
    async with traced("PD", "pd") as (setup, exporter):
        setup.role("D")[0].timing = "queue;dur=0.01, transfer;dur=0.02, prefill;dur=0.03"
        before = time_ns()
        await setup.chat("a b", max_tokens=3, stream=True, headers={**ABOVE, "X-Request-Id": "mine"})
        own, children = await split(exporter)
        assert own.context is not None and own.parent is not None and own.attributes is not None
        assert f"{own.context.trace_id:032x}" == TRACE and f"{own.parent.span_id:016x}" == PARENT
        assert own.name == "POST /v1/chat/completions" and own.kind is SpanKind.SERVER
        assert [span.name for span in children] == ["prefill", "queue", "handoff", "decode_first_token", "stream"]
        assert {span.parent.span_id for span in children if span.parent} == {own.context.span_id}
        assert [(span.attributes or {})["tercet.worker"] for span in children] == ["P0", "D0", "D0", "D0", "D0"]
        assert before <= (own.start_time or 0) and (own.end_time or 0) <= time_ns()
        for span in children:
            assert (own.start_time or 0) <= (span.start_time or 0) <= (span.end_time or 0) <= (own.end_time or 0)
        assert own.attributes["tercet.request_id"] == "mine" and own.attributes["tercet.route"] == "P0>D0"
        assert own.attributes["gen_ai.usage.input_tokens"] == 3 and own.attributes["http.response.status_code"] == 200
        assert own.attributes["gen_ai.response.finish_reasons"] == ("length",)
        assert own.resource.attributes["service.name"] == "tercet-router"
        # Every worker is told to put its spans under the request's.
        seen = [ids(headers) for worker in setup.workers for _, _, headers in worker.inferences]
        assert seen == [(TRACE, f"{own.context.span_id:016x}", True)] * 2
        assert {h["tracestate"] for worker in setup.workers for _, _, h in worker.inferences} == {"vendor=1"}


@pytest.mark.parametrize("sent", [{}, {"traceparent": "00-zz-1-01", "tracestate": "vendor=1"}])
async def test_without_a_valid_parent_a_trace_begins_here(sent: dict[str, str]) -> None:
    async with traced("A", "aggregated") as (setup, exporter):
        await setup.complete("a", headers=sent)
        own, _ = await split(exporter)
        ((_, _, headers),) = setup.workers[0].inferences
        assert own.parent is None and own.context is not None
        assert ids(headers) == (f"{own.context.trace_id:032x}", f"{own.context.span_id:016x}", True)
        assert "tracestate" not in headers


async def test_what_the_client_does_not_sample_is_passed_on_and_not_kept() -> None:
    async with traced("A", "aggregated") as (setup, exporter):
        await setup.complete("a", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
        assert exporter.get_finished_spans() == ()
        ((_, _, headers),) = setup.workers[0].inferences
        assert ids(headers)[::2] == (TRACE, False)


async def test_failures_and_refusals_are_told() -> None:
    async with traced("AA", "aggregated", balancer="round_robin") as (setup, exporter):
        setup.workers[0].status = 500
        while (await setup.complete("a")).status != 200 or len((await split(exporter))[1]) < 3:
            exporter.clear()
        own, (failed, *_) = await split(exporter)
        assert failed.status.status_code is StatusCode.ERROR and failed.status.description == "engine_dead"
        assert own.status.status_code is StatusCode.UNSET and (own.attributes or {})["tercet.retries"] == 1
        exporter.clear()
        setup.workers[1].status = 500
        await setup.complete("a")
        assert (await split(exporter))[0].status.status_code is StatusCode.ERROR
        exporter.clear()
        await setup.complete("secret-of-the-prompt", model="nobodys")
        own, children = await split(exporter)
        assert children == [] and (own.attributes or {})["error.type"] == "model_not_found"
        assert own.status.status_code is StatusCode.UNSET, "a client's error is not the server's"
        assert "secret-of-the-prompt" not in own.to_json()


class Collector:
    """An OTLP receiver over HTTP."""

    def __init__(self) -> None:
        self.server = Server(self.handle, port=0)
        self.paths: list[str] = []
        self.spans: list[Any] = []

    async def handle(self, request: Request, responder: Responder) -> None:
        self.paths.append(request.path)
        body = request.body
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        await responder.send(200, b"", content_type="application/x-protobuf")


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
async def test_a_collector_receives_them_at_the_latest_when_the_router_ends(path: str) -> None:
    collector = Collector()
    await collector.server.start()
    try:
        async with routing("PD", "pd", otlp_endpoint=f"http://127.0.0.1:{collector.server.port}{path}") as setup:
            await setup.chat("a b", max_tokens=3, headers=ABOVE)
        assert collector.paths == ["/v1/traces"]
        names = {span.name for span in collector.spans}
        assert names == {"POST /v1/chat/completions", "prefill", "queue", "stream"}
        assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    finally:
        await collector.server.close(0.5)


async def test_a_collector_that_is_away_keeps_nobody_waiting() -> None:
    async with routing("A", "aggregated", otlp_endpoint="http://127.0.0.1:9") as setup:
        assert (await setup.complete("a")).status == 200
        ending = monotonic()
    assert monotonic() - ending < 10


async def test_without_an_endpoint_the_clients_word_is_passed_on_as_it_is() -> None:
    async with routing("A", "aggregated") as setup:
        assert setup.router.parts.tracing is None
        await setup.complete("a", headers=ABOVE)
        ((_, _, headers),) = setup.workers[0].inferences
        assert {name: headers[name] for name in ABOVE} == ABOVE


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    monkeypatch.delitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", raising=False)
    with pytest.raises(MissingExtraError) as caught:
        RouterConfig(workers=("http://a:1",), otlp_endpoint="http://collector:4318")
    assert str(caught.value) == "--otlp-endpoint needs an optional part: pip install 'tercet[otel]'"


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    good = RouterConfig(workers=("http://a:1",), otlp_endpoint="https://collector:4318")
    with pytest.raises(UsageError, match="http://HOST:4318"):
        replace(good, otlp_endpoint="collector:4317")


async def test_the_loop_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending is another thread's work."""
    stuck = asyncio.Event()

    async def never(request: Request, responder: Responder) -> None:
        stuck.set()
        await asyncio.sleep(60)

    server = Server(never, port=0)
    await server.start()
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    try:
        async with routing("A", "aggregated", otlp_endpoint=f"http://127.0.0.1:{server.port}") as setup:
            await setup.complete("a")
            await until(stuck.is_set)
            assert (await setup.complete("a")).status == 200
    finally:
        await server.close(0.0)
