"""Commands for captions (data engineers)."""

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
    print_text,
    progress,
    resume_hint,
)
from curation.cli.runs import run_or_follow

app = typer.Typer(no_args_is_help=True)


@app.command()
def run(
    model: Annotated[str, typer.Option(help="Image-text-to-text model: a hub name or a folder.")],
    prompt: Annotated[
        str | None, typer.Option(help="Instruction for the model, sent with each image.")
    ] = None,
    background: Annotated[
        int, typer.Option(help="Gray level behind the layers.", min=0, max=255)
    ] = 128,
    tokens: Annotated[
        int, typer.Option(help="Maximum caption length, in tokens.", min=1, max=500)
    ] = 60,
    again: Annotated[
        bool, typer.Option("--again", help="Also recaption samples that a model captioned before.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Maximum number of samples; 0 for all.", min=0)] = 0,
    wait: Annotated[
        bool, typer.Option(help="Run in this process; --no-wait queues it for a worker.")
    ] = True,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Caption the samples that have no caption with a model; captions by people are kept.

    Running the same command again resumes. Later snapshots contain the new captions, existing
    snapshots do not change.
    """
    from curation import jobs
    from curation.datasets import captions
    from curation.errors import LayerloopError

    order = captions.CaptionRequest(
        model, prompt or captions.PROMPT, background, tokens, again, limit
    )
    with context() as ctx:
        with ctx.database.transaction() as tx:
            if dry_run:
                count = len(captions.select_samples(tx, order))
                console.print(f"would caption {count} samples with {model}")
                return
            id_ = captions.request_captions(tx, order, ACTOR)
            if wait:
                tx.jobs.clear()  # no worker may start the run that this process works on
        if wait:
            with resume_hint(), progress() as on_progress:
                run_or_follow(ctx, id_, jobs.caption, captions.find_run, on_progress)
        with ctx.database.transaction() as tx:
            row = captions.find_run(tx, id_)

    # A worker or another command may have failed or cancelled the run meanwhile.
    if row["state"] in {"failed", "cancelled"}:
        state = "failed" if row["state"] == "failed" else "stopped"
        raise LayerloopError(
            f"captioning {state}: {row['error']}",
            "fix the cause and run the same command again to resume",
        )
    if as_json:
        print_json({"run": str(id_), "state": row["state"], **row["progress"]})
    else:
        console.print(f"{row['state']}: {row['progress'].get('done', 0)} samples processed")
        print_text(id_)


@app.command("set")
def set_caption(
    sample: Annotated[
        str, typer.Argument(help="The sample's id, or its first eight or more digits.")
    ],
    text: Annotated[str, typer.Argument(help="The caption.")],
    as_json: Json = False,
) -> None:
    """Set the caption of a sample by hand; no model overwrites it."""
    from curation.datasets import captions

    with context() as ctx, ctx.database.transaction() as tx:
        id_ = captions.set_caption(tx, sample, text, ACTOR)
    print_json({"sample": id_.hex}) if as_json else print_text(id_.hex)
