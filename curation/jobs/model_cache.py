"""What this worker has loaded: the checkpoint that draws, and the oracle that decides."""

from __future__ import annotations

import sqlalchemy as sa

from curation.checkpoints import registry
from curation.datasets.snapshots import known
from curation.db.engine import Transaction
from curation.db.tables import rounds
from curation.domain import Checkpoint, Kind
from curation.errors import Refused
from curation.ports import LayerGenerator
from curation.rounds.lifecycle import find_round
from curation.runtime.context import AppContext, load
from curation.screening.pairs import rule_reviewer
from curation.screening.rule_reviewer import RuleReviewer, fit_to_snapshot

_loaded: dict[str, LayerGenerator] = {}
_fitted: dict[tuple[Kind, str], RuleReviewer | rule_reviewer.PairRuleReviewer] = {}


def forget() -> None:
    """Make room for another model: a checkpoint and it would not fit on one card."""
    _loaded.clear()


def generator_of(context: AppContext, checkpoint: Checkpoint) -> LayerGenerator:
    """The checkpoint, loaded once and kept until another one draws: two would not fit on one card."""
    if checkpoint.id not in _loaded:
        _loaded.clear()
        _loaded[checkpoint.id] = load(context.settings.generator)(checkpoint, context.store)
    return _loaded[checkpoint.id]


def oracle_of(context: AppContext, number: int) -> RuleReviewer | rule_reviewer.PairRuleReviewer:
    """The oracle for a round's kind, fitted to the seeds in the snapshot that its checkpoint was trained on."""
    with context.database.transaction() as tx:
        snapshot = known(tx, checkpoint_of(tx, number).snapshot)
        kind = Kind(find_round(tx, number)["kind"])
    if snapshot is None:
        told = "the oracle learns from the snapshot of a training, and imported weights have none in this home"
        raise Refused(told, "let people decide")
    if (kind, snapshot) not in _fitted:
        _fitted.clear()
        fit = rule_reviewer.fit_pairs_to_snapshot if kind is Kind.pair else fit_to_snapshot
        _fitted[kind, snapshot] = fit(context.store, snapshot)
    return _fitted[kind, snapshot]


def checkpoint_of(tx: Transaction, number: int) -> Checkpoint:
    """What draws a round. Raises NotFound."""
    name = tx.scalar(sa.select(rounds.c.checkpoint_id).where(rounds.c.id == number))
    return registry.find_checkpoint(tx, str(name))
