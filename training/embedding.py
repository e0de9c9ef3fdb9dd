"""Embeddings of candidates by CLIP (Radford et al., 2021) or DINO (Oquab et al., 2023).

A candidate is embedded over black and over white, and its alpha as a gray image; a pair by its
blended image, its background and its foreground's alpha. CLIP also measures `clip_score`, the
agreement with the prompt, and with LAION's aesthetic predictor `aesthetic`. Both are measured on
the layer over mid-gray, since the background alone moves the aesthetic score by half a point.
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
from training.metrics.clip_score import load_clip_score
from training.pretrained.loading import load_model, revision_of

GRAY: Final = 0.5
"""The background of every metric."""

ImageArray = NDArray[np.uint8]


def open_embedder(model: str | None, aesthetic: Path | None) -> ImageEncoder:
    """Load the embedder for the port LAYERLOOP_EMBEDDER.

    Args:
        model: A CLIP or DINO by hub id or folder.
        aesthetic: Weights of LAION's aesthetic predictor (safetensors), for CLIP alone; or None.

    Raises:
        NotFound: The model or file does not exist.
        Refused: No model is configured, or it is neither CLIP nor DINO.
    """
    from transformers import AutoConfig

    if not model:
        raise Refused(
            "no embedding model is configured", "set LAYERLOOP_EMBEDDER_MODEL to a CLIP or DINO"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # The model type in the configuration distinguishes CLIP from DINO.
    kind = load_model(AutoConfig, model).model_type
    if kind == "clip":
        return ClipEmbedder(model, aesthetic, device)
    if kind not in {"dinov2", "dinov2_with_registers", "dinov3_vit"}:
        raise Refused(f"{model} is a {kind}", "use a CLIP or a DINO to embed candidates")
    if aesthetic is not None:
        raise Refused(
            "the aesthetic predictor needs CLIP embeddings, not DINO's",
            "unset LAYERLOOP_AESTHETIC",
        )
    return DinoEmbedder(model, device)


class ImageEncoder:
    """An Embedder: a vision network that embeds three images of each candidate."""

    source: str
    metric_names: Sequence[str] = ()

    @torch.inference_mode()
    def embed(
        self, candidates: Sequence[Layers], prompts: Sequence[Prompt]
    ) -> list[EmbeddingResult]:
        """Embed each candidate as a vector of 2 * D values.

        The first half is the mean of the unit embeddings of its two images, the second half the
        unit embedding of its alpha.

        Args:
            candidates: The layers of each candidate.
            prompts: The prompt of each candidate.
        """
        return [
            EmbeddingResult(self._embed(layers), {})
            for layers, _ in zip(candidates, prompts, strict=True)
        ]

    def _embed(self, layers: Layers) -> NDArray[np.float32]:
        first, second, alpha = nn.functional.normalize(
            self._features(list(_images(layers))), dim=-1
        )
        return np.asarray(
            torch.cat([(first + second) / 2, alpha]).float().cpu().numpy(), np.float32
        )

    def _features(self, images: Sequence[ImageArray]) -> Tensor:
        raise NotImplementedError


class ClipEmbedder(ImageEncoder):
    """Embeds with CLIP and measures prompt agreement (0..100) and aesthetics (about 1..10)."""

    def __init__(self, model: str, aesthetic: Path | None, device: torch.device) -> None:
        self._agreement = load_clip_score(model, device)
        self._head = None if aesthetic is None else _read_head(aesthetic, device, self._width())
        self.source = f"clip:{self._agreement.source}"
        self.metric_names = ("clip_score",) if aesthetic is None else ("clip_score", "aesthetic")

    @torch.inference_mode()
    def embed(
        self, candidates: Sequence[Layers], prompts: Sequence[Prompt]
    ) -> list[EmbeddingResult]:
        """Embed each candidate and measure its metrics."""
        return [
            EmbeddingResult(self._embed(layers), self._measure(layers, prompt))
            for layers, prompt in zip(candidates, prompts, strict=True)
        ]

    def _features(self, images: Sequence[ImageArray]) -> Tensor:
        network, processor = self._agreement.network, self._agreement.processor
        features: Tensor = network.get_image_features(
            **_prepare(processor, images, network.device)
        ).pooler_output
        return features

    def _measure(self, layers: Layers, prompt: Prompt) -> Mapping[str, float]:
        image = _over(layers, GRAY)
        metrics = {"clip_score": self._agreement([image], [prompt.text])[0]}
        # The aesthetic predictor is trained on unit-length CLIP image embeddings.
        if self._head is not None:
            features = nn.functional.normalize(self._features([image]).float(), dim=-1)
            for weight, bias in self._head:
                features = nn.functional.linear(features, weight, bias)
            metrics["aesthetic"] = float(features)
        return {name: round(value, 4) for name, value in metrics.items()}

    def _width(self) -> int:
        return int(self._agreement.network.config.projection_dim)


class DinoEmbedder(ImageEncoder):
    """Embeds with DINO, which represents shape and material beyond text descriptions."""

    def __init__(self, model: str, device: torch.device) -> None:
        from transformers import AutoImageProcessor, AutoModel

        load_processor: Any = AutoImageProcessor.from_pretrained  # untyped in transformers
        network = load_model(AutoModel, model)
        try:
            self._processor = load_processor(model, backend="pil")
        except (OSError, ValueError, ImportError) as error:
            message = f"{model} has weights but no processor: {str(error).splitlines()[0][:200]}"
            raise Refused(
                message, "the processor belongs beside the weights; download the whole model"
            ) from error
        self._network = network.to(device).eval()
        self.source = f"dino:{model}@{revision_of(model, network)}"

    def _features(self, images: Sequence[ImageArray]) -> Tensor:
        inputs = _prepare(self._processor, images, self._network.device)
        features: Tensor = self._network(**inputs).last_hidden_state[:, 0]  # the class token
        return features


def _read_head(path: Path, device: torch.device, width: int) -> list[tuple[Tensor, Tensor]]:
    """Read LAION's aesthetic predictor: one linear layer, or the improved version with five."""
    names = sorted(name for name in read_header(path).shapes if name.endswith("weight"))
    tensors = read_tensors(
        path, [key for name in names for key in (name, name.replace("weight", "bias"))]
    )
    layers = [
        (
            tensors[name].float().to(device),
            tensors[name.replace("weight", "bias")].float().to(device),
        )
        for name in names
    ]
    # The layers must chain from the embedding's width to one score.
    sizes = [width, *(len(bias) for _, bias in layers)]
    if (
        not layers
        or any(tuple(w.shape) != (sizes[i + 1], sizes[i]) for i, (w, _) in enumerate(layers))
        or sizes[-1] != 1
    ):
        raise Refused(
            f"{path} is not an aesthetic predictor for embeddings of width {width}",
            "use LAION's predictor for ViT-L/14 (safetensors) with a CLIP ViT-L/14",
        )
    return layers


def _prepare(processor: Any, images: Sequence[ImageArray], device: torch.device) -> Any:
    from PIL import Image

    return processor(images=[Image.fromarray(image) for image in images], return_tensors="pt").to(
        device
    )


def _images(layers: Layers) -> Iterator[ImageArray]:
    """Yield the three images that a candidate is embedded by."""
    # Two color images, then the alpha of the foreground.
    if LayerRole.blended in layers:
        yield layers[LayerRole.blended][..., :3]
        yield layers[LayerRole.background][..., :3]
    else:
        yield _over(layers, 0.0)
        yield _over(layers, 1.0)
    alpha = next(layers[role] for role in LayerRole if role in layers)[..., 3]
    yield np.repeat(alpha[..., None], 3, axis=2)


def _over(layers: Layers, gray: float) -> ImageArray:
    """Composite a layer over a gray in [0, 1]; of a pair return the opaque blended image."""
    rgba = layers.get(LayerRole.blended, next(layers[role] for role in LayerRole if role in layers))
    alpha = rgba[..., 3:].astype(np.float32) / 255
    over = rgba[..., :3] * alpha + 255 * gray * (1 - alpha)
    return np.asarray(over.round(), np.uint8)
