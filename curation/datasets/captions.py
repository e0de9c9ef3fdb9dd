"""Captions: a model writes them for samples that have none, a person gives better ones, and no model overwrites those.

What was written stands in `captions` for ever. A sample's line carries its newest caption into the snapshots to come;
those frozen before keep the one they had.
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

from curation.datasets.samples import find_sample_id, without_caption
from curation.db import leases
from curation.db.engine import Database, Transaction
from curation.db.tables import caption_runs, captions, samples
from curation.domain import CaptionSource, LayerRole, Progress, RunState, Sample, content_id
from curation.errors import Conflict, Corrupt, NotFound, Refused
from curation.images.codec import decode_layer, over
from curation.ports import Captioner, ObjectStore, Report

log = logging.getLogger("layerloop.captions")

AT_ONCE = 8
"""Samples that a model sees together, and that are kept together."""

PROMPT = "Describe what this image shows in one short sentence. Do not mention the background."


@dataclass(frozen=True)
class CaptionOrder:
    """What a model is to caption, and how; the same order twice is one run.

    Layers are shown on a grey of the value `background`, the same for all, since what lies behind changes what a
    model says. `again` takes the samples that a model captioned before too; `most` is a limit, 0 is none.
    """

    model: str
    prompt: str = PROMPT
    background: int = 128
    tokens: int = 60
    again: bool = False
    most: int = 0

    @property
    def id(self) -> uuid.UUID:
        """Names the run."""
        return content_id("captions", *asdict(self).values())


def order_captions(tx: Transaction, order: CaptionOrder, actor: str) -> uuid.UUID:
    """Ask for captions. An order under way is joined, one that failed goes on, one that ended begins anew."""
    ended = caption_runs.c.state == RunState.finished
    values = asdict(order) | {"id": order.id, "state": RunState.requested}
    asking = (
        insert(caption_runs)
        .values(values)
        .on_conflict_do_update(
            index_elements=["id"],
            set_={
                "state": RunState.requested,
                "at": sa.case((ended, sa.func.now()), else_=caption_runs.c.at),
            },
            where=caption_runs.c.state.in_(
                [RunState.finished, RunState.failed, RunState.cancelled]
            ),
        )
    )
    if tx.execute(asking).rowcount:
        tx.log(actor, "captions ordered", f"captions {order.id}", **asdict(order))
    tx.ask("caption", str(order.id))
    return order.id


def choose_samples(tx: Transaction, order: CaptionOrder) -> list[uuid.UUID]:
    """The samples that an order is still for: no caption was given, and none written by its run since it was asked.

    A caption that was made from a file name counts as none.
    """
    line = sa.cast(samples.c.line, JSONB)
    wanting = without_caption()
    if order.again:
        wanting |= line.has_key("captioner")
    run = sa.select(caption_runs.c.id, caption_runs.c.at).where(caption_runs.c.id == order.id).cte()
    mine = (captions.c.run_id == run.c.id) & (captions.c.at >= run.c.at)
    done = sa.select(sa.func.count()).select_from(captions).join(run, mine)
    written = sa.exists().where(captions.c.sample_id == samples.c.id, mine)
    chosen = (
        sa.select(samples.c.id)
        .where(samples.c.withdrawn_at.is_(None), wanting, ~written)
        .order_by(samples.c.id)
    )
    if order.most:
        chosen = chosen.limit(max(0, order.most - int(tx.scalar(done) or 0)))
    return [row.id for row in tx.execute(chosen)]


def claim_run(tx: Transaction, run: uuid.UUID, holder: str, seconds: int) -> CaptionOrder | None:
    """Take a requested run under a lease; None where it is under way elsewhere or done."""
    moving = (
        sa.update(caption_runs)
        .where(caption_runs.c.id == run, caption_runs.c.state == RunState.requested)
        .values(state=RunState.running, error=None)
    )
    if not tx.execute(moving).rowcount:
        return None
    leases.claim(tx, [run], "caption", holder, seconds)
    row = find_run(tx, run)
    return CaptionOrder(**{name: row[name] for name in CaptionOrder.__dataclass_fields__})


def caption_samples(
    database: Database,
    store: ObjectStore,
    captioner: Captioner,
    order: CaptionOrder,
    held: Callable[[Transaction], None],
    report: Report,
) -> int:
    """Let a model caption what an order is for, a batch at a time, with no transaction open while it looks.

    `held` raises Conflict in the transaction that would keep a batch, where the run is another's by now. Whatever
    `report` raises stops it; what was kept stays. A layer that cannot be read is named in the log and left out.
    Returns how many captions were kept.
    """
    with database.transaction() as tx:
        chosen = choose_samples(tx, order)
    seen = kept = 0
    report(Progress("caption", 0, len(chosen)))
    for start in range(0, len(chosen), AT_ONCE):
        batch = chosen[start : start + AT_ONCE]
        with database.transaction() as tx:
            found = _read(tx, batch, lock=False)
        pictures = _pictures(store, found, order.background)
        texts = (
            captioner.describe(list(pictures.values()), order.prompt, order.tokens)
            if pictures
            else []
        )
        said = {id_: text for id_, text in zip(pictures, map(_clean, texts), strict=True) if text}
        with database.transaction() as tx:
            held(tx)
            kept += keep_captions(tx, order, said, captioner.source)
        seen += len(batch)
        report(Progress("caption", seen, len(chosen)))
    return kept


def keep_captions(
    tx: Transaction, order: CaptionOrder, said: Mapping[uuid.UUID, str], source: str
) -> int:
    """Keep what a model, named by `source`, said of samples; those that a person captioned meanwhile are left alone."""
    kept = 0
    found = _read(tx, list(said), lock=True)
    bare = {
        row.id
        for row in tx.execute(
            sa.select(samples.c.id).where(samples.c.id.in_(found), without_caption())
        )
    }
    for id_, sample in found.items():
        if id_ in bare or (order.again and sample.captioner):
            new = replace(sample, caption=said[id_], captioner=source, caption_source=None)
            write_caption(tx, id_, new, CaptionSource.model, f"machine:{source}", order.id)
            kept += 1
    return kept


def give_caption(tx: Transaction, name: str, text: str, actor: str) -> uuid.UUID:
    """A person's caption of a sample, by its id or eight or more first digits. Raises NotFound; Refused for no text."""
    text = _clean(text)
    if not text:
        raise Refused("a caption says something", "write what the picture shows")
    [(id_, sample)] = _read(tx, [find_sample_id(tx, name)], lock=True).items()
    given = replace(sample, caption=text, captioner="", caption_source=None)
    write_caption(tx, id_, given, CaptionSource.given, f"person:{actor}", None)
    tx.log(actor, "caption given", f"sample {id_.hex}", before=sample.caption, after=text)
    return id_


def note_progress(tx: Transaction, run: uuid.UUID, progress: Progress) -> None:
    """Say how far a run is."""
    tx.execute(
        sa.update(caption_runs).where(caption_runs.c.id == run).values(progress=asdict(progress))
    )


def hold(tx: Transaction, run: uuid.UUID, holder: str, seconds: int) -> None:
    """Renew a run's lease. Raises Conflict where it is lost: the run is another's now."""
    if run not in leases.renew(tx, holder, "caption", seconds):
        raise Conflict(f"captions {run} were cancelled or taken over by another worker")


def end_run(tx: Transaction, run: uuid.UUID, error: str | None = None) -> None:
    """Let go of a run that is done, or that failed for a reason; ordered again, a failed one goes on."""
    leases.release(tx, [run])
    state = RunState.finished if error is None else RunState.failed
    ended = {
        "state": state,
        "error": error[:2_000] if error else None,
        "finished_at": sa.func.now(),
    }
    tx.execute(sa.update(caption_runs).where(caption_runs.c.id == run).values(ended))


def cancel_run(tx: Transaction, run: uuid.UUID, actor: str) -> bool:
    """Cancel a run that is requested or running, as `checkpoints.cancel_run` does; captions written so far stay."""
    under_way = (caption_runs.c.id == run) & caption_runs.c.state.in_(
        [RunState.requested, RunState.running]
    )
    cancelled = {
        "state": RunState.cancelled,
        "error": f"cancelled by {actor}",
        "finished_at": sa.func.now(),
    }
    if not tx.execute(sa.update(caption_runs).where(under_way).values(cancelled)).rowcount:
        return False
    leases.release(tx, [run])
    tx.log(actor, "captions cancelled", f"captions {run}")
    return True


def list_runs(tx: Transaction) -> list[dict[str, Any]]:
    """Return every run of captions, newest first."""
    listed = sa.select(caption_runs).order_by(caption_runs.c.at.desc(), caption_runs.c.id)
    return [dict(row) for row in tx.execute(listed).mappings()]


def find_run(tx: Transaction, run: uuid.UUID) -> dict[str, Any]:
    """One run's row. Raises NotFound."""
    row = tx.execute(sa.select(caption_runs).where(caption_runs.c.id == run)).mappings().first()
    if row is None:
        raise NotFound(f"there is no run of captions {run}")
    return dict(row)


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
    kind: CaptionSource,
    source: str,
    run: uuid.UUID | None = None,
) -> None:
    """Keep a sample's new line with its caption, and the caption itself in their history."""
    row = {"sample_id": id_, "text": sample.caption, "source": source, "run_id": run}
    tx.execute(sa.insert(captions), row)
    values = {"line": sample.line(), "caption_source": kind}
    tx.execute(sa.update(samples).where(samples.c.id == id_).values(values))


def _pictures(
    store: ObjectStore, found: Mapping[uuid.UUID, Sample], background: int
) -> dict[uuid.UUID, NDArray[np.uint8]]:
    """What each sample shows as a whole, over a grey: H x W x 3."""
    pictures = {}
    for id_, sample in found.items():
        role = LayerRole.blended if LayerRole.blended in sample.layers else LayerRole.foreground
        try:
            pictures[id_] = over(decode_layer(store.get(sample.layers[role])), (background,) * 3)
        except (NotFound, Corrupt) as error:
            log.warning("sample %s has no caption: %s", sample.id, error)
    return pictures


def _clean(text: str) -> str:
    """One line, without what PostgreSQL cannot hold."""
    return " ".join(text.replace("\0", " ").split())[:2_000]
