"""Traces: spans of requests and jobs reach a collector over HTTP, and none are made without one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from curation.api.app import create_app
from curation.domain import JobName
from curation.jobs.observed import observed_job
from curation.runtime import tracing
from curation.runtime.context import open_context
from curation.settings import Settings
from tests.curation.api.conftest import LOOPBACK

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the URL of an HTTP server, and the request bodies that it received."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(tracing, "_provider", None)
    yield f"http://127.0.0.1:{server.server_port}", received
    if tracing._provider is not None:
        tracing._provider.shutdown()
    server.shutdown()
    server.server_close()


def test_requests_and_jobs_are_spans(
    settings: Settings, collector: tuple[str, list[bytes]]
) -> None:
    url, received = collector
    tracing.configure_tracing(settings.model_copy(update={"traces_url": url}), "api", "test:1")
    with open_context(settings) as context:
        client = TestClient(create_app(context), base_url=LOOPBACK)
        client.get("/api/rounds/7", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})

    def fail() -> None:
        with observed_job(JobName.generate, [3]):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    tracing.flush_traces()
    spans = {}
    for body in received:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {span.key: span.value.string_value for span in resource.resource.attributes}
            assert names["service.name"] == "layerloop-api"
            spans |= {span.name: span for scope in resource.scope_spans for span in scope.spans}
    [request] = [span for name, span in spans.items() if name.startswith("GET /api/rounds/{")]
    assert request.trace_id.hex() == TRACE
    job = spans["job generate"]
    assert {span.key: span.value.int_value for span in job.attributes}["round"] == 3
    assert job.status.code == job.status.STATUS_CODE_ERROR
    assert "broken" in job.status.message


def test_without_a_collector_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_provider", None)
    tracing.configure_tracing(Settings(), "api", "test:1")
    with tracing.span("nothing") as trace:
        trace.rename("still nothing")
        trace.add({"a": 1})
    assert tracing._provider is None
