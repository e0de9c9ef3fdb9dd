"""Weights of other programs become one checkpoint, and its exports equal the imported files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file, save_file

from curation.domain import Checkpoint, GenerationRequest, LayerRole, Progress, Prompt
from curation.errors import NotFound, Refused
from curation.object_store import FolderStore, compute_sha256
from curation.ports import ImportResult
from tests.training.interop.test_transparency_weights import NARROW, narrow
from tests.training.released_files import (
    difference_shapes,
    identical,
    network_shapes,
    patch_shapes,
    patched,
    sharing_shapes,
    write,
)
from training.external_weights import read_header, read_tensors
from training.generate import load_generator
from training.interop.denoiser_weights import read_base
from training.interop.export_base import write_base
from training.interop.export_checkpoint import FORMATS, export_checkpoint, write_networks
from training.interop.formats import WeightFormat, recognize
from training.interop.import_checkpoint import import_checkpoint
from training.interop.modes import find_mode
from training.interop.transparency_weights import read_networks, recognize_all
from training.presets.presets import SDXL, find_preset
from training.safetensors_io import METADATA_KEY, load_part, read_metadata, save_part

GENERATION = {"image_size": "64", "draw_steps": "2", "draw_batch": "1", "decoder_views": "1"}


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return an encoder and a decoder of the released sizes."""
    folder = tmp_path_factory.mktemp("released")
    for network in ("encoder", "decoder"):
        state = {
            name: torch.full(shape, 0.01).half()
            for name, shape in network_shapes(SDXL, network).items()
        }
        save_file(state, folder / f"{network}.any")
    write(folder / "encoder.any", network_shapes(SDXL, "encoder"))
    return [folder / "encoder.any", folder / "decoder.any"]


def ignore_progress(progress: Progress) -> None:
    del progress


def import_files(
    files: list[Path], model: Path, store: FolderStore | None, preset: str = "sdxl", **changes: str
) -> ImportResult:
    return import_checkpoint(
        files, preset, {"model": str(model), **GENERATION, **changes}, store, ignore_progress
    )


def checkpoint_of(result: ImportResult) -> Checkpoint:
    assert result.checkpoint is not None
    return result.checkpoint


def test_files_become_one_checkpoint_that_generates(
    models, unets, narrow_files, store, tmp_path
) -> None:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    result = import_files([*narrow_files, attn], models["sdxl"], store, **NARROW)
    checkpoint = checkpoint_of(result)
    assert (checkpoint.recipe, checkpoint.preset, checkpoint.snapshot) == ("imported", "sdxl", None)
    assert checkpoint.changes["offset_scale"] == "1.0"
    assert [(file.part, file.tensors) for file in result.files] == [
        ("transparency", 18),
        ("transparency", 188),
        ("base", 176),
    ]
    assert "is assumed" in result.notes[0]
    [layers] = load_generator(checkpoint, store).generate(
        [GenerationRequest(Prompt("a glass bottle"), 7)]
    )
    assert layers[LayerRole.foreground].shape == (64, 64, 4)
    without = checkpoint_of(
        import_files(
            [*narrow_files, write(tmp_path / "b", patch_shapes(unets["sdxl"], 4, "sdxl"), seed=9)],
            models["sdxl"],
            store,
            **NARROW,
        )
    )
    [others] = load_generator(without, store).generate(
        [GenerationRequest(Prompt("a glass bottle"), 7)]
    )
    assert not np.array_equal(layers[LayerRole.foreground], others[LayerRole.foreground])


def test_stored_parts_name_their_source_files(models, narrow_files, store) -> None:
    checkpoint = checkpoint_of(
        import_files(narrow_files, models["sdxl"], store, **NARROW, offset_scale="300")
    )
    file = checkpoint.files["transparency"]
    metadata = read_metadata(store.get(file), file)
    assert (metadata["recipe"], metadata["preset"], metadata["offset_scale"]) == (
        "imported",
        "sdxl",
        "300.0",
    )
    sources = json.loads(metadata["sources"])
    assert [(s["path"], s["sha256"]) for s in sources] == [
        (path.name, compute_sha256(path)) for path in narrow_files
    ]


def test_import_is_idempotent(models, narrow_files, store) -> None:
    first, second = (
        checkpoint_of(import_files(files, models["sdxl"], store, **NARROW))
        for files in (narrow_files, narrow_files)
    )
    assert first.id == second.id


def test_a_dry_run_stores_nothing(models, narrow_files, store) -> None:
    result = import_files(narrow_files, models["sdxl"], None, **NARROW)
    assert result.checkpoint is None
    assert "can decode but not generate" in result.notes[1]
    assert not [path for path in store.folder.rglob("*") if path.is_file()]


def test_a_decoder_alone_is_enough_to_generate(
    models, unets, narrow_files, store, tmp_path
) -> None:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    result = import_files([narrow_files[1], attn], models["sdxl"], store, **NARROW)
    assert "no encoder was given" in result.notes[0]
    [layers] = load_generator(checkpoint_of(result), store).generate(
        [GenerationRequest(Prompt("a cat"), 1)]
    )
    assert layers[LayerRole.foreground].shape == (64, 64, 4)


def test_attention_sharing_generates_transparent_sd15(
    models, unets, narrow_files, store, tmp_path
) -> None:
    attn = write(tmp_path / "attn", sharing_shapes(unets["sd15"], 1, 4))
    checkpoint = checkpoint_of(
        import_files([*narrow_files, attn], models["sd15"], store, "sd15", **NARROW)
    )
    tensors, metadata = load_part(store, checkpoint.files["base"])
    assert metadata["kind"] == "sharing"
    assert tensors.keys() == load_file(attn).keys()
    [layers] = load_generator(checkpoint, store).generate([GenerationRequest(Prompt("a cat"), 1)])
    assert layers[LayerRole.foreground].shape == (64, 64, 4)


def test_nothing_is_stored_after_an_error(models, unets, narrow_files, store, tmp_path) -> None:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    conv = write(tmp_path / "conv", patched(difference_shapes(unets["sdxl"], 4), "sdxl"))
    cases = [
        (
            lambda: import_files([*narrow_files, attn, conv], models["sdxl"], store, **NARROW),
            "are bases of one kind",
        ),
        (
            lambda: import_files([*narrow_files, attn], models["sd15"], store, "sd15", **NARROW),
            "these weights are not for",
        ),
        (
            lambda: import_files([*narrow_files, attn], models["sd15"], store, **NARROW),
            "not of the family sdxl",
        ),
        (
            lambda: import_files([*narrow_files], models["sdxl"], store),
            "does not fit preset 'sdxl'",
        ),
        (
            lambda: import_checkpoint(narrow_files, "tiny", {}, store, ignore_progress),
            "preset 'tiny' has no pretrained model",
        ),
        (lambda: import_files(narrow_files, models["sdxl"], store, wings="2"), "no column 'wings'"),
        (
            lambda: import_files(narrow_files, tmp_path / "absent", store, **NARROW),
            "there is no folder",
        ),
    ]
    for wrong, message in cases:
        with pytest.raises((Refused, NotFound), match=message) as error:
            wrong()
        assert error.value.hint
    assert not [path for path in store.folder.rglob("*") if path.is_file()]


def test_weights_of_several_modes_are_parts_of_one_checkpoint(
    models, unets, narrow_files, store, tmp_path
) -> None:
    unet = unets["sdxl"]
    files = {
        "base": write(tmp_path / "attn", patch_shapes(unet, 4, "sdxl")),
        "fg2ble": write(
            tmp_path / "layer_xl_fg2ble.safetensors", patched(difference_shapes(unet, 8), "sdxl")
        ),
        "fgble2bg": write(tmp_path / "any", patched(difference_shapes(unet, 12), "sdxl")),
    }
    result = import_files([*files.values(), *narrow_files], models["sdxl"], store, **NARROW)
    checkpoint = checkpoint_of(result)
    assert set(checkpoint.files) == {"backbone", "transparency", *files}
    assert {file.part: Path(file.path).name for file in result.files if file.part in files} == {
        part: path.name for part, path in files.items()
    }
    assert "given foreground generates blended" in next(
        file.what for file in result.files if file.part == "fg2ble"
    )
    assert [note.partition(" ")[0] for note in result.notes[1:]] == [
        "layer_xl_fg2ble.safetensors",
        "any",
    ]
    preset = find_preset(checkpoint.preset, checkpoint.changes)
    for part, path in files.items():
        stored = load_part(store, checkpoint.files[part])
        assert stored[1].get("mode", "base") == part
        written = write_base(*stored, preset, "released")
        assert identical(load_file(path), written.tensors)
        assert written.name == f"layer_xl_{'transparent_attn' if part == 'base' else part}"
        again = tmp_path / f"again-{len(part)}"
        save_file(dict(written.tensors), again, {METADATA_KEY: json.dumps(dict(written.metadata))})
        assert find_mode(read_header(again), recognize(read_header(again))).part == part, (
            "the mode does not depend on the name of the file"
        )
    save_file(
        {name: value + 1 for name, value in load_file(files["fg2ble"]).items()},
        tmp_path / "fg2ble_too",
    )
    both = [files["fg2ble"], tmp_path / "fg2ble_too"]
    with pytest.raises(Refused, match="fg2ble_too are bases of one kind"):
        import_files([*narrow_files, *both], models["sdxl"], store, **NARROW)


@pytest.mark.parametrize("half", [True, False])
def test_a_widened_unet_is_exported_as_differences_that_restore_it(
    models, unets, narrow_files, store, tmp_path, half
) -> None:
    """Exact in half precision; in float32 up to the rounding of a subtraction and a sum."""
    rng = torch.Generator().manual_seed(5)
    trained = {
        n: v + 0.01 * torch.randn(v.shape, generator=rng)
        for n, v in unets["sdxl"].state_dict().items()
    }
    narrow_first = trained["conv_in.weight"]
    extra_channels = torch.randn(narrow_first.shape, generator=rng)
    trained["conv_in.weight"] = torch.cat([narrow_first, extra_channels], dim=1)
    trained = {name: value.half() if half else value for name, value in trained.items()}
    save_file(trained, tmp_path / "unet_bg2ble")
    checkpoint = checkpoint_of(
        import_files([*narrow_files, tmp_path / "unet_bg2ble"], models["sdxl"], store, **NARROW)
    )
    stored = load_part(store, checkpoint.files["bg2ble"])
    preset = find_preset(checkpoint.preset, checkpoint.changes)
    assert identical(write_base(*stored, preset, "diffusers").tensors, trained)
    written = write_base(*stored, preset, "released")
    assert written.name == "layer_xl_bg2ble"
    save_file(dict(written.tensors), tmp_path / "layer_xl_bg2ble")
    tensors, metadata = read_base(
        read_header(tmp_path / "layer_xl_bg2ble"), WeightFormat.differences
    )
    assert metadata == {"kind": "difference", "mode": "bg2ble"}
    for name, start in unets["sdxl"].state_dict().items():
        wide = torch.zeros(trained[name].shape)
        if name == "conv_in.weight":
            wide[:, : start.shape[1]] = start
        else:
            wide = start
        whole = wide + tensors.get(name, torch.zeros(()))
        if half:
            assert torch.equal(whole.half(), trained[name]), name
        else:
            torch.testing.assert_close(whole, trained[name], rtol=0, atol=1e-6)
    assert torch.equal(
        tensors["conv_in.weight"][:, 4:], extra_channels.half().float() if half else extra_channels
    )


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("layer_xl_transparent_attn", "released"),
        ("layer_xl_transparent_conv", "comfyui"),
        ("layer_xl_bgble2fg", "released"),
        ("ld_diffusers_sdxl_fgble2bg", "diffusers"),
        ("layer_sd15_joint", "released"),
        ("layer_sd15_fg2bg", "released"),
        ("layer_sd15_bg2fg", "comfyui"),
        ("ld_diffusers_sdxl_attn", "diffusers"),
        ("layer_sd15_transparent_attn", "released"),
        ("diffusion_pytorch_model", "diffusers"),
    ],
)
def test_every_released_base_round_trips_bit_for_bit(
    models, unets, narrow_files, store, tmp_path, name, format_name
) -> None:
    family = "sd15" if "sd15" in name else "sdxl"
    unet = unets[family]
    shapes = {
        "layer_xl_transparent_attn": patch_shapes(unet, 4, family),
        "layer_xl_transparent_conv": patched(difference_shapes(unet, 4), family),
        "layer_xl_bgble2fg": patched(difference_shapes(unet, 12), family),
        "ld_diffusers_sdxl_fgble2bg": difference_shapes(unet, 12),
        "layer_sd15_joint": sharing_shapes(unet, 3, 4),
        "layer_sd15_fg2bg": sharing_shapes(unet, 2, 4, controlled=True),
        "layer_sd15_bg2fg": sharing_shapes(unet, 2, 4, controlled=True),
        "ld_diffusers_sdxl_attn": difference_shapes(unet, 4),
        "layer_sd15_transparent_attn": sharing_shapes(unet, 1, 4),
        "diffusion_pytorch_model": {},
    }[name]
    base = write(tmp_path / name, shapes)
    if name == "diffusion_pytorch_model":
        save_file({key: value.half() for key, value in unet.state_dict().items()}, base)
    checkpoint = checkpoint_of(
        import_files([*narrow_files, base], models[family], store, family, **NARROW)
    )
    preset = find_preset(checkpoint.preset, checkpoint.changes)
    [part] = checkpoint.files.keys() - {"backbone", "transparency"}
    assert part == (name.rpartition("_")[2] if "2" in name or "joint" in name else "base")
    written = write_base(*load_part(store, checkpoint.files[part]), preset, format_name)
    assert written.name == name
    assert identical(load_file(base), written.tensors)


@pytest.mark.parametrize(("format_name", "scale"), [("released", 1.0), ("diffusers", 300.0)])
def test_both_networks_round_trip_bit_for_bit(
    models, narrow_files, store, tmp_path, format_name, scale
) -> None:
    for channels in (4, 16):
        preset = narrow(latent_channels=str(channels), offset_scale=str(scale))
        files = {
            n: write(tmp_path / f"{n}{channels}", network_shapes(preset, n))
            for n in ("encoder", "decoder")
        }
        read = read_networks(recognize_all(list(files.values())), preset, scale)
        metadata = {"offset_scale": repr(read.offset_scale)}
        for file in write_networks(read.tensors, metadata, preset, FORMATS[format_name]):
            network = file.name.rpartition("_")[2]
            assert file.name.startswith(
                "ld_diffusers_sdxl" if format_name == "diffusers" else "vae_transparent"
            )
            assert identical(load_file(files[network]), file.tensors)


@pytest.mark.parametrize(("scale", "exact"), [(64.0, True), (100.0, False)])
def test_the_scale_is_folded_into_the_last_layer(narrow_files, scale, exact) -> None:
    """Exact for a power of two; otherwise up to one rounding."""
    preset = narrow()
    read = read_networks(recognize_all(narrow_files), preset, scale)
    encoder, _ = write_networks(
        read.tensors, {"offset_scale": repr(scale)}, preset, FORMATS["released"]
    )
    assert encoder.metadata["offset_scale"] == "1.0"
    for name, value in load_file(narrow_files[0]).items():
        expected = value.double() * (scale if name.startswith("blocks.16.") else 1)
        assert torch.equal(encoder.tensors[name].double(), expected) or not exact
        torch.testing.assert_close(encoder.tensors[name].double(), expected, rtol=2**-11, atol=0)
        assert encoder.tensors[name].dtype == value.dtype


def test_an_adapter_round_trips_in_every_format(models, unets, tmp_path) -> None:
    preset = narrow(model=str(models["sdxl"]))
    path = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    tensors, metadata = read_base(read_header(path), WeightFormat.patches)
    for format_name in ("released", "comfyui", "kohya", "peft"):
        written = write_base(tensors, metadata, preset, format_name)
        save_file(dict(written.tensors), tmp_path / format_name, dict(written.metadata) or None)
        header = read_header(tmp_path / format_name)
        back, output = read_base(header, recognize(header))
        assert output == metadata
        assert identical(tensors, back), format_name
    merged = write_base(tensors, metadata, preset, "diffusers")
    assert (merged.what, len(merged.tensors)) == ("differences", 88)


def test_a_unet_is_exported_as_differences_and_in_original_names(models, unets, tmp_path) -> None:
    preset = narrow(model=str(models["sdxl"]))
    start = unets["sdxl"].state_dict()
    trained = {
        name: value + 0.25 if name.startswith("conv_out") else value
        for name, value in start.items()
    }
    added = write_base(trained, {"kind": "weights"}, preset, "released")
    assert added.tensors.keys() == {
        f"diffusion_model.out.2.{end}::diff::0" for end in ("weight", "bias")
    }
    assert all(torch.allclose(value, torch.tensor(0.25)) for value in added.tensors.values())
    whole = write_base(trained, {"kind": "weights"}, preset, "comfyui")
    assert torch.equal(whole.tensors["model.diffusion_model.out.2.bias"], trained["conv_out.bias"])
    for kind, format_name in [
        ("weights", "peft"),
        ("difference", "kohya"),
        ("sharing", "diffusers"),
        ("own", "released"),
    ]:
        with pytest.raises(
            Refused, match=f"a base of kind '{kind}' cannot be written as {format_name}"
        ):
            write_base(trained, {"kind": kind}, preset, format_name)


@pytest.mark.slow
def test_networks_of_full_size_are_exported_and_imported(
    models, unets, full_size, store, tmp_path
) -> None:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    checkpoint = checkpoint_of(
        import_files([*full_size, attn], models["sdxl"], store, offset_scale="1e9")
    )
    with pytest.raises(Refused, match=r"beyond the range of torch.float16") as refused:
        export_checkpoint(checkpoint, store, "peft", "stored", tmp_path / "out")
    assert "fp32" in refused.value.hint
    *written, autoencoder = export_checkpoint(checkpoint, store, "peft", "fp32", tmp_path / "out")
    assert (autoencoder.path, autoencoder.part) == ("", "backbone")
    names = {
        "ld_diffusers_sdxl_vae_transparent_encoder",
        "ld_diffusers_sdxl_vae_transparent_decoder",
    }
    assert {Path(file.path).stem for file in written} == names | {
        "pytorch_lora_weights",
        "adapter_model",
    }
    assert all(compute_sha256(Path(file.path)) == file.sha256 for file in written)
    listed = {path.name for path in (tmp_path / "out").iterdir()}
    assert listed == {Path(file.path).name for file in written} | {"adapter_config.json"}
    again = import_files(
        [Path(file.path) for file in written], models["sdxl"], None
    )  # one LoRA in two formats
    assert [file.part for file in again.files].count("base") == 1
    assert again.notes[0] == "offset scale 300, as stated in the encoder's file"


def test_unsupported_formats_and_precisions_are_refused(
    models, unets, narrow_files, store, tmp_path
) -> None:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    checkpoint = checkpoint_of(import_files([*narrow_files, attn], models["sdxl"], store, **NARROW))
    for format_name, precision, message in [
        ("pickle", "stored", "no format 'pickle'"),
        ("released", "int4", "no format 'released' in precision 'int4'"),
        ("released", "stored", "other programs do not support the networks of preset 'sdxl'"),
    ]:
        with pytest.raises(Refused, match=message) as refused:
            export_checkpoint(checkpoint, store, format_name, precision, tmp_path / "out")
        assert refused.value.hint
    assert not (tmp_path / "out").exists()


def test_an_export_for_peft_is_read_by_peft(
    models, unets, narrow_files, store, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "training.interop.export_checkpoint._RELEASED", ()
    )  # allow the export of narrow networks
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    checkpoint = checkpoint_of(import_files([*narrow_files, attn], models["sdxl"], store, **NARROW))
    export_checkpoint(checkpoint, store, "peft", "stored", tmp_path / "out")
    unet = UNet2DConditionModel.from_pretrained(models["sdxl"], subfolder="unet")
    read = PeftModel.from_pretrained(unet, tmp_path / "out").state_dict()
    written = load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert written
    for name, value in written.items():
        inner = name.replace("unet.", "base_model.model.", 1).replace(
            ".lora_A.", ".lora_A.default."
        )
        torch.testing.assert_close(
            read[inner.replace(".lora_B.", ".lora_B.default.")], value.float()
        )


def test_a_stored_base_is_read_with_the_alpha_it_was_stored_with(
    models, unets, store, tmp_path
) -> None:
    path = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    tensors, _ = read_base(read_header(path), WeightFormat.patches)
    file = save_part(store, "base", tensors, {"kind": "adapter", "rank": "4", "alpha": "2"})
    (tmp_path / "own.safetensors").write_bytes(store.get(file))
    header = read_header(tmp_path / "own.safetensors")
    assert read_base(header, recognize(header))[1]["alpha"] == "2"


def test_a_model_of_another_family_is_refused_before_anything_is_stored(
    models, unets, narrow_files, store, tmp_path
):
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    with pytest.raises(Refused, match="not of the family sd15"):
        import_files([*narrow_files, attn], models["sdxl"], store, "sd15", **NARROW)


def test_float8_tensors_are_refused(tmp_path) -> None:
    save_file(
        {"unet.conv_in.weight": torch.zeros(4, 4).to(torch.float8_e4m3fn)},
        tmp_path / "small.safetensors",
    )
    with pytest.raises(Refused, match="float8_e4m3fn"):
        read_tensors(tmp_path / "small.safetensors", ["unet.conv_in.weight"])
