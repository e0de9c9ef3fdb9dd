"""Changes in a folder since its import: always reported, and applied to samples with `update`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from curation.datasets.captions import write_caption
from curation.datasets.licences import normalize_licence
from curation.datasets.samples import UNKNOWN_VALUE
from curation.db.engine import Transaction
from curation.db.tables import (
    candidates,
    events,
    import_files,
    leases,
    sample_layers,
    samples,
)
from curation.domain import CandidateState, CaptionSource, Sample
from curation.ingest.descriptions import FileMetadata, ImportDifference, compare, record_from_sample
from curation.ingest.imported_items import ImportedItem, candidate_origin, find_imported_items
from curation.rounds.lifecycle import UNFINISHED_STATES, add_prompts

FieldChanges = Mapping[str, tuple[str | None, str | None]]
"""The fields that differ, each with its values before and after."""


class ImportChanges:
    """Collector of the differences of one import; applies them if `update` is set."""

    def __init__(self, import_id: uuid.UUID, folder: str, actor: str, *, update: bool) -> None:
        """Create the collector.

        Args:
            import_id: ID of the import.
            folder: Name of the folder, the default source of its samples.
            actor: Name for the event log.
            update: Whether differences are applied to samples and candidates.
        """
        self.import_id = import_id
        self.source = f"seed folder {folder}"
        self.actor = actor
        self.update = update
        self.differences: list[ImportDifference] = []

    def compare(self, tx: Transaction, known: Sequence[tuple[sa.Row[Any], FileMetadata]]) -> None:
        """Compare the descriptions of files whose bytes are unchanged.

        Args:
            tx: The transaction.
            known: Rows of import_files, each with the description of the file now.
        """
        stored = [(row, new) for row, new in known if row.layer and row.outcome != "duplicate"]
        if not stored:
            return
        items: dict[str, ImportedItem] | None = None
        for row, description in stored:
            now = description.record()
            if description.refusal is not None:
                self.differences.append(
                    ImportDifference(row.name, "description", None, description.refusal.sentence)
                )
            elif row.description != now:
                # Loaded once for all rows, and only if a description changed.
                items = items or find_imported_items(tx, [other.layer for other, _ in stored])
                self._correct(tx, row, description, now, items.get(row.layer))

    def _correct(
        self,
        tx: Transaction,
        row: sa.Row[Any],
        description: FileMetadata,
        now: dict[str, str],
        item: ImportedItem | None,
    ) -> None:
        """Record the differences of one file, and apply them if `update` is set."""
        changed = (
            compare(row.description, now)
            if row.description is not None
            else self._compare_with_sample(tx, item, now)
        )
        applied = bool(changed) and self.update and item is not None
        if item is not None and applied:
            self._apply(tx, row.name, description, changed, item)
        # A difference that is not applied must stay stored as before, to be reported again.
        if applied or not changed:
            update_row = sa.update(import_files).where(
                import_files.c.import_id == self.import_id, import_files.c.name == row.name
            )
            licensed = bool(description.licence)
            codes = [code for code in row.codes if code != "licence_unknown" or not licensed]
            tx.execute(update_row.values(description=now, codes=codes))
        self.differences += [
            ImportDifference(row.name, name, *values, applied) for name, values in changed.items()
        ]

    def _compare_with_sample(
        self, tx: Transaction, item: ImportedItem | None, now: dict[str, str]
    ) -> FieldChanges:
        """Compare a file that was imported before descriptions were stored with its sample.

        A caption written since the import is not a difference. A caption whose source is recorded
        as the file name by mistake is marked as given, without a report.
        """
        if item is None or item.line is None:
            return {}
        before = record_from_sample(Sample.read(item.line), item.caption_source, now)
        if item.captioned:
            before |= {name: now[name] for name in ("caption", "caption_source")}
        changed = compare(before, now)
        if changed.pop("caption source", None) and now["caption_source"] == CaptionSource.given:
            tx.execute(_mark_given(item.sample))
        return changed

    def _apply(
        self,
        tx: Transaction,
        name: str,
        description: FileMetadata,
        changed: FieldChanges,
        item: ImportedItem,
    ) -> None:
        """Update the sample or candidate of a file and log the change."""
        if item.line is not None and item.sample is not None:
            update_sample(tx, item, description, changed, self.source, f"import:{name}")
        if item.candidate is not None:
            _describe_candidate(tx, item.candidate, description, self.source)
        subject = f"sample {item.sample.hex}" if item.sample else f"candidate {item.candidate}"
        before = {field: values[0] for field, values in changed.items()}
        after = {field: values[1] for field, values in changed.items()}
        tx.log(self.actor, "sample described", subject, file=name, before=before, after=after)

    def record_pixel_change(
        self, name: str, before: str, after: str, *, taken: bool = False
    ) -> None:
        """Record that the pixels of a file differ from those of its sample.

        Args:
            name: The file.
            before: Hash of the imported layer.
            after: Hash of the new layer, or why the file is refused.
            taken: Whether the sample is replaced.
        """
        self.differences.append(ImportDifference(name, "pixels", before, after, taken))

    def withdraw(self, tx: Transaction, row: sa.Row[Any], after: str) -> None:
        """Withdraw the sample or candidate of a file's former pixels from future snapshots.

        Args:
            tx: The transaction.
            row: The file's row in import_files.
            after: The replacement, for the event log.
        """
        item = find_imported_items(tx, [row.layer]).get(row.layer)
        if item is None:
            return
        if item.sample is not None:
            tx.execute(
                sa.update(samples)
                .where(samples.c.id == item.sample)
                .values(withdrawn_at=sa.func.now())
            )
            tx.log(
                self.actor,
                "sample replaced",
                f"sample {item.sample.hex}",
                file=row.name,
                after=after,
            )
        elif item.candidate is not None and item.state in UNFINISHED_STATES:
            # A reviewer may have claimed it; the lease ends with the candidate.
            tx.execute(sa.delete(leases).where(leases.c.subject == item.candidate))
            update_candidate = sa.update(candidates).where(candidates.c.id == item.candidate)
            tx.execute(update_candidate.values(state=CandidateState.withdrawn))
            tx.log(
                self.actor,
                "candidate replaced",
                f"candidate {item.candidate}",
                file=row.name,
                after=after,
            )

    def describe_again(self, tx: Transaction, layer: str, metadata: FileMetadata) -> None:
        """Update the description of a withdrawn sample that was restored by a new import.

        Args:
            tx: The transaction.
            layer: Hash of the sample's identifying layer.
            metadata: The description of its file now.
        """
        item = find_imported_items(tx, [layer]).get(layer)
        if item is None or item.line is None:
            return
        now = metadata.record()
        changed = compare(record_from_sample(Sample.read(item.line), item.caption_source, now), now)
        if changed:
            update_sample(tx, item, metadata, changed, self.source, "import")


def former_layers(tx: Transaction, row: sa.Row[Any]) -> set[str]:
    """Return the layer hashes of all former versions of a file, to any of which it may return.

    Args:
        tx: The transaction.
        row: The file's row in import_files.
    """
    # Replaced samples are known only from the event log.
    replaced = sa.select(events.c.subject).where(
        events.c.kind == "sample replaced", events.c.data["file"].astext == row.name
    )
    ids = [uuid.UUID(event.subject.removeprefix("sample ")) for event in tx.execute(replaced)]
    former = sa.select(sample_layers.c.sha256).where(sample_layers.c.sample_id.in_(ids))
    return {row.layer, *(layer.sha256 for layer in tx.execute(former))}


def update_sample(
    tx: Transaction,
    item: ImportedItem,
    metadata: FileMetadata,
    changed: FieldChanges,
    default_source: str,
    writer: str,
) -> None:
    """Apply changed fields to a sample.

    A field that is missing now is cleared, unless the sample's value was edited since the import.

    Args:
        tx: The transaction.
        item: The sample.
        metadata: The description of its file now.
        changed: The fields that differ.
        default_source: The source if the description has none.
        writer: Author of a new caption, for the caption history.
    """
    old = Sample.read(str(item.line))
    new = old
    # Compute the new values; the value before the change shows whether the sample was edited.
    if "caption" in changed or "caption source" in changed:
        from_name = metadata.caption_source is CaptionSource.file_name
        if not from_name or old.caption == changed.get("caption", (old.caption,))[0]:
            mark = CaptionSource.file_name if from_name else None
            new = replace(
                new, caption=metadata.caption or UNKNOWN_VALUE, captioner="", caption_source=mark
            )
    former = changed.get("licence", ("",))[0]
    unedited = former in (old.licence_text or old.licence, old.licence)
    if "licence" in changed and (metadata.licence or unedited):
        licence, text = normalize_licence(metadata.licence or UNKNOWN_VALUE)
        new = replace(new, licence=licence, licence_text=text)
    if "source" in changed and (metadata.source or old.source == changed["source"][0]):
        new = replace(new, source=metadata.source or default_source)
    if metadata.split is not None and "split" in changed:
        new = replace(new, split=metadata.split)
    if {"foreground", "background"} & changed.keys():
        new = replace(new, texts=dict(metadata.texts))
    # Store them; a changed caption also gets a row in the caption history.
    id_ = uuid.UUID(old.id)
    if (new.caption, new.captioner, new.caption_source) != (
        old.caption,
        old.captioner,
        old.caption_source,
    ):
        write_caption(tx, id_, new, new.caption_source or CaptionSource.given, writer)
    elif "caption source" in changed and metadata.caption_source is CaptionSource.given:
        tx.execute(_mark_given(id_))
    values = {"line": new.line(), "split": new.split}
    tx.execute(sa.update(samples).where(samples.c.id == id_).values(values))


def _mark_given(sample: uuid.UUID | None) -> sa.Update:
    return (
        sa.update(samples).where(samples.c.id == sample).values(caption_source=CaptionSource.given)
    )


def _describe_candidate(
    tx: Transaction, candidate: uuid.UUID, description: FileMetadata, default_source: str
) -> None:
    """Update prompt and origin of an imported candidate, whether or not it is decided."""
    add_prompts(tx, [description.prompt])
    origin = dict(
        tx.scalar(sa.select(candidates.c.origin).where(candidates.c.id == candidate)) or {}
    )
    origin.pop("caption_source", None)
    origin |= candidate_origin(description, default_source)
    values = {"prompt_id": description.prompt.id, "origin": origin}
    tx.execute(sa.update(candidates).where(candidates.c.id == candidate).values(values))
