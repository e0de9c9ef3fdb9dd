"""Celery as the job queue, over PGMQ in PostgreSQL, RabbitMQ or Redis."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable
from typing import Any, cast

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer
from psycopg.conninfo import make_conninfo

from curation.domain import Job, JobName
from curation.errors import Refused, Unreachable
from curation.settings import Settings
from curation.storage_settings import EMBEDDED

QUEUE_JOBS = {
    "generate": (JobName.generate, JobName.draw_comparisons),
    "train": (JobName.train, JobName.caption),
    "screen": (
        JobName.screen,
        JobName.select,
        JobName.fit_acceptance_model,
        JobName.measure_diversity,
        JobName.advance_loop,
        JobName.reconcile,
    ),
    "review": (
        JobName.review,
        JobName.aggregate,
        JobName.push_tasks,
        JobName.pull_annotations,
        JobName.deliver_webhooks,
        JobName.refresh_reports,
    ),
}
"""The queues by kind of work, and the names of the jobs on each."""

QUEUE_GROUPS = {"cpu": ("screen", "review"), "gpu": ("generate", "train")}
"""Groups of queues: work on the CPU, and work that loads weights."""

PREFIX = "layerloop."
"""Prefix of the names in a broker, which other programs may use too.

Two installations with one broker need separate virtual hosts.
"""

PROBE_SECONDS = 5.0
"""Seconds within which a message of `probe` must arrive."""

BACKOFF_SECONDS = 5.0
"""Seconds without sending after the broker failed, so that not every commit waits for it."""

EXPIRE_SECONDS = 3600.0
"""Seconds after which a broker may drop a message; a worker finds the job without it."""

log = logging.getLogger(__name__)


def queue_for(job: str) -> str:
    """Return the queue on which jobs of that name run."""
    return next((queue for queue, jobs in QUEUE_JOBS.items() if job in jobs), "screen")


def expand_queues(names: Iterable[str]) -> tuple[str, ...]:
    """Return the queues for names of queues and groups, in the order of QUEUE_JOBS.

    Args:
        names: Names of queues or of QUEUE_GROUPS.

    Raises:
        Refused: There is no such queue.
    """
    wanted: set[str] = set()
    for name in names:
        if name not in QUEUE_JOBS and name not in QUEUE_GROUPS:
            raise Refused(
                f"there is no queue {name!r}",
                "choose from " + ", ".join((*QUEUE_GROUPS, *QUEUE_JOBS)),
            )
        wanted.update(QUEUE_GROUPS.get(name, (name,)))
    return tuple(queue for queue in QUEUE_JOBS if queue in wanted)


def task_name(job: str) -> str:
    """Return the name of a job's Celery task."""
    return f"layerloop.{job}"


def make_app(settings: Settings, database_address: str) -> Celery:
    """Create the Celery application of this installation, which sends jobs.

    The pending work is in the database, and a message only wakes a worker
    (curation.adapters.job_receiver): results are not kept, and nothing is retried for long.

    Args:
        settings: The settings, which name the broker.
        database_address: URL of the database, for PGMQ.

    Raises:
        Refused: The scheme of the broker's URL is not supported.
    """
    app = Celery("layerloop", set_as_current=False)
    app.conf.update(
        **_broker(settings.queue, database_address),
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_default_queue="screen",
        task_create_missing_queues=False,
        task_queues=[_queue(name, settings.queue) for name in QUEUE_JOBS],
        task_publish_retry=True,
        # Retry once, for a pooled connection that was closed; overdue jobs run without a message.
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0},
        broker_connection_timeout=3,
        # Nothing reads from a pooled connection, so it would miss heartbeats.
        broker_heartbeat=0,
        broker_pool_limit=2,
    )
    return app


class CeleryQueue:
    """The sender of jobs, which Database calls for every job of a committed transaction."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._retry_at = 0.0

    def send(self, job: Job) -> bool:
        """Send a job within a few seconds, or log the failure; never raises.

        The transaction is committed already, so the caller could not roll back; an idle worker
        finds the job in the database.

        Args:
            job: The job.

        Returns:
            Whether the queue accepted the job.
        """
        if time.monotonic() < self._retry_at:
            log.debug("the queue is unreachable; %s waits for an idle worker", job.name)
            return False
        # Every broker has error classes of its own, so every exception is caught.
        try:
            self.app.send_task(
                task_name(job.name),
                list(job.args),
                queue=queue_for(job.name),
                expiration=EXPIRE_SECONDS,
            )
        except Exception as error:
            self._retry_at = time.monotonic() + BACKOFF_SECONDS
            log.warning(
                "the queue does not answer, so %s waits for an idle worker: %s", job.name, error
            )
            return False
        return True

    def check(self) -> None:
        """Raise Unreachable unless the broker answers within a few seconds."""
        try:
            with self.app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=5)
                connection.default_channel.close()
        except Exception as error:
            raise Unreachable(
                f"the queue does not answer: {error}", "check LAYERLOOP_QUEUE"
            ) from error

    def probe(self) -> float:
        """Send a message to a queue of its own and receive it; return the seconds that it took.

        Raises:
            Unreachable: The broker does not answer, or the message does not arrive.
        """
        started = time.monotonic()
        name = f"{PREFIX}probe.{uuid.uuid4().hex[:12]}"
        try:
            with self.app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=5)
                _send_and_receive(connection.default_channel, name)
        except Exception as error:
            raise Unreachable(
                f"a message through the queue is lost: {error}", "check LAYERLOOP_QUEUE"
            ) from error
        return time.monotonic() - started

    def close(self) -> None:
        """Close the pooled connections."""
        self.app.close()


def _send_and_receive(channel: Any, name: str) -> None:
    """Send a message through a queue that is deleted afterwards. Raises TimeoutError."""
    # kombu has no types.
    new_exchange, new_queue, new_producer = (
        cast("Any", kombu_class) for kombu_class in (Exchange, Queue, Producer)
    )
    exchange = new_exchange(name, type="direct", durable=False, auto_delete=True)
    queue = new_queue(name, exchange, routing_key=name, durable=False)(channel)
    queue.declare()
    try:
        producer = new_producer(channel, exchange, routing_key=name, serializer="json")
        producer.publish({"probe": name})
        deadline = time.monotonic() + PROBE_SECONDS
        while (message := queue.get(no_ack=True)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"it did not arrive within {PROBE_SECONDS:.0f} s")
            time.sleep(0.05)
        if message.payload != {"probe": name}:
            raise ValueError("it arrived changed")
    finally:
        queue.delete()


def _broker(address: str, database_address: str) -> dict[str, Any]:
    """Return Celery's settings for a broker, with short time-outs."""
    scheme = address.partition("://")[0]
    # PGMQ in the database.
    if address == EMBEDDED:
        conn_string = make_conninfo(
            database_address, connect_timeout=3, options="-c statement_timeout=10s"
        )
        options: dict[str, Any] = {
            "conn_string": conn_string,  # replaces the URL
            "init_extension": False,  # the schema is installed by plain SQL (pgmq_schema.py)
            "use_notify": True,
            "notify_throttle_interval_ms": 0,
            "wait_time_seconds": 0,
            "polling_interval": 1,  # in case a notification is lost
            "visibility_timeout": 30,  # messages are acknowledged soon after they are read
            "pool_size": 1,
            "pool_timeout": 3,
        }
        return {"broker_url": "pgmq://localhost", "broker_transport_options": options}
    # RabbitMQ.
    if scheme in ("amqp", "amqps"):
        options = {
            "max_retries": 1,
            "interval_start": 0,
            "confirm_publish": True,
            "read_timeout": 10,
        }
        return {"broker_url": address, "broker_transport_options": options}
    # All keys get a prefix, since other programs may use the same Redis database.
    if scheme in ("redis", "rediss"):
        options = {
            "global_keyprefix": "layerloop:",
            "visibility_timeout": 60,
            "socket_connect_timeout": 3,
            "socket_timeout": 10,
            "max_retries": 1,
        }
        return {"broker_url": address, "broker_transport_options": options}
    raise Refused(
        f"{scheme!r} is not a supported queue",
        "set LAYERLOOP_QUEUE to amqp://..., redis://... or 'embedded'",
    )


def _queue(name: str, address: str) -> Queue:
    # The type is set, since a virtual host may have another default. Messages may be lost, so they
    # need no replication, and with quorum queues Celery declares 28 exchanges for delayed delivery
    # in every worker, which nothing here uses.
    arguments = {"x-queue-type": "classic"} if address.startswith("amqp") else None
    long_name = f"{PREFIX}{name}"
    exchange = Exchange(PREFIX.strip("."))  # type: ignore[no-untyped-call]  # kombu has no types
    return Queue(  # type: ignore[no-untyped-call]
        long_name, exchange, routing_key=long_name, queue_arguments=arguments, alias=name
    )
