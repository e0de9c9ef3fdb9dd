"""Gold: candidates whose verdict is known, hidden among those of a round, and what reviewers make of them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from curation import leases
from curation.database import Transaction
from curation.errors import Refused
from curation.review.noticing import Look
from curation.review.report import wilson
from curation.review.reviewers import holder_of
from curation.review.verdicts import STANDS
from curation.rounds import find_round
from curation.tables import rounds

PLAIN: Final = 0.6
"""The severity from which a defect is plain: passing it over, or rejecting a clean copy, is an error."""
FEWEST: Final = 8
"""Answers of one kind before anybody is paused."""

_coin = random.SystemRandom()


@dataclass(frozen=True)
class GoldTerms:
    """A round's own setting: the share of what people are shown that is gold (0: none), and the bound for a pause.

    Somebody is paused where the share of plain defects that they notice, or of clean copies that they accept, is below
    `bound` even at the upper end of its 95 % interval; either, since whoever accepts all is right about every clean
    copy. With `bound` 0 nobody is.
    """

    share: float = 0.0
    bound: float = 0.6

    def __post_init__(self) -> None:
        """Raises Refused for what cannot be meant."""
        if not 0 <= self.share <= 0.5 or not 0 <= self.bound < 1:
            raise Refused(
                f"a share of {self.share:g} with a bound of {self.bound:g}", "share: 0 to 0.5; bound: below 1"
            )

    @staticmethod
    def read(row: Mapping[str, Any]) -> GoldTerms:
        """The inverse of what `set_gold` keeps; an empty row is a round without gold."""
        return GoldTerms(**row)


def set_gold(tx: Transaction, number: int, terms: GoldTerms, actor: str) -> None:
    """Say how much gold is hidden among a round's candidates, from the next tray on. Raises NotFound."""
    find_round(tx, number)
    tx.execute(sa.update(rounds).where(rounds.c.id == number).values(gold=asdict(terms)))
    tx.log(actor, "gold set", f"round {number}", **asdict(terms))


def draw_places(count: int, share: float) -> int:
    """How many of the next `count` places are gold: a coin for each, that nobody can foresee."""
    return sum(_coin.random() < share for _ in range(count)) if share > 0 else 0


def claim_gold(tx: Transaction, round_id: int, reviewer_id: int, among: Sequence[uuid.UUID], count: int,
               seconds: int) -> list[uuid.UUID]:  # fmt: skip
    """Lease up to `count` pieces of a round's gold that this reviewer has not decided, in any order.

    Each takes the priority of one of the candidates it is shown `among`, so that its place in the tray is one of
    theirs, also when the page is loaded again.
    """
    if count < 1:
        return []
    wanted = {"round": round_id, "reviewer": reviewer_id, "count": count, "among": list(among)}
    claimed = [row.id for row in tx.execute(_CLAIM, wanted)]
    leases.claim(tx, claimed, "review", holder_of(reviewer_id), seconds)
    return claimed


def check_reviewer(tx: Transaction, reviewer_id: int, candidate: uuid.UUID) -> None:
    """After an answer to gold: pause the reviewer where their answers to plain gold say so, and tell why in the log."""
    asked = {"reviewer": reviewer_id, "candidate": candidate, "plain": PLAIN}
    for row in tx.execute(_RECORD, asked).all():
        bound = GoldTerms.read(row.gold).bound
        if row.n < FEWEST or wilson(row.n_right / row.n, row.n)[1] >= bound:
            continue
        what = "clean candidates were accepted" if row.clean else "plain defects were noticed"
        why = f"{row.n_right} of {row.n} {what}"
        tx.execute(_PAUSE, {"reviewer": reviewer_id, "why": why})
        leases.hand_back(tx, holder_of(reviewer_id))
        tx.log("gold", "reviewer paused", row.name, why=why, bound=bound)
        return


def read_looks(tx: Transaction, reviewer_id: int) -> tuple[dict[str, list[Look]], list[bool]]:
    """A reviewer's answers to gold: looks by defect, and whether each clean copy was rejected, oldest first."""
    looks: dict[str, list[Look]] = {}
    clean = []
    for row in tx.execute(_ANSWERS, {"reviewer": reviewer_id}):
        if row.defect is None:
            clean.append(row.rejected)
        else:
            looks.setdefault(row.defect, []).append(Look(row.severity, row.rejected))
    return looks, clean


_CLAIM = sa.text(f"""
    with picked as materialized (
        select c.id from gold g join candidates c on c.id = g.candidate_id
        where g.round_id = :round and c.state = 'waiting' and not exists (
            select from decisions d where d.candidate_id = c.id and d.reviewer_id = :reviewer and {STANDS})
        order by random() limit :count for update of c skip locked),
    places as materialized (
        select array_agg(priority) as list from candidates where id = any(cast(:among as uuid[])))
    update candidates c set state = 'showing', priority = coalesce(
        (select list[1 + floor(random() * cardinality(list))::int] from places where c.id is not null), random())
    from picked where c.id = picked.id returning c.id""")

_RECORD = sa.text(f"""
    select v.name, r.gold, g.defect is null as clean, count(*) as n,
        count(*) filter (where (d.verdict = 'accept') = (g.defect is null)) as n_right
    from reviewers v
    join rounds r on r.id = (select round_id from gold where candidate_id = :candidate)
    join decisions d on d.reviewer_id = v.id and {STANDS}
    join gold g on g.candidate_id = d.candidate_id and (g.defect is null or g.severity >= :plain)
    where v.id = :reviewer and (v.resumed_at is null or d.at > v.resumed_at)
    group by v.id, r.id, g.defect is null order by clean""")

_PAUSE = sa.text("update reviewers set paused = :why where id = :reviewer and paused is null")

_ANSWERS = sa.text(f"""
    select g.defect, g.severity, d.verdict = 'reject' as rejected
    from decisions d join gold g on g.candidate_id = d.candidate_id
    where d.reviewer_id = :reviewer and {STANDS} order by d.id""")
