"""Commands for loops: planned rounds that workers advance by themselves (data engineers)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli import steering
from curation.cli.lists import Limit, print_page, query_limit
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
    short_hash,
)
from curation.cli.round_options import (
    GUARD_OPTION,
    GuardChoice,
    Policy,
    RoundReviewer,
    read_rules,
)

if TYPE_CHECKING:
    from curation.db.engine import Transaction
    from curation.loops.plan import LoopPlan

app = typer.Typer(no_args_is_help=True)

LoopNumber = Annotated[
    int, typer.Argument(help="The loop's number, as 'loop list' shows it.", max=MAX_ID)
]
GpuSeconds = Annotated[
    float | None,
    typer.Option(help="Pause when workers have trained and generated for so long.", min=1),
]
HumanHours = Annotated[
    float | None, typer.Option(help="Pause when people have reviewed for so long.", min=0)
]
Accepted = Annotated[
    int | None, typer.Option(help="Finish early with so many accepted samples.", min=1)
]
Gate = Annotated[
    list[str] | None,
    typer.Option(
        help="Promote a checkpoint only if this holds, such as 'psnr>=30' or "
        "'alpha_mse<=last*1.05'; repeatable. Default: promote each."
    ),
]


class Clearable(StrEnum):
    """Parts of a plan that a loop can be without."""

    gate = "gate"
    gpu_seconds = "gpu-seconds"
    human_hours = "human-hours"
    accepted = "accepted"


@app.command()
def start(
    rounds: Annotated[int, typer.Option(help="Number of rounds.", min=1)],
    quota: Annotated[int, typer.Option(help="Number of candidates per round.", min=1)],
    preset: Annotated[str, typer.Option(help="Preset of the trainings.")],
    images: Annotated[
        int, typer.Option(help="Images of each training; 0 is the preset's.", min=0)
    ] = 0,
    reviewer: Annotated[
        RoundReviewer,
        typer.Option(help="'person' waits for people; 'rules' decides by the rule reviewer."),
    ] = RoundReviewer.person,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Generate foreground, background and blended image.")
    ] = False,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of the trainings; default: whole, or pairs.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(help="Override a preset value of the trainings by name=value; repeatable."),
    ] = None,
    policy: Annotated[
        Policy, typer.Option(help="Selection of candidates to review, as of 'round open'.")
    ] = Policy.random,
    share: Annotated[
        float | None, typer.Option(help="Share of screened candidates that people review.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of the policy, such as random=0.2; repeatable."),
    ] = None,
    prompts_from_names: Annotated[
        bool,
        typer.Option(
            "--prompts-from-names",
            help="Also use captions made from the seeds' file names as prompts.",
        ),
    ] = False,
    steer: steering.Steer = False,
    random_share: steering.RandomShare = None,
    steer_goal: steering.Goal = None,
    cover: steering.Cover = None,
    gate: Gate = None,
    gpu_seconds: GpuSeconds = None,
    human_hours: HumanHours = None,
    accepted: Accepted = None,
    diversity_guard: Annotated[GuardChoice, GUARD_OPTION] = GuardChoice.mix,
    priority: Annotated[int, typer.Option(help="Priority of its rounds and trainings.")] = 0,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Start a loop: freeze, train, promote, generate, review, and repeat.

    Any worker advances it, and after a crash it goes on where it stopped. Before the start an
    estimate of its cost is printed, from rates that this instance has measured.
    """
    from curation.cli.checkpoints import parse_overrides
    from curation.domain import Kind
    from curation.loops import rows
    from curation.loops.estimate import estimate_dict, estimate_loop, format_estimate
    from curation.loops.plan import Budget, DiversityGuard, LoopPlan, LoopReviewer, check_plan
    from curation.steering.report import format_steering

    plan = check_plan(
        LoopPlan(
            rounds=rounds,
            quota=quota,
            preset=preset,
            reviewer=LoopReviewer(reviewer.value),
            seed=seed,
            recipe=recipe or ("pairs" if pairs else "whole"),
            images=images,
            kind=Kind.pair if pairs else Kind.single,
            file_names=prompts_from_names,
            policy=read_rules(policy.value, share, set_ or []),
            gate=tuple(gate or ()),
            changes=parse_overrides(override or []),
            priority=priority,
            tag="loop-",
            budget=Budget(gpu_seconds, human_hours, accepted),
            diversity_guard=DiversityGuard(diversity_guard.value),
            steering=steering.read_steering(steer, random_share, steer_goal, cover),
        )
    )
    with context() as ctx, ctx.database.transaction() as tx:
        estimates = estimate_loop(tx, plan)
        steered = _preview_steering(tx, plan) if dry_run else None
        number = None if dry_run else rows.start_loop(tx, plan, ACTOR)
    if as_json:
        preview = {"steering": steered} if steered else {}
        report = {"loop": number, "dry_run": dry_run, "estimate": estimate_dict(estimates)}
        print_json(report | preview)
        return
    console.print("estimate, from what this instance has measured:")
    for line in format_estimate(estimates):
        console.print(line)
    if steered:
        print_text("\n".join(format_steering(steered)))
    started = "would start" if number is None else f"loop {number} is started"
    print_text(f"{started}: {rounds} rounds of {quota} candidates")


@app.command("list")
def list_(
    limit: Limit = 50,
    after: Annotated[
        int | None, typer.Option(help="List loops older than this one.", min=1, max=MAX_ID)
    ] = None,
    as_json: Json = False,
) -> None:
    """List loops, newest first."""
    from curation.loops.rows import INTERNAL, list_loops

    with context() as ctx, ctx.database.transaction() as tx:
        found = list_loops(tx, query_limit(limit), after)
    print_page(
        [{name: row[name] for name in row if name not in INTERNAL} for row in found],
        {
            "loop": lambda row: row["id"],
            "state": lambda row: row["state"],
            "turn": lambda row: f"{row['turn']} of {row['plan']['rounds']}",
            "step": lambda row: row["step"],
            "preset": lambda row: row["plan"]["preset"],
            "started": lambda row: row["created_at"],
            "reason": lambda row: row["reason"] or "",
        },
        limit,
        as_json,
    )


@app.command()
def show(number: LoopNumber, as_json: Json = False) -> None:
    """Show the plan of a loop, what each round has made, and what it has spent."""
    with context() as ctx, ctx.database.transaction() as tx:
        report = _report(tx, number)
    if as_json:
        print_json(report)
        return
    plan, spent = report["plan"], report["spent"]
    reason = f": {report['reason']}" if report["reason"] else ""
    print_text(
        f"loop {number} is {report['state']}{reason}",
        f"  turn {report['turn']} of {plan['rounds']}, at the step '{report['step']}'; "
        f"{plan['quota']} candidates each, preset {plan['preset']}, reviewer {plan['reviewer']}",
    )
    for name, value in spent.items():
        limit = plan["budget"][name]
        of = "" if limit is None else f" of {limit:,g}"
        print_text(f"  {name.replace('_', ' ')}: {value or 0:,.1f}{of}")
    for turn in report["turns"]:
        refused = "" if turn["promoted"] is not False else " (not promoted: the gate refused it)"
        print_text(
            f"  {turn['turn']}. snapshot {short_hash(turn['snapshot'])}, "
            f"checkpoint {short_hash(turn['checkpoint'])}{refused}, round {turn['round'] or '-'}"
        )
        if turn["guard_note"]:
            print_text(f"     {turn['guard_note']}")


@app.command()
def pause(number: LoopNumber, as_json: Json = False) -> None:
    """Pause a loop with its training or round; workers stop within one batch."""
    from curation.loops.control import pause_loop

    with context() as ctx, ctx.database.transaction() as tx:
        pause_loop(tx, number, ACTOR)
    message = f"loop {number} is paused; 'layerloop loop resume {number}' continues it"
    print_result(message, as_json, loop=number, state="paused")


@app.command()
def resume(number: LoopNumber, as_json: Json = False) -> None:
    """Resume a paused loop, or try the failed step of a failed one again."""
    from curation.loops.control import resume_loop

    with context() as ctx, ctx.database.transaction() as tx:
        resume_loop(tx, number, ACTOR)
    print_result(f"loop {number} is running", as_json, loop=number, state="running")


@app.command()
def cancel(number: LoopNumber, as_json: Json = False) -> None:
    """Cancel a loop with its training, and close its round; accepted samples stay."""
    from curation.loops.control import cancel_loop

    with context() as ctx, ctx.database.transaction() as tx:
        cancel_loop(tx, number, ACTOR)
    print_result(f"loop {number} is cancelled", as_json, loop=number, state="cancelled")


@app.command()
def change(
    number: LoopNumber,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds.", min=1)] = None,
    quota: Annotated[
        int | None, typer.Option(help="Candidates of the rounds that follow.", min=1)
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Images of the trainings that follow.", min=0)
    ] = None,
    reviewer: Annotated[
        RoundReviewer | None, typer.Option(help="Who decides, in the open round too.")
    ] = None,
    gate: Gate = None,
    gpu_seconds: GpuSeconds = None,
    human_hours: HumanHours = None,
    accepted: Accepted = None,
    priority: Annotated[
        int | None, typer.Option(help="Priority, of the open round and training too.")
    ] = None,
    without: Annotated[
        list[Clearable] | None,
        typer.Option(help="Remove the gate or a limit of the budget; repeatable."),
    ] = None,
    diversity_guard: Annotated[GuardChoice | None, GUARD_OPTION] = None,
    as_json: Json = False,
) -> None:
    """Change the plan of a loop that has not ended; options that are left out stay."""
    from curation.errors import Refused
    from curation.loops.control import change_loop
    from curation.loops.plan import DiversityGuard, LoopReviewer, plan_to_dict

    given: dict[str, Any] = {
        "rounds": rounds,
        "quota": quota,
        "images": images,
        "reviewer": LoopReviewer(reviewer.value) if reviewer else None,
        "gate": tuple(gate) if gate else None,
        "gpu_seconds": gpu_seconds,
        "human_hours": human_hours,
        "accepted": accepted,
        "diversity_guard": DiversityGuard(diversity_guard.value) if diversity_guard else None,
        "priority": priority,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    removed = {
        name.replace("-", "_"): () if name == Clearable.gate else None for name in without or []
    }
    if both := sorted(removed.keys() & changes.keys()):
        raise Refused(f"{both[0]} is both set and removed", "leave out one of the options")
    changes |= removed
    if not changes:
        raise Refused("nothing would change", "for example --rounds 8 or --gpu-seconds 7200")
    with context() as ctx, ctx.database.transaction() as tx:
        plan = change_loop(tx, number, ACTOR, changes)
    message = f"loop {number} is changed: {', '.join(changes)}"
    print_result(message, as_json, loop=number, plan=plan_to_dict(plan))


def _preview_steering(tx: Transaction, plan: LoopPlan) -> dict[str, Any] | None:
    """Return what the first round would steer by the present decisions."""
    from curation.loops.prompts import choose_round_prompts

    seed = plan.seed + 1
    return choose_round_prompts(
        tx, plan.quota, seed, plan.kind, plan.steering, use_file_names=plan.file_names
    ).report


def _report(tx: Transaction, number: int) -> dict[str, Any]:
    """Return the state of a loop as JSON data."""
    from curation.loops.report import loop_report

    return loop_report(tx, number)
