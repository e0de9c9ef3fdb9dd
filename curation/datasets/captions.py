"""Captions of samples, written by models and by people; no model overwrites a person's caption.

The table `captions` has all captions that were ever written. Future snapshots have a sample's
newest caption; existing snapshots keep the caption that they have.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql import JSONB, insert

from curation.datasets.samples import find_sample_id, has_no_caption
from curation.db import leases, runs
from curation.db.engine import Database, Transaction
from curation.db.tables import caption_runs, captions, samples
from curation.domain import (
    CaptionSource,
    JobName,
    LayerRole,
    Progress,
    RunState,
    Sample,
    content_id,
)
from curation.errors import Conflict, Corrupt, NotFound, Refused
from curation.images.codec import composite_over, decode_layer
from curation.ports import Captioner, ObjectStore, ProgressCallback

log = logging.getLogger("layerloop.captions")

BATCH_SIZE = 8
"""Batch size: samples that are captioned in one call and stored in one transaction."""

PROMPT = "Describe what this image shows in one short sentence. Do not mention the background."


@dataclass(frozen=True)
class CaptionRequest:
    """The parameters of a captioning run; equal orders are one run.

    Layers are shown on a gray of the value `background`, since the background influences captions.
    `tokens` limits a caption's length. `again` includes samples that a model captioned before;
    `most` limits the number of samples, 0 is no limit.
    """

    model: str
    prompt: str = PROMPT
    background: int = 128
    max_tokens: int = 60
    recaption: bool = False
    max_samples: int = 0

    @property
    def id(self) -> uuid.UUID:
        """The id of the run."""
        return content_id("captions", *asdict(self).values())


def request_captions(tx: Transaction, order: CaptionRequest, actor: str) -> uuid.UUID:
    """Record a captioning run and enqueue its job.

    A requested or running run stays as it is, a failed run is resumed, and a finished run starts
    again.

    Args:
        tx: The transaction.
        order: Model and parameters.
        actor: Name of the person, for the event log.

    Returns:
        The id of the run.
    """
    # A new time starts the run again: `select_samples` counts only captions written since.
    finished = caption_runs.c.state == RunState.finished
    values = asdict(order) | {"id": order.id, "state": RunState.requested}
    requesting = (
        insert(caption_runs)
        .values(values)
        .on_conflict_do_update(
            index_elements=["id"],
            set_={
                "state": RunState.requested,
                "created_at": sa.case((finished, sa.func.now()), else_=caption_runs.c.created_at),
            },
            where=caption_runs.c.state.in_(
                [RunState.finished, RunState.failed, RunState.cancelled]
            ),
        )
    )
    if tx.execute(requesting).rowcount:
        tx.log(actor, "captions ordered", f"captions {order.id}", **asdict(order))
    tx.enqueue(JobName.caption, str(order.id))
    return order.id


def select_samples(tx: Transaction, order: CaptionRequest) -> list[uuid.UUID]:
    """Return the ids of the samples that an order still has to caption.

    They have no caption, or only a caption made from a file name, and the run has written none.

    Args:
        tx: The transaction.
        order: Model and parameters.
    """
    line = sa.cast(samples.c.line, JSONB)
    wanting = has_no_caption()
    if order.recaption:
        wanting |= line.has_key("captioner")
    run = (
        sa.select(caption_runs.c.id, caption_runs.c.created_at)
        .where(caption_runs.c.id == order.id)
        .cte()
    )
    own = (captions.c.run_id == run.c.id) & (captions.c.created_at >= run.c.created_at)
    done = sa.select(sa.func.count()).select_from(captions).join(run, own)
    written = sa.exists().where(captions.c.sample_id == samples.c.id, own)
    chosen = (
        sa.select(samples.c.id)
        .where(samples.c.withdrawn_at.is_(None), wanting, ~written)
        .order_by(samples.c.id)
    )
    if order.max_samples:
        chosen = chosen.limit(max(0, order.max_samples - int(tx.scalar(done) or 0)))
    return [row.id for row in tx.execute(chosen)]


def claim_run(tx: Transaction, run: uuid.UUID, holder: str, seconds: int) -> CaptionRequest | None:
    """Claim a requested run under a lease.

    Args:
        tx: The transaction.
        run: Id of the run.
        holder: Name of the worker.
        seconds: Time until the lease expires.

    Returns:
        Model and parameters; None if the run is done or runs elsewhere.
    """
    claiming = (
        sa.update(caption_runs)
        .where(caption_runs.c.id == run, caption_runs.c.state == RunState.requested)
        .values(state=RunState.running, error=None)
    )
    if not tx.execute(claiming).rowcount:
        return None
    leases.claim(tx, [run], "caption", holder, seconds)
    row = find_run(tx, run)
    return CaptionRequest(**{name: row[name] for name in CaptionRequest.__dataclass_fields__})


def caption_samples(
    database: Database,
    store: ObjectStore,
    captioner: Captioner,
    order: CaptionRequest,
    check_lease: Callable[[Transaction], None],
    on_progress: ProgressCallback,
) -> int:
    """Caption the samples of an order in batches, without an open transaction during inference.

    Layers that cannot be read are logged and skipped.

    Args:
        database: The database.
        store: Store of the layers.
        captioner: The model.
        order: Parameters of the run.
        check_lease: Function that raises Conflict in a transaction if the worker lost the lease.
        on_progress: Callback for progress; it may raise to stop, and stored captions are kept.

    Returns:
        The number of captions that were stored.
    """
    with database.transaction() as tx:
        chosen = select_samples(tx, order)
    seen = kept = 0
    on_progress(Progress("caption", 0, len(chosen)))
    for start in range(0, len(chosen), BATCH_SIZE):
        # Read a batch, and composite its images.
        batch = chosen[start : start + BATCH_SIZE]
        with database.transaction() as tx:
            found = _read(tx, batch, lock=False)
        images = _images(store, found, order.background)
        # Caption it.
        texts = (
            captioner.caption(list(images.values()), order.prompt, order.max_tokens)
            if images
            else []
        )
        written = {id_: text for id_, text in zip(images, map(_clean, texts), strict=True) if text}
        # Store the captions, if the run is still ours.
        with database.transaction() as tx:
            check_lease(tx)
            kept += store_captions(tx, order, written, captioner.source)
        seen += len(batch)
        on_progress(Progress("caption", seen, len(chosen)))
    return kept


def store_captions(
    tx: Transaction, order: CaptionRequest, captions_by_sample: Mapping[uuid.UUID, str], source: str
) -> int:
    """Store captions of a model, except for samples that a person has captioned meanwhile.

    Args:
        tx: The transaction.
        order: Parameters of the run.
        captions_by_sample: Captions by sample.
        source: Name and revision of the model.

    Returns:
        The number of captions that were stored.
    """
    kept = 0
    found = _read(tx, list(captions_by_sample), lock=True)
    bare = {
        row.id
        for row in tx.execute(
            sa.select(samples.c.id).where(samples.c.id.in_(found), has_no_caption())
        )
    }
    for id_, sample in found.items():
        if id_ in bare or (order.recaption and sample.captioner):
            new = replace(
                sample, caption=captions_by_sample[id_], captioner=source, caption_source=None
            )
            write_caption(tx, id_, new, CaptionSource.model, f"machine:{source}", order.id)
            kept += 1
    return kept


def set_caption(tx: Transaction, name: str, text: str, actor: str) -> uuid.UUID:
    """Set a person's caption of a sample.

    Args:
        tx: The transaction.
        name: Id of the sample, or its first eight or more digits.
        text: The caption.
        actor: Name of the person.

    Returns:
        The id of the sample.

    Raises:
        NotFound: There is no such sample.
        Refused: The caption is empty.
    """
    text = _clean(text)
    if not text:
        raise Refused("the caption is empty", "describe the content of the image")
    [(id_, sample)] = _read(tx, [find_sample_id(tx, name)], lock=True).items()
    given = replace(sample, caption=text, captioner="", caption_source=None)
    write_caption(tx, id_, given, CaptionSource.given, f"person:{actor}", None)
    tx.log(actor, "caption given", f"sample {id_.hex}", before=sample.caption, after=text)
    return id_


def record_progress(tx: Transaction, run: uuid.UUID, progress: Progress) -> None:
    """Record the progress of a run."""
    tx.execute(
        sa.update(caption_runs).where(caption_runs.c.id == run).values(progress=asdict(progress))
    )


def renew_run(tx: Transaction, run: uuid.UUID, holder: str, seconds: int) -> None:
    """Renew the lease of a run.

    Args:
        tx: The transaction.
        run: Id of the run.
        holder: Name of the worker.
        seconds: Time from now until the lease expires.

    Raises:
        Conflict: The worker lost the lease.
    """
    if run not in leases.renew(tx, holder, "caption", seconds):
        raise Conflict(f"captions {run} were cancelled or taken over by another worker")


def end_run(tx: Transaction, run: uuid.UUID, error: str | None = None) -> None:
    """Record the end of a run, and release it; an equal order resumes a failed run.

    Args:
        tx: The transaction.
        run: Id of the run.
        error: The error message of a failed run; None if it finished.
    """
    leases.delete_leases(tx, [run])
    state = RunState.finished if error is None else RunState.failed
    ended = {
        "state": state,
        "error": error[:2_000] if error else None,
        "finished_at": sa.func.now(),
    }
    tx.execute(sa.update(caption_runs).where(caption_runs.c.id == run).values(ended))


def cancel_run(tx: Transaction, run: uuid.UUID, actor: str) -> bool:
    """Cancel a run that is requested or running; captions written so far are kept.

    Args:
        tx: The transaction.
        run: Id of the run.
        actor: Name of the person, for the event log.

    Returns:
        Whether the run was requested or running.
    """
    if not runs.cancel_run(tx, caption_runs, run, actor):
        return False
    tx.log(actor, "captions cancelled", f"captions {run}")
    return True


def list_runs(
    tx: Transaction, limit: int = 0, before: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of captioning runs, newest first; see `curation.db.runs.list_runs`."""
    return runs.list_runs(tx, caption_runs, limit, before)


def find_runs(tx: Transaction, prefix: str, limit: int) -> list[dict[str, Any]]:
    """Return captioning runs by the first digits of their id; see `curation.db.runs.find_runs`."""
    return runs.find_runs(tx, caption_runs, prefix, limit)


def find_run(tx: Transaction, run: uuid.UUID) -> dict[str, Any]:
    """Return the row of a run. Raises NotFound."""
    return runs.find_run(tx, caption_runs, run, "captioning")


def _read(tx: Transaction, ids: Sequence[uuid.UUID], *, lock: bool) -> dict[uuid.UUID, Sample]:
    query = (
        sa.select(samples.c.id, samples.c.line).where(samples.c.id.in_(ids)).order_by(samples.c.id)
    )
    rows = tx.execute(query.with_for_update() if lock else query)
    return {row.id: Sample.read(row.line) for row in rows}


def write_caption(
    tx: Transaction,
    id_: uuid.UUID,
    sample: Sample,
    caption_source: CaptionSource,
    source: str,
    run: uuid.UUID | None = None,
) -> None:
    """Store a sample's new line, and add its caption to the history.

    Args:
        tx: The transaction.
        id_: Id of the sample.
        sample: The sample with its new caption.
        caption_source: Origin of the caption.
        source: Name of the model or the person, with the prefix "machine:" or "person:".
        run: Id of the captioning run, if any.
    """
    row = {"sample_id": id_, "text": sample.caption, "source": source, "run_id": run}
    tx.execute(sa.insert(captions), row)
    values = {"line": sample.line(), "caption_source": caption_source}
    tx.execute(sa.update(samples).where(samples.c.id == id_).values(values))


def _images(
    store: ObjectStore, found: Mapping[uuid.UUID, Sample], background: int
) -> dict[uuid.UUID, NDArray[np.uint8]]:
    """Return each sample's whole image over a gray background, H x W x 3."""
    images = {}
    for id_, sample in found.items():
        role = LayerRole.blended if LayerRole.blended in sample.layers else LayerRole.foreground
        try:
            images[id_] = composite_over(
                decode_layer(store.get(sample.layers[role])), (background,) * 3
            )
        except (NotFound, Corrupt) as error:
            log.warning("sample %s gets no caption: %s", sample.id, error)
    return images


def _clean(text: str) -> str:
    """Return the text on one line, shortened, and without NUL, which PostgreSQL cannot store."""
    return " ".join(text.replace("\0", " ").split())[:2_000]
