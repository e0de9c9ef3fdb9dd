"""Commands that run the instance: up, demo, doctor, api and worker."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.output import (
    Json,
    bold,
    console,
    print_json,
    print_text,
    progress,
    resume_hint,
    settings,
)
from curation.errors import LayerloopError

if TYPE_CHECKING:
    from curation.settings import Settings

Port = Annotated[
    int | None,
    typer.Option(
        help="Port of the API and front end; default: LAYERLOOP_PORT, 0: any free port.",
        min=0,
        max=65_535,
    ),
]


class DemoReviewer(StrEnum):
    """The reviewers of a demo."""

    person = "person"
    rules = "rules"


class LabelingChoice(StrEnum):
    """The labeling tools of a demo."""

    pages = "pages"
    label_studio = "label-studio"


class WorkerQueue(StrEnum):
    """The queues of a worker, and the groups cpu (screen, review) and gpu (generate, train)."""

    cpu = "cpu"
    gpu = "gpu"
    generate = "generate"
    train = "train"
    screen = "screen"
    review = "review"


def up(port: Port = None) -> None:
    """Start the database, workers, API and front end, and run until Ctrl-C.

    Prints a link that signs in one person.
    """
    from curation.runtime.local_stack import run_local_stack

    with run_local_stack(_settings(port)) as stack:
        console.print("\n  open ", bold(stack.sign_in_url()))
        console.print("\n  the link signs in one person, once; Ctrl-C stops")
        stack.wait()


def demo(
    seed: Annotated[
        Path | None, typer.Option(help="Folder of images with alpha; default: synthetic shapes.")
    ] = None,
    reviewer: Annotated[
        DemoReviewer,
        typer.Option(help="'person' waits for reviews; 'rules' decides automatically by rules."),
    ] = DemoReviewer.person,
    rounds: Annotated[int, typer.Option(help="Number of rounds.", min=1)] = 2,
    prompts_from_names: Annotated[
        bool,
        typer.Option(
            "--prompts-from-names",
            help="Also use captions made from the seeds' file names as prompts.",
        ),
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Generate foreground, background and blended image.")
    ] = False,
    quota: Annotated[int, typer.Option(help="Number of candidates per round.", min=1)] = 96,
    preset: Annotated[str, typer.Option(help="The preset: 'tiny' for a laptop.")] = "tiny",
    images: Annotated[
        int, typer.Option(help="Number of images to train on; 0 is the preset's.", min=0)
    ] = 0,
    seeds: Annotated[
        int, typer.Option(help="Number of synthetic shapes if no folder is given.", min=20)
    ] = 1_500,
    labeling: Annotated[
        LabelingChoice, typer.Option(help="'label-studio' also installs and starts Label Studio.")
    ] = LabelingChoice.pages,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Run the whole loop: import seeds, train, generate, review, and repeat.

    Running the same command again resumes.
    """
    from curation.domain import Kind
    from curation.loops.plan import LoopPlan, LoopReviewer
    from curation.reporting import round_report, trend
    from curation.runtime.bootstrap import import_initial_seeds
    from curation.runtime.local_stack import run_local_stack
    from curation.runtime.loop import run_loop

    # The plan of the loop; the recipe trains what the kind of candidates needs.
    kind, recipe = (Kind.pair, "pairs") if pairs else (Kind.single, "whole")
    plan = LoopPlan(
        rounds=rounds,
        quota=quota,
        preset=preset,
        reviewer=LoopReviewer(reviewer.value),
        recipe=recipe,
        images=images,
        kind=kind,
        file_names=prompts_from_names,
    )

    # Start the local stack, with a Label Studio of its own if it is wanted.
    config = _settings(port)
    with (
        _local_label_studio(config)
        if labeling is LabelingChoice.label_studio
        else nullcontext(config) as ready,
        run_local_stack(ready) as stack,
    ):
        link = bold(stack.sign_in_url())
        console.print("\n  front end ", link, " (signs in one person, once)\n")
        if preset == "tiny":
            console.print(
                "  The tiny preset learns synthetic shapes in minutes; from real photographs"
            )
            console.print(
                "  it only learns colored shapes with clean alpha. Use sd15 or sdxl for more.\n"
            )
        if reviewer is DemoReviewer.person:
            console.print("  Candidates appear on the review page as soon as they are generated.\n")

        # Import the seeds and run the rounds; both resume if the database restarts.
        with resume_hint(), progress() as on_progress:
            stack.retry_while_db_down(
                lambda: import_initial_seeds(stack.context, seed, seeds, on_progress, kind)
            )
            numbers = stack.retry_while_db_down(lambda: run_loop(stack.context, plan, on_progress))

        # Print the reports, and keep serving the front end to a person.
        with stack.context.database.transaction() as tx:
            reports = [round_report.round_report(tx, number) for number in numbers]
            course = trend.as_text(trend.rounds_trend(tx))
        if as_json:
            print_json(reports)
        else:
            texts = [round_report.as_text(report) for report in reports]
            print_text("\n\n".join([*texts, course] if len(texts) > 1 else texts))
        if reviewer is DemoReviewer.person:
            console.print(
                f"\n  all rounds are done; the front end runs until Ctrl-C: {stack.address}"
            )
            stack.wait()


def doctor(as_json: Json = False) -> None:
    """Check every part of the instance, with hints; exit code 1 if there are problems."""
    from curation.runtime.doctor import check_environment, run_checks
    from curation.runtime.finding import Finding

    try:
        findings = [*check_environment(), *run_checks(settings())]
    except LayerloopError as error:  # settings that cannot be read are a finding too
        findings = [
            *check_environment(),
            Finding("settings", ok=False, message=error.message, hint=error.hint),
        ]
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            print_text(f"{'ok  ' if finding.ok else 'BAD '} {finding.part:<12} {finding.message}")
            if finding.hint:
                print_text(f"     {'':<12} hint: {finding.hint}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def api(
    port: Port = None,
) -> None:
    """Serve the JSON API and the front end."""
    from curation.api.app import create_app
    from curation.api.server import open_socket, serve
    from curation.logs import configure_logging
    from curation.runtime.context import open_context
    from curation.runtime.moved import check_not_moved
    from curation.runtime.tracing import configure_tracing

    config = _settings(port)
    configure_logging(config.log_format, config.log_level, secrets=config.secret_values())
    configure_tracing(config, "api", f"{socket.gethostname()}:{os.getpid()}")
    with open_context(config) as context, contextlib.suppress(KeyboardInterrupt):
        check_not_moved(context.database)
        # Bind first, so that a port in use fails before the address is printed.
        with open_socket(config.host, config.port) as listening:
            console.print(f"serving at http://{config.host}:{config.port}")
            serve(create_app(context), listening)


@contextlib.contextmanager
def _local_label_studio(config: Settings) -> Iterator[Settings]:
    """Run a Label Studio of this home during the block; provide the settings to use it."""
    from pydantic import SecretStr

    from curation.runtime.label_studio_server import CACHE, OWNER, run_label_studio

    console.print(f"  Label Studio: installing it in {CACHE} the first time takes minutes and 1 GB")
    with run_label_studio(CACHE, config.path(".") / "label-studio") as server:
        console.print(
            "\n  Label Studio ", bold(server.address), f" as {OWNER}, password {server.password}"
        )
        updates = {
            "labeling": f"label-studio+{server.address}",
            "labeling_token": SecretStr(server.token),
        }
        yield config.model_copy(update=updates)


def _settings(port: int | None) -> Settings:
    return settings() if port is None else settings(port=port)
