"""Datasets of layer sets: images whose layers are trained together, and single foregrounds."""

from __future__ import annotations

from collections.abc import Sequence

from curation.domain import LayerRole, Sample, Split
from curation.errors import Corrupt, Refused
from curation.ports import ObjectStore
from training.data.buckets import BucketConfig
from training.data.dataset import LayerDataset
from training.data.sampler import WeightedSampler, new_sample_weights, with_real_share
from training.data.splits import read_split


class LayerSetDataset:
    """Layer sets that are trained together, and single foregrounds.

    An index is a layer set: `samples[i]`, whose layers `roles[i]` are the indices
    `layer_indices[i]` of `layers`. A layer set with an unreadable layer is left out, or replaced by
    another of the same roles and size.
    """

    def __init__(
        self, layers: LayerDataset, roles: Sequence[LayerRole], *, with_single_foregrounds: bool
    ) -> None:
        """Group the layers of each sample.

        Args:
            layers: All layers; those of a sample have the same sample id.
            roles: Roles that a layer set must have.
            with_single_foregrounds: Whether to add single foregrounds: those of samples that are
                not pairs or, if there are none, the foregrounds of the pairs.
        """
        self.layers = layers
        self.samples: list[Sample] = []
        self.roles: list[tuple[LayerRole, ...]] = []
        self.layer_indices: list[tuple[int, ...]] = []
        # Find the samples that have all roles, and those that are a foreground only.
        by_sample: dict[str, dict[LayerRole, int]] = {}
        for index, sample in enumerate(layers.samples):
            by_sample.setdefault(sample.id, {})[layers.roles[index]] = index
        pairs = [rows for rows in by_sample.values() if rows.keys() >= set(roles)]
        singles = [rows for rows in by_sample.values() if rows.keys() == {LayerRole.foreground}]
        for rows in pairs:
            self._add(rows, tuple(roles))
        for rows in (singles or pairs) if with_single_foregrounds else []:
            self._add(rows, (LayerRole.foreground,))

    def __len__(self) -> int:
        return len(self.layer_indices)

    @property
    def keys(self) -> list[object]:
        """The key that all layer sets of a batch share: image size and roles."""
        return [
            (self.layers.shapes[rows[0]], roles)
            for rows, roles in zip(self.layer_indices, self.roles, strict=True)
        ]

    def readable_indices(self, indices: Sequence[int]) -> list[int]:
        """Replace indices of unreadable layer sets by the next with their key. Raises Corrupt."""
        return [
            index if self._is_readable(index) else self._replacement_of(index) for index in indices
        ]

    def captions(self, index: int) -> list[str]:
        """Return the caption of each layer of a layer set."""
        return [self.layers.caption_of(row) for row in self.layer_indices[index]]

    def order(
        self,
        store: ObjectStore,
        previous: str | None,
        new_sample_weight: float,
        foreground_only_prob: float,
        seed: int,
        *,
        real_share: float = 0.0,
    ) -> WeightedSampler:
        """Return the sampler of these layer sets.

        Args:
            store: Where snapshots are stored.
            previous: Id of the previous snapshot; None if there is none.
            new_sample_weight: Weight factor of samples that the previous snapshot does not have.
            foreground_only_prob: Share of draws that are single foregrounds, 0 <= share < 1.
            seed: RNG seed of the order.
            real_share: Least share of draws that are imported seeds.
        """
        weights = new_sample_weights(store, self.samples, previous, new_sample_weight)
        # Pairs and single foregrounds have the share of seeds each.
        for count in {len(rows) for rows in self.layer_indices}:
            group = [i for i, rows in enumerate(self.layer_indices) if len(rows) == count]
            samples = [self.samples[i] for i in group]
            shared = with_real_share([weights[i] for i in group], samples, real_share)
            for index, weight in zip(group, shared, strict=True):
                weights[index] = weight
        # Scale the single foregrounds so that their weights sum to the requested share.
        single = [len(rows) == 1 for rows in self.layer_indices]
        sums = {
            kind: sum(w for w, is_single in zip(weights, single, strict=True) if is_single == kind)
            for kind in (False, True)
        }
        factor = (
            foreground_only_prob / (1 - foreground_only_prob) * sums[False] / sums[True]
            if sums[True]
            else 0.0
        )
        scaled = (
            w * factor if is_single else w for w, is_single in zip(weights, single, strict=True)
        )
        return WeightedSampler(tuple(scaled), seed)

    def _add(self, rows: dict[LayerRole, int], roles: tuple[LayerRole, ...]) -> None:
        indices = tuple(rows[role] for role in roles)
        self.samples.append(self.layers.samples[indices[0]])
        self.roles.append(roles)
        self.layer_indices.append(indices)
        # Layers are stacked, so all have the foreground's size regardless of their stored size.
        for index in indices:
            self.layers.shapes[index] = self.layers.shapes[rows[LayerRole.foreground]]

    def _is_readable(self, index: int) -> bool:
        return all(map(self.layers.is_readable, self.layer_indices[index]))

    def _replacement_of(self, index: int) -> int:
        keys = self.keys
        for replacement in (*range(index + 1, len(self)), *range(index)):
            if keys[replacement] == keys[index] and self._is_readable(replacement):
                return int(replacement)
        raise Corrupt(
            f"no layer set like sample {self.samples[index].id[:12]} can be read",
            "run 'layerloop doctor'",
        )


def open_layer_sets(
    store: ObjectStore,
    snapshot: str,
    split: Split,
    size: int,
    roles: Sequence[LayerRole],
    *,
    with_single_foregrounds: bool = False,
    in_memory: bool = True,
    buckets: BucketConfig | None = None,
) -> LayerSetDataset:
    """Open the layer sets of a split, in the order of sample ids.

    Args:
        store: Where the snapshot is stored.
        snapshot: Id of the snapshot.
        split: Training or held-out samples.
        size: Image size in pixels if there are no buckets.
        roles: Roles that a layer set must have.
        with_single_foregrounds: Whether to add single foregrounds.
        in_memory: Whether to decode all images now and keep them.
        buckets: Image sizes to sort the images into.

    Raises:
        NotFound: The snapshot is not in the store.
        Corrupt: It cannot be read, or too many of its images cannot.
        Refused: No sample has all roles.
    """
    # Collect the layers of complete samples, and single foregrounds if requested.
    chosen: list[tuple[Sample, LayerRole]] = []
    for sample in read_split(store, snapshot, split):
        if all(role in sample.layers for role in roles):
            chosen += [(sample, role) for role in roles]
        elif with_single_foregrounds and sample.layers.keys() == {LayerRole.foreground}:
            chosen.append((sample, LayerRole.foreground))
    # Decode them as one dataset, and group them again by sample.
    layer_samples, layer_roles = [sample for sample, _ in chosen], [role for _, role in chosen]
    layers = LayerDataset(
        store, layer_samples, size, in_memory=in_memory, buckets=buckets, roles=layer_roles
    )
    layer_sets = LayerSetDataset(layers, roles, with_single_foregrounds=with_single_foregrounds)
    if tuple(roles) not in layer_sets.roles:
        role_names = " and ".join(roles)
        raise Refused(
            f"snapshot {snapshot[:12]} has no {split.value} samples with {role_names}",
            "accept pairs or import them",
        )
    return layer_sets
