"""Whether a checkpoint is better than the promoted one, with a stated chance of error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from curation.checkpoints import registry
from curation.comparison_values import ComparisonSide, ComparisonState, DrawingMethod
from curation.comparisons.result import read_result
from curation.comparisons.sessions import find_comparison, sides_of
from curation.db.engine import Transaction
from curation.domain import LayerRole, Prompt, Verdict
from curation.errors import Conflict, Refused
from curation.ports import Layers
from curation.screening.pairs.rule_reviewer import PairRuleReviewer
from curation.screening.rule_reviewer import RuleReviewer
from curation.screening.rules import apply_rules
from curation.screening.signals import compute_signals
from curation.statistics.sign_test import one_sided_sign_test

ERROR: Final = 0.05
"""Default chance of promoting a checkpoint that is no better."""


@dataclass(frozen=True)
class PairedTest:
    """Wins of a new checkpoint over the promoted one on the same prompts and seeds.

    Attributes:
        wins: Items that the new one wins.
        losses: Items that the promoted one wins.
        ties: Items that neither wins.
        p: Probability of at least so many wins if both were equally good.
        error: The largest p that counts as better.
        by: Who compared them.
    """

    wins: int
    losses: int
    ties: int
    p: float
    error: float
    by: str

    @property
    def is_better(self) -> bool:
        """Return whether the new checkpoint is better with the stated chance of error."""
        return self.p <= self.error

    @property
    def sentence(self) -> str:
        """Return what was measured."""
        return (
            f"by {self.by} it wins {self.wins} and loses {self.losses} of "
            f"{self.wins + self.losses + self.ties} items (one-sided sign test p = {self.p:.3g}, "
            f"allowed {self.error:g})"
        )


class NotBetterError(Conflict):
    """The new checkpoint does not win against the promoted one; nothing was changed."""

    def __init__(self, test: PairedTest) -> None:
        super().__init__(
            f"the checkpoint is not promoted: {test.sentence}",
            "compare more items, or promote it without --if-better",
        )


def make_test(wins: int, losses: int, ties: int, error: float, by: str) -> PairedTest:
    """Return the one-sided exact sign test of wins against losses.

    Args:
        wins: Items that the new checkpoint wins.
        losses: Items that it loses.
        ties: Items that neither wins.
        error: The allowed chance of error, above 0 and below 1.
        by: Who compared them.

    Raises:
        Refused: The chance of error is out of range.
    """
    if not 0 < error < 1:
        raise Refused(f"{error:g} is no chance of error", "give one between 0 and 1, such as 0.05")
    return PairedTest(wins, losses, ties, one_sided_sign_test(wins, losses), error, by)


def compare_by_people(tx: Transaction, new: str, number: int, error: float = ERROR) -> PairedTest:
    """Return the test of a new checkpoint by a closed comparison with the promoted one.

    Args:
        tx: The transaction.
        new: Id of the new checkpoint.
        number: The comparison.
        error: The allowed chance of error.

    Raises:
        NotFound: There is no such comparison.
        Conflict: It compares others, is open, or was closed before all its votes were there.
    """
    row = find_comparison(tx, number)
    promoted = registry.find_promoted_checkpoint(tx)
    side = _side_of(row, new, promoted.id if promoted else None)
    if row["state"] != ComparisonState.closed:
        raise Conflict(
            f"comparison {number} is still open", f"'layerloop comparison close {number}' ends it"
        )
    # A comparison that is stopped because of its figures has no stated chance of error.
    if _has_undecided(tx, row):
        raise Conflict(
            f"comparison {number} was closed before all its items had their votes",
            "a test that is stopped early has no known chance of error; open another",
        )
    result = read_result(tx, number)
    wins, losses = (result.a, result.b) if side is ComparisonSide.a else (result.b, result.a)
    ties = result.equal + result.both_bad
    return make_test(wins, losses, ties, error, f"comparison {number}")


def promote_if_better(
    tx: Transaction, new: str, test: PairedTest, actor: str, *, tainted: bool = False
) -> str:
    """Promote a checkpoint that is better than the promoted one.

    Args:
        tx: The transaction.
        new: Id of the checkpoint.
        test: What was measured.
        actor: Name of the person, for the event log.
        tainted: Whether samples that it was trained on may have been taken down.

    Returns:
        The id of the checkpoint.

    Raises:
        NotBetterError: It is not better; nothing was changed.
        TakenDown: Samples that it was trained on were taken down.
    """
    if not test.is_better:
        raise NotBetterError(test)
    promoted = registry.promote_checkpoint(tx, new, actor, tainted=tainted)
    measured = {"wins": test.wins, "losses": test.losses, "p": test.p, "by": test.by}
    tx.log(actor, "checkpoint found better", new, error=test.error, **measured)
    return promoted


def judge_by_rules(
    rule_reviewer: RuleReviewer | PairRuleReviewer, layers: Layers, prompt: Prompt
) -> bool:
    """Return whether screening and the rule reviewer accept what was drawn for a prompt.

    Args:
        rule_reviewer: The rule reviewer of the kind of the layers.
        layers: The layers.
        prompt: Their prompt.
    """
    if isinstance(rule_reviewer, PairRuleReviewer):
        return rule_reviewer.decide(layers, prompt).verdict is Verdict.accept
    rgba = layers[LayerRole.foreground]
    if apply_rules(compute_signals(rgba)):
        return False
    return rule_reviewer.decide(rgba, prompt.text).verdict is Verdict.accept


def compare_by_rules(new: Sequence[bool], promoted: Sequence[bool], error: float) -> PairedTest:
    """Return the test of accepts of two checkpoints on the same prompts and seeds.

    Only the items that one of them has right alone count (McNemar's exact test).

    Args:
        new: Whether each drawing of the new checkpoint was accepted.
        promoted: The same of the promoted one, in the same order.
        error: The allowed chance of error.
    """
    pairs = list(zip(new, promoted, strict=True))
    wins = sum(mine and not other for mine, other in pairs)
    losses = sum(other and not mine for mine, other in pairs)
    return make_test(wins, losses, len(pairs) - wins - losses, error, "the rule reviewer")


def _side_of(row: Mapping[str, Any], new: str, promoted: str | None) -> ComparisonSide:
    """Return the side of the new checkpoint. Raises Conflict unless the other is the promoted."""
    if promoted == new:
        raise Conflict("this checkpoint is promoted already")
    sides = sides_of(row)
    by_side = {
        side: compared.checkpoint
        for side, compared in sides.items()
        if compared.method is DrawingMethod.generated
    }
    for side in ComparisonSide:
        if by_side.get(side) == new and promoted in by_side.values():
            return side
    raise Conflict(
        f"comparison {row['id']} does not compare this checkpoint with the promoted one",
        "'layerloop comparison open PROMOTED NEW' opens one",
    )


def _has_undecided(tx: Transaction, row: Mapping[str, Any]) -> bool:
    """Return whether an item that could be drawn lacks votes."""
    query = sa.text("""
        select exists (select from comparison_items i
            where i.comparison_id = :number and i.voted < :votes and not exists (
                select from comparison_drawings d
                where d.item_id = i.id and d.state in ('failed', 'removed')))""")
    found = tx.execute(query, {"number": row["id"], "votes": row["votes"]})
    return bool(found.scalar_one())
