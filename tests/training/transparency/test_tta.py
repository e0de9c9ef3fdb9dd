"""Test-time augmentation: the median of eight views in batches equals the released loop."""

import pytest
import torch

from training.presets.presets import PRESETS
from training.transparency import tta
from training.transparency.networks import AlphaDecoder
from training.transparency.tta import estimate_augmented, estimate_once

MICRO = PRESETS["micro"]


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (64, 16)])
@pytest.mark.parametrize("pass_pixels", [1, 3 * 32 * 48, 2**20])
def test_batches_of_views_give_what_a_loop_gives(monkeypatch, size, pass_pixels):
    monkeypatch.setitem(tta.PASS_PIXELS, "cpu", pass_pixels)
    decoder, image, latent = _scene(2, *size)
    with torch.no_grad():
        assert torch.allclose(
            estimate_augmented(decoder, image, latent), _loop(decoder, image, latent), atol=1e-9
        )


def test_the_median_is_the_lower_of_the_two_in_the_middle():
    """With a decoder of one corner pixel, the eight symmetries give each corner twice."""

    def corner(image, latent):
        value = image[:, :1, :1, :1].expand(-1, 1, *image.shape[-2:])
        return value, value.expand(-1, 3, -1, -1)

    image = torch.zeros(1, 3, 2, 2)
    image[0, 0] = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert torch.equal(
        estimate_augmented(corner, image, torch.zeros(1, 4, 2, 2)), torch.full((1, 4, 2, 2), 0.2)
    )


def test_the_augmented_estimate_is_equivariant():
    decoder, image, latent = _scene(1, 32, 32)
    with torch.no_grad():
        plain = estimate_augmented(decoder, image, latent)
        turned = estimate_augmented(decoder, image.rot90(1, (2, 3)), latent.rot90(1, (2, 3)))
        flipped = estimate_augmented(decoder, image.flip(3), latent.flip(3))
        single = estimate_once(decoder, image, latent)
        single_turned = estimate_once(decoder, image.rot90(1, (2, 3)), latent.rot90(1, (2, 3)))
    assert torch.allclose(plain.rot90(1, (2, 3)), turned, atol=1e-9)
    assert torch.allclose(plain.flip(3), flipped, atol=1e-9)
    assert (
        single.rot90(1, (2, 3)) - single_turned
    ).abs().max() > 0.01  # one pass alone is not equivariant


def _loop(decoder, image, latent):
    """Return the eight passes of the released code, one after another."""
    seen = []
    for flip in (False, True):
        for turns in range(4):
            first, second = (t.flip(3) if flip else t for t in (image, latent))
            back = estimate_once(
                decoder, first.rot90(turns, (2, 3)), second.rot90(turns, (2, 3))
            ).rot90(-turns, (2, 3))
            seen.append(back.flip(3) if flip else back)
    return torch.stack(seen).median(dim=0).values


def _scene(count, height, width):
    """In float64, since float32 kernels for other batch sizes differ in the last bits."""
    torch.manual_seed(0)
    decoder = AlphaDecoder(MICRO).eval().double()
    torch.nn.init.normal_(decoder.latent_conv_in.weight)
    torch.nn.init.normal_(decoder.conv_out.weight, std=0.05)
    latent = torch.randn(count, MICRO.latent_channels, height // 8, width // 8).double()
    return decoder, torch.randn(count, 3, height, width).double(), latent
