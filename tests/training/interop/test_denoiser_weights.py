"""Released adapters, differences and attention sharing become bases, and are written unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from curation.errors import Refused
from tests.training.pretrained import TEXT_WIDTH, make_unet, write_sd15, write_sdxl
from tests.training.released_files import (
    SD15_CHANNELS,
    SDXL_CHANNELS,
    TINY_SD15,
    TINY_SDXL,
    adapted,
    difference_shapes,
    fill,
    identical,
    patch_shapes,
    patched,
    peft_shapes,
    sharing_shapes,
    tiny_sd15,
    write,
)
from training.denoiser.finetuned_weights import load_finetuned
from training.external_weights import read_header
from training.interop.adapters import lora_delta, matrices_by_module, write_kohya, write_patches
from training.interop.denoiser_weights import check_base, read_base
from training.interop.differences import merge_adapter, subtract_weights, write_differences
from training.interop.formats import recognize
from training.interop.key_mapping import to_flat, to_ldm
from training.presets.preset import Preset
from training.presets.presets import find_preset

RANK = 4


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sdxl(tmp_path_factory.mktemp("sdxl"), SDXL_CHANNELS, **TINY_SDXL)


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path) -> Preset:
    return find_preset("sdxl", {"model": str(sdxl_folder), "image_size": "64"})


@pytest.fixture
def unet() -> Any:
    """The UNet of the folder, without the additional conditions of SDXL."""
    torch.manual_seed(1)
    return make_unet(
        SDXL_CHANNELS, cross_attention_dim=2 * TEXT_WIDTH, use_linear_projection=True, **TINY_SDXL
    )


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    header = read_header(path)
    return read_base(header, recognize(header))


def predict(unet: Any, context: int = 2 * TEXT_WIDTH) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    noisy, states = (
        torch.randn(2, unet.config["in_channels"], 8, 8, generator=rng),
        torch.randn(2, 5, context, generator=rng),
    )
    with torch.no_grad():
        predicted: Tensor = unet(
            noisy, torch.tensor([10, 500]), encoder_hidden_states=states
        ).sample
    return predicted


def test_patches_round_trip_bit_for_bit(unet: Any, sdxl: Preset, tmp_path: Path) -> None:
    path = write(tmp_path / "attn", patch_shapes(unet, RANK, "sdxl"))
    tensors, metadata = read(path)
    assert metadata == {"kind": "adapter", "rank": "4", "alpha": "4"}
    check_base(tensors, metadata, sdxl)
    assert identical(write_patches(tensors, metadata, "sdxl"), load_file(path))


def test_an_adapter_adds_the_patches_to_the_weights(unet: Any, tmp_path: Path) -> None:
    """W += up @ down for every patched weight, as in Forge and ComfyUI."""
    path = write(tmp_path / "attn", patch_shapes(unet, RANK, "sdxl"))
    tensors, metadata = read(path)
    stored = {name: value.float() for name, value in load_file(path).items()}
    expected_unet = make_unet(
        SDXL_CHANNELS, cross_attention_dim=2 * TEXT_WIDTH, use_linear_projection=True, **TINY_SDXL
    )
    expected_unet.load_state_dict(unet.state_dict())
    with torch.no_grad():
        for module in adapted(unet, RANK):
            key = f"diffusion_model.{to_ldm(module, 'sdxl')}.weight::lora::"
            expected_unet.get_submodule(module).weight += stored[f"{key}0"] @ stored[f"{key}1"]
    before = predict(unet)
    load_finetuned(unet, tensors, metadata)
    after = predict(unet)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, predict(expected_unet), rtol=0, atol=1e-5)


@pytest.mark.parametrize("alpha", [4.0, 2.0])
def test_an_adapter_is_read_alike_from_every_format(
    unet: Any, tmp_path: Path, alpha: float
) -> None:
    tensors = fill(peft_shapes(unet, RANK))
    metadata = {"kind": "adapter", "rank": "4", "alpha": f"{alpha:g}"}
    formats = {
        "diffusers": (
            tensors,
            {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": alpha, "unet.r": 4})},
        ),
        "kohya, original names": (write_kohya(tensors, metadata, "sdxl"), {}),
        "kohya, diffusers' names": (write_kohya(tensors, metadata, "sd15"), {}),
        "peft": (
            {
                f"base_model.model.{name.removeprefix('unet.')}": value
                for name, value in tensors.items()
            },
            {},
        ),
        "old diffusers": (
            {_old_diffusers_name(name): v for name, v in tensors.items()} | _alphas(tensors, alpha),
            {},
        ),
        "comfyui": (_comfyui(tensors, alpha), {}),
    }
    for index, (name, (written, file_metadata)) in enumerate(formats.items()):
        folder = tmp_path / str(index)
        folder.mkdir()
        if name == "peft":
            (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha, "r": 4}))
        save_file(
            {key: value.contiguous() for key, value in written.items()},
            folder / "lora",
            file_metadata or None,
        )
        found, stored = read(folder / "lora")
        assert stored == metadata, name
        assert identical(found, tensors), name


def _old_diffusers_name(name: str) -> str:
    """Return a name of diffusers before PEFT: unet.X.attn1.processor.to_q_lora.down.weight."""
    module, _, end = name.rpartition(".lora_")
    attention, _, part = module.replace("to_out.0", "to_out").rpartition(".")
    return f"{attention}.processor.{part}_lora.{'down' if end.startswith('A') else 'up'}.weight"


def _alphas(tensors: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    return {f"unet.{module}.alpha": torch.tensor(alpha) for module in matrices_by_module(tensors)}


def _comfyui(tensors: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    written = {}
    for module, (down, up) in matrices_by_module(tensors).items():
        key = f"diffusion_model.{to_ldm(module, 'sdxl')}"
        written |= {
            f"{key}.lora_down.weight": down,
            f"{key}.lora_up.weight": up,
            f"{key}.alpha": torch.tensor(alpha),
        }
    return written


def test_kohya_names_equal_those_of_its_scripts(unet: Any) -> None:
    tensors, metadata = fill(peft_shapes(unet, RANK)), {"rank": "4", "alpha": "4"}
    sdxl = write_kohya(tensors, metadata, "sdxl")
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in sdxl
    assert "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_out_0.alpha" in sdxl
    key = to_flat("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q")
    assert f"lora_unet_{key}.lora_up.weight" in write_kohya(tensors, metadata, "sd15")


@pytest.mark.parametrize("format_name", ["kohya", "peft"])
def test_diffusers_reads_the_written_adapters(
    sdxl_folder: Path, tmp_path: Path, format_name: str
) -> None:
    from training.interop.adapters import peft_config, peft_metadata

    kind: Any = StableDiffusionXLPipeline
    pipeline = kind.from_pretrained(sdxl_folder, add_watermarker=False)
    tensors = fill(peft_shapes(pipeline.unet, RANK), dtype=torch.float32)
    adapter = {"kind": "adapter", "rank": "4", "alpha": "2"}
    written = write_kohya(tensors, adapter, "sdxl") if format_name == "kohya" else tensors
    metadata = None if format_name == "kohya" else peft_metadata(peft_config(tensors, adapter))
    save_file(written, tmp_path / "pytorch_lora_weights.safetensors", metadata)
    pipeline.load_lora_weights(tmp_path)
    pipeline.fuse_lora()
    start = kind.from_pretrained(sdxl_folder, add_watermarker=False).unet.state_dict()
    fused = {
        n.replace(".base_layer", ""): v
        for n, v in pipeline.unet.state_dict().items()
        if ".lora_" not in n
    }
    changed = matrices_by_module(tensors)
    for name, value in fused.items():
        module = name.removesuffix(".weight")
        expected = (
            start[name] + lora_delta(*changed[module], 0.5) if module in changed else start[name]
        )
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


def test_different_ranks_and_alphas_are_unified_without_changing_the_product(
    tmp_path: Path,
) -> None:
    modules = {
        "conv_in": (2, 1.0, (4, 3, 3)),
        "down_blocks.0.resnets.0.conv1": (6, 3.0, (16, 3, 3)),
    }
    written, expected = {}, {}
    for module, (rank, alpha, (inward, *kernel)) in modules.items():
        shapes = {"lora_down.weight": (rank, inward, *kernel), "lora_up.weight": (16, rank, 1, 1)}
        matrices = fill(shapes, seed=rank, dtype=torch.float32)
        written |= {f"lora_unet_{to_flat(module)}.{end}": value for end, value in matrices.items()}
        written[f"lora_unet_{to_flat(module)}.alpha"] = torch.tensor(alpha)
        expected[module] = lora_delta(
            matrices["lora_down.weight"], matrices["lora_up.weight"], alpha / rank
        )
    save_file(written, tmp_path / "lora")
    tensors, metadata = read(tmp_path / "lora")
    assert (metadata["rank"], metadata["alpha"]) == ("6", "6")
    for module, (down, up) in matrices_by_module(tensors).items():
        torch.testing.assert_close(lora_delta(down, up, 1.0), expected[module], rtol=0, atol=1e-7)


def test_alpha_must_be_a_single_number(tmp_path: Path) -> None:
    matrices = fill(
        {
            "lora_unet_conv_in.lora_down.weight": (2, 4, 3, 3),
            "lora_unet_conv_in.lora_up.weight": (16, 2, 1, 1),
        }
    )
    save_file({**matrices, "lora_unet_conv_in.alpha": torch.tensor(1)}, tmp_path / "lora")
    assert read(tmp_path / "lora")[1] == {"kind": "adapter", "rank": "2", "alpha": "1"}
    save_file({**matrices, "lora_unet_conv_in.alpha": torch.tensor([1.0, 2.0])}, tmp_path / "two")
    with pytest.raises(Refused, match="is not one finite number"):
        read(tmp_path / "two")


def test_an_incomplete_adapter_is_refused(unet: Any, tmp_path: Path) -> None:
    tensors = fill(peft_shapes(unet, RANK))
    tensors.pop(next(name for name in tensors if name.endswith("lora_B.weight")))
    save_file(tensors, tmp_path / "incomplete")
    with pytest.raises(Refused, match="do not match"):
        read(tmp_path / "incomplete")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4, "use_dora": True}))
    save_file(
        {"base_model.model.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3)}, tmp_path / "dora"
    )
    with pytest.raises(Refused, match="not a plain LoRA"):
        read(tmp_path / "dora")


@pytest.mark.parametrize(("channels", "mode"), [(4, None), (8, "bg2ble"), (12, "fgble2bg")])
def test_differences_are_read_by_both_names_and_written_bit_for_bit(
    unet: Any, sdxl: Preset, tmp_path: Path, channels: int, mode: str | None
) -> None:
    shapes = difference_shapes(unet, channels)
    original = write(tmp_path / f"v1_{mode}", patched(shapes, "sdxl"))
    tensors, metadata = read(original)
    assert metadata == {"kind": "difference"} | ({"mode": mode} if mode else {})
    check_base(tensors, metadata, sdxl)
    assert identical(write_differences(tensors, "sdxl"), load_file(original))
    save_file(tensors, tmp_path / f"ld_{mode}")
    assert identical(read(tmp_path / f"ld_{mode}")[0], tensors)


def test_differences_of_all_tensors_are_not_taken_for_a_unet(unet: Any, tmp_path: Path) -> None:
    save_file(unet.state_dict(), tmp_path / "unet")
    assert read(tmp_path / "unet")[1] == {"kind": "weights"}
    all_shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    assert read(write(tmp_path / "added", all_shapes))[1] == {"kind": "difference"}


def test_differences_are_added(unet: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "conv", patched(difference_shapes(unet, 4), "sdxl"))
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    tensors, metadata = read(path)
    load_finetuned(unet, tensors, metadata)
    for name, value in unet.state_dict().items():
        expected = before[name] + tensors[name].float() if name in tensors else before[name]
        assert torch.equal(value, expected), name
    added = subtract_weights(unet.state_dict(), before)
    assert added.keys() == tensors.keys()


def test_a_merged_adapter_equals_the_adapter(unet: Any, tmp_path: Path) -> None:
    tensors, metadata = read(write(tmp_path / "attn", patch_shapes(unet, RANK, "sdxl")))
    other = make_unet(
        SDXL_CHANNELS, cross_attention_dim=2 * TEXT_WIDTH, use_linear_projection=True, **TINY_SDXL
    )
    other.load_state_dict(unet.state_dict())
    load_finetuned(unet, tensors, metadata)
    as_float = {name: value.float() for name, value in tensors.items()}
    load_finetuned(other, merge_adapter(as_float, metadata), {"kind": "difference"})
    torch.testing.assert_close(predict(unet), predict(other), rtol=0, atol=1e-5)


def test_a_base_of_another_family_is_refused_by_the_config_of_the_model(
    sdxl: Preset, tmp_path: Path
) -> None:
    folder = write_sd15(tmp_path / "sd15", SD15_CHANNELS, **TINY_SD15)
    sd15 = find_preset("sd15", {"model": str(folder)})
    unet = tiny_sd15()
    cases = [
        (
            fill(peft_shapes(unet, RANK)),
            {"kind": "adapter", "rank": "4", "alpha": "4"},
            sdxl,
            "in the model",
        ),
        (
            fill(difference_shapes(unet, 4)),
            {"kind": "difference"},
            sdxl,
            "is 16 x 4|absent|in the file and",
        ),
        (
            fill(sharing_shapes(unet, 1, RANK)),
            {"kind": "sharing"},
            sd15,
            "text states have width 24",
        ),
        ({"conv_in.bias": torch.zeros(16)}, {"kind": "weights"}, sd15, "is missing"),
        ({"conv_in.wings": torch.zeros(16)}, {"kind": "difference"}, sd15, "absent in the model"),
    ]
    for tensors, metadata, preset, message in cases:
        with pytest.raises(Refused, match=message) as refused:
            check_base(tensors, metadata, preset)
        assert "choose the preset" in refused.value.hint
