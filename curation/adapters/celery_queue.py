"""Celery as the job queue, over PGMQ in PostgreSQL, RabbitMQ or Redis."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery, signals
from celery.exceptions import SecurityWarning
from kombu.entity import Exchange, Queue
from psycopg.conninfo import make_conninfo

from curation.domain import GPU_JOBS, Job
from curation.errors import Refused, Unreachable
from curation.settings import EMBEDDED, Settings

QUEUES = ("cpu", "gpu")
PREFIX = "layerloop."
"""Before the names in the broker, which may serve others too; two instances at one broker take a virtual host each."""

AWAY_SECONDS = 5.0
"""After a broker failed to answer it is left alone for so long: a thousand commits are not a thousand time-outs."""

log = logging.getLogger(__name__)


def queue_of(job: str) -> str:
    """The queue on which jobs of that name run."""
    return "gpu" if job in GPU_JOBS else "cpu"


def task_name(job: str) -> str:
    """What Celery calls a job."""
    return f"layerloop.{job}"


def make_app(
    settings: Settings,
    database_address: str,
    jobs: Mapping[str, Callable[..., object]] | None = None,
) -> Celery:
    """The Celery application of this instance; `jobs` are what a worker can run, by name, and a sender needs none.

    The database is the truth and a message only a nudge: it is acknowledged before the job runs, no result is kept,
    and nothing here is retried for long. A job that dies is found by its lease. Raises Refused for an address whose
    scheme is not known.
    """
    app = Celery("layerloop", set_as_current=False)
    app.conf.update(
        **_broker(settings.queue, database_address),
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_default_queue="cpu",
        task_create_missing_queues=False,
        task_queues=[_queue(name, settings.queue) for name in QUEUES],
        task_publish_retry=True,
        # One fresh connection when the pooled one turns out dead; a broker that is away stays away for the sweep.
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0},
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=3,
        broker_heartbeat=0,  # a job holds the worker's only thread for hours, and would miss every beat
        broker_pool_limit=2,
    )
    for name, function in (jobs or {}).items():
        app.task(function, name=task_name(name))
    return app


def work(
    app: Celery, queues: Sequence[str], name: str, on_stop: Callable[[], None] | None = None
) -> None:
    """Run the jobs of these queues ("cpu", "gpu") one after the other in this process until a signal ends it.

    One thread, so that a checkpoint is loaded once and stays; more at a time means more processes. SIGTERM and SIGINT
    call `on_stop` from the signal handler and let the running job end; a second one ends it at once.
    """

    def stop(**_: object) -> None:
        if on_stop is not None:
            on_stop()

    # Celery installs its own signal handlers when it starts, over whatever stood there; this is the way in.
    signals.worker_shutting_down.connect(stop)
    with warnings.catch_warnings():
        # Celery warns a worker that runs as root, for the sake of pickled messages; ours are JSON only.
        warnings.simplefilter("ignore", SecurityWarning)
        worker = app.Worker(
            queues=list(queues),
            hostname=name,
            pool="solo",
            concurrency=1,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
    worker.start()


class CeleryQueue:
    """The sender: what Database calls with every job of a transaction that has been kept."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._away_until = 0.0

    def send(self, job: Job) -> bool:
        """Nudge a worker within a few seconds, or give up with a line in the log; never raises.

        The transaction that asked has been kept already, so the caller has nothing to undo, and the sweep asks
        again for whatever stands too long.

        Returns:
            Whether the queue has taken the job.
        """
        if time.monotonic() < self._away_until:
            log.debug("the queue is away; %s waits for the sweep", job.name)
            return False
        try:
            self.app.send_task(task_name(job.name), list(job.args), queue=queue_of(job.name))
        except (
            Exception
        ) as error:  # every broker has errors of its own, and none may reach a kept transaction
            self._away_until = time.monotonic() + AWAY_SECONDS
            log.warning("the queue does not answer, so %s waits for the sweep: %s", job.name, error)
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

    def close(self) -> None:
        """Close the pooled connections."""
        self.app.close()


def _broker(address: str, database_address: str) -> dict[str, Any]:
    scheme = address.partition("://")[0]
    if address == EMBEDDED:
        conn_string = make_conninfo(
            database_address, connect_timeout=3, options="-c statement_timeout=10s"
        )
        options: dict[str, Any] = {
            "conn_string": conn_string,  # stands in for the whole of the URL
            "init_extension": False,  # the schema is installed by plain SQL (pgmq_schema.py)
            "use_notify": True,
            "notify_throttle_interval_ms": 0,
            "wait_time_seconds": 0,
            "polling_interval": 1,  # should a notification be lost
            "visibility_timeout": 30,  # a message is held only from its reading to its early acknowledgement
            "pool_size": 1,
            "pool_timeout": 3,
        }
        return {"broker_url": "pgmq://localhost", "broker_transport_options": options}
    if scheme in ("amqp", "amqps"):
        options = {
            "max_retries": 1,
            "interval_start": 0,
            "confirm_publish": True,
            "read_timeout": 10,
        }
        return {"broker_url": address, "broker_transport_options": options}
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
        f"{scheme!r} is no queue that is known here",
        "set LAYERLOOP_QUEUE to amqp://..., redis://... or 'embedded'",
    )


def _queue(name: str, address: str) -> Queue:
    # Named outright, for a virtual host may have another default. Replication would guard what may be lost anyway, and
    # quorum queues cost every worker Celery's 28 exchanges for delayed delivery, which nothing here uses.
    arguments = {"x-queue-type": "classic"} if address.startswith("amqp") else None
    long_name = f"{PREFIX}{name}"
    return Queue(
        long_name,
        Exchange(PREFIX.strip(".")),
        routing_key=long_name,
        queue_arguments=arguments,
        alias=name,
    )  # type: ignore[no-untyped-call]  # kombu has no types
