"""Read-only access to a frozen snapshot: its samples, and its layers as a dataset for PyTorch."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from curation.datasets.decision_records import read_decisions
from curation.datasets.manifest import Manifest, read_manifest, read_samples
from curation.domain import LayerRole, Sample, Split
from curation.errors import NotFound, Refused
from curation.object_store import ObjectReader
from layerloop.decisions import Decisions

if TYPE_CHECKING:
    from curation.runtime.context import AppContext
    from training.data.dataset import LayerDataset
    from training.data.loader import LayerLoader

LATEST = "latest"
"""The name of the newest snapshot, unless there is a tag of this name."""

_FULL_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Snapshot:
    """A frozen list of samples. Equal samples give the same id on every machine.

    Attributes:
        id: The sha256 of the manifest.
        manifest: The parts and the statistics of the snapshot.
        store: The object store or pack that holds the manifest and the layers.
    """

    id: str
    manifest: Manifest
    store: ObjectReader

    def __len__(self) -> int:
        return self.manifest.samples

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Return the number of samples by kind, licence, split and round."""
        return self.manifest.counts

    def samples(self) -> Iterator[Sample]:
        """Yield the samples in the order of their ids, with captions, licences and layer hashes.

        Raises:
            NotFound: A part of the snapshot is not in the store.
            Corrupt: A part cannot be read.
        """
        return read_samples(self.store, self.id)

    def decisions(self, *, automatic: bool = False) -> Decisions:
        """Return the decided candidates: accepted and rejected, for preference training.

        Empty unless the snapshot was frozen `--with-rejects`. Accepted candidates whose sample is
        nearly a held-out one are left out.

        Args:
            automatic: Whether candidates that no person decided are among them.

        Raises:
            NotFound: A part of the snapshot is not in the store.
            Corrupt: A part cannot be read.
        """
        return Decisions(list(read_decisions(self.store, self.id, automatic=automatic)), self.store)

    def dataset(
        self,
        split: str = "train",
        *,
        size: int,
        roles: Collection[str] = ("foreground",),
        in_memory: bool = False,
    ) -> LayerDataset:
        """Return the layers of a split as a map-style dataset of 4 x size x size float tensors.

        An item is straight (not premultiplied) RGBA in [0, 1], letterboxed into a transparent
        square; `dataset.caption_of(index)` is its text. The training split leaves out samples that
        share a layer with a held-out sample.

        Args:
            split: "train" or "heldout".
            size: Width and height of the square in pixels.
            roles: The layers of each sample to load: "foreground", "background", "blended".
            in_memory: Decode all layers now and keep them in memory, instead of on each access.

        Raises:
            NotFound: A part of the snapshot is not in the store.
            Corrupt: A part, or too many of the images, cannot be read.
            Refused: The split is empty.
            ValueError: The split or a role is unknown.
        """
        # Imported here, so that reading a manifest does not need PyTorch.
        from training.data.splits import open_split

        layer_roles = tuple(LayerRole(role) for role in roles)
        return open_split(
            self.store, self.id, Split(split), size, in_memory=in_memory, roles=layer_roles
        )

    def loader(
        self,
        split: str = "train",
        *,
        size: int,
        batch_size: int,
        roles: Sequence[str] = ("foreground",),
        weight: Callable[[Sample], float] = lambda _: 1.0,
        aspect_buckets: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        images_seen: int = 0,
        images: int | None = None,
        threads: int = 4,
    ) -> LayerLoader:
        """Return an endless stream of batches, bitwise equal in every topology.

        Batch k depends on the seed and k only, whatever the number of ranks, threads and worker
        processes, and wherever it is resumed (`batch.images_seen`). Unreadable samples are
        replaced and listed in `loader.unreadable`.

        Args:
            split: "train" or "heldout".
            size: Height and width in pixels; with aspect buckets, of the square bucket.
            batch_size: Images in a global batch, over all ranks.
            roles: Layers that a sample must have, returned aligned: "foreground", "background",
                "blended".
            weight: How often a sample is drawn per epoch, 0 or more; 0 leaves it out.
            aspect_buckets: Sort samples into sizes of equal area, multiples of 64 pixels with an
                aspect ratio of at most 2, one size per batch; otherwise letterbox all.
            seed: RNG seed of the order.
            rank: Index of this rank, from 0.
            world_size: Number of ranks.
            images_seen: Number of draws to skip: those of an earlier loader that stopped.
            images: Number of draws after which the stream ends; None is endless.
            threads: Threads that read and decode.

        Raises:
            NotFound: A part of the snapshot is not in the store.
            Corrupt: A part, or more than 1 % of the images, cannot be read.
            Refused: No sample has all roles and a positive weight.
            ValueError: The split, a role, a weight or a number is invalid.
        """
        # Imported here, so that reading a manifest does not need PyTorch.
        from training.data import loader

        return loader.open_loader(
            self.store,
            self.id,
            Split(split),
            size=size,
            batch_size=batch_size,
            roles=tuple(LayerRole(role) for role in roles),
            weight=weight,
            buckets=loader.aspect_buckets(size, batch_size) if aspect_buckets else None,
            seed=seed,
            rank=rank,
            world_size=world_size,
            images_seen=images_seen,
            images=images,
            threads=threads,
        )


def open_snapshot(
    name: str = LATEST,
    *,
    home: Path | str | None = None,
    store: ObjectReader | None = None,
    source: Path | str | None = None,
) -> Snapshot:
    """Open a snapshot by its id, the first eight or more digits of its id, its tag, or as "latest".

    A full id needs no database. Other names are looked up in the instance's database, which is
    started and migrated if necessary, as by every command. With `source` nothing of an instance is
    needed: `open_snapshot("latest", source="s3://bucket/pack")`, or `open_snapshot("s3://...")`.

    Args:
        name: Id, beginning of an id, tag, or "latest" for the newest snapshot. A name with a slash
            is the address of a pack.
        home: Home folder of the instance; by default that of LAYERLOOP_HOME, else `.home`.
        store: Object store to read from instead of the instance's; `name` must then be a full id.
        source: Where the snapshot is: the folder of a pack, a store or a home, s3://, gs:// or
            az:// with bucket and prefix, or http(s):// of an instance. Tags are known to instances
            only, "latest" also to packs.

    Raises:
        NotFound: There is no such home or snapshot.
        Corrupt: The snapshot cannot be read.
        Refused: The address or the name is invalid.
        Unreachable: The server at the address does not answer.
    """
    if source is None and "/" in name:
        source, name = name, LATEST
    if source is not None:
        return _open_elsewhere(str(source), name)
    # A given store, or a full id, needs no look-up of the name in the database.
    if store is None:
        from layerloop.instance import instance_settings, open_instance

        if _FULL_ID.fullmatch(name):
            from curation.runtime.context import open_store

            store = open_store(instance_settings(home))
        else:
            with open_instance(home) as instance:
                return open_snapshot(_find(instance, name), store=instance.store)
    return Snapshot(name, read_manifest(store, name), store)


def _open_elsewhere(address: str, name: str) -> Snapshot:
    from curation.adapters.snapshot_sources import open_source
    from curation.settings import read_settings

    if name == LATEST and (Path(address) / ".layerloop").is_dir():
        raise Refused(
            f"{address} is a pulled folder, whose files other programs read",
            "give source= the instance, the store or the pack that it was pulled from",
        )
    settings = read_settings()
    token = settings.token.get_secret_value() if settings.token else ""
    found = open_source(address, name, token=token, endpoint=settings.storage_endpoint)
    return Snapshot(found.snapshot, read_manifest(found.store, found.snapshot), found.store)


def _find(instance: AppContext, name: str) -> str:
    from curation.datasets.snapshots import find_snapshot, list_snapshots

    with instance.database.transaction() as tx:
        try:
            return find_snapshot(tx, name)
        except NotFound:  # no snapshot has the tag "latest": take the newest
            newest = list_snapshots(tx, limit=1) if name == LATEST else []
            if not newest:
                raise
            return str(newest[0]["id"])
