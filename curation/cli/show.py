"""How commands speak: data on stdout, talk on stderr, errors with a hint, progress with an estimate."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from curation.domain import Progress
from curation.errors import LayerloopError

if TYPE_CHECKING:
    from curation.house import House

talk = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

ACTOR = "command line"


@contextmanager
def house() -> Iterator[House]:
    """The house that the environment's settings name."""
    from curation.house import open_house
    from curation.settings import Settings

    with open_house(Settings()) as opened:
        yield opened


@contextmanager
def errors() -> Iterator[None]:
    """Turn our own errors into two lines and an exit code."""
    try:
        yield
    except LayerloopError as error:
        talk.print(f"[bold red]error:[/] {_plain(error.message)}")
        if error.hint:
            talk.print(f"[bold]hint:[/] {_plain(error.hint)}")
        raise SystemExit(error.exit_code) from None


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, default=_as_text, ensure_ascii=False, indent=2) + "\n")


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Any], Any]], as_json: bool) -> None:
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
        table.add_column(name)
    for row in rows:
        table.add_row(*(_cell(make(row)) for make in columns.values()))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """A function that shows each stage's progress on stderr: a bar for people, a line now and then for logs."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<34}"), BarColumn(28), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
    )  # fmt: skip
    stages: dict[str, Any] = {}
    with Bars(*columns, console=talk, speed_estimate_period=30, disable=not talk.is_terminal) as bars:

        def tell(seen: Progress) -> None:
            figures = "  ".join(f"{name} {value:.4g}" for name, value in seen.figures.items())
            if seen.stage not in stages:
                stages[seen.stage] = bars.add_task(seen.stage, total=seen.total, figures=figures)
                if not talk.is_terminal:
                    talk.print(f"{datetime.now().astimezone():%H:%M:%S}  {seen.stage} ({seen.total})")
            bars.update(stages[seen.stage], completed=seen.done, total=seen.total, figures=figures)

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
    return _plain(str(value))


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
