"""Rounds with work for workers: which round is next, and how large a batch of it should be."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

import sqlalchemy as sa

from curation.db import workers
from curation.db.engine import Transaction
from curation.db.tables import rounds
from curation.domain import JobName, RoundState
from curation.errors import Conflict, Refused
from curation.rounds.lifecycle import find_round

BATCHES_LEFT: Final = 2
"""A batch is at most this fraction of each worker's share of the remaining work.

So the last batches are small, and all workers finish at about the same time.
"""

MAX_PRIORITY: Final = 100


@dataclass(frozen=True)
class RoundWork:
    """A round that has work, with its priority."""

    round_id: int
    priority: int


def next_to_generate(tx: Transaction) -> RoundWork | None:
    """Return the open round whose candidates are generated next, or None.

    The highest priority comes first, then the round with the fewest candidates in generation; ties
    are broken at random.
    """
    return _next(tx, _TO_GENERATE)


def next_to_screen(tx: Transaction) -> RoundWork | None:
    """Return the open round whose candidates are screened next, or None."""
    return _next(tx, _TO_SCREEN)


def shared_batch(tx: Transaction, round_id: int, queue: str, full: int) -> int:
    """Return the size of the next batch of a round, smaller towards its end.

    Args:
        tx: The transaction.
        round_id: The round.
        queue: The queue whose live workers share the round, "generate" or "screen".
        full: The largest size.
    """
    sharing = max(1, workers.count_live_workers(tx, queue))
    if sharing == 1:
        return full
    # With at least `enough` candidates left, the batch is full.
    params = {
        "round": round_id,
        "state": "requested" if queue == "generate" else "generated",
        "enough": full * sharing * BATCHES_LEFT,
    }
    left = int(tx.execute(_LEFT, params).scalar_one())
    return max(1, min(full, ceil(left / (sharing * BATCHES_LEFT))))


def set_rule_reviewer(tx: Transaction, round_id: int, by_rules: bool, actor: str) -> None:
    """Let the rule reviewer decide the waiting candidates of a round, or leave them to people.

    Args:
        tx: The transaction.
        round_id: The round.
        by_rules: Whether the rule reviewer decides.
        actor: The name for the log.

    Raises:
        NotFound: There is no such round.
        Conflict: It is closed.
    """
    row = find_round(tx, round_id)
    if row["state"] == RoundState.closed:
        raise Conflict(f"round {round_id} is closed", "'layerloop round list' shows open rounds")
    if row["rule_reviewer"] != by_rules:
        values = {"rule_reviewer": by_rules}
        tx.execute(sa.update(rounds).where(rounds.c.id == round_id).values(values))
        tx.log(actor, "round reviewer set", f"round {round_id}", rules=by_rules)
    if by_rules:
        tx.enqueue(JobName.review, round_id)


def set_priority(tx: Transaction, round_id: int, priority: int, actor: str) -> None:
    """Set the priority of a round; it applies to the next batches of workers.

    Args:
        tx: The transaction.
        round_id: The round.
        priority: From -MAX_PRIORITY to MAX_PRIORITY; rounds begin at 0, and higher comes first.
        actor: The name for the log.

    Raises:
        NotFound: There is no such round.
        Refused: The priority is out of range.
    """
    if abs(priority) > MAX_PRIORITY:
        raise Refused(
            f"a priority of {priority} is out of range",
            f"give one from {-MAX_PRIORITY} to {MAX_PRIORITY}",
        )
    before = find_round(tx, round_id)["priority"]
    tx.execute(_SET_PRIORITY, {"round": round_id, "priority": priority})
    if before != priority:
        tx.log(actor, "round priority set", f"round {round_id}", before=before, priority=priority)


def fail_reasons(tx: Transaction, round_id: int) -> dict[str, int]:
    """Return the number of failed candidates of a round by the reason of their failure."""
    rows = tx.execute(_FAIL_REASONS, {"round": round_id})
    return {row.reason: row.count for row in rows}


def retry_failed(tx: Transaction, round_id: int, actor: str) -> dict[str, int]:
    """Return failed candidates of a round to the step that failed, and enqueue their jobs.

    Args:
        tx: The transaction.
        round_id: The round.
        actor: The name for the log.

    Returns:
        The number of candidates by the reason of their failure.

    Raises:
        NotFound: There is no such round.
        Refused: The round is closed.
    """
    if find_round(tx, round_id)["state"] == "closed":
        raise Refused(
            f"round {round_id} is closed, so that nothing more is generated in it",
            "open a new round with the same prompts",
        )
    reasons = fail_reasons(tx, round_id)
    tx.execute(_RETRY, {"round": round_id})
    if reasons:
        count = sum(reasons.values())
        tx.log(actor, "round retried", f"round {round_id}", candidates=count, reasons=reasons)
        tx.enqueue(JobName.generate, round_id)
        tx.enqueue(JobName.screen, round_id)
    return reasons


def _next(tx: Transaction, query: sa.TextClause) -> RoundWork | None:
    row = tx.execute(query).first()
    return None if row is None else RoundWork(row.id, row.priority)


_TO_GENERATE = sa.text("""
    select r.id, r.priority from rounds r
    where r.state = 'open' and exists (
        select from candidates c where c.round_id = r.id and c.state = 'requested')
    order by r.priority desc, (
        select count(*) from candidates c where c.round_id = r.id and c.state = 'generating'),
        random() limit 1""")

_TO_SCREEN = sa.text("""
    select r.id, r.priority from rounds r
    where r.state = 'open' and exists (
        select from candidates c where c.round_id = r.id and c.state = 'generated'
            and not exists (select from leases l where l.subject = c.id))
    order by r.priority desc, random() limit 1""")

_LEFT = sa.text("""
    select count(*) from (
        select from candidates where round_id = :round and state = :state limit :enough) found""")

_SET_PRIORITY = sa.text("update rounds set priority = :priority where id = :round")

# Ids and numbers that differ between candidates are left out of the reason.
_FAIL_REASONS = sa.text(r"""
    select coalesce(regexp_replace(note, '[0-9a-f]{12,}|\m\d+\M', '...', 'g'), 'unknown') as reason,
        count(*) as count
    from candidates where round_id = :round and state = 'failed'
    group by 1 order by 2 desc, 1""")

# A candidate whose layers are stored failed in screening.
_RETRY = sa.text("""
    update candidates c set attempts = 0, note = null, changed_at = now(),
        state = case when exists (select from candidate_layers l where l.candidate_id = c.id)
            then 'generated' else 'requested' end
    where round_id = :round and state = 'failed'""")
