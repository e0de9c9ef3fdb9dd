"""Files similar to known ones, sharded files and incomplete ones: read, or refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from curation.errors import NotFound, Refused
from tests.training.interop.test_transparency_weights import narrow
from tests.training.released_files import fill, header, identical, network_shapes, write
from training.external_weights import read_header, read_tensors
from training.interop.formats import WeightFormat, recognize, recognize_parts
from training.interop.transparency_weights import read_networks, recognize_all

SIXTEEN = replace(narrow(), latent_channels=16)


def both(preset, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of a module that contains both networks."""
    return {
        f"{prefix}{network}.{name}": shape
        for network in ("encoder", "decoder")
        for name, shape in network_shapes(preset, network).items()
    }


@pytest.mark.parametrize("prefix", ["", "module.", "state_dict.module."])
def test_both_networks_in_one_file_are_read(tmp_path: Path, prefix: str) -> None:
    shapes = both(SIXTEEN, prefix) | (
        {} if prefix else {"sd_vae.encoder.conv_in.weight": (8, 3, 3, 3)}
    )
    path = write(tmp_path / "TransparentVAE.safetensors", shapes)
    found = recognize_all([path])
    assert found.keys() == {WeightFormat.encoder, WeightFormat.decoder}
    read = read_networks(found, SIXTEEN)
    assert (read.offset_scale, read.scale_from) == (300.0, "flux")
    own = read_tensors(path, [f"{prefix}encoder.blocks.0.weight"])[
        f"{prefix}encoder.blocks.0.weight"
    ]
    assert torch.equal(read.tensors["encoder.blocks.0.weight"], own[:, [3, 0, 1, 2]]), (
        "its alpha is last"
    )


def test_separated_networks_of_the_flux_port_keep_its_scale(tmp_path: Path) -> None:
    files = [
        write(tmp_path / f"{n}.safetensors", network_shapes(SIXTEEN, n))
        for n in ("encoder", "decoder")
    ]
    assert read_networks(recognize_all(files), SIXTEEN).offset_scale == 300
    assert read_networks(recognize_all(files), SIXTEEN, 7).scale_from == "given"
    four = [
        write(tmp_path / f"{n}4.safetensors", network_shapes(narrow(), n))
        for n in ("encoder", "decoder")
    ]
    assert read_networks(recognize_all(four), narrow()).scale_from == "assumed"


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        (
            {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 8)},
            "LoRA of a diffusion transformer",
        ),
        (
            {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 8)},
            "LoRA of a diffusion transformer",
        ),
        (
            {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": (4, 8)},
            "LoRA of a diffusion transformer",
        ),
        (
            {"encoder.conv_in.weight": (8, 4, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)},
            "AlphaVAE",
        ),
        (
            {"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)},
            "an image autoencoder",
        ),
        (
            {"encoder.conv_in.weight": (8, 4, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3, 3)},
            "Qwen-Image-Layered",
        ),
        (
            {"encoder.conv1.weight": (8, 3, 3, 3, 3), "decoder.conv1.weight": (8, 4, 3, 3, 3)},
            "Wan-Alpha",
        ),
        ({"encoder.layers.0.weight": (8, 3, 3, 3)}, "TAESD"),
        ({"adapter.body.0.in_conv.weight": (8, 3, 1, 1)}, "a T2I-Adapter"),
        ({"emb_params": (4, 768)}, "a textual inversion"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "a textual inversion"),
        ({"<cat>": (1, 768)}, "a textual inversion"),
        (
            {"lora_te_a.lora_down.weight": (4, 8), "lora_unet_b.lora_down.weight": (4, 8)},
            "UNet and text encoder",
        ),
        ({"vision_model.embeddings.x": (4, 8)}, "an image encoder"),
        (
            {"model.diffusion_model.out.0.weight": (4,), "conditioner.x": (4,)},
            "a whole Stable Diffusion checkpoint",
        ),
        ({"model.diffusion_model.out.0.weight": (4,)}, "a whole Stable Diffusion checkpoint"),
    ],
)
def test_similar_files_are_named(shapes: dict[str, tuple[int, ...]], what: str) -> None:
    with pytest.raises(Refused, match=what) as refused:
        recognize_parts(header(shapes))
    assert refused.value.hint


def shards(folder: Path, shapes: dict[str, tuple[int, ...]], *, index: bool) -> list[Path]:
    """Write tensors in three shards, named as by save_pretrained."""
    tensors, names = fill(shapes), sorted(shapes)
    files = [folder / f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    for number, file in enumerate(files):
        save_file({name: tensors[name] for name in names[number::3]}, file)
    if index:
        indices = {name: files[number].name for number in range(3) for name in names[number::3]}
        text = json.dumps({"metadata": {}, "weight_map": indices})
        (folder / "model.safetensors.index.json").write_text(text)
    return files


@pytest.mark.parametrize("index", [True, False])
def test_a_sharded_file_is_read_as_one(tmp_path: Path, index: bool) -> None:
    shapes = network_shapes(narrow(), "decoder")
    files = shards(tmp_path, shapes, index=index)
    given = [*files, *([tmp_path / "model.safetensors.index.json"] if index else [])]
    for path in given:
        found = read_header(path)
        assert found.shapes == shapes
        assert recognize(found) is WeightFormat.decoder
        assert identical(read_tensors(found, shapes), fill(shapes))
        assert identical(read_tensors(path, shapes), fill(shapes))
    assert recognize_all(given).keys() == {WeightFormat.decoder}, (
        "all parts given are the file once"
    )
    files[1].unlink()
    with pytest.raises(NotFound, match="model-00002-of-00003") as missing:
        read_header(files[0])
    assert "one folder" in missing.value.hint


def test_an_index_must_match_its_shards(tmp_path: Path) -> None:
    shards(tmp_path, network_shapes(narrow(), "encoder"), index=True)
    index = tmp_path / "model.safetensors.index.json"
    output = json.loads(index.read_text())
    output["weight_map"]["blocks.99.weight"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(output))
    with pytest.raises(Refused, match=r"'blocks\.99\.weight'"):
        read_header(index)
    for text, expected_text in (
        ('{"weight_map": {"a": "../b.safetensors"}}', "outside its folder"),
        ('{"weight_map": []}', "not a valid index"),
        ("{", "not a valid index"),
        ("[" * 100_000, "not a valid index"),
    ):
        index.write_text(text)
        with pytest.raises(Refused, match=expected_text):
            read_header(index)


def test_folders_and_incomplete_files_are_named(tmp_path: Path) -> None:
    encoder, decoder = (network_shapes(narrow(), network) for network in ("encoder", "decoder"))
    with pytest.raises(NotFound, match="it is a folder") as refused:
        read_header(write(tmp_path / "a.safetensors", encoder).parent)
    assert "a.safetensors" in refused.value.hint
    missing = dict(list(decoder.items())[:-1])
    for shapes, expected_text in (
        (missing, "1 of 188 tensors are missing"),
        (
            {n: s for n, s in decoder.items() if not n.startswith("latent_conv_in")},
            "2 of 188 tensors are missing",
        ),
        (
            {n: s for n, s in decoder.items() if n != "latent_conv_in.weight"},
            "latent_conv_in.weight",
        ),
        (decoder | {"more.weight": (2, 2)}, "more.weight is unknown"),
    ):
        file = write(tmp_path / "b.safetensors", shapes)
        with pytest.raises(Refused, match=expected_text) as refused:
            read_networks(recognize_all([file]), narrow())
        assert "latent_channels" not in refused.value.hint
        assert "b.safetensors" in refused.value.message
    file = write(
        tmp_path / "c.safetensors",
        {n: s for n, s in encoder.items() if not n.startswith("blocks.0.")},
    )
    with pytest.raises(Refused, match=r"c\.safetensors is an incomplete offset encoder"):
        read_networks(recognize_all([file, write(tmp_path / "d.safetensors", decoder)]), narrow())


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_an_offset_scale_must_be_positive(tmp_path: Path, scale: float) -> None:
    files = [
        write(tmp_path / f"{n}.any", network_shapes(narrow(), n)) for n in ("encoder", "decoder")
    ]
    for given in (files, files[1:]):
        with pytest.raises(Refused, match=f"invalid offset scale {scale}"):
            read_networks(recognize_all(given), narrow(), scale)
