"""Pulls of decided candidates for preference training: labeled single images, or pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from curation.datasets.decision_records import DecisionRecord, read_decisions
from curation.domain import Verdict, canonical_json
from curation.errors import Refused
from curation.exports.plan import (
    SPLIT_FOLDERS,
    PlannedFile,
    PullOptions,
    first_role,
    image_files,
    present_roles,
)
from curation.exports.selection import SelectedSample, Selection
from curation.exports.shards import ShardRow, TableColumns
from curation.object_store import ObjectReader

FOLDER = SPLIT_FOLDERS["train"]
"""Generated images are never held out."""


class DecisionForm(StrEnum):
    """How decided candidates are pulled."""

    labels = "labels"  # single images, accepted or not, as for Diffusion-KTO
    pairs = "pairs"  # an accepted and a rejected image of one prompt, as for DPO


@dataclass(frozen=True)
class DecisionsRequest:
    """Which decided candidates are pulled, and how.

    Attributes:
        form: Labeled images or pairs.
        automatic: Whether candidates that no person decided are among them.
    """

    form: DecisionForm
    automatic: bool = False

    def record(self) -> dict[str, Any]:
        """Return the request as JSON, for the record of a pull."""
        return {"form": str(self.form), "automatic": self.automatic}

    def columns(self, options: PullOptions) -> TableColumns:
        """Return the columns of a Parquet table."""
        if self.form is DecisionForm.labels:
            images = ("image", *map(str, options.roles[1:]))
            return TableColumns("candidate_id", images, LABEL_COLUMNS)
        return TableColumns("pair_id", ("jpg_0", "jpg_1"), PAIR_COLUMNS, as_bytes=True)


LABEL_COLUMNS: Mapping[str, str] = {
    "text": "string", "candidate_id": "string", "label": "bool", "weight": "double",
    "posterior": "double", "propensity": "double", "automatic": "bool", "accepts": "int64",
    "rejects": "int64", "reasons": "string", "kind": "string", "round": "int64", "seed": "int64",
    "checkpoint": "string", "sample_id": "string", "licence": "string",
}  # fmt: skip
"""Columns of labeled images; weight is the probability that the label is right."""

PAIR_COLUMNS: Mapping[str, str] = {
    "caption": "string", "pair_id": "string", "label_0": "double", "label_1": "double",
    "has_label": "bool", "image_0_uid": "string", "image_1_uid": "string",
    "best_image_uid": "string", "weight": "double", "kind": "string",
}  # fmt: skip
"""Columns of pairs beside the bytes jpg_0 and jpg_1: those of Pick-a-Pic, which scripts for
Diffusion-DPO read. The file type is that of the pull, in spite of the name."""


FOLDER_PAIR_COLUMNS: Mapping[str, str] = {
    "prompt": "string", "pair_id": "string", "chosen_id": "string", "rejected_id": "string",
    "chosen_file_name": "string", "rejected_file_name": "string", "weight": "double",
    "kind": "string",
}  # fmt: skip
"""Columns of pairs in an image folder; datasets reads the two files as images."""


@dataclass(frozen=True)
class DecisionPair:
    """An accepted and a rejected candidate of one prompt.

    Attributes:
        chosen: The accepted one.
        rejected: The rejected one.
        weight: Probability that the first is acceptable and the second is not.
    """

    chosen: SelectedSample
    rejected: SelectedSample
    weight: float

    @property
    def id(self) -> str:
        """Both ids."""
        return f"{self.chosen.sample.id}-{self.rejected.sample.id}"


def select_decisions(
    store: ObjectReader, snapshot: str, selection: Selection, request: DecisionsRequest
) -> Iterator[SelectedSample]:
    """Yield the decided candidates that a selection takes, in the order of their ids.

    Args:
        store: Store of the snapshot.
        snapshot: Id of the snapshot.
        selection: Conditions and weights; with `since`, candidates that the older snapshot lacks
            are new.
        request: Which candidates are pulled.

    Raises:
        NotFound: A part of the snapshot is not in the store.
        Corrupt: A part cannot be read.
    """
    known = selection.since and {one.candidate for one in read_decisions(store, selection.since)}
    for record in read_decisions(store, snapshot, automatic=request.automatic):
        chosen = record.split in selection.splits
        if chosen and all(condition.holds(record) for condition in selection.conditions):
            is_new = known is not None and record.candidate not in known
            weight = selection.new_weight if is_new else 1.0
            for one in selection.weights:
                weight *= one.factor if one.condition.holds(record) else 1.0
            yield SelectedSample(record, weight)


def make_pairs(selected: Sequence[SelectedSample]) -> list[DecisionPair]:
    """Pair accepted with rejected candidates of the same prompt, whatever their round.

    Each candidate of the larger side is in one pair; those of the smaller side take turns. Ids
    are hashes, so that the pairing is random and the same everywhere.

    Args:
        selected: Decided candidates in the order of their ids.
    """
    pairs = []
    ordered = sorted(selected, key=lambda one: (_prompt(one), one.sample.id))
    for _, group in groupby(ordered, key=_prompt):
        sides: dict[Verdict, list[SelectedSample]] = {Verdict.accept: [], Verdict.reject: []}
        for one in group:
            sides[record_of(one).verdict].append(one)
        accepted, rejected = sides.values()
        for place in range(max(len(accepted), len(rejected)) if accepted and rejected else 0):
            chosen = accepted[place % len(accepted)]
            other = rejected[place % len(rejected)]
            pairs.append(DecisionPair(chosen, other, _weight(chosen) * _weight(other)))
    return sorted(pairs, key=lambda pair: pair.id)


def plan_files(
    selected: Sequence[SelectedSample], options: PullOptions, request: DecisionsRequest
) -> Iterator[PlannedFile]:
    """Yield an image folder: the images, each once, and metadata.jsonl.

    Args:
        selected: Decided candidates.
        options: Options of the pull.
        request: Labeled images or pairs.
    """
    pairs = make_pairs(selected) if request.form is DecisionForm.pairs else []
    rows = [_pair_line(pair, options) for pair in pairs]
    if request.form is DecisionForm.labels:
        rows = [_label_line(one, options) for one in selected]
    else:
        both = {one.sample.id: one for pair in pairs for one in (pair.chosen, pair.rejected)}
        selected = list(both.values())
    for one in selected:
        yield from image_files(f"{FOLDER}/{_name(one)}", one, options)
    if rows:
        text = "".join(canonical_json(row) + "\n" for row in rows)
        yield PlannedFile(f"{FOLDER}/metadata.jsonl", "", text=text.encode())


def plan_decision_rows(
    selected: Sequence[SelectedSample], options: PullOptions, request: DecisionsRequest
) -> list[ShardRow]:
    """Return the rows of a Parquet table.

    Args:
        selected: Decided candidates.
        options: Options of the pull.
        request: Labeled images or pairs.
    """
    if request.form is DecisionForm.labels:
        return [
            ShardRow(FOLDER, one.sample.id, label_columns(one, options), _images(one, options))
            for one in selected
        ]
    rows = []
    for pair in make_pairs(selected):
        # The accepted image is on either side, so that nothing can be learnt from the side.
        swap = int(pair.rejected.sample.id[-1], 16) % 2
        sides = (pair.chosen, pair.rejected)[:: -1 if swap else 1]
        images = {f"jpg_{n}": _images(one, options)["image"] for n, one in enumerate(sides)}
        columns = {
            "caption": text_of(pair.chosen, options),
            "pair_id": pair.id,
            "label_0": float(not swap),
            "label_1": float(swap),
            "has_label": True,
            "image_0_uid": sides[0].sample.id,
            "image_1_uid": sides[1].sample.id,
            "best_image_uid": pair.chosen.sample.id,
            "weight": pair.weight,
            "kind": str(pair.chosen.sample.kind),
        }
        rows.append(ShardRow(FOLDER, pair.id, columns, images))
    return rows


def label_columns(one: SelectedSample, options: PullOptions) -> dict[str, Any]:
    """Return the columns of a labeled image."""
    record = record_of(one)
    return {
        "text": text_of(one, options),
        "candidate_id": record.candidate,
        "label": record.verdict is Verdict.accept,
        "weight": _weight(one),
        "posterior": record.posterior,
        "propensity": record.propensity,
        "automatic": record.automatic,
        "accepts": record.accepts,
        "rejects": record.rejects,
        "reasons": ", ".join(
            f"{reason.layer} {reason.reason}" if reason.layer else str(reason.reason)
            for reason in record.reasons
        ),
        "kind": str(record.kind),
        "round": record.round,
        "seed": record.seed,
        "checkpoint": record.checkpoint,
        "sample_id": record.sample,
        "licence": record.licence,
    }


def check_decisions(
    snapshot: str, selected: Sequence[SelectedSample], request: DecisionsRequest, *, has_any: bool
) -> None:
    """Raise Refused if nothing would be pulled.

    Args:
        snapshot: Id of the snapshot.
        selected: Decided candidates that were selected.
        request: Labeled images or pairs.
        has_any: Whether the snapshot was frozen with decisions.
    """
    if not has_any:
        raise Refused(
            f"snapshot {snapshot[:12]} was frozen without decisions",
            "freeze it with --with-rejects",
        )
    if not selected:
        raise Refused(
            f"no decided candidate of snapshot {snapshot[:12]} is selected",
            "check --where and --layer; --automatic takes what no person decided",
        )
    if request.form is DecisionForm.pairs and not make_pairs(selected):
        raise Refused(
            "no prompt has an accepted and a rejected candidate",
            "take --decisions labels, or generate several candidates of each prompt",
        )


def record_of(one: SelectedSample) -> DecisionRecord:
    """Return the decided candidate that was selected."""
    assert isinstance(one.sample, DecisionRecord)  # noqa: S101 - selected by select_decisions
    return one.sample


def text_of(one: SelectedSample, options: PullOptions) -> str:
    """Return the text of the layer that stands for a candidate."""
    return one.sample.caption_for(first_role(one.sample, options.roles))


def _label_line(one: SelectedSample, options: PullOptions) -> dict[str, Any]:
    ending = options.treatment.image_type
    row = {"file_name": f"{_name(one)}.{ending}"} | label_columns(one, options)
    for role in options.roles[1:]:
        row[f"{role}_file_name"] = f"{_name(one)}.{role}.{ending}"
    return row


def _pair_line(pair: DecisionPair, options: PullOptions) -> dict[str, Any]:
    ending = options.treatment.image_type
    return {
        "chosen_file_name": f"{_name(pair.chosen)}.{ending}",
        "rejected_file_name": f"{_name(pair.rejected)}.{ending}",
        "prompt": text_of(pair.chosen, options),
        "pair_id": pair.id,
        "chosen_id": pair.chosen.sample.id,
        "rejected_id": pair.rejected.sample.id,
        "weight": pair.weight,
        "kind": str(pair.chosen.sample.kind),
    }


def _images(one: SelectedSample, options: PullOptions) -> dict[str, PlannedFile]:
    first = first_role(one.sample, options.roles)
    return {
        "image" if role is first else str(role): PlannedFile(
            f"{one.sample.id}.{options.treatment.image_type}",
            one.sample.id,
            one.sample.layers[role],
            options.treatment,
        )
        for role in present_roles(one.sample, options.roles)
    }


def _name(one: SelectedSample) -> str:
    """Return the path of an image below its split, without the ending."""
    return f"{one.sample.id[:2]}/{one.sample.id}"


def _weight(one: SelectedSample) -> float:
    return record_of(one).label_weight() * one.weight


def _prompt(one: SelectedSample) -> tuple[str, str, str]:
    record = record_of(one)
    return str(record.kind), record.prompt, canonical_json(dict(record.texts))
