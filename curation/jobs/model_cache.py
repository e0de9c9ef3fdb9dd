"""The models that this worker has loaded: one checkpoint, and one rule reviewer."""

from __future__ import annotations

import sqlalchemy as sa

from curation.checkpoints import registry
from curation.datasets.snapshots import find_local_snapshot
from curation.db.engine import Transaction
from curation.db.tables import rounds
from curation.domain import Checkpoint, Kind
from curation.errors import Refused
from curation.ports import LayerGenerator
from curation.rounds.lifecycle import find_round
from curation.runtime.context import AppContext, load_object
from curation.screening.pairs import rule_reviewer
from curation.screening.rule_reviewer import RuleReviewer, fit_rule_reviewer

_loaded: dict[str, LayerGenerator] = {}
_fitted: dict[tuple[Kind, str], RuleReviewer | rule_reviewer.PairRuleReviewer] = {}


def evict() -> None:
    """Free the loaded checkpoint, to make room for another model on the GPU."""
    _loaded.clear()


def get_generator(context: AppContext, checkpoint: Checkpoint) -> LayerGenerator:
    """Return the loaded checkpoint, and load it if another is loaded."""
    if checkpoint.id not in _loaded:
        # Two checkpoints would not fit on one GPU.
        _loaded.clear()
        _loaded[checkpoint.id] = load_object(context.settings.generator)(checkpoint, context.store)
    return _loaded[checkpoint.id]


def get_rule_reviewer(
    context: AppContext, round_id: int
) -> RuleReviewer | rule_reviewer.PairRuleReviewer:
    """Return the rule reviewer of a round, fitted to the seeds of its checkpoint's snapshot.

    Args:
        context: The app context.
        round_id: Id of the round.

    Raises:
        Refused: The checkpoint has no snapshot in this installation.
    """
    with context.database.transaction() as tx:
        snapshot = find_local_snapshot(tx, get_round_checkpoint(tx, round_id).snapshot)
        kind = Kind(find_round(tx, round_id)["kind"])
    if snapshot is None:
        raise Refused(
            "the rule reviewer is fitted to the snapshot of a training run, and imported weights "
            "have none in this home",
            "let people review this round",
        )
    # Fitting reads all seeds, so the last rule reviewer is kept.
    if (kind, snapshot) not in _fitted:
        _fitted.clear()
        fit = rule_reviewer.fit_pair_rule_reviewer if kind is Kind.pair else fit_rule_reviewer
        _fitted[kind, snapshot] = fit(context.store, snapshot)
    return _fitted[kind, snapshot]


def get_round_checkpoint(tx: Transaction, round_id: int) -> Checkpoint:
    """Return the checkpoint of a round. Raises NotFound."""
    name = tx.scalar(sa.select(rounds.c.checkpoint_id).where(rounds.c.id == round_id))
    return registry.find_checkpoint(tx, str(name))
