"""Choosing: which screened candidates people see, by the round's policy, each with the probability of being shown.

Coins are bits of the candidate's own id, a hash: choosing again chooses alike. A mixed policy first parts candidates by
such a coin: the random slice is shown whatever the acceptance model says of it. The others compete for places: the
likeliest under caps for each prompt and cluster, and those of which the head is least sure. Only so many are put up as
the desk soon needs, so that whatever people have said since has a say; the others stay "screened".

Propensities are exact: the competition never looks at coins, and candidates of the random slice take part in it though
they are shown anyway. Whoever wins a place would have been shown for certain (1), the others of the random slice with
its own share r. So the sum of 1 / propensity over what is shown is without bias for the number of all (a test), and
so is what the random slice says of all.
"""

from __future__ import annotations

import math
import uuid
from typing import Any, Final

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import candidates
from curation.domain import CandidateState, Kind
from curation.rounds.lifecycle import find_round
from curation.rounds.policies import AESTHETIC, CLIP_SCORE, Mixed, Paper, Random, read_policy
from curation.selection import gates, review_cost
from curation.selection.acceptance_model_store import StoredModel, newest_head, score_round
from curation.selection.hash_buckets import SLICE_COIN

STOCK: Final = 192
"""So many chosen candidates wait at the desk: trays for three, and few enough that the latest head has a say."""

LOCK: Final = 7_201_115  # with the round's number: two workers never choose for one round at once


def select_candidates(tx: Transaction, number: int, embedder: str = "") -> tuple[int, int]:
    """Put screened candidates of a round before people or leave them unshown, by its policy; returns both counts.

    embedder: whose embeddings the acceptance model reads (ports.Embedder.source); without a head a mixed policy shows
    its random slice, and what people say of that teaches one.
    """
    row = find_round(tx, number)
    policy = read_policy(row["policy"])
    if isinstance(policy, Random):
        asked = {"round": number, "r": policy.share}
        return _count(tx, _SHOW_SHARE, asked), _leave_rest(tx, number)
    if isinstance(policy, Paper):
        names = {"aesthetic": AESTHETIC, "clip": CLIP_SCORE}
        shown = _count(
            tx,
            _SHOW_PAPER,
            names | {"round": number, "r": policy.random, "above": policy.aesthetic},
        )
        return shown, _leave_rest(tx, number)
    tx.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK, number)))
    return _mix(tx, row, policy, newest_head(tx, Kind(row["kind"]), embedder))


def _mix(
    tx: Transaction, row: dict[str, Any], policy: Mixed, newest: StoredModel | None
) -> tuple[int, int]:
    number, r = row["id"], policy.random_share(row["quota"])
    gates.close_contradicted(tx, number)
    if int(tx.execute(_STOCK, {"round": number}).scalar_one()) > STOCK // 2:
        return 0, 0
    shown = 0
    kept = gates.head_of(tx, number) or newest
    stopped = review_cost.why_stop(tx, number, policy) is not None
    if kept is not None and not stopped:
        score_round(tx, kept, number)
        gates.pass_gates(tx, number, policy, r, kept)
        shown += _fill_stock(tx, row, policy, r, kept)
    if not stopped:
        reach = policy.share * max(row["quota"], 1)
        asked = {"round": number, "r": r, "reach": reach, "bound": _highest_id(r)}
        shown += _count(tx, _SHOW_RANDOM, asked)
    if shown:
        return shown, 0
    return _end_of_round(tx, number, policy, taught=kept is not None, stopped=stopped)


def _end_of_round(
    tx: Transaction, number: int, policy: Mixed, *, taught: bool, stopped: bool
) -> tuple[int, int]:
    """Where nothing more was chosen: once all is drawn and nothing chosen waits, the rest is left unshown."""
    stand = tx.execute(_STANDING, {"round": number}).one()
    if stand.coming or stand.stock:
        return 0, 0
    shown = 0
    if not taught and not stopped and stand.atdesk == 0:
        # The random slice has been judged and taught no head: the rest of the share is as good a guess as any.
        shown = _count(tx, _SHOW_UNTAUGHT, {"round": number, "r": policy.share})
    return shown, _leave_rest(tx, number) if stopped or taught or stand.atdesk == 0 else 0


def _fill_stock(
    tx: Transaction, row: dict[str, Any], policy: Mixed, r: float, kept: StoredModel
) -> int:
    """Give out places: as many as the stock lacks and the share of what has passed so far still allows."""
    stand = tx.execute(_STANDING, {"round": row["id"]}).one()
    target = (policy.share - r) / (1 - r) * stand.passed if r < 1 else 0.0
    places = min(STOCK - stand.stock, round(target) - stand.winners)
    if places <= 0 or not stand.screened + stand.unshown:
        return 0
    likely = round(places * policy.likely / (policy.likely + policy.uncertain))
    asked = {
        "round": row["id"], "head": kept.id, "r": r, "likely": likely, "uncertain": places - likely,
        "prompt_cap": policy.per_prompt * target / stand.passed,
        "cluster_cap": policy.per_cluster * target / stand.passed,
        "before": stand.chosen, "spread": 1 / (1 - r / policy.share) if r < policy.share else 1.0,
    }  # fmt: skip
    return int(tx.execute(_GIVE_PLACES, asked).scalar_one())


def _leave_rest(tx: Transaction, number: int) -> int:
    screened = (candidates.c.round_id == number) & (candidates.c.state == CandidateState.screened)
    return int(
        tx.execute(
            sa.update(candidates).where(screened).values(state=CandidateState.unshown)
        ).rowcount
    )


def _highest_id(share: float) -> uuid.UUID:
    """No id above it has a coin below `share`: the coin is how ids begin, and ids are what the index is sorted by."""
    return uuid.UUID(int=min(math.ceil(share * 2**28) << 100, 2**128 - 1))


def _count(tx: Transaction, statement: sa.TextClause, asked: dict[str, Any]) -> int:
    return int(tx.execute(statement, asked).rowcount)


# People see them in the order of the coin too: any beginning of it is a random part.
_SHOW_SHARE = sa.text(f"""
    update candidates c set state = 'waiting', slice = 'random', propensity = :r,
        priority = {SLICE_COIN}
    where round_id = :round and state = 'screened' and {SLICE_COIN} < :r""")

_SHOW_PAPER = sa.text(f"""
    update candidates c set state = 'waiting',
        slice = case when {SLICE_COIN} < :r then 'random' else 'paper' end,
        propensity = case when (s.signals ->> :aesthetic)::float > :above then 1 else :r end,
        priority = case when {SLICE_COIN} < :r then {SLICE_COIN} / :r
            else (s.signals ->> :clip)::float / 100 end
    from screenings s
    where c.round_id = :round and c.state = 'screened' and s.candidate_id = c.id
        and ({SLICE_COIN} < :r or (s.signals ->> :aesthetic)::float > :above)""")

# A place in the row is a priority in (-1, 0]: a skip, which takes 1 off, goes behind all. The random slice is spread
# over all that will be shown, so that any beginning of the row is mixed as the policy says.
_SHOW_RANDOM = sa.text(f"""
    update candidates c set state = 'waiting', slice = 'random', propensity = :r,
        priority = -least({SLICE_COIN} / :r * :reach, 2097151) / 2097152.0
    where round_id = :round and state = 'screened' and {SLICE_COIN} < :r
        and id <= cast(:bound as uuid)""")

_SHOW_UNTAUGHT = sa.text(f"""
    update candidates c set state = 'waiting', slice = 'uncertain', propensity = :r,
        priority = -0.99
    where round_id = :round and state = 'screened' and {SLICE_COIN} < :r""")

_STOCK = sa.text("""
    select count(*) from candidates
    where round_id = :round and state = 'waiting' and slice in ('likely', 'uncertain')""")

_STANDING = sa.text("""
    select
        count(*) filter (where state in ('requested', 'drawing', 'drawn')) as coming,
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

# `pool` are those who compete: not chosen yet, and of the random slice those without a place. A rank within prompt and
# cluster above the cap is out, counting who has a place already.
_GIVE_PLACES = sa.text(f"""
    with known as (
        select c.id, c.prompt_id, c.state, c.slice, k.chance, k.cluster,
            c.slice is not null and c.propensity = 1 as placed,
            c.state in ('screened', 'unshown') and c.slice is null
                or c.slice = 'random' and c.propensity = cast(:r as real) as competes,
            {SLICE_COIN} < :r as is_random
        from candidates c join scores k on k.candidate_id = c.id and k.head_id = :head
        where c.round_id = :round
            and (c.state in ('screened', 'unshown', 'waiting', 'showing') or c.slice is not null)),
    prompt_caps as (
        select prompt_id, greatest(1, ceil(:prompt_cap * count(*))) - count(*)
            filter (where placed) as room
        from known group by prompt_id),
    cluster_caps as (
        select cluster, greatest(1, ceil(:cluster_cap * count(*))) - count(*)
            filter (where placed) as room
        from known group by cluster),
    ranked as (
        select known.*,
            row_number() over (partition by prompt_id order by chance desc, id) as in_prompt,
            row_number() over (partition by cluster order by chance desc, id) as in_cluster
        from known where competes),
    likely as (
        select ranked.id, ranked.chance from ranked join prompt_caps using (prompt_id)
        join cluster_caps using (cluster)
        where in_prompt <= prompt_caps.room and in_cluster <= cluster_caps.room
        order by chance desc, id limit :likely),
    uncertain as (
        select id, chance from ranked where not exists (select from likely
            where likely.id = ranked.id)
        order by abs(chance - 0.5), id limit :uncertain),
    winners as (
        select id, 'likely' as slice, row_number() over (order by chance desc,
            id) / (:likely + 1.0) as part from likely
        union all
        select id, 'uncertain', row_number() over (order by abs(chance - 0.5),
            id) / (:uncertain + 1.0) from uncertain),
    placed as (
        select winners.id, case when is_random then 'random' else winners.slice end as slice,
            competes_anew,
            row_number() over (partition by competes_anew and not is_random
                order by part, winners.id) as place
        from winners join (select id, is_random, slice is null as competes_anew
            from ranked) r using (id)),
    moved as (
        update candidates c set propensity = 1, slice = placed.slice,
            state = case when placed.competes_anew then 'waiting' else c.state end,
            priority = case when placed.competes_anew
                then -least((:before + placed.place) * :spread, 2097151) / 2097152.0
                    else c.priority end
        from placed where placed.id = c.id returning placed.competes_anew)
    select count(*) filter (where competes_anew) from moved""")
