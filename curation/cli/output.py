"""How commands speak: data on stdout, talk on stderr, errors with a hint, progress with an estimate.

Nothing that a name, a text or a file holds can act on the terminal: every function here escapes control characters
and takes no markup from the texts that it is given.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from curation.errors import LayerloopError, NotFound
from curation.text import printable

if TYPE_CHECKING:
    from curation.domain import Progress
    from curation.runtime.context import AppContext
    from curation.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

ACTOR = "command line"
INTERNAL_ERROR = 70  # sysexits.h: EX_SOFTWARE
LARGEST = 2**31 - 1
"""The largest number that the database keeps as an id."""

home_option: ContextVar[Path | None] = ContextVar("home_option", default=None)
"""The value of the global option --home in this call."""


class Talk(Console):
    """The console on stderr; texts are printed as they are, without markup and without acting on the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Rich's own `print`; styles come as `Text` objects, never as markup in a text."""
        escaped = [printable(one) if isinstance(one, str) else one for one in objects]
        super().print(*escaped, **{**options, "markup": False})


talk = Talk(stderr=True, highlight=False, soft_wrap=True)


def bold(text: str, color: str = "") -> Text:
    """Return a text in bold for `talk.print`."""
    return Text(printable(text), style=f"bold {color}".strip())


def print_text(*texts: object) -> None:
    """Print data on stdout: the texts with a space between them, and a line end."""
    sys.stdout.write(printable(" ".join(map(str, texts))) + "\n")


def settings(**given: object) -> Settings:
    """Return the settings of this call: the environment's, with the global --home and what is given.

    Raises Refused for a value that cannot be.
    """
    from curation.settings import read_settings

    _warn_of_unknown_settings()
    home = home_option.get()
    return read_settings(**({"home": home} if home is not None else {}), **given)


@cache
def _warn_of_unknown_settings() -> None:
    """Name misspelt variables once; `doctor` lists them as findings and needs no warning."""
    from curation.settings import unknown_settings

    for name, nearest in [] if "doctor" in sys.argv[1:] else unknown_settings():
        talk.print(
            f"warning: {name} is no setting" + (f"; did you mean {nearest}?" if nearest else "")
        )


@contextmanager
def context(*, create: bool = False) -> Iterator[AppContext]:
    """Open the instance that the settings name. Raises NotFound where there is none, unless it is to be made."""
    from curation.runtime.context import open_context

    named = settings()
    if not create and not named.exists():
        raise NotFound(f"there is no instance at {named.home}", "'layerloop up' or 'layerloop demo' makes one; "
                       "--home or LAYERLOOP_HOME names another folder")  # fmt: skip
    with open_context(named) as ctx:
        yield ctx


@contextmanager
def errors() -> Iterator[None]:
    """Turn errors into two lines and an exit code: our own as they are, any other with its traceback in a file."""
    try:
        yield
    except LayerloopError as error:
        print_error(error.message, error.hint)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        from curation.settings import wants_traceback

        if error.filename is None or wants_traceback():
            _end_with_internal_error(error)
        print_error(
            f"{_name(error.filename)}: {error.strerror}",
            "check the path, its permissions and the free space",
        )
        raise SystemExit(1) from None
    except Exception as error:
        _end_with_internal_error(error)


def _end_with_internal_error(error: Exception) -> NoReturn:
    first = (str(error).splitlines() or [""])[0][:300]
    print_error(f"internal error: {type(error).__name__}: {first}", _keep_traceback())
    raise SystemExit(INTERNAL_ERROR) from None


def _name(file: object) -> str:
    return os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else str(file)


def print_error(message: str, hint: str = "") -> None:
    """Print what is wrong, and what to do about it."""
    talk.print(bold("error:", "red"), message)
    if hint:
        talk.print(bold("hint:"), hint)


def _keep_traceback() -> str:
    """Print the traceback of the error under way where LAYERLOOP_TRACEBACK asks for it, else write it to a log.

    Returns the hint that says where it is.
    """
    from curation.settings import wants_traceback

    story = traceback.format_exc()
    report = "please report it with what you did"
    if wants_traceback():
        sys.stderr.write(printable(story))
        return f"this is a bug: {report}"
    try:
        logs = settings().home.resolve() / "logs"
        folder = logs if logs.is_dir() else Path(tempfile.mkdtemp(prefix="layerloop-"))
        file = folder / "errors.log"
        with file.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(
                f"{datetime.now().astimezone().isoformat()} {sys.argv[1:]!r}\n{printable(story)}\n"
            )
    except (OSError, LayerloopError):
        return "this is a bug; LAYERLOOP_TRACEBACK=1 prints where it happened"
    return f"this is a bug: {report}; the traceback is in {file}"


@contextmanager
def resumable(word: str = "the same command goes on where it stopped") -> Iterator[None]:
    """Say so where the block is interrupted, as the command's last word."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = (word,)
        raise


def warn(sentence: str) -> None:
    """Say on stderr what is odd though nothing fails; nothing where the sentence is empty."""
    if sentence:
        talk.print(bold("warning:", "yellow"), sentence)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(
        _inert(json.dumps(value, default=_as_text, ensure_ascii=False, indent=2)) + "\n"
    )


def print_json_line(line: str) -> None:
    """Print a document that is JSON in one line already."""
    sys.stdout.write(_inert(line) + "\n")


def print_done(told: str, as_json: bool, **facts: Any) -> None:
    """Say what a command has changed: for people on stderr, or its facts as JSON on stdout."""
    print_json(facts) if as_json else talk.print(told)


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Any], Any]], as_json: bool
) -> None:
    """A listing: JSON of whole rows, or a table of the named columns, each made of its row."""
    if as_json:
        print_json(list(rows))
        return
    from rich.table import Table

    if not rows:
        talk.print("none yet")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(Text(_one_line(name)))
    for row in rows:
        table.add_row(*(Text(_cell(make(row))) for make in columns.values()))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def print_limited(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Callable[[Any], Any]],
    limit: int,
    as_json: bool,
) -> None:
    """A listing of at most `limit` rows, or all for 0; says on stderr that it was cut.

    rows: one more than the limit, where there are so many (`one_more`).
    """
    print_rows(rows[:limit] if limit else rows, columns, as_json)
    if limit and len(rows) > limit:
        talk.print(f"the first {limit} alone; --limit 0 lists all")


def one_more(limit: int) -> int:
    """How many rows to ask for, so that it is known whether a listing was cut; 0 is all."""
    return limit + 1 if limit else 0


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """A function that shows each stage's progress on stderr: bars for people, a line now and then for logs."""
    if not talk.is_terminal:
        from curation.progress import ProgressLines, with_time

        yield ProgressLines(lambda line: talk.print(with_time(line)))
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<34}", markup=False), BarColumn(28), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )  # fmt: skip
    stages: dict[tuple[int, str], Any] = {}
    with Bars(*columns, console=talk, speed_estimate_period=30) as bars:

        def tell(seen: Progress) -> None:
            figures = _one_line(
                "  ".join(f"{name} {value:.4g}" for name, value in seen.figures.items())
            )
            stage = (seen.stage_number, seen.stage)
            if stage not in stages:
                number = f"{seen.stage_number}/{seen.stage_count} " if seen.stage_count else ""
                # What an earlier run has done is where the bar begins, and no part of its speed.
                stages[stage] = bars.add_task(
                    _one_line(number + seen.stage),
                    total=seen.total,
                    completed=seen.done,
                    figures=figures,
                )
            bars.update(stages[stage], completed=seen.done, total=seen.total, figures=figures)

        yield tell


def short(sha: str | None) -> str:
    """The digits of a hash that people need."""
    return sha[:12] if sha else "–"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return _one_line(str(value))


def _one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _inert(document: str) -> str:
    """The same JSON document, with the control characters that JSON leaves alone written as its escapes."""
    return "".join(
        letter if letter == "\n" or printable(letter) == letter else f"\\u{ord(letter):04x}"
        for letter in document
    )


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
