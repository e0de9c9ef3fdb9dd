"""Metrics over HTTP: off without a token, by route template with one, and a port for each worker."""

from __future__ import annotations

import urllib.error
import urllib.request

from fastapi.testclient import TestClient

from curation.api.app import create_app
from curation.runtime.context import open_context
from curation.runtime.metrics_server import serve_worker_metrics
from curation.settings import Settings, read_settings
from tests.curation.api.conftest import LOOPBACK

TOKEN = "a-token-for-prometheus"
BEARER = {"authorization": f"Bearer {TOKEN}"}


def with_token(settings: Settings, **given: object) -> Settings:
    return read_settings(
        home=settings.home, database=settings.database, metrics_token=TOKEN, **given
    )


def test_the_api_has_no_metrics_without_a_token(settings: Settings) -> None:
    with open_context(settings) as context:
        client = TestClient(create_app(context), base_url=LOOPBACK)
        assert client.get("/metrics", headers=BEARER).status_code == 404


def test_the_api_gives_metrics_to_the_token_alone(settings: Settings) -> None:
    with open_context(with_token(settings)) as context:
        client = TestClient(create_app(context), base_url=LOOPBACK)
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}):
            assert client.get("/metrics", headers=headers).status_code == 401
        client.get("/api/rounds/123456")
        client.request("FROB\u00dcNICATE".encode("latin-1").decode("latin-1"), "/x/123456")
        answer = client.get("/metrics", headers=BEARER)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'layerloop_http_request_seconds_bucket{le="0.005",method="GET",route="/api/rounds/{' in (
        answer.text
    )
    assert "layerloop_database_up 1.0" in answer.text
    assert "process_resident_memory_bytes" in answer.text
    for secret in (TOKEN, "123456", "FROB"):
        assert secret not in answer.text


def fetch(port: int | None, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_worker_has_a_port_for_metrics_and_health(settings: Settings) -> None:
    with open_context(settings) as context, serve_worker_metrics(context, 0) as port:
        assert fetch(port, "/live")[0] == 200
        assert fetch(port, "/ready") == (
            200,
            '{"status": "ok", "parts": {"database": "ok", "store": "ok", "queue": "ok"}}',
        )
        status, text = fetch(port, "/metrics")
        assert (status, "layerloop_job_seconds" in text) == (200, True)
        assert fetch(port, "/etc/passwd")[0] == 404


def test_a_worker_requires_the_token_if_it_is_set(settings: Settings) -> None:
    with open_context(with_token(settings)) as context, serve_worker_metrics(context, 0) as port:
        assert fetch(port, "/metrics")[0] == 401
        assert fetch(port, "/metrics", BEARER)[0] == 200
        assert fetch(port, "/live")[0] == 200


def test_a_worker_gives_no_metrics_to_others_without_a_token(
    settings: Settings,
) -> None:
    given = settings.model_copy(update={"metrics_host": "0.0.0.0"})
    with open_context(given) as context, serve_worker_metrics(context, 0) as port:
        assert fetch(port, "/metrics")[0] == 404
        assert fetch(port, "/ready")[0] == 200
