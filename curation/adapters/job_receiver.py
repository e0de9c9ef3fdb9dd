"""Receiver of jobs for a worker: takes one message at a time, and holds none while a job runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from typing import Any

from celery import Celery
from kombu.exceptions import KombuError
from kombu.messaging import Consumer

from curation.adapters.celery_queue import BACKOFF_SECONDS, task_name
from curation.domain import Job

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.5
"""Longest wait for the broker at a time, so that a request to stop is noticed."""


class JobReceiver:
    """Receives jobs from the broker, one at a time.

    A message is acknowledged as soon as it is read, and the connection is closed before a job runs,
    so that no message is held for as long as a job takes: RabbitMQ closes channels that hold
    messages for longer than its consumer_timeout, and Redis delivers them again.

    Args:
        app: The Celery application.
        stopping: Set when nothing more should be received.
    """

    def __init__(self, app: Celery, stopping: threading.Event) -> None:
        self._app = app
        self._stopping = stopping
        # kombu has no types.
        self._connection: Any = None
        self._consumer: Any = None
        self._queues: frozenset[str] = frozenset()
        self._received: list[Job] = []
        self._away = False

    def receive(self, queues: Collection[str], seconds: float) -> Job | None:
        """Wait for a job; return None if none came, also if the broker is unreachable.

        Args:
            queues: Names of the queues.
            seconds: Longest time to wait.
        """
        deadline = time.monotonic() + seconds
        try:
            if self._consumer is None or self._queues != frozenset(queues):
                self.pause()
                self._connect(queues)
            while not self._received and not self._stopping.is_set():
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._wait(min(left, WAIT_SECONDS))
            if self._away:
                log.info("the queue answers again")
                self._away = False
            return self._received.pop(0) if self._received else None
        except Exception as error:
            # Every broker has error classes of its own, so every exception is caught.
            log.log(
                logging.DEBUG if self._away else logging.WARNING,
                "the queue does not answer; this worker looks for work in the database: %s",
                error,
            )
            self._away = True
            self.pause()
            self._stopping.wait(min(BACKOFF_SECONDS, max(0.0, deadline - time.monotonic())))
            return None

    def pause(self) -> None:
        """Close the connection; the broker keeps or gets back every message that was not read."""
        connection, self._connection, self._consumer = self._connection, None, None
        if connection is not None:
            try:
                connection.release()
            except Exception as error:
                log.debug("the connection to the queue did not close: %s", error)

    def _connect(self, queues: Collection[str]) -> None:
        self._connection = self._app.connection_for_read()
        self._connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
        known = self._app.amqp.queues
        self._consumer = Consumer(  # type: ignore[no-untyped-call]
            self._connection.default_channel,
            queues=[known[name] for name in queues],
            on_message=self._take,
            accept=["json"],
            prefetch_count=1,
        )
        self._queues = frozenset(queues)
        self._consumer.consume()

    def _wait(self, seconds: float) -> None:
        try:
            self._connection.drain_events(timeout=seconds)
        except TimeoutError:
            return

    def _take(self, message: Any) -> None:
        """Read and acknowledge a message; one that is no job is dropped."""
        # No second message may come while this one becomes a job.
        if self._consumer is not None:
            self._consumer.cancel()
            self._consumer = None
        try:
            args: Any = message.decode()[0]
            # A name that is no job's is let go by the worker.
            name: Any = str(message.headers["task"]).removeprefix(task_name(""))
            self._received.append(Job(name, tuple(args)))
        except (KombuError, KeyError, IndexError, TypeError, ValueError) as error:
            log.warning("a message that is no job was dropped: %s", error)
        message.ack()
