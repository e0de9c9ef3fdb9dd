"""The report of a steered round: what was steered and why, and the acceptance of both parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.review.reviewers import PERSON, RULE_REVIEWER
from curation.review.round_counts import Settled
from curation.rounds.requests import ChoiceSource
from curation.statistics.intervals import wilson

MAX_PRINTED: Final = 12
"""Number of arms in a terminal."""
_WHO: Final = {PERSON: "people", RULE_REVIEWER: "the rule reviewer"}


def steering_report(
    tx: Transaction,
    stored: Mapping[str, Any] | None,
    by_source: Mapping[tuple[str, str], Settled],
) -> dict[str, Any] | None:
    """Return what was steered in a round, with the acceptance by source of the prompt.

    Args:
        tx: The transaction.
        stored: The column `steering` of the round.
        by_source: Settled candidates by source of the prompt and kind of reviewer.

    Returns:
        The report as JSON data; None if prompts were not steered.
    """
    if stored is None:
        return None
    # Prompts are stored by id, so that a takedown of a caption reaches them.
    ids = [row["prompt"] for row in stored["prompts"]]
    texts = {row.id.hex: row.text for row in tx.execute(_TEXTS, {"ids": ids})}
    prompts = [
        {name: value for name, value in row.items() if name != "prompt"}
        | {"arm": texts.get(row["prompt"], "")}
        for row in stored["prompts"]
    ]
    return {**stored, "prompts": prompts, "outcomes": source_outcomes(by_source)}


def source_outcomes(by_source: Mapping[tuple[str, str], Settled]) -> list[dict[str, Any]]:
    """Return the acceptance of randomly chosen and of steered prompts, by kind of reviewer.

    Args:
        by_source: Settled candidates by source of the prompt and kind of reviewer.
    """
    found = []
    for kind in (PERSON, RULE_REVIEWER):
        for source in ChoiceSource:
            settled = by_source.get((source, kind), Settled())
            if not settled.at_random:
                continue
            share = 1 - settled.rejected_weight / settled.weight
            low, high = wilson(share, settled.weight**2 / settled.squared_weight)
            row = {"value": share, "low": low, "high": high, "n": settled.at_random}
            found.append({"source": source.value, "kind": kind, "acceptance": row})
    return found


def format_steering(report: Mapping[str, Any] | None, limit: int = MAX_PRINTED) -> list[str]:
    """Format a report, or the preview of one, as lines for a terminal.

    Args:
        report: The report; None if prompts were not steered.
        limit: The largest number of arms.
    """
    if report is None:
        return []
    settings = report["settings"]
    first = (
        f"  prompts: {report['random']} at random, {report['steered']} steered for "
        f"{_goal(settings)}, from {report['pool']['distinct']} distinct prompts"
    )
    lines = [first]
    if not report["rounds"]:
        return [first, "    no closed round has decisions yet, so all prompts are at random"]
    automatic = f", {report['automatic']} automatic" if report["automatic"] else ""
    plural = "s" if len(report["rounds"]) > 1 else ""
    lines.append(
        f"    from {report['decisions']} decisions{automatic} of {len(report['rounds'])} "
        f"round{plural}: {_acceptance(report['acceptance'])}"
    )
    lines += [
        f"    {outcome['source']} prompts by {_WHO[outcome['kind']]}: "
        f"{_acceptance(outcome['acceptance'])}"
        for outcome in report.get("outcomes", ())
    ]
    return [*lines, *_arm_lines(report["arms"], limit)]


def _arm_lines(arms: Sequence[Mapping[str, Any]], limit: int) -> list[str]:
    lines = []
    for row in arms[:limit]:
        reasons = ", ".join(f"{one['reason']} {one['count']}" for one in row["reasons"])
        why = _acceptance(row["acceptance"]) + (f"; {reasons}" if reasons else "")
        target = f" (target {row['floor']:.1%})" if row["target"] else ""
        lines.append(f"    {row['arm']}: {row['before']:.1%} -> {row['now']:.1%}{target}; {why}")
    if len(arms) > limit:
        lines.append(f"    and {len(arms) - limit} other words and attributes")
    return lines


def _goal(settings: Mapping[str, Any]) -> str:
    return {"accepts": "accepts", "learn": "what is learned"}[settings["goal"]]


def _acceptance(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "no decisions"
    return (
        f"{found['value']:.0%} accepted (95 % {found['low']:.0%} to {found['high']:.0%}, "
        f"n = {found['n']:.0f})"
    )


_TEXTS = sa.text("select id, text from prompts where id = any(:ids)").bindparams(
    sa.bindparam("ids", type_=ARRAY(UUID))
)
