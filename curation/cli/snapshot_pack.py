"""Commands that pack snapshots for streaming (data engineers and model trainers)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    console,
    context,
    print_json,
    print_rows,
    progress,
    resume_hint,
    settings,
)
from curation.cli.snapshot_pull import From, Name, open_named

Target = Annotated[
    str,
    typer.Argument(
        metavar="DIR|URL",
        help="The pack: a folder, or s3://, gs:// or az:// with bucket and prefix.",
    ),
]
ShardSize = Annotated[
    int, typer.Option("--shard-size", help="Size in MB from which a shard is closed.", min=1)
]
Workers = Annotated[
    int, typer.Option(help="Number of layers that are fetched at once.", min=1, max=64)
]


def pack(
    name: Name,
    target: Target,
    source: From = None,
    shard_mb: ShardSize = 256,
    workers: Workers = 8,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Pack a snapshot into tar shards that are streamed from a disk or a bucket.

    WebDataset, Megatron Energon, and Layerloop itself read the same shards. Packing the next
    snapshot into the same place writes only its new samples and marks removed ones, which
    `snapshot repack` drops. An interrupted pack resumes.
    """
    from curation.exports.packs.estimate import estimate_pack
    from curation.exports.packs.writer import pack_snapshot

    folder = _folder(target, is_new=True)
    with open_named(name, source) as found:
        if dry_run:
            estimate = estimate_pack(found.store, found.snapshot, folder)
            about = "" if estimate.is_exact else "about "
            text = (
                f"would write {estimate.missing} of {estimate.samples} samples, "
                f"{about}{estimate.bytes / 1e6:.1f} MB; {estimate.removed} rows would be marked as "
                "removed"
            )
            _report(text, as_json, {"snapshot": found.snapshot} | asdict(estimate))
            return
        if source is None:
            _record(target, folder)
        with resume_hint(), progress() as on_progress:
            result = pack_snapshot(
                found.store, found.snapshot, folder, on_progress,
                shard_bytes=shard_mb << 20, workers=workers,
            )  # fmt: skip
    text = (
        f"{result.samples} samples in {result.shards} shards of {target}: {result.written} written "
        f"({result.written_bytes / 1e6:.1f} MB), {result.removed} rows marked as removed"
    )
    _report(text, as_json, asdict(result))


def repack(
    target: Target,
    min_removed: Annotated[
        float,
        typer.Option(help="Share of removed rows from which a shard is rewritten.", min=0, max=1),
    ] = 0.2,
    keep_versions: Annotated[
        bool,
        typer.Option(
            "--keep-versions", help="Keep older snapshots in the pack, with their removed rows."
        ),
    ] = False,
    shard_mb: ShardSize = 256,
    workers: Workers = 8,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Rewrite shards of a pack with many removed rows, join small ones, and remove unused files.

    The snapshot that was packed last stays; older ones leave the pack unless --keep-versions is
    given. Programs that read the pack at this time must open it again.
    """
    from curation.exports.packs.repack import repack as repack_folder

    folder = _folder(target, is_new=False)
    with resume_hint(), progress() as on_progress:
        result = repack_folder(
            folder, on_progress, min_removed=min_removed, keep_versions=keep_versions,
            shard_bytes=shard_mb << 20, workers=workers, dry_run=dry_run,
        )  # fmt: skip
    text = (
        f"{'would write' if dry_run else 'wrote'} {result.rewritten} samples again "
        f"({result.written_bytes / 1e6:.1f} MB) and {'remove' if dry_run else 'removed'} "
        f"{len(result.removed_versions)} older snapshots, {result.removed_files} files "
        f"({result.removed_bytes / 1e6:.1f} MB)"
    )
    _report(text, as_json, asdict(result))


def packs(
    forget: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Forget a pack that is deleted.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the packs that this instance wrote, which takedowns rewrite."""
    from curation.datasets import pack_places

    with context() as ctx, ctx.database.transaction() as tx:
        if forget is not None:
            pack_places.forget_pack(tx, forget)
            tx.log(ACTOR, "pack forgotten", forget)
        rows = [asdict(one) for one in pack_places.list_packs(tx)]
    columns = {
        "pack": lambda r: r["address"],
        "server": lambda r: r["endpoint"] or "–",
        "written by": lambda r: r["machine"],
    }
    print_rows(rows, columns, as_json)


def register(app: typer.Typer) -> None:
    """Add the commands to the group `snapshot`."""
    app.command()(pack)
    app.command()(repack)
    app.command()(packs)


def _record(target: str, folder: Any) -> None:
    """Record the place in the instance of the settings, so that takedowns find the pack.

    Raises:
        TakenDown: The pack holds a snapshot that was taken down, which goes first.
    """
    from curation.datasets.pack_places import pack_place, record_pack
    from curation.datasets.snapshots import list_taken_down
    from curation.errors import TakenDown
    from curation.exports.packs.version import packed_snapshots

    with context() as ctx, ctx.database.transaction() as tx:
        record_pack(tx, pack_place(target, settings().storage_endpoint))
        held = sorted(set(packed_snapshots(folder)) & list_taken_down(tx))
    if held:
        raise TakenDown(
            f"{target} holds snapshot {held[0][:12]}, which was taken down",
            f"'layerloop takedown --pack {target}' removes it from the pack first",
        )


def _folder(target: str, *, is_new: bool) -> Any:
    """Return the folder of a pack. Raises Refused, NotFound."""
    from curation.adapters.snapshot_sources import find_pack, pack_folder
    from curation.errors import NotFound
    from curation.exports.packs.folder import LocalPackFolder, check_new_folder

    endpoint = settings().storage_endpoint
    if is_new:
        folder = pack_folder(target, endpoint)
        if isinstance(folder, LocalPackFolder):
            check_new_folder(folder.folder)
        return folder
    found = find_pack(target, endpoint)
    if found is None:
        raise NotFound(f"there is no pack in {target}", "'layerloop snapshot pack' writes one")
    return found


def _report(text: str, as_json: bool, fields: dict[str, object]) -> None:
    print_json(fields) if as_json else console.print(text)
