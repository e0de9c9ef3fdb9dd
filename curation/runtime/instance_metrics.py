"""The metrics of an instance for Prometheus, read from its database every few seconds."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from curation.db import workers
from curation.db.engine import Database
from curation.reporting import instance_status
from curation.selection import diversity_report

log = logging.getLogger("layerloop.metrics")

CACHE_SECONDS = 5.0
"""Seconds for which the metrics are cached, for any number of scrapers."""


def instance_registry(database: Database) -> CollectorRegistry:
    """Return a registry with the metrics of the instance."""
    registry = CollectorRegistry()
    registry.register(InstanceCollector(database))
    return registry


class InstanceCollector(Collector):
    """Reads the numbers of an instance in one transaction.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._metrics: list[Metric] = []
        self._read_at = float("-inf")

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering reads no numbers."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; without the database only that it does not answer."""
        with self._lock:
            if time.monotonic() - self._read_at >= CACHE_SECONDS:
                self._metrics = self._read()
                self._read_at = time.monotonic()
            yield from self._metrics

    def _read(self) -> list[Metric]:
        up = GaugeMetricFamily("layerloop_database_up", "Whether the database answers.")
        try:
            found = list(read_metrics(self._database))
        except Exception as error:
            log.warning("the metrics could not be read: %s", error)
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *found]


def read_metrics(database: Database) -> Iterator[Metric]:
    """Yield the metrics of an instance. Raises LayerloopError if the database does not answer."""
    with database.transaction() as tx:
        rounds = instance_status.list_rounds(tx)
        queues = instance_status.list_queues(tx)
        runs = instance_status.list_runs(tx)
        held = instance_status.count_leases(tx)
        live = workers.list_live_workers(tx)
        lag = instance_status.read_labeling_lag(tx)
        totals = instance_status.read_totals(tx)
        diversity = diversity_report.latest_figures(tx)

    # Work that waits.
    yield _gauge(
        "layerloop_queue_jobs",
        "Jobs that no worker has taken yet.",
        ("job",),
        {(queue.job,): queue.count for queue in queues},
    )
    yield _gauge(
        "layerloop_queue_oldest_seconds",
        "Age of the oldest job that no worker has taken yet.",
        ("job",),
        {(queue.job,): queue.oldest_seconds for queue in queues},
    )
    yield _gauge(
        "layerloop_round_candidates",
        "Candidates of rounds that are not closed, by state.",
        ("round", "state"),
        {
            (str(status.round_id), state): n
            for status in rounds
            for state, n in status.candidates.items()
        },
    )
    yield _gauge(
        "layerloop_runs",
        "Training and caption runs that are not ended, or failed in the last day.",
        ("kind", "state"),
        Counter((run.kind, run.state) for run in runs),
    )

    # What was done.
    yield _counter(
        "layerloop_candidates_generated", "Candidates that were generated.", totals.generated
    )
    yield _counter(
        "layerloop_candidates_screened", "Candidates that were screened.", totals.screened
    )
    yield _counter("layerloop_reviews", "Reviews: verdicts and skips.", totals.reviews)
    yield _gauge(
        "layerloop_verdicts",
        "Verdicts that are not undone.",
        ("verdict",),
        {(verdict,): n for verdict, n in totals.verdicts.items()},
    )

    # What the last rounds are like.
    yield _gauge(
        "layerloop_round_diversity",
        "Diversity of the last measured round of a kind.",
        ("kind", "figure"),
        {key: figure["value"] for key, figure in diversity.items()},
    )
    yield _gauge(
        "layerloop_round_diversity_ratio",
        "Its ratio to the diversity of the first round.",
        ("kind", "figure"),
        {key: figure["ratio"]["value"] for key, figure in diversity.items() if figure["ratio"]},
    )

    # Who works, and who reviews.
    yield _gauge(
        "layerloop_leases",
        "Leases that have not expired, by purpose.",
        ("purpose",),
        {(purpose,): n for purpose, n in held.items()},
    )
    yield _gauge(
        "layerloop_workers",
        "Live workers by queue and state.",
        ("queue", "state"),
        Counter((queue, str(worker.state)) for worker in live for queue in worker.queues),
    )
    if lag is not None:
        yield _gauge(
            "layerloop_labeling_lag_seconds",
            "Age of the oldest reading of a project in Label Studio.",
            (),
            {(): lag},
        )


def _counter(name: str, documentation: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, value=value)


def _gauge(
    name: str,
    documentation: str,
    labels: Sequence[str],
    values: Mapping[tuple[str, ...], float],
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
