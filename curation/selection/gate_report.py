"""Report of the gates: their thresholds, interim looks and effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curation.db.engine import Transaction
from curation.selection.audits import read_audit
from curation.selection.gates import current_gates, list_gates


def gates_report(tx: Transaction, round_id: int) -> list[dict[str, Any]]:
    """Return the proven gates of a round as JSON data, with the state of their audits.

    `lost` and `wrong` are the error rates at the look that proved the gate; `audit` is the state of
    the audit (audits.Audit), `contradicted` whether it closed the gate. Only the latest gate of a
    verdict `stands`.

    Args:
        tx: The transaction.
        round_id: The round.
    """
    reports = []
    standing = {gate["id"] for gate in current_gates(tx, round_id)}
    for row in list_gates(tx, round_id):
        if row["threshold"] is not None:
            metrics = {
                name: row["metrics"][name] for name in ("budget", "level", "share", "lost", "wrong")
            }
            identity = {name: row[name] for name in ("id", "verdict", "interim_look", "threshold")}
            contradicted = row["metrics"].get("contradicted")
            audit = contradicted or read_audit(tx, row).as_json()
            state = {
                "audit": audit,
                "stands": row["id"] in standing,
                "contradicted": contradicted is not None,
            }
            reports.append(identity | metrics | state)
    return reports


def format_gates(gates_: Sequence[dict[str, Any]]) -> list[str]:
    """Return the gates of a round as lines for the terminal."""
    return [
        (_CONTRADICTED if gate["contradicted"] else _STANDS).format(
            **gate | {name: gate[name]["high"] for name in ("lost", "wrong")} | gate["audit"]
        )
        for gate in gates_
        if gate["stands"] or gate["contradicted"]
    ]


_STANDS = (
    "  gate {id} {verdict}s {share:.0%} of all: at most {lost:.2%} of the good (or bad) ones "
    "are lost, {wrong:.2%} of its verdicts wrong; audit: {errors} of {judged} wrong"
)
_CONTRADICTED = (
    "  gate {id} was closed by its audit: {errors} of {judged} audited {verdict}s were wrong, "
    "which proves {low:.1%} errors where {budget:.1%} are allowed; its decisions stand until "
    "'layerloop round revert-auto'"
)
