"""Commands for rounds (data engineers)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curation.cli import round_work, steering
from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.loras import Lora, parse_loras
from curation.cli.output import (
    ACTOR,
    MAX_ID,
    DryRun,
    Json,
    console,
    context,
    print_json,
    print_result,
    print_text,
    progress,
    resume_hint,
    short_hash,
)
from curation.cli.round_options import (
    Certainty,
    HowDecided,
    Number,
    Overlap,
    Policy,
    RuleReviewerVotes,
    read_rules,
)

app = typer.Typer(no_args_is_help=True)
app.command()(round_work.set_priority)
app.command()(round_work.retry)
app.command()(round_work.review)
app.command()(round_work.trend)
app.command()(round_work.gold)


@app.command("open")
def open_(
    quota: Annotated[int, typer.Option(help="Number of candidates to generate.", min=1)] = 100,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File with one prompt per line (pairs: JSON with text, foreground, background); "
            "default: captions of seeds. Lines beginning with '# ' are comments; equal lines count "
            "once."
        ),
    ] = None,
    prompts_from_names: Annotated[
        bool,
        typer.Option(
            "--prompts-from-names",
            help="Without --prompts: also use captions made from the seeds' file names.",
        ),
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Generate foreground, background and blended image.")
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="The checkpoint to use; default: the promoted one.")
    ] = None,
    lora: Lora = None,
    policy: Annotated[
        Policy,
        typer.Option(
            help="Selection of candidates to review; mixed: likely, uncertain and random."
        ),
    ] = Policy.random,
    share: Annotated[
        float | None,
        typer.Option(
            help="Share of screened candidates that people review; default: all, mixed: a quarter."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A parameter of the policy, such as random=0.2 or reject_budget=0.02; repeatable.",
        ),
    ] = None,
    steer: steering.Steer = False,
    random_share: steering.RandomShare = None,
    steer_goal: steering.Goal = None,
    cover: steering.Cover = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    overlap: Overlap = 1,
    rule: HowDecided = None,
    certainty: Certainty = None,
    rule_reviewer_votes: RuleReviewerVotes = False,
    priority: round_work.Priority = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Open a round from prompts, a checkpoint and a quota; workers start to generate at once."""
    from curation.checkpoints import registry
    from curation.cli.text_warnings import warn_of_prompts
    from curation.domain import Kind
    from curation.errors import Refused
    from curation.loops.prompts import choose_round_prompts
    from curation.prompts.files import read_prompt_file
    from curation.review import consensus
    from curation.rounds import lifecycle
    from curation.rounds.policies import check_policy_signals
    from curation.runtime.context import load_embedder, load_object
    from curation.steering.report import format_steering

    # Check the options that need no database first.
    consensus_rules = consensus.make_consensus(
        overlap, rule, certainty, rule_reviewer_votes=rule_reviewer_votes
    )
    steered = steering.read_steering(steer, random_share, steer_goal, cover)
    given = read_prompt_file(prompts) if prompts else None
    if given and (given.comments or given.repeated):
        skipped = f"{given.comments} comments skipped"
        console.print(f"{prompts}: {skipped}, {given.repeated} repeated lines counted once")
    kind = Kind.pair if pairs else Kind.single
    with context() as ctx:
        # Choose the checkpoint and the prompts.
        with ctx.database.transaction() as tx:
            generator = (
                registry.find_checkpoint(tx, checkpoint)
                if checkpoint
                else registry.find_promoted_checkpoint(tx)
            )
            if generator is None:
                raise Refused(
                    "no checkpoint is promoted yet",
                    "'layerloop train', then 'layerloop checkpoint promote'",
                )
            chosen = choose_round_prompts(
                tx,
                quota,
                seed,
                kind,
                steered,
                given=given.prompts if given is not None else None,
                use_file_names=prompts_from_names,
            )
            texts = chosen.prompts

        # Check the prompts and the policy, which may load a model.
        warned = warn_of_prompts(ctx, generator, texts)
        styles = parse_loras(lora or [])
        rules = read_rules(policy.value, share, set_ or [])
        check_policy_signals(
            rules, load_embedder(ctx.settings).metric_names if policy is Policy.paper else ()
        )
        if dry_run:
            lifecycle.check_round(texts, quota, rules, kind)
            distinct = len(set(texts)) if steered else len(texts)
            planned = f"{quota} candidates from {distinct} prompts with {short_hash(generator.id)}"
            message = f"would generate {planned}, {consensus.describe_consensus(consensus_rules)}"
            print_result(
                message,
                as_json,
                would_draw=quota,
                prompts=distinct,
                checkpoint=generator.id,
                **({"steering": chosen.report} if steered else {}),
            )
            if steered and not as_json:
                print_text("\n".join(format_steering(chosen.report)))
            return
        if styles:
            generator = load_object(ctx.settings.lora_loader)(generator, ctx.store, styles)

        # Open the round, with a checkpoint of its own where LoRAs are given.
        with (
            resume_hint("interrupted: no round was opened"),
            progress() as on_progress,
            ctx.database.transaction() as tx,
        ):
            if styles:
                registry.register_checkpoint(tx, generator, ACTOR)
            number = lifecycle.open_round(
                tx,
                checkpoint=generator.id,
                prompt_list=texts,
                choices=chosen.choices,
                steering=chosen.report,
                quota=quota,
                seed=seed,
                policy=rules,
                kind=kind,
                actor=ACTOR,
                priority=priority,
                on_progress=on_progress,
            )
            if overlap > 1:
                consensus.set_consensus(tx, number, consensus_rules, ACTOR)
    print_json(
        {"round": number} | ({"warning": warned} if warned else {})
    ) if as_json else print_text(number)


@app.command("list")
def list_(
    limit: Limit = 100,
    after: Annotated[
        int | None,
        typer.Option(help="List rounds older than this one.", min=1, max=MAX_ID),
    ] = None,
    as_json: Json = False,
) -> None:
    """List rounds with their progress, newest first."""
    from curation.rounds import lifecycle

    with context() as ctx, ctx.database.transaction() as tx:
        rows = lifecycle.list_rounds(tx, limit=query_limit(limit), after=after)
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
        "checkpoint": lambda r: short_hash(r["checkpoint_id"]),
        "opened": lambda r: r["created_at"],
    }
    print_page(rows, columns, limit, as_json)


@app.command()
def show(number: Number, as_json: Json = False) -> None:
    """Show the report of a round: funnel, refusals, defects, review time and metrics."""
    from curation.reporting import round_report

    with context() as ctx, ctx.database.transaction() as tx:
        report = round_report.round_report(tx, number)
    print_json(report) if as_json else print_text(round_report.as_text(report))


@app.command()
def pause(number: Number, as_json: Json = False) -> None:
    """Pause the generation and review of a round until it is resumed."""
    from curation.rounds import lifecycle

    with context() as ctx, ctx.database.transaction() as tx:
        lifecycle.pause_round(tx, number, ACTOR)
    message = f"round {number} is paused; 'layerloop round resume {number}' resumes it"
    print_result(message, as_json, round=number, state="paused")


@app.command()
def resume(number: Number, as_json: Json = False) -> None:
    """Resume a paused round."""
    from curation.rounds import lifecycle

    with context() as ctx, ctx.database.transaction() as tx:
        lifecycle.resume_round(tx, number, ACTOR)
    print_result(f"round {number} is resumed", as_json, round=number, state="open")


@app.command()
def close(number: Number, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Close a round; candidates without a verdict are withdrawn."""
    from curation.rounds import lifecycle

    with context() as ctx, ctx.database.transaction() as tx:
        if dry_run:
            counts = lifecycle.count_states(tx, number)
            undecided = sum(counts.get(state, 0) for state in lifecycle.UNFINISHED_STATES)
            message = f"would withdraw {undecided} candidates without a verdict"
            print_result(message, as_json, round=number, would_withdraw=undecided)
            return
        withdrawn = lifecycle.close_round(tx, number, ACTOR)
    message = f"round {number} is closed; {withdrawn} candidates were withdrawn"
    print_result(message, as_json, round=number, state="closed", withdrawn=withdrawn)


@app.command()
def agreement(number: Number, as_json: Json = False) -> None:
    """Show the agreement of people in a round, and of each two of them (alpha and AC1)."""
    from curation.quality import agreement as quality_agreement

    with context() as ctx, ctx.database.transaction() as tx:
        report = quality_agreement.round_agreement(tx, number)
    print_json(report) if as_json else print_text(quality_agreement.as_text(report))


@app.command()
def reaggregate(
    number: Number,
    certainty: Annotated[
        float, typer.Option(help="Minimum probability to change a verdict.", min=0.5)
    ] = 0.9,
    apply: Annotated[
        bool, typer.Option("--apply", help="Change the verdicts, each by a decision of its own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the verdicts that the current reviewer skills would change; --apply changes them."""
    from curation.quality import aggregation

    with context() as ctx, ctx.database.transaction() as tx:
        find = aggregation.apply_verdict_changes if apply else aggregation.find_verdict_changes
        report = find(tx, number, certainty)
    print_json(report) if as_json else print_text(aggregation.as_text(report))
    if apply:
        console.print(f"{report['turned']} verdicts were changed")


@app.command()
def accept_top(
    number: Number,
    keep: Annotated[
        int | None, typer.Option(help="Number of top-ranked candidates to accept.", min=1)
    ] = None,
    audit: Annotated[
        int, typer.Option(help="Size of the random audit sample that people review first.", min=1)
    ] = 300,
    least: Annotated[
        float, typer.Option(help="Share of acceptable candidates that the audit must prove.")
    ] = 0.9,
    per_prompt: Annotated[
        float, typer.Option(help="Limit per prompt, as a multiple of its equal share.", min=0)
    ] = 3.0,
    per_cluster: Annotated[
        float, typer.Option(help="Limit per cluster of similar candidates, likewise.", min=0)
    ] = 3.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Accept the top-ranked candidates of a round without full review, if an audit passes.

    The first call plans the audit; run the command again after the audit to finish.
    """
    from curation.errors import Refused
    from curation.selection import top_n_accept, top_n_report

    terms = top_n_accept.TopNSettings(keep or 0, audit, least, per_prompt, per_cluster)
    with context() as ctx, ctx.database.transaction() as tx:
        existing = top_n_report.find_top_n(tx, number)
        if keep is None and existing is None:
            raise Refused(
                f"round {number} has no top-N acceptance yet", "give the number with --keep"
            )
        # Begin a new one, or finish the one whose audit is under way.
        if existing is None or (existing["ended_at"] and keep is not None):
            planned = top_n_accept.plan_top_n(tx, number, terms) if dry_run else None
            report = planned or top_n_accept.begin_top_n(tx, number, terms, ACTOR)
        else:
            report = top_n_accept.finish_top_n(tx, number, ACTOR, dry_run=dry_run)
    print_json(report) if as_json else print_text(top_n_report.format_top_n(report))


@app.command("revert-auto")
def revert_auto(number: Number, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Revert all automatic verdicts of a round, withdraw their samples, and close its gates."""
    from curation.reporting import round_report
    from curation.selection import auto_reviewer, gates

    with context() as ctx, ctx.database.transaction() as tx:
        if dry_run:
            count = round_report.round_report(tx, number)["auto_reviewer"]["decisions"]
            message = f"would revert {count} automatic verdicts"
            print_result(message, as_json, round=number, would_take_back=count)
            return
        # Close the gates first, or the auto-reviewer would decide the same candidates again.
        gates.close_gates(tx, number)
        count = auto_reviewer.revert_auto_verdicts(tx, number, ACTOR)
    message = f"{count} automatic verdicts were reverted; their candidates are unreviewed again"
    print_result(message, as_json, round=number, taken_back=count)
