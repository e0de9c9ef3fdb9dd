"""Commands of data engineers: seeds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from curation.cli.show import ACTOR, Json, house, print_json, print_text, progress, resumable, talk
from curation.errors import NotFound

app = typer.Typer(no_args_is_help=True)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Images with alpha, and metadata.jsonl beside them if there is one.")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any file was refused.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that decode.", min=1)] = 2,
    follow_links: Annotated[
        list[Path] | None,
        typer.Option(help="A folder into which symbolic links may lead, as those of a model hub's cache; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the files, and import none.")] = False,
    as_json: Json = False,
) -> None:
    """Import a folder of images with alpha; run again, it goes on where it stopped and takes only what is new.

    metadata.jsonl holds one object a line: file_name, text (or caption), licence, source, split. Files that screening
    is unsure of wait for a person; every file that is refused is named with its reason.
    """
    from curation.intake import seeds
    from curation.intake.listing import list_folder

    roots = follow_links or []
    missing = next((root for root in roots if not root.is_dir()), None)
    if missing is not None:
        raise NotFound(f"there is no folder {missing}", "--follow-links names the folder that links may lead into")
    if dry_run:
        talk.print(f"would look at {len(list_folder(folder, roots).files)} files in {folder}")
        return
    with house(create=True) as opened, resumable(), progress() as tell:
        told = seeds.import_seeds(
            opened.database, opened.store, folder, tell, workers=workers, actor=ACTOR, link_roots=roots,
            limits=opened.settings.image_limits,
        )  # fmt: skip
    if as_json:
        print_json(asdict(told) | {"files": told.files, "refused": told.refused})
    else:
        for one in told.named:
            print_text(f"{one.outcome:<12} {', '.join(one.codes):<24} {one.name!r}: {one.sentence}")
        counted = ", ".join(f"{count} {outcome}" for outcome, count in told.outcomes.items())
        talk.print(f"{told.files} files: {counted or 'none'} ({told.fresh} now, in {told.seconds:.1f} s)")
    if strict and told.refused:
        raise typer.Exit(1)
