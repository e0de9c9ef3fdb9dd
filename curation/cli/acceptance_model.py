"""Commands that fit and show the acceptance model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from curation.cli.output import DryRun, Json, console, context, print_json, print_text, short_hash

app = typer.Typer(no_args_is_help=True)

Pairs = Annotated[bool, typer.Option("--pairs", help="Use the model for pairs.")]


@app.command()
def fit(pairs: Pairs = False, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Fit the acceptance model to all decisions in force; takes seconds.

    Workers also refit it when a round needs it.
    """
    from curation.domain import Kind
    from curation.runtime.context import load_embedder
    from curation.selection import acceptance_model_store, embedding_backfill

    kind = Kind.pair if pairs else Kind.single
    with context() as ctx:
        embedder = load_embedder(ctx.settings)
        if dry_run:
            with ctx.database.transaction() as tx:
                accepted, rejected = acceptance_model_store.count_training_rows(
                    tx, kind, embedder.source
                )
            console.print(
                f"would fit an acceptance model to {accepted} accepts and {rejected} rejects, "
                f"with embeddings of {embedder.source}"
            )
            return
        # Candidates decided before the embedder was set have no embedding yet.
        embedding_backfill.backfill_embeddings(ctx.database, ctx.store, kind, embedder)
        model = acceptance_model_store.fit_and_store(ctx.database, kind, embedder.source)
    print_json(_row(model)) if as_json else print_text(_text(model))


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="Prefix of the model's id; default: the newest.")
    ] = None,
    pairs: Pairs = False,
    as_json: Json = False,
) -> None:
    """Show the cross-validated metrics of an acceptance model."""
    from curation.domain import Kind
    from curation.selection import acceptance_model_store

    with context() as ctx, ctx.database.transaction() as tx:
        model = acceptance_model_store.find_model(tx, Kind.pair if pairs else Kind.single, name)
    print_json(_row(model)) if as_json else print_text(_text(model))


_FOLDS = {
    "by_prompt": "held-out prompts",
    "at_random": "held-out prompts, randomly shown candidates only",
    "by_round": "held-out rounds",
}
"""The folds of the cross-validation, as the metrics name them, with their labels."""


def _row(model: Any) -> dict[str, Any]:
    row = {
        "acceptance_model": model.id,
        "kind": model.kind,
        "embedder": model.embedder,
        "label_source": model.label_source,
        "created_at": model.created_at,
    }
    return row | dict(model.metrics)


def _text(model: Any) -> str:
    label_sources = {
        "person": "decisions of people",
        "rule_reviewer": "decisions of the rule reviewer (too few by people)",
    }
    metrics = model.metrics
    decisions = f"{metrics['decisions']} {label_sources[model.label_source]}"
    source = f"trained on {decisions}, {metrics['accepted']} of them accepts"
    lines = [f"acceptance model {short_hash(model.id)}, {source} ({model.embedder})"]
    # A model has only those folds that its decisions were enough for.
    for folds, label in _FOLDS.items():
        if folds in metrics:
            lines.append(
                "  {}: AUC {auc:.3f}, Brier {brier:.3f}, calibration error {ece:.3f}, "
                "log loss {log_loss:.3f} (constant prediction: {constant_log_loss:.3f})".format(
                    label, **metrics[folds]
                )
            )
    return "\n".join(lines)
