"""Decided candidates as tensors: the layers of each aligned, with what its label is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from curation.datasets.decision_records import DecisionRecord
from curation.domain import LayerRole, Verdict
from curation.errors import Refused
from curation.images.codec import decode_layer
from curation.object_store import ObjectReader
from training.data.letterbox import letterbox, to_tensor


class DecisionItem(NamedTuple):
    """The layers of a candidate, L x 4 x H x W straight RGBA in [0, 1], and its record."""

    layers_L4HW: Tensor
    record: DecisionRecord


@dataclass(frozen=True)
class DecisionBatch:
    """A batch of decided candidates.

    Attributes:
        layers: Straight RGBA in [0, 1], B x L x 4 x H x W, layers in the order of the roles.
        accepted: Whether each was accepted, B bool.
        weights: Probability that this label is right, B in [0, 1].
        propensities: Probability with which each was shown to people, B in (0, 1]; NaN if it was
            not.
        seeds: Seeds of the noise, B int64.
        records: The records.
    """

    layers: Tensor
    accepted: Tensor
    weights: Tensor
    propensities: Tensor
    seeds: Tensor
    records: list[DecisionRecord]

    def __len__(self) -> int:
        return len(self.records)


class DecisionDataset(Dataset[DecisionItem]):
    """Decided candidates that have all wanted layers, decoded and letterboxed on access."""

    def __init__(
        self,
        store: ObjectReader,
        records: Sequence[DecisionRecord],
        size: int,
        roles: Sequence[LayerRole],
    ) -> None:
        """Open a dataset.

        Args:
            store: Where the layers are stored.
            records: Decided candidates; those without one of the layers are left out.
            size: Height and width of all layers in pixels.
            roles: The layers, in the order in which they are stacked.

        Raises:
            Refused: No candidate has all layers.
        """
        self.store, self.size, self.roles = store, size, tuple(roles)
        self.records = [one for one in records if all(role in one.layers for role in roles)]
        if not self.records:
            raise Refused(
                f"no decided candidate has the layers {', '.join(roles)}", "choose other roles"
            )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> DecisionItem:
        """Return a candidate. Raises NotFound or Corrupt if a layer cannot be read."""
        record = self.records[index]
        return DecisionItem(torch.stack([self._layer(record, role) for role in self.roles]), record)

    @staticmethod
    def collate(items: Sequence[DecisionItem]) -> DecisionBatch:
        """Stack candidates into a batch; give it to a DataLoader as `collate_fn`."""
        records = [item.record for item in items]
        shown = [float("nan") if one.propensity is None else one.propensity for one in records]
        return DecisionBatch(
            torch.stack([item.layers_L4HW for item in items]),
            torch.tensor([one.verdict is Verdict.accept for one in records]),
            torch.tensor([one.label_weight() for one in records]),
            torch.tensor(shown),
            torch.tensor([one.seed for one in records], dtype=torch.int64),
            records,
        )

    def _layer(self, record: DecisionRecord, role: LayerRole) -> Tensor:
        rgba = decode_layer(self.store.get(record.layers[role]))
        return to_tensor(letterbox(rgba, self.size))
