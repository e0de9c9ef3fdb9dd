"""Adjusted latents and encoded texts, computed once and found by what determines them: a cache that cannot be stale."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curation.domain import Progress, canonical_json
from curation.errors import Corrupt, NotFound
from curation.ports import Report
from training.data.buckets import Size
from training.data.dataset import LayerDataset, letterbox, prefetch
from training.data.tensor_cache import ShardedTensorCache, key_of, make_missing
from training.denoiser.denoiser import Conditions
from training.presets.preset import Preset
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import OffsetEncoder
from training.transparency.padding import pad_colours

PIXELS = 4 * 1024**2
"""What is encoded at a time: four pictures of SDXL's size, or 64 of 256 pixels."""

TEXT_PROBE = "a photo of 1,234 Transparent GLASS bottles; naïve, on a 'wooden' table!"

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}

Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Alpha (B x 1 x H x W) and padded colour (B x 3 x H x W) in [0, 1] to mean and deviation, unscaled, B x C x h x w."""


class LatentCache:
    """The adjusted posteriors of pictures: mean and deviation of each, so that noise is drawn anew every time.

    An entry's key is its image's bytes and its shape; its folder, `latents-<identity>`, is named by all else that
    determines it: the weights, the preprocessing, the type (`latent_identity`). So a changed image recomputes one
    entry, changed weights recompute all of them under another name, and entries of old weights are deleted by
    deleting their folder. Without a folder it lives in memory.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, str]) -> None:
        self.folder = folder and _named(folder, "latents", identity)
        self._shards = ShardedTensorCache(self.folder)
        self._dtype = PRECISIONS[identity["precision"]]
        self._keys: list[bytes] = []

    @classmethod
    def open(cls, folder: Path | None, identity: Mapping[str, str]) -> LatentCache:
        """The cache of that identity in a folder of caches, or an empty one in memory."""
        return cls(folder, identity)

    def fill(
        self,
        pictures: LayerDataset,
        encode: Encode,
        report: Report,
        *,
        workers: int = 2,
        batch: int = 64,
    ) -> None:
        """Compute what is missing; any number of processes may do so at once, and share the work.

        `workers` threads decode, fit and pad pictures while `encode` works on a batch, of at most `batch` pictures
        and of less where they are large (`fill_batch`). A picture that cannot be read
        is set aside, named in `pictures.aside` and in the file `aside.jsonl`, and counted in the report; too many of
        them raise Corrupt. Progress's stage is "latents".
        """
        self._keys = [
            key_of("latent", pictures.object_of(p), *pictures.shapes[p])
            for p in range(len(pictures))
        ]

        def make(places: Sequence[int]) -> None:
            done = self._encode(pictures, places, encode, workers, batch)
            if done is not None:
                self._shards.put(*done)

        for done in make_missing(self._shards, self._keys, pictures.shapes, make):
            aside = {"set_aside": float(len(pictures.aside))} if pictures.aside else {}
            report(Progress("latents", done, len(pictures), aside))
        if self.folder is not None:
            _write_aside(self.folder / "aside.jsonl", pictures)

    def take(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of pictures of one shape, each B x C x h x w float32 on the CPU. Raises KeyError, Corrupt.

        For pictures that were set aside ask `pictures.sound(places)` first.
        """
        found = self._shards.get([self._keys[place] for place in places])
        return found["mean"].float(), found["std"].float()

    def _encode(
        self,
        pictures: LayerDataset,
        places: Sequence[int],
        encode: Encode,
        workers: int,
        batch: int,
    ) -> tuple[list[bytes], dict[str, Tensor]] | None:
        keys: list[bytes] = []
        means: list[Tensor] = []
        stds: list[Tensor] = []
        batch = fill_batch(pictures.shapes[places[0]], batch)
        batches = [places[start : start + batch] for start in range(0, len(places), batch)]
        with closing(prefetch(lambda place: _prepare(pictures, place), batches, workers)) as read:
            for some, prepared in zip(batches, read, strict=True):
                sound = [
                    (place, pixels)
                    for place, pixels in zip(some, prepared, strict=True)
                    if pixels is not None
                ]
                if not sound:
                    continue
                padded_B4HW = torch.stack([pixels for _, pixels in sound])
                mean_BCHW, std_BCHW = encode(padded_B4HW[:, 3:], padded_B4HW[:, :3])
                keys += [self._keys[place] for place, _ in sound]
                means.append(mean_BCHW.detach().to("cpu", self._dtype))
                stds.append(std_BCHW.detach().to("cpu", self._dtype))
        return (keys, {"mean": torch.cat(means), "std": torch.cat(stds)}) if keys else None


class ConditionsCache:
    """What a frozen text encoder makes of texts; the same law as `LatentCache`, the key being the text itself.

    Sizes are no part of an entry: they belong to a picture, and are put beside it when a batch is made.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, str]) -> None:
        self.folder = folder and _named(folder, "texts", identity)
        self._shards = ShardedTensorCache(self.folder)
        self._dtype = PRECISIONS[identity["precision"]]

    @classmethod
    def open(cls, folder: Path | None, identity: Mapping[str, str]) -> ConditionsCache:
        """The cache of that identity in a folder of caches, or an empty one in memory."""
        return cls(folder, identity)

    def fill(
        self,
        texts: Sequence[str],
        encode: Callable[[Sequence[str]], Conditions],
        report: Report,
        *,
        batch: int = 32,
    ) -> None:
        """Encode what is missing; any number of processes may do so at once. Progress's stage is "texts"."""
        wanted = list(dict.fromkeys(texts))
        keys = [key_of("text", text) for text in wanted]

        def make(places: Sequence[int]) -> None:
            some = [
                [wanted[p] for p in places[start : start + batch]]
                for start in range(0, len(places), batch)
            ]
            told = Conditions.join([encode(texts).to("cpu", self._dtype) for texts in some])
            named = {
                field.name: getattr(told, field.name)
                for field in fields(told)
                if field.name != "sizes_B6"
            }
            tensors = {name: value.detach() for name, value in named.items() if value is not None}
            self._shards.put([keys[place] for place in places], tensors)

        for done in make_missing(self._shards, keys, [0] * len(keys), make):
            report(Progress("texts", done, len(keys)))

    def take(self, texts: Sequence[str]) -> Conditions:
        """The conditions of these texts, float32 on the CPU, without sizes. Raises KeyError, Corrupt."""
        found = self._shards.get([key_of("text", text) for text in texts])
        return Conditions(**found).to("cpu", torch.float32)


def fill_batch(shape: Size, most: int = 64) -> int:
    """How many pictures of a shape are encoded at a time: at most so many, and at most PIXELS pixels, but one."""
    return max(1, min(most, PIXELS // (shape[0] * shape[1])))


def latent_identity(
    preset: Preset, backbone: Autoencoder, encoder: OffsetEncoder, **more: str
) -> dict[str, str]:
    """All that determines the latents of a picture beside itself, measured on what is used rather than told.

    The weights are those in memory, the preprocessing what it makes of a probe. `more` is what else matters: the type
    that the networks compute in.
    """
    return {
        "format": "1",
        "backbone": fingerprint(backbone),
        "encoder": fingerprint(encoder),
        "offset_scale": repr(encoder.offset_scale),
        "tile": str(encoder.tile),
        "preprocessing": _probe(),
        "precision": preset.cache_precision,
        **more,
    }


def text_identity(
    preset: Preset, encoders: nn.Module, tokenizers: Sequence[Any], **more: str
) -> dict[str, str]:
    """All that determines what frozen text encoders make of a text: their weights, and what is a token, and how many.

    `more` is what else matters: the family, and what it makes of an empty text.
    """
    said = [
        (tokenizer(TEXT_PROBE).input_ids, tokenizer.model_max_length) for tokenizer in tokenizers
    ]
    tokens = hashlib.sha256(canonical_json(said).encode()).hexdigest()
    # A training in half precision rounds them anyway, and they are larger than latents.
    precision = "fp32" if preset.precision == "fp32" else "fp16"
    return {
        "format": "1",
        "encoders": fingerprint(encoders),
        "tokens": tokens,
        "precision": precision,
        **more,
    }


def fingerprint(network: nn.Module) -> str:
    """The sha256 of a network's tensors with their names, types and sizes, and of its class."""
    digest = hashlib.sha256(type(network).__name__.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _probe() -> str:
    """What letterboxing and padding make of one picture, to 8 bits: another OpenCV or another code shows in it."""
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (37, 23, 4), np.uint8)
    rgba[:12, :, 3] = 0
    fitted = torch.from_numpy(letterbox(rgba, (64, 48))).permute(2, 0, 1).float() / 255
    padded = (pad_colours(fitted[None])[0] * 255).round().to(torch.uint8)
    return hashlib.sha256(fitted.numpy().tobytes() + padded.numpy().tobytes()).hexdigest()


def _prepare(pictures: LayerDataset, place: int) -> Tensor | None:
    """A picture with its colours padded, 4 x H x W with alpha last; None, and set aside, where it cannot be read."""
    try:
        rgba_4HW = pictures[place]
    except (Corrupt, NotFound) as error:
        pictures.set_aside(place, error)
        return None
    return torch.cat([pad_colours(rgba_4HW[None])[0], rgba_4HW[3:]])


def _named(folder: Path, kind: str, identity: Mapping[str, str]) -> Path:
    """The folder of an identity, with the identity in a file for people."""
    text = canonical_json(dict(identity))
    named = folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    named.mkdir(parents=True, exist_ok=True)
    if not (named / "identity.json").exists():
        (named / "identity.json").write_text(text + "\n")
    return named


def _write_aside(file: Path, pictures: LayerDataset) -> None:
    if not pictures.aside:
        file.unlink(missing_ok=True)
        return
    lines = [
        canonical_json({"sample": sample, "wrong": wrong})
        for sample, wrong in sorted(pictures.aside.items())
    ]
    file.write_text("".join(line + "\n" for line in lines))
