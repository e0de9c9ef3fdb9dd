"""The metrics of this process for Prometheus: requests of the API, jobs of a worker."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)

from curation.settings import Settings

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The media type of the text format of Prometheus."""

HTTP_SECONDS = Histogram(
    "layerloop_http_request_seconds",
    "Time of HTTP requests by method, route template and status.",
    ("method", "route", "status"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 30),
)

JOB_SECONDS = Histogram(
    "layerloop_job_seconds",
    "Time of the jobs of this worker by name and outcome: ended, failed or stopped.",
    ("job", "outcome"),
    buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 28800),
)

JOB_ERRORS = Counter(
    "layerloop_job_errors_total",
    "Errors that ended jobs of this worker, by name and class of the error.",
    ("job", "error"),
)


def render_metrics(registries: Iterable[CollectorRegistry] = ()) -> bytes:
    """Return the metrics of this process and of other registries, as text."""
    return b"".join(generate_latest(registry) for registry in (REGISTRY, *registries))


def is_metrics_token(settings: Settings, authorization: str) -> bool:
    """Return whether the header Authorization holds the metrics token of the settings."""
    if settings.metrics_token is None:
        return False
    wanted = f"Bearer {settings.metrics_token.get_secret_value()}"
    return hmac.compare_digest(authorization.encode(), wanted.encode())
