"""Rounds: prompts, a checkpoint, a quota and a selection policy, opened, paused and closed as one thing."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.datasets.samples import StoredLayer, record_layers
from curation.db.engine import Transaction
from curation.db.tables import candidate_layers, candidates, gold, leases, prompts, rounds
from curation.domain import CandidateState, Kind, LayerRole, Prompt, RoundState, content_id
from curation.errors import Conflict, NotFound, Refused
from curation.prompts.files import check_texts
from curation.rounds.policies import read_policy, write_policy

SHOW_ALL: Mapping[str, Any] = {"kind": "random", "share": 1.0}
"""The selection policy that shows people everything that passes screening."""

STANDING = ("requested", "drawing", "drawn", "screened", "waiting", "showing")
"""The states from which a candidate still goes on; closing its round withdraws it."""

INSERT_AT_ONCE = 5_000

GOLD = "gold"
"""The purpose of the one round that all gold belongs to: no figure of another round can count it."""
NOT_GOLD = rounds.c.purpose != GOLD


def open_round(
    tx: Transaction,
    *,
    checkpoint: str,
    prompts_: Sequence[Prompt],
    quota: int,
    seed: int = 0,
    policy: Mapping[str, Any] = SHOW_ALL,
    kind: Kind = Kind.single,
    actor: str,
) -> int:
    """Add a round and its candidates, all "requested", and ask for their drawing. Returns the round's number.

    The quota goes round the prompts: candidate i is drawn from prompt i modulo their number, with a seed of its own.
    """
    check_round(prompts_, quota, policy, kind)
    rules = write_policy(read_policy(policy))
    row = {
        "purpose": "drawn",
        "kind": kind,
        "checkpoint_id": checkpoint,
        "quota": quota,
        "policy": rules,
    }
    number = int(
        tx.execute(
            sa.insert(rounds).returning(rounds.c.id), row | {"state": RoundState.open}
        ).scalar_one()
    )
    add_prompts(tx, prompts_)
    for start in range(0, quota, INSERT_AT_ONCE):
        indexes = range(start, min(start + INSERT_AT_ONCE, quota))
        tx.execute(
            sa.insert(candidates),
            [_request(number, checkpoint, prompts_, seed, i) for i in indexes],
        )
    tx.log(
        actor, "round opened", f"round {number}", checkpoint=checkpoint, quota=quota, policy=rules
    )
    tx.ask("draw", number)
    return number


def add_prompts(tx: Transaction, texts: Sequence[Prompt]) -> None:
    """Record prompts; equal texts are one prompt."""
    rows = [
        {"id": p.id, "text": p.text, "foreground": p.foreground, "background": p.background}
        for p in set(texts)
    ]
    tx.execute(insert(prompts).on_conflict_do_nothing(), rows)


def open_seed_review(tx: Transaction, actor: str, kind: Kind = Kind.single) -> int:
    """The open round in which people look at imports that screening was unsure of; made when there is none."""
    open_one = (
        (rounds.c.purpose == "seeds")
        & (rounds.c.kind == kind)
        & (rounds.c.state != RoundState.closed)
    )
    number = tx.scalar(sa.select(rounds.c.id).where(open_one).order_by(rounds.c.id))
    if number is None:
        row = {
            "purpose": "seeds",
            "kind": kind,
            "quota": 0,
            "policy": dict(SHOW_ALL),
            "state": RoundState.open,
        }
        number = tx.execute(sa.insert(rounds).returning(rounds.c.id), row).scalar_one()
        tx.log(actor, "round opened", f"round {number}", purpose="seeds")
    return int(number)


def add_for_review(
    tx: Transaction,
    number: int,
    layers: Mapping[LayerRole, StoredLayer],
    prompt: Prompt,
    flags: Sequence[str],
    origin: Mapping[str, Any],
) -> uuid.UUID:
    """Put an import before people with the codes it was flagged with; adding it twice adds it once.

    `origin` carries "licence", "source" and, where the metadata gave one, "split".
    """
    record_layers(tx, list(layers.values()))
    add_prompts(tx, [prompt])
    seen = [layers[role].visible for role in LayerRole if role in layers]
    candidate = content_id("candidate", "import", *seen)
    row = {
        "id": candidate,
        "round_id": number,
        "prompt_id": prompt.id,
        "seed": int(seen[0][:15], 16),
        "state": CandidateState.waiting,
        "propensity": 1.0,
        "flags": list(flags),
        "origin": dict(origin),
    }
    if tx.execute(insert(candidates).on_conflict_do_nothing(), row).rowcount:
        rows = [
            {"candidate_id": candidate, "role": role, "sha256": one.sha256}
            for role, one in layers.items()
        ]
        tx.execute(sa.insert(candidate_layers), rows)
        tx.execute(sa.update(rounds).where(rounds.c.id == number).values(quota=rounds.c.quota + 1))
    return candidate


def pause_round(tx: Transaction, number: int, actor: str) -> None:
    """Draw nothing and show nothing more of it until it is resumed; what was given to reviewers may be decided."""
    _move(tx, number, RoundState.open, RoundState.paused, actor)


def resume_round(tx: Transaction, number: int, actor: str) -> None:
    """Go on with a paused round."""
    _move(tx, number, RoundState.paused, RoundState.open, actor)
    tx.ask("draw", number)
    tx.ask("screen", number)


def close_round(tx: Transaction, number: int, actor: str) -> int:
    """End a round: what has no verdict is withdrawn. Returns how many were; closing twice is closing once."""
    # Locked first: a decision or an undo that is under way is over before its candidate is looked at here.
    locked = sa.select(rounds.c.state).where(rounds.c.id == number, NOT_GOLD).with_for_update()
    if tx.scalar(locked) in {None, RoundState.closed}:
        find_round(tx, number)
        return 0
    mine = (candidates.c.round_id == number) & candidates.c.state.in_(STANDING)
    tx.execute(
        sa.delete(leases).where(leases.c.subject.in_(sa.select(candidates.c.id).where(mine)))
    )
    hidden = candidates.c.id.in_(sa.select(gold.c.candidate_id).where(gold.c.round_id == number))
    tx.execute(
        sa.delete(leases).where(leases.c.subject.in_(sa.select(candidates.c.id).where(hidden)))
    )
    tx.execute(sa.update(candidates).where(hidden).values(state=CandidateState.withdrawn))
    withdrawn = tx.execute(
        sa.update(candidates).where(mine).values(state=CandidateState.withdrawn)
    ).rowcount
    tx.execute(
        sa.update(rounds)
        .where(rounds.c.id == number)
        .values(state=RoundState.closed, closed_at=sa.func.now())
    )
    tx.log(actor, "round closed", f"round {number}", withdrawn=withdrawn)
    return int(withdrawn)


def find_round(tx: Transaction, number: int) -> dict[str, Any]:
    """One round's row. Raises NotFound, also for the round that all gold belongs to: it is nobody's."""
    row = tx.execute(sa.select(rounds).where(rounds.c.id == number, NOT_GOLD)).mappings().first()
    if row is None:
        raise NotFound(f"there is no round {number}", "'layerloop round list' shows them")
    return dict(row)


def list_rounds(tx: Transaction) -> list[dict[str, Any]]:
    """Every round with its counts by state, oldest first."""
    counted = sa.select(candidates.c.round_id, candidates.c.state, sa.func.count().label("n"))
    counts: dict[int, dict[str, int]] = {}
    for row in tx.execute(counted.group_by(candidates.c.round_id, candidates.c.state)):
        counts.setdefault(row.round_id, {})[row.state] = row.n
    listed = tx.execute(sa.select(rounds).where(NOT_GOLD).order_by(rounds.c.id)).mappings()
    return [dict(row) | {"counts": counts.get(row["id"], {})} for row in listed]


def list_candidates(
    tx: Transaction, number: int | None = None, state: CandidateState | None = None, limit: int = 0
) -> list[dict[str, Any]]:
    """Return candidates by round and id: of one round, in one state, and at most `limit` where it is not 0.

    Raises NotFound where there is no such round.
    """
    if number is not None:
        find_round(tx, number)
    layers = sa.func.jsonb_object_agg(candidate_layers.c.role, candidate_layers.c.sha256)
    mine = candidate_layers.c.candidate_id == candidates.c.id
    listed = sa.select(
        candidates.c.id,
        candidates.c.round_id.label("round"),
        candidates.c.state,
        candidates.c.seed,
        prompts.c.text.label("prompt"),
        prompts.c.foreground,
        prompts.c.background,
        candidates.c.flags,
        candidates.c.slice,
        candidates.c.note,
        candidates.c.changed_at,
        sa.select(layers).where(mine).scalar_subquery().label("layers"),
    ).join(prompts, prompts.c.id == candidates.c.prompt_id)
    if number is not None:
        listed = listed.where(candidates.c.round_id == number)
    if state is not None:
        listed = listed.where(candidates.c.state == state)
    listed = listed.order_by(candidates.c.round_id, candidates.c.id)
    return [dict(row) for row in tx.execute(listed.limit(limit) if limit else listed).mappings()]


def count_states(tx: Transaction, number: int) -> dict[str, int]:
    """How many candidates of a round stand in each state."""
    counted = sa.select(candidates.c.state, sa.func.count().label("n")).where(
        candidates.c.round_id == number
    )
    return {row.state: row.n for row in tx.execute(counted.group_by(candidates.c.state))}


def check_round(texts: Sequence[Prompt], quota: int, policy: Mapping[str, Any], kind: Kind) -> None:
    """Raise Refused unless a round can be opened with these."""
    if not texts or quota < 1:
        raise Refused(
            "a round needs a prompt and a quota of at least 1", "see 'layerloop round open --help'"
        )
    if kind is Kind.pair and any(not (one.foreground and one.background) for one in texts):
        raise Refused(
            "a round of pairs needs prompts of three texts",
            "text, foreground and background for each",
        )
    for place, text in enumerate(texts, 1):
        check_texts(text, f"prompt {place}")
    read_policy(policy)


def _request(
    number: int, checkpoint: str, texts: Sequence[Prompt], seed: int, index: int
) -> dict[str, Any]:
    prompt = texts[index % len(texts)]
    drawn = hashlib.sha256(f"{seed}:{number}:{index}".encode()).digest()
    candidate_seed = int.from_bytes(drawn[:4], "big")
    return {
        "id": content_id("candidate", number, prompt.id, candidate_seed, checkpoint),
        "round_id": number,
        "prompt_id": prompt.id,
        "seed": candidate_seed,
        "state": CandidateState.requested,
    }


def _move(tx: Transaction, number: int, source: RoundState, target: RoundState, actor: str) -> None:
    moving = (
        sa.update(rounds)
        .where(rounds.c.id == number, NOT_GOLD, rounds.c.state == source)
        .values(state=target)
    )
    if not tx.execute(moving).rowcount:
        state = find_round(tx, number)["state"]
        raise Conflict(
            f"round {number} is {state}, not {source}",
            f"'layerloop round show {number}' tells where it is",
        )
    tx.log(actor, f"round {target}", f"round {number}")
