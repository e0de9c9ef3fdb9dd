"""Caches of latents and text embeddings, keyed by everything that determines them: never stale."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from curation.domain import Progress, canonical_json
from curation.errors import Corrupt, NotFound
from curation.ports import ProgressCallback
from training.data.buckets import Size
from training.data.dataset import LayerDataset, prefetch
from training.data.tensor_cache import ShardedTensorCache, cache_key, compute_missing
from training.denoiser.denoiser import Conditions
from training.transparency.padding import pad_colors

PIXELS_PER_BATCH = 4 * 1024**2
"""Pixels that are encoded at a time: four images of SDXL's size, or 64 of 256 pixels."""


PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}

Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps alpha (B x 1 x H x W) and padded color (B x 3 x H x W) in [0, 1] to mean and std of the
unscaled latents, B x C x h x w each."""


class LatentCache:
    """The adjusted posteriors of images: mean and std of each, so that noise is sampled every time.

    An entry's key is its image's sha256 and size. The folder, `latents-<identity>`, is named by
    everything else: weights, preprocessing and dtype (`latent_identity`). A changed image thus
    recomputes one entry, and changed weights recompute all entries in a new folder; entries of old
    weights are deleted by deleting their folder. Without a folder the cache is in memory.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, str]) -> None:
        self.folder = folder and _identity_folder(folder, "latents", identity)
        self._shards = ShardedTensorCache(self.folder)
        self._dtype = PRECISIONS[identity["precision"]]
        self._keys: list[bytes] = []

    @classmethod
    def open(cls, folder: Path | None, identity: Mapping[str, str]) -> LatentCache:
        """Open the cache of an identity in a folder of caches, or an empty one in memory."""
        return cls(folder, identity)

    def fill(
        self,
        images: LayerDataset,
        encode: Encode,
        on_progress: ProgressCallback,
        *,
        workers: int = 2,
        batch_size: int = 64,
    ) -> None:
        """Compute missing entries; several processes may do so at once and share the work.

        Unreadable images are recorded in `images.unreadable` and in the file `aside.jsonl`, and
        counted in the progress report.

        Args:
            images: The images.
            encode: Computes the posterior of a batch.
            on_progress: Progress callback; the stage is named "latents".
            workers: Threads that decode, resize and pad images while `encode` runs.
            batch_size: Largest number of images per batch; fewer if images are large.

        Raises:
            Corrupt: Too many images are unreadable.
        """
        # Image and size determine an entry within the folder of this identity.
        self._keys = [
            cache_key("latent", images.sha256_of(p), *images.shapes[p]) for p in range(len(images))
        ]

        def make(indices: Sequence[int]) -> None:
            entries = self._encode(images, indices, encode, workers, batch_size)
            if entries is not None:
                self._shards.put(*entries)

        # Images of one size form a run, so that they can be stacked into batches.
        for done in compute_missing(self._shards, self._keys, images.shapes, make):
            metrics = {"set_aside": float(len(images.unreadable))} if images.unreadable else {}
            on_progress(Progress("latents", done, len(images), metrics))
        if self.folder is not None:
            _write_unreadable(self.folder / "aside.jsonl", images)

    def get(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return mean and std of images of one size, each B x C x h x w float32 on the CPU.

        Replace unreadable images by `LayerDataset.readable_indices` first.
        Raises KeyError, Corrupt.
        """
        found = self._shards.get([self._keys[index] for index in indices])
        return found["mean"].float(), found["std"].float()

    def _encode(
        self,
        images: LayerDataset,
        indices: Sequence[int],
        encode: Encode,
        workers: int,
        batch_size: int,
    ) -> tuple[list[bytes], dict[str, Tensor]] | None:
        """Encode one run of images; None if none of them is readable."""
        keys: list[bytes] = []
        means: list[Tensor] = []
        stds: list[Tensor] = []
        batch_size = encoding_batch_size(images.shapes[indices[0]], batch_size)
        batches = [
            indices[start : start + batch_size] for start in range(0, len(indices), batch_size)
        ]
        # Threads prepare the next batches while the networks encode this one.
        with closing(prefetch(lambda index: _prepare(images, index), batches, workers)) as read:
            for batch_indices, prepared in zip(batches, read, strict=True):
                readable = [
                    (index, pixels)
                    for index, pixels in zip(batch_indices, prepared, strict=True)
                    if pixels is not None
                ]
                if not readable:
                    continue
                padded_B4HW = torch.stack([pixels for _, pixels in readable])
                mean_BCHW, std_BCHW = encode(padded_B4HW[:, 3:], padded_B4HW[:, :3])
                keys += [self._keys[index] for index, _ in readable]
                means.append(mean_BCHW.detach().to("cpu", self._dtype))
                stds.append(std_BCHW.detach().to("cpu", self._dtype))
        return (keys, {"mean": torch.cat(means), "std": torch.cat(stds)}) if keys else None


class TextEmbeddingCache:
    """The outputs of a frozen text encoder, cached as in `LatentCache` with the text as key.

    Entries do not include sizes: these belong to an image and are added when a batch is made.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, str]) -> None:
        self.folder = folder and _identity_folder(folder, "texts", identity)
        self._shards = ShardedTensorCache(self.folder)
        self._dtype = PRECISIONS[identity["precision"]]

    @classmethod
    def open(cls, folder: Path | None, identity: Mapping[str, str]) -> TextEmbeddingCache:
        """Open the cache of an identity in a folder of caches, or an empty one in memory."""
        return cls(folder, identity)

    def fill(
        self,
        texts: Sequence[str],
        encode: Callable[[Sequence[str]], Conditions],
        on_progress: ProgressCallback,
        *,
        batch_size: int = 32,
    ) -> None:
        """Encode missing texts; several processes may do so at once and share the work.

        Args:
            texts: The texts; duplicates are encoded once.
            encode: Encodes a batch of texts.
            on_progress: Progress callback; the stage is named "texts".
            batch_size: Number of texts per batch.
        """
        unique = list(dict.fromkeys(texts))
        keys = [cache_key("text", text) for text in unique]

        def make(indices: Sequence[int]) -> None:
            batches = [
                [unique[index] for index in indices[start : start + batch_size]]
                for start in range(0, len(indices), batch_size)
            ]
            encoded = Conditions.join([encode(texts).to("cpu", self._dtype) for texts in batches])
            # Sizes are not a property of the text.
            named = {
                field.name: getattr(encoded, field.name)
                for field in fields(encoded)
                if field.name != "sizes_B6"
            }
            tensors = {name: value.detach() for name, value in named.items() if value is not None}
            self._shards.put([keys[index] for index in indices], tensors)

        for done in compute_missing(self._shards, keys, [0] * len(keys), make):
            on_progress(Progress("texts", done, len(keys)))

    def get(self, texts: Sequence[str]) -> Conditions:
        """Return conditions without sizes, float32 on the CPU. Raises KeyError, Corrupt."""
        found = self._shards.get([cache_key("text", text) for text in texts])
        return Conditions(**found).to("cpu", torch.float32)


def encoding_batch_size(size: Size, max_images: int = 64) -> int:
    """Return the batch size for an image size: 1 to `max_images`, of PIXELS_PER_BATCH pixels."""
    return max(1, min(max_images, PIXELS_PER_BATCH // (size[0] * size[1])))


def _prepare(images: LayerDataset, index: int) -> Tensor | None:
    """Return an image with padded colors, 4 x H x W with alpha last; None if it is unreadable."""
    try:
        rgba_4HW = images[index]
    except (Corrupt, NotFound) as error:
        images.mark_unreadable(index, error)
        return None
    return torch.cat([pad_colors(rgba_4HW[None])[0], rgba_4HW[3:]])


def _identity_folder(folder: Path, kind: str, identity: Mapping[str, str]) -> Path:
    """Return the folder of an identity, and write the identity into it for inspection."""
    text = canonical_json(dict(identity))
    identity_folder = folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    identity_folder.mkdir(parents=True, exist_ok=True)
    if not (identity_folder / "identity.json").exists():
        (identity_folder / "identity.json").write_text(text + "\n")
    return identity_folder


def _write_unreadable(file: Path, images: LayerDataset) -> None:
    """Write the list of unreadable images, or remove the list of an earlier fill."""
    if not images.unreadable:
        file.unlink(missing_ok=True)
        return
    lines = [
        canonical_json({"sample": sample, "wrong": error})
        for sample, error in sorted(images.unreadable.items())
    ]
    file.write_text("".join(line + "\n" for line in lines))
