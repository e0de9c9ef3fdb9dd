"""Commands of data engineers: prompts made in numbers."""

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
    print_json,
    print_json_line,
    progress,
    resumable,
    settings,
    talk,
)
from curation.domain import Prompt
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.ports import TextGenerator
    from curation.prompts.llm import Tally

app = typer.Typer(no_args_is_help=True)


class Maker(StrEnum):
    """Where triples come from."""

    grammar = "grammar"
    model = "model"


@app.command()
def make(
    count: Annotated[int, typer.Option(help="How many triples there are to be.", min=1)] = 100,
    maker: Annotated[
        Maker, typer.Option(help="A grammar of everyday things, or a language model.")
    ] = Maker.grammar,
    model: Annotated[
        str | None, typer.Option(help="The language model: a hub name, a folder, a server's name.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A server that speaks OpenAI's API, like http://127.0.0.1:8000/v1."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A file of JSON lines that is filled up; else stdout.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed makes others.")] = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make prompts for pairs: JSON lines with text (the whole), foreground and background, as 'round open' reads them.

    The same command again fills up its file; what it holds already is never made twice.
    """
    from curation.prompts.pair_files import append, read_triples, write_line

    if maker is Maker.model and model is None:
        raise Refused(
            "no language model is named",
            "give --model, a hub name or a folder; with --address a server's",
        )
    if maker is Maker.grammar and (model or address):
        raise Refused("the grammar needs no language model", "say --maker model to ask one")
    known = read_triples(out) if out else []
    made: list[Prompt] = []
    if dry_run:
        talk.print(f"would make {max(0, count - len(known))} triples by {model or 'the grammar'}")
        return

    def keep(new: list[Prompt]) -> None:
        made.extend(new)
        if out:
            append(out, new)
        elif not as_json:
            for prompt in new:
                print_json_line(write_line(prompt).rstrip("\n"))
            sys.stdout.flush()

    with resumable() if out else nullcontext():
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
        talk.print(f"{out} holds {len(known) + len(made)} triples, {len(made)} of them new")


def _fill_from_grammar(
    known: list[Prompt], count: int, seed: int, keep: Callable[[list[Prompt]], None]
) -> dict[str, object]:
    """Fill up from the grammar. Raises Refused where it has no more."""
    from curation.prompts.grammar import size, speak

    existing, missing = set(known), max(0, count - len(known))
    new = list(islice((prompt for prompt in speak(seed) if prompt not in existing), missing))
    if len(new) < missing:
        raise Refused(
            f"the grammar has {size():,} triples",
            "make fewer, or ask a language model (--maker model)",
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
    """Fill up from a language model, and say what it broke."""
    from curation.prompts.llm import ask

    with progress() as on_progress:
        tally = ask(_open_writer(model, address), known, count, seed, keep, on_progress)
    _print_rejected_lines(tally)
    return {"maker": model, "asked": tally.asked, "refused": dict(tally.refused)}


def _open_writer(model: str, address: str | None) -> TextGenerator:
    config = settings()
    if address is None:
        from curation.runtime.context import load

        generator: TextGenerator = load(config.writer)(model)
        return generator
    from curation.adapters.chat import ChatServer

    return ChatServer(
        address, model, config.writer_key.get_secret_value() if config.writer_key else None
    )


def _print_rejected_lines(tally: Tally) -> None:
    for reason, times in tally.refused.most_common():
        talk.print(f"{times} lines refused: {reason}")
    for reason, line in tally.lines:
        talk.print(f"  {line!r}: {reason}")
