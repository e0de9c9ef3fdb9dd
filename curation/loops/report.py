"""The state of a loop as data, for the terminal, the API and the page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from curation.db.engine import Transaction
from curation.loops import rows, spending
from curation.loops.diversity_guard import describe_answer
from curation.loops.plan import plan_to_dict


def loop_report(tx: Transaction, loop_id: int) -> dict[str, Any]:
    """Return a loop's plan, state, turns and what it has spent, as JSON-compatible values.

    Args:
        tx: The transaction.
        loop_id: Number of the loop.

    Raises:
        NotFound: There is no such loop.
    """
    loop = rows.find_loop(tx, loop_id)
    return {
        "loop": loop.id,
        "state": loop.state,
        "step": loop.step,
        "turn": loop.turn,
        "reason": loop.reason,
        "plan": plan_to_dict(loop.plan),
        "spent": asdict(spending.spent(tx, loop)),
        "turns": list_turns(tx, loop_id),
    }


def list_turns(tx: Transaction, loop_id: int) -> list[dict[str, Any]]:
    """Return what each turn of a loop has made, as JSON-compatible values, in order."""
    return [
        {
            "turn": row["turn"],
            "snapshot": row["snapshot_id"],
            "run": str(row["run_id"]) if row["run_id"] else None,
            "checkpoint": row["checkpoint_id"],
            "promoted": row["promoted"],
            "gate": row["gate"] or [],
            "round": row["round_id"],
            "guard": row["guard"],
            "guard_note": describe_answer(row["guard"] or {}) or None,
        }
        for row in rows.list_turns(tx, loop_id)
    ]
