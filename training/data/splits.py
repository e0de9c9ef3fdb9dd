"""Training and held-out splits of a snapshot, as datasets."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from curation.datasets.manifest import read_samples, read_withheld
from curation.domain import LayerRole, Sample, Split
from curation.errors import Refused
from curation.object_store import ObjectReader
from training.data.buckets import BucketConfig
from training.data.dataset import LayerDataset


def open_split(
    store: ObjectReader,
    snapshot: str,
    split: Split,
    size: int,
    *,
    in_memory: bool = True,
    buckets: BucketConfig | None = None,
    roles: Collection[LayerRole] = (LayerRole.foreground,),
) -> LayerDataset:
    """Open layers of a split's samples, in the order of sample ids.

    Args:
        store: Where the snapshot is stored.
        snapshot: Id of the snapshot.
        split: Training or held-out samples.
        size: Image size in pixels if there are no buckets.
        in_memory: Whether to decode all images now and keep them.
        buckets: Image sizes to sort the images into.
        roles: Layers to read, where a sample has them.

    Raises:
        NotFound: The snapshot is not in the store.
        Corrupt: It cannot be read, or too many of its images cannot.
        Refused: The split is empty.
    """
    samples = read_split(store, snapshot, split)
    layers = [(sample, role) for sample in samples for role in roles if role in sample.layers]
    layer_samples, layer_roles = [sample for sample, _ in layers], [role for _, role in layers]
    return LayerDataset(
        store, layer_samples, size, in_memory=in_memory, buckets=buckets, roles=layer_roles
    )


def read_split(store: ObjectReader, snapshot: str, split: Split) -> list[Sample]:
    """Read the samples of a split that have a foreground, in the order of their ids.

    The training split leaves out samples that share a layer with a held-out sample: those that
    the snapshot lists as withheld (curation.datasets.holdout), and, since older snapshots have no
    such list, those with the foreground or blended image of a held-out sample.

    Args:
        store: Where the snapshot is stored.
        snapshot: Id of the snapshot.
        split: Training or held-out samples.

    Raises:
        NotFound: The snapshot is not in the store.
        Corrupt: The snapshot cannot be read.
        Refused: The split is empty.
    """
    samples = list(read_samples(store, snapshot))
    chosen = [
        sample
        for sample in samples
        if sample.split == split and LayerRole.foreground in sample.layers
    ]
    if split == Split.train:
        # Leave out samples that show a held-out subject.
        withheld = read_withheld(store, snapshot)
        heldout = {
            image
            for sample in samples
            if sample.split == Split.heldout
            for image in _subjects(sample)
        }
        chosen = [
            sample
            for sample in chosen
            if sample.id not in withheld and heldout.isdisjoint(_subjects(sample))
        ]
    if not chosen:
        hint = ""
        if split == Split.heldout:
            hint = "about 5 % of the samples are held out; import more samples"
        raise Refused(f"snapshot {snapshot[:12]} has no {split.value} samples", hint)
    return chosen


def heldout_images(store: ObjectReader, snapshot: str, size: int, count: int) -> LayerDataset:
    """Read the first held-out foregrounds, `count` at most, letterboxed to size x size.

    They are the same in every training on the snapshot, so that sample grids and validation
    metrics are comparable. The dataset is empty if nothing is held out.

    Args:
        store: Where the snapshot is stored.
        snapshot: Id of the snapshot.
        size: Height and width in pixels.
        count: Largest number of images.
    """
    samples = (
        sample
        for sample in read_samples(store, snapshot)
        if sample.split == Split.heldout and LayerRole.foreground in sample.layers
    )
    return LayerDataset(store, list(islice(samples, count)), size, in_memory=True)


def _subjects(sample: Sample) -> set[str]:
    """Return the stored images that show the subject; equal plain backgrounds are a coincidence."""
    return {image for role, image in sample.layers.items() if role is not LayerRole.background}
