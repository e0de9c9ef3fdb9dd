"""Items of former imports: which sample or candidate an imported image has become."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.datasets.samples import UNKNOWN_VALUE
from curation.db.engine import Transaction
from curation.db.tables import (
    candidate_layers,
    layers,
    sample_layers,
)
from curation.domain import CaptionSource
from curation.ingest.descriptions import FileMetadata


@dataclass(frozen=True)
class ImportedItem:
    """The sample that an imported file became, or the candidate that is reviewed first.

    Attributes:
        sample: ID of the sample, if there is one.
        line: The sample's line in a snapshot.
        caption_source: Where the sample's caption comes from.
        captioned: Whether the sample was captioned after the import.
        candidate: ID of the review candidate, if there is one.
        state: The candidate's state.
    """

    sample: uuid.UUID | None
    line: str | None
    caption_source: CaptionSource
    captioned: bool
    candidate: uuid.UUID | None
    state: str | None


def pixel_hashes(tx: Transaction, layers_: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the hashes of the visible pixels of imported samples and candidates.

    Args:
        tx: The transaction.
        layers_: Hashes of the identifying layers.

    Returns:
        By identifying layer, the hash for each role of the sample or candidate.
    """
    found: dict[str, dict[str, str]] = {}
    for identifying, made in find_imported_items(tx, layers_).items():
        table, owner = (
            (sample_layers, sample_layers.c.sample_id)
            if made.sample
            else (candidate_layers, candidate_layers.c.candidate_id)
        )
        query = sa.select(table.c.role, layers.c.visible).join(
            layers, layers.c.sha256 == table.c.sha256
        )
        rows = tx.execute(query.where(owner == (made.sample or made.candidate)))
        found[identifying] = {row.role: row.visible for row in rows}
    return found


def candidate_origin(metadata: FileMetadata, default_source: str) -> dict[str, Any]:
    """Return the `origin` object of an imported candidate, without the name of its file.

    Args:
        metadata: The description of the file.
        default_source: The source if the description has none.
    """
    origin = {
        "licence": metadata.licence or UNKNOWN_VALUE,
        "source": metadata.source or default_source,
    }
    if metadata.caption_source is not CaptionSource.given:
        origin["caption_source"] = metadata.caption_source
    return origin | ({"split": metadata.split} if metadata.split else {})


def find_imported_items(tx: Transaction, layers: Iterable[str]) -> dict[str, ImportedItem]:
    """Find the samples and candidates of imported files.

    Args:
        tx: The transaction.
        layers: Hashes of the identifying layers: the foreground, or of a pair the blended image.

    Returns:
        The sample or candidate of each layer that has one.
    """
    found: dict[str, ImportedItem] = {}
    for row in tx.execute(_MADE, {"layers": list(layers)}):
        source = CaptionSource(row.caption_source or CaptionSource.given)
        found[row.layer] = ImportedItem(
            row.sample, row.line, source, row.captioned, row.candidate, row.state
        )
    return found


_MADE = sa.text("""
    select t.layer, s.id as sample, s.line, s.caption_source, c.id as candidate, c.state,
        exists (select from captions where captions.sample_id = s.id) as captioned
    from unnest(:layers) as t (layer)
    left join lateral (
        select s.id, s.line, s.caption_source
        from sample_layers sl join samples s on s.id = sl.sample_id
        where sl.sha256 = t.layer
            and sl.role = case s.kind when 'pair' then 'blended' else 'foreground' end
        limit 1) s on true
    left join lateral (
        select c.id, c.state from candidate_layers cl join candidates c on c.id = cl.candidate_id
        join rounds r on r.id = c.round_id
        where cl.sha256 = t.layer and r.purpose = 'seeds'
            and cl.role = case r.kind when 'pair' then 'blended' else 'foreground' end
        limit 1) c on true
    where s.id is not null or c.id is not null""").bindparams(
    sa.bindparam("layers", type_=ARRAY(sa.Text))
)
