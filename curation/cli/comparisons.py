"""Commands for blind comparisons of two checkpoints (data engineers)."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.output import (
    ACTOR,
    MAX_ID,
    Json,
    console,
    context,
    print_json,
    print_result,
    print_text,
    short_hash,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from curation.comparisons.result import ComparisonResult
    from curation.comparisons.sessions import ComparedSide
    from curation.db.engine import Transaction
    from curation.domain import Prompt

app = typer.Typer(no_args_is_help=True)

MATTING = "matting:"
"""Prefix of a side whose opaque images are cut out."""

Number = Annotated[
    int, typer.Argument(help="The comparison's number, as 'comparison list' shows it.", max=MAX_ID)
]
Side = "A checkpoint, or matting:CHECKPOINT for its opaque images cut out."


class ComparedKind(StrEnum):
    """What both sides draw."""

    single = "single"
    pair = "pair"


@app.command("open")
def open_(
    a: Annotated[str, typer.Argument(help=f"{Side} The win rate is measured against it.")],
    b: Annotated[str, typer.Argument(help=f"{Side} Its wins are counted.")],
    count: Annotated[
        int, typer.Option(help="Number of items, each a prompt with a seed.", min=1, max=2_000)
    ] = 60,
    kind: Annotated[
        ComparedKind, typer.Option(help="Single layers, or pairs with their blended image.")
    ] = ComparedKind.single,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Text file with one prompt per line, or pair prompts as JSON lines; '# ' begins "
            "a comment. Default: captions of seeds."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Random seed of the first item; it increases by 1 per item.", min=0)
    ] = 0,
    votes: Annotated[
        int, typer.Option(help="Number of reviewers who compare each item.", min=1, max=20)
    ] = 1,
    segmenter: Annotated[
        str | None,
        typer.Option(help="Segmentation model of matting:, a hub name or a folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Open a blind comparison: workers draw both sides, and reviewers judge them at /comparison.

    Nobody who judges sees which checkpoint is on which side.
    """
    from curation.comparisons import sessions
    from curation.domain import Kind

    with context() as ctx:
        with ctx.database.transaction() as tx:
            sides = (_parse_side(tx, a), _parse_side(tx, b))
            number = sessions.open_comparison(
                tx,
                *sides,
                _read_prompts(tx, prompts, count, seed, Kind(kind.value)),
                count=count,
                kind=Kind(kind.value),
                seed=seed,
                votes=votes,
                segmenter=segmenter,
                actor=ACTOR,
            )
        page = f"{ctx.settings.public_address}/comparison?number={number}"
    if not as_json:
        console.print(f"workers draw {2 * count} images; reviewers compare them at {page}")
    print_result(
        f"comparison {number} is open: {count} items", as_json, comparison=number, page=page
    )


@app.command("list")
def list_(
    limit: Limit = 50,
    after: Annotated[
        int | None, typer.Option(help="List comparisons older than this one.", min=1, max=MAX_ID)
    ] = None,
    as_json: Json = False,
) -> None:
    """List comparisons, newest first."""
    from curation.comparisons import sessions

    with context() as ctx, ctx.database.transaction() as tx:
        rows = sessions.list_comparisons(tx, query_limit(limit), after)
    columns = {
        "comparison": lambda row: row["id"],
        "A": lambda row: _name_side(row, "a"),
        "B": lambda row: _name_side(row, "b"),
        "kind": lambda row: row["kind"],
        "items": lambda row: row["items"],
        "votes": lambda row: row["votes"],
        "state": lambda row: row["state"],
        "opened": lambda row: row["created_at"],
    }
    print_page(rows, columns, limit, as_json)


@app.command()
def show(number: Number, as_json: Json = False) -> None:
    """Show the result of a comparison: win rate, sign test, and votes by reviewer."""
    from curation.comparisons import sessions
    from curation.comparisons.result import read_result

    with context() as ctx, ctx.database.transaction() as tx:
        row = sessions.find_comparison(tx, number)
        result = read_result(tx, number)
    if as_json:
        print_json({"comparison": row, "result": asdict(result)})
        return
    _print_result(row, result)


@app.command()
def close(number: Number, as_json: Json = False) -> None:
    """Close a comparison: its votes are final."""
    from curation.comparisons import sessions

    with context() as ctx, ctx.database.transaction() as tx:
        undecided = sessions.close_comparison(tx, number, ACTOR)
    missing = f"; {undecided} items lack votes" if undecided else ""
    print_result(
        f"comparison {number} is closed{missing}", as_json, comparison=number, undecided=undecided
    )


def _parse_side(tx: Transaction, text: str) -> ComparedSide:
    """Return the side that a word names. Raises NotFound."""
    from curation.checkpoints import registry
    from curation.comparison_values import DrawingMethod
    from curation.comparisons.sessions import ComparedSide

    matted = text.startswith(MATTING)
    checkpoint = registry.find_checkpoint(tx, text.removeprefix(MATTING)).id
    method = DrawingMethod.matted if matted else DrawingMethod.generated
    return ComparedSide(checkpoint, method)


def _read_prompts(
    tx: Transaction, path: Path | None, count: int, seed: int, kind: Any
) -> Sequence[Prompt]:
    from curation.loops.prompts import choose_prompts
    from curation.prompts.files import read_prompt_file

    if path is None:
        return choose_prompts(tx, count, seed, kind)
    return read_prompt_file(path).prompts


def _name_side(row: dict[str, Any], side: str) -> str:
    matted = row[f"{side}_method"] == "matted"
    return f"{MATTING if matted else ''}{short_hash(row[f'{side}_checkpoint_id'])}"


def _print_result(row: dict[str, Any], result: ComparisonResult) -> None:
    from curation.comparisons.result import sentence

    for side in ("a", "b"):
        print_text(f"{side.upper()}: {_name_side(row, side)}")
    print_text(sentence(result))
    for name, value in _figures(row, result).items():
        print_text(f"{name}: {value}")
    for one in result.reviewers:
        given = f"{one.a} for A, {one.b} for B, {one.equal} equal, {one.both_bad} both bad"
        pace = "" if one.median_seconds is None else f", {one.median_seconds:.1f} s per item"
        print_text(f"{one.reviewer}: {given}{pace}")
    if row["state"] == "open":
        console.print("it is open: these figures change, and only a closed one promotes")


def _figures(row: dict[str, Any], result: ComparisonResult) -> dict[str, str]:
    """Return the figures as text by name."""
    figures = {
        "items": f"{row['items']}, {row['kind']}, {row['state']}",
        "A wins": str(result.a),
        "B wins": str(result.b),
        "equal": str(result.equal),
        "both bad": str(result.both_bad),
        "undecided": str(result.undecided),
    }
    for name, share in (("left side chosen", result.left_share), ("agreement", result.agreement)):
        if share.value is not None:
            interval = f"95 % interval {share.low:.0%} to {share.high:.0%}"
            figures[name] = f"{share.value:.0%} of {share.n} ({interval})"
    unfinished = {state: n for state, n in result.drawings.items() if state != "generated"}
    if unfinished:
        states = ", ".join(f"{n} {state}" for state, n in sorted(unfinished.items()))
        figures["drawings"] = states
    return figures
