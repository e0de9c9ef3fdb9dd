"""Commands of data engineers: rounds."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from curation.cli.loras import Lora, read_styles
from curation.cli.output import (
    ACTOR,
    LARGEST,
    DryRun,
    Json,
    context,
    print_done,
    print_json,
    print_rows,
    print_text,
    short,
    talk,
)
from curation.domain import Rule

app = typer.Typer(no_args_is_help=True)

Overlap = Annotated[
    int, typer.Option(help="How many people decide each candidate, blind.", min=1, max=15)
]
HowDecided = Annotated[
    Rule | None,
    typer.Option("--rule", help="How several verdicts become one; single where one decides alone."),
]
Certainty = Annotated[
    float | None,
    typer.Option(
        help="Least share or probability of a verdict; less goes to an adjudicator.", min=0, max=1
    ),
]
MachinesVote = Annotated[
    bool,
    typer.Option(
        "--machines-vote",
        help="Where several decide, count the oracle as one of them; else it rules.",
    ),
]
Number = Annotated[
    int, typer.Argument(help="The round's number, as 'round list' shows it.", max=LARGEST)
]


class Policy(StrEnum):
    """Which candidates people are shown."""

    random = "random"
    mixed = "mixed"
    paper = "paper"


@app.command("open")
def open_(
    quota: Annotated[int, typer.Option(help="How many candidates to draw.", min=1)] = 100,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A file, one prompt a line (of pairs: text, foreground, background as JSON); else seeds'. "
            "A line that begins with '# ' is a comment; equal lines count once."
        ),
    ] = None,
    prompts_from_names: Annotated[
        bool,
        typer.Option(
            "--prompts-from-names",
            help="Without --prompts: also seeds' captions made from file names.",
        ),
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Draw foreground, background and blended image.")
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="What draws; without it, the one promoted last.")
    ] = None,
    lora: Lora = None,
    policy: Annotated[
        Policy, typer.Option(help="Who is shown what; mixed: likely, uncertain and random ones.")
    ] = Policy.random,
    share: Annotated[
        float | None,
        typer.Option(
            help="Share of screened candidates that people see (all; of mixed a quarter)."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A number of the policy, such as random=0.2 or reject_budget=0.02; again for more.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other pictures.")] = 0,
    overlap: Overlap = 1,
    rule: HowDecided = None,
    certainty: Certainty = None,
    machines_vote: MachinesVote = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Open a round: prompts, a checkpoint and a quota; workers begin to draw at once."""
    from curation.checkpoints import registry
    from curation.cli.text_warnings import warn_of_prompts
    from curation.domain import Kind
    from curation.errors import Refused
    from curation.prompts.files import read_prompt_file
    from curation.review import consensus
    from curation.rounds import lifecycle
    from curation.rounds.policies import check_measures
    from curation.runtime import loop
    from curation.runtime.context import load, load_embedder

    reached = consensus.choose(overlap, rule, certainty, machines_vote=machines_vote)
    given = read_prompt_file(prompts) if prompts else None
    if given and (given.comments or given.repeated):
        talk.print(
            f"{prompts}: {given.comments} comments skipped, {given.repeated} repeated lines counted once"
        )
    kind = Kind.pair if pairs else Kind.single
    with context() as ctx, ctx.database.transaction() as tx:
        drawn_by = registry.find_checkpoint(tx, checkpoint) if checkpoint else registry.promoted(tx)
        if drawn_by is None:
            raise Refused(
                "no checkpoint is promoted yet",
                "'layerloop train', then 'layerloop checkpoint promote'",
            )
        if given is None:
            texts = loop.choose_prompts(tx, quota, seed, kind, file_names=prompts_from_names)
        else:
            texts = given.prompts
        warned = warn_of_prompts(ctx, drawn_by, texts)
        styles = read_styles(lora or [])
        rules = _read_rules(policy.value, share, set_ or [])
        check_measures(
            rules, load_embedder(ctx.settings).measures if policy is Policy.paper else ()
        )
        if dry_run:
            lifecycle.check_round(texts, quota, rules, kind)
            drawn = f"{quota} candidates from {len(texts)} prompts with {short(drawn_by.id)}"
            told = f"would draw {drawn}, {consensus.tell(reached)}"
            print_done(told, as_json, would_draw=quota, prompts=len(texts), checkpoint=drawn_by.id)
            return
        if styles:
            drawn_by = load(ctx.settings.styler)(drawn_by, ctx.store, styles)
            registry.register_checkpoint(tx, drawn_by, ACTOR)
        number = lifecycle.open_round(
            tx,
            checkpoint=drawn_by.id,
            prompts_=texts,
            quota=quota,
            seed=seed,
            policy=rules,
            kind=kind,
            actor=ACTOR,
        )
        if overlap > 1:
            consensus.set_consensus(tx, number, reached, ACTOR)
    print_json(
        {"round": number} | ({"warning": warned} if warned else {})
    ) if as_json else print_text(number)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every round and how far it is."""
    from curation.rounds import lifecycle

    with context() as ctx, ctx.database.transaction() as tx:
        rows = lifecycle.list_rounds(tx)
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
    from curation.reporting import round_report

    with context() as ctx, ctx.database.transaction() as tx:
        told = round_report.round_report(tx, number)
    print_json(told) if as_json else print_text(round_report.as_text(told))


@app.command()
def pause(number: Number, as_json: Json = False) -> None:
    """Draw nothing and show nothing of a round until it is resumed."""
    from curation.rounds import lifecycle

    with context() as ctx, ctx.database.transaction() as tx:
        lifecycle.pause_round(tx, number, ACTOR)
    told = f"round {number} is paused; 'layerloop round resume {number}' goes on"
    print_done(told, as_json, round=number, state="paused")


@app.command()
def resume(number: Number, as_json: Json = False) -> None:
    """Go on with a paused round."""
    from curation.rounds import lifecycle

    with context() as ctx, ctx.database.transaction() as tx:
        lifecycle.resume_round(tx, number, ACTOR)
    print_done(f"round {number} goes on", as_json, round=number, state="open")


@app.command()
def close(number: Number, dry_run: DryRun = False, as_json: Json = False) -> None:
    """End a round; candidates without a verdict are withdrawn."""
    from curation.rounds import lifecycle

    with context() as ctx, ctx.database.transaction() as tx:
        if dry_run:
            counts = lifecycle.count_states(tx, number)
            standing = sum(counts.get(state, 0) for state in lifecycle.STANDING)
            told = f"would withdraw {standing} candidates without a verdict"
            print_done(told, as_json, round=number, would_withdraw=standing)
            return
        withdrawn = lifecycle.close_round(tx, number, ACTOR)
    told = f"round {number} is closed; {withdrawn} candidates were withdrawn"
    print_done(told, as_json, round=number, state="closed", withdrawn=withdrawn)


@app.command()
def agreement(number: Number, as_json: Json = False) -> None:
    """How far people agree in a round, beyond chance: Krippendorff's alpha, Gwet's AC1, also of each two of them."""
    from curation.quality import agreement as room

    with context() as ctx, ctx.database.transaction() as tx:
        told = room.round_agreement(tx, number)
    print_json(told) if as_json else print_text(room.as_text(told))


@app.command()
def reaggregate(
    number: Number,
    certainty: Annotated[
        float, typer.Option(help="How sure a verdict must be to turn another over.", min=0.5)
    ] = 0.9,
    apply: Annotated[
        bool, typer.Option("--apply", help="Turn them over, each by a decision of its own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Which verdicts would turn over by what is known of the reviewers by now; a dry run unless told to apply it."""
    from curation.quality import aggregation

    with context() as ctx, ctx.database.transaction() as tx:
        find = aggregation.apply_flips if apply else aggregation.find_flips
        told = find(tx, number, certainty)
    print_json(told) if as_json else print_text(aggregation.as_text(told))
    if apply:
        talk.print(f"{told['turned']} verdicts were turned over")


@app.command()
def gold(
    number: Number,
    count: Annotated[
        int, typer.Option(help="How many pieces to make; 0 makes none.", min=0, max=10_000)
    ] = 0,
    share: Annotated[
        float, typer.Option(help="Share of what people are shown that is gold; 0: none.")
    ] = 0.05,
    bound: Annotated[
        float, typer.Option(help="Accuracy below which a reviewer is paused; 0: nobody is.")
    ] = 0.6,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Hide candidates with a known verdict in a round: samples with a planted defect, and clean copies."""
    from curation.quality import gold_creation
    from curation.review import gold as room

    terms = room.GoldTerms(share, bound)
    with context() as ctx:
        with ctx.database.transaction() as tx:
            sources = gold_creation.choose_sources(tx, number, count)
            size = gold_creation.size_of(tx, number)
        if dry_run:
            of = len({one.id for one in sources})
            told = f"would plant {count} pieces in {of} samples and show {share:.1%}"
            print_done(told, as_json, round=number, would_plant=count, samples=of, share=share)
            return
        planted = gold_creation.make_gold(ctx.store, sources, size)
        with ctx.database.transaction() as tx:
            pieces = gold_creation.keep_gold(tx, number, planted, ACTOR)
            room.set_gold(tx, number, terms, ACTOR)
    told = (
        f"round {number} has {pieces} pieces of gold; {share:.1%} of what people are shown is gold"
    )
    print_done(told, as_json, round=number, pieces=pieces, share=share)
    if ctx.settings.other_desk is not None:
        talk.print(
            "gold is hidden at the pages alone: Label Studio offers none, and tests nobody there"
        )


@app.command()
def scale(
    number: Number,
    keep: Annotated[int | None, typer.Option(help="How many of the best to keep.", min=1)] = None,
    audit: Annotated[
        int, typer.Option(help="How many of those people judge first, at random.", min=1)
    ] = 300,
    least: Annotated[
        float, typer.Option(help="The share of the kept ones that must be proven acceptable.")
    ] = 0.9,
    per_prompt: Annotated[
        float, typer.Option(help="At most so many times a prompt's fair share.", min=0)
    ] = 3.0,
    per_cluster: Annotated[
        float, typer.Option(help="The same for candidates that look alike.", min=0)
    ] = 3.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Keep the best of a drawn round without people, if an audit by people proves them good; say it again to finish."""
    from curation.errors import Refused
    from curation.selection import top_n_accept

    terms = top_n_accept.Terms(keep or 0, audit, least, per_prompt, per_cluster)
    with context() as ctx, ctx.database.transaction() as tx:
        standing = top_n_accept.find_scaling(tx, number)
        if keep is None and standing is None:
            raise Refused(f"round {number} has no scaling yet", "say how many to keep, with --keep")
        if standing is None or (standing["ended_at"] and keep is not None):
            planned = top_n_accept.plan_scaling(tx, number, terms) if dry_run else None
            told = planned or top_n_accept.begin_scaling(tx, number, terms, ACTOR)
        else:
            told = top_n_accept.finish_scaling(tx, number, ACTOR, dry_run=dry_run)
    print_json(told) if as_json else print_text(top_n_accept.as_text(told))


@app.command("take-back")
def take_back(number: Number, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Void every verdict of the machine in a round, withdraw the samples it made, and close the gates."""
    from curation.reporting import round_report
    from curation.selection import auto_reviewer, gates

    with context() as ctx, ctx.database.transaction() as tx:
        if dry_run:
            count = round_report.round_report(tx, number)["machine"]["decisions"]
            told = f"would take back {count} verdicts of the machine"
            print_done(told, as_json, round=number, would_take_back=count)
            return
        gates.close_gates(tx, number)
        count = auto_reviewer.take_back(tx, number, ACTOR)
    told = f"{count} verdicts of the machine were taken back; their candidates are unshown again"
    print_done(told, as_json, round=number, taken_back=count)


def _read_rules(kind: str, share: float | None, given: Sequence[str]) -> dict[str, Any]:
    """A policy's numbers from NAME=VALUE; what they may be is checked where policies are read."""
    from curation.errors import Refused

    rules: dict[str, Any] = {"kind": kind} | ({} if share is None else {"share": share})
    for one in given:
        name, _, value = one.partition("=")
        try:
            rules[name.strip()] = int(value) if value.strip().isdigit() else float(value)
        except ValueError as error:
            raise Refused(
                f"{one!r} is no number of a policy", "such as --set random=0.2"
            ) from error
    return rules
