"""Selection: which screened candidates people see, each with its probability of being shown.

Random numbers are bits of the candidate's id, which is a hash, so repeating the selection gives the
same result. A mixed policy first splits off the random slice, which is shown whatever the
acceptance model predicts. The other candidates compete for places: the most likely under caps per
prompt and cluster, and the most uncertain. Only as many are queued as reviewers will soon need, so
that the latest decisions influence the next selection; the others stay "screened".

Propensities are exact: the competition never uses the random numbers, and candidates of the random
slice take part in it although they are shown anyway. A candidate that wins a place would have been
shown with certainty (1), the others of the random slice with its share r. Therefore the sum of 1 /
propensity over shown candidates is an unbiased estimate of the number of all (tested), and so are
estimates from the random slice.
"""

from __future__ import annotations

import math
import uuid
from typing import Any, Final

import sqlalchemy as sa

from curation.db.advisory_locks import AdvisoryLock, lock
from curation.db.engine import Transaction
from curation.db.tables import candidates
from curation.domain import CandidateState, Kind
from curation.rounds.lifecycle import find_round
from curation.rounds.policies import (
    AESTHETIC,
    CLIP_SCORE,
    MixedPolicy,
    PaperPolicy,
    RandomPolicy,
    parse_policy,
)
from curation.selection import gates, review_cost
from curation.selection.acceptance_model_store import StoredModel, newest_model, score_round
from curation.selection.hash_buckets import SLICE_BUCKET

QUEUE_TARGET: Final = 192
"""The number of selected candidates kept waiting.

Enough for the review batches of three reviewers, and few enough that the latest model decides.
"""


def select_candidates(tx: Transaction, round_id: int, embedder: str = "") -> tuple[int, int]:
    """Queue screened candidates of a round for review or leave them unshown, by its policy.

    Args:
        tx: The transaction.
        round_id: The round.
        embedder: The source of the embeddings that the acceptance model reads
            (ports.Embedder.source). Without a model, a mixed policy shows its random slice, whose
            decisions then train one.

    Returns:
        The number of candidates shown and left unshown.
    """
    row = find_round(tx, round_id)
    policy = parse_policy(row["policy"])
    if isinstance(policy, RandomPolicy):
        # Simple policies decide each candidate on its own, all at once.
        params = {"round": round_id, "r": policy.share}
        return _count(tx, _SHOW_SHARE, params), _leave_rest(tx, round_id)
    if isinstance(policy, PaperPolicy):
        names = {"aesthetic": AESTHETIC, "clip": CLIP_SCORE}
        shown = _count(
            tx,
            _SHOW_PAPER,
            names | {"round": round_id, "r": policy.random, "above": policy.aesthetic},
        )
        return shown, _leave_rest(tx, round_id)
    # A mixed policy compares candidates, so only one worker may run it for a round.
    lock(tx, AdvisoryLock.select, round_id)
    return _mix(tx, row, policy, newest_model(tx, Kind(row["kind"]), embedder))


def _mix(
    tx: Transaction, row: dict[str, Any], policy: MixedPolicy, newest: StoredModel | None
) -> tuple[int, int]:
    round_id, r = row["id"], policy.random_share(row["quota"])
    # Wait until half of the stock is used: fewer, larger selections score less often.
    gates.close_contradicted(tx, round_id)
    if int(tx.execute(_STOCK, {"round": round_id}).scalar_one()) > QUEUE_TARGET // 2:
        return 0, 0
    shown = 0
    # A round with an active gate keeps the model that the gate was proven for.
    model = gates.gate_model(tx, round_id) or newest
    stopped = review_cost.stop_reason(tx, round_id, policy) is not None
    if model is not None and not stopped:
        score_round(tx, model, round_id)
        gates.run_gates(tx, round_id, policy, r, model)
        shown += _fill_stock(tx, row, policy, r, model)
    if not stopped:
        # The random slice is shown whether there is a model or not.
        expected_shown = policy.share * max(row["quota"], 1)
        params = {"round": round_id, "r": r, "reach": expected_shown, "bound": _highest_id(r)}
        shown += _count(tx, _SHOW_RANDOM, params)
    if shown:
        return shown, 0
    return _end_of_round(tx, round_id, policy, taught=model is not None, stopped=stopped)


def _end_of_round(
    tx: Transaction, round_id: int, policy: MixedPolicy, *, taught: bool, stopped: bool
) -> tuple[int, int]:
    """Leave the rest unshown once all candidates are generated and no selected one waits.

    Called when nothing more was selected.
    """
    counts = tx.execute(_STANDING, {"round": round_id}).one()
    if counts.coming or counts.stock:
        return 0, 0
    shown = 0
    if not taught and not stopped and counts.atdesk == 0:
        # The random slice is reviewed but was not enough for a model: show the rest at random.
        shown = _count(tx, _SHOW_UNTAUGHT, {"round": round_id, "r": policy.share})
    return shown, _leave_rest(tx, round_id) if stopped or taught or counts.atdesk == 0 else 0


def _fill_stock(
    tx: Transaction, row: dict[str, Any], policy: MixedPolicy, r: float, kept: StoredModel
) -> int:
    """Select candidates up to the size of the stock.

    No more than the policy's share of the candidates that have passed screening so far.
    """
    counts = tx.execute(_STANDING, {"round": row["id"]}).one()
    # The random slice has its own share; the competition gives out the rest.
    target = (policy.share - r) / (1 - r) * counts.passed if r < 1 else 0.0
    places = min(QUEUE_TARGET - counts.stock, round(target) - counts.winners)
    if places <= 0 or not counts.screened + counts.unshown:
        return 0
    likely = round(places * policy.likely / (policy.likely + policy.uncertain))
    params = {
        "round": row["id"],
        "acceptance_model": kept.id,
        "r": r,
        "likely": likely,
        "uncertain": places - likely,
        "prompt_cap": policy.per_prompt * target / counts.passed,
        "cluster_cap": policy.per_cluster * target / counts.passed,
        "before": counts.chosen,
        "spread": 1 / (1 - r / policy.share) if r < policy.share else 1.0,
    }
    return int(tx.execute(_GIVE_PLACES, params).scalar_one())


def _leave_rest(tx: Transaction, round_id: int) -> int:
    screened = (candidates.c.round_id == round_id) & (candidates.c.state == CandidateState.screened)
    return int(
        tx.execute(
            sa.update(candidates).where(screened).values(state=CandidateState.unshown)
        ).rowcount
    )


def _highest_id(share: float) -> uuid.UUID:
    """Return the largest id whose random number can be below `share`.

    The random number is the beginning of the id, and ids are the order of the index.
    """
    return uuid.UUID(int=min(math.ceil(share * 2**28) << 100, 2**128 - 1))


def _count(tx: Transaction, statement: sa.TextClause, params: dict[str, Any]) -> int:
    return int(tx.execute(statement, params).rowcount)


# The priority is the same random number, so that any prefix of the queue is a random sample.
_SHOW_SHARE = sa.text(f"""
    update candidates c set state = 'waiting', slice = 'random', propensity = :r,
        priority = {SLICE_BUCKET}
    where round_id = :round and state = 'screened' and {SLICE_BUCKET} < :r""")

_SHOW_PAPER = sa.text(f"""
    update candidates c set state = 'waiting',
        slice = case when {SLICE_BUCKET} < :r then 'random' else 'paper' end,
        propensity = case when (s.signals ->> :aesthetic)::float > :above then 1 else :r end,
        priority = case when {SLICE_BUCKET} < :r then {SLICE_BUCKET} / :r
            else (s.signals ->> :clip)::float / 100 end
    from screenings s
    where c.round_id = :round and c.state = 'screened' and s.candidate_id = c.id
        and ({SLICE_BUCKET} < :r or (s.signals ->> :aesthetic)::float > :above)""")

# A position in the queue is a priority in (-1, 0], so that a skip, which subtracts 1, goes last.
# The random slice is spread over all that will be shown, so that any prefix of the queue has the
# mix of the policy.
_SHOW_RANDOM = sa.text(f"""
    update candidates c set state = 'waiting', slice = 'random', propensity = :r,
        priority = -least({SLICE_BUCKET} / :r * :reach, 2097151) / 2097152.0
    where round_id = :round and state = 'screened' and {SLICE_BUCKET} < :r
        and id <= cast(:bound as uuid)""")

_SHOW_UNTAUGHT = sa.text(f"""
    update candidates c set state = 'waiting', slice = 'uncertain', propensity = :r,
        priority = -0.99
    where round_id = :round and state = 'screened' and {SLICE_BUCKET} < :r""")

_STOCK = sa.text("""
    select count(*) from candidates
    where round_id = :round and state = 'waiting' and slice in ('likely', 'uncertain')""")

_STANDING = sa.text("""
    select
        count(*) filter (where state in ('requested', 'generating', 'generated')) as coming,
        count(*) filter (where state = 'screened') as screened,
        count(*) filter (where state = 'unshown') as unshown,
        count(*) filter (where state in ('waiting', 'showing')) as atdesk,
        count(*) filter (where state = 'waiting' and slice in ('likely', 'uncertain')) as stock,
        count(*) filter (where slice in ('likely', 'uncertain')) as chosen,
        count(*) filter (where slice is not null and slice <> 'audit'
            and propensity = 1) as winners,
        count(*) filter (where state in
            ('screened', 'unshown', 'waiting', 'showing', 'accepted', 'rejected')) as passed
    from candidates where round_id = :round""")

# Competing are the candidates not selected yet, and those of the random slice without a place. A
# rank within prompt or cluster above the cap is excluded, counting candidates with a place.
_GIVE_PLACES = sa.text(f"""
    with known as (
        select c.id, c.prompt_id, c.state, c.slice, k.probability, k.cluster,
            c.slice is not null and c.propensity = 1 as placed,
            c.state in ('screened', 'unshown') and c.slice is null
                or c.slice = 'random' and c.propensity = cast(:r as real) as competes,
            {SLICE_BUCKET} < :r as is_random
        from candidates c
        join scores k on k.candidate_id = c.id and k.acceptance_model_id = :acceptance_model
        where c.round_id = :round
            and (c.state in ('screened', 'unshown', 'waiting', 'showing') or c.slice is not null)),
    prompt_caps as (
        select prompt_id,
            greatest(1, ceil(:prompt_cap * count(*))) - count(*) filter (where placed) as room
        from known group by prompt_id),
    cluster_caps as (
        select cluster,
            greatest(1, ceil(:cluster_cap * count(*))) - count(*) filter (where placed) as room
        from known group by cluster),
    ranked as (
        select known.*,
            row_number() over (partition by prompt_id order by probability desc, id) as in_prompt,
            row_number() over (partition by cluster order by probability desc, id) as in_cluster
        from known where competes),
    likely as (
        select ranked.id, ranked.probability from ranked join prompt_caps using (prompt_id)
        join cluster_caps using (cluster)
        where in_prompt <= prompt_caps.room and in_cluster <= cluster_caps.room
        order by probability desc, id limit :likely),
    uncertain as (
        select id, probability from ranked
        where not exists (select from likely where likely.id = ranked.id)
        order by abs(probability - 0.5), id limit :uncertain),
    winners as (
        select id, 'likely' as slice,
            row_number() over (order by probability desc, id) / (:likely + 1.0) as part
        from likely
        union all
        select id, 'uncertain',
            row_number() over (order by abs(probability - 0.5), id) / (:uncertain + 1.0)
        from uncertain),
    placed as (
        select winners.id, case when is_random then 'random' else winners.slice end as slice,
            competes_anew,
            row_number() over (partition by competes_anew and not is_random
                order by part, winners.id) as place
        from winners
        join (select id, is_random, slice is null as competes_anew from ranked) r using (id)),
    moved as (
        update candidates c set propensity = 1, slice = placed.slice,
            state = case when placed.competes_anew then 'waiting' else c.state end,
            priority = case when placed.competes_anew
                then -least((:before + placed.place) * :spread, 2097151) / 2097152.0
                    else c.priority end
        from placed where placed.id = c.id returning placed.competes_anew)
    select count(*) filter (where competes_anew) from moved""")
