"""The command line application."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import rich_utils
from typer.core import TyperGroup

from curation import __version__
from curation.cli import (
    acceptance_model,
    audit,
    candidates,
    captions,
    checkpoints,
    comparisons,
    db,
    generate,
    grow,
    instance,
    labeling,
    lineage,
    loops,
    prompts,
    reviewers,
    rounds,
    run_control,
    samples,
    seeds,
    serve,
    snapshots,
    status,
    takedown,
    tokens,
    webhooks,
    workers,
)
from curation.cli.output import console, errors, home_option, print_text
from curation.runtime.supervisor import Terminated, graceful_sigterm

PIPE_WIDTH = 160


class Interrupted(Exception):
    """A command that Ctrl-C or SIGTERM ended, with its exit code."""

    def __init__(self, stop: KeyboardInterrupt) -> None:
        super().__init__(*stop.args)
        self.exit_code = 143 if isinstance(stop, Terminated) else 130


class RootGroup(TyperGroup):
    """The root command group: accepts --home in any position and passes on interruptions."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Create Click's context with --home moved to the front, among the global options."""
        return super().make_context(info_name, _hoist_home(args), parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Invoke a command and turn an interruption into `Interrupted`."""
        # Typer would end an interrupted command without a message.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted(stop) from None


app = typer.Typer(
    cls=RootGroup,
    help="The data engine and trainer for transparent image layers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# One command group per noun.
app.add_typer(seeds.app, name="seed", help="Import images with alpha.")
app.add_typer(samples.app, name="sample", help="List, show, withdraw and restore samples.")
app.add_typer(captions.app, name="caption", help="Caption samples with a model or by hand.")
app.add_typer(prompts.app, name="prompts", help="Generate prompts for pairs of layers.")
app.add_typer(rounds.app, name="round", help="Open, watch and close rounds.")
app.add_typer(loops.app, name="loop", help="Run rounds and trainings by a plan.")
app.add_typer(candidates.app, name="candidate", help="List the candidates of rounds.")
app.add_typer(
    acceptance_model.app,
    name="acceptance-model",
    help="Fit and show the model that predicts acceptance of candidates.",
)
app.add_typer(
    snapshots.app, name="snapshot", help="Freeze samples into content-addressed snapshots."
)
app.add_typer(run_control.app, name="run", help="Watch and steer training and caption runs.")
app.add_typer(
    checkpoints.app, name="checkpoint", help="Evaluate, promote, import and export checkpoints."
)
app.add_typer(
    comparisons.app, name="comparison", help="Compare two checkpoints blindly, side by side."
)
app.add_typer(reviewers.app, name="reviewer", help="Manage reviewers and their sign-in tokens.")
app.add_typer(tokens.app, name="token", help="Manage the API tokens of programs.")
app.add_typer(grow.app, name="grow", help="Print manifests to run on more machines.")
app.add_typer(instance.app, name="instance", help="Maintain an instance as a whole.")
app.add_typer(webhooks.app, name="webhook", help="Send events to other servers.")
app.add_typer(audit.app, name="audit", help="List, export and verify the audit log.")
app.add_typer(labeling.app, name="labeling", help="Synchronize rounds with Label Studio.")
app.add_typer(db.app, name="db", help="Check and upgrade the schema of the database.")
# Commands without a group.
app.command("train")(checkpoints.train)
app.command("generate")(generate.generate)
app.command("why")(lineage.why)
app.command("used")(lineage.used)
app.command("takedown")(takedown.takedown)
app.add_typer(workers.app, name="worker")
app.command("status")(status.status)
for command in (serve.up, serve.demo, serve.doctor, serve.api):
    app.command(command.__name__)(command)


def _version(wanted: bool) -> None:
    if wanted:
        print_text(__version__)
        raise typer.Exit


@app.callback()
def options(
    home: Annotated[
        Path | None,
        typer.Option(
            help="Home folder of the instance; default: LAYERLOOP_HOME. Accepted by every command."
        ),
    ] = None,
    version: bool = typer.Option(  # noqa: ARG001 - its callback prints it
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Set the options that every command accepts."""
    home_option.set(home)


def run() -> None:
    """Run the command line.

    Errors end with a message, a hint and an exit code; Ctrl-C ends with 130, SIGTERM with 143.
    """
    # Help panels would be 80 columns wide in a pipe.
    if not sys.stdout.isatty():
        rich_utils.MAX_WIDTH = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns
    try:
        with errors(), graceful_sigterm():
            try:
                app()
            except Interrupted as stop:
                console.print("; ".join(["stopped", *stop.args]))
                raise SystemExit(stop.exit_code) from None
    except KeyboardInterrupt as stop:  # outside of a command, as while its errors are printed
        console.print("stopped")
        raise SystemExit(143 if isinstance(stop, Terminated) else 130) from None
    except BrokenPipeError:
        # `layerloop ... | head` is not an error; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hoist_home(args: list[str]) -> list[str]:
    """Move --home and its value to the front, from anywhere before a "--"."""
    end = args.index("--") if "--" in args else len(args)
    front: list[str] = []
    rest: list[str] = []
    words = iter(args[:end])
    # "--home FOLDER" is two words, "--home=FOLDER" is one; a missing value is left to Click.
    for word in words:
        if word == "--home":
            front += [word, *([value] if (value := next(words, None)) is not None else [])]
        elif word.startswith("--home="):
            front.append(word)
        else:
            rest.append(word)
    return front + rest + args[end:]


if __name__ == "__main__":
    run()
