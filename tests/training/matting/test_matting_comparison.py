"""Comparison of a checkpoint over a pretrained model with generation followed by matting."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from curation.domain import GenerationRequest, Prompt
from tests.training.matting.test_segmentation import write_segformer
from tests.training.pipelines.test_worker_generator import make_checkpoint
from tests.training.pretrained import write_sd15
from training.generate import load_generator
from training.matting import comparison
from training.matting.comparison import compare_with_matting

REQUESTS = [
    GenerationRequest(Prompt(text), seed)
    for seed, text in enumerate(["a cat", "a glass bottle", "a tree"])
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_sd15(tmp_path_factory.mktemp("models") / "sd15"))


def test_both_methods_use_the_same_prompts_and_seeds(store, model, tmp_path, monkeypatch):
    opaque = []
    original = comparison.extract_subject
    monkeypatch.setattr(
        comparison,
        "extract_subject",
        lambda image, trimap: opaque.append(image) or original(image, trimap),
    )
    checkpoint, stages = make_checkpoint(store, model, "sd15"), []
    result = compare_with_matting(
        checkpoint, store, REQUESTS, None, lambda progress: stages.append(progress.stage)
    )
    assert dict.fromkeys(stages) == dict.fromkeys(["draw with alpha", "draw opaque", "matte"])
    assert len(result.layers) == len(result.matted) == len(opaque) == 3
    assert all(
        layer.shape == (64, 64, 4) and layer.dtype == np.uint8
        for layer in [*result.layers, *result.matted]
    )
    for layer, expected in zip(
        result.layers, load_generator(checkpoint, store).generate(REQUESTS), strict=True
    ):
        assert np.array_equal(layer, next(iter(expected.values())))
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    expected_opaque = pipeline(
        "a cat", num_inference_steps=2, guidance_scale=7.0, generator=torch.Generator().manual_seed(0), output_type="np",
        height=64, width=64,
    ).images[0]  # fmt: skip
    assert np.abs(np.rint(expected_opaque * 255) - opaque[0]).max() <= 1
    assert (result.metadata["trimap"], result.metadata["opaque"]) == (
        "GrabCut",
        f"{model} without the fine-tuned weights",
    )
    grid = Image.open(io.BytesIO(result.sheet))
    assert grid.format == "PNG"
    assert grid.width > 3 * 96


def test_a_given_segmentation_model_finds_the_subject(store, model, tmp_path):
    folder = write_segformer(tmp_path / "finder", ["background", "subject"])
    result = compare_with_matting(
        make_checkpoint(store, model, "sd15"),
        store,
        REQUESTS[:1],
        str(folder),
        lambda progress: None,
    )
    assert result.metadata["trimap"].startswith(f"{folder}@")
    assert result.matted[0].shape == (64, 64, 4)
