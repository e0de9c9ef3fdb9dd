"""Commands that take snapshots out of an instance and check them (model trainers)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
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
    warn,
)
from curation.domain import LayerRole, Split
from curation.errors import Corrupt, Refused

if TYPE_CHECKING:
    from curation.adapters.snapshot_sources import SnapshotSource
    from curation.exports.damage import Damage
    from curation.exports.formats import PullRequest
    from curation.exports.packs.folder import PackFolder
    from curation.ports import ProgressCallback

Name = Annotated[str, typer.Argument(help="A tag, an id, or a prefix of an id.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Where the snapshot is: a folder (object store, home or pack), s3://, gs:// or "
        "az://bucket/prefix, or http(s):// of an instance; default: the instance of the settings.",
    ),
]
LOOPBACK = ("http://127.", "http://localhost", "http://[::1]")


def pull(
    name: Name,
    folder: Annotated[
        Path, typer.Argument(help="The folder to write: new, empty, or with an earlier pull.")
    ],
    format_name: Annotated[
        str, typer.Option("--format", help="The layout; 'snapshot formats' lists them.")
    ] = "imagefolder",
    source: From = None,
    split: Annotated[
        list[Split] | None,
        typer.Option(help="A split; repeatable; default: what the format's reader uses."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="A condition on a column, such as licence=CC0-1.0 or round>=3; repeatable."
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(help="A weight of samples, such as round>=3:2; repeatable, factors multiply."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="An older snapshot; samples that it lacks are new.")
    ] = None,
    new_weight: Annotated[
        float, typer.Option(help="The weight of new samples, with --since.", min=0.001)
    ] = 2.0,
    layer: Annotated[
        list[LayerRole] | None,
        typer.Option(help="A layer; repeatable; the first one that a sample has represents it."),
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(
            help="keep: RGBA; composite: RGB over --background; mask: the same, and alpha beside "
            "it. Default: what the format's reader can use."
        ),
    ] = None,
    background: Annotated[
        str, typer.Option(help="Color behind composited images: #rrggbb, white, black or gray.")
    ] = "white",
    image_type: Annotated[
        str, typer.Option(help="png, or webp: lossless, faster, and the stored bytes.")
    ] = "png",
    shard_mb: Annotated[
        int, typer.Option(help="Size of Parquet and WebDataset shards in MB.", min=1)
    ] = 256,
    decisions: Annotated[
        str | None,
        typer.Option(
            help="Pull decided candidates in place of samples, for preference training. labels: "
            "single images, accepted or not, with weight and propensity; pairs: an accepted and "
            "a rejected one of the same prompt. With --format parquet or imagefolder."
        ),
    ] = None,
    automatic: Annotated[
        bool, typer.Option("--automatic", help="With --decisions, also those no person decided.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Number of parallel transfers.", min=1, max=64)] = 8,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Pull a snapshot into a folder that trainers and dataset libraries read unchanged.

    Needs no instance with --from. Every object is checked against its hash. An interrupted pull
    resumes; a pull of the next version into the same folder fetches only what differs. Training
    samples that share a layer with a held-out sample are left out. With an instance elsewhere,
    LAYERLOOP_TOKEN holds the API token.
    """
    from curation.exports.formats import make_plan, pull_snapshot

    request = _request(
        format_name, split, where, weight, layer, alpha, background, image_type, shard_mb, workers,
        decisions, automatic=automatic,
    )  # fmt: skip
    what = "decided candidates" if decisions else "samples"
    with open_named(name, source) as found:
        request = _with_since(request, since, new_weight, source)
        if dry_run:
            plan = make_plan(found.store, found.snapshot, request, folder)
            count = len(plan.files) or len(plan.rows)
            fields = {"snapshot": found.snapshot, "samples": len(plan.selected), "files": count}
            _report(f"would pull {len(plan.selected)} {what} to {folder}", as_json, fields)
            return
        with resume_hint(), progress() as on_progress:
            result = pull_snapshot(
                found.store, found.snapshot, request, folder, on_progress, info=found.info
            )
    text = (
        f"{result.samples} {what} in {folder}: {result.written} files written, {result.kept} kept,"
        f" {result.moved} moved, {result.removed} removed, "
        f"{result.fetched_bytes / 1e6:.1f} MB of layers fetched"
    )
    _report(text, as_json, {"snapshot": found.snapshot, "folder": str(folder)} | asdict(result))


def formats(as_json: Json = False) -> None:
    """List the formats of `snapshot pull`, their readers, and what they do with alpha."""
    from curation.exports.formats import FORMATS

    rows = [
        {
            "format": pull_format.name,
            "reader": pull_format.reader,
            "alpha": str(pull_format.alpha),
            "alphas": [str(alpha) for alpha in pull_format.alphas],
            "splits": [str(split) for split in pull_format.splits],
            "pairs_only": pull_format.pairs_only,
        }
        for pull_format in FORMATS.values()
    ]
    columns = {
        "format": lambda r: r["format"],
        "read by": lambda r: r["reader"],
        "alpha": lambda r: r["alpha"],
        "also": lambda r: ", ".join(a for a in r["alphas"] if a != r["alpha"]),
        "samples": lambda r: "pairs" if r["pairs_only"] else "all",
    }
    print_rows(rows, columns, as_json)


def verify(
    name: Annotated[
        str,
        typer.Argument(help="A tag, an id, a prefix of an id, the folder of a pull, or a pack."),
    ],
    source: From = None,
    manifest_only: Annotated[
        bool, typer.Option("--manifest-only", help="Leave out the layers.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Number of threads.", min=1, max=64)] = 4,
    as_json: Json = False,
) -> None:
    """Check every object of a snapshot, or every file of a pull or a pack, against its hash.

    With --from and an id, and for a pull or a pack, nothing but the files is needed. Lists
    what is missing or damaged with the samples that it concerns, and exits with 4 if there is
    anything.
    """
    with progress() as on_progress:
        found = _verified(name, source, on_progress, workers, manifest_only=manifest_only)
    rows = [asdict(damage) for damage in found]
    if rows or as_json:
        columns = {
            "kind": lambda r: r["kind"],
            "name": lambda r: r["name"],
            "problem": lambda r: r["problem"],
            "samples": lambda r: ", ".join(r["samples"][:5]) or "–",
            "candidates": lambda r: ", ".join(r["candidates"][:5]) or "–",
        }
        print_rows(rows, columns, as_json)
    if rows:
        raise Corrupt(
            f"{len(rows)} objects or files are missing or damaged",
            "restore them from a backup, or pull the snapshot again",
        )
    console.print("all objects and files match their hashes")


def _verified(
    name: str,
    source: str | None,
    report: ProgressCallback,
    workers: int,
    *,
    manifest_only: bool,
) -> list[Damage]:
    """Verify the pull or pack that a name is the folder or address of, or a snapshot."""
    from curation.adapters.snapshot_sources import find_pack
    from curation.exports.packs.check import verify_pack
    from curation.exports.packs.opening import packed_id
    from curation.exports.packs.version import packed_snapshots
    from curation.exports.verify import verify_snapshot
    from curation.exports.verify_pull import verify_folder

    if source is None and (Path(name) / ".layerloop").is_dir():
        return verify_folder(Path(name), report, workers=workers)
    is_place = source is None and ("://" in name or Path(name).is_dir())
    address = name if is_place else source
    pack = find_pack(address, settings().storage_endpoint) if address else None
    if pack is not None:
        wanted = packed_snapshots(pack) if is_place else [packed_id(pack, name)]
        _tell_of_takedowns(pack)
        return verify_pack(pack, wanted, report, workers=workers, manifest_only=manifest_only)
    with open_named(name, source) as opened:
        return verify_snapshot(
            opened.store, opened.snapshot, report, workers=workers, manifest_only=manifest_only
        )


def _tell_of_takedowns(pack: PackFolder) -> None:
    """Name the snapshots that takedowns removed from a pack, and one that was interrupted."""
    from curation.exports.packs.version import is_unfinished, notice_path, removed_snapshots
    from curation.object_store import taken_down

    for one in removed_snapshots(pack):
        told = taken_down(one, pack.read(notice_path(one)))
        warn(f"{told.message}; {told.hint}")
    if is_unfinished(pack):
        warn("a takedown of rows in this pack was interrupted; 'layerloop takedown --pack' ends it")


def register(app: typer.Typer) -> None:
    """Add the commands to the group `snapshot`."""
    app.command()(pull)
    app.command()(formats)
    app.command()(verify)


def _request(
    format_name: str,
    split: list[Split] | None,
    where: list[str] | None,
    weight: list[str] | None,
    layer: list[LayerRole] | None,
    alpha: str | None,
    background: str,
    image_type: str,
    shard_mb: int,
    workers: int,
    decisions: str | None,
    *,
    automatic: bool,
) -> PullRequest:
    """Return the request of the options. Raises Refused."""
    from curation.exports.decisions import DecisionForm, DecisionsRequest
    from curation.exports.formats import FORMATS, PullRequest
    from curation.exports.rendering import Alpha, ImageType, Treatment, parse_background
    from curation.exports.selection import Selection, parse_condition, parse_weight
    from curation.images.content_credentials import open_signer

    chosen = FORMATS.get(format_name)
    if chosen is None:
        raise Refused(f"there is no format {format_name!r}", f"one of {', '.join(FORMATS)}")
    if alpha is not None and alpha not in list(Alpha):
        raise Refused(f"--alpha {alpha!r} is unknown", f"one of {', '.join(Alpha)}")
    if image_type not in list(ImageType):
        raise Refused(f"--image-type {image_type!r} is unknown", f"one of {', '.join(ImageType)}")
    if decisions is not None and decisions not in list(DecisionForm):
        raise Refused(f"--decisions {decisions!r} is unknown", f"one of {', '.join(DecisionForm)}")
    if automatic and decisions is None:
        raise Refused("--automatic chooses decided candidates", "give --decisions labels or pairs")
    # Scripts for pairs drop alpha, and would show the colors under it.
    default = Alpha.composite if decisions == DecisionForm.pairs else chosen.alpha
    treatment = Treatment(
        Alpha(alpha) if alpha else default, parse_background(background), ImageType(image_type)
    )
    selection = Selection(
        tuple(split) if split else chosen.splits,
        tuple(map(parse_condition, where or ())),
        tuple(map(parse_weight, weight or ())),
    )
    roles = tuple(dict.fromkeys(layer)) if layer else (LayerRole.foreground,)
    wanted = DecisionsRequest(DecisionForm(decisions), automatic) if decisions else None
    config = settings()
    signer = open_signer(config.content_certificate, config.content_key)
    return PullRequest(chosen, selection, treatment, roles, shard_mb << 20, workers, wanted, signer)


def _with_since(
    request: PullRequest, since: str | None, new_weight: float, source: str | None
) -> PullRequest:
    """Return the request with the id of the older snapshot, which the same store must hold."""
    from dataclasses import replace

    if since is None:
        return request
    with open_named(since, source) as older:
        selection = replace(request.selection, since=older.snapshot, new_weight=new_weight)
    return replace(request, selection=selection)


@contextmanager
def open_named(name: str, source: str | None) -> Iterator[SnapshotSource]:
    """Open a snapshot by name, in the store at an address or of the instance of the settings.

    Args:
        name: Tag, id, or beginning of an id.
        source: Address of a store or an instance; None for the instance of the settings.
    """
    from curation.adapters.snapshot_sources import SnapshotSource, open_source

    if source is not None:
        config = settings()
        token = config.token.get_secret_value() if config.token else ""
        if source.startswith("http:") and not source.startswith(LOOPBACK):
            warn(f"{source} is not encrypted, and the token is sent to it; use https")
        opened = open_source(source, name, token=token, endpoint=config.storage_endpoint)
        with closing(opened):
            yield opened
        return
    # Only here is a database needed: it knows the tags.
    from curation.cli.output import context
    from curation.datasets import snapshot_history

    with context() as ctx:
        with ctx.database.transaction() as tx:
            info = snapshot_history.describe_snapshot(tx, name)
        yield SnapshotSource(ctx.store, info["id"], info)


def _report(text: str, as_json: bool, fields: dict[str, object]) -> None:
    print_json(fields) if as_json else console.print(text)
