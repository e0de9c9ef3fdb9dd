"""Prompts of a loop's rounds, from the captions of imported samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from curation.datasets.samples import has_no_caption
from curation.db.engine import Transaction
from curation.db.tables import samples
from curation.domain import CaptionSource, Kind, Prompt, content_id
from curation.errors import Refused
from curation.steering.choice import POOL_SIZE, SteeredPrompts, steer_prompts
from curation.steering.settings import parse_steering


def choose_prompts(
    tx: Transaction,
    count: int,
    seed: int,
    kind: Kind = Kind.single,
    *,
    use_file_names: bool = False,
) -> Sequence[Prompt]:
    """Choose prompts for a round from the captions of seeds.

    Args:
        tx: The transaction.
        count: The maximum number of prompts.
        seed: The random seed of the order.
        kind: Single layers use the text of the layer if a seed has one, pairs all three texts.
        use_file_names: Also use captions that were made from file names.

    Returns:
        The prompts; a caption of several seeds occurs several times.

    Raises:
        Refused: There are seeds of single layers, but none with a caption.
    """
    # Order by a hash of seed and id: random, and repeatable on every machine.
    line = sa.cast(samples.c.line, sa.dialects.postgresql.JSONB)
    shuffled = sa.func.md5(sa.func.concat(seed, ":", samples.c.id))
    texts = [line["texts"][role].astext.label(role) for role in ("foreground", "background")]
    seeds = sa.select(line["caption"].astext.label("text"), *texts).where(
        samples.c.withdrawn_at.is_(None)
    )
    seeds = seeds.where(samples.c.round == 0).order_by(shuffled).limit(count)

    # Leave out seeds without a caption of their own.
    is_uncaptioned = has_no_caption() & ~sa.func.coalesce(
        line["texts"].has_key("foreground"), sa.false()
    )
    if use_file_names:
        is_uncaptioned &= samples.c.caption_source != CaptionSource.file_name
    seeds = seeds.where(~is_uncaptioned)
    if kind is Kind.pair:
        found = tx.execute(
            seeds.where(samples.c.kind == Kind.pair, line["texts"].has_key("background"))
        )
        return [Prompt(row.text, row.foreground, row.background) for row in found]
    prompts = [Prompt(row.foreground or row.text) for row in tx.execute(seeds)]
    if not prompts and count_seeds(tx):
        raise Refused(
            "no seed has a caption to use as a prompt (captions made from file names do not count)",
            "'layerloop caption run' writes captions; --prompts-from-names uses the file names",
        )
    return prompts


def choose_round_prompts(
    tx: Transaction,
    count: int,
    seed: int,
    kind: Kind,
    steering: Mapping[str, Any] | None,
    *,
    given: Sequence[Prompt] | None = None,
    use_file_names: bool = False,
) -> SteeredPrompts:
    """Choose the prompts of a round, steered if settings are given.

    Args:
        tx: The transaction.
        count: The number of candidates.
        seed: The random seed.
        kind: Single layers or pairs.
        steering: The settings of steering; None for all at random.
        given: The prompts to choose from; None for the captions of seeds.
        use_file_names: Also use captions that were made from file names.

    Raises:
        Refused: No seed has a caption, or the coverage targets cannot hold.
    """
    size = count if steering is None else max(count, POOL_SIZE)
    pool = (
        choose_prompts(tx, size, seed, kind, use_file_names=use_file_names)
        if given is None
        else given
    )
    if steering is None:
        return SteeredPrompts(pool, (), None)
    if given is not None:
        pool = sorted(given, key=lambda prompt: content_id("prompt order", seed, prompt.id))
    return steer_prompts(tx, pool, count, seed, kind, parse_steering(steering))


def count_seeds(tx: Transaction) -> int:
    """Return the number of imported samples that are not withdrawn."""
    current = samples.c.withdrawn_at.is_(None) & (samples.c.round == 0)
    return int(tx.scalar(sa.select(sa.func.count()).select_from(samples).where(current)))
