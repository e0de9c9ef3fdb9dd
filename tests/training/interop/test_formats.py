"""Weights of other programs: recognized by content, renamed to diffusers, or refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file

from curation.errors import NotFound, Refused
from tests.training.released_files import (
    REAL_SD15,
    REAL_SDXL,
    difference_shapes,
    header,
    network_shapes,
    patch_shapes,
    patched,
    peft_shapes,
    real_unet,
    sharing_shapes,
)
from training.external_weights import read_header, read_tensors
from training.interop.formats import WeightFormat, recognize, sharing_frames
from training.interop.key_mapping import from_flat, to_diffusers, to_flat, to_ldm
from training.presets.presets import SD15, SDXL


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def full_size(request: pytest.FixtureRequest):
    return request.param, real_unet(REAL_SDXL if request.param == "sdxl" else REAL_SD15)


def test_every_tensor_of_a_full_size_unet_has_both_names(full_size) -> None:
    family, unet = full_size
    names = list(unet.state_dict())
    assert len(names) == {"sd15": 686, "sdxl": 1680}[family]
    original = {name: to_ldm(name, family) for name in names}
    assert {to_diffusers(ldm): ldm for ldm in original.values()} == original
    expected = convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{original[n]}": n for n in names}, dict(unet.config)
    )
    assert expected == {name: name for name in names}


def test_every_module_has_a_reversible_flat_name(full_size) -> None:
    family, unet = full_size
    modules = {name.rpartition(".")[0] for name in unet.state_dict()}
    for module in modules | {to_ldm(module, family) for module in modules}:
        assert from_flat(to_flat(module)) == module


@pytest.mark.parametrize(
    "name", ["encoder.conv_in", "input_blocks.x.0.op", "output_blocks.1", "up_blocks.0.wings.1.b"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(Refused, match="is not a tensor of a Stable Diffusion UNet"):
        to_diffusers(name)
    with pytest.raises(Refused, match="is not a tensor of a Stable Diffusion UNet"):
        to_ldm(name, "sdxl")


def test_the_released_files_are_recognized_at_their_sizes() -> None:
    sdxl, sd15 = real_unet(REAL_SDXL), real_unet(REAL_SD15)
    attn = patch_shapes(sdxl, 256, "sdxl")
    released = {
        "encoder": (network_shapes(SDXL, "encoder"), WeightFormat.encoder, 18, 1_181_764),
        "sd15 encoder": (network_shapes(SD15, "encoder"), WeightFormat.encoder, 18, 1_181_764),
        "decoder": (network_shapes(SDXL, "decoder"), WeightFormat.decoder, 538, 104_104_804),
        "xl attn": (attn, WeightFormat.patches, 2 * 560, 371_589_120),
        "xl attn of rootonchair": (peft_shapes(sdxl, 256), WeightFormat.lora, 2 * 560, 371_589_120),
        "xl fg2ble": (
            patched(difference_shapes(sdxl, 8), "sdxl"),
            WeightFormat.differences,
            206,
            350_977_284,
        ),
        "xl offsets": (difference_shapes(sdxl, 4), WeightFormat.offsets, 206, 350_965_764),
        "sd15 attn": (sharing_shapes(sd15, 1, 256), WeightFormat.sharing, 32 * 20, 175_098_496),
        "sd15 joint": (sharing_shapes(sd15, 3, 256), WeightFormat.sharing, 32 * 36, 277_138_048),
        "sd15 fg2bg": (
            sharing_shapes(sd15, 2, 256, controlled=True),
            WeightFormat.sharing,
            32 * 36 + 28,
            281_425_568,
        ),
        "a whole UNet": (
            {n: tuple(v.shape) for n, v in sdxl.state_dict().items()},
            WeightFormat.unet,
            1680,
            2_567_463_684,
        ),
    }
    for name, (shapes, layout, tensors, numbers) in released.items():
        assert recognize(header(shapes)) == layout, name
        assert (len(shapes), header(shapes).parameters) == (tensors, numbers), name
    assert (
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight::lora::0" in attn
    )
    assert sharing_frames(released["sd15 attn"][0]) == (1, False)
    assert sharing_frames(released["sd15 joint"][0]) == (3, False)
    assert sharing_frames(released["sd15 fg2bg"][0]) == (2, True)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (
            ["model.diffusion_model.out.0.weight", "first_stage_model.encoder.x"],
            "a whole Stable Diffusion checkpoint",
        ),
        (
            ["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"],
            "an image autoencoder",
        ),
        (["text_model.embeddings.token_embedding.weight"], "weights of a text encoder"),
        (["unet.conv_in.lora_A.weight", "text_encoder.a.lora_A.weight"], "a LoRA of UNet and text"),
        (["controlnet_cond_embedding.conv_in.weight", "conv_in.weight"], "a ControlNet"),
        (["image_proj.norm.weight"], "an IP-Adapter"),
        (["double_blocks.0.img_attn.qkv.weight"], "weights of a diffusion transformer"),
        (["down_blocks.0.motion_modules.0.proj_in.weight"], "a motion module"),
        (["lora_unet_conv_in.hada_w1_a"], "an adapter other than a LoRA"),
        (
            ["lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.dora_scale"],
            "an adapter other than a LoRA",
        ),
        (["a::lora::0", "a::diff::0"], "a file of mixed patches"),
        (["wings.0.weight"], "is unknown; its first tensors are wings.0.weight"),
    ],
)
def test_unsupported_files_are_named(names: list[str], what: str) -> None:
    with pytest.raises(Refused, match=what) as refused:
        recognize(header(dict.fromkeys(names, (4, 4))))
    assert refused.value.hint


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    save_file({"blocks.0.weight": torch.zeros(8, 4, 3, 3)}, tmp_path / "whole.safetensors")
    return (tmp_path / "whole.safetensors").read_bytes()


def test_only_complete_safetensors_are_opened(tmp_path: Path, whole: bytes) -> None:
    pickled, archive = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(2)}, pickled)
    torch.save({"a": torch.zeros(2)}, archive, _use_new_zipfile_serialization=False)
    cut = "not a complete safetensors file"
    cases = [
        ("a zip or a pickled torch file", pickled.getvalue()),
        ("a pickle", archive.getvalue()),
        ("a web page", b"<!doctype html><html>not found</html>"),
        ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        (cut, whole[:-4]),
        (cut, whole[:40]),
        (cut, b""),
        (cut, b"\xff" * 64),
        (cut, (2**40).to_bytes(8, "little") + b"{"),
        (cut, b"\x80" + whole[1:40]),  # the first byte of a length may be that of a pickle
    ]
    for index, (message, data) in enumerate(cases):
        path = tmp_path / f"{index}.safetensors"
        path.write_bytes(data)
        with pytest.raises(Refused, match=message) as refused:
            read_header(path)
        assert refused.value.hint
    with pytest.raises(NotFound, match="there is no file"):
        read_header(tmp_path / "absent")
    with pytest.raises(NotFound, match="there is no file"):
        read_header(tmp_path)


def test_tensors_must_be_finite_and_floating_point(tmp_path: Path) -> None:
    save_file(
        {"bad": torch.tensor([1.0, float("nan")]), "whole": torch.tensor([1])},
        tmp_path / "n.safetensors",
    )
    for name, message in {"bad": "not finite", "whole": "has dtype torch.int64"}.items():
        with pytest.raises(Refused, match=message):
            read_tensors(tmp_path / "n.safetensors", [name])
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(Refused, match="holds no tensors"):
        read_header(tmp_path / "empty.safetensors")
