"""Embeddings by a CLIP (Radford et al., 2021) or DINO (Oquab et al., 2023) of transformers; weights are the user's.

A candidate is seen over black and over white, and by its alpha as a grey picture; of a pair its blended image, its
background and its foreground's alpha. A CLIP measures `clip_score` too, whether the candidate shows its prompt, and
with LAION's head `aesthetic`. Both are of the layer over mid-grey, always, since the background alone moves the
aesthetic score by half a point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from curation.domain import LayerRole, Prompt
from curation.errors import Refused
from curation.ports import EmbeddingResult, Layers
from training.external_weights import read_header, read_tensors
from training.metrics.clip_score import open_agreement
from training.pretrained.loading import load_model, revision_of

GREY: Final = 0.5
"""The background of every figure."""

Picture = NDArray[np.uint8]


def open_embedder(model: str | None, aesthetic: Path | None) -> ImageEncoder:
    """What LAYERLOOP_EMBEDDER may name: a CLIP or DINO by hub name or folder. Raises NotFound, Refused."""
    from transformers import AutoConfig

    if not model:
        raise Refused(
            "no model is named to embed candidates with", "LAYERLOOP_EMBEDDER_MODEL: a CLIP or DINO"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = load_model(AutoConfig, model).model_type
    if kind == "clip":
        return Clip(model, aesthetic, device)
    if kind not in {"dinov2", "dinov2_with_registers", "dinov3_vit"}:
        raise Refused(f"{model} is a {kind}", "candidates are embedded by a CLIP or a DINO")
    if aesthetic is not None:
        raise Refused(
            "an aesthetic head reads a CLIP's embeddings, not a DINO's",
            "leave LAYERLOOP_AESTHETIC out",
        )
    return Dino(model, device)


class ImageEncoder:
    """An Embedder: a vision network, asked for three pictures of each candidate."""

    source: str
    measures: Sequence[str] = ()

    @torch.inference_mode()
    def see(self, drawn: Sequence[Layers], prompts: Sequence[Prompt]) -> list[EmbeddingResult]:
        """For each candidate the mean of its two looks beside its alpha's, each of unit length: 2 D numbers."""
        return [
            EmbeddingResult(self._embed(one), {}) for one, _ in zip(drawn, prompts, strict=True)
        ]

    def _embed(self, layers: Layers) -> NDArray[np.float32]:
        first, second, alpha = nn.functional.normalize(
            self._features(list(_pictures(layers))), dim=-1
        )
        return np.asarray(
            torch.cat([(first + second) / 2, alpha]).float().cpu().numpy(), np.float32
        )

    def _features(self, pictures: Sequence[Picture]) -> Tensor:
        raise NotImplementedError


class Clip(ImageEncoder):
    """Sees with a CLIP, and measures whether a candidate shows its prompt (0..100) and its beauty (about 1..10)."""

    def __init__(self, model: str, aesthetic: Path | None, device: torch.device) -> None:
        self._agreement = open_agreement(model, device)
        self._head = None if aesthetic is None else _read_head(aesthetic, device, self._width())
        self.source = f"clip:{self._agreement.source}"
        self.measures = ("clip_score",) if aesthetic is None else ("clip_score", "aesthetic")

    @torch.inference_mode()
    def see(self, drawn: Sequence[Layers], prompts: Sequence[Prompt]) -> list[EmbeddingResult]:
        """The same with its figures."""
        return [
            EmbeddingResult(self._embed(one), self._measure(one, prompt))
            for one, prompt in zip(drawn, prompts, strict=True)
        ]

    def _features(self, pictures: Sequence[Picture]) -> Tensor:
        network, processor = self._agreement.network, self._agreement.processor
        seen: Tensor = network.get_image_features(
            **_prepare(processor, pictures, network.device)
        ).pooler_output
        return seen

    def _measure(self, layers: Layers, prompt: Prompt) -> Mapping[str, float]:
        picture = _over(layers, GREY)
        figures = {"clip_score": self._agreement([picture], [prompt.text])[0]}
        if self._head is not None:
            seen = nn.functional.normalize(self._features([picture]).float(), dim=-1)
            for weight, bias in self._head:
                seen = nn.functional.linear(seen, weight, bias)
            figures["aesthetic"] = float(seen)
        return {name: round(value, 4) for name, value in figures.items()}

    def _width(self) -> int:
        return int(self._agreement.network.config.projection_dim)


class Dino(ImageEncoder):
    """Sees with a DINO: more of shape and material than of what a text could say."""

    def __init__(self, model: str, device: torch.device) -> None:
        from transformers import AutoImageProcessor, AutoModel

        load_processor: Any = AutoImageProcessor.from_pretrained  # transformers leaves it untyped
        network = load_model(AutoModel, model)
        try:
            self._processor = load_processor(model, backend="pil")
        except (OSError, ValueError, ImportError) as error:
            told = f"{model} has weights but no processor: {str(error).splitlines()[0][:200]}"
            raise Refused(
                told, "its processor lies beside its weights; fetch the whole model"
            ) from error
        self._network = network.to(device).eval()
        self.source = f"dino:{model}@{revision_of(model, network)}"

    def _features(self, pictures: Sequence[Picture]) -> Tensor:
        inputs = _prepare(self._processor, pictures, self._network.device)
        seen: Tensor = self._network(**inputs).last_hidden_state[:, 0]  # the class token
        return seen


def _read_head(path: Path, device: torch.device, width: int) -> list[tuple[Tensor, Tensor]]:
    """LAION's linear head, or its improved one, which is five linear layers with nothing between them."""
    names = sorted(name for name in read_header(path).shapes if name.endswith("weight"))
    tensors = read_tensors(
        path, [one for name in names for one in (name, name.replace("weight", "bias"))]
    )
    layers = [
        (
            tensors[name].float().to(device),
            tensors[name.replace("weight", "bias")].float().to(device),
        )
        for name in names
    ]
    sizes = [width, *(len(bias) for _, bias in layers)]
    if (
        not layers
        or any(tuple(w.shape) != (sizes[i + 1], sizes[i]) for i, (w, _) in enumerate(layers))
        or sizes[-1] != 1
    ):
        raise Refused(
            f"{path} is no aesthetic head for embeddings of {width} numbers",
            "LAION's linear head for ViT-L/14 (weight, bias), saved as safetensors, with a CLIP ViT-L/14",
        )
    return layers


def _prepare(processor: Any, pictures: Sequence[Picture], device: torch.device) -> Any:
    from PIL import Image

    return processor(images=[Image.fromarray(one) for one in pictures], return_tensors="pt").to(
        device
    )


def _pictures(layers: Layers) -> Iterator[Picture]:
    if LayerRole.blended in layers:
        yield layers[LayerRole.blended][..., :3]
        yield layers[LayerRole.background][..., :3]
    else:
        yield _over(layers, 0.0)
        yield _over(layers, 1.0)
    alpha = next(layers[role] for role in LayerRole if role in layers)[..., 3]
    yield np.repeat(alpha[..., None], 3, axis=2)


def _over(layers: Layers, grey: float) -> Picture:
    """A single layer over a grey of 0..1; of a pair the blended image, which is opaque."""
    rgba = layers.get(LayerRole.blended, next(layers[role] for role in LayerRole if role in layers))
    alpha = rgba[..., 3:].astype(np.float32) / 255
    over = rgba[..., :3] * alpha + 255 * grey * (1 - alpha)
    return np.asarray(over.round(), np.uint8)
