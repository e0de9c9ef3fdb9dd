"""Progress as lines for logs and pipes: stage, percentage, rate, time left and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from curation.domain import Progress
from curation.text import escape_control_characters

LINE_SECONDS = 10.0
"""The shortest time between two lines, in seconds."""


class ProgressLines:
    """A progress callback that writes at most one line every LINE_SECONDS.

    Rate and time left are measured from the first report of a stage, so that the work of an earlier
    run does not count.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._stage = ("", 0)
        self._started = 0.0
        self._done_before = 0
        self._written: float | None = None

    def __call__(self, seen: Progress) -> None:
        """Record one report, and write its line if the last line is old enough."""
        now = self._clock()
        # A new stage: measure its rate from here.
        if (seen.stage, seen.stage_number) != self._stage:
            self._stage = (seen.stage, seen.stage_number)
            self._started = now
            self._done_before = seen.done
        if self._written is not None and now - self._written < LINE_SECONDS:
            return
        self._written = now
        self._write(describe_progress(seen, seen.done - self._done_before, now - self._started))


def describe_progress(progress: Progress, done: int = 0, seconds: float = 0.0) -> str:
    """Return one line of progress.

    Args:
        progress: The report.
        done: The amount that was done in the last `seconds`; rate and time left follow from it.
        seconds: The time in which `done` was done; 0 omits rate and time left.
    """
    number = (
        f"stage {progress.stage_number} of {progress.stage_count}, " if progress.stage_count else ""
    )
    amount = (
        f"{100 * progress.done // progress.total} % ({progress.done:,} of {progress.total:,})"
        if progress.total
        else "begins"
    )
    parts = [f"{number}{progress.stage}: {amount}"]
    # Without work since the last report there is no rate.
    if done > 0 and seconds > 0:
        rate = done / seconds
        parts.append(f"{rate:.3g}/s")
        parts.append(f"{_duration((progress.total - progress.done) / rate)} left")
    parts += [f"{name} {value:.4g}" for name, value in progress.metrics.items()]
    # Stage names may come from elsewhere; escape control characters, and stay on one line.
    return escape_control_characters(", ".join(parts)).replace("\n", " ")


def prefix_time(line: str) -> str:
    """Return the line with the local time of day before it."""
    return f"{datetime.now().astimezone():%H:%M:%S}  {line}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
