"""`layerloop`: the whole house from a terminal."""

from __future__ import annotations

import os
import sys

import typer

from curation import __version__
from curation.cli import captions, checkpoints, desk, draw, heads, houses, prompts, reviewers, rounds, seeds, snapshots
from curation.cli.show import errors

app = typer.Typer(
    help="The data engine and trainer for transparent image layers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(seeds.app, name="seed", help="Bring in images with alpha.")
app.add_typer(captions.app, name="caption", help="What samples show, said by models or people.")
app.add_typer(prompts.app, name="prompts", help="What pairs are drawn from, made in numbers.")
app.add_typer(rounds.app, name="round", help="Open, watch and close rounds.")
app.add_typer(heads.app, name="head", help="What people would say of candidates that nobody has seen.")
app.add_typer(snapshots.app, name="snapshot", help="Freeze samples under a name made of their content.")
app.add_typer(checkpoints.app, name="checkpoint", help="Weights, their lineage and their figures.")
app.add_typer(reviewers.app, name="reviewer", help="People who decide, and their sign-in tokens.")
app.add_typer(desk.app, name="desk", help="Rounds at a desk of other software, such as Label Studio.")
app.command("train")(checkpoints.train)
app.command("draw")(draw.draw)
for command in (houses.up, houses.demo, houses.doctor, houses.api, houses.worker):
    app.command(command.__name__)(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """The data engine and trainer for transparent image layers."""


def run() -> None:
    """The entry point: our own errors end with a sentence, a hint and an exit code, Ctrl-C with 130."""
    try:
        with errors():
            app()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # `layerloop ... | head` is no error; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    run()
