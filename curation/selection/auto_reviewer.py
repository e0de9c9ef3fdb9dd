"""The auto-reviewer: its verdicts are decisions in its own name and can be reverted."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.datasets.samples import add_samples, samples_from_candidates
from curation.db.engine import Transaction
from curation.db.tables import rounds, samples
from curation.domain import Role, Verdict
from curation.errors import Refused
from curation.review.reviewers import AUTO_REVIEWER, add_reviewer
from curation.review.verdicts import IS_STANDING

BATCH_SIZE: Final = 5_000


def decide_all(tx: Transaction, ids: Sequence[uuid.UUID], verdict: Verdict, comment: str) -> int:
    """Accept or reject candidates that were never shown, with one decision each.

    Candidates that are neither screened nor unshown are skipped, so the call is idempotent.
    Accepted ones become samples.

    Args:
        tx: The transaction.
        ids: The candidates.
        verdict: Accept or reject.
        comment: The comment of the decisions, which states their reason.

    Returns:
        The number of candidates decided.
    """
    auto_reviewer_id = add_reviewer(tx, AUTO_REVIEWER, Role.annotator, AUTO_REVIEWER).id
    decided = 0
    for start in range(0, len(ids), BATCH_SIZE):
        params = {
            "ids": list(ids[start : start + BATCH_SIZE]),
            "auto_reviewer": auto_reviewer_id,
            "verdict": verdict,
            "comment": comment,
            "state": "accepted" if verdict is Verdict.accept else "rejected",
        }
        moved = [row.candidate_id for row in tx.execute(_DECIDE, params)]
        if verdict is Verdict.accept:
            add_samples(tx, samples_from_candidates(tx, moved))
        decided += len(moved)
    return decided


def revert_auto_verdicts(tx: Transaction, round_id: int, actor: str) -> int:
    """Revert every standing verdict of the auto-reviewer in a round.

    The candidates become "unshown" again and their samples are withdrawn; the decisions stay, with
    an undo each.

    Args:
        tx: The transaction.
        round_id: The round.
        actor: The name for the log.

    Returns:
        The number of verdicts reverted.

    Raises:
        Refused: The round is closed, so its verdicts are final.
    """
    # A shared lock on the round, so that it cannot be closed meanwhile.
    state = tx.scalar(
        sa.select(rounds.c.state).where(rounds.c.id == round_id).with_for_update(read=True)
    )
    if state == "closed":
        raise Refused(f"round {round_id} is closed", "decisions of a closed round are final")
    # Undo the decisions first, then move the candidates and withdraw their samples in batches.
    undone = [row.candidate_id for row in tx.execute(_UNDO, {"round": round_id})]
    for start in range(0, len(undone), BATCH_SIZE):
        batch = undone[start : start + BATCH_SIZE]
        tx.execute(_UNSHOW, {"ids": batch})
        tx.execute(
            sa.update(samples)
            .where(samples.c.candidate_id.in_(batch))
            .values(withdrawn_at=sa.func.now())
        )
    tx.log(actor, "machine's verdicts taken back", f"round {round_id}", count=len(undone))
    return len(undone)


def _of_ids(text: str) -> sa.TextClause:
    return sa.text(text).bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))


# The key has the candidate and its number of undos, so that a decision after an undo is a new one.
_DECIDE = _of_ids("""
    with moved as (
        update candidates set state = :state, settled_by = :auto_reviewer where id = any(:ids)
            and state in ('screened', 'unshown')
        returning id, round_id)
    insert into decisions (candidate_id, reviewer_id, verdict, comment, channel, key, checkpoint_id)
    select moved.id, :auto_reviewer, :verdict, :comment, 'auto_reviewer',
        md5('machine ' || moved.id || ' ' || (select count(*) from decisions u
            where u.candidate_id = moved.id and u.verdict = 'undo'))::uuid,
        r.checkpoint_id
    from moved join rounds r on r.id = moved.round_id returning candidate_id""")

_UNDO = sa.text(f"""
    insert into decisions (candidate_id, reviewer_id, verdict, channel, key, undoes, checkpoint_id)
    select d.candidate_id, d.reviewer_id, 'undo', d.channel, md5('machine undo ' || d.id)::uuid,
    d.id,
        d.checkpoint_id
    from decisions d join candidates c on c.id = d.candidate_id
    where c.round_id = :round and d.channel = 'auto_reviewer' and {IS_STANDING}
    returning candidate_id""")

_UNSHOW = _of_ids("""
    update candidates set state = 'unshown'
    where id = any(:ids) and state in ('accepted', 'rejected')""")
