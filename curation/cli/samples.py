"""Commands for samples (data engineers)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    console,
    context,
    print_json,
    print_text,
    short_hash,
)

app = typer.Typer(no_args_is_help=True)

Names = Annotated[
    list[str], typer.Argument(help="Ids of samples, or their first eight or more digits.")
]


@app.command("list")
def list_(
    withdrawn: Annotated[
        bool, typer.Option("--withdrawn", help="List the withdrawn samples instead.")
    ] = False,
    bare: Annotated[
        bool,
        typer.Option(
            "--no-caption", help="Only samples without a caption, or with one from a file name."
        ),
    ] = False,
    file: Annotated[
        str | None, typer.Option(help="Only samples whose file name ends with this text.")
    ] = None,
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option(help="List samples older than this one, by its id.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the samples that the next snapshot would contain, newest first."""
    from curation.datasets import sample_records, samples

    with context() as ctx, ctx.database.transaction() as tx:
        rows = sample_records.list_samples(
            tx,
            withdrawn=withdrawn,
            without_caption=bare,
            file_suffix=file,
            limit=query_limit(limit),
            after=samples.find_sample_id(tx, after) if after else None,
        )
    columns = {
        "sample": lambda r: short_hash(r["id"]),
        "caption": lambda r: r["caption"][:60],
        "caption from": lambda r: r["captioner"] or r["caption_source"],
        "kind": lambda r: r["kind"],
        "split": lambda r: r["split"],
        "round": lambda r: r["round"] or "seed",
        "licence": lambda r: r["licence"][:30],
        "withdrawn" if withdrawn else "added": lambda r: r["withdrawn_at"] or r["created_at"],
    }
    print_page(rows, columns, limit, as_json)


@app.command()
def show(
    sample: Annotated[
        str, typer.Argument(help="The sample's id, or its first eight or more digits.")
    ],
    as_json: Json = False,
) -> None:
    """Show one sample: its metadata, source files and history."""
    from curation.datasets import sample_records

    with context() as ctx, ctx.database.transaction() as tx:
        details = sample_records.show_sample(tx, sample)
    if as_json:
        print_json(details)
        return
    # Empty fields are left out, and the history follows the fields.
    history = details.pop("history")
    for name, value in details.items():
        if value not in (None, [], {}):
            print_text(f"{name:<15} {_plain(value)}")
    for event in history:
        data = ", ".join(f"{key}: {value}" for key, value in event["data"].items())
        print_text(
            f"{event['created_at']:%Y-%m-%d %H:%M}  {event['kind']} by {event['actor']}: {data}"
        )


@app.command()
def withdraw(
    names: Names,
    reason: Annotated[str, typer.Option(help="The reason, stored with the sample.")] = "",
    dry_run: DryRun = False,
) -> None:
    """Exclude samples from later snapshots; existing snapshots do not change.

    'layerloop sample restore' reverts it.
    """
    from curation.datasets import sample_records, samples

    with context() as ctx, ctx.database.transaction() as tx:
        if dry_run:
            # A sample may be given twice, by id and by prefix.
            count = len({samples.find_sample_id(tx, name) for name in names})
            console.print(f"would withdraw {count} samples")
            return
        changed = sample_records.withdraw_samples(tx, names, reason, ACTOR)
    console.print(
        f"{len(changed)} samples were withdrawn; 'layerloop snapshot freeze' creates a snapshot "
        "without them"
    )


@app.command()
def restore(names: Names) -> None:
    """Include withdrawn samples in later snapshots again."""
    from curation.datasets import sample_records

    with context() as ctx, ctx.database.transaction() as tx:
        changed = sample_records.restore_samples(tx, names, ACTOR)
    console.print(f"{len(changed)} samples were restored")


def _plain(value: object) -> str:
    """Format a list or mapping as text, such as "foreground 3f2a..., background 9c01..."."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
