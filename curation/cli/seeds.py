"""The command that imports seeds (data engineers)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.hub_download import describe_rights, download_files, find_seeds, print_plan
from curation.cli.output import (
    ACTOR,
    Json,
    console,
    context,
    print_json,
    print_result,
    print_text,
    progress,
    resume_hint,
)
from curation.domain import CaptionSource
from curation.errors import NotFound

if TYPE_CHECKING:
    from curation.ingest.import_log import ImportSummary

app = typer.Typer(no_args_is_help=True)


@app.command("import")
def import_(
    given: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|FILE|hf://OWNER/NAME[@REVISION]",
            help="Folder of images with alpha, optionally with metadata.jsonl; a Parquet file or "
            "archive; or a dataset.",
        ),
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 if any file was refused.")
    ] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update", help="Apply changed captions, licences, sources, splits and pixels."
        ),
    ] = False,
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Encoding of texts without a byte order mark, such as gb18030; default: UTF-8."
        ),
    ] = None,
    splits_from_folders: Annotated[
        bool,
        typer.Option(
            "--splits-from-folders", help="Use folders named train, test or val as splits."
        ),
    ] = False,
    captions_from_names: Annotated[
        bool,
        typer.Option(
            "--captions-from-names",
            help="Use file names as captions.",
        ),
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(help="Licence of files that state none, preferably as an SPDX id."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Source of files that state none: an address or a name.")
    ] = None,
    accept_unknown: Annotated[
        bool,
        typer.Option("--accept-unknown", help="Import files without a licence or a source too."),
    ] = False,
    workers: Annotated[int, typer.Option(help="Number of decoder processes.", min=1)] = 2,
    follow_links: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder that links may point into, such as a model hub's cache; repeatable."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the files without importing them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import a folder of images with alpha; running it again resumes and imports only new files.

    Captions, licences, sources and splits are read from metadata.jsonl (one object per line:
    file_name, text, licence, source, split), metadata.csv or .json, and from x.txt, x.caption or
    x.json beside x.png, also in archives, and from the columns of Parquet files with embedded
    images. Changes since the last import are listed; --update
    applies them. Files whose licence or source is not stated are held back, unless --licence and
    --source state them or --accept-unknown is given. Files that screening is unsure of wait for
    review; every refused or waiting file is listed with its reason.

    The images of a dataset on the Hugging Face Hub are downloaded into the home first. The
    licence that its card states is shown, and never assumed.
    """
    from curation.adapters.hub.address import is_hub_address
    from curation.ingest import seed_import
    from curation.ingest.folder_listing import list_folder
    from curation.ingest.listing import ListingOptions

    # With a misspelled folder, no link would be followed, without any message.
    roots = follow_links or []
    missing = next((root for root in roots if not root.is_dir()), None)
    if missing is not None:
        raise NotFound(
            f"there is no folder {missing}",
            "--follow-links takes the folder that links may point into",
        )
    options = ListingOptions(
        encoding, splits_from_folders, captions_from_names, licence, source, accept_unknown
    )
    remote = find_seeds(given) if is_hub_address(given) else None
    if dry_run and remote is not None:
        print_plan(remote, as_json)
        return
    folder = Path(given)
    if dry_run:
        count = len(list_folder(folder, roots, options).files)
        print_result(
            f"would examine {count} files in {folder}",
            as_json,
            folder=str(folder),
            would_look_at=count,
        )
        return

    # Import, creating the instance if this is its first command.
    with context(create=True) as ctx, resume_hint(), progress() as on_progress:
        if remote is not None:
            folder = download_files(remote, on_progress)
            console.print(describe_rights(remote))
        summary = seed_import.import_seeds(
            ctx.database,
            ctx.store,
            folder,
            on_progress,
            workers=workers,
            actor=ACTOR,
            link_roots=roots,
            limits=ctx.settings.image_limits,
            options=options,
            update=update,
        )
    if as_json:
        print_json(asdict(summary) | {"files": summary.files, "refused": summary.refused})
    else:
        _print_summary(summary)
    if strict and summary.refused:
        raise typer.Exit(1)


def _print_summary(summary: ImportSummary) -> None:
    """Print the result of an import: files and differences on stdout, counts on stderr."""
    for file in summary.named:
        codes = ", ".join(file.codes)
        print_text(f"{file.outcome:<12} {codes:<24} {file.name!r}: {file.sentence}")
    for change in summary.differences:
        label = f"{'updated' if change.taken else 'changed':<12} {change.field:<24}"
        print_text(f"{label} {change.name!r}: {change.before!r} -> {change.after!r}")
    counted = ", ".join(f"{count} {outcome}" for outcome, count in summary.outcomes.items())
    now = f"{summary.fresh} now, in {summary.seconds:.1f} s"
    console.print(f"{summary.files} files: {counted or 'none'} ({now})")
    for line in _notes(summary):
        console.print(line)


def _notes(summary: ImportSummary) -> list[str]:
    """Return remarks on captions, changed files, ignored splits, and hidden or missing files."""
    lines = []
    # Captions by source, and how to replace those made from file names.
    if summary.captions:
        lines.append(
            "captions: "
            + ", ".join(f"{count} {source}" for source, count in summary.captions.items())
        )
    if summary.captions.get(CaptionSource.file_name):
        lines.append(
            "captions made from file names count as missing and are not used as prompts: "
            "'layerloop caption run' writes captions, --captions-from-names with --update uses the "
            "names as captions"
        )

    # Files without a licence or a source.
    unlicensed = sum("rights_missing" in file.codes for file in summary.named)
    if unlicensed:
        lines.append(
            f"{unlicensed} files state no licence or no source: give --licence and --source, or "
            "import them with --accept-unknown"
        )

    # Files that differ from the last import.
    changed = {change.name for change in summary.differences if not change.taken}
    updated = {change.name for change in summary.differences if change.taken}
    if updated:
        lines.append(f"{len(updated)} files were updated")
    if changed:
        lines.append(
            f"{len(changed)} files changed since their import; --update applies their changes"
        )

    # Folders and files that were left out.
    if summary.folder_splits:
        folders = ", ".join(
            f"{name} ({count} files)" for name, count in sorted(summary.folder_splits.items())
        )
        lines.append(
            f"folders named like splits were ignored: {folders}; --splits-from-folders uses them"
        )
    if summary.hidden:
        lines.append(f"{summary.hidden} hidden entries were skipped: their names begin with a dot")
    if summary.gone:
        lines.append(
            f"{summary.gone} imported files no longer exist; their samples are kept "
            "('layerloop sample withdraw' removes samples)"
        )
    return lines
