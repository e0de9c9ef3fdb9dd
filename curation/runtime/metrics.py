"""The metrics of this process for Prometheus: requests of the API, jobs of a worker."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

HTTP_SECONDS = Histogram(
    "layerloop_http_request_seconds",
    "Time of HTTP requests by method, route template and status.",
    ("method", "route", "status"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 30),
)

JOB_SECONDS = Histogram(
    "layerloop_job_seconds",
    "Time of the jobs of this worker by name and outcome (ended or failed).",
    ("job", "outcome"),
    buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 28800),
)

JOB_ERRORS = Counter(
    "layerloop_job_errors_total",
    "Errors that ended jobs of this worker, by name and class of the error.",
    ("job", "error"),
)
