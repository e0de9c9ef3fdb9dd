"""Commands of data engineers: rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curation.cli.show import ACTOR, DryRun, Json, house, print_json, print_rows, short, talk

app = typer.Typer(no_args_is_help=True)

Overlap = Annotated[int, typer.Option(help="How many people decide each candidate, blind.", min=1, max=15)]
Rule = Annotated[str | None, typer.Option(help="How several verdicts become one: majority, or dawid_skene.")]
Certainty = Annotated[
    float | None,
    typer.Option(help="Least share or probability of a verdict; less goes to an adjudicator.", min=0, max=1),
]
Number = Annotated[int, typer.Argument(help="The round's number, as 'round list' shows it.")]


@app.command("open")
def open_(
    quota: Annotated[int, typer.Option(help="How many candidates to draw.", min=1)] = 100,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file, one prompt a line (of pairs: text, foreground, background as JSON); else seeds'."),
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Draw foreground, background and blended image.")] = False,
    checkpoint: Annotated[str | None, typer.Option(help="What draws; without it, the one promoted last.")] = None,
    share: Annotated[float, typer.Option(help="Share of screened candidates that people see.", min=0, max=1)] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed draws other pictures.")] = 0,
    overlap: Overlap = 1,
    rule: Rule = None,
    certainty: Certainty = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Open a round: prompts, a checkpoint and a quota; workers begin to draw at once."""
    from curation import checkpoints, loop, rounds
    from curation.domain import Kind
    from curation.errors import Refused
    from curation.review import consensus

    reached = consensus.choose(overlap, rule, certainty)
    kind = Kind.pair if pairs else Kind.single
    with house() as opened, opened.database.transaction() as tx:
        drawn_by = checkpoints.find_checkpoint(tx, checkpoint) if checkpoint else checkpoints.promoted(tx)
        if drawn_by is None:
            raise Refused("no checkpoint is promoted yet", "'layerloop train', then 'layerloop checkpoint promote'")
        if prompts is None:
            texts = loop.choose_prompts(tx, quota, seed, kind)
        else:
            texts = rounds.read_prompts(prompts.read_text("utf-8").split("\n"))
        policy = {"kind": "random", "share": share}
        if dry_run:
            rounds.check_round(texts, quota, policy, kind)
            talk.print(f"would draw {quota} candidates from {len(texts)} prompts with {short(drawn_by.id)}")
            return
        number = rounds.open_round(
            tx, checkpoint=drawn_by.id, prompts_=texts, quota=quota, seed=seed, policy=policy, kind=kind, actor=ACTOR
        )
        if overlap > 1:
            consensus.set_consensus(tx, number, reached, ACTOR)
    print_json({"round": number}) if as_json else print(number)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every round and how far it is."""
    from curation import rounds

    with house() as opened, opened.database.transaction() as tx:
        rows = rounds.list_rounds(tx)
    columns = {
        "round": lambda r: r["id"],
        "state": lambda r: r["state"],
        "purpose": lambda r: r["purpose"],
        "kind": lambda r: r["kind"],
        "quota": lambda r: r["quota"],
        "waiting": lambda r: r["counts"].get("waiting", 0) + r["counts"].get("showing", 0),
        "accepted": lambda r: r["counts"].get("accepted", 0),
        "rejected": lambda r: r["counts"].get("rejected", 0),
        "refused": lambda r: r["counts"].get("refused", 0),
        "checkpoint": lambda r: short(r["checkpoint_id"]),
        "opened": lambda r: r["at"],
    }
    print_rows(rows, columns, as_json)


@app.command()
def show(number: Number, as_json: Json = False) -> None:
    """The report of one round: what was drawn, refused, shown and accepted, and what it cost."""
    from curation.review import report

    with house() as opened, opened.database.transaction() as tx:
        told = report.round_report(tx, number)
    print_json(told) if as_json else print(report.as_text(told))


@app.command()
def pause(number: Number) -> None:
    """Draw nothing and show nothing of a round until it is resumed."""
    from curation import rounds

    with house() as opened, opened.database.transaction() as tx:
        rounds.pause_round(tx, number, ACTOR)
    talk.print(f"round {number} is paused; 'layerloop round resume {number}' goes on")


@app.command()
def resume(number: Number) -> None:
    """Go on with a paused round."""
    from curation import rounds

    with house() as opened, opened.database.transaction() as tx:
        rounds.resume_round(tx, number, ACTOR)
    talk.print(f"round {number} goes on")


@app.command()
def close(number: Number, dry_run: DryRun = False) -> None:
    """End a round; candidates without a verdict are withdrawn."""
    from curation import rounds

    with house() as opened, opened.database.transaction() as tx:
        if dry_run:
            counts = rounds.count_states(tx, number)
            standing = sum(counts.get(state, 0) for state in rounds.STANDING)
            talk.print(f"would withdraw {standing} candidates without a verdict")
            return
        withdrawn = rounds.close_round(tx, number, ACTOR)
    talk.print(f"round {number} is closed; {withdrawn} candidates were withdrawn")


@app.command()
def agreement(number: Number, as_json: Json = False) -> None:
    """How far people agree in a round, beyond chance: Krippendorff's alpha, Gwet's AC1, also of each two of them."""
    from curation.review import agreement as room

    with house() as opened, opened.database.transaction() as tx:
        told = room.round_agreement(tx, number)
    print_json(told) if as_json else print(room.as_text(told))


@app.command()
def reaggregate(
    number: Number,
    certainty: Annotated[float, typer.Option(help="How sure a verdict must be to turn another over.", min=0.5)] = 0.9,
    apply: Annotated[bool, typer.Option("--apply", help="Turn them over, each by a decision of its own.")] = False,
    as_json: Json = False,
) -> None:
    """Which verdicts would turn over by what is known of the reviewers by now; a dry run unless told to apply it."""
    from curation.review import aggregation

    with house() as opened, opened.database.transaction() as tx:
        find = aggregation.apply_flips if apply else aggregation.find_flips
        told = find(tx, number, certainty)
    print_json(told) if as_json else print(aggregation.as_text(told))
    if apply:
        talk.print(f"{told['turned']} verdicts were turned over")


@app.command()
def gold(
    number: Number,
    count: Annotated[int, typer.Option(help="How many pieces to make; 0 makes none.", min=0, max=10_000)] = 0,
    share: Annotated[float, typer.Option(help="Share of what people are shown that is gold; 0: none.")] = 0.05,
    bound: Annotated[float, typer.Option(help="Accuracy below which a reviewer is paused; 0: nobody is.")] = 0.6,
    dry_run: DryRun = False,
) -> None:
    """Hide candidates with a known verdict in a round: samples with a planted defect, and clean copies."""
    from curation.review import gold as room
    from curation.review import planting

    terms = room.GoldTerms(share, bound)
    with house() as opened:
        with opened.database.transaction() as tx:
            sources = planting.choose_sources(tx, number, count)
            size = planting.size_of(tx, number)
        if dry_run:
            talk.print(f"would plant {count} pieces in {len({one.id for one in sources})} samples and show {share:.1%}")
            return
        planted = planting.make_gold(opened.store, sources, size)
        with opened.database.transaction() as tx:
            pieces = planting.keep_gold(tx, number, planted, ACTOR)
            room.set_gold(tx, number, terms, ACTOR)
    talk.print(f"round {number} has {pieces} pieces of gold; {share:.1%} of what people are shown is gold")
