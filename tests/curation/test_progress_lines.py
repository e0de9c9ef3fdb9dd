"""Progress lines: stage, percentage, rate, time left and metrics, at most one every ten seconds."""

from __future__ import annotations

from curation.domain import Progress
from curation.progress import ProgressLines, describe_progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_is_written_every_ten_seconds() -> None:
    clock, lines = Clock(), []
    tell = ProgressLines(lines.append, clock)
    for second in range(61):
        clock.now = float(second)
        tell(Progress("base", 40 + 10 * second, 1000, {"loss": 0.123456}, 3, 6))
    assert len(lines) == 7
    assert lines[0] == "stage 3 of 6, base: 4 % (40 of 1,000), loss 0.1235"
    assert lines[1] == "stage 3 of 6, base: 14 % (140 of 1,000), 10/s, 1:26 left, loss 0.1235"


def test_work_of_an_earlier_run_does_not_count_in_the_rate() -> None:
    clock, lines = Clock(), []
    tell = ProgressLines(lines.append, clock)
    tell(Progress("transparency", 500, 500))
    clock.now = 1
    tell(Progress("base", 900, 1000))
    clock.now = 11
    tell(Progress("base", 910, 1000))
    assert lines == [
        "transparency: 100 % (500 of 500)",
        "base: 91 % (910 of 1,000), 1/s, 1:30 left",
    ]


def test_control_characters_are_removed() -> None:
    line = describe_progress(Progress("\x1b[2Jbase\nfake", 1, 0, {"\x9bloss": 1.0}))
    assert "\x1b" not in line and "\x9b" not in line and "\n" not in line
