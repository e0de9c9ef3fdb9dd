"""Decided candidates as labels: which of them teach a part, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from curation.datasets.decision_records import DecisionRecord, read_decisions
from curation.domain import Kind, LayerRole, RejectReason, Sample, Verdict
from curation.errors import Refused
from curation.exports.decisions import make_pairs
from curation.exports.selection import SelectedSample
from curation.object_store import ObjectReader
from training.presets.preset import Preset


@dataclass(frozen=True)
class Label:
    """A decided candidate that teaches a part.

    Attributes:
        record: Its record.
        weight: How often it is drawn, relative to others with the same verdict.
    """

    record: DecisionRecord
    weight: float

    @property
    def desirable(self) -> bool:
        """Whether it was accepted."""
        return self.record.verdict is Verdict.accept

    def sample(self) -> Sample:
        """Return it as a sample, whose layers and captions a dataset can read."""
        one = self.record
        return Sample(
            one.id, one.kind, one.prompt, one.licence, one.source, one.split, one.round, "",
            one.layers, texts=one.texts,
        )  # fmt: skip


def read_labels(
    store: ObjectReader, snapshot: str, part: str, preset: Preset, previous: str | None = None
) -> list[Label]:
    """Read the decided candidates of a snapshot that a part learns from.

    The base learns from single layers, layer adapters from pairs. Automatic verdicts are left out
    unless the preset's `automatic_decisions` is set.

    Args:
        store: Where the snapshot is stored.
        snapshot: Id of the snapshot.
        part: base or layers.
        preset: The preset.
        previous: Id of the previous snapshot, whose candidates are not new; None if there is none.

    Returns:
        The labels in the order of ids, at least one of each verdict.

    Raises:
        NotFound: The snapshot is not in the store.
        Corrupt: It cannot be read.
        Refused: There are no such candidates of both verdicts.
    """
    records = list(read_decisions(store, snapshot))
    known = {one.candidate for one in read_decisions(store, previous)} if previous else set()
    labels = []
    for record in records:
        weight = label_weight(record, part, preset)
        if weight > 0:
            is_new = bool(known) and record.candidate not in known
            labels.append(Label(record, weight * (preset.new_sample_weight if is_new else 1.0)))
    if {label.desirable for label in labels} != {True, False}:
        raise _nothing_to_learn(snapshot, part, preset, records, labels)
    return labels


def pair_labels(labels: Sequence[Label]) -> list[tuple[str, str, float]]:
    """Pair accepted with rejected candidates of the same prompt, as pulls do.

    Args:
        labels: Labels in the order of their ids.

    Returns:
        The ids of the accepted and the rejected candidate, and the product of their weights.

    Raises:
        Refused: No prompt has both.
    """
    # The factor is what the weight has beside the probability that the label is right.
    selected = [
        SelectedSample(one.record, one.weight / one.record.label_weight()) for one in labels
    ]
    pairs = make_pairs(selected)
    if not pairs:
        raise Refused(
            "no prompt has an accepted and a rejected candidate",
            "train with 'kto', or generate several candidates of each prompt",
        )
    return [(pair.chosen.sample.id, pair.rejected.sample.id, pair.weight) for pair in pairs]


def label_weight(record: DecisionRecord, part: str, preset: Preset) -> float:
    """Return how much a decided candidate counts for a part; 0 if it teaches the part nothing.

    The weight is the probability that the label is right, times the inverse of the probability with
    which people were shown it (at most `propensity_clip`), times the share of a reject's reasons
    that concern the part.

    Args:
        record: The decided candidate.
        part: base or layers.
        preset: The preset.
    """
    if record.automatic and not preset.automatic_decisions:
        return 0.0
    if not _has_layers(record, part, preset):
        return 0.0
    inverse = min(preset.propensity_clip, 1 / record.propensity) if record.propensity else 1.0
    return record.label_weight() * inverse * reason_share(record, reasons_of(part, preset))


def reasons_of(part: str, preset: Preset) -> tuple[RejectReason, ...]:
    """Return the reasons of rejects that teach a part: base or layers."""
    return preset.base_reasons if part == "base" else preset.layers_reasons


def reason_share(record: DecisionRecord, reasons: Collection[RejectReason]) -> float:
    """Return the share of a reject's reasons that are among these; 1 without reasons.

    A reason counts as often as reviewers named it. Accepts have no reasons.

    Args:
        record: The decided candidate.
        reasons: Reasons that teach a part.
    """
    named = sum(one.count for one in record.reasons)
    if record.verdict is Verdict.accept or not named:
        return 1.0
    return sum(one.count for one in record.reasons if one.reason in reasons) / named


def _has_layers(record: DecisionRecord, part: str, preset: Preset) -> bool:
    if part == "base":
        return record.kind is Kind.single and LayerRole.foreground in record.layers
    return record.kind is Kind.pair and all(role in record.layers for role in preset.layer_roles)


def _nothing_to_learn(
    snapshot: str,
    part: str,
    preset: Preset,
    records: Sequence[DecisionRecord],
    labels: Sequence[Label],
) -> Refused:
    """Return the error of a snapshot without usable decisions, with counts and the way out."""
    accepts = sum(label.desirable for label in labels)
    automatic = sum(record.automatic for record in records)
    fitting = sum(_has_layers(record, part, preset) for record in records)
    kind = "single layers" if part == "base" else "pairs"
    message = (
        f"snapshot {snapshot[:12]} has {accepts} accepted and {len(labels) - accepts} rejected "
        f"candidates that the part {part!r} can learn from: of {len(records)} decided candidates "
        f"{fitting} are {kind}, and {automatic} were decided automatically"
    )
    if not records:
        hint = "freeze it with 'layerloop snapshot freeze --with-rejects', after a round"
    elif automatic and not preset.automatic_decisions:
        hint = "set automatic_decisions=true to learn from automatic verdicts too"
    elif not fitting:
        hint = "use a recipe for the other part" if part == "base" else "generate rounds of pairs"
    else:
        hint = f"review more candidates, or change {part}_reasons"
    return Refused(message, hint)
