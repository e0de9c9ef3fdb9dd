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
    with context() as opened:
        embedder = load_embedder(opened.settings)
        if dry_run:
            with opened.database.transaction() as tx:
                accepted, rejected = acceptance_model_store.count_lesson(tx, kind, embedder.source)
            talk.print(
                f"would fit a head to {accepted} accepts and {rejected} rejects, as {embedder.source} sees them"
            )
            return
        embedding_backfill.see_unseen(opened.database, opened.store, kind, embedder)
        with opened.database.transaction() as tx:
            kept = acceptance_model_store.fit_head(tx, kind, embedder.source)
    print_json(_row(kept)) if as_json else print_text(_text(kept))


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

    with context() as opened, opened.database.transaction() as tx:
        kept = acceptance_model_store.find_head(tx, Kind.pair if pairs else Kind.single, name)
    print_json(_row(kept)) if as_json else print_text(_text(kept))


_FOLDS = {
    "by_prompt": "of prompts it had not seen",
    "at_random": "of those alone that were shown at random",
    "by_round": "of rounds it had not seen",
}


def _row(kept: Any) -> dict[str, Any]:
    named = {
        "head": kept.id,
        "kind": kept.kind,
        "embedder": kept.embedder,
        "teacher": kept.teacher,
        "at": kept.at,
    }
    return named | dict(kept.figures)


def _text(kept: Any) -> str:
    taught = {
        "person": "people's decisions",
        "oracle": "decisions of the oracle, for people's are too few",
    }
    figures = kept.figures
    said = f"taught by {figures['decisions']} {taught[kept.teacher]}, {figures['accepted']} of them accepts"
    lines = [f"head {short(kept.id)}, {said} ({kept.embedder})"]
    for folds, words in _FOLDS.items():
        if folds in figures:
            lines.append(
                "  {}: AUC {auc:.3f}, Brier {brier:.3f}, calibration error {ece:.3f}, "
                "log loss {log_loss:.3f} (a constant: {constant_log_loss:.3f})".format(
                    words, **figures[folds]
                )
            )
    return "\n".join(lines)
