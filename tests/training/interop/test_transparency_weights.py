"""Released encoders and decoders load into our networks, in our channel order and scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from curation.domain import canonical_json
from curation.errors import Refused
from tests.training.released_files import network_shapes, write
from training.interop.transparency_weights import read_networks, read_transparency, recognize_all
from training.presets.preset import Preset
from training.presets.presets import find_preset
from training.transparency.networks import Transparency

NARROW = {
    "encoder_widths": "8,8,8,8",
    "decoder_widths": "8,8,8,8",
    "decoder_attention": "1",
    "decoder_layers": "1",
    "decoder_views": "1",
}


def narrow(**more: str) -> Preset:
    """Return a preset with the released architecture and few channels."""
    return find_preset("sdxl", NARROW | more)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [
        write(tmp_path / f"{n}.any", network_shapes(narrow(), n)) for n in ("decoder", "encoder")
    ]


def test_both_networks_load_bit_for_bit_in_any_order(files: list[Path]) -> None:
    networks, scale = read_transparency(files, narrow())
    again, _ = read_transparency(files[::-1], narrow())
    assert (scale, networks.encoder.offset_scale) == (1.0, 1.0)
    for network, path in zip((networks.decoder, networks.encoder), files, strict=True):
        stored = load_file(path)
        assert network.state_dict().keys() == stored.keys()
        assert all(
            torch.equal(value, stored[name].float()) for name, value in network.state_dict().items()
        )
    assert all(
        torch.equal(a, b) for a, b in zip(networks.parameters(), again.parameters(), strict=True)
    )
    assert not any(parameter.requires_grad for parameter in networks.parameters())


def test_the_scale_is_the_given_one_that_of_the_file_or_1(
    files: list[Path], tmp_path: Path
) -> None:
    stated = tmp_path / "stated.safetensors"
    save_file(load_file(files[1]), stated, {"layerloop": canonical_json({"offset_scale": "100.0"})})
    cases = [(files[1], None, (1.0, "assumed")), (files[1], 300.0, (300.0, "given"))]
    cases += [(stated, None, (100.0, "file")), (stated, 2.0, (2.0, "given"))]
    for encoder, given, expected in cases:
        read = read_networks(recognize_all([files[0], encoder]), narrow(), given)
        assert (read.offset_scale, read.scale_from) == expected
    save_file(load_file(files[1]), stated, {"layerloop": canonical_json({"offset_scale": "large"})})
    for encoder, given in (
        (stated, None),
        (files[1], float("nan")),
        (files[1], 0.0),
        (files[1], -1.0),
    ):
        with pytest.raises(Refused, match="invalid offset scale"):
            read_networks(recognize_all([files[0], encoder]), narrow(), given)


def test_without_an_encoder_the_offset_is_0(files: list[Path]) -> None:
    first, second = (read_networks(recognize_all(files[:1]), narrow()) for _ in range(2))
    assert first.scale_from == "preset"
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    networks, _ = read_transparency(files[:1], narrow())
    assert not networks.encoder(torch.rand(1, 1, 16, 16), torch.rand(1, 3, 16, 16)).any()
    assert networks.encoder.blocks[0].weight.any()  # it can be trained from here


def test_sixteen_channel_files_have_alpha_last(tmp_path: Path) -> None:
    """The Flux port has alpha last; the same pixels must give the same results here."""
    preset = narrow(latent_channels="16")
    paths = [
        write(tmp_path / f"{n}.any", network_shapes(preset, n)) for n in ("encoder", "decoder")
    ]
    ours, _ = read_transparency(paths, preset)
    reference = Transparency(preset)
    reference.encoder.load_state_dict(load_file(paths[0]))
    reference.decoder.load_state_dict(load_file(paths[1]))
    color, alpha, latent = (
        torch.rand(1, 3, 64, 64),
        torch.rand(1, 1, 64, 64),
        torch.randn(1, 16, 8, 8),
    )
    rgba = torch.cat([color, alpha], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.encoder(alpha, color), reference.encoder.blocks(rgba), rtol=0, atol=1e-6
        )
        first, rest = reference.decoder(color * 2 - 1, latent)
        alpha_out, colour_out = ours.decoder(color * 2 - 1, latent)
    torch.testing.assert_close(
        torch.cat([colour_out, alpha_out], 1), torch.cat([first, rest], 1), rtol=0, atol=1e-6
    )


def test_missing_duplicate_and_misfitting_files_are_refused(
    files: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="none of the files is an alpha decoder"):
        read_transparency(files[1:], narrow())
    with pytest.raises(Refused, match="are both: alpha decoder"):
        read_transparency([files[0], files[0]], narrow())
    with pytest.raises(Refused, match=r"blocks.0.bias is 8 in the file and 32 in the preset"):
        read_transparency(files, find_preset("sdxl", {**NARROW, "encoder_widths": "32,32,32,32"}))
    with pytest.raises(
        Refused,
        match=r"latent_conv_in.weight is 8 x 4 x 1 x 1 in the file and 8 x 16 x 1 x 1 in the preset",
    ):
        read_transparency(files[:1], narrow(latent_channels="16"))
    bad = load_file(files[1]) | {"blocks.0.bias": torch.full((8,), torch.inf)}
    save_file(bad, tmp_path / "bad.safetensors")
    with pytest.raises(Refused, match=r"'blocks.0.bias' is not finite"):
        read_transparency([files[0], tmp_path / "bad.safetensors"], narrow())
