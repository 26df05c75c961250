"""OpenTelemetry: a span for each request for generation and, side by side under it, one for each of its phases."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from importlib.util import find_spec
from threading import Thread
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING

from tercet.core.errors import MissingExtraError
from tercet.dialects.protocol import Headers
from tercet.http.server import Request
from tercet.router.checks import PASSED_ON
from tercet.router.record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
    from opentelemetry.trace import Span as OtelSpan

SERVICE = "tercet-router"
TRACES_PATH = "/v1/traces"
FAILED = 500


def require_otel() -> None:
    """Raise MissingExtraError where traces cannot be sent from."""
    needed = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    try:
        found = all(find_spec(name) is not None for name in needed)
    except ModuleNotFoundError:  # of a package above
        found = False
    if not found:
        raise MissingExtraError("otel", "--otlp-endpoint")


def provider_to(endpoint: str) -> TracerProvider:
    """Return what sends spans to a collector's OTLP endpoint over HTTP, in the background. Raises MissingExtraError."""
    require_otel()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    base = endpoint.rstrip("/")
    exporter = OTLPSpanExporter(base if base.endswith(TRACES_PATH) else base + TRACES_PATH)
    return _provider(exporter, BatchSpanProcessor)


def provider_in_memory(exporter: SpanExporter) -> TracerProvider:
    """Return what hands each span to `exporter` when it ends."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    return _provider(exporter, SimpleSpanProcessor)


class Tracing:
    """Makes the spans. A request's own is begun at once, because the workers' are to be under it; those of its phases
    when it is over, from its record."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("tercet.router")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, request: Request) -> OtelSpan:
        """Begin a request's span, under the client's where it sent a `traceparent`."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        above = self._propagator.extract(request.headers, Context())
        name, started = f"{request.method} {request.path}", time_ns() - (perf_counter_ns() - request.received_ns)
        attributes = {"http.request.method": request.method, "http.route": request.path}
        return self._tracer.start_span(name, above, SpanKind.SERVER, attributes, start_time=started)

    def worker_headers(self, span: OtelSpan, headers: Headers) -> Headers:
        """Return the headers that go to the workers: whose spans belong under this request's, not beside it."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span, Context()))
        return (*(pair for pair in headers if pair[0] not in PASSED_ON), *carrier.items())

    def end(self, span: OtelSpan, record: RequestRecord) -> None:
        """End a request's span, and tell of its phases."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        ended = time_ns() - (perf_counter_ns() - record.ended_ns)
        if span.is_recording():
            under, to_unix = set_span_in_context(span, Context()), ended - record.ended_ns
            for phase in record.spans:
                kind = SpanKind.INTERNAL if phase.worker is None else SpanKind.CLIENT
                attributes = {} if phase.worker is None else {"tercet.worker": phase.worker}
                child = self._tracer.start_span(
                    phase.phase, under, kind, attributes, start_time=phase.start_ns + to_unix
                )
                if phase.error is not None:
                    child.set_status(Status(StatusCode.ERROR, phase.error))
                child.end(phase.end_ns + to_unix)
            span.set_attributes(_attributes(record))
            if record.status >= FAILED:
                span.set_status(Status(StatusCode.ERROR, record.error))
        span.end(ended)

    async def close(self, grace_s: float) -> None:
        """Send what was not sent yet, for up to `grace_s` seconds: a collector that is away keeps nobody waiting."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # nobody waited so long
                loop.call_soon_threadsafe(done.set)

        Thread(target=shut_down, name="otlp-shutdown", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), grace_s)


def _provider(
    exporter: SpanExporter, processor: type[BatchSpanProcessor] | type[SimpleSpanProcessor]
) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    resource = Resource.create()  # of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, where somebody set them
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": SERVICE}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor(exporter))
    return provider


def _attributes(record: RequestRecord) -> dict[str, str | int | bool | tuple[str, ...]]:
    """Return what a record says, by the names of OpenTelemetry's conventions for generative AI where they have one."""
    said: dict[str, str | int | bool | tuple[str, ...] | None] = {
        "http.response.status_code": record.status,
        "error.type": record.error,
        "gen_ai.request.model": record.model or None,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "gen_ai.response.finish_reasons": None if record.finish_reason is None else (record.finish_reason,),
        "tercet.request_id": record.id,
        "tercet.mode": record.mode,
        "tercet.turn": record.turn,
        "tercet.route": None if record.route is None else str(record.route),
        "tercet.cached_tokens": record.cached_tokens,
        "tercet.expected_cached_tokens": record.expected_cached_tokens,
        "tercet.retries": record.retries,
        "tercet.stream": record.stream,
    }
    return {name: value for name, value in said.items() if value is not None}
