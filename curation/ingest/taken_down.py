"""Files whose pixels were taken down are refused, and near copies of them are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from curation.datasets.blocked import find_blocked, find_near_blocked
from curation.db.engine import Database
from curation.ingest.inspection_result import ImportItem, InspectionOutcome, InspectionResult

TAKEN_DOWN = "taken_down"
"""Code of a file whose pixels, or of a pair one layer's, were taken down."""
NEAR_TAKEN_DOWN = "near_taken_down"
"""Code of a file that is nearly the same image as one that was taken down."""

_MILD = (InspectionOutcome.accept, InspectionOutcome.accept_strip)


def refuse_taken_down(
    database: Database, batch: Sequence[tuple[ImportItem, InspectionResult]]
) -> list[tuple[ImportItem, InspectionResult]]:
    """Return a batch in which files that were taken down are refused, and near ones have a warning.

    Args:
        database: The database.
        batch: Inspected items.
    """
    stored = [found for _, found in batch if found.layer is not None]
    with database.transaction() as tx:
        exact = find_blocked(tx, [one for found in stored for one in _pixels(found)])
        near = dict(
            zip(
                (found.name for found in stored),
                find_near_blocked(tx, [found.fingerprint for found in stored]),
                strict=True,
            )
        )
    return [(item, _judge(found, exact, near.get(found.name))) for item, found in batch]


def _pixels(found: InspectionResult) -> list[str]:
    return [found.visible, *(other.visible for other in found.beside.values())]


def _judge(found: InspectionResult, exact: dict[str, str], near: str | None) -> InspectionResult:
    if found.layer is None:
        return found
    takedown = next((exact[one] for one in _pixels(found) if one in exact), None)
    if takedown is not None:
        sentence = f"this image was taken down ({takedown}) and is never imported again"
        return InspectionResult(found.name, InspectionOutcome.reject, (TAKEN_DOWN,), sentence)
    if near is None:
        return found
    sentence = f"nearly the same image as one that was taken down ({near})"
    return replace(
        found,
        outcome=InspectionOutcome.accept_warn if found.outcome in _MILD else found.outcome,
        codes=(*found.codes, NEAR_TAKEN_DOWN),
        sentence=f"{found.sentence}; {sentence}" if found.sentence else sentence,
    )
