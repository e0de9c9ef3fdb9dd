"""Inpainting by pipelines of diffusers, on tiny models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from curation.errors import NotFound
from tests.training.pretrained import write_sd15, write_sdxl
from training.synthesis.inpainting import open_inpainter

KINDS = {
    "sd15": (write_sd15, "StableDiffusionInpaintPipeline"),
    "sdxl": (write_sdxl, "StableDiffusionXLInpaintPipeline"),
}


def write_inpainter(folder, kind="sd15", channels=9):
    """Write an inpainting model (9 channels) or a text-to-image model (4); return its folder."""
    write, name = KINDS[kind]
    write(folder, in_channels=channels)
    if channels == 9:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    return folder


@pytest.fixture(
    scope="module", params=[("sd15", 9), ("sd15", 4), ("sdxl", 9), ("sdxl", 4)], ids=str
)
def inpainter(request, tmp_path_factory):
    kind, channels = request.param
    return open_inpainter(
        str(write_inpainter(tmp_path_factory.mktemp("models") / "inpainter", kind, channels)), None
    )


def fill(inpainter, image, mask, text="a garden", seed=1, negative=None):
    return inpainter.fill(image, mask, text, seed, steps=2, guidance=3.0, negative_prompt=negative)


def image_and_mask(height=48, width=64):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), bool)
    mask[10:30, 20:50] = True
    return image, mask


def test_unmasked_pixels_stay_exactly_the_same(inpainter):
    image, mask = image_and_mask()
    filled = fill(inpainter, image, mask)
    assert (filled.shape, filled.dtype) == (image.shape, np.uint8)
    assert np.array_equal(filled[~mask], image[~mask])
    assert np.mean(filled[mask] != image[mask]) > 0.9


def test_results_are_repeatable_and_depend_on_text_and_seed(inpainter):
    image, mask = image_and_mask()
    filled = fill(inpainter, image, mask)
    assert np.array_equal(filled, fill(inpainter, image, mask))
    for changed in ({"text": "a harbour at night"}, {"seed": 2}, {"negative": "blurred"}):
        assert not np.array_equal(filled, fill(inpainter, image, mask, **changed)), changed


def test_any_size_and_empty_masks_are_accepted(inpainter):
    image, mask = image_and_mask(41, 53)
    filled = fill(inpainter, image, mask)
    assert filled.shape == (41, 53, 3)
    assert np.array_equal(filled[~mask], image[~mask])
    assert np.array_equal(fill(inpainter, image, np.zeros_like(mask)), image)


def test_masked_pixels_have_no_influence(inpainter):
    """A removed subject must not influence what is painted in its place."""
    image, mask = image_and_mask()
    other = image.copy()
    other[mask] = 255 - other[mask]
    assert np.array_equal(fill(inpainter, image, mask), fill(inpainter, other, mask))
    ragged = np.zeros_like(mask)
    ragged[13:30, 21:50] = True  # not aligned with latent pixels
    assert np.array_equal(
        fill(inpainter, image, ragged)[ragged],
        fill(inpainter, np.where(ragged[..., None], other, image), ragged)[ragged],
    )


def test_a_missing_model_raises_not_found(tmp_path):
    with pytest.raises(NotFound, match="no folder"):
        open_inpainter(str(tmp_path / "nowhere"), None)


@pytest.mark.filterwarnings("ignore:`upcast_vae`:FutureWarning")  # diffusers calls it itself
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting_works_in_half_precision(tmp_path, kind, channels, dtype):
    inpainter = open_inpainter(
        str(write_inpainter(tmp_path / "model", kind, channels)), None, dtype=dtype
    )
    image, mask = image_and_mask()
    for _ in range(2):  # SDXL's autoencoder goes to float32 and back
        filled = fill(inpainter, image, mask)
    assert np.array_equal(filled[~mask], image[~mask])
    assert np.mean(filled[mask] != image[mask]) > 0.9
    assert inpainter.pipeline.unet.dtype == dtype


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_inpainting_works_on_a_gpu(tmp_path, kind):
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    inpainter = open_inpainter(
        str(write_inpainter(tmp_path / "model", kind)), None, "cuda", torch.bfloat16
    )
    image, mask = image_and_mask()
    assert np.array_equal(fill(inpainter, image, mask)[~mask], image[~mask])
