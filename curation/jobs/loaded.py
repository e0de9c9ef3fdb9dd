"""What this worker has loaded: the checkpoint that draws, and the oracle that decides."""

from __future__ import annotations

import sqlalchemy as sa

from curation import checkpoints
from curation.database import Transaction
from curation.domain import Checkpoint, Kind
from curation.errors import Refused
from curation.house import House, load
from curation.ports import LayerGenerator
from curation.rounds import find_round
from curation.screening import pair_oracle
from curation.screening.oracle import Oracle, fit_to_snapshot
from curation.snapshots import known
from curation.tables import rounds

_loaded: dict[str, LayerGenerator] = {}
_fitted: dict[tuple[Kind, str], Oracle | pair_oracle.PairOracle] = {}


def forget() -> None:
    """Make room for another model: a checkpoint and it would not fit on one card."""
    _loaded.clear()


def generator_of(house: House, checkpoint: Checkpoint) -> LayerGenerator:
    """The checkpoint, loaded once and kept until another one draws: two would not fit on one card."""
    if checkpoint.id not in _loaded:
        _loaded.clear()
        _loaded[checkpoint.id] = load(house.settings.generator)(checkpoint, house.store)
    return _loaded[checkpoint.id]


def oracle_of(house: House, number: int) -> Oracle | pair_oracle.PairOracle:
    """The oracle for a round's kind, fitted to the seeds in the snapshot that its checkpoint was trained on."""
    with house.database.transaction() as tx:
        snapshot = known(tx, checkpoint_of(tx, number).snapshot)
        kind = Kind(find_round(tx, number)["kind"])
    if snapshot is None:
        told = "the oracle learns from the snapshot of a training, and imported weights have none in this home"
        raise Refused(told, "let people decide")
    if (kind, snapshot) not in _fitted:
        _fitted.clear()
        fit = pair_oracle.fit_pairs_to_snapshot if kind is Kind.pair else fit_to_snapshot
        _fitted[kind, snapshot] = fit(house.store, snapshot)
    return _fitted[kind, snapshot]


def checkpoint_of(tx: Transaction, number: int) -> Checkpoint:
    """What draws a round. Raises NotFound."""
    name = tx.scalar(sa.select(rounds.c.checkpoint_id).where(rounds.c.id == number))
    return checkpoints.find_checkpoint(tx, str(name))
