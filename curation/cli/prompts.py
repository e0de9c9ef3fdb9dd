"""The command that generates pair prompts (data engineers)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.output import (
    DryRun,
    Json,
    console,
    print_json,
    print_json_line,
    progress,
    resume_hint,
    settings,
)
from curation.domain import Prompt
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.ports import TextGenerator
    from curation.prompts.llm import GenerationStats

app = typer.Typer(no_args_is_help=True)


class PromptSource(StrEnum):
    """The sources of pair prompts."""

    grammar = "grammar"
    model = "model"


@app.command()
def generate(
    count: Annotated[int, typer.Option(help="Number of pair prompts in total.", min=1)] = 100,
    maker: Annotated[
        PromptSource, typer.Option(help="A grammar of everyday objects, or a language model.")
    ] = PromptSource.grammar,
    model: Annotated[
        str | None,
        typer.Option(help="Language model: a hub name, a folder, or a name on the server."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Server with an OpenAI-compatible API, such as http://127.0.0.1:8000/v1."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON-lines file to append to; default: stdout.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Generate prompts for pairs as JSON lines, as 'round open' reads them.

    A line has text (of the composite), foreground and background. Running the same command again
    extends its file up to the count, without duplicates.
    """
    from curation.prompts.pair_files import append_prompts, read_pair_prompts, write_line

    if maker is PromptSource.model and model is None:
        raise Refused(
            "no language model is given",
            "give --model: a hub name or a folder, or with --address a name on the server",
        )
    if maker is PromptSource.grammar and (model or address):
        raise Refused("the grammar uses no language model", "give --maker model to use one")

    # Prompts already in the file count towards the total.
    known = read_pair_prompts(out) if out else []
    made: list[Prompt] = []
    if dry_run:
        missing = max(0, count - len(known))
        console.print(f"would generate {missing} pair prompts with {model or 'the grammar'}")
        return

    def keep(new: list[Prompt]) -> None:
        made.extend(new)
        # Write each batch at once, so that an interruption loses none.
        if out:
            append_prompts(out, new)
        elif not as_json:
            for prompt in new:
                print_json_line(write_line(prompt).rstrip("\n"))
            sys.stdout.flush()  # a reader of the pipe sees each batch at once

    with resume_hint() if out else nullcontext():
        summary = (
            _fill_from_grammar(known, count, seed, keep)
            if model is None
            else _fill_from_model(model, address, known, count, seed, keep)
        )
    if as_json:
        rows = [
            {"text": prompt.text, "foreground": prompt.foreground, "background": prompt.background}
            for prompt in made
        ]
        print_json(summary | ({"out": str(out), "made": len(made)} if out else {"prompts": rows}))
    elif out:
        console.print(f"{out} has {len(known) + len(made)} pair prompts, {len(made)} of them new")


def _fill_from_grammar(
    known: list[Prompt], count: int, seed: int, keep: Callable[[list[Prompt]], None]
) -> dict[str, object]:
    """Generate the missing prompts by the grammar. Raises Refused if it is exhausted."""
    from curation.prompts.grammar import count_prompts, generate

    existing, missing = set(known), max(0, count - len(known))
    new = list(islice((prompt for prompt in generate(seed) if prompt not in existing), missing))
    if len(new) < missing:
        raise Refused(
            f"the grammar has only {count_prompts():,} pair prompts",
            "generate fewer, or use a language model (--maker model)",
        )
    keep(new)
    return {"maker": "grammar"}


def _fill_from_model(
    model: str,
    address: str | None,
    known: list[Prompt],
    count: int,
    seed: int,
    keep: Callable[[list[Prompt]], None],
) -> dict[str, object]:
    """Generate the missing prompts by a language model, and print the lines that were rejected."""
    from curation.prompts.llm import generate_prompts

    with progress() as on_progress:
        tally = generate_prompts(
            _open_writer(model, address), known, count, seed, keep, on_progress
        )
    _print_rejected_lines(tally)
    return {"maker": model, "asked": tally.asked, "refused": dict(tally.refused)}


def _open_writer(model: str, address: str | None) -> TextGenerator:
    config = settings()
    if address is None:
        from curation.runtime.context import load_object

        generator: TextGenerator = load_object(config.llm)(model)
        return generator
    from curation.adapters.chat import ChatCompletionsClient

    return ChatCompletionsClient(
        address, model, config.llm_key.get_secret_value() if config.llm_key else None
    )


def _print_rejected_lines(tally: GenerationStats) -> None:
    for reason, times in tally.refused.most_common():
        console.print(f"{times} lines rejected: {reason}")
    for reason, line in tally.lines:
        console.print(f"  {line!r}: {reason}")
