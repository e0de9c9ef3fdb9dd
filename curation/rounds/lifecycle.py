"""Rounds: open, pause, resume and close a set of prompts with checkpoint, quota and policy."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.checkpoints.taint import refuse_tainted
from curation.datasets.samples import StoredLayer, record_layers
from curation.db import counts
from curation.db.advisory_locks import AdvisoryLock, lock
from curation.db.engine import Transaction
from curation.db.paging import read_page
from curation.db.tables import candidate_layers, candidates, gold, leases, prompts, rounds
from curation.domain import (
    CandidateState,
    JobName,
    Kind,
    LayerRole,
    Progress,
    Prompt,
    RoundState,
    content_id,
)
from curation.errors import Conflict, NotFound, Refused
from curation.prompts.files import check_texts
from curation.rounds.policies import parse_policy, policy_to_dict
from curation.rounds.requests import PromptChoice, add_requests

SHOW_ALL: Mapping[str, Any] = {"kind": "random", "share": 1.0}
"""The selection policy that shows people everything that passes screening."""

UNFINISHED_STATES = ("requested", "generating", "generated", "screened", "waiting", "showing")
"""The states of unfinished candidates, which closing their round withdraws."""

PROMPT_BATCH_SIZE = 10_000
"""The number of prompts that are sent to the database at a time."""

GOLD_PURPOSE = "gold"
"""The purpose of the one internal round that owns all gold, so that no other round counts it."""
IS_NOT_GOLD = rounds.c.purpose != GOLD_PURPOSE


def open_round(
    tx: Transaction,
    *,
    checkpoint: str,
    prompt_list: Sequence[Prompt],
    quota: int,
    seed: int = 0,
    policy: Mapping[str, Any] = SHOW_ALL,
    kind: Kind = Kind.single,
    actor: str,
    priority: int = 0,
    choices: Sequence[PromptChoice] = (),
    steering: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Add a round with its candidates and enqueue their generation.

    Candidate i is generated from prompt i modulo the number of prompts, with a seed of its own.

    Args:
        tx: The transaction.
        checkpoint: The id of the checkpoint.
        prompt_list: The prompts.
        quota: The number of candidates.
        seed: The RNG seed from which the seeds of the candidates are derived.
        policy: The selection policy (curation.rounds.policies).
        kind: Single layers or pairs.
        actor: The name for the log.
        priority: Workers take rounds of a higher priority first.
        choices: How each prompt was chosen, if prompts were steered.
        steering: What was steered and why (curation.steering.choice), stored with the round.
        on_progress: Receives the progress; a large round takes minutes, in one transaction.

    Returns:
        The number of the round.

    Raises:
        Refused: The prompts, the quota or the policy are invalid.
        TakenDown: Samples that the checkpoint was trained on were taken down.
    """
    check_round(prompt_list, quota, policy, kind)
    refuse_tainted(tx, checkpoint)
    rules = policy_to_dict(parse_policy(policy))
    row = {
        "purpose": "generated",
        "kind": kind,
        "checkpoint_id": checkpoint,
        "quota": quota,
        "policy": rules,
        "priority": priority,
        "steering": steering,
        "state": RoundState.open,
    }
    round_id = next_round_id(tx)
    tx.execute(sa.insert(rounds), row | {"id": round_id})
    add_prompts(tx, prompt_list, on_progress)
    add_requests(
        tx,
        round_id,
        checkpoint=checkpoint,
        prompt_list=prompt_list,
        seed=seed,
        quota=quota,
        choices=choices,
        on_progress=on_progress,
    )
    goal = {} if steering is None else {"steering": steering["settings"]["goal"]}
    subject = f"round {round_id}"
    tx.log(actor, "round opened", subject, checkpoint=checkpoint, quota=quota, policy=rules, **goal)
    tx.enqueue(JobName.generate, round_id)
    return round_id


def next_round_id(tx: Transaction) -> int:
    """Return the id of a round that this transaction adds; ids have no gaps.

    The seeds of candidates depend on it, so that a round that was rolled back and opened again has
    to get the id that it would have had.
    """
    lock(tx, AdvisoryLock.open_round)
    return int(tx.execute(_NEXT_ROUND_ID).scalar_one())


def add_prompts(
    tx: Transaction,
    texts: Sequence[Prompt],
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Record prompts; equal texts are one prompt.

    Args:
        tx: The transaction.
        texts: The prompts.
        on_progress: Receives the progress after each batch.
    """
    # Sorted, so that no two transactions that add the same prompts wait for each other.
    distinct = sorted({prompt.id: prompt for prompt in texts}.items())
    for start in range(0, len(distinct), PROMPT_BATCH_SIZE):
        rows = [
            {"id": id_, "text": p.text, "foreground": p.foreground, "background": p.background}
            for id_, p in distinct[start : start + PROMPT_BATCH_SIZE]
        ]
        tx.execute(insert(prompts).on_conflict_do_nothing(), rows)
        on_progress(Progress("prompts", start + len(rows), len(distinct)))


def open_seed_review(tx: Transaction, actor: str, kind: Kind = Kind.single) -> int:
    """Return the open round for imports that screening flagged, adding it if there is none."""
    is_open = (
        (rounds.c.purpose == "seeds")
        & (rounds.c.kind == kind)
        & (rounds.c.state != RoundState.closed)
    )
    round_id = tx.scalar(sa.select(rounds.c.id).where(is_open).order_by(rounds.c.id))
    if round_id is None:
        row = {
            "purpose": "seeds",
            "kind": kind,
            "quota": 0,
            "policy": dict(SHOW_ALL),
            "state": RoundState.open,
        }
        round_id = next_round_id(tx)
        tx.execute(sa.insert(rounds), row | {"id": round_id})
        tx.log(actor, "round opened", f"round {round_id}", purpose="seeds")
    return int(round_id)


def add_for_review(
    tx: Transaction,
    round_id: int,
    layers: Mapping[LayerRole, StoredLayer],
    prompt: Prompt,
    flags: Sequence[str],
    origin: Mapping[str, Any],
) -> uuid.UUID:
    """Add an import to a review round with its flags; adding it twice adds it once.

    Args:
        tx: The transaction.
        round_id: The round.
        layers: The stored layers by role.
        prompt: The caption as a prompt.
        flags: The codes with which screening flagged it.
        origin: "licence", "source" and, where the metadata has one, "split".

    Returns:
        The id of the candidate.
    """
    record_layers(tx, list(layers.values()))
    add_prompts(tx, [prompt])
    # The id comes from the visible pixels, so the same import is the same candidate.
    hashes = [layers[role].visible for role in LayerRole if role in layers]
    candidate = content_id("candidate", "import", *hashes)
    row = {
        "id": candidate,
        "round_id": round_id,
        "prompt_id": prompt.id,
        "seed": int(hashes[0][:15], 16),
        "state": CandidateState.waiting,
        "propensity": 1.0,
        "flags": list(flags),
        "origin": dict(origin),
    }
    # Only a new candidate counts towards the quota.
    if tx.execute(insert(candidates).on_conflict_do_nothing(), row).rowcount:
        rows = [
            {"candidate_id": candidate, "role": role, "sha256": layer.sha256}
            for role, layer in layers.items()
        ]
        tx.execute(sa.insert(candidate_layers), rows)
        tx.execute(
            sa.update(rounds).where(rounds.c.id == round_id).values(quota=rounds.c.quota + 1)
        )
    return candidate


def pause_round(tx: Transaction, round_id: int, actor: str) -> None:
    """Stop generating and showing candidates of a round until it is resumed.

    Candidates that reviewers already hold may still be decided.
    """
    _move(tx, round_id, RoundState.open, RoundState.paused, actor)


def resume_round(tx: Transaction, round_id: int, actor: str) -> None:
    """Resume a paused round."""
    _move(tx, round_id, RoundState.paused, RoundState.open, actor)
    tx.enqueue(JobName.generate, round_id)
    tx.enqueue(JobName.screen, round_id)


def close_round(tx: Transaction, round_id: int, actor: str) -> int:
    """Close a round and withdraw its undecided candidates; closing twice has no effect.

    Returns:
        The number of candidates withdrawn.
    """
    # Lock the round first: decisions and undos in progress finish before their candidates are read.
    locked = sa.select(rounds.c.state).where(rounds.c.id == round_id, IS_NOT_GOLD).with_for_update()
    if tx.scalar(locked) in {None, RoundState.closed}:
        find_round(tx, round_id)
        return 0
    unfinished = (candidates.c.round_id == round_id) & candidates.c.state.in_(UNFINISHED_STATES)
    tx.execute(
        sa.delete(leases).where(leases.c.subject.in_(sa.select(candidates.c.id).where(unfinished)))
    )
    # Gold hidden in this round is withdrawn too; it belongs to another round.
    hidden = candidates.c.id.in_(sa.select(gold.c.candidate_id).where(gold.c.round_id == round_id))
    tx.execute(
        sa.delete(leases).where(leases.c.subject.in_(sa.select(candidates.c.id).where(hidden)))
    )
    tx.execute(sa.update(candidates).where(hidden).values(state=CandidateState.withdrawn))
    withdrawn = tx.execute(
        sa.update(candidates).where(unfinished).values(state=CandidateState.withdrawn)
    ).rowcount
    tx.execute(
        sa.update(rounds)
        .where(rounds.c.id == round_id)
        .values(state=RoundState.closed, closed_at=sa.func.now())
    )
    tx.log(actor, "round closed", f"round {round_id}", withdrawn=withdrawn)
    return int(withdrawn)


def find_round(tx: Transaction, round_id: int) -> dict[str, Any]:
    """Return a round's row. Raises NotFound.

    The internal round that owns all gold is treated as missing.
    """
    row = (
        tx.execute(sa.select(rounds).where(rounds.c.id == round_id, IS_NOT_GOLD)).mappings().first()
    )
    if row is None:
        raise NotFound(f"there is no round {round_id}", "'layerloop round list' shows all rounds")
    return dict(row)


def list_rounds(
    tx: Transaction,
    *,
    states: Sequence[RoundState] = (),
    limit: int = 0,
    after: int | None = None,
) -> list[dict[str, Any]]:
    """Return rounds with their counts by state, newest first.

    Args:
        tx: The transaction.
        states: Only rounds in these states; empty for all.
        limit: The largest number; 0 for no limit.
        after: The last round of the page before; None for the first page.
    """
    query = sa.select(rounds).where(IS_NOT_GOLD)
    query = query.where(rounds.c.state.in_(states)) if states else query
    place = None if after is None else [after]
    listed = read_page(tx, query, [rounds.c.id], limit=limit, after=place)
    # Two queries in total, not one per round.
    counted = counts.count_states(tx, [row["id"] for row in listed])
    return [row | {"counts": counted.get(row["id"], {})} for row in listed]


def count_states(tx: Transaction, round_id: int) -> dict[str, int]:
    """Return the number of candidates of a round in each state."""
    return counts.count_states(tx, [round_id]).get(round_id, {})


def check_round(texts: Sequence[Prompt], quota: int, policy: Mapping[str, Any], kind: Kind) -> None:
    """Raise Refused unless a round can be opened with these arguments.

    Args:
        texts: The prompts.
        quota: The number of candidates.
        policy: The selection policy.
        kind: Single layers or pairs.
    """
    if not texts or quota < 1:
        raise Refused(
            "a round needs at least one prompt and a quota of at least 1",
            "see 'layerloop round open --help'",
        )
    if kind is Kind.pair and any(not (text.foreground and text.background) for text in texts):
        raise Refused(
            "a round of pairs needs prompts with three texts",
            "give text, foreground and background for each",
        )
    for index, text in enumerate(texts, 1):
        check_texts(text, f"prompt {index}")
    parse_policy(policy)


def _move(
    tx: Transaction, round_id: int, source: RoundState, target: RoundState, actor: str
) -> None:
    moving = (
        sa.update(rounds)
        .where(rounds.c.id == round_id, IS_NOT_GOLD, rounds.c.state == source)
        .values(state=target)
    )
    # The update matches only the expected state; otherwise report the actual one.
    if not tx.execute(moving).rowcount:
        state = find_round(tx, round_id)["state"]
        raise Conflict(
            f"round {round_id} is {state}, not {source}",
            f"'layerloop round show {round_id}' shows its state",
        )
    tx.log(actor, f"round {target}", f"round {round_id}")


# The sequence follows, for rows that are inserted without an id.
_NEXT_ROUND_ID = sa.text("""
    select setval(pg_get_serial_sequence('rounds', 'id'), coalesce(max(id), 0) + 1) from rounds""")
