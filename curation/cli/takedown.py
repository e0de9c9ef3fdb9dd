"""The command that removes samples, images or a person's name for ever (administrators)."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    console,
    context,
    print_json,
    print_rows,
    print_text,
    progress,
    resume_hint,
    short_hash,
    warn,
)
from curation.errors import NotFound, Refused

if TYPE_CHECKING:
    from curation.ingest.inspection_result import InspectionResult
    from curation.runtime.context import AppContext
    from curation.takedown.execution import TakedownPlace
    from curation.takedown.packs import PackOutcome
    from curation.takedown.selectors import Selector

AGAIN = "when they are, run the same command again"
REVIEWER_RULE = (
    "verdicts stay, as those of a removed reviewer: consensus and samples follow from them"
)


def takedown(
    source: Annotated[str | None, typer.Option(help="A source of imports, exactly.")] = None,
    sample: Annotated[
        list[str] | None, typer.Option(help="Id of a sample or candidate; repeatable.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="A licence.")] = None,
    reviewer: Annotated[str | None, typer.Option(help="Name of a reviewer.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="A file with the image; repeatable.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="With --image: id of a near copy to remove too; repeatable."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="With --image: write a PNG that shows the near copies.")
    ] = None,
    pack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR|URL",
            help="A pack that this instance did not record; it is recorded now. Without anything "
            "to take down, all packs lose what was taken down before. Repeatable.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="The reason, kept in the record as it is.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="List the takedowns so far instead.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove images, or a person's name, for ever: bytes, rows and caches; none comes back.

    Removed images are never imported again. Snapshots that held them get successors without them,
    and checkpoints trained on them are tainted. An interrupted takedown goes on when the command
    runs again.
    """
    if listing:
        _list(as_json)
        return
    with context() as ctx:
        _record_packs(ctx, pack or [])
        if pack and not any((source, sample, licence, reviewer, image)):
            _clean_packs(ctx, dry_run=dry_run, as_json=as_json)
            return
        selector, images = _selector(source, sample, licence, reviewer, image, also)
        planned = _plan(ctx, selector, images, sheet)
        if dry_run or not as_json:
            print_json(planned) if as_json else _print(planned)
        if dry_run:
            return
        _confirm(yes)
        finished, cleared, packs = _execute(ctx, selector, reason, images)
    rows = [
        {"takedown": str(row["id"]), "record": row["record"], "counts": row["counts"]}
        for row in finished
    ]
    if as_json:
        shown = {"packs": list(map(asdict, packs)), "outside": planned.get("outside", [])}
        print_json({"takedowns": rows, "caches_cleared": cleared} | shown)
    for row in rows:
        console.print(f"takedown {row['takedown'][:8]} is finished; its record is {row['record']}")
        unreached = row["counts"].get("unreached_pack", 0)
        warn(f"{unreached} packs were not reached: {AGAIN}" if unreached else "")
    _print_packs(packs)
    if not rows:
        console.print("there is nothing to take down")
    warn("" if cleared else "a training here reads caches; they are cleared before the next one")


def _selector(
    source: str | None,
    sample: list[str] | None,
    licence: str | None,
    reviewer: str | None,
    image: list[Path] | None,
    also: list[str] | None,
) -> tuple[Selector, list[InspectionResult]]:
    """Return the selector of the options, and the inspected files. Raises Refused."""
    from curation.takedown.selectors import Selector

    given: dict[str, tuple[str, ...]] = {
        "source": (source,) if source else (),
        "sample": tuple(sample or ()),
        "licence": (licence,) if licence else (),
        "reviewer": (reviewer,) if reviewer else (),
        "image": tuple(map(str, image or ())),
    }
    chosen = [kind for kind, values in given.items() if values]
    if len(chosen) != 1:
        raise Refused(
            "name one kind of thing to take down",
            "--source, --sample, --licence, --reviewer or --image",
        )
    if also and chosen != ["image"]:
        raise Refused("--also names near copies of --image", "give --image, or several --sample")
    if chosen != ["image"]:
        return Selector(chosen[0], tuple(sorted(given[chosen[0]]))), []
    from curation.ingest.lookup import inspect_files

    found = inspect_files(image or [])
    visible = tuple(sorted({one.visible for one in found}))
    return Selector("image", visible, tuple(sorted(also or ()))), found


def _plan(
    ctx: AppContext, selector: Selector, images: list[InspectionResult], sheet: Path | None
) -> dict[str, Any]:
    from curation.adapters.snapshot_sources import pack_folder
    from curation.takedown.preview import find_near, preview
    from curation.takedown.selectors import select

    planned = preview(ctx.database, ctx.store, selector, pack_folder)
    if images:
        with ctx.database.transaction() as tx:
            near = find_near(tx, [one.fingerprint for one in images], select(tx, selector))
        if sheet is not None:
            from curation.exports.diff import draw_sheet
            from curation.object_store import write_file_atomically

            title = f"{len(near)} near copies, the nearest first"
            write_file_atomically(
                sheet, draw_sheet(ctx.store, [(title, [one["layers"] for one in near])])
            )
        planned["near_copies"] = [
            {name: one[name] for name in ("id", "kind", "bits")} for one in near
        ]
    return planned


def _print(planned: dict[str, Any]) -> None:
    if planned["selector"] == "reviewer":
        print_text(REVIEWER_RULE)
    for name, value in planned.items():
        if name in ("outside", "packs", "near_copies") or not value:
            continue
        shown = (
            f"{len(value)}: {', '.join(str(one)[:12] for one in value[:8])}"
            if isinstance(value, list)
            else value
        )
        print_text(f"{name.replace('_', ' '):<28} {shown}")
    for one in planned.get("near_copies", ()):
        print_text(f"near copy, {one['bits']} of 192 bits: {one['kind']} {one['id']}")
    if planned.get("near_copies"):
        print_text("near copies stay, unless --also names them; --sheet FILE shows them")
    for one in planned.get("packs", ()):
        print_text(f"{'pack':<28} {one}")
    for place in planned.get("outside", ()):
        print_text(f"not reached from here: {place}")


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("a takedown cannot be undone", "look at it with --dry-run, then add --yes")
    if not typer.confirm("Remove this for ever?", err=True):
        raise Refused("nothing was removed")


def _execute(
    ctx: AppContext, selector: Selector, reason: str, images: list[InspectionResult]
) -> tuple[list[dict[str, Any]], bool, list[PackOutcome]]:
    from curation.object_store import compute_sha256
    from curation.takedown.caches import clear_caches
    from curation.takedown.execution import clean_left_packs, take_down

    given: list[dict[str, object]] = [
        {
            "sha256": compute_sha256(one.layer or b""),
            "visible": one.visible,
            "fingerprint": one.fingerprint,
        }
        for one in images
    ]
    place = takedown_place(ctx)
    with resume_hint(), progress() as on_progress:
        finished = take_down(place, selector, " ".join(reason.split()), on_progress, given)
        # A finished takedown has looked at all packs.
        packs = [] if finished else clean_left_packs(place, on_progress)
    return finished, clear_caches(ctx.database, ctx.settings.path("runs")), packs


def takedown_place(ctx: AppContext) -> TakedownPlace:
    """Return where a takedown works, with the packs that this machine reaches."""
    from curation.adapters.snapshot_sources import pack_folder
    from curation.takedown.execution import TakedownPlace

    return TakedownPlace(ctx.database, ctx.store, ctx.signing_secret(), ACTOR, pack_folder)


def _record_packs(ctx: AppContext, addresses: list[str]) -> None:
    """Record packs of other programs. Raises NotFound where there is none."""
    from curation.adapters.snapshot_sources import find_pack
    from curation.datasets.pack_places import pack_place, record_pack

    endpoint = ctx.settings.storage_endpoint
    for address in addresses:
        if find_pack(address, endpoint) is None:
            raise NotFound(f"there is no pack in {address}", "name the folder or URL of a pack")
        with ctx.database.transaction() as tx:
            record_pack(tx, pack_place(address, endpoint))


def _clean_packs(ctx: AppContext, *, dry_run: bool, as_json: bool) -> None:
    from curation.adapters.snapshot_sources import pack_folder
    from curation.takedown.execution import clean_left_packs
    from curation.takedown.packs import find_in_packs

    if dry_run:
        packs = find_in_packs(ctx.database, pack_folder)
    else:
        with resume_hint(), progress() as on_progress:
            packs = clean_left_packs(takedown_place(ctx), on_progress)
    if as_json:
        print_json({"packs": list(map(asdict, packs))})
    _print_packs(packs, "would lose" if dry_run else "lost")
    if not packs:
        console.print("no pack holds anything that was taken down")


def _print_packs(packs: list[PackOutcome], verb: str = "lost") -> None:
    for one in packs:
        if one.problem:
            warn(f"pack {one.pack} was not reached: {one.problem}")
        else:
            console.print(f"pack {one.pack} {verb} {one.rows} rows in {one.shards} shards")


def _list(as_json: bool) -> None:
    from curation.takedown.records import is_signed, list_takedowns

    with context() as ctx:
        secret = ctx.signing_secret()
        with ctx.database.transaction() as tx:
            rows = list_takedowns(tx)
    for row in rows:
        row["signed"] = row["record"] is not None and is_signed(row, secret)
    columns = {
        "takedown": lambda r: str(r["id"])[:8],
        "of": lambda r: r["selector"],
        "state": lambda r: r["state"],
        "samples": lambda r: r["counts"].get("sample", "–"),
        "layers": lambda r: r["counts"].get("layer", "–"),
        "record": lambda r: short_hash(r["record"]),
        "signed": lambda r: "yes" if r["signed"] else "no",
        "packs left": lambda r: ", ".join(r["unreached_packs"]) or "–",
        "reason": lambda r: r["reason"],
        "started": lambda r: r["created_at"],
    }
    print_rows(rows, columns, as_json)
