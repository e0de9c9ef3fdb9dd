"""Commands for snapshots (data engineers and model trainers)."""

from __future__ import annotations

from typing import Annotated

import typer

from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    console,
    context,
    print_json,
    print_json_line,
    print_result,
    print_rows,
    print_text,
    short_hash,
)

app = typer.Typer(no_args_is_help=True)


@app.command()
def freeze(
    tag: Annotated[
        str | None, typer.Option(help="A tag for the snapshot; it moves from an older one.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Freeze all current samples into a snapshot; equal samples always give the same id."""
    from curation.datasets import holdout, samples, snapshots

    with context() as ctx:
        if dry_run:
            with ctx.database.transaction() as tx:
                count = samples.count_samples(tx)
            print_result(f"would freeze {count} samples", as_json, would_freeze=count)
            return
        # Fingerprints find training samples that share a layer with a held-out sample.
        holdout.fingerprint_layers(ctx.database, ctx.store)
        with ctx.database.transaction(repeatable_read=True) as tx:
            frozen = snapshots.freeze_snapshot(tx, ctx.store, tag=tag, actor=ACTOR)
    if withheld := frozen.counts["split"].get("withheld"):
        console.print(
            f"{withheld} training samples share a layer with a held-out sample and are withheld"
        )
    print_json({"snapshot": frozen.id, "samples": frozen.samples}) if as_json else print_text(
        frozen.id
    )


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List snapshots, newest first."""
    from curation.datasets import snapshots

    with context() as ctx, ctx.database.transaction() as tx:
        rows = snapshots.list_snapshots(tx)
    columns = {
        "snapshot": lambda r: short_hash(r["id"]),
        "samples": lambda r: r["samples"],
        "tags": lambda r: ", ".join(r["tags"]),
        "frozen": lambda r: r["created_at"],
    }
    print_rows(rows, columns, as_json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A tag, an id, or a prefix of an id.")],
    samples: Annotated[bool, typer.Option(help="Print all samples as JSON lines.")] = False,
    as_json: Json = False,
) -> None:
    """Show the number of samples in a snapshot by kind, licence, split and round."""
    from curation.datasets import manifest, snapshots

    with context() as ctx:
        with ctx.database.transaction() as tx:
            snapshot = snapshots.find_snapshot(tx, name)
        if samples:
            for sample in manifest.read_samples(ctx.store, snapshot):
                print_json_line(sample.line())
            return
        root = manifest.read_manifest(ctx.store, snapshot)
    if as_json:
        print_json({"id": root.id, "samples": root.samples, "counts": root.counts})
        return
    # Each table lists its largest counts first.
    print_text(f"{root.id}  {root.samples} samples")
    for what, counts in root.counts.items():
        for value, count in sorted(counts.items(), key=lambda item: -item[1]):
            print_text(f"  {what:<8} {count:>8}  {value}")
