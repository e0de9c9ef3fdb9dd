"""Gold: candidates with known verdicts, hidden in rounds to measure reviewers."""

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
from curation.review.claims import record_claims
from curation.review.reviewers import lease_holder_name
from curation.review.verdicts import IS_STANDING
from curation.rounds.lifecycle import find_round
from curation.statistics.intervals import wilson
from curation.statistics.psychometric import GoldTrial

OBVIOUS_SEVERITY: Final = 0.6
"""The severity from which a defect is obvious, so that missing it counts as an error."""
MIN_GOLD_DECISIONS: Final = 8
"""The number of gold decisions of one kind before a reviewer can be paused."""

_rng = random.SystemRandom()


@dataclass(frozen=True)
class GoldSettings:
    """A round's gold setting: the share of gold among shown items, and the pause threshold.

    A reviewer is paused if the share of obvious defects they notice, or of clean copies they
    accept, is below `bound` even at the upper end of its 95 % interval. Either is enough, since
    accepting everything is right on every clean copy. With `bound` 0 nobody is paused; with `share`
    0 there is no gold.
    """

    share: float = 0.0
    bound: float = 0.6

    def __post_init__(self) -> None:
        """Raise Refused for values out of range."""
        if not 0 <= self.share <= 0.5 or not 0 <= self.bound < 1:
            raise Refused(
                f"invalid gold setting: share {self.share:g}, bound {self.bound:g}",
                "the share lies in [0, 0.5], the bound in [0, 1)",
            )

    @staticmethod
    def read(row: Mapping[str, Any]) -> GoldSettings:
        """Parse the row written by `set_gold`; an empty row means no gold."""
        return GoldSettings(**row)


def set_gold(tx: Transaction, round_id: int, settings: GoldSettings, actor: str) -> None:
    """Set the gold share of a round from the next review batch on. Raises NotFound."""
    find_round(tx, round_id)
    tx.execute(sa.update(rounds).where(rounds.c.id == round_id).values(gold=asdict(settings)))
    tx.log(actor, "gold set", f"round {round_id}", **asdict(settings))


def sample_gold_flags(count: int, share: float) -> list[bool]:
    """Return for each of the next `count` items whether it is gold, drawn from a secure RNG."""
    return [share > 0 and _rng.random() < share for _ in range(count)]


def count_gold_before_end(flags: Sequence[bool], ordinary_count: int) -> int:
    """Return the number of gold items up to the last item that is filled.

    Args:
        flags: Whether each item is gold, as `sample_gold_flags` returns it.
        ordinary_count: The number of available candidates that are not gold.

    Returns:
        The gold items before the last of those candidates, or all of them if every item is filled.
    """
    if not ordinary_count:
        return 0
    others = [index for index, is_gold in enumerate(flags) if not is_gold]
    return sum(flags) if ordinary_count >= len(others) else sum(flags[: others[ordinary_count - 1]])


def claim_gold(
    tx: Transaction,
    round_id: int,
    reviewer_id: int,
    among: Sequence[uuid.UUID],
    count: int,
    seconds: int,
    page: uuid.UUID | None = None,
) -> list[uuid.UUID]:
    """Lease gold candidates of a round that this reviewer was never given, in random order.

    Each takes the priority of one of the candidates it is shown `among`, so that it stays among
    them when the page is loaded again.

    Args:
        tx: The transaction of the request.
        round_id: The round.
        reviewer_id: The reviewer.
        among: The candidates it is shown among.
        count: The maximum number to lease.
        seconds: The duration of the leases.
        page: The page that uses the leases; None for callers without pages.

    Returns:
        The leased candidates.
    """
    params = {"round": round_id, "reviewer": reviewer_id, "count": count, "among": list(among)}
    return _claim(tx, _CLAIM, params, seconds, page)


def claim_skipped_gold(
    tx: Transaction,
    round_id: int,
    reviewer_id: int,
    count: int,
    seconds: int,
    page: uuid.UUID | None = None,
) -> list[uuid.UUID]:
    """Lease gold that this reviewer skipped, once the round has nothing else left for them.

    Other skipped candidates come back as well, so skipped gold must not be recognizable by its
    absence.

    Args:
        tx: The transaction of the request.
        round_id: The round.
        reviewer_id: The reviewer.
        count: The maximum number to lease.
        seconds: The duration of the leases.
        page: The page that uses the leases; None for callers without pages.

    Returns:
        The leased candidates.
    """
    params = {"round": round_id, "reviewer": reviewer_id, "count": count}
    return _claim(tx, _CLAIM_SKIPPED, params, seconds, page)


def _claim(
    tx: Transaction,
    claim: sa.TextClause,
    params: dict[str, Any],
    seconds: int,
    page: uuid.UUID | None,
) -> list[uuid.UUID]:
    claimed = [row.id for row in tx.execute(claim, params)] if params["count"] > 0 else []
    # Gold is leased and claimed exactly as candidates are.
    leases.claim(tx, claimed, "review", lease_holder_name(params["reviewer"]), seconds)
    record_claims(tx, params["reviewer"], claimed, page)
    return claimed


def pause_if_unreliable(tx: Transaction, reviewer_id: int, candidate: uuid.UUID) -> None:
    """Pause the reviewer if their decisions on obvious gold require it, and log the reason."""
    params = {"reviewer": reviewer_id, "candidate": candidate, "obvious": OBVIOUS_SEVERITY}
    for row in tx.execute(_GOLD_DECISIONS, params).all():
        bound = GoldSettings.read(row.gold).bound
        # Pause only if even the upper end of the 95 % interval is below the bound.
        if row.n < MIN_GOLD_DECISIONS or wilson(row.n_right / row.n, row.n)[1] >= bound:
            continue
        event = "clean candidates were accepted" if row.clean else "obvious defects were noticed"
        why = f"{row.n_right} of {row.n} {event}"
        tx.execute(_PAUSE, {"reviewer": reviewer_id, "why": why})
        # A paused reviewer must not keep candidates from others.
        leases.release_holder(tx, lease_holder_name(reviewer_id))
        tx.log("gold", "reviewer paused", row.name, why=why, bound=bound)
        return


def read_gold_responses(
    tx: Transaction, reviewer_id: int
) -> tuple[dict[str, list[GoldTrial]], list[bool]]:
    """Return a reviewer's decisions on gold, oldest first.

    Returns:
        Severity and detection by defect, and for each clean copy whether it was rejected.
    """
    detections: dict[str, list[GoldTrial]] = {}
    clean = []
    for row in tx.execute(_GOLD_RESPONSES, {"reviewer": reviewer_id}):
        # A clean copy has no defect and no severity: rejecting it is a false alarm.
        if row.defect is None:
            clean.append(row.rejected)
        else:
            detections.setdefault(row.defect, []).append(GoldTrial(row.severity, row.rejected))
    return detections, clean


_CLAIM = sa.text("""
    with picked as materialized (
        select c.id from gold g join candidates c on c.id = g.candidate_id
        where g.round_id = :round and c.state = 'waiting' and not exists (
            select from claims k where k.candidate_id = c.id and k.reviewer_id = :reviewer)
        order by random() limit :count for update of c skip locked),
    priorities as materialized (
        select array_agg(priority) as list from candidates where id = any(cast(:among as uuid[])))
    update candidates c set state = 'showing', priority = coalesce(
        (select list[1 + floor(random() * cardinality(list))::int] from priorities
            where c.id is not null), random())
    from picked where c.id = picked.id returning c.id""")

# A skip lowers the priority of gold as it does that of any candidate.
_CLAIM_SKIPPED = sa.text(f"""
    with picked as materialized (
        select c.id from gold g join candidates c on c.id = g.candidate_id
        join claims k on k.candidate_id = c.id and k.reviewer_id = :reviewer and not k.unfinished
        where g.round_id = :round and c.state = 'waiting' and not exists (
            select from decisions d where d.candidate_id = c.id and d.reviewer_id = :reviewer
                and {IS_STANDING})
        order by c.priority desc, c.id limit :count for update of c skip locked)
    update candidates c set state = 'showing' from picked where c.id = picked.id returning c.id""")

_GOLD_DECISIONS = sa.text(f"""
    select v.name, r.gold, g.defect is null as clean, count(*) as n,
        count(*) filter (where (d.verdict = 'accept') = (g.defect is null)) as n_right
    from reviewers v
    join rounds r on r.id = (select round_id from gold where candidate_id = :candidate)
    join decisions d on d.reviewer_id = v.id and {IS_STANDING}
    join gold g on g.candidate_id = d.candidate_id and (g.defect is null or g.severity >= :obvious)
    where v.id = :reviewer and (v.resumed_at is null or d.created_at > v.resumed_at)
    group by v.id, r.id, g.defect is null order by clean""")

_PAUSE = sa.text("update reviewers set paused = :why where id = :reviewer and paused is null")

_GOLD_RESPONSES = sa.text(f"""
    select g.defect, g.severity, d.verdict = 'reject' as rejected
    from decisions d join gold g on g.candidate_id = d.candidate_id
    where d.reviewer_id = :reviewer and {IS_STANDING} order by d.id""")
