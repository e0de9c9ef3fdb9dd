"""Commands of data engineers: samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    context,
    one_more,
    print_json,
    print_limited,
    print_text,
    short,
    talk,
)

app = typer.Typer(no_args_is_help=True)

Names = Annotated[
    list[str], typer.Argument(help="Ids of samples, or the first eight or more digits of them.")
]


@app.command("list")
def list_(
    withdrawn: Annotated[
        bool, typer.Option("--withdrawn", help="Those that were withdrawn instead.")
    ] = False,
    bare: Annotated[
        bool,
        typer.Option(
            "--no-caption", help="Only without a caption, or with one made from a file name."
        ),
    ] = False,
    file: Annotated[
        str | None, typer.Option(help="Only those from files whose name ends so.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0 for all.", min=0)] = 100,
    as_json: Json = False,
) -> None:
    """List the samples that the next snapshot would hold, the newest first."""
    from curation.datasets import sample_records

    with context() as ctx, ctx.database.transaction() as tx:
        rows = sample_records.list_samples(
            tx, withdrawn=withdrawn, bare=bare, file=file, limit=one_more(limit)
        )
    columns = {
        "sample": lambda r: short(r["id"]),
        "caption": lambda r: r["caption"][:60],
        "caption from": lambda r: r["captioner"] or r["caption_source"],
        "kind": lambda r: r["kind"],
        "split": lambda r: r["split"],
        "round": lambda r: r["round"] or "seed",
        "licence": lambda r: r["licence"][:30],
        "withdrawn" if withdrawn else "added": lambda r: r["withdrawn_at"] or r["at"],
    }
    print_limited(rows, columns, limit, as_json)


@app.command()
def show(
    sample: Annotated[
        str, typer.Argument(help="The sample's id, or the first eight or more digits of it.")
    ],
    as_json: Json = False,
) -> None:
    """Show one sample: what is said of it, the files it came from, and what happened to it."""
    from curation.datasets import sample_records

    with context() as ctx, ctx.database.transaction() as tx:
        told = sample_records.show_sample(tx, sample)
    if as_json:
        print_json(told)
        return
    history = told.pop("history")
    for name, value in told.items():
        if value not in (None, [], {}):
            print_text(f"{name:<15} {_plain(value)}")
    for one in history:
        data = ", ".join(f"{key}: {value}" for key, value in one["data"].items())
        print_text(f"{one['at']:%Y-%m-%d %H:%M}  {one['kind']} by {one['actor']}: {data}")


@app.command()
def withdraw(
    names: Names,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the sample.")] = "",
    dry_run: DryRun = False,
) -> None:
    """Leave samples out of every snapshot to come; frozen snapshots keep what they hold, and restore takes it back."""
    from curation.datasets import sample_records, samples

    with context() as ctx, ctx.database.transaction() as tx:
        if dry_run:
            count = len({samples.find_sample_id(tx, name) for name in names})
            talk.print(f"would withdraw {count} samples")
            return
        moved = sample_records.withdraw_samples(tx, names, reason, ACTOR)
    talk.print(
        f"{len(moved)} samples were withdrawn; 'layerloop snapshot freeze' makes a snapshot without them"
    )


@app.command()
def restore(names: Names) -> None:
    """Take withdrawn samples into snapshots to come again."""
    from curation.datasets import sample_records

    with context() as ctx, ctx.database.transaction() as tx:
        moved = sample_records.restore_samples(tx, names, ACTOR)
    talk.print(f"{len(moved)} samples were restored")


def _plain(value: object) -> str:
    """Write a list or a mapping as words: "foreground 3f2a..., background 9c01..."."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
