"""Pictures of several layers: which of them a snapshot has, each with its layers in one shape, and lone foregrounds."""

from __future__ import annotations

from collections.abc import Sequence

from curation.domain import LayerRole, Sample, Split
from curation.errors import Corrupt, Refused
from curation.ports import ObjectStore
from training.data.buckets import Buckets
from training.data.dataset import LayerDataset, read_split
from training.data.sampler import WeightedSampler, weigh_new


class LayerSetDataset:
    """Pictures whose layers are learnt together, and pictures of a foreground alone.

    A place is a picture: `samples[place]`, whose layers `roles[place]` are the places `rows[place]` of `layers`. A
    picture one of whose layers cannot be read is left out, or another of the same roles and shape stands in for it.
    """

    def __init__(self, layers: LayerDataset, roles: Sequence[LayerRole], *, alone: bool) -> None:
        """layers: those of one sample stand together; roles: what a picture has to have; alone: lone foregrounds too.

        Lone are the samples that are no pairs and, where there is none of these, the foregrounds of the pairs.
        """
        self.layers = layers
        self.samples: list[Sample] = []
        self.roles: list[tuple[LayerRole, ...]] = []
        self.rows: list[tuple[int, ...]] = []
        by_sample: dict[str, dict[LayerRole, int]] = {}
        for place, sample in enumerate(layers.samples):
            by_sample.setdefault(sample.id, {})[layers.roles[place]] = place
        pairs = [rows for rows in by_sample.values() if rows.keys() >= set(roles)]
        singles = [rows for rows in by_sample.values() if rows.keys() == {LayerRole.foreground}]
        for rows in pairs:
            self._add(rows, tuple(roles))
        for rows in (singles or pairs) if alone else []:
            self._add(rows, (LayerRole.foreground,))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> list[object]:
        """What pictures of one batch have in common: shape and roles."""
        return [
            (self.layers.shapes[rows[0]], roles)
            for rows, roles in zip(self.rows, self.roles, strict=True)
        ]

    def sound(self, places: Sequence[int]) -> list[int]:
        """The places, with those known to be broken replaced by the next that is like them. Raises Corrupt."""
        return [place if self._is_sound(place) else self._stand_in(place) for place in places]

    def captions(self, place: int) -> list[str]:
        """The text of each of a picture's layers."""
        return [self.layers.caption_of(row) for row in self.rows[place]]

    def order(
        self,
        store: ObjectStore,
        previous: str | None,
        new_weight: float,
        single_share: float,
        seed: int,
    ) -> WeightedSampler:
        """An order in which lone foregrounds are so large a share, and new samples come more often."""
        weights = weigh_new(store, self.samples, previous, new_weight)
        lone = [len(rows) == 1 for rows in self.rows]
        sums = {
            kind: sum(w for w, one in zip(weights, lone, strict=True) if one == kind)
            for kind in (False, True)
        }
        factor = single_share / (1 - single_share) * sums[False] / sums[True] if sums[True] else 0.0
        return WeightedSampler(
            tuple(w * factor if one else w for w, one in zip(weights, lone, strict=True)), seed
        )

    def _add(self, rows: dict[LayerRole, int], roles: tuple[LayerRole, ...]) -> None:
        places = tuple(rows[role] for role in roles)
        self.samples.append(self.layers.samples[places[0]])
        self.roles.append(roles)
        self.rows.append(places)
        for (
            place
        ) in places:  # layers of one picture lie over each other, whatever size each was stored in
            self.layers.shapes[place] = self.layers.shapes[rows[LayerRole.foreground]]

    def _is_sound(self, place: int) -> bool:
        return all(map(self.layers.is_sound, self.rows[place]))

    def _stand_in(self, place: int) -> int:
        keys = self.keys
        for stand_in in (*range(place + 1, len(self)), *range(place)):
            if keys[stand_in] == keys[place] and self._is_sound(stand_in):
                return int(stand_in)
        raise Corrupt(
            f"no picture like {self.samples[place].id[:12]} can be read", "run 'layerloop doctor'"
        )


def load_layered(
    store: ObjectStore,
    snapshot: str,
    split: Split,
    size: int,
    roles: Sequence[LayerRole],
    *,
    alone: bool = False,
    in_memory: bool = True,
    buckets: Buckets | None = None,
) -> LayerSetDataset:
    """The pictures of a split that have all these roles, in the order of ids, and lone foregrounds where wanted.

    Raises NotFound, Corrupt; Refused where there is no picture of these roles.
    """
    kept: list[tuple[Sample, LayerRole]] = []
    for sample in read_split(store, snapshot, split):
        if all(role in sample.layers for role in roles):
            kept += [(sample, role) for role in roles]
        elif alone and sample.layers.keys() == {LayerRole.foreground}:
            kept.append((sample, LayerRole.foreground))
    owners, owned = [sample for sample, _ in kept], [role for _, role in kept]
    layers = LayerDataset(store, owners, size, in_memory=in_memory, buckets=buckets, roles=owned)
    pictures = LayerSetDataset(layers, roles, alone=alone)
    if not any(found == tuple(roles) for found in pictures.roles):
        named = " and ".join(roles)
        raise Refused(
            f"snapshot {snapshot[:12]} has no {split.value} pictures with {named}",
            "accept pairs, or import them",
        )
    return pictures
