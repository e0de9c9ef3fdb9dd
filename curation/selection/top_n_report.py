"""State of a round's top-N acceptance, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import top_n_runs
from curation.errors import NotFound
from curation.statistics import bounds


def find_top_n(
    tx: Transaction, round_id: int, *, ended: bool | None = None
) -> Mapping[str, Any] | None:
    """Return the last top-N run of a round, or None.

    Args:
        tx: The transaction.
        round_id: The round.
        ended: Only a run that has (not) ended; None for either.
    """
    wanted = (
        sa.select(top_n_runs)
        .where(top_n_runs.c.round_id == round_id)
        .order_by(top_n_runs.c.id.desc())
        .limit(1)
    )
    if ended is not None:
        wanted = wanted.where(
            top_n_runs.c.ended_at.is_not(None) if ended else top_n_runs.c.ended_at.is_(None)
        )
    found: Mapping[str, Any] | None = tx.execute(wanted).mappings().first()
    return found


def describe_top_n(tx: Transaction, round_id: int) -> dict[str, Any]:
    """Return the state of a round's last top-N run as JSON data. Raises NotFound."""
    row = find_top_n(tx, round_id)
    if row is None:
        raise NotFound(
            f"round {round_id} has no top-N acceptance",
            f"'layerloop round accept-top {round_id} --keep N' starts one",
        )
    # Counts come from the candidates' present states, so undone verdicts are not counted.
    counts = tx.execute(_STANDING, {"top_n_run": row["id"]}).one()
    level = float(row["metrics"]["level"])
    return {
        "round": round_id,
        "top_n_run": row["id"],
        "acceptance_model": row["acceptance_model_id"],
        "kept": counts.kept,
        "audit": counts.audited,
        "judged": counts.judged,
        "waiting": counts.audited - counts.judged,
        "accepted": counts.accepted,
        "share": counts.accepted / counts.judged if counts.judged else None,
        "bound": bounds.exact_bounds(counts.accepted, counts.judged, level).low,
        "level": level,
        "least": round(row["min_share"], 6),
        "outcome": row["outcome"],
        "auto_accepted": row["metrics"].get("auto_accepted", 0),
    }


def format_top_n(status: Mapping[str, Any]) -> str:
    """Return a plan, or the state of a run, as text for the terminal."""
    if "pool" in status:
        return _PLANNED.format(**{name: value or 0 for name, value in status.items()})
    lines = [_FIXED.format(**status)]
    if status["judged"]:
        lines.append(
            f"  at least {status['bound']:.1%} of all kept would be accepted (confidence "
            f"{1 - status['level']:.1%})"
        )
    if status["outcome"] == "accepted":
        lines.append(f"  proven: the auto-reviewer accepted the other {status['auto_accepted']}")
    elif status["outcome"] == "refused":
        lines.append(f"  {status['least']:.0%} not proven: the auto-reviewer accepted nothing")
    else:
        lines.append("  run the same command again once the audit is complete")
    return "\n".join(lines)


_PLANNED = """\
would keep {kept} of {pool} candidates, of {prompts} prompts, and audit {audit} of them
  the model expects {expected:.0%} of them to be accepted, and {expected_of_all:.0%} of all
  at most {most_rejects} rejects in the audit prove {least:.0%}"""

_FIXED = """top-N acceptance {top_n_run} of round {round} keeps {kept}
  audit: {judged} of {audit} judged, {accepted} accepted"""


_STANDING = sa.text("""
    select count(*) as kept, count(*) filter (where s.audited) as audited,
        count(*) filter (where s.audited and c.state in ('accepted', 'rejected')) as judged,
        count(*) filter (where s.audited and c.state = 'accepted') as accepted
    from top_n_members s join candidates c on c.id = s.candidate_id
    where s.top_n_run_id = :top_n_run""")
