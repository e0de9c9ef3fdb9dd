"""Commands for an instance as a whole: garbage collection, backup, restore and moving."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    bold,
    console,
    context,
    print_json,
    print_result,
    progress,
    resume_hint,
    settings,
    warn,
)
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.instance.backup import BackupPlace
    from curation.ports import ProgressCallback
    from curation.runtime.context import AppContext

app = typer.Typer(no_args_is_help=True)


@app.command()
def init(
    admin: Annotated[
        str | None,
        typer.Option(help="Name of the first administrator, if there is none; prints a link."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Prepare the servers of an instance: bucket, tables, queue and the first administrator.

    Repeatable: existing parts are kept, and tables of an older version are upgraded.
    """
    from curation.instance.setup import prepare_servers, sign_in_first_admin

    config = settings()
    created = prepare_servers(config)
    link = None
    if admin is not None:
        with context(create=True) as ctx, ctx.database.transaction() as tx:
            link = sign_in_first_admin(tx, admin, config.public_address)
    if as_json:
        print_json({"bucket_created": created, "sign_in": link})
        return
    console.print("the bucket was created" if created else "the object store is there")
    console.print("the tables and the queue are those of this version")
    if link is not None:
        console.print("open ", bold(link), " within a day; it signs in one person, once")


@app.command()
def gc(
    grace: Annotated[
        float,
        typer.Option(
            help="Hours; objects that were put more recently are kept. At least 1.", min=1.0
        ),
    ] = 24.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove objects from the store that neither a row nor a snapshot names.

    Workers may run meanwhile. Objects put since the start of an unfinished training are kept.
    """
    from curation.instance.garbage import collect_garbage

    with context() as ctx, progress() as on_progress:
        report = collect_garbage(
            ctx.database, ctx.store, timedelta(hours=grace), on_progress, dry_run=dry_run
        )
    if as_json:
        print_json(asdict(report) | {"dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    console.print(
        f"{verb} {report.removed:,} objects ({_mib(report.removed_bytes)}); "
        f"kept {report.named:,} named and {report.young:,} recent objects"
    )


Place = Annotated[str, typer.Argument(help="A folder, or s3://bucket/prefix.")]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        help="URL of the S3 server of the backup; default: LAYERLOOP_STORAGE_ENDPOINT.",
    ),
]
BackupName = Annotated[
    str | None, typer.Option("--backup", help="Name of the backup; default: the newest.")
]
ReadBack = Annotated[bool, typer.Option(help="Read each copied object again, and check its hash.")]


@app.command()
def backup(
    place: Place,
    endpoint: Endpoint = None,
    read_back: ReadBack = True,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Back up all rows and objects; later backups in the same place copy only new objects.

    Everything may run meanwhile: the rows are those of one moment. The signing secret, Label
    Studio's data and the homes' logs and caches are not included.
    """
    from curation.instance import backup as backups
    from curation.instance import takedown_records

    with context() as ctx, progress() as on_progress:
        opened = backups.open_place(place, endpoint or ctx.settings.storage_endpoint)
        if dry_run:
            with tempfile.TemporaryDirectory() as scratch:
                view, plan = backups.plan_backup(
                    ctx.database, ctx.store, opened, Path(scratch), on_progress
                )
            name, rows = None, view.dump.rows
        else:
            made, plan = backups.make_backup(
                ctx.database, ctx.store, opened, on_progress, read_back=read_back
            )
            takedown_records.save_records(ctx.database, opened)
            name, rows = made.name, made.dump.rows
    print_result(
        f"{'backup ' + name if name else 'a backup'}: {rows:,} rows, {len(plan.wanted):,} objects, "
        f"{len(plan.missing):,} of them new ({_mib(plan.missing_bytes)})",
        as_json,
        backup=name,
        rows=rows,
        objects=len(plan.wanted),
        new_objects=len(plan.missing),
        new_bytes=plan.missing_bytes,
    )


@app.command("verify-backup")
def verify_backup(
    place: Place,
    endpoint: Endpoint = None,
    name: BackupName = None,
    as_json: Json = False,
) -> None:
    """Read everything of a backup, and list what is missing or damaged; exit code 4 if anything is.

    No instance is needed.
    """
    from curation.errors import Corrupt
    from curation.instance import backup as backups

    opened = backups.open_place(place, endpoint or settings().storage_endpoint)
    with progress() as on_progress:
        found = backups.read_backup(opened, name)
        damaged = backups.verify_backup(opened, found, on_progress)
    if damaged:
        if as_json:
            print_json({"backup": found.name, "damaged": damaged})
        listed = ", ".join(sha[:12] for sha in damaged[:5])
        raise Corrupt(
            f"backup {found.name}: {len(damaged)} objects are missing or damaged: {listed} ...",
            "remove damaged objects from the backup, then make another: "
            "it copies what is missing as long as the instance has it",
        )
    print_result(
        f"backup {found.name} is complete: {found.dump.rows:,} rows, {found.objects:,} objects "
        f"({_mib(found.object_bytes)})",
        as_json,
        backup=found.name,
        damaged=[],
        rows=found.dump.rows,
        objects=found.objects,
    )


@app.command()
def restore(
    place: Place,
    endpoint: Endpoint = None,
    name: BackupName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Restore a backup into the empty instance of the settings, and check it.

    After an interruption the same command resumes. Everybody signs in again, unless
    LAYERLOOP_SECRET is the former secret. Takedowns that the place knows of and the backup does not
    are repeated.
    """
    from curation.instance import backup as backups
    from curation.instance.restore import plan_restore, restore_backup
    from curation.runtime.context import upgrade_database

    config = settings()
    opened = backups.open_place(place, endpoint or config.storage_endpoint)
    found = backups.read_backup(opened, name)
    # Tables are created where there are none; the rows are refused where there are any.
    if not dry_run:
        upgrade_database(config)
    with resume_hint(), context(create=True) as ctx, progress() as on_progress:
        if dry_run:
            plan = plan_restore(opened, found, ctx.store)
        else:
            plan = restore_backup(opened, found, ctx.database, ctx.store, on_progress)
            _repeat_takedowns(ctx, opened, on_progress)
    print_result(
        f"{'would restore' if dry_run else 'restored'} backup {found.name}: {found.dump.rows:,} "
        f"rows, {len(plan.missing):,} of {len(plan.wanted):,} objects copied "
        f"({_mib(plan.missing_bytes)})",
        as_json,
        backup=found.name,
        rows=found.dump.rows,
        objects=len(plan.wanted),
        copied_objects=len(plan.missing),
    )


@app.command("apply-takedowns")
def apply_takedowns(place: Place, endpoint: Endpoint = None, as_json: Json = False) -> None:
    """Repeat in this instance the takedowns that the backups of a place know of.

    'layerloop instance restore' does so itself; this is for one that was interrupted at its end.
    """
    from curation.instance import backup as backups

    with resume_hint(), context() as ctx, progress() as on_progress:
        opened = backups.open_place(place, endpoint or ctx.settings.storage_endpoint)
        count = _repeat_takedowns(ctx, opened, on_progress)
    print_result(f"{count} takedowns were repeated", as_json, takedowns=count)


def _repeat_takedowns(ctx: AppContext, place: BackupPlace, report: ProgressCallback) -> int:
    """Repeat the takedowns of a place, and return how many had something to remove or block."""
    from curation.cli.takedown import takedown_place
    from curation.instance.takedown_records import apply_records
    from curation.takedown.caches import clear_caches

    if not place.files.names():
        return 0
    repeated = apply_records(place, takedown_place(ctx), report)
    clear_caches(ctx.database, ctx.settings.path("runs"))
    return len(repeated)


@app.command()
def move(
    to_database: Annotated[
        str, typer.Option(help="postgresql://user@host/name, an empty database.")
    ],
    to_storage: Annotated[str, typer.Option(help="s3://bucket/prefix or file:///folder.")],
    to_queue: Annotated[
        str | None,
        typer.Option(help="amqp://... or redis://...; default: PGMQ in the new database."),
    ] = None,
    to_endpoint: Annotated[
        str | None, typer.Option(help="URL of the S3 server, if it is not Amazon's.")
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option(
            help="Write the settings of the moved instance, with its secret, to this file."
        ),
    ] = None,
    read_back: ReadBack = True,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Move this instance to another database and object store, such as to servers of a team.

    Rows, objects and numbering are copied and checked. Stop the local stack, the API and all
    workers first. This instance stays as it is and is marked as moved. After an interruption the
    same command resumes.
    """
    from curation.instance import move as moving

    with context() as ctx:
        target = moving.target_settings(
            ctx.settings, to_database, to_storage, to_queue, to_endpoint
        )
        check_new_file(env_file)
        with (
            resume_hint(),
            moving.quiet_instance(ctx),
            moving.open_target(target, prepare=not dry_run) as opened,
            progress() as on_progress,
        ):
            if dry_run:
                result = moving.plan_move(ctx, opened, on_progress)
            else:
                result = moving.move_instance(ctx, opened, ACTOR, on_progress, read_back=read_back)
        if env_file is not None and not dry_run:
            moving.write_environment(target, ctx.signing_secret(), env_file)
    rows = sum(result.tables.values())
    if result.obstacle and dry_run:
        warn(f"rows cannot be loaded into that database: {result.obstacle}")
    print_result(
        f"{'would move' if dry_run else 'moved'} {rows:,} rows and {result.objects:,} objects "
        f"({_mib(result.object_bytes)}; {result.copied_objects:,} copied, "
        f"{_mib(result.copied_bytes)}); the next snapshot is {result.snapshot[:12] or 'none'}",
        as_json,
        **asdict(result),
    )


@app.command()
def reopen(as_json: Json = False) -> None:
    """Allow work in an instance that was moved, such as after the new one was abandoned."""
    from curation.runtime import moved

    with context() as ctx, ctx.database.transaction() as tx:
        marked = moved.reopen(tx, ACTOR)
    print_result(
        "work is allowed again" if marked else "this instance was not moved",
        as_json,
        reopened=marked,
    )


def check_new_file(path: Path | None) -> None:
    """Raise Refused if the file to write exists already."""
    if path is not None and path.exists():
        raise Refused(f"{path} exists already", "name another file")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
