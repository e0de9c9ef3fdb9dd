"""Commands of data engineers: rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curation.cli.show import ACTOR, DryRun, Json, house, print_json, print_rows, short, talk

app = typer.Typer(no_args_is_help=True)

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
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Open a round: prompts, a checkpoint and a quota; workers begin to draw at once."""
    from curation import checkpoints, loop, rounds
    from curation.domain import Kind
    from curation.errors import Refused

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
