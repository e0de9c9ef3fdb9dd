"""Gold: candidates whose verdict is known, hidden among those of a round, and what reviewers make of them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from curation.db import leases
from curation.db.engine import Transaction
from curation.db.tables import rounds
from curation.errors import Refused
from curation.review.claims import note_claims
from curation.review.reviewers import holder_of
from curation.review.verdicts import STANDS
from curation.rounds.lifecycle import find_round
from curation.statistics.intervals import wilson
from curation.statistics.psychometric import Look

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
                f"a share of {self.share:g} with a bound of {self.bound:g}",
                "share: 0 to 0.5; bound: below 1",
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


def throw_coins(count: int, share: float) -> list[bool]:
    """Return for each of the next `count` places whether it is gold: a coin that nobody can foresee."""
    return [share > 0 and _coin.random() < share for _ in range(count)]


def places_among(coins: Sequence[bool], plain: int) -> int:
    """Return how many places are gold up to the last one that is filled.

    Args:
        coins: Whether each place is gold, as `throw_coins` returns it.
        plain: How many candidates that are not gold there are to fill the other places.

    Returns:
        The gold before the last of those candidates, or all of it where every place is filled.
    """
    if not plain:
        return 0
    others = [place for place, is_gold in enumerate(coins) if not is_gold]
    return sum(coins) if plain >= len(others) else sum(coins[: others[plain - 1]])


def claim_gold(
    tx: Transaction,
    round_id: int,
    reviewer_id: int,
    among: Sequence[uuid.UUID],
    count: int,
    seconds: int,
    page: uuid.UUID | None = None,
) -> list[uuid.UUID]:
    """Lease up to `count` pieces of a round's gold that this reviewer was never given, in any order.

    Each takes the priority of one of the candidates it is shown `among`, so that its place in the tray is one of
    theirs, also when the page is loaded again.
    """
    wanted = {"round": round_id, "reviewer": reviewer_id, "count": count, "among": list(among)}
    return _claim(tx, _CLAIM, wanted, seconds, page)


def claim_skipped(
    tx: Transaction,
    round_id: int,
    reviewer_id: int,
    count: int,
    seconds: int,
    page: uuid.UUID | None = None,
) -> list[uuid.UUID]:
    """Lease gold that this reviewer has skipped, once a round has nothing else left, as what else they skipped."""
    wanted = {"round": round_id, "reviewer": reviewer_id, "count": count}
    return _claim(tx, _CLAIM_SKIPPED, wanted, seconds, page)


def _claim(
    tx: Transaction,
    claim: sa.TextClause,
    wanted: dict[str, Any],
    seconds: int,
    page: uuid.UUID | None,
) -> list[uuid.UUID]:
    claimed = [row.id for row in tx.execute(claim, wanted)] if wanted["count"] > 0 else []
    leases.claim(tx, claimed, "review", holder_of(wanted["reviewer"]), seconds)
    note_claims(tx, wanted["reviewer"], claimed, page)
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


_CLAIM = sa.text("""
    with picked as materialized (
        select c.id from gold g join candidates c on c.id = g.candidate_id
        where g.round_id = :round and c.state = 'waiting' and not exists (
            select from claims k where k.candidate_id = c.id and k.reviewer_id = :reviewer)
        order by random() limit :count for update of c skip locked),
    places as materialized (
        select array_agg(priority) as list from candidates where id = any(cast(:among as uuid[])))
    update candidates c set state = 'showing', priority = coalesce(
        (select list[1 + floor(random() * cardinality(list))::int] from places
            where c.id is not null), random())
    from picked where c.id = picked.id returning c.id""")

# A skip has lowered its priority, as that of any candidate.
_CLAIM_SKIPPED = sa.text(f"""
    with picked as materialized (
        select c.id from gold g join candidates c on c.id = g.candidate_id
        join claims k on k.candidate_id = c.id and k.reviewer_id = :reviewer and not k.unfinished
        where g.round_id = :round and c.state = 'waiting' and not exists (
            select from decisions d where d.candidate_id = c.id and d.reviewer_id = :reviewer
                and {STANDS})
        order by c.priority desc, c.id limit :count for update of c skip locked)
    update candidates c set state = 'showing' from picked where c.id = picked.id returning c.id""")

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
