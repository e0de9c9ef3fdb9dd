"""Commands of data engineers: seeds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.output import (
    ACTOR,
    Json,
    context,
    print_done,
    print_json,
    print_text,
    progress,
    resumable,
    talk,
)
from curation.domain import CaptionSource
from curation.errors import NotFound

if TYPE_CHECKING:
    from curation.ingest.import_log import ImportSummary

app = typer.Typer(no_args_is_help=True)


@app.command("import")
def import_(
    folder: Annotated[
        Path,
        typer.Argument(help="Images with alpha, and metadata.jsonl beside them if there is one."),
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if any file was refused.")
    ] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update", help="Take corrected captions, licences, sources, splits and pixels."
        ),
    ] = False,
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Of texts without a byte order mark, such as gb18030; UTF-8 when not given."
        ),
    ] = None,
    splits_from_folders: Annotated[
        bool,
        typer.Option("--splits-from-folders", help="Folders called train, test or val are splits."),
    ] = False,
    captions_from_names: Annotated[
        bool,
        typer.Option(
            "--captions-from-names",
            help="File names say what the pictures show: they are captions.",
        ),
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes that decode.", min=1)] = 2,
    follow_links: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder into which symbolic links may lead, as those of a model hub's cache; repeatable."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the files, and import none.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import a folder of images with alpha; run again, it goes on where it stopped and takes only what is new.

    Captions, licences, sources and splits are read from metadata.jsonl (one object a line: file_name, text, licence,
    source, split), metadata.csv or .json, and from x.txt, x.caption or x.json beside x.png, in archives too. What was
    corrected since the last import is told; --update takes it. Files that screening is unsure of wait for a person;
    every file that is refused or held back is named with its reason.
    """
    from curation.ingest import seed_import
    from curation.ingest.folder_listing import Reading, list_folder

    roots = follow_links or []
    missing = next((root for root in roots if not root.is_dir()), None)
    if missing is not None:
        raise NotFound(
            f"there is no folder {missing}",
            "--follow-links names the folder that links may lead into",
        )
    reading = Reading(encoding, splits_from_folders, captions_from_names)
    if dry_run:
        count = len(list_folder(folder, roots, reading).files)
        print_done(
            f"would look at {count} files in {folder}",
            as_json,
            folder=str(folder),
            would_look_at=count,
        )
        return
    with context(create=True) as ctx, resumable(), progress() as on_progress:
        told = seed_import.import_seeds(
            ctx.database,
            ctx.store,
            folder,
            on_progress,
            workers=workers,
            actor=ACTOR,
            link_roots=roots,
            limits=ctx.settings.image_limits,
            reading=reading,
            update=update,
        )
    if as_json:
        print_json(asdict(told) | {"files": told.files, "refused": told.refused})
    else:
        _print_account(told)
    if strict and told.refused:
        raise typer.Exit(1)


def _print_account(told: ImportSummary) -> None:
    """Print what became of a folder: files and differences on stdout, counts on stderr."""
    for one in told.named:
        print_text(f"{one.outcome:<12} {', '.join(one.codes):<24} {one.name!r}: {one.sentence}")
    for other in told.differences:
        how = "updated" if other.taken else "changed"
        print_text(
            f"{how:<12} {other.field:<24} {other.name!r}: {other.before!r} -> {other.after!r}"
        )
    counted = ", ".join(f"{count} {outcome}" for outcome, count in told.outcomes.items())
    talk.print(
        f"{told.files} files: {counted or 'none'} ({told.fresh} now, in {told.seconds:.1f} s)"
    )
    for line in _notes(told):
        talk.print(line)


def _notes(told: ImportSummary) -> list[str]:
    """Return what should be known of an import beside its counts."""
    lines = []
    if told.captions:
        lines.append(
            "captions: " + ", ".join(f"{count} {source}" for source, count in told.captions.items())
        )
    if told.captions.get(CaptionSource.file_name):
        lines.append(
            "captions made from file names count as none and are no prompts: 'layerloop caption run' writes captions, "
            "--captions-from-names with --update makes the names captions"
        )
    changed = {one.name for one in told.differences if not one.taken}
    taken = {one.name for one in told.differences if one.taken}
    if taken:
        lines.append(f"{len(taken)} files were updated")
    if changed:
        lines.append(
            f"{len(changed)} files are not what was imported; import with --update takes what can be read"
        )
    if told.folder_splits:
        folders = ", ".join(
            f"{name} ({count} files)" for name, count in sorted(told.folder_splits.items())
        )
        lines.append(
            f"folders called like a split mean none: {folders}; --splits-from-folders makes them splits"
        )
    if told.hidden:
        lines.append(f"{told.hidden} hidden entries were left out: their names begin with a dot")
    if told.gone:
        lines.append(
            f"{told.gone} imported files are gone; their samples stand ('layerloop sample withdraw')"
        )
    return lines
