"""The requested candidates of a new round, inserted in bulk with constant memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.domain import Progress, Prompt, content_id

COPY_BATCH_SIZE = 20_000
"""The number of candidates that are sent to the database and added at a time."""
SEED_BYTES = 4
"""The size of a candidate's seed."""


class ChoiceSource(StrEnum):
    """How the prompt of a candidate of a steered round was chosen."""

    random = "random"
    steered = "steered"


class PromptChoice(NamedTuple):
    """How the prompt of a candidate was chosen in a steered round (curation.steering).

    Attributes:
        source: At random or steered.
        share: The prompt's share among prompts that are chosen at random.
        propensity: The probability with which a candidate of the round gets the prompt.
    """

    source: ChoiceSource
    share: float
    propensity: float


def add_requests(
    tx: Transaction,
    round_id: int,
    *,
    checkpoint: str,
    prompt_list: Sequence[Prompt],
    seed: int,
    quota: int,
    choices: Sequence[PromptChoice] = (),
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Add the requested candidates of a round.

    Candidate i is generated from prompt i modulo the number of prompts, with a seed of its own.

    Args:
        tx: The transaction.
        round_id: The round.
        checkpoint: The id of the checkpoint, which the ids of the candidates depend on.
        prompt_list: The prompts.
        seed: The RNG seed from which the seeds of the candidates are derived.
        quota: The number of candidates.
        choices: How each prompt of the list was chosen, in a steered round.
        on_progress: Receives the progress after each batch.
    """
    tx.execute(_CREATE)
    indices: Sequence[int] = range(quota)
    attempt = added = 0
    # Among a million seeds of 32 bits some are equal: these are derived again, after all others.
    while indices:
        again: list[int] = []
        for start in range(0, len(indices), COPY_BATCH_SIZE):
            batch = indices[start : start + COPY_BATCH_SIZE]
            rows = (
                _row(round_id, checkpoint, prompt_list, seed, index, attempt)
                + _choice_columns(choices, index)
                for index in batch
            )
            _copy(tx, rows)
            rejected = [row.position for row in tx.execute(_INSERT, {"round": round_id})]
            tx.execute(_EMPTY)
            again += rejected
            added += len(batch) - len(rejected)
            on_progress(Progress("candidates", added, quota))
        indices = again
        attempt += 1
    tx.execute(_DROP)


def _row(
    round_id: int, checkpoint: str, texts: Sequence[Prompt], seed: int, index: int, attempt: int
) -> str:
    prompt = texts[index % len(texts)]
    # The seed depends on round and position, so a second round with this seed gets other images.
    suffix = f":{attempt}" if attempt else ""
    digest = hashlib.sha256(f"{seed}:{round_id}:{index}{suffix}".encode()).digest()
    candidate_seed = int.from_bytes(digest[:SEED_BYTES], "big")
    id_ = content_id("candidate", round_id, prompt.id, candidate_seed, checkpoint)
    return f"{index}\t{id_}\t{prompt.id}\t{candidate_seed}"


def _choice_columns(choices: Sequence[PromptChoice], index: int) -> str:
    if not choices:
        return "\t\\N\t\\N\t\\N\n"
    choice = choices[index % len(choices)]
    return f"\t{choice.source}\t{choice.share!r}\t{choice.propensity!r}\n"


def _copy(tx: Transaction, rows: Iterator[str]) -> None:
    cursor = tx.connection.connection.cursor()
    cursor.copy_expert(_COPY, io.StringIO("".join(rows)))


_CREATE = sa.text("""
    create temporary table new_requests (position integer, id uuid, prompt_id uuid, seed bigint,
        source text, share real, propensity real)
    on commit drop""")
_COPY = "copy new_requests (position, id, prompt_id, seed, source, share, propensity) from stdin"

# Returns the positions that were not inserted, because another position has the same seed.
_INSERT = sa.text("""
    with firsts as (select id, min(position) as position from new_requests group by id),
    inserted as (
        insert into candidates (id, round_id, prompt_id, seed, state, prompt_source, prompt_share,
            prompt_propensity)
        select r.id, :round, r.prompt_id, r.seed, 'requested', r.source, r.share, r.propensity
        from new_requests r join firsts using (position)
        on conflict do nothing returning id)
    select r.position from new_requests r
    where not exists (select from firsts join inserted using (id)
        where firsts.position = r.position)
    order by r.position""")

_EMPTY = sa.text("truncate new_requests")
_DROP = sa.text("drop table new_requests")
