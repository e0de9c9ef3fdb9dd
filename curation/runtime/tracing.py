"""Traces by OpenTelemetry: a span for each request and job, if a collector is configured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from curation import __version__
from curation.errors import LayerloopError
from curation.logs import log_context
from curation.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_provider: TracerProvider | None = None


def configure_tracing(settings: Settings, service: str, instance: str) -> None:
    """Send the spans of this process to the collector of the settings, if there is one.

    Args:
        settings: The settings.
        service: The kind of the process: api or worker.
        instance: Id of the process.

    Raises:
        LayerloopError: A collector is configured, and OpenTelemetry is not installed.
    """
    global _provider
    if settings.traces_url is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise LayerloopError(
            f"LAYERLOOP_TRACES_URL is set, and OpenTelemetry is not installed: {error}",
            "pip install 'layerloop[otel]'",
        ) from error
    names = {
        "service.name": f"layerloop-{service}",
        "service.version": __version__,
        "service.instance.id": instance,
    }
    # Spans are sent by a thread in batches, and dropped while the collector is unreachable.
    exporter = OTLPSpanExporter(endpoint=f"{settings.traces_url.rstrip('/')}/v1/traces")
    _provider = TracerProvider(resource=Resource.create(names))
    _provider.add_span_processor(BatchSpanProcessor(exporter))


def flush_traces() -> None:
    """Send the spans that are waiting."""
    if _provider is not None:
        _provider.force_flush()


class Trace:
    """The span of a block; without a collector it records nothing."""

    def __init__(self, span: Span | None = None) -> None:
        self._span = span

    def rename(self, name: str) -> None:
        """Change the name of the span."""
        if self._span is not None:
            self._span.update_name(name)

    def add(self, attributes: Mapping[str, str | int]) -> None:
        """Add attributes to the span."""
        if self._span is not None:
            self._span.set_attributes(dict(attributes))


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, str | int] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Trace]:
    """Record the block as a span; an exception that leaves it becomes the span's error.

    Args:
        name: Name of the span.
        attributes: Attributes of the span.
        headers: Headers of a request, whose traceparent the span continues.
    """
    if _provider is None:
        yield Trace()
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(dict(headers or {}))
    tracer = _provider.get_tracer("layerloop", __version__)
    with tracer.start_as_current_span(
        name, context=parent, attributes=dict(attributes or {})
    ) as opened:
        # Log records of the block name its trace.
        with log_context(trace_id=f"{opened.get_span_context().trace_id:032x}"):
            yield Trace(opened)
