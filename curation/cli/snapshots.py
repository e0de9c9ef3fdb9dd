"""Commands for snapshots: freeze, list, compare, tag and annotate (data engineers)."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli import snapshot_pack, snapshot_pull, snapshot_push
from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    console,
    context,
    print_json,
    print_json_line,
    print_result,
    print_rows,
    print_text,
    short_hash,
)
from curation.domain import Kind

if TYPE_CHECKING:
    from curation.exports.diff import SnapshotDiff

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A tag, an id, or a prefix of an id.")]


@app.command()
def freeze(
    tag: Annotated[
        str | None, typer.Option(help="A tag for the snapshot; it moves from an older one.")
    ] = None,
    round_: Annotated[
        list[int] | None,
        typer.Option("--round", help="Only this round; 0 is imports; repeatable."),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Only this source, * for any text; repeatable.")
    ] = None,
    licence: Annotated[
        list[str] | None, typer.Option(help="Only samples with this licence; repeatable.")
    ] = None,
    kind: Annotated[list[Kind] | None, typer.Option(help="Only this kind; repeatable.")] = None,
    reviewer: Annotated[
        list[str] | None,
        typer.Option(help="Only samples that this reviewer accepted; repeatable, one is enough."),
    ] = None,
    min_agreement: Annotated[
        float, typer.Option(help="Least share of accepts among a sample's decisions.", min=0, max=1)
    ] = 0.0,
    signal: Annotated[
        list[str] | None, typer.Option(help="A condition on a signal, as haze<0.1; repeatable.")
    ] = None,
    per_prompt: Annotated[
        int, typer.Option(help="Most samples of one prompt; 0 for all.", min=0)
    ] = 0,
    per_cluster: Annotated[
        int, typer.Option(help="Most samples of one cluster; 0 for all.", min=0)
    ] = 0,
    before: Annotated[
        str, typer.Option(help="Only samples added before this date or time (ISO 8601).")
    ] = "",
    licences: Annotated[
        str | None,
        typer.Option(
            help="Refuse to freeze samples with other licences than these, separated by commas; "
            "'generated' stands for generated images."
        ),
    ] = None,
    mix_non_commercial: Annotated[
        bool,
        typer.Option(
            "--mix-non-commercial",
            help="Allow licences that forbid commercial use beside others.",
        ),
    ] = False,
    parent: Annotated[
        str | None, typer.Option(help="The snapshot that it follows; default: the newest.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="A note to keep with the snapshot.")] = None,
    leave_out_damaged: Annotated[
        bool,
        typer.Option(
            "--leave-out-damaged",
            help="Leave out samples whose objects are missing or damaged; otherwise they are "
            "an error.",
        ),
    ] = False,
    with_rejects: Annotated[
        bool,
        typer.Option(
            "--with-rejects",
            help="Add decided candidates, rejected ones too, with verdict, reasons, posterior "
            "probability and propensity, for preference training; no names of reviewers.",
        ),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Freeze samples into a snapshot; equal samples always give the same id.

    Without conditions all samples are taken. The query is kept with the snapshot. Conditions on
    reviewers, agreement and signals leave out samples that were not reviewed here.
    """
    from curation.datasets import snapshot_history, snapshots
    from curation.datasets.freeze_query import FreezeQuery
    from curation.datasets.licences import LicencePolicy
    from curation.datasets.object_check import describe_damage
    from curation.datasets.snapshot_tags import check_tag
    from curation.review.frozen_decisions import find_decided

    query = FreezeQuery(
        tuple(round_ or ()), tuple(source or ()), tuple(licence or ()), tuple(kind or ()),
        tuple(reviewer or ()), min_agreement, tuple(signal or ()), per_prompt, per_cluster, before,
    )  # fmt: skip
    allowed = tuple(filter(None, (name.strip() for name in (licences or "").split(","))))
    policy = LicencePolicy(allowed, mix_non_commercial)
    with context() as ctx:
        if dry_run:
            with ctx.database.transaction() as tx:
                decided = find_decided(tx, query) if with_rejects else None
                count = snapshots.count_chosen(tx, query, policy, decided)
            decisions = sum(decided.by_checkpoint.values()) if decided else 0
            beside = f" and {decisions} decided candidates" if with_rejects else ""
            print_result(
                f"would freeze {count} samples{beside}",
                as_json, would_freeze=count, would_freeze_decisions=decisions,
            )  # fmt: skip
            return
        if tag:
            check_tag(tag)
        if parent:
            with ctx.database.transaction() as tx:
                parent = snapshots.find_snapshot(tx, parent)
        prepared = snapshots.prepare_snapshot(
            ctx.database, ctx.store, query, policy, find_decided if with_rejects else None,
            leave_out_damaged=leave_out_damaged,
        )  # fmt: skip
        frozen = prepared.manifest
        with ctx.database.transaction() as tx:
            snapshots.record_snapshot(tx, prepared, tag=tag, actor=ACTOR, parent=parent)
            if note:
                snapshot_history.add_note(tx, frozen.id, note, ACTOR)
    if prepared.left_out:
        console.print(f"left out: {describe_damage(prepared.left_out)}")
    if withheld := frozen.counts["split"].get("withheld"):
        console.print(
            f"{withheld} training samples share a layer with a held-out sample and are withheld"
        )
    if with_rejects and not frozen.decisions:
        console.print("no candidate of the query is decided: the snapshot has samples alone")
    count = frozen.decisions.candidates if frozen.decisions else 0
    fields = {"snapshot": frozen.id, "samples": frozen.samples, "decisions": count}
    print_json(fields) if as_json else print_text(frozen.id)


@app.command("list")
def list_(
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option(help="List snapshots older than this one, by its id or tag.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List snapshots, newest first."""
    from curation.datasets import snapshots

    with context() as ctx, ctx.database.transaction() as tx:
        last = snapshots.find_snapshot(tx, after) if after else None
        rows = snapshots.list_snapshots(tx, query_limit(limit), last)
    columns = {
        "snapshot": lambda r: short_hash(r["id"]),
        "samples": lambda r: r["samples"],
        "decisions": lambda r: _decided_text(r["decisions"]),
        "tags": lambda r: ", ".join(r["tags"]),
        "frozen": lambda r: r["created_at"],
        "parent": lambda r: short_hash(r["parent_id"]),
        "query": lambda r: _query_text(r["query"]),
    }
    print_page(rows, columns, limit, as_json)


@app.command()
def show(
    name: Name,
    samples: Annotated[bool, typer.Option(help="Print all samples as JSON lines.")] = False,
    decisions: Annotated[
        bool, typer.Option("--decisions", help="Print all decided candidates as JSON lines.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a snapshot: counts by kind, licence, split and round, its query, parent and notes."""
    from curation.datasets import decision_records, manifest, snapshot_history

    with context() as ctx:
        with ctx.database.transaction() as tx:
            info = snapshot_history.describe_snapshot(tx, name)
        if samples:
            for sample in manifest.read_samples(ctx.store, info["id"]):
                print_json_line(sample.line())
            return
        if decisions:
            for record in decision_records.read_decisions(ctx.store, info["id"]):
                print_json_line(record.line())
            return
        root = manifest.read_manifest(ctx.store, info["id"])
    if as_json:
        print_json(info | {"id": root.id, "samples": root.samples, "counts": root.counts})
        return
    # Each table lists its largest counts first.
    print_text(f"{root.id}  {root.samples} samples")
    for what, counts in root.counts.items():
        for value, count in sorted(counts.items(), key=lambda item: -item[1]):
            print_text(f"  {what:<8} {count:>8}  {value}")
    for what, counts in (root.decisions.counts if root.decisions else {}).items():
        for value, count in sorted(counts.items(), key=lambda item: -item[1]):
            print_text(f"  decisions, {what:<10} {count:>8}  {value}")
    described = {
        "tags": ", ".join(info["tags"]),
        "query": _query_text(info["query"]),
        "parent": info["parent"] or "",
        **{name: str(value) for name, value in info["review"].items()},
        "notes": "; ".join(info["notes"]),
    }
    for label, text in described.items():
        if text:
            print_text(f"  {label}: {text}")


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="The older snapshot.")],
    second: Annotated[str, typer.Argument(help="The newer snapshot.")],
    source: snapshot_pull.From = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet of the differences (PNG).")
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples", help="List every sample that differs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare two snapshots: samples added, removed and changed, and the mix of licences."""
    from curation.exports.diff import DecisionsDiff, compare_snapshots, contact_sheet
    from curation.object_store import write_file_atomically

    with (
        snapshot_pull.open_named(first, source) as older,
        snapshot_pull.open_named(second, source) as newer,
    ):
        found = compare_snapshots(newer.store, older.snapshot, newer.snapshot)
        if sheet is not None:
            write_file_atomically(sheet, contact_sheet(newer.store, found))
            console.print(f"wrote {sheet}")
    if as_json:
        print_json(_diff_fields(found))
        return
    print_text(
        f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed, "
        f"{len(found.withheld)} newly withheld, {len(found.released)} no longer withheld"
    )
    for name, count in found.changed_fields().items():
        print_text(f"  {count:>8} changed {name}")
    if found.decisions != DecisionsDiff():
        decided = found.decisions
        print_text(
            f"decisions: {len(decided.added)} added, {len(decided.removed)} removed, "
            f"{len(decided.turned)} with another verdict, {len(decided.changed)} otherwise changed"
        )
    for licence, (before, after) in found.licences.items():
        print_text(f"  licence  {before:>8} -> {after:<8} {licence}")
    for mark, ids in _marked(found) if samples else ():
        print_text(f"{mark} {ids}")


@app.command()
def log(
    name: Annotated[str, typer.Argument(help="A tag, an id, or a prefix of an id.")] = "latest",
    as_json: Json = False,
) -> None:
    """Show a snapshot and those it follows, newest first, and of a tag where it pointed."""
    from curation.datasets import snapshot_history

    with context() as ctx, ctx.database.transaction() as tx:
        lineage = snapshot_history.list_lineage(tx, name)
        moves = snapshot_history.list_tag_moves(tx, name)
    if as_json:
        print_json({"snapshots": lineage, "moves": moves})
        return
    columns = {
        "snapshot": lambda r: short_hash(r["id"]),
        "samples": lambda r: r["samples"],
        "tags": lambda r: ", ".join(r["tags"]),
        "frozen": lambda r: r["created_at"],
        "query": lambda r: _query_text(r["query"]),
        "notes": lambda r: "; ".join(r["notes"]),
    }
    print_rows(lineage, columns, as_json)
    for move in moves:
        print_text(f"{move['created_at']:%Y-%m-%d %H:%M}  {move['kind']}  "
                   f"{short_hash(move['snapshot'])}  by {move['actor']}")  # fmt: skip


@app.command()
def tag(
    name: Annotated[str, typer.Argument(help="The tag.")],
    snapshot: Annotated[
        str | None, typer.Argument(help="The snapshot: a tag, an id, or a prefix of an id.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the tag.")] = False,
) -> None:
    """Set a tag on a snapshot, or delete it; the log keeps where it pointed."""
    from curation.datasets import snapshot_history, snapshots
    from curation.datasets.snapshot_tags import tag_snapshot
    from curation.errors import Refused

    if delete == (snapshot is not None):
        raise Refused("name a snapshot for the tag, or --delete", "as tag v1 3f2a90c1")
    with context() as ctx, ctx.database.transaction() as tx:
        if snapshot is None:
            snapshot_history.delete_tag(tx, name, ACTOR)
            console.print(f"deleted the tag {name}")
            return
        found = snapshots.find_snapshot(tx, snapshot)
        tag_snapshot(tx, name, found, ACTOR)
    console.print(f"{name} is {short_hash(found)}")


@app.command()
def note(name: Name, text: Annotated[str, typer.Argument(help="The note.")]) -> None:
    """Add a note to a snapshot, for people who decide whether to train on it."""
    from curation.datasets import snapshot_history

    with context() as ctx, ctx.database.transaction() as tx:
        found = snapshot_history.add_note(tx, name, text, ACTOR)
    console.print(f"noted on {short_hash(found)}")


snapshot_pull.register(app)
snapshot_push.register(app)
snapshot_pack.register(app)


def _query_text(query: dict[str, Any] | None) -> str:
    """Return a query in one line; "all" for an empty one, a dash if it is not known."""
    if query is None:
        return "–"
    parts = (f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in query.items())
    return " ".join(parts) or "all"


def _decided_text(counts: dict[str, dict[str, int]] | None) -> str:
    """Return the numbers of accepted and rejected candidates, as "+90 -310"; "" without any."""
    verdicts = (counts or {}).get("verdict", {})
    return f"+{verdicts.get('accept', 0)} -{verdicts.get('reject', 0)}" if verdicts else ""


def _diff_fields(found: SnapshotDiff) -> dict[str, Any]:
    return {
        "added": [sample.id for sample in found.added],
        "removed": [sample.id for sample in found.removed],
        "changed": {change.before.id: list(change.fields) for change in found.changed},
        "changed_fields": found.changed_fields(),
        "withheld": found.withheld,
        "released": found.released,
        "licences": found.licences,
        "decisions": asdict(found.decisions),
        "rounds_added": dict(Counter(str(sample.round) for sample in found.added)),
    }


def _marked(found: SnapshotDiff) -> list[tuple[str, str]]:
    rows = [("+", sample.id) for sample in found.added]
    rows += [("-", sample.id) for sample in found.removed]
    return rows + [
        ("~", f"{change.before.id} {', '.join(change.fields)}") for change in found.changed
    ]
