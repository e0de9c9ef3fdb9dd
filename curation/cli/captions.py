"""Commands of data engineers: captions."""

from __future__ import annotations

from typing import Annotated

import typer

from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    context,
    print_json,
    print_text,
    progress,
    resumable,
    talk,
)
from curation.cli.runs import work_here

app = typer.Typer(no_args_is_help=True)


@app.command()
def run(
    model: Annotated[
        str, typer.Option(help="An image-text-to-text model: a hub name or a folder.")
    ],
    prompt: Annotated[
        str | None, typer.Option(help="What the model is asked of each picture.")
    ] = None,
    background: Annotated[
        int, typer.Option(help="The grey that layers are shown on.", min=0, max=255)
    ] = 128,
    tokens: Annotated[
        int, typer.Option(help="The longest caption, in the model's tokens.", min=1, max=500)
    ] = 60,
    again: Annotated[
        bool, typer.Option("--again", help="Also samples that a model captioned before.")
    ] = False,
    limit: Annotated[int, typer.Option(help="At most so many samples; 0 for all.", min=0)] = 0,
    wait: Annotated[
        bool, typer.Option(help="Caption here and now; --no-wait leaves it to a worker.")
    ] = True,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Let a model caption the samples that have no caption; captions that people gave are left alone.

    The same command again goes on where it stopped. Snapshots to come bear the captions, those frozen stay as they are.
    """
    from curation import jobs
    from curation.datasets import captions
    from curation.errors import LayerloopError

    order = captions.CaptionOrder(
        model, prompt or captions.PROMPT, background, tokens, again, limit
    )
    with context() as ctx:
        with ctx.database.transaction() as tx:
            if dry_run:
                talk.print(
                    f"would let {model} caption {len(captions.choose_samples(tx, order))} samples"
                )
                return
            id_ = captions.order_captions(tx, order, ACTOR)
            if wait:
                tx.jobs.clear()  # this process does it
        if wait:
            with resumable(), progress() as on_progress:
                work_here(ctx, id_, jobs.caption, captions.find_run, on_progress)
        with ctx.database.transaction() as tx:
            row = captions.find_run(tx, id_)
    if row["state"] in {"failed", "cancelled"}:
        state = "failed" if row["state"] == "failed" else "stopped"
        raise LayerloopError(
            f"captioning {state}: {row['error']}",
            "the same command goes on where it stopped, once the cause is mended",
        )
    if as_json:
        print_json({"run": str(id_), "state": row["state"], **row["progress"]})
    else:
        talk.print(f"{row['state']}: {row['progress'].get('done', 0)} samples seen")
        print_text(id_)


@app.command()
def give(
    sample: Annotated[
        str, typer.Argument(help="The sample's id, or the first eight or more digits of it.")
    ],
    text: Annotated[str, typer.Argument(help="What the picture shows.")],
    as_json: Json = False,
) -> None:
    """Give a sample a caption of your own; no model overwrites it."""
    from curation.datasets import captions

    with context() as ctx, ctx.database.transaction() as tx:
        id_ = captions.give_caption(tx, sample, text, ACTOR)
    print_json({"sample": id_.hex}) if as_json else print_text(id_.hex)
