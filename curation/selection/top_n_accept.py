"""The scale step: of a round that was drawn, the best N are kept without people, if an audit of them proves them good.

The paper's last one (5 million pairs, of which 1 million are kept). Scores come from the acceptance model; the N best
under caps for each prompt and cluster are fixed first, then a random part of them goes before people, and when all of
that part is judged, Clopper and Pearson's lower bound says how many of all N they would accept, with confidence 95 %.
Only if that reaches what was asked for does the machine accept the others, in its own name. An audit is looked at once,
when it is whole, and whoever tries again in the same round spends more of the 5 % (bounds.spend). All in set
operations: a million candidates are a few statements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import scalings
from curation.domain import Kind, RoundState, Verdict
from curation.errors import Conflict, NotFound, Refused
from curation.rounds.lifecycle import find_round
from curation.selection import auto_reviewer
from curation.selection.acceptance_model_store import find_head, score_round
from curation.statistics import bounds


@dataclass(frozen=True)
class Terms:
    """Keep the best `keep`, audit so many of them, and accept only if a share of `least` is proven.

    No prompt and no cluster gets more than so many times its fair share of what is kept.
    """

    keep: int
    audit: int = 300
    least: float = 0.9
    per_prompt: float = 3.0
    per_cluster: float = 3.0


LOCK: Final = 7_201_116  # with the round's number: one scaling of a round at a time


def plan_scaling(tx: Transaction, number: int, terms: Terms) -> dict[str, Any]:
    """What a scaling would keep, and what its audit could prove at best; scores are written, nothing else is.

    Raises NotFound where there is no head, Conflict while the round is being drawn, Refused for numbers that cannot be.
    """
    row = find_round(tx, number)
    level = bounds.spend(1 + int(tx.execute(_ATTEMPTS, {"round": number}).scalar_one()))
    _check_terms(terms, level)
    _check_drawn(tx, row)
    kept = find_head(tx, Kind(row["kind"]))
    scored = score_round(tx, kept, number)
    found = dict(
        tx.execute(_PLAN, {"round": number, "head": kept.id} | asdict(terms)).mappings().one()
    )
    more = {"level": level, "scored": scored, "most_rejects": _most_rejects(terms, level)}
    return {"round": number, "head": kept.id} | asdict(terms) | found | more


def begin_scaling(tx: Transaction, number: int, terms: Terms, actor: str) -> dict[str, Any]:
    """Fix the best of a round and put a part of them, chosen at random, before people; returns how it stands.

    Raises what `plan_scaling` raises, and Conflict where a scaling of the round is under way, or too few are left.
    """
    tx.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK, number)))
    if find_scaling(tx, number, ended=False) is not None:
        raise Conflict(
            f"a scaling of round {number} is under way",
            f"'layerloop round scale {number}' goes on with it",
        )
    plan = plan_scaling(tx, number, terms)
    if plan["kept"] < terms.audit:
        told = f"{plan['kept']} of round {number} can be kept, fewer than the {terms.audit} to be audited"
        raise Conflict(told, "draw more, or loosen the caps (--per-prompt, --per-cluster)")
    row = {
        "round_id": number, "head_id": plan["head"], "keep": terms.keep, "audit": terms.audit, "least": terms.least,
        "figures": {"level": plan["level"]},
    }  # fmt: skip
    scaling = int(tx.execute(sa.insert(scalings).returning(scalings.c.id), row).scalar_one())
    tx.execute(_FIX, {"round": number, "head": plan["head"], "scaling": scaling} | asdict(terms))
    tx.execute(_SHOW_AUDIT, {"scaling": scaling, "share": terms.audit / plan["kept"]})
    tx.log(
        actor,
        "scaling begun",
        f"round {number}",
        scaling=scaling,
        head=plan["head"],
        **asdict(terms),
    )
    return describe(tx, number)


def finish_scaling(
    tx: Transaction, number: int, actor: str, *, dry_run: bool = False
) -> dict[str, Any]:
    """End the scaling that is under way once its audit is judged: accept what was kept, or refuse. Twice is once.

    While some of the audit waits, and with `dry_run`, only how it stands is returned. Raises NotFound without one.
    """
    tx.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK, number)))
    told = describe(tx, number)
    if told["outcome"] or told["waiting"] or dry_run:
        return told
    proven = told["bound"] >= told["least"]
    figures = {name: told[name] for name in ("level", "accepted", "judged", "bound")}
    if proven:
        ids = [row.candidate_id for row in tx.execute(_REST, {"scaling": told["scaling"]})]
        sentence = f"by scaling {told['scaling']}: of all that it keeps at least {told['bound']:.1%} would be accepted"
        sure = f"with confidence {1 - told['level']:.1%}"
        figures["by_machine"] = auto_reviewer.decide_all(
            tx, ids, Verdict.accept, f"{sentence}, {sure}"
        )
    outcome = "accepted" if proven else "refused"
    ended = {"outcome": outcome, "figures": figures, "ended_at": sa.func.now()}
    tx.execute(sa.update(scalings).where(scalings.c.id == told["scaling"]).values(ended))
    tx.log(actor, f"scaling {outcome}", f"round {number}", scaling=told["scaling"], **figures)
    return describe(tx, number)


def find_scaling(
    tx: Transaction, number: int, *, ended: bool | None = None
) -> Mapping[str, Any] | None:
    """The last scaling of a round, or the last one that has (not) ended."""
    wanted = (
        sa.select(scalings)
        .where(scalings.c.round_id == number)
        .order_by(scalings.c.id.desc())
        .limit(1)
    )
    if ended is not None:
        wanted = wanted.where(
            scalings.c.ended_at.is_not(None) if ended else scalings.c.ended_at.is_(None)
        )
    found: Mapping[str, Any] | None = tx.execute(wanted).mappings().first()
    return found


def describe(tx: Transaction, number: int) -> dict[str, Any]:
    """How the last scaling of a round stands, as JSON would hold it. Raises NotFound."""
    row = find_scaling(tx, number)
    if row is None:
        raise NotFound(
            f"round {number} has no scaling",
            f"'layerloop round scale {number} --keep N' begins one",
        )
    stand = tx.execute(_STANDING, {"scaling": row["id"]}).one()
    level = float(row["figures"]["level"])
    return {
        "round": number,
        "scaling": row["id"],
        "head": row["head_id"],
        "kept": stand.kept,
        "audit": stand.audited,
        "judged": stand.judged,
        "waiting": stand.audited - stand.judged,
        "accepted": stand.accepted,
        "share": stand.accepted / stand.judged if stand.judged else None,
        "bound": bounds.count(stand.accepted, stand.judged, level).low,
        "level": level,
        "least": round(row["least"], 6),
        "outcome": row["outcome"],
        "by_machine": row["figures"].get("by_machine", 0),
    }


def as_text(told: Mapping[str, Any]) -> str:
    """A plan, or how a scaling stands, for people to read in a terminal."""
    if "pool" in told:
        return _PLANNED.format(**{name: value or 0 for name, value in told.items()})
    lines = [_FIXED.format(**told)]
    if told["judged"]:
        lines.append(
            f"  at least {told['bound']:.1%} of all kept would be (confidence {1 - told['level']:.1%})"
        )
    if told["outcome"] == "accepted":
        lines.append(f"  proven: the machine accepted the other {told['by_machine']}")
    elif told["outcome"] == "refused":
        lines.append(f"  not proven to be {told['least']:.0%}: the machine accepted nothing")
    else:
        lines.append("  the same command ends it once all of the audit is judged")
    return "\n".join(lines)


_PLANNED = """would keep {kept} of {pool} candidates, of {prompts} prompts, and put {audit} of them before people
  the head expects {expected:.0%} of them to be accepted, and {expected_of_all:.0%} of all
  at most {most_rejects} rejects in the audit prove {least:.0%}"""

_FIXED = """scaling {scaling} of round {round} keeps {kept}
  audit: {judged} of {audit} judged, {accepted} accepted"""


def _check_terms(terms: Terms, level: float) -> None:
    if not 0 < terms.audit <= terms.keep or not 0 < terms.least < 1:
        told = f"a scaling cannot keep {terms.keep}, audit {terms.audit} and prove {terms.least:g}"
        raise Refused(told, "audit at most what is kept, and ask for a share below 1")
    if _most_rejects(terms, level) < 0:
        needed = bounds.enough(1 - terms.least, level)
        raise Refused(
            f"an audit of {terms.audit} cannot prove that {terms.least:.0%} are acceptable, even if all are",
            f"audit at least {needed}, better three times as many",
        )


def _check_drawn(tx: Transaction, row: Mapping[str, Any]) -> None:
    number = row["id"]
    if row["state"] != RoundState.open:
        raise Conflict(
            f"round {number} is {row['state']}: nobody would see the audit",
            "scale a round that is open",
        )
    coming = int(tx.execute(_COMING, {"round": number}).scalar_one())
    if coming:
        hint = "wait until it is drawn and screened; 'layerloop round show' tells how far it is"
        raise Conflict(
            f"{coming} candidates of round {number} are still to be drawn or screened", hint
        )


def _most_rejects(terms: Terms, level: float) -> int:
    """How many rejects in the audit still prove the share; -1 where not even none would."""
    low, high = -1, terms.audit
    while low < high:
        middle = (low + high + 1) // 2
        if bounds.count(terms.audit - middle, terms.audit, level).low >= terms.least:
            low = middle
        else:
            high = middle - 1
    return low


_ATTEMPTS = sa.text(
    "select count(*) from scalings where round_id = :round and ended_at is not null"
)

_COMING = sa.text("""
    select count(*) from candidates where round_id = :round
        and state in ('requested', 'drawing', 'drawn')""")

# A rank within prompt and cluster above so many times the fair share is out; then the best of the rest.
_BEST = """
    known as (
        select c.id, c.prompt_id, k.cluster, k.chance from candidates c
        join scores k on k.candidate_id = c.id and k.head_id = :head
        where c.round_id = :round and c.state in ('screened', 'unshown')),
    ranked as (
        select known.*, count(*) over () as pool,
            row_number() over (partition by prompt_id order by chance desc, id) as in_prompt,
            count(*) over (partition by prompt_id) as prompts,
            row_number() over (partition by cluster order by chance desc, id) as in_cluster,
            count(*) over (partition by cluster) as clusters
        from known),
    best as (
        select id, prompt_id, chance, pool from ranked
        where in_prompt <= greatest(1, ceil(:per_prompt * :keep * prompts / pool))
            and in_cluster <= greatest(1, ceil(:per_cluster * :keep * clusters / pool))
        order by chance desc, id limit :keep)"""

_PLAN = sa.text(f"""
    with {_BEST}
    select coalesce(max(pool), 0) as pool, count(*) as kept, avg(chance) as expected,
        min(chance) as lowest,
        count(distinct prompt_id) as prompts,
        (select avg(chance) from known) as expected_of_all
    from best""")

# md5 of scaling and candidate is the lot: equal for equal scalings, and nothing that anybody could have ordered by.
_FIX = sa.text(f"""
    with {_BEST}
    insert into scaled (candidate_id, scaling_id, audited)
    select id, :scaling, row_number() over (order by md5('audit ' || :scaling || ' ' || id)) <= :audit from best""")

# They come before all else that waits, since much hangs on them.
_SHOW_AUDIT = sa.text("""
    update candidates c set state = 'waiting', slice = 'audit', propensity = :share, priority = 1
    from scaled s
    where s.scaling_id = :scaling and s.audited and s.candidate_id = c.id""")

_STANDING = sa.text("""
    select count(*) as kept, count(*) filter (where s.audited) as audited,
        count(*) filter (where s.audited and c.state in ('accepted', 'rejected')) as judged,
        count(*) filter (where s.audited and c.state = 'accepted') as accepted
    from scaled s join candidates c on c.id = s.candidate_id where s.scaling_id = :scaling""")

_REST = sa.text("""
    select s.candidate_id from scaled s join candidates c on c.id = s.candidate_id
    where s.scaling_id = :scaling and not s.audited and c.state in ('screened', 'unshown')""")
