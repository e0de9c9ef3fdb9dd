"""What a folder says of its files now, against what was imported: always told, and taken over where that is wanted."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.datasets.captions import write_caption
from curation.datasets.samples import UNKNOWN
from curation.db.engine import Transaction
from curation.db.tables import (
    candidate_layers,
    candidates,
    events,
    import_files,
    layers,
    leases,
    sample_layers,
    samples,
)
from curation.domain import CandidateState, CaptionSource, Sample
from curation.ingest.descriptions import Description, Difference, compare, record_of
from curation.rounds.lifecycle import STANDING, add_prompts

Fields = Mapping[str, tuple[str | None, str | None]]
"""What differs, with its values before and after."""


@dataclass(frozen=True)
class Made:
    """What an imported file became: a sample, or a candidate that people look at before it is one."""

    sample: uuid.UUID | None
    line: str | None
    caption_source: CaptionSource
    captioned: bool  # whether somebody has captioned the sample since
    candidate: uuid.UUID | None
    state: str | None


class Corrections:
    """Collects the differences of one import; with `update` they are taken into samples and candidates."""

    def __init__(self, import_id: uuid.UUID, folder: str, actor: str, *, update: bool) -> None:
        self.import_id = import_id
        self.source = f"seed folder {folder}"
        self.actor = actor
        self.update = update
        self.differences: list[Difference] = []

    def compare(self, tx: Transaction, known: Sequence[tuple[sa.Row[Any], Description]]) -> None:
        """Look at files whose bytes are as they were: rows of import_files, each with what is said of it now."""
        stored = [(row, said) for row, said in known if row.layer and row.outcome != "duplicate"]
        if not stored:
            return
        made: dict[str, Made] | None = None
        for row, said in stored:
            now = said.record()
            if said.refusal is not None:
                self.differences.append(
                    Difference(row.name, "description", None, said.refusal.sentence)
                )
            elif row.described != now:
                made = made or find_made(tx, [one.layer for one, _ in stored])
                self._correct(tx, row, said, now, made.get(row.layer))

    def _correct(
        self,
        tx: Transaction,
        row: sa.Row[Any],
        said: Description,
        now: dict[str, str],
        made: Made | None,
    ) -> None:
        changed = (
            compare(row.described, now) if row.described is not None else self._since(tx, made, now)
        )
        taken = bool(changed) and self.update and made is not None
        if made is not None and taken:
            self._take(tx, row.name, said, changed, made)
        if taken or not changed:
            told = sa.update(import_files).where(
                import_files.c.import_id == self.import_id, import_files.c.name == row.name
            )
            codes = [code for code in row.codes if code != "licence_unknown" or not said.licence]
            tx.execute(told.values(described=now, codes=codes))
        self.differences += [
            Difference(row.name, name, *values, taken) for name, values in changed.items()
        ]

    def _since(self, tx: Transaction, made: Made | None, now: dict[str, str]) -> Fields:
        """Return what differs of a file that was imported before descriptions were kept: from its sample, as it is.

        A caption that somebody wrote since then is no difference; and one that only looked as if it had been made
        from the file's name is marked as given without further words.
        """
        if made is None or made.line is None:
            return {}
        before = record_of(Sample.read(made.line), made.caption_source, now)
        if made.captioned:
            before |= {name: now[name] for name in ("caption", "caption_source")}
        changed = compare(before, now)
        if changed.pop("caption source", None) and now["caption_source"] == CaptionSource.given:
            tx.execute(_mark_given(made.sample))
        return changed

    def _take(
        self, tx: Transaction, name: str, said: Description, changed: Fields, made: Made
    ) -> None:
        if made.line is not None and made.sample is not None:
            describe_sample(tx, made, said, changed, self.source, f"import:{name}")
        if made.candidate is not None:
            _describe_candidate(tx, made.candidate, said, self.source)
        subject = f"sample {made.sample.hex}" if made.sample else f"candidate {made.candidate}"
        before = {field: values[0] for field, values in changed.items()}
        after = {field: values[1] for field, values in changed.items()}
        tx.log(self.actor, "sample described", subject, file=name, before=before, after=after)

    def tell_pixels(self, name: str, before: str, after: str, *, taken: bool = False) -> None:
        """Note that a file has other pixels than the sample that was made of it."""
        self.differences.append(Difference(name, "pixels", before, after, taken))

    def withdraw(self, tx: Transaction, row: sa.Row[Any], after: str) -> None:
        """Take what was made of a file's former pixels out of snapshots to come: `after` is what stands instead."""
        made = find_made(tx, [row.layer]).get(row.layer)
        if made is None:
            return
        if made.sample is not None:
            tx.execute(
                sa.update(samples)
                .where(samples.c.id == made.sample)
                .values(withdrawn_at=sa.func.now())
            )
            tx.log(
                self.actor,
                "sample replaced",
                f"sample {made.sample.hex}",
                file=row.name,
                after=after,
            )
        elif made.candidate is not None and made.state in STANDING:
            tx.execute(sa.delete(leases).where(leases.c.subject == made.candidate))
            gone = sa.update(candidates).where(candidates.c.id == made.candidate)
            tx.execute(gone.values(state=CandidateState.withdrawn))
            tx.log(
                self.actor,
                "candidate replaced",
                f"candidate {made.candidate}",
                file=row.name,
                after=after,
            )

    def describe_again(self, tx: Transaction, layer: str, said: Description) -> None:
        """Give a sample that was withdrawn and is back the description of its file."""
        made = find_made(tx, [layer]).get(layer)
        if made is None or made.line is None:
            return
        now = said.record()
        changed = compare(record_of(Sample.read(made.line), made.caption_source, now), now)
        if changed:
            describe_sample(tx, made, said, changed, self.source, "import")


def former_layers(tx: Transaction, row: sa.Row[Any]) -> set[str]:
    """Return the layers of what a file became in its former versions: it may return to any of them."""
    before = sa.select(events.c.subject).where(
        events.c.kind == "sample replaced", events.c.data["file"].astext == row.name
    )
    ids = [uuid.UUID(one.subject.removeprefix("sample ")) for one in tx.execute(before)]
    found = sa.select(sample_layers.c.sha256).where(sample_layers.c.sample_id.in_(ids))
    return {row.layer, *(one.sha256 for one in tx.execute(found))}


def visible_of(tx: Transaction, layers_: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the hash of what can be seen of each layer of what imported files became, by their telling layers."""
    found: dict[str, dict[str, str]] = {}
    for telling, made in find_made(tx, layers_).items():
        table, owner = (
            (sample_layers, sample_layers.c.sample_id)
            if made.sample
            else (candidate_layers, candidate_layers.c.candidate_id)
        )
        query = sa.select(table.c.role, layers.c.visible).join(
            layers, layers.c.sha256 == table.c.sha256
        )
        rows = tx.execute(query.where(owner == (made.sample or made.candidate)))
        found[telling] = {row.role: row.visible for row in rows}
    return found


def describe_sample(
    tx: Transaction,
    made: Made,
    said: Description,
    changed: Fields,
    default_source: str,
    writer: str,
) -> None:
    """Give a sample the fields that differ. What is not said any more goes, unless somebody has given better since."""
    old = Sample.read(str(made.line))
    new = old
    if "caption" in changed or "caption source" in changed:
        named = said.caption_source is CaptionSource.file_name
        if not named or old.caption == changed.get("caption", (old.caption,))[0]:
            mark = CaptionSource.file_name if named else None
            new = replace(new, caption=said.caption or UNKNOWN, captioner="", caption_source=mark)
    if "licence" in changed and (said.licence or old.licence == changed["licence"][0]):
        new = replace(new, licence=said.licence or UNKNOWN)
    if "source" in changed and (said.source or old.source == changed["source"][0]):
        new = replace(new, source=said.source or default_source)
    if said.split is not None and "split" in changed:
        new = replace(new, split=said.split)
    if {"foreground", "background"} & changed.keys():
        new = replace(new, texts=dict(said.texts))
    id_ = uuid.UUID(old.id)
    if (new.caption, new.captioner, new.caption_source) != (
        old.caption,
        old.captioner,
        old.caption_source,
    ):
        write_caption(tx, id_, new, new.caption_source or CaptionSource.given, writer)
    elif "caption source" in changed and said.caption_source is CaptionSource.given:
        tx.execute(_mark_given(id_))
    values = {"line": new.line(), "split": new.split}
    tx.execute(sa.update(samples).where(samples.c.id == id_).values(values))


def _mark_given(sample: uuid.UUID | None) -> sa.Update:
    return (
        sa.update(samples).where(samples.c.id == sample).values(caption_source=CaptionSource.given)
    )


def _describe_candidate(
    tx: Transaction, candidate: uuid.UUID, said: Description, default_source: str
) -> None:
    """Let a candidate of an import, whether it has been decided or not, say what is said now."""
    add_prompts(tx, [said.prompt])
    origin = dict(
        tx.scalar(sa.select(candidates.c.origin).where(candidates.c.id == candidate)) or {}
    )
    origin.pop("caption_source", None)
    origin |= origin_of(said, default_source)
    values = {"prompt_id": said.prompt.id, "origin": origin}
    tx.execute(sa.update(candidates).where(candidates.c.id == candidate).values(values))


def origin_of(said: Description, default_source: str) -> dict[str, Any]:
    """Return what a candidate remembers of an import beside its prompt and its file."""
    origin = {"licence": said.licence or UNKNOWN, "source": said.source or default_source}
    if said.caption_source is not CaptionSource.given:
        origin["caption_source"] = said.caption_source
    return origin | ({"split": said.split} if said.split else {})


def find_made(tx: Transaction, layers: Iterable[str]) -> dict[str, Made]:
    """Return what was made of imported files, by the layers that tell them apart."""
    found: dict[str, Made] = {}
    for row in tx.execute(_MADE, {"layers": list(layers)}):
        source = CaptionSource(row.caption_source or CaptionSource.given)
        found[row.layer] = Made(
            row.sample, row.line, source, row.captioned, row.candidate, row.state
        )
    return found


_MADE = sa.text("""
    select t.layer, s.id as sample, s.line, s.caption_source, c.id as candidate, c.state,
        exists (select from captions where captions.sample_id = s.id) as captioned
    from unnest(:layers) as t (layer)
    left join lateral (
        select s.id, s.line, s.caption_source from sample_layers sl join samples s on s.id = sl.sample_id
        where sl.sha256 = t.layer and sl.role = case s.kind when 'pair' then 'blended' else 'foreground' end
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
