"""Top-N acceptance: keep the best N of a round without review, if an audit proves them good.

It corresponds to the paper's last round (5 million pairs, of which 1 million are kept). The
acceptance model scores the round; the N best under caps per prompt and cluster are fixed first,
then a random part of them is reviewed, and once all of that part is decided, the Clopper-Pearson
lower bound on the accepted share of all N is computed at 95 % confidence. Only if it reaches the
required share does the auto-reviewer accept the others, in its own name. An audit is evaluated
once, when it is complete, and repeated attempts in the same round spend more of the 5 %
(bounds.spend). All steps are set operations: a million candidates take a few statements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from curation.db.advisory_locks import AdvisoryLock, lock
from curation.db.engine import Transaction
from curation.db.tables import top_n_runs
from curation.domain import Kind, RoundState, Verdict
from curation.errors import Conflict, Refused
from curation.rounds.lifecycle import find_round
from curation.selection import auto_reviewer
from curation.selection.acceptance_model_store import find_model, score_round
from curation.selection.top_n_report import describe_top_n, find_top_n
from curation.statistics import bounds


@dataclass(frozen=True)
class TopNSettings:
    """Keep the best `keep`, audit `audit` of them, and accept if a share of `least` is proven.

    No prompt and no cluster gets more than `per_prompt` and `per_cluster` times its fair share.
    """

    keep: int
    audit: int = 300
    least: float = 0.9
    per_prompt: float = 3.0
    per_cluster: float = 3.0


def plan_top_n(tx: Transaction, round_id: int, terms: TopNSettings) -> dict[str, Any]:
    """Return what top-N acceptance would keep, and what its audit could prove at best.

    Scores are written, nothing else is.

    Args:
        tx: The transaction.
        round_id: The round.
        terms: The parameters.

    Raises:
        NotFound: There is no acceptance model.
        Conflict: The round is still being generated, or is not open.
        Refused: The parameters are invalid.
    """
    row = find_round(tx, round_id)
    # Each attempt in a round spends a part of the error level.
    level = bounds.interim_level(1 + int(tx.execute(_ATTEMPTS, {"round": round_id}).scalar_one()))
    _check_terms(terms, level)
    _check_drawn(tx, row)
    kept = find_model(tx, Kind(row["kind"]))
    scored = score_round(tx, kept, round_id)
    found = dict(
        tx.execute(_PLAN, {"round": round_id, "acceptance_model": kept.id} | asdict(terms))
        .mappings()
        .one()
    )
    limits = {"level": level, "scored": scored, "most_rejects": _most_rejects(terms, level)}
    return {"round": round_id, "acceptance_model": kept.id} | asdict(terms) | found | limits


def begin_top_n(tx: Transaction, round_id: int, terms: TopNSettings, actor: str) -> dict[str, Any]:
    """Fix the best of a round and queue a random part of them for review.

    Args:
        tx: The transaction.
        round_id: The round.
        terms: The parameters.
        actor: The name for the log.

    Returns:
        The state of the run, as `describe` returns it.

    Raises:
        Conflict: A run is in progress in this round, or too few candidates are left.
        NotFound: As for `plan_top_n`.
        Refused: As for `plan_top_n`.
    """
    lock(tx, AdvisoryLock.accept_top_n, round_id)
    if find_top_n(tx, round_id, ended=False) is not None:
        raise Conflict(
            f"a top-N acceptance of round {round_id} is in progress",
            f"'layerloop round accept-top {round_id}' continues it",
        )
    plan = plan_top_n(tx, round_id, terms)
    if plan["kept"] < terms.audit:
        raise Conflict(
            f"only {plan['kept']} of round {round_id} can be kept, fewer than {terms.audit} "
            "to audit",
            "generate more, or loosen the caps (--per-prompt, --per-cluster)",
        )
    row = {
        "round_id": round_id,
        "acceptance_model_id": plan["acceptance_model"],
        "keep": terms.keep,
        "audit": terms.audit,
        "min_share": terms.least,
        "metrics": {"level": plan["level"]},
    }
    # Fix the kept candidates before the audit is drawn, so that verdicts cannot change the set.
    top_n_run = int(tx.execute(sa.insert(top_n_runs).returning(top_n_runs.c.id), row).scalar_one())
    tx.execute(
        _FIX,
        {"round": round_id, "acceptance_model": plan["acceptance_model"], "top_n_run": top_n_run}
        | asdict(terms),
    )
    tx.execute(_SHOW_AUDIT, {"top_n_run": top_n_run, "share": terms.audit / plan["kept"]})
    tx.log(
        actor,
        "top-n begun",
        f"round {round_id}",
        top_n_run=top_n_run,
        acceptance_model=plan["acceptance_model"],
        **asdict(terms),
    )
    return describe_top_n(tx, round_id)


def finish_top_n(
    tx: Transaction, round_id: int, actor: str, *, dry_run: bool = False
) -> dict[str, Any]:
    """End the run in progress once its audit is complete: accept the kept candidates, or refuse.

    While some of the audit waits, and with `dry_run`, only the state is returned. Idempotent.

    Args:
        tx: The transaction.
        round_id: The round.
        actor: The name for the log.
        dry_run: Only return the state.

    Raises:
        NotFound: The round has no run.
    """
    lock(tx, AdvisoryLock.accept_top_n, round_id)
    status = describe_top_n(tx, round_id)
    if status["outcome"] or status["waiting"] or dry_run:
        return status
    proven = status["bound"] >= status["least"]
    metrics = {name: status[name] for name in ("level", "accepted", "judged", "bound")}
    # The audited candidates have people's verdicts; only the others are accepted automatically.
    if proven:
        ids = [row.candidate_id for row in tx.execute(_REST, {"top_n_run": status["top_n_run"]})]
        sentence = (
            f"by top-N acceptance {status['top_n_run']}: at least {status['bound']:.1%} of the "
            "kept candidates would be accepted"
        )
        confidence = f"with confidence {1 - status['level']:.1%}"
        metrics["auto_accepted"] = auto_reviewer.decide_all(
            tx, ids, Verdict.accept, f"{sentence}, {confidence}"
        )
    outcome = "accepted" if proven else "refused"
    ended = {"outcome": outcome, "metrics": metrics, "ended_at": sa.func.now()}
    tx.execute(sa.update(top_n_runs).where(top_n_runs.c.id == status["top_n_run"]).values(ended))
    tx.log(actor, f"top-n {outcome}", f"round {round_id}", top_n_run=status["top_n_run"], **metrics)
    return describe_top_n(tx, round_id)


def _check_terms(terms: TopNSettings, level: float) -> None:
    if not 0 < terms.audit <= terms.keep or not 0 < terms.least < 1:
        raise Refused(
            f"cannot keep {terms.keep}, audit {terms.audit} and prove {terms.least:g}",
            "audit at most the number kept, and require a share in (0, 1)",
        )
    if _most_rejects(terms, level) < 0:
        needed = bounds.min_sample_size(1 - terms.least, level)
        raise Refused(
            f"an audit of {terms.audit} cannot prove that {terms.least:.0%} are acceptable, even "
            "if all of them are",
            f"audit at least {needed}, better three times as many",
        )


def _check_drawn(tx: Transaction, row: Mapping[str, Any]) -> None:
    round_id = row["id"]
    if row["state"] != RoundState.open:
        raise Conflict(
            f"round {round_id} is {row['state']}, so its audit would not be shown",
            "choose an open round",
        )
    unfinished = int(tx.execute(_COMING, {"round": round_id}).scalar_one())
    if unfinished:
        hint = "wait for generation and screening; 'layerloop round show' shows the progress"
        raise Conflict(
            f"{unfinished} candidates of round {round_id} are not generated and screened yet", hint
        )


def _most_rejects(terms: TopNSettings, level: float) -> int:
    """Return the largest number of rejects in the audit that still proves the share, or -1."""
    # Binary search: the bound falls with every reject.
    low, high = -1, terms.audit
    while low < high:
        middle = (low + high + 1) // 2
        if bounds.exact_bounds(terms.audit - middle, terms.audit, level).low >= terms.least:
            low = middle
        else:
            high = middle - 1
    return low


_ATTEMPTS = sa.text(
    "select count(*) from top_n_runs where round_id = :round and ended_at is not null"
)

_COMING = sa.text("""
    select count(*) from candidates where round_id = :round
        and state in ('requested', 'generating', 'generated')""")

# Ranks within prompt or cluster above the cap are excluded; then the best of the rest are taken.
_BEST = """
    known as (
        select c.id, c.prompt_id, k.cluster, k.probability from candidates c
        join scores k on k.candidate_id = c.id and k.acceptance_model_id = :acceptance_model
        where c.round_id = :round and c.state in ('screened', 'unshown')),
    ranked as (
        select known.*, count(*) over () as pool,
            row_number() over (partition by prompt_id order by probability desc, id) as in_prompt,
            count(*) over (partition by prompt_id) as prompts,
            row_number() over (partition by cluster order by probability desc, id) as in_cluster,
            count(*) over (partition by cluster) as clusters
        from known),
    best as (
        select id, prompt_id, probability, pool from ranked
        where in_prompt <= greatest(1, ceil(:per_prompt * :keep * prompts / pool))
            and in_cluster <= greatest(1, ceil(:per_cluster * :keep * clusters / pool))
        order by probability desc, id limit :keep)"""

_PLAN = sa.text(f"""
    with {_BEST}
    select coalesce(max(pool), 0) as pool, count(*) as kept, avg(probability) as expected,
        min(probability) as lowest,
        count(distinct prompt_id) as prompts,
        (select avg(probability) from known) as expected_of_all
    from best""")

# The audit is ordered by the md5 of run and candidate: reproducible and independent of the scores.
_FIX = sa.text(f"""
    with {_BEST}
    insert into top_n_members (candidate_id, top_n_run_id, audited)
    select id, :top_n_run,
        row_number() over (order by md5('audit ' || :top_n_run || ' ' || id)) <= :audit
    from best""")

# Audited candidates come first in the queue, since the run waits for them.
_SHOW_AUDIT = sa.text("""
    update candidates c set state = 'waiting', slice = 'audit', propensity = :share, priority = 1
    from top_n_members s
    where s.top_n_run_id = :top_n_run and s.audited and s.candidate_id = c.id""")


_REST = sa.text("""
    select s.candidate_id from top_n_members s join candidates c on c.id = s.candidate_id
    where s.top_n_run_id = :top_n_run and not s.audited and c.state in ('screened', 'unshown')""")
