"""The command that pushes a snapshot to the Hugging Face Hub (data engineers)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.output import (
    DryRun,
    Json,
    console,
    print_json,
    print_rows,
    progress,
    resume_hint,
    settings,
)
from curation.cli.snapshot_pull import From, Name, open_named
from curation.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from curation.adapters.hub.address import HubAddress
    from curation.adapters.hub.limits import LocalFile
    from curation.exports.formats import PullRequest

FORMATS = ("imagefolder", "parquet", "webdataset")
"""The formats that the Hub shows and `datasets` loads."""
DATA_FOLDERS = ("train", "validation", "data")
"""The folders that these formats write."""

Repository = Annotated[
    str, typer.Argument(metavar="hf://OWNER/NAME", help="The repository; created if missing.")
]
Private = Annotated[
    bool, typer.Option("--private", help="Make a new repository private; default: the account's.")
]


def push(
    name: Name,
    repository: Repository,
    format_name: Annotated[
        str, typer.Option("--format", help=f"The layout: {', '.join(FORMATS)}.")
    ] = "imagefolder",
    source: From = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="A condition on a column, such as licence=CC0-1.0; repeatable."),
    ] = None,
    shard_mb: Annotated[
        int, typer.Option(help="Size of Parquet and WebDataset shards in MB.", min=1)
    ] = 256,
    private: Private = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Push a snapshot to a dataset on the Hugging Face Hub, with its card and Croissant file.

    The files are written into the home first, as `snapshot pull` does, and removed after the push.
    An interrupted push resumes: only what the repository lacks is sent, at most 100 files a
    commit. Pushing the next snapshot sends the difference, and removes from the folders train,
    validation and data what the snapshot no longer has. --dry-run writes the files, lists
    them, and sends no request to the Hub. The token is HF_TOKEN or that of `hf auth login`.
    """
    import shutil

    from curation.adapters.hub.address import RepositoryKind, parse_repository
    from curation.adapters.hub.limits import check_limits, list_files
    from curation.adapters.hub.push import push_files
    from curation.adapters.hub.requests import require_client
    from curation.exports.formats import pull_snapshot

    address = parse_repository(repository, RepositoryKind.dataset)
    request = _request(format_name, where, shard_mb)
    require_client()
    folder = settings().path(f"pushes/{address.folder_name}--{format_name}")
    with resume_hint(), progress() as on_progress:
        with open_named(name, source) as found:
            snapshot = found.snapshot
            pull_snapshot(found.store, snapshot, request, folder, on_progress, info=found.info)
        files = list_files(folder)
        check_limits(files)
        if dry_run:
            print_plan(address, files, as_json)
            return
        message = f"Snapshot {snapshot[:12]}"
        result = push_files(
            address, files, message, on_progress, private=private, owned=DATA_FOLDERS
        )
    shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print_json({"snapshot": snapshot, "repository": address.repository} | asdict(result))
        return
    console.print(
        f"{result.files} files in {result.url}: {result.sent} sent "
        f"({result.sent_bytes / 1e6:.1f} MB) in {result.commits} commits, {result.removed} removed"
    )


def _request(format_name: str, where: Sequence[str] | None, shard_mb: int) -> PullRequest:
    """Return the request of the pull that is pushed. Raises Refused."""
    from curation.exports import formats
    from curation.exports.rendering import ImageType, Treatment, parse_background
    from curation.exports.selection import Selection, parse_condition

    if format_name not in FORMATS:
        raise Refused(
            f"--format {format_name} cannot be pushed", f"the Hub shows {', '.join(FORMATS)}"
        )
    chosen = formats.FORMATS[format_name]
    treatment = Treatment(chosen.alpha, parse_background("white"), ImageType.png)
    selection = Selection(chosen.splits, tuple(map(parse_condition, where or ())))
    return formats.PullRequest(chosen, selection, treatment, shard_bytes=shard_mb << 20)


def print_plan(address: HubAddress, files: Sequence[LocalFile], as_json: bool) -> None:
    """Print the files that would be pushed and their sizes."""
    from curation.adapters.hub.limits import group_commits

    rows = [{"path": file.path, "size": file.size} for file in files]
    total = sum(file.size for file in files)
    commits = sum(1 for _ in group_commits(files))
    if as_json:
        print_json(
            {
                "repository": address.repository,
                "files": rows,
                "bytes": total,
                "commits": commits,
            }
        )
        return
    print_rows(rows, {"file": lambda r: r["path"], "bytes": lambda r: f"{r['size']:,}"}, False)
    console.print(
        f"would push {len(files)} files, {total / 1e6:.1f} MB, to {address} in at most {commits} "
        "commits"
    )


def register(app: typer.Typer) -> None:
    """Add the command to the group `snapshot`."""
    app.command()(push)
