"""Output of commands: data on stdout, messages on stderr, errors with a hint, progress with an ETA.

Texts, names and file contents cannot act on the terminal: every function here escapes control
characters and interprets no markup in the texts that it is given.
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
from curation.text import escape_control_characters

if TYPE_CHECKING:
    from rich.table import Table

    from curation.domain import Progress
    from curation.runtime.context import AppContext
    from curation.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done, without doing it.")
]

ACTOR = "command line"
INTERNAL_ERROR = 70  # sysexits.h: EX_SOFTWARE
MAX_ID = 2**31 - 1
"""The largest integer id that the database can hold."""

home_option: ContextVar[Path | None] = ContextVar("home_option", default=None)
"""The value of the global option --home in this call."""


class MessageConsole(Console):
    """The console on stderr; strings are escaped and never interpreted as markup."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print like Rich's `print`; styles come as `Text` objects, never as markup in a string."""
        escaped = [
            escape_control_characters(item) if isinstance(item, str) else item for item in objects
        ]
        super().print(*escaped, **{**options, "markup": False})


console = MessageConsole(stderr=True, highlight=False, soft_wrap=True)


def bold(text: str, color: str = "") -> Text:
    """Return a text in bold for `talk.print`."""
    return Text(escape_control_characters(text), style=f"bold {color}".strip())


def print_text(*texts: object) -> None:
    """Print data on stdout, the texts separated by spaces."""
    sys.stdout.write(escape_control_characters(" ".join(map(str, texts))) + "\n")


def settings(**given: object) -> Settings:
    """Return the settings of the environment, overridden by the global --home and by `given`.

    Raises:
        Refused: A setting has an invalid value.
    """
    from curation.settings import read_settings

    _warn_of_unknown_settings()
    home = home_option.get()
    return read_settings(**({"home": home} if home is not None else {}), **given)


@cache
def _warn_of_unknown_settings() -> None:
    """Warn about misspelled variables, once per process."""
    from curation.settings import unknown_settings

    # `doctor` lists them as findings.
    for name, nearest in [] if "doctor" in sys.argv[1:] else unknown_settings():
        guess = f"; did you mean {nearest}?" if nearest else ""
        console.print(f"warning: {name} is not a setting{guess}")


@contextmanager
def context(*, create: bool = False) -> Iterator[AppContext]:
    """Open the instance of the settings.

    Args:
        create: Create the instance if there is none.

    Raises:
        NotFound: There is no instance and `create` is false.
    """
    from curation.runtime.context import open_context
    from curation.runtime.moved import find_target

    config = settings()
    # A misspelled --home must not create an empty instance.
    if not create and not config.exists():
        hint = (
            "'layerloop up' or 'layerloop demo' creates one; --home or LAYERLOOP_HOME "
            "selects another folder"
        )
        raise NotFound(f"there is no instance at {config.home}", hint)
    with open_context(config) as ctx:
        with ctx.database.transaction() as tx:
            target = find_target(tx)
        warn(f"this instance was moved to {target}" if target else "")
        yield ctx


@contextmanager
def errors() -> Iterator[None]:
    """Turn errors into a message, a hint and an exit code.

    Any error but our own, and but an OSError of a file, is a bug: its traceback goes to a file.
    """
    try:
        yield
    except LayerloopError as error:
        print_error(error.message, error.hint)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        from curation.cli.extras import find_extra

        extra = find_extra(error.name or "")
        if extra is None:
            _end_with_internal_error(error)
        print_error(
            f"this command needs the package {error.name}, which is not installed",
            f"pip install 'layerloop[{extra}]'",
        )
        raise SystemExit(1) from None
    except OSError as error:
        from curation.settings import traceback_enabled

        # With a file name it is most likely the user's path or disk, without one a bug.
        if error.filename is None or traceback_enabled():
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
    """Print an error message and a hint on stderr."""
    console.print(bold("error:", "red"), message)
    if hint:
        console.print(bold("hint:"), hint)


def _keep_traceback() -> str:
    """Print the current traceback if LAYERLOOP_TRACEBACK is set, else append it to a log file.

    Returns:
        The hint for the user.
    """
    from curation.settings import traceback_enabled

    text = traceback.format_exc()
    report = "please report it with the steps to reproduce it"
    if traceback_enabled():
        sys.stderr.write(escape_control_characters(text))
        return f"this is a bug: {report}"
    # Without a home folder the log goes to a temporary folder: a failing command creates no home.
    try:
        logs = settings().home.resolve() / "logs"
        folder = logs if logs.is_dir() else Path(tempfile.mkdtemp(prefix="layerloop-"))
        file = folder / "errors.log"
        with file.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(
                f"{datetime.now().astimezone().isoformat()} "
                f"{sys.argv[1:]!r}\n{escape_control_characters(text)}\n"
            )
    except (OSError, LayerloopError):
        return "this is a bug; LAYERLOOP_TRACEBACK=1 prints the traceback"
    return f"this is a bug: {report}; the traceback is in {file}"


@contextmanager
def resume_hint(message: str = "run the same command again to resume") -> Iterator[None]:
    """Print a message at the end of the command if the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = (message,)
        raise


def warn(sentence: str) -> None:
    """Print a warning on stderr, or nothing if the sentence is empty."""
    if sentence:
        console.print(bold("warning:", "yellow"), sentence)


def print_json(value: Any) -> None:
    """Print a value as one JSON document on stdout."""
    sys.stdout.write(
        _inert(json.dumps(value, default=_as_text, ensure_ascii=False, indent=2)) + "\n"
    )


def print_json_line(line: str) -> None:
    """Print a line that is JSON already on stdout."""
    sys.stdout.write(_inert(line) + "\n")


def print_result(message: str, as_json: bool, **metadata: Any) -> None:
    """Report what a command changed: a message on stderr, or `facts` as JSON on stdout."""
    print_json(metadata) if as_json else console.print(message)


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Any], Any]], as_json: bool
) -> None:
    """Print a listing as JSON or as a table.

    Args:
        rows: The rows; JSON contains all their fields.
        columns: By heading of the table, the function that gives a row's cell.
        as_json: Print JSON instead of a table.
    """
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        console.print("none yet")
        return
    data_console().print(make_table(rows, columns))


def data_console() -> Console:
    """Return a console on stdout, for tables."""
    # A pipe has no width; Rich would cut the cells at 80 columns.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def make_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Any], Any]]
) -> Table:
    """Return a table of rows for a console; its texts are escaped.

    Args:
        rows: The rows.
        columns: By heading, the function that gives a row's cell.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(Text(_one_line(name)))
    for row in rows:
        table.add_row(*(Text(_cell(make(row))) for make in columns.values()))
    return table


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """Provide a callback that shows progress on stderr, as bars on a terminal, else as lines."""
    # Logs and pipes get lines, since bars rewrite the line they are on.
    if not console.is_terminal:
        from curation.progress import ProgressLines, prefix_time

        yield ProgressLines(lambda line: console.print(prefix_time(line)))
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
        TextColumn("{task.description:<34}", markup=False),
        BarColumn(28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
    )
    stages: dict[tuple[int, str], Any] = {}
    with Bars(*columns, console=console, speed_estimate_period=30) as bars:

        def update(state: Progress) -> None:
            metrics = _one_line(
                "  ".join(f"{name} {value:.4g}" for name, value in state.metrics.items())
            )
            stage = (state.stage_number, state.stage)
            if stage not in stages:
                number = f"{state.stage_number}/{state.stage_count} " if state.stage_count else ""
                # The bar begins at the work of an earlier run, which does not count as speed.
                stages[stage] = bars.add_task(
                    _one_line(number + state.stage),
                    total=state.total,
                    completed=state.done,
                    metrics=metrics,
                )
            bars.update(stages[stage], completed=state.done, total=state.total, metrics=metrics)

        yield update


def short_hash(sha: str | None) -> str:
    """Return the first 12 digits of a hash, a dash for none."""
    return sha[:12] if sha else "–"


def show_age(seconds: float) -> str:
    """Return a time in its largest unit: 42 s, 7 min, 3 h or 5 d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return _one_line(str(value))


def _one_line(text: str) -> str:
    return escape_control_characters(text).replace("\n", "\\n").replace("\t", "\\t")


def _inert(document: str) -> str:
    """Return a JSON document with all its control characters escaped."""
    return "".join(
        letter
        if letter == "\n" or escape_control_characters(letter) == letter
        else f"\\u{ord(letter):04x}"
        for letter in document
    )


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
