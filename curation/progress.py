"""Progress as lines, for logs and pipes: stage, percentage, rate, time left and figures, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from curation.domain import Progress
from curation.text import printable

LINE_SECONDS = 10.0
"""The least time between two lines."""


class ProgressLines:
    """Turn reports of progress into lines, at most one every LINE_SECONDS.

    Rate and time left are measured from the first report of a stage, so that what an earlier run has done counts for
    neither.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._stage = ("", 0)
        self._begun = 0.0
        self._done_before = 0
        self._written: float | None = None

    def __call__(self, seen: Progress) -> None:
        """Take one report, and write its line if it is time."""
        now = self._clock()
        if (seen.stage, seen.stage_number) != self._stage:
            self._stage, self._begun, self._done_before = (
                (seen.stage, seen.stage_number),
                now,
                seen.done,
            )
        if self._written is not None and now - self._written < LINE_SECONDS:
            return
        self._written = now
        self._write(describe_progress(seen, seen.done - self._done_before, now - self._begun))


def describe_progress(seen: Progress, done: int = 0, seconds: float = 0.0) -> str:
    """Return one line: `done` of the amount was done in the last `seconds`, from which rate and time left follow."""
    number = f"stage {seen.stage_number} of {seen.stage_count}, " if seen.stage_count else ""
    amount = (
        f"{100 * seen.done // seen.total} % ({seen.done:,} of {seen.total:,})"
        if seen.total
        else "begins"
    )
    told = [f"{number}{seen.stage}: {amount}"]
    if done > 0 and seconds > 0:
        rate = done / seconds
        told.append(f"{rate:.3g}/s")
        told.append(f"{_duration((seen.total - seen.done) / rate)} left")
    told += [f"{name} {value:.4g}" for name, value in seen.figures.items()]
    return printable(", ".join(told)).replace("\n", " ")


def with_time(line: str) -> str:
    """Return the line with the time of day before it."""
    return f"{datetime.now().astimezone():%H:%M:%S}  {line}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
