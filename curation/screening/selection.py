"""Selection: which screened candidates people see, and with what propensity each was chosen."""

from __future__ import annotations

import sqlalchemy as sa

from curation.database import Transaction
from curation.domain import CandidateState
from curation.rounds import find_round
from curation.tables import candidates


def select_candidates(tx: Transaction, number: int) -> tuple[int, int]:
    """Put a round's screened candidates before people or leave them unshown, by its policy; returns both counts.

    Policy "random" shows each with probability `share`. The coin is the candidate's own id, so that choosing again
    chooses alike, and the propensity kept with it is exact. The order in which people see them is by that coin too.
    """
    share = float(find_round(tx, number)["policy"]["share"])
    # 28 bits of the id (a hash) as a number in [0, 1).
    coin: sa.ColumnClause[float] = sa.literal_column(
        "('x' || substr(replace(candidates.id::text, '-', ''), 1, 7))::bit(28)::int / 268435456.0"
    )
    screened = (candidates.c.round_id == number) & (candidates.c.state == CandidateState.screened)
    shown = tx.execute(
        sa.update(candidates)
        .where(screened, coin < share)
        .values(state=CandidateState.waiting, propensity=share, priority=coin)
    ).rowcount
    unshown = tx.execute(sa.update(candidates).where(screened).values(state=CandidateState.unshown)).rowcount
    return int(shown), int(unshown)
