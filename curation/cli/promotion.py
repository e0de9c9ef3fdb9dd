"""The command that promotes a checkpoint, in any case or only if it is better (model trainers)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.evaluation import CheckpointArgument
from curation.cli.output import (
    ACTOR,
    MAX_ID,
    Json,
    context,
    print_json,
    print_text,
    progress,
    short_hash,
)
from curation.errors import Conflict, Refused

if TYPE_CHECKING:
    from curation.comparisons.promotion import PairedTest
    from curation.db.engine import Transaction
    from curation.domain import Checkpoint, GenerationRequest
    from curation.ports import ProgressCallback
    from curation.runtime.context import AppContext
    from curation.screening.pairs.rule_reviewer import PairRuleReviewer
    from curation.screening.rule_reviewer import RuleReviewer

RULE_COUNT = 200
"""Default number of items that the rule reviewer judges."""


class Judge(StrEnum):
    """Who judges whether a checkpoint is better."""

    people = "people"
    rules = "rules"


def promote(
    name: CheckpointArgument,
    tainted: Annotated[
        bool,
        typer.Option("--tainted", help="Accept that it was trained on samples taken down since."),
    ] = False,
    if_better: Annotated[
        bool,
        typer.Option(
            "--if-better", help="Promote it only if it wins against the promoted checkpoint."
        ),
    ] = False,
    comparison: Annotated[
        int | None,
        typer.Option(help="With --if-better: the closed comparison of both.", min=1, max=MAX_ID),
    ] = None,
    by: Annotated[
        Judge,
        typer.Option(
            help="With --if-better: 'people' by --comparison, or 'rules' by the rule reviewer."
        ),
    ] = Judge.people,
    count: Annotated[
        int | None,
        typer.Option(help=f"With --by rules: number of items; default {RULE_COUNT}.", min=1),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="With --by rules: file of prompts; default: captions of seeds."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="With --by rules: random seed of the first item.", min=0)
    ] = 0,
    error: Annotated[
        float, typer.Option(help="With --if-better: allowed chance of a wrong promotion.")
    ] = 0.05,
    as_json: Json = False,
) -> None:
    """Use a checkpoint as the generator of new rounds.

    With --if-better, both checkpoints are compared on the same prompts and seeds by a one-sided
    exact sign test. If the new one does not win, nothing is changed and the exit code is not 0.
    """
    from curation.checkpoints import registry
    from curation.comparisons import promotion

    _check_options(comparison, if_better=if_better, by=by, count=count, prompts=prompts)
    test = None
    with context() as ctx:
        with ctx.database.transaction() as tx:
            new = registry.find_checkpoint(tx, name)
            former = registry.find_promoted_checkpoint(tx)
            if if_better and comparison is not None:
                test = promotion.compare_by_people(tx, new.id, comparison, error)
        if if_better and test is None and former is not None:
            test = _compare_by_rules(ctx, new, former, count or RULE_COUNT, prompts, seed, error)
        with ctx.database.transaction() as tx:
            if test is None:
                promoted = registry.promote_checkpoint(tx, name, ACTOR, tainted=tainted)
            else:
                _check_unchanged(tx, former)
                promoted = promotion.promote_if_better(tx, new.id, test, ACTOR, tainted=tainted)
    if as_json:
        print_json({"checkpoint": promoted, "test": asdict(test) if test else None})
        return
    print_text(f"{short_hash(promoted)} is promoted: new rounds use it")
    if test is not None:
        print_text(test.sentence)


def _check_options(
    comparison: int | None,
    *,
    if_better: bool,
    by: Judge,
    count: int | None,
    prompts: Path | None,
) -> None:
    """Refuse options that do not belong together."""
    by_rules = by is Judge.rules
    if not if_better and (comparison is not None or by_rules):
        raise Refused("--comparison and --by belong to --if-better", "add --if-better")
    if not by_rules and (count is not None or prompts is not None):
        raise Refused("--count and --prompts belong to --by rules", "add --by rules")
    if if_better and by_rules == (comparison is not None):
        raise Refused(
            "--if-better needs one judge",
            "give --comparison N for people, or --by rules for the rule reviewer",
        )


def _check_unchanged(tx: Transaction, former: Checkpoint | None) -> None:
    """Raise Conflict if another checkpoint was promoted while this one was compared."""
    from curation.checkpoints import registry

    if registry.find_promoted_checkpoint(tx) != former:
        raise Conflict("another checkpoint was promoted meanwhile", "compare it with that one")


def _compare_by_rules(
    ctx: AppContext,
    new: Checkpoint,
    former: Checkpoint,
    count: int,
    prompts: Path | None,
    seed: int,
    error: float,
) -> PairedTest:
    """Let the rule reviewer judge what both checkpoints draw for the same prompts and seeds."""
    from curation.comparisons import promotion
    from curation.datasets.snapshots import find_local_snapshot
    from curation.domain import GenerationRequest
    from curation.loops.prompts import choose_prompts
    from curation.prompts.files import read_prompt_file
    from curation.screening.pairs.rule_reviewer import fit_pair_rule_reviewer
    from curation.screening.rule_reviewer import fit_rule_reviewer

    if new.id == former.id:
        raise Conflict("this checkpoint is promoted already")
    promotion.make_test(0, 0, 0, error, "")  # check the chance of error before hours of work
    with ctx.database.transaction() as tx:
        texts = read_prompt_file(prompts).prompts if prompts else choose_prompts(tx, count, seed)
        # One reviewer for both; the older snapshot, since the new one may be fitted to itself.
        snapshot = find_local_snapshot(tx, former.snapshot) or find_local_snapshot(tx, new.snapshot)
    if not texts:
        raise Refused("there are no prompts", "give a file of prompts with --prompts")
    if snapshot is None:
        raise Refused(
            "the rule reviewer is fitted to the snapshot of a training run, and imported weights "
            "have none in this home",
            "let people compare both: 'layerloop comparison open'",
        )
    repeated = itertools.islice(itertools.cycle(texts), count)
    requests = [GenerationRequest(prompt, seed + i) for i, prompt in enumerate(repeated)]
    # Prompts of pairs are judged by the rules of pairs.
    fit = fit_pair_rule_reviewer if texts[0].background else fit_rule_reviewer
    rule_reviewer = fit(ctx.store, snapshot)
    with progress() as on_progress:
        mine, other = (
            _judge(ctx, checkpoint, requests, rule_reviewer, on_progress)
            for checkpoint in (new, former)
        )
    return promotion.compare_by_rules(mine, other, error)


def _judge(
    ctx: AppContext,
    checkpoint: Checkpoint,
    requests: Sequence[GenerationRequest],
    rule_reviewer: RuleReviewer | PairRuleReviewer,
    report: ProgressCallback,
) -> list[bool]:
    """Return which drawings of a checkpoint are accepted, without keeping them."""
    from curation.comparisons.promotion import judge_by_rules
    from curation.domain import Progress
    from curation.runtime.context import load_object

    generator = load_object(ctx.settings.generator)(checkpoint, ctx.store)
    accepted: list[bool] = []
    for start in range(0, len(requests), generator.batch_size):
        batch = requests[start : start + generator.batch_size]
        drawn = generator.generate(batch)
        accepted += [
            judge_by_rules(rule_reviewer, layers, request.prompt)
            for layers, request in zip(drawn, batch, strict=True)
        ]
        step = f"draw with {short_hash(checkpoint.id)}"
        report(Progress(step, len(accepted), len(requests)))
    return accepted
