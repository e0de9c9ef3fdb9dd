"""Commands on the work of a round: its priority, its failed candidates, and who decides."""

from __future__ import annotations

from typing import Annotated

import typer

from curation.cli.output import ACTOR, DryRun, Json, context, print_json, print_result, print_text
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
