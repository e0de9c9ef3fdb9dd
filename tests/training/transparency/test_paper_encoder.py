"""The heavy networks of the paper: their sizes, where the latent enters, and training."""

from dataclasses import replace

import pytest
import torch

from training.presets.presets import PRESETS
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.codec import adjust, decode_rgba
from training.transparency.networks import AlphaDecoder, OffsetEncoder, Transparency
from training.transparency.padding import over_gray, pad_colors

SMALL = replace(
    PRESETS["micro"],
    networks="heavy",
    fold=1,
    encoder_widths=(8, 8, 16, 16),
    decoder_widths=(8, 8, 16, 16),
    decoder_residual=False,
)
"""The heavy networks at small sizes, with the autoencoder of preset micro."""


@pytest.mark.parametrize(("name", "side"), [("sd15-heavy", 512), ("sdxl-heavy", 1024)])
def test_the_heavy_networks_have_about_the_size_of_stable_diffusions_autoencoder(name, side):
    preset = PRESETS[name]
    with torch.device("meta"):
        encoder, decoder = OffsetEncoder(preset), AlphaDecoder(preset)
        sizes = [
            sum(tensor.numel() for tensor in network.parameters()) for network in (encoder, decoder)
        ]
        assert sizes == [34_146_308, 62_888_836]  # those of the autoencoder: 34.16 M and 49.49 M
        alpha, color = decoder(
            torch.empty(1, 3, side, side), torch.empty(1, 4, side // 8, side // 8)
        )
        offset = encoder(torch.empty(1, 1, side, side), torch.empty(1, 3, side, side))
    assert preset.image_size == side
    assert (alpha.shape, color.shape) == ((1, 1, side, side), (1, 3, side, side))
    assert offset.shape == (1, 4, side // 8, side // 8)


def test_levels_of_the_decoder_are_those_of_appendix_b():
    with torch.device("meta"):
        decoder = AlphaDecoder(PRESETS["sd15-heavy"])
        shapes = []
        for block in decoder.up_blocks:
            block.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
        decoder.mid_block.register_forward_pre_hook(
            lambda _m, given: shapes.append(tuple(given[0].shape[1:]))
        )
        decoder(torch.empty(1, 3, 512, 512), torch.empty(1, 4, 64, 64))
    assert shapes == [
        (512, 64, 64),
        (512, 128, 128),
        (512, 256, 256),
        (256, 512, 512),
        (128, 512, 512),
    ]


@pytest.mark.parametrize("channels", [4, 16])
def test_new_heavy_networks_change_nothing_and_can_be_trained(channels):
    torch.manual_seed(0)
    preset = replace(SMALL, latent_channels=channels)
    rgba = torch.rand(2, 4, 32, 40)
    alpha, padded = rgba[:, 3:], pad_colors(rgba)
    networks, autoencoder = Transparency(preset), fit_autoencoder(preset, over_gray(padded, alpha))
    mean, _ = autoencoder.encode(over_gray(padded, alpha))
    latent = adjust(autoencoder, networks.encoder, alpha, padded)
    assert torch.equal(latent, mean)
    image = autoencoder.decode(latent)
    for first, second in zip(
        networks.decoder(image, mean), networks.decoder(image, mean + 1), strict=True
    ):
        assert torch.equal(first, second)

    optimizer = torch.optim.Adam(networks.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        latent = adjust(autoencoder, networks.encoder, alpha, padded)
        found, color = networks.decoder(autoencoder.decode(latent), latent)
        losses.append((found - alpha).square().mean() + (color - padded).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    assert networks.decoder.latent_conv_in.weight.abs().max() > 0
    assert (adjust(autoencoder, networks.encoder, alpha, padded) - mean).abs().max() > 0
    with torch.no_grad():
        assert decode_rgba(
            autoencoder, networks.decoder.eval(), latent, views=8, size=(29, 37)
        ).shape == (2, 4, 29, 37)


def test_the_latent_enters_in_the_middle_block_only():
    torch.manual_seed(0)
    decoder = AlphaDecoder(SMALL).eval()
    torch.nn.init.normal_(decoder.latent_conv_in.weight)
    seen = []
    for block in (*decoder.down_blocks, decoder.mid_block):
        block.register_forward_hook(
            lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for value in (0.0, 1.0):
            decoder(image, torch.full((1, SMALL.latent_channels, 4, 4), value))
    *down, middle = zip(seen[:5], seen[5:], strict=True)
    assert all(torch.equal(first, second) for first, second in down)
    assert not torch.allclose(*middle)
