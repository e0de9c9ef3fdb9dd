"""Sessions of comparison: opened with prompts and seeds, closed with the votes they have."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from curation.checkpoints.taint import refuse_tainted
from curation.comparison_values import (
    ComparisonSide,
    ComparisonState,
    DrawingMethod,
    DrawingState,
)
from curation.db.engine import Transaction
from curation.db.paging import find_place, read_page
from curation.db.tables import comparison_drawings, comparison_items, comparisons
from curation.domain import JobName, Kind, Prompt
from curation.errors import Conflict, NotFound, Refused
from curation.rounds.lifecycle import add_prompts

MAX_ITEMS: Final = 2_000
"""Largest number of items of a comparison."""
MAX_VOTES: Final = 20
"""Largest number of reviewers per item."""
SIDE_KEY_BYTES: Final = 32


@dataclass(frozen=True)
class ComparedSide:
    """What one side draws with: a checkpoint's id, and whether its opaque image is cut out."""

    checkpoint: str
    method: DrawingMethod = DrawingMethod.generated


def open_comparison(
    tx: Transaction,
    a: ComparedSide,
    b: ComparedSide,
    prompt_list: Sequence[Prompt],
    *,
    count: int,
    actor: str,
    kind: Kind = Kind.single,
    seed: int = 0,
    votes: int = 1,
    segmenter: str | None = None,
) -> int:
    """Add a comparison with its items and enqueue their drawing.

    Item i has prompt i modulo the number of prompts, and seed `seed` + i, for both sides.

    Args:
        tx: The transaction.
        a: The side that the win rate is measured against.
        b: The side whose wins are counted.
        prompt_list: The prompts.
        count: The number of items.
        actor: The name for the log.
        kind: Single layers or pairs.
        seed: The seed of the first item.
        votes: The number of reviewers who vote on each item.
        segmenter: A segmentation model for a matted side; None uses the built-in one.

    Returns:
        The number of the comparison.

    Raises:
        Refused: Both sides are equal, or the prompts or numbers are invalid.
        TakenDown: Samples that a checkpoint was trained on were taken down.
    """
    _check(a, b, prompt_list, count, kind, votes)
    for side in (a, b):
        refuse_tainted(tx, side.checkpoint)
    row = {
        "kind": kind,
        "a_checkpoint_id": a.checkpoint,
        "a_method": a.method,
        "b_checkpoint_id": b.checkpoint,
        "b_method": b.method,
        "segmenter": segmenter,
        "items": count,
        "votes": votes,
        "seed": seed,
        "side_key": secrets.token_bytes(SIDE_KEY_BYTES),
        "state": ComparisonState.open,
    }
    number = int(tx.scalar(sa.insert(comparisons).values(row).returning(comparisons.c.id)))
    add_prompts(tx, prompt_list)
    # The ids are random, so that they reveal nothing and nobody guesses one.
    items = [
        {
            "id": uuid.uuid4(),
            "comparison_id": number,
            "position": i,
            "prompt_id": prompt_list[i % len(prompt_list)].id,
            "seed": seed + i,
        }
        for i in range(count)
    ]
    tx.execute(sa.insert(comparison_items), items)
    drawings = [
        {
            "id": uuid.uuid4(),
            "comparison_id": number,
            "item_id": item["id"],
            "side": side,
            "state": DrawingState.requested,
        }
        for item in items
        for side in ComparisonSide
    ]
    tx.execute(sa.insert(comparison_drawings), drawings)
    sides = {"a": describe_side(a), "b": describe_side(b)}
    tx.log(actor, "comparison opened", f"comparison {number}", items=count, votes=votes, **sides)
    tx.enqueue(JobName.draw_comparisons, number)
    return number


def close_comparison(tx: Transaction, number: int, actor: str) -> int:
    """Close a comparison: its votes are final, and nothing more is drawn or shown.

    Args:
        tx: The transaction.
        number: The comparison.
        actor: The name for the log.

    Returns:
        The number of items whose votes are missing.

    Raises:
        NotFound: There is no such comparison.
        Conflict: It is closed already.
    """
    row = _lock(tx, number)
    if row["state"] == ComparisonState.closed:
        raise Conflict(f"comparison {number} is closed already")
    closed = {"state": ComparisonState.closed, "closed_at": sa.func.now()}
    tx.execute(sa.update(comparisons).where(comparisons.c.id == number).values(closed))
    own = comparison_items.c.comparison_id == number
    missing = own & (comparison_items.c.voted < row["votes"])
    count = sa.select(sa.func.count()).select_from(comparison_items)
    undecided = int(tx.scalar(count.where(missing)) or 0)
    waiting = sa.update(comparison_items).where(own, comparison_items.c.waiting)
    tx.execute(waiting.values(waiting=False))
    tx.log(actor, "comparison closed", f"comparison {number}", undecided=undecided)
    return undecided


def find_comparison(tx: Transaction, number: int) -> dict[str, Any]:
    """Return the row of a comparison, without its side key. Raises NotFound."""
    row = tx.execute(_ROWS.where(comparisons.c.id == number)).mappings().first()
    if row is None:
        raise _no_comparison(number)
    return dict(row)


def list_comparisons(
    tx: Transaction, limit: int = 0, after: int | None = None, checkpoint: str | None = None
) -> list[dict[str, Any]]:
    """Return comparisons without their side keys, newest first.

    Args:
        tx: The transaction.
        limit: The largest number; 0 for no limit.
        after: Number of the last comparison of the page before; None for the first page.
        checkpoint: Only comparisons of this checkpoint.

    Raises:
        NotFound: There is no comparison `after`.
    """
    order = [comparisons.c.id]
    query = _ROWS
    if checkpoint is not None:
        of_it = (comparisons.c.a_checkpoint_id, comparisons.c.b_checkpoint_id)
        query = query.where(sa.or_(*(column == checkpoint for column in of_it)))
    return read_page(tx, query, order, limit=limit, after=find_place(tx, order, after))


def _lock(tx: Transaction, number: int) -> dict[str, Any]:
    """Lock the row of a comparison and return it. Raises NotFound."""
    # Without the lock on the key, which the foreign keys of votes share.
    query = sa.select(comparisons).where(comparisons.c.id == number)
    query = query.with_for_update(key_share=True)
    row = tx.execute(query).mappings().first()
    if row is None:
        raise _no_comparison(number)
    return dict(row)


def drawing_states(tx: Transaction, number: int) -> dict[str, int]:
    """Return the number of drawings of a comparison by their state."""
    query = (
        sa.select(comparison_drawings.c.state, sa.func.count().label("count"))
        .where(comparison_drawings.c.comparison_id == number)
        .group_by(comparison_drawings.c.state)
    )
    return {row.state: row.count for row in tx.execute(query)}


def describe_side(side: ComparedSide) -> str:
    """Return a side as the command line names it."""
    return f"matting:{side.checkpoint}" if side.method is DrawingMethod.matted else side.checkpoint


def sides_of(row: Mapping[str, Any]) -> dict[ComparisonSide, ComparedSide]:
    """Return the two sides of a comparison's row."""
    return {
        side: ComparedSide(row[f"{side}_checkpoint_id"], DrawingMethod(row[f"{side}_method"]))
        for side in ComparisonSide
    }


def _check(
    a: ComparedSide,
    b: ComparedSide,
    prompt_list: Sequence[Prompt],
    count: int,
    kind: Kind,
    votes: int,
) -> None:
    if a == b:
        raise Refused("both sides are the same checkpoint", "name two checkpoints")
    if not 1 <= count <= MAX_ITEMS:
        raise Refused(f"{count} is no number of items", f"give one from 1 to {MAX_ITEMS}")
    if not 1 <= votes <= MAX_VOTES:
        raise Refused(f"{votes} is no number of votes", f"give one from 1 to {MAX_VOTES}")
    if not prompt_list:
        raise Refused("there are no prompts", "give a file of prompts with --prompts")
    is_pair = [bool(prompt.foreground or prompt.background) for prompt in prompt_list]
    if kind is Kind.pair and not all(is_pair):
        raise Refused("a comparison of pairs needs pair prompts", "see 'layerloop prompts'")
    if kind is Kind.single and any(is_pair):
        raise Refused("these are prompts of pairs", "compare pairs with --kind pair")
    matted = DrawingMethod.matted in (a.method, b.method)
    if kind is Kind.pair and matted:
        raise Refused("matting cuts out single layers only", "leave --kind pair out")


def _no_comparison(number: int) -> NotFound:
    return NotFound(f"there is no comparison {number}", "'layerloop comparison list' shows them")


_ROWS = sa.select(*(column for column in comparisons.c if column.name != "side_key"))
