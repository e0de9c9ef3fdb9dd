"""Embedders with weights: a tiny CLIP and a tiny DINO, loaded as large ones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import BitImageProcessorPil, CLIPModel, Dinov2Config, Dinov2Model

from curation.domain import LayerRole, Prompt
from curation.errors import NotFound, Refused
from curation.rounds.policies import check_policy_signals
from curation.runtime.context import load_object
from curation.settings import Settings
from tests.support.clip_models import write_clip
from tests.support.factories import image, scenes
from training.embedding import ClipEmbedder, open_embedder

FRONT = LayerRole.foreground
SINGLES = [{FRONT: image(seed)} for seed in range(3)]
PROMPTS = [Prompt("a red star"), Prompt("sand"), Prompt("water")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    size = {"shortest_edge": 28}
    BitImageProcessorPil(size=size, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def head(folder: Path, *widths: int) -> Path:
    torch.manual_seed(1)
    named = {}
    for index, (wide, narrow) in enumerate(pairwise(widths)):
        prefix = "" if len(widths) == 2 else f"layers.{index}."
        named |= {
            f"{prefix}weight": torch.randn(narrow, wide),
            f"{prefix}bias": torch.randn(narrow),
        }
    save_file(named, folder / "aesthetic.safetensors")
    return folder / "aesthetic.safetensors"


def test_clip_embeds_two_composites_and_alpha_and_measures_agreement(clip: Path) -> None:
    eyes = open_embedder(str(clip), None)
    assert tuple(eyes.metric_names) == ("clip_score",)
    seen = eyes.embed(SINGLES, PROMPTS)
    assert [result.vector.shape for result in seen] == [(32,)] * 3
    assert np.linalg.norm(seen[0].vector[16:]) == pytest.approx(1, abs=1e-4)
    assert seen[0].vector == pytest.approx(eyes.embed(SINGLES[:1], PROMPTS[:1])[0].vector, abs=1e-5)
    assert not np.allclose(seen[0].vector, seen[1].vector, atol=1e-2)
    assert all(0 <= one.metrics["clip_score"] <= 100 for one in seen)
    pair = dict(scenes(1)[0][1])
    assert eyes.embed([pair], PROMPTS[:1])[0].vector.shape == (32,)


@pytest.mark.parametrize("widths", [(16, 1), (16, 8, 4, 1)])
def test_the_aesthetic_score_is_a_linear_head_on_the_layer_over_mid_gray(
    clip: Path, tmp_path: Path, widths
) -> None:
    file = head(tmp_path, *widths)
    eyes = open_embedder(str(clip), file)
    assert set(eyes.metric_names) == {"clip_score", "aesthetic"}
    rgba = SINGLES[0][FRONT]
    alpha = rgba[..., 3:] / 255
    on_gray = (rgba[..., :3] * alpha + 127.5 * (1 - alpha)).round().astype(np.uint8)
    from transformers import AutoProcessor

    inputs = AutoProcessor.from_pretrained(clip, backend="pil")(
        images=[on_gray], return_tensors="pt"
    )
    with torch.no_grad():
        value = normalize(
            CLIPModel.from_pretrained(clip).eval().get_image_features(**inputs).pooler_output,
            dim=-1,
        )
        for weight, bias in eyes._head:
            value = value @ weight.T + bias
    assert eyes.embed(SINGLES[:1], PROMPTS[:1])[0].metrics["aesthetic"] == pytest.approx(
        float(value), abs=1e-3
    )


def test_dino_embeds_and_measures_nothing(dino: Path) -> None:
    eyes = open_embedder(str(dino), None)
    assert (eyes.metric_names, eyes.embed(SINGLES, PROMPTS)[0].metrics) == ((), {})
    assert eyes.embed(SINGLES, PROMPTS)[0].vector.shape == (48,)
    assert eyes.source.startswith("dino:")


def test_misfits_are_refused_with_a_hint(clip: Path, dino: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no embedding model is configured"):
        open_embedder(None, None)
    with pytest.raises(NotFound):
        open_embedder(str(tmp_path / "none"), None)
    with pytest.raises(NotFound):
        open_embedder(str(clip), tmp_path / "none.safetensors")
    with pytest.raises(Refused, match="DINO"):
        open_embedder(str(dino), head(tmp_path, 16, 1))
    with pytest.raises(Refused, match="width 16"):
        open_embedder(str(clip), head(tmp_path, 768, 1))


def test_the_embedder_is_loaded_by_its_name_and_the_paper_policy_needs_its_metrics(
    clip: Path, tmp_path: Path
) -> None:
    settings = Settings(
        embedder="training.embedding:open_embedder",
        embedder_model=str(clip),
        aesthetic=head(tmp_path, 16, 1),
    )
    eyes = load_object(settings.embedder)(settings.embedder_model, settings.aesthetic)
    assert isinstance(eyes, ClipEmbedder)
    check_policy_signals({"kind": "paper"}, eyes.metric_names)
    with pytest.raises(Refused, match="weights are not configured"):
        check_policy_signals({"kind": "paper"}, open_embedder(str(clip), None).metric_names)
