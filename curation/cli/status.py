"""The command that shows the state of the whole instance."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli.output import (
    Json,
    bold,
    context,
    data_console,
    make_table,
    print_json,
    print_json_line,
    show_age,
)

if TYPE_CHECKING:
    from rich.console import Group

    from curation.runtime.context import AppContext

Columns = Mapping[str, Callable[[Any], Any]]

# The states of candidates that a person watches, in the order of their way.
_STATES = (
    "requested",
    "generating",
    "generated",
    "screened",
    "waiting",
    "accepted",
    "rejected",
    "failed",
)


def _count_in(state: str, row: Mapping[str, Any]) -> int:
    return int(row["candidates"].get(state, 0))


_ROUNDS: Columns = {
    "round": lambda r: r["round_id"],
    "kind": lambda r: r["kind"],
    "state": lambda r: r["state"],
    "quota": lambda r: r["quota"],
    **{state: partial(_count_in, state) for state in _STATES},
}
_RUNS: Columns = {
    "run": lambda r: r["run_id"][:13],
    "kind": lambda r: r["kind"],
    "preset": lambda r: r["preset"],
    "state": lambda r: r["state"],
    "requested": lambda r: show_age(r["seconds"]),
}
_QUEUES: Columns = {
    "job": lambda q: q["job"],
    "waiting": lambda q: q["count"],
    "oldest": lambda q: show_age(q["oldest_seconds"]),
}
WORKER_COLUMNS: Columns = {
    "worker": lambda w: w["id"],
    "queues": lambda w: " ".join(w["queues"]),
    "version": lambda w: w["version"],
    "state": lambda w: w["state"],
    "does": lambda w: w["job"],
    "reason": lambda w: w["reason"],
    "started": lambda w: show_age((datetime.now(UTC) - w["started_at"]).total_seconds()),
    "last error": lambda w: w["last_error"] and w["last_error"][:60],
}


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every few seconds, until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option(help="Seconds between two readings of --watch.", min=0.5)
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """Show rounds, runs, waiting jobs, workers and trouble.

    With --watch --json it prints one JSON document a line.
    """
    with context() as ctx:
        if not watch:
            found = _read(ctx)
            print_json(found) if as_json else data_console().print(_render(found))
        elif as_json:
            while True:
                print_json_line(json.dumps(_read(ctx), default=str))
                sys.stdout.flush()
                time.sleep(interval)
        else:
            _watch(ctx, interval)


def _watch(ctx: AppContext, interval: float) -> None:
    from rich.live import Live

    with Live(_render(_read(ctx)), console=data_console(), auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(_render(_read(ctx)), refresh=True)


def _read(ctx: AppContext) -> dict[str, Any]:
    from curation.reporting.instance_status import read_status

    with ctx.database.transaction() as tx:
        return read_status(tx).as_dict()


def _render(found: Mapping[str, Any]) -> Group:
    """Return the state as tables, with a line for each trouble."""
    from rich.console import Group

    parts: list[Any] = []
    for name, rows, columns in (
        ("rounds", found["rounds"], _ROUNDS),
        ("runs", found["runs"], _RUNS),
        ("waiting jobs", found["queues"], _QUEUES),
        ("workers", found["workers"], WORKER_COLUMNS),
    ):
        parts += [bold(name), make_table(rows, columns) if rows else "none", ""]
    parts += _trouble(found["trouble"])
    return Group(*parts)


def _trouble(sentences: Sequence[str]) -> list[Any]:
    if not sentences:
        return [bold("no trouble", "green")]
    return [bold("trouble", "red"), *(bold(f"  {sentence}") for sentence in sentences)]
