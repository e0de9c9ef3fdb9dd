"""The codec of latent transparency: padding, released sizes, and the adjusted latent."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from curation.errors import Refused
from training.presets.presets import PRESETS
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.codec import adjust, adjusted_posterior, decode_rgba, remove_veil
from training.transparency.networks import AlphaDecoder, OffsetEncoder, Transparency
from training.transparency.padding import _pyramid, over_gray, pad_color, pad_colors
from training.transparency.tta import estimate_augmented

MICRO = PRESETS["micro"]
images = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda size: arrays(np.float32, (*size, 4), elements=st.floats(0, 1, width=32))
)


@given(images)
@settings(max_examples=60, deadline=None)
def test_padding_keeps_opaque_colors_and_stays_in_range(rgba):
    color = pad_color(rgba)
    opaque = rgba[..., 3] == 1
    assert np.isfinite(color).all()
    assert color.min() >= 0
    assert color.max() <= 1
    assert np.array_equal(color[opaque], rgba[..., :3][opaque])


@given(images, st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_padding_ignores_invisible_colors(rgba, seed):
    rgba[..., 3] = np.where(rgba[..., 3] < 0.3, 0, rgba[..., 3])
    other = rgba.copy()
    hidden = rgba[..., 3] == 0
    other[..., :3][hidden] = np.random.default_rng(seed).random((int(hidden.sum()), 3), np.float32)
    assert np.array_equal(pad_color(rgba), pad_color(other))


@pytest.mark.parametrize(("side", "levels"), [(512, 28), (1024, 32)])
def test_the_pyramid_has_the_released_number_of_levels(side, levels):
    assert len(_pyramid(np.zeros((side, side, 4), np.float32))) == levels


def test_one_visible_pixel_fills_the_image_and_none_gives_black():
    rgba = np.zeros((40, 23, 4), np.float32)
    assert np.array_equal(pad_color(rgba), np.zeros((40, 23, 3), np.float32))
    rgba[11, 7] = (0.25, 0.5, 0.75, 1)
    assert np.allclose(pad_color(rgba), (0.25, 0.5, 0.75), atol=1e-5)


def test_transparent_pixels_are_mid_gray():
    assert torch.equal(
        over_gray(torch.rand(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)), torch.zeros(1, 3, 4, 4)
    )


def test_networks_of_the_stable_diffusion_presets_have_the_released_sizes():
    with torch.device("meta"):
        encoder, decoder = OffsetEncoder(PRESETS["sd15"]), AlphaDecoder(PRESETS["sd15"])
    assert sum(p.numel() for p in encoder.parameters()) == 1_181_764
    assert list(encoder.state_dict()) == [
        f"blocks.{n}.{kind}" for n in range(0, 17, 2) for kind in ("weight", "bias")
    ]
    assert sum(p.numel() for p in decoder.parameters()) == 104_104_804
    assert len(decoder.state_dict()) == 538
    assert decoder.latent_conv_in.weight.shape == (64, 4, 1, 1)
    assert "down_blocks.4.attentions.0.to_q.weight" in decoder.state_dict()


def test_a_new_encoder_keeps_the_posterior_mean_and_a_new_decoder_ignores_the_latent():
    networks, autoencoder, alpha, padded = _scene()
    mean, _ = autoencoder.encode(over_gray(padded, alpha))
    assert torch.equal(adjust(autoencoder, networks.encoder, alpha, padded), mean)
    image = autoencoder.decode(mean)
    for first, second in zip(
        networks.decoder(image, mean), networks.decoder(image, mean + 1), strict=True
    ):
        assert torch.equal(first, second)


def test_the_adjusted_latent_is_mean_plus_scaled_offset_or_mean():
    networks, autoencoder, alpha, padded = _scene()
    torch.nn.init.normal_(
        networks.encoder.blocks[-1].weight, generator=torch.Generator().manual_seed(1)
    )
    networks.encoder.offset_scale = 7.0
    mean, std = autoencoder.encode(over_gray(padded, alpha))
    offset = networks.encoder(alpha, padded)
    assert offset.abs().max() > 0
    adjusted = adjust(autoencoder, networks.encoder, alpha, padded, torch.tensor([1.0, 0.0]))
    assert torch.allclose(adjusted[0], mean[0] + 7.0 * std[0] * offset[0])
    assert torch.equal(adjusted[1], mean[1])


def test_decoding_gives_straight_rgba_with_alpha_last():
    networks, autoencoder, alpha, padded = _scene()
    latent = adjust(autoencoder, networks.encoder, alpha, padded)
    alpha_hat, colour_hat = networks.decoder(autoencoder.decode(latent), latent)
    rgba = decode_rgba(autoencoder, networks.decoder, latent)
    assert torch.equal(rgba[:, 3:], alpha_hat.clamp(0, 1))
    assert torch.equal(rgba[:, :3], colour_hat.clamp(0, 1))


def test_views_can_be_overridden_in_a_call():
    networks, autoencoder, alpha, padded = _scene()
    torch.nn.init.normal_(
        networks.decoder.conv_out.weight, std=0.05, generator=torch.Generator().manual_seed(1)
    )
    latent = adjust(autoencoder, networks.encoder, alpha, padded)
    once, eight = (
        decode_rgba(autoencoder, networks.decoder, latent, views=views) for views in (1, 8)
    )
    assert torch.equal(once, decode_rgba(autoencoder, networks.decoder, latent))
    median = estimate_augmented(networks.decoder, autoencoder.decode(latent), latent)
    assert torch.equal(eight, remove_veil(median, MICRO.alpha_floor))
    assert not torch.equal(once, eight)
    with pytest.raises(Refused, match="invalid number of views 3"):
        decode_rgba(autoencoder, networks.decoder, latent, views=3)


def test_training_starts_at_the_quality_of_the_frozen_autoencoder():
    """The offset is 0, so the frozen decoder is unchanged, and so is a residual decoder's color."""
    networks, autoencoder, alpha, padded = _scene()
    image = over_gray(padded, alpha)
    decoded = autoencoder.decode(adjust(autoencoder, networks.encoder, alpha, padded))
    assert torch.equal(decoded, autoencoder.decode(autoencoder.encode(image)[0]))
    _, color = networks.decoder(decoded, autoencoder.encode(image)[0])
    assert torch.equal(color, decoded.clamp(-1, 1) / 2 + 0.5)


def test_the_offset_stays_float32_in_half_precision_and_autocast():
    networks, autoencoder, alpha, padded = _scene()
    torch.nn.init.normal_(
        networks.encoder.blocks[-1].weight, generator=torch.Generator().manual_seed(1)
    )
    full = adjust(autoencoder, networks.encoder, alpha, padded)
    with torch.autocast("cpu", torch.bfloat16):
        mean, std = adjusted_posterior(autoencoder, networks.encoder, alpha, padded)
    bare, _ = autoencoder.encode(over_gray(padded, alpha))
    assert mean.dtype == std.dtype == torch.float32
    half = Transparency(MICRO).to(torch.bfloat16)
    half.load_state_dict(networks.state_dict())
    for other in (mean, adjust(autoencoder, half.encoder, alpha, padded)):
        assert ((other - full).square().mean() / (full - bare).square().mean()).sqrt() < 0.02
    rgba = decode_rgba(autoencoder, half.decoder, full)
    assert rgba.dtype == torch.float32
    assert (rgba - decode_rgba(autoencoder, networks.decoder, full)).abs().mean() < 0.02


def test_padding_keeps_the_dtype():
    rgba = torch.rand(2, 4, 16, 12)
    assert torch.equal(pad_colors(rgba.half()), pad_colors(rgba.half().float()).half())


def _scene():
    torch.manual_seed(0)
    rgba = torch.rand(2, 4, 32, 32)
    alpha, padded = rgba[:, 3:], pad_colors(rgba)
    return (
        Transparency(MICRO).eval(),
        fit_autoencoder(MICRO, over_gray(padded, alpha)),
        alpha,
        padded,
    )


@torch.no_grad()
def test_the_autoencoder_encodes_straight_colors_if_given():
    """As in the released code; the offset is still computed from padded colors."""
    rgba = torch.rand(
        2, 4, MICRO.image_size, MICRO.image_size, generator=torch.Generator().manual_seed(0)
    )
    alpha, straight, padded = rgba[:, 3:], rgba[:, :3], pad_colors(rgba)
    autoencoder = fit_autoencoder(MICRO, over_gray(straight, alpha))
    encoder = OffsetEncoder(MICRO)
    seen = adjusted_posterior(autoencoder, encoder, alpha, padded, straight_B3HW=straight)[0]
    torch.testing.assert_close(seen, autoencoder.encode(over_gray(straight, alpha))[0])
    assert not torch.allclose(seen, adjusted_posterior(autoencoder, encoder, alpha, padded)[0])
    torch.nn.init.normal_(encoder.blocks[-1].weight, std=0.1)
    moved = (
        adjusted_posterior(autoencoder, encoder, alpha, padded, straight_B3HW=straight)[0] - seen
    )
    std = autoencoder.encode(over_gray(straight, alpha))[1]
    torch.testing.assert_close(
        moved, MICRO.offset_scale * std * encoder(alpha, padded), atol=1e-5, rtol=1e-4
    )


def test_a_faint_veil_is_removed_and_other_alpha_kept():
    alpha = torch.tensor([0.0, 0.02, 0.04, 0.05, 0.07, 0.08, 0.5, 0.97, 1.0])
    rgba = torch.cat([torch.full((1, 3, 1, 9), 0.3), alpha.view(1, 1, 1, 9)], 1)
    cleaned = remove_veil(rgba, 0.04)
    expected = torch.tensor([0.0, 0.0, 0.0, 0.02, 0.06, 0.08, 0.5, 0.97, 1.0])
    torch.testing.assert_close(cleaned[0, 3, 0], expected)
    assert torch.equal(cleaned[:, :3], rgba[:, :3])
    assert remove_veil(rgba, 0) is rgba


def test_the_release_decodes_without_a_floor():
    assert PRESETS["sdxl"].alpha_floor == PRESETS["sd15-heavy"].alpha_floor == 0
    assert PRESETS["tiny"].alpha_floor > 0
