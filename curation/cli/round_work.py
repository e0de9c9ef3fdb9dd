"""Commands on the work of a round: its priority, failed candidates, gold, and who decides."""

from __future__ import annotations

from typing import Annotated

import typer

from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    console,
    context,
    print_json,
    print_result,
    print_text,
)
from curation.cli.round_options import Number, RoundReviewer

Priority = Annotated[
    int,
    typer.Option(
        "--priority",
        help="Workers take rounds of a higher priority first; equal ones share the workers.",
        min=-100,
        max=100,
    ),
]


def set_priority(
    number: Number,
    priority: Annotated[int, typer.Argument(help="From -100 to 100; rounds begin at 0.")],
    as_json: Json = False,
) -> None:
    """Set the priority of a round; workers follow it with their next batch."""
    from curation.rounds import work

    with context() as ctx, ctx.database.transaction() as tx:
        work.set_priority(tx, number, priority, ACTOR)
    message = f"round {number} has priority {priority}"
    print_result(message, as_json, round=number, priority=priority)


def retry(number: Number, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Try the failed candidates of a round again, and list why they failed."""
    from curation.rounds import work

    with context() as ctx, ctx.database.transaction() as tx:
        reasons = work.fail_reasons(tx, number) if dry_run else work.retry_failed(tx, number, ACTOR)
    count = sum(reasons.values())
    if as_json:
        print_json({"round": number, "candidates": count, "reasons": reasons, "dry_run": dry_run})
        return
    print_text(f"{count} failed candidates {'would be' if dry_run else 'are'} tried again")
    for reason, failed in reasons.items():
        print_text(f"  {failed:>6}  {reason}")


def review(
    number: Number,
    by: Annotated[
        RoundReviewer,
        typer.Option(help="'rules': the rule reviewer decides what waits; 'person': people do."),
    ],
    as_json: Json = False,
) -> None:
    """Choose who decides the waiting candidates of a round from now on."""
    from curation.rounds.work import set_rule_reviewer

    with context() as ctx, ctx.database.transaction() as tx:
        set_rule_reviewer(tx, number, by == RoundReviewer.rules, ACTOR)
    whom = "the rule reviewer decides" if by == RoundReviewer.rules else "people decide"
    print_result(f"{whom} in round {number}", as_json, round=number, reviewer=by.value)


def trend(as_json: Json = False) -> None:
    """Show the figures of all rounds with intervals, and whether the last one differs by chance."""
    from curation.reporting import trend as trend_report

    with context() as ctx, ctx.database.transaction() as tx:
        found = trend_report.rounds_trend(tx)
    print_json(found) if as_json else print_text(trend_report.as_text(found))


def gold(
    number: Number,
    count: Annotated[
        int, typer.Option(help="Number of gold items to create.", min=0, max=10_000)
    ] = 0,
    share: Annotated[
        float, typer.Option(help="Share of gold among the reviewed candidates; 0 for none.")
    ] = 0.05,
    bound: Annotated[
        float, typer.Option(help="Gold accuracy below which a reviewer is paused; 0 for never.")
    ] = 0.6,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Add gold to a round: samples with a planted defect, and clean copies, of known verdict."""
    from curation.quality import gold_creation
    from curation.review import gold as review_gold

    terms = review_gold.GoldSettings(share, bound)
    with context() as ctx:
        with ctx.database.transaction() as tx:
            sources = gold_creation.choose_sources(tx, number, count)
            size = gold_creation.typical_size(tx, number)
        if dry_run:
            samples = len({sample.id for sample in sources})
            message = f"would create {count} gold items from {samples} samples and show {share:.1%}"
            print_result(
                message, as_json, round=number, would_plant=count, samples=samples, share=share
            )
            return
        # Between two transactions, since creating gold decodes and encodes images.
        planted = gold_creation.make_gold(ctx.store, sources, size)
        with ctx.database.transaction() as tx:
            pieces = gold_creation.add_gold(tx, number, planted, ACTOR)
            review_gold.set_gold(tx, number, terms, ACTOR)
    message = f"round {number} has {pieces} gold items; {share:.1%} of reviewed candidates are gold"
    print_result(message, as_json, round=number, pieces=pieces, share=share)
    if ctx.settings.labeling_url is not None:
        console.print(
            "gold is shown on the review page only: Label Studio users are not tested with it"
        )
