"""The recorder of a training run: writes its metrics and log lines to the database in batches."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import sqlalchemy as sa

from curation.checkpoints import run_history
from curation.db.engine import Database
from curation.domain import Progress
from curation.errors import LayerloopError
from curation.text import escape_control_characters

FLUSH_SECONDS = 2.0
MAX_BUFFERED = 20_000
"""Points and lines that are kept while the database is unreachable; older ones are dropped."""
BATCH_LINES = 500
LOGGERS = ("layerloop.run", "layerloop.training")


class RunRecorder(logging.Handler):
    """A log handler that also takes metrics; a thread writes both every FLUSH_SECONDS.

    Args:
        database: The database.
        run: Id of the run.
        worker: Name of the worker.
    """

    def __init__(self, database: Database, run: uuid.UUID, worker: str) -> None:
        super().__init__(logging.INFO)
        self._database, self._run, self._worker = database, run, worker
        self._lines: deque[str] = deque(maxlen=MAX_BUFFERED)
        self._points: deque[tuple[str, run_history.Point]] = deque(maxlen=MAX_BUFFERED)
        self._done = threading.Event()
        self._flushing = threading.Lock()
        self._thread = threading.Thread(target=self._write_regularly, name="recorder", daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a log record as one line."""
        self.add_line(f"{record.levelname} {record.getMessage()}")

    def add_line(self, text: str) -> None:
        """Take one line, which gets the present time."""
        line = escape_control_characters(text).replace("\n", " ")
        self._lines.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}")

    def add_progress(self, progress: Progress) -> None:
        """Take the metrics of a report of progress."""
        if progress.metrics:
            self._points.append((progress.stage, (progress.done, dict(progress.metrics))))

    def flush(self) -> None:
        """Write everything that was taken since the last flush; on an error it is kept."""
        with self._flushing:
            if self._lines or self._points:
                self._write()

    def _write(self) -> None:
        lines, points = list(self._lines)[:BATCH_LINES], list(self._points)
        with self._database.transaction() as tx:
            if lines:
                run_history.append_log(tx, self._run, self._worker, lines)
            for stage in dict.fromkeys(stage for stage, _ in points):
                own = [point for name, point in points if name == stage]
                run_history.append_metrics(tx, self._run, self._worker, stage, own)
        # Only now, so that nothing is lost where the transaction failed.
        for queue, count in ((self._lines, len(lines)), (self._points, len(points))):
            for _ in range(min(count, len(queue))):
                queue.popleft()

    @contextmanager
    def recording(self) -> Iterator[RunRecorder]:
        """Record the loggers of runs while the block runs, and write the rest at its end."""
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)
            logging.getLogger(name).setLevel(logging.INFO)
        self._thread.start()
        try:
            yield self
        finally:
            for name in LOGGERS:
                logging.getLogger(name).removeHandler(self)
            self._done.set()
            self._thread.join()
            self._flush_or_keep()

    def _write_regularly(self) -> None:
        while not self._done.wait(FLUSH_SECONDS):
            self._flush_or_keep()

    def _flush_or_keep(self) -> None:
        try:
            self.flush()
        except (LayerloopError, sa.exc.SQLAlchemyError):
            # The run itself notices a lost lease or database; here only its record waits.
            return
