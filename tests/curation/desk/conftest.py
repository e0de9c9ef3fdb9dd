"""A round whose candidates are put up at a real Label Studio."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from curation.adapters.label_studio import LabelStudioDesk
from curation.database import Database
from curation.desk import boards
from curation.desk.door import Board
from curation.desk.exchange import Exchange
from curation.desk.previews import Previews
from curation.tables import candidates, decisions, desk_answers, desk_postings, reviewers, samples
from tests.desks import Studio, studio
from tests.making import make_candidates, make_round

__all__ = ["studio"]


@dataclass
class Seat:
    """Both sides of one round, as tests look at them."""

    studio: Studio
    database: Database
    exchange: Exchange
    round: int
    candidates: Sequence[uuid.UUID]

    @property
    def board(self) -> Board:
        """The round's last board."""
        with self.database.transaction() as tx:
            return boards.open_boards(tx, self.exchange.desk.address, self.round)[-1]

    def task(self, place: int) -> int:
        """The task of a candidate, by its place."""
        with self.database.transaction() as tx:
            mine = (desk_postings.c.candidate_id == self.candidates[place]) & (desk_postings.c.state != "down")
            return int(tx.scalar(sa.select(desk_postings.c.number).where(mine)))

    def state(self, place: int) -> str:
        """A candidate's state."""
        with self.database.transaction() as tx:
            return str(tx.scalar(sa.select(candidates.c.state).where(candidates.c.id == self.candidates[place])))

    def decided(self, place: int) -> list[tuple[str, str]]:
        """What was decided of a candidate: verdict and reviewer, in order."""
        rows = sa.select(decisions.c.verdict, reviewers.c.name).join(reviewers)
        with self.database.transaction() as tx:
            mine = rows.where(decisions.c.candidate_id == self.candidates[place]).order_by(decisions.c.id)
            return [(row.verdict, row.name) for row in tx.execute(mine)]

    def refusals(self) -> list[str]:
        """The sentences with which answers were refused."""
        with self.database.transaction() as tx:
            rows = sa.select(desk_answers.c.refused).where(desk_answers.c.refused.is_not(None))
            return list(tx.execute(rows.order_by(desk_answers.c.said_at)).scalars())

    def accepted(self) -> int:
        """How many samples stand."""
        with self.database.transaction() as tx:
            return int(tx.scalar(sa.select(sa.func.count()).where(samples.c.withdrawn_at.is_(None))))


@pytest.fixture
def desk(studio: Studio):
    desk = LabelStudioDesk(studio.server.address, studio.server.token)
    yield desk
    desk.close()


@pytest.fixture
def seat(studio: Studio, desk: LabelStudioDesk, database: Database, store, request: pytest.FixtureRequest) -> Any:
    """A round of eight candidates, or as many as a test's parameter says, put up."""
    count = getattr(request, "param", 8)
    with database.transaction() as tx:
        number = make_round(tx)
        made = make_candidates(tx, store, number, count)
    exchange = Exchange(database, desk, "test", Previews("secret", "http://127.0.0.1:1").address, most=10_000, pause=0)
    assert exchange.put_up(number)["up"] == count
    return Seat(studio, database, exchange, number, made)
