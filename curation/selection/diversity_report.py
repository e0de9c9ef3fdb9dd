"""Diversity of a round beside the first round, from the kept reports, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.kept_reports import read_reports
from curation.selection.diversity_measurement import REPORT, smallest_round
from curation.statistics.diversity import PointEstimate, Ratio, ratio

LOST_RATIO: Final = 0.9
"""Vendi score, as a ratio to the first round's, below which diversity is lost."""
FIGURES: Final = ("vendi", "distance", "recall")
"""The figures of a report, in order."""


def diversity_report(tx: Transaction, round_id: int) -> dict[str, Any] | None:
    """Return the diversity of a round and its ratio to the first round; None if not measured yet.

    `figures` is empty where fewer candidates were drawn than a subsample needs. `lost` says whether
    the Vendi score fell by more than a tenth and by more than chance: its ratio is below
    LOST_RATIO, and the 95 % interval of the ratio is below 1.

    Args:
        tx: The transaction.
        round_id: The round.
    """
    kept = read_kept(tx, [round_id])
    if round_id not in kept:
        return None
    own = kept[round_id]
    first_id = first_measured(tx, round_id)
    first = read_kept(tx, [first_id]).get(first_id) if first_id is not None else None
    # Vectors of two embedders do not compare.
    if first is not None and first["embedder"] != own["embedder"]:
        first_id = first = None
    size = largest_size([own] if first is None else [own, first])
    figures = [_figure(name, own, first, size) for name in FIGURES] if size else []
    shown = [figure for figure in figures if figure is not None]
    return {
        "embedder": own["embedder"],
        "candidates": own["candidates"],
        "needed": smallest_round(),
        "size": int(size) if size else None,
        "first_round": first_id,
        "figures": shown,
        "lost": any(is_lost(figure["ratio"]) for figure in shown if figure["name"] == "vendi"),
    }


def is_lost(found: Mapping[str, float] | None) -> bool:
    """Return whether a ratio of Vendi scores is below LOST_RATIO, and below 1 beyond chance."""
    return found is not None and found["value"] < LOST_RATIO and found["high"] < 1


def read_kept(tx: Transaction, round_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return the kept reports of rounds by round."""
    return {id_: row.report for id_, row in read_reports(tx, REPORT, round_ids).items()}


def first_measured(tx: Transaction, round_id: int) -> int | None:
    """Return the first round of a round's kind that has estimates, if it is an earlier one."""
    found = tx.execute(_FIRST, {"round": round_id}).scalar()
    return None if found is None else int(found)


def latest_figures(tx: Transaction) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the figures of the last measured round of each kind, by kind and name."""
    found = {}
    for row in tx.execute(_LATEST):
        report = diversity_report(tx, row.id)
        for figure in report["figures"] if report else ():
            found[row.kind, figure["name"]] = figure
    return found


def largest_size(reports: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the largest size of subsamples that all reports have."""
    common = set.intersection(*(set(report["estimates"]) for report in reports))
    return max(common, key=int, default=None)


def compare_figure(
    name: str, later: Mapping[str, Any], earlier: Mapping[str, Any], size: str
) -> Ratio | None:
    """Return the ratio of a figure of two reports; recalls need the same set of seeds."""
    if name == "recall" and later["seeds_id"] != earlier["seeds_id"]:
        return None
    found = [report["estimates"][size].get(name) for report in (later, earlier)]
    return None if None in found else ratio(PointEstimate(*found[0]), PointEstimate(*found[1]))


def estimate_of(report: Mapping[str, Any], name: str, size: str) -> dict[str, float] | None:
    """Return an estimate of a report with its 95 % interval; None if it has none."""
    found = report["estimates"][size].get(name)
    if found is None:
        return None
    low, high = PointEstimate(*found).interval
    most = 1.0 if name == "recall" else high
    return {"value": found[0], "low": max(low, 0.0), "high": min(high, most)}


def diversity_lines(report: Mapping[str, Any] | None) -> list[str]:
    """Format a report for a terminal."""
    if report is None:
        return []
    if not report["figures"]:
        drawn, needed = report["candidates"], report["needed"]
        return [f"  diversity is not measured: {drawn} drawn candidates, {needed} are needed"]
    lines = [f"  diversity of {report['size']} of {report['candidates']} drawn candidates:"]
    lines += [f"    {_figure_text(figure, report['first_round'])}" for figure in report["figures"]]
    if report["lost"]:
        lines.append(
            f"    diversity is lost: the Vendi score fell by more than {1 - LOST_RATIO:.0%} since "
            f"round {report['first_round']}, and by more than chance"
        )
    return lines


def _figure(
    name: str, own: Mapping[str, Any], first: Mapping[str, Any] | None, size: str
) -> dict[str, Any] | None:
    estimate = estimate_of(own, name, size)
    if estimate is None:
        return None
    compared = None if first is None else compare_figure(name, own, first, size)
    interval = ("value", "low", "high")
    seeds = own["seed_estimates"].get(size, {}).get(name)
    return {
        "name": name,
        **estimate,
        "seeds": seeds[0] if seeds else None,
        "ratio": {key: getattr(compared, key) for key in interval} if compared else None,
    }


_NAMES: Final = {
    "vendi": "Vendi score",
    "distance": "mean distance",
    "recall": "recall of the seeds",
}


def _figure_text(figure: Mapping[str, Any], first: int | None) -> str:
    text = "{value:.3g} (95 % {low:.3g} to {high:.3g})".format(**figure)
    if figure["seeds"] is not None:
        text += f", the seeds {figure['seeds']:.3g}"
    if figure["ratio"]:
        times = "{value:.2f} (95 % {low:.2f} to {high:.2f})".format(**figure["ratio"])
        text += f"; {times} times round {first}"
    return f"{_NAMES[figure['name']]} {text}"


_LATEST = sa.text(f"""
    select distinct on (r.kind) r.kind, r.id from rounds r
    join kept_reports k on k.name = '{REPORT}' and k.subject = r.id
    where k.report -> 'estimates' <> '{{}}' order by r.kind, r.id desc""")

_FIRST = sa.text(f"""
    select r.id from rounds r
    join kept_reports k on k.name = '{REPORT}' and k.subject = r.id
    where r.id < :round and r.purpose = 'generated' and k.report -> 'estimates' <> '{{}}'
        and r.kind = (select kind from rounds where id = :round)
    order by r.id limit 1""")
