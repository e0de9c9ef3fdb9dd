"""The command that pushes a checkpoint to the Hugging Face Hub (model trainers)."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from curation.cli.evaluation import CheckpointArgument
from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    console,
    context,
    print_json,
    progress,
    resume_hint,
    short_hash,
)
from curation.cli.snapshot_push import Private, Repository, print_plan

if TYPE_CHECKING:
    from curation.adapters.hub.address import HubAddress
    from curation.domain import Checkpoint
    from curation.runtime.context import AppContext


def push(
    name: CheckpointArgument,
    repository: Repository,
    private: Private = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Push a checkpoint to a model on the Hugging Face Hub, with a card.

    The repository gets the files of `checkpoint export --format layerloop`, which `checkpoint
    import hf://owner/name` reads back with the same id, and a card with lineage, metrics and
    the licences of its data. A tainted checkpoint, which a takedown concerns, is refused unless it
    was promoted with --tainted. An interrupted push resumes. --dry-run lists the files and sends no
    request. The token is HF_TOKEN or that of `hf auth login`.
    """
    from curation.adapters.hub.address import RepositoryKind, parse_repository
    from curation.adapters.hub.limits import check_limits, list_files
    from curation.adapters.hub.push import push_files
    from curation.adapters.hub.requests import require_client
    from curation.checkpoints import registry
    from curation.checkpoints.taint import refuse_tainted

    address = parse_repository(repository, RepositoryKind.model)
    require_client()
    with context() as ctx, resume_hint(), progress() as on_progress:
        with ctx.database.transaction() as tx:
            checkpoint = registry.find_checkpoint(tx, name)
            refuse_tainted(tx, checkpoint.id)
        folder = ctx.settings.path(f"pushes/{address.folder_name}")
        _write_files(ctx, checkpoint, address, folder)
        files = list_files(folder)
        check_limits(files)
        if dry_run:
            print_plan(address, files, as_json)
            shutil.rmtree(folder, ignore_errors=True)
            return
        message = f"Checkpoint {checkpoint.id[:12]}"
        result = push_files(address, files, message, on_progress, private=private)
        with ctx.database.transaction() as tx:
            tx.log(ACTOR, "checkpoint pushed", checkpoint.id, repository=str(address))
    shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print_json({"checkpoint": checkpoint.id, "repository": address.repository} | asdict(result))
        return
    console.print(
        f"checkpoint {short_hash(checkpoint.id)} in {result.url}: {result.sent} of "
        f"{result.files} files sent ({result.sent_bytes / 1e6:.1f} MB)"
    )


def _write_files(
    ctx: AppContext, checkpoint: Checkpoint, address: HubAddress, folder: Path
) -> None:
    """Write the weights, their description and the card into an empty folder."""
    from curation.exports.model_card import model_card
    from curation.reporting.lineage import used_by_checkpoint
    from curation.runtime.context import load_object

    # Files of another checkpoint must not be pushed with it.
    shutil.rmtree(folder, ignore_errors=True)
    load_object(ctx.settings.exporter)(checkpoint, ctx.store, "layerloop", "stored", folder)
    with ctx.database.transaction() as tx:
        lineage = used_by_checkpoint(tx, checkpoint.id)
    card = model_card(checkpoint, lineage, address.repository)
    (folder / "README.md").write_text(card, "utf-8")
