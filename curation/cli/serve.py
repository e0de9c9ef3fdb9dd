"""Commands that run the instance: up, demo, doctor, api and worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.output import (
    Json,
    bold,
    print_json,
    print_text,
    progress,
    resumable,
    settings,
    talk,
)
from curation.errors import LayerloopError

if TYPE_CHECKING:
    from curation.settings import Settings

Port = Annotated[
    int | None,
    typer.Option(
        help="Where API and pages listen; LAYERLOOP_PORT when not given, 0 takes a free one.",
        min=0,
        max=65_535,
    ),
]


class Reviewer(StrEnum):
    """Who decides in a demo."""

    person = "person"
    oracle = "oracle"


class Desk(StrEnum):
    """Where people look in a demo."""

    pages = "pages"
    label_studio = "label-studio"


class WorkerQueue(StrEnum):
    """What a worker takes jobs from."""

    cpu = "cpu"
    gpu = "gpu"


def up(port: Port = None) -> None:
    """Start the instance: database, workers, API and pages; print one address to sign in at, and stay until Ctrl-C."""
    from curation.runtime.local_stack import run_local_stack

    with run_local_stack(_settings(port)) as standing:
        talk.print("\n  open ", bold(standing.sign_in_address()))
        talk.print("\n  the address lets one person in, once; Ctrl-C stops")
        standing.stay()


def demo(
    seed: Annotated[
        Path | None, typer.Option(help="A folder of images with alpha; without it, drawn shapes.")
    ] = None,
    reviewer: Annotated[
        Reviewer,
        typer.Option(help="A person at the pages is waited for; the oracle decides by rules."),
    ] = Reviewer.person,
    rounds: Annotated[int, typer.Option(help="How many rounds.", min=1)] = 2,
    prompts_from_names: Annotated[
        bool,
        typer.Option(
            "--prompts-from-names", help="Draw also from captions made from the seeds' file names."
        ),
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Foreground, background and blended image together.")
    ] = False,
    quota: Annotated[int, typer.Option(help="How many candidates each round draws.", min=1)] = 96,
    preset: Annotated[str, typer.Option(help="A row of numbers: tiny for a laptop.")] = "tiny",
    images: Annotated[
        int, typer.Option(help="Train on so many images instead of the preset's.", min=0)
    ] = 0,
    seeds: Annotated[
        int, typer.Option(help="How many shapes to draw when no folder is given.", min=20)
    ] = 1_500,
    desk: Annotated[
        Desk, typer.Option(help="Label Studio is installed and started beside the pages.")
    ] = Desk.pages,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Run the whole loop: seeds, training, drawing, review, and again; the same command goes on where it stopped."""
    from curation.domain import Kind
    from curation.reporting import round_report
    from curation.runtime.bootstrap import bring_seeds
    from curation.runtime.local_stack import run_local_stack
    from curation.runtime.loop import Plan, run_loop

    kind, recipe = (Kind.pair, "pairs") if pairs else (Kind.single, "whole")
    plan = Plan(
        rounds=rounds,
        quota=quota,
        preset=preset,
        reviewer=reviewer,
        recipe=recipe,
        images=images,
        kind=kind,
        file_names=prompts_from_names,
    )
    named = _settings(port)
    with (
        _desk(named) if desk is Desk.label_studio else nullcontext(named) as ready,
        run_local_stack(ready) as standing,
    ):
        talk.print("\n  pages ", bold(standing.sign_in_address()), " (lets one person in, once)\n")
        if preset == "tiny":
            talk.print(
                "  The tiny preset learns drawn shapes in minutes; on real photographs it draws coloured shapes"
            )
            talk.print("  with clean alpha and no more. Presets sd15 and sdxl are for real work.\n")
        if reviewer is Reviewer.person:
            talk.print(
                "  Candidates wait for you at the review page as soon as the first are drawn.\n"
            )
        with resumable(), progress() as on_progress:
            standing.patiently(
                lambda: bring_seeds(standing.context, seed, seeds, on_progress, kind)
            )
            numbers = standing.patiently(lambda: run_loop(standing.context, plan, on_progress))
        with standing.context.database.transaction() as tx:
            told = [round_report.round_report(tx, number) for number in numbers]
        if as_json:
            print_json(told)
        else:
            print_text("\n\n".join(round_report.as_text(one) for one in told))
        if reviewer is Reviewer.person:
            talk.print(
                f"\n  all rounds are done; the pages stay up until Ctrl-C: {standing.address}"
            )
            standing.stay()


def doctor(as_json: Json = False) -> None:
    """Check every part of the instance and say what to do about what is wrong; exit code 1 if anything is."""
    from curation.runtime.doctor import Finding, examine, examine_environment

    try:
        findings = [*examine_environment(), *examine(settings())]
    except LayerloopError as error:
        findings = [
            *examine_environment(),
            Finding("settings", well=False, told=error.message, hint=error.hint),
        ]
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            print_text(f"{'ok  ' if finding.well else 'BAD '} {finding.part:<12} {finding.told}")
            if finding.hint:
                print_text(f"     {'':<12} hint: {finding.hint}")
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)


def api(
    port: Port = None,
) -> None:
    """Serve the JSON API and the pages."""
    from curation.api.app import create_app
    from curation.api.server import open_socket, serve
    from curation.runtime.context import open_context

    named = _settings(port)
    with open_context(named) as context, contextlib.suppress(KeyboardInterrupt):
        with open_socket(named.host, named.port) as listening:
            talk.print(f"the API serves at http://{named.host}:{named.port}")
            serve(create_app(context), listening)


def worker(
    queue: Annotated[
        WorkerQueue, typer.Option(help="cpu measures and sweeps, gpu draws and trains.")
    ] = WorkerQueue.cpu,
) -> None:
    """Take jobs from one queue until stopped."""
    from curation.jobs.worker import run_worker
    from curation.runtime.context import database_address, open_context

    named = settings()
    with open_context(named) as context:
        run_worker(context, database_address(named), queue)


@contextlib.contextmanager
def _desk(named: Settings) -> Iterator[Settings]:
    """The settings with a Label Studio of the home's own in them, which runs as long as the block lasts."""
    from pydantic import SecretStr

    from curation.runtime.label_studio_server import CACHE, OWNER, label_studio

    talk.print(
        f"  Label Studio: its environment is kept in {CACHE}; to make it takes minutes and 1 GB"
    )
    with label_studio(CACHE, named.path(".") / "label-studio") as server:
        talk.print(
            "\n  Label Studio ", bold(server.address), f" as {OWNER}, password {server.password}"
        )
        there = {"desk": f"label-studio+{server.address}", "desk_token": SecretStr(server.token)}
        yield named.model_copy(update=there)


def _settings(port: int | None) -> Settings:
    return settings() if port is None else settings(port=port)
