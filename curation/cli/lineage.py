"""Commands for lineage: where a sample comes from, and what a checkpoint was made from."""

from __future__ import annotations

from typing import Annotated

import typer

from curation.cli.output import Json, context, print_json, print_text, short_hash


def why(
    sample: Annotated[
        str, typer.Argument(help="The sample's id, or its first eight or more digits.")
    ],
    as_json: Json = False,
) -> None:
    """Show where a sample comes from, who decided on it, and what was trained on it.

    Of a sample that was taken down, only the time and the takedown's record are left.
    """
    from curation.reporting import lineage

    with context() as ctx:
        found = lineage.why_sample(ctx.database, ctx.store, sample)
    if as_json:
        print_json(found)
        return
    print_text(f"{found['id']}  {found['caption']!r}")
    print_text(f"  licence {found['licence']}; source {found['source']}; split {found['split']}")
    if found["open"]:
        print_text("  its candidate is open for review again, which is blind: no origin is shown")
    if made := found["candidate"]:
        origin = short_hash(made["checkpoint"]) if made["checkpoint"] else made["purpose"]
        print_text(
            f"  round {made['round']}, from {origin}, seed {made['seed']}: {made['prompt']!r}"
        )
        for decision in made["decisions"]:
            reasons = f" ({', '.join(decision['reasons'])})" if decision["reasons"] else ""
            time = f"{decision['created_at']:%Y-%m-%d %H:%M}"
            print_text(f"  {time}  {decision['verdict']} by {decision['reviewer']}{reasons}")
    for held in found["snapshots"]:
        mark = ", withheld" if held["withheld"] else ""
        print_text(f"  snapshot {short_hash(held['id'])} {', '.join(held['tags'])}{mark}")
    for trained in found["checkpoints"]:
        print_text(
            f"  checkpoint {short_hash(trained['id'])} on {short_hash(trained['snapshot_id'])}"
        )


def used(
    checkpoint: Annotated[
        str, typer.Argument(help="The checkpoint's id, or its first eight or more digits.")
    ],
    as_json: Json = False,
) -> None:
    """Show what a checkpoint was made from, and what it generated."""
    from curation.reporting import lineage

    with context() as ctx, ctx.database.transaction() as tx:
        found = lineage.used_by_checkpoint(tx, checkpoint)
    if as_json:
        print_json(found)
        return
    print_text(f"{found['id']}  {found['recipe']}, preset {found['preset']}, seed {found['seed']}")
    count = "not here" if found["samples"] is None else f"{found['samples']} samples"
    print_text(f"  snapshot {short_hash(found['snapshot'])} ({count})")
    for what, counts in found["counts"].items():
        for value, number in sorted(counts.items(), key=lambda item: -item[1]):
            print_text(f"    {what:<8} {number:>8}  {value}")
    for ancestor in found["ancestors"]:
        print_text(
            f"  continues {short_hash(ancestor['id'])} on {short_hash(ancestor['snapshot'])}"
        )
    for round_row in found["rounds"]:
        made = f"{round_row['candidates']} candidates, {round_row['accepted']} accepted"
        print_text(f"  generated round {round_row['id']}: {made}")
    for child in found["children"]:
        print_text(f"  continued by {short_hash(child)}")
