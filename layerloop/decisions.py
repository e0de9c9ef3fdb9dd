"""Decided candidates of a snapshot: records, pairs of one prompt, and layers as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from curation.datasets.decision_records import DecisionRecord
from curation.domain import LayerRole
from curation.object_store import ObjectReader

if TYPE_CHECKING:
    from training.data.decision_dataset import DecisionDataset


class PreferencePair(NamedTuple):
    """An accepted and a rejected candidate of one prompt.

    `weight` is the probability that the first is acceptable and the second is not.
    """

    chosen: DecisionRecord
    rejected: DecisionRecord
    weight: float


@dataclass(frozen=True)
class Decisions:
    """Decided candidates in the order of their ids.

    Attributes:
        records: The candidates, with verdict, reasons, posterior and propensity.
        store: The object store that holds their layers.
    """

    records: Sequence[DecisionRecord]
    store: ObjectReader

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[DecisionRecord]:
        return iter(self.records)

    def pairs(self) -> list[PreferencePair]:
        """Return pairs of an accepted and a rejected candidate of the same prompt.

        Each candidate of the larger side of a prompt is in one pair; those of the smaller side
        take turns.
        """
        from curation.exports.decisions import make_pairs, record_of
        from curation.exports.selection import SelectedSample

        return [
            PreferencePair(record_of(pair.chosen), record_of(pair.rejected), pair.weight)
            for pair in make_pairs([SelectedSample(one) for one in self.records])
        ]

    def dataset(self, *, size: int, roles: Sequence[str] = ("foreground",)) -> DecisionDataset:
        """Return the layers as a map-style dataset for PyTorch.

        An item has the layers as a tensor L x 4 x size x size, straight RGBA in [0, 1] and aligned
        with each other, and the record. `DataLoader(dataset, collate_fn=dataset.collate)` gives
        batches with labels, weights, propensities and seeds. Candidates without one of the layers
        are left out.

        Args:
            size: Height and width in pixels; layers are letterboxed into the square.
            roles: The layers, in the order in which they are stacked: "foreground", "background",
                "blended".

        Raises:
            Refused: No candidate has all layers.
            ValueError: A role is unknown.
        """
        # Imported here, so that reading the records does not need PyTorch.
        from training.data.decision_dataset import DecisionDataset

        wanted = [LayerRole(role) for role in roles]
        return DecisionDataset(self.store, self.records, size, wanted)
