"""Selection: exact propensities, the same choice twice, nothing left behind."""

from __future__ import annotations

import sqlalchemy as sa

from curation.database import Database
from curation.domain import CandidateState
from curation.objects import FolderStore
from curation.screening.selection import select_candidates
from curation.tables import candidates, rounds
from tests.making import make_candidates, make_round, states


def test_a_share_of_one_shows_all(database: Database, store: FolderStore) -> None:
    with database.transaction() as tx:
        number = make_round(tx)
        make_candidates(tx, store, number, 20, CandidateState.screened)
    with database.transaction() as tx:
        assert select_candidates(tx, number) == (20, 0)
        assert select_candidates(tx, number) == (0, 0)
    assert states(database, number) == {"waiting": 20}


def test_a_half_shows_about_half_and_says_so(database: Database, store: FolderStore) -> None:
    with database.transaction() as tx:
        number = make_round(tx)
        tx.execute(sa.update(rounds).values(policy={"kind": "random", "share": 0.5}))
        make_candidates(tx, store, number, 300, CandidateState.screened)
    with database.transaction() as tx:
        shown, unshown = select_candidates(tx, number)
    assert shown + unshown == 300
    assert 110 < shown < 190  # 4.6 standard deviations; the coin is the id, so this never varies
    with database.transaction() as tx:
        kept = tx.execute(sa.select(candidates.c.propensity, candidates.c.state, candidates.c.priority)).all()
    assert {row.propensity for row in kept if row.state == "waiting"} == {0.5}
    assert {row.propensity for row in kept if row.state == "unshown"} == {None}
    assert all(row.priority < 0.5 for row in kept)
