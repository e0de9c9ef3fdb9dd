"""Steps of a round in one call, for tests that need no worker: generate and store, and screen."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from curation.db.engine import Database
from curation.ports import LayerGenerator, ObjectStore
from curation.rounds.generation import (
    ClaimedCandidate,
    generate_layers,
    save_layers,
    store_layers,
)
from curation.screening.candidates import find_measurable, measure_candidate
from curation.screening.rules import HARD_RULES, ScreeningRule, store_screenings


def generate_claimed(
    database: Database,
    store: ObjectStore,
    generator: LayerGenerator,
    claimed: Sequence[ClaimedCandidate],
    holder: str,
) -> int:
    """Generate claimed candidates and store them: objects first, rows second.

    Args:
        database: The database; no transaction is open while the generator runs.
        store: The object store.
        generator: The generator of the round's checkpoint.
        claimed: The candidates.
        holder: The name of the worker.

    Returns:
        The number of candidates whose lease this worker still held.
    """
    generated = generate_layers(generator, claimed)
    # Objects without rows are harmless; rows without objects would be broken candidates.
    stored = {id_: store_layers(store, layers) for id_, layers in generated.items()}
    with database.transaction() as tx:
        return save_layers(tx, stored, holder)


def screen_candidates(
    database: Database,
    store: ObjectStore,
    ids: Sequence[uuid.UUID],
    rules: Sequence[ScreeningRule] = HARD_RULES,
) -> int:
    """Screen generated candidates: move each to refused or screened.

    Candidates in other states are left as they are, so the call is idempotent. Rejected are those
    that break a rule, and exact or near duplicates of a layer in the pool: a seed, an earlier
    candidate that was not refused, or an earlier one of this batch.

    Args:
        database: The database; no transaction is open while layers are read.
        store: The object store with the layers.
        ids: The candidates.
        rules: The rules for single layers and foregrounds.

    Returns:
        The number of candidates moved.
    """
    with database.transaction() as tx:
        found = find_measurable(tx, ids)
    measured = [measure_candidate(item, store.get) for item in found]
    with database.transaction() as tx:
        return store_screenings(tx, measured, rules)
