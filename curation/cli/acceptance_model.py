"""Commands of the acceptance model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from curation.cli.output import DryRun, Json, context, print_json, print_text, short, talk

app = typer.Typer(no_args_is_help=True)

Pairs = Annotated[bool, typer.Option("--pairs", help="The head for pairs of layers.")]


@app.command()
def fit(pairs: Pairs = False, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Fit the acceptance model to all decisions that stand, in seconds; workers do so too where a round needs it."""
    from curation.domain import Kind
    from curation.runtime.context import load_embedder
    from curation.selection import acceptance_model_store, embedding_backfill

    kind = Kind.pair if pairs else Kind.single
    with context() as ctx:
        embedder = load_embedder(ctx.settings)
        if dry_run:
            with ctx.database.transaction() as tx:
                accepted, rejected = acceptance_model_store.count_lesson(tx, kind, embedder.source)
            talk.print(
                f"would fit a head to {accepted} accepts and {rejected} rejects, as {embedder.source} sees them"
            )
            return
        embedding_backfill.see_unseen(ctx.database, ctx.store, kind, embedder)
        with ctx.database.transaction() as tx:
            model = acceptance_model_store.fit_head(tx, kind, embedder.source)
    print_json(_row(model)) if as_json else print_text(_text(model))


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="The beginning of its id; without it the newest.")
    ] = None,
    pairs: Pairs = False,
    as_json: Json = False,
) -> None:
    """How good an acceptance head is, on decisions that it was not taught by."""
    from curation.domain import Kind
    from curation.selection import acceptance_model_store

    with context() as ctx, ctx.database.transaction() as tx:
        model = acceptance_model_store.find_head(tx, Kind.pair if pairs else Kind.single, name)
    print_json(_row(model)) if as_json else print_text(_text(model))


_FOLDS = {
    "by_prompt": "of prompts it had not seen",
    "at_random": "of those alone that were shown at random",
    "by_round": "of rounds it had not seen",
}


def _row(model: Any) -> dict[str, Any]:
    row = {
        "head": model.id,
        "kind": model.kind,
        "embedder": model.embedder,
        "teacher": model.teacher,
        "at": model.at,
    }
    return row | dict(model.figures)


def _text(model: Any) -> str:
    label_sources = {
        "person": "people's decisions",
        "oracle": "decisions of the oracle, for people's are too few",
    }
    figures = model.figures
    source = f"taught by {figures['decisions']} {label_sources[model.teacher]}, {figures['accepted']} of them accepts"
    lines = [f"head {short(model.id)}, {source} ({model.embedder})"]
    for folds, label in _FOLDS.items():
        if folds in figures:
            lines.append(
                "  {}: AUC {auc:.3f}, Brier {brier:.3f}, calibration error {ece:.3f}, "
                "log loss {log_loss:.3f} (a constant: {constant_log_loss:.3f})".format(
                    label, **figures[folds]
                )
            )
    return "\n".join(lines)
