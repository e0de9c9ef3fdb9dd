"""Files of others become one checkpoint that draws, and the checkpoint becomes the same files again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file, save_file

from curation.domain import Checkpoint, DrawRequest, LayerRole, Progress, Prompt
from curation.errors import NotFound, Refused
from curation.objects import FolderStore, sha256_of
from curation.ports import Taken
from tests.training.pretrained import write_sd15, write_sdxl
from tests.training.released.test_released_networks import NARROW, narrow
from tests.training.released_files import (
    SD15_CHANNELS,
    SDXL_CHANNELS,
    TINY_SD15,
    TINY_SDXL,
    difference_shapes,
    identical,
    network_shapes,
    patch_shapes,
    patched,
    sharing_shapes,
    write,
)
from training.files import read_header, read_tensors
from training.generate import open_generator
from training.presets.table import SDXL, find_preset
from training.released.bases import read_base
from training.released.exporting import FORMS, give_out, write_base, write_networks
from training.released.importing import take_in
from training.released.layouts import Layout, recognise
from training.released.networks import read_networks, recognise_all
from training.weights import load_part, read_metadata, save_part

DRAWING = {"image_size": "64", "draw_steps": "2", "draw_batch": "1", "decoder_views": "1"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "sdxl": write_sdxl(folder / "sdxl", SDXL_CHANNELS, **TINY_SDXL),
        "sd15": write_sd15(folder / "sd15", SD15_CHANNELS, **TINY_SD15),
    }


@pytest.fixture(scope="module")
def unets(models: dict[str, Path]):
    from diffusers import UNet2DConditionModel

    return {name: UNet2DConditionModel.from_pretrained(path, subfolder="unet") for name, path in models.items()}


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An encoder and a decoder of the released sizes."""
    folder = tmp_path_factory.mktemp("released")
    for network in ("encoder", "decoder"):
        state = {name: torch.full(shape, 0.01).half() for name, shape in network_shapes(SDXL, network).items()}
        save_file(state, folder / f"{network}.any")
    write(folder / "encoder.any", network_shapes(SDXL, "encoder"))
    return [folder / "encoder.any", folder / "decoder.any"]


@pytest.fixture
def narrow_files(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{network}.any", network_shapes(narrow(), network)) for network in ("encoder", "decoder")]


def nothing(seen: Progress) -> None:
    del seen


def take(files: list[Path], model: Path, store: FolderStore | None, preset: str = "sdxl", **changes: str) -> Taken:
    return take_in(files, preset, {"model": str(model), **DRAWING, **changes}, store, nothing)


def kept(taken: Taken) -> Checkpoint:
    assert taken.checkpoint is not None
    return taken.checkpoint


def test_files_become_one_checkpoint_that_draws(models, unets, narrow_files, store, tmp_path) -> None:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    taken = take([*narrow_files, attn], models["sdxl"], store, **NARROW)
    checkpoint = kept(taken)
    assert (checkpoint.recipe, checkpoint.preset, checkpoint.snapshot) == ("imported", "sdxl", None)
    assert checkpoint.changes["offset_scale"] == "1.0"
    assert [(file.part, file.tensors) for file in taken.files] == [
        ("transparency", 18),
        ("transparency", 188),
        ("base", 176),
    ]
    assert "is assumed" in taken.notes[0]
    [layers] = open_generator(checkpoint, store).draw([DrawRequest(Prompt("a glass bottle"), 7)])
    assert layers[LayerRole.foreground].shape == (64, 64, 4)
    without = kept(
        take(
            [*narrow_files, write(tmp_path / "b", patch_shapes(unets["sdxl"], 4, "sdxl"), seed=9)],
            models["sdxl"],
            store,
            **NARROW,
        )
    )
    [others] = open_generator(without, store).draw([DrawRequest(Prompt("a glass bottle"), 7)])
    assert not np.array_equal(layers[LayerRole.foreground], others[LayerRole.foreground])


def test_what_is_stored_tells_where_it_came_from(models, narrow_files, store) -> None:
    checkpoint = kept(take(narrow_files, models["sdxl"], store, **NARROW, offset_scale="300"))
    file = checkpoint.files["transparency"]
    facts = read_metadata(store.get(file), file)
    assert (facts["recipe"], facts["preset"], facts["offset_scale"]) == ("imported", "sdxl", "300.0")
    sources = json.loads(facts["sources"])
    assert [(s["path"], s["sha256"]) for s in sources] == [(path.name, sha256_of(path)) for path in narrow_files]


def test_importing_twice_is_importing_once(models, narrow_files, store) -> None:
    one, two = (kept(take(order, models["sdxl"], store, **NARROW)) for order in (narrow_files, narrow_files))
    assert one.id == two.id


def test_a_look_stores_nothing(models, narrow_files, store) -> None:
    taken = take(narrow_files, models["sdxl"], None, **NARROW)
    assert taken.checkpoint is None
    assert "cannot draw" in taken.notes[1]
    assert not [path for path in store.folder.rglob("*") if path.is_file()]


def test_a_decoder_alone_is_enough_to_draw(models, unets, narrow_files, store, tmp_path) -> None:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    taken = take([narrow_files[1], attn], models["sdxl"], store, **NARROW)
    assert "no encoder was given" in taken.notes[0]
    [layers] = open_generator(kept(taken), store).draw([DrawRequest(Prompt("a cat"), 1)])
    assert layers[LayerRole.foreground].shape == (64, 64, 4)


def test_attention_sharing_draws_transparent_sd15(models, unets, narrow_files, store, tmp_path) -> None:
    attn = write(tmp_path / "attn", sharing_shapes(unets["sd15"], 1, 4))
    checkpoint = kept(take([*narrow_files, attn], models["sd15"], store, "sd15", **NARROW))
    tensors, facts = load_part(store, checkpoint.files["base"])
    assert facts["kind"] == "sharing"
    assert tensors.keys() == load_file(attn).keys()
    [layers] = open_generator(checkpoint, store).draw([DrawRequest(Prompt("a cat"), 1)])
    assert layers[LayerRole.foreground].shape == (64, 64, 4)


def test_nothing_is_stored_when_anything_is_wrong(models, unets, narrow_files, store, tmp_path) -> None:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    conv = write(tmp_path / "conv", patched(difference_shapes(unets["sdxl"], 4), "sdxl"))
    cases = [
        (lambda: take([*narrow_files, attn, conv], models["sdxl"], store, **NARROW), "2 of these files are bases"),
        (lambda: take([*narrow_files, attn], models["sd15"], store, "sd15", **NARROW), "these weights are not for"),
        (lambda: take([*narrow_files, attn], models["sd15"], store, **NARROW), "not of the family sdxl"),
        (lambda: take([*narrow_files], models["sdxl"], store), "does not fit preset 'sdxl'"),
        (lambda: take_in(narrow_files, "tiny", {}, store, nothing), "preset 'tiny' has no pretrained model"),
        (lambda: take(narrow_files, models["sdxl"], store, wings="2"), "no number 'wings'"),
        (lambda: take(narrow_files, tmp_path / "absent", store, **NARROW), "there is no folder"),
    ]
    for wrong, said in cases:
        with pytest.raises((Refused, NotFound), match=said) as error:
            wrong()
        assert error.value.hint
    assert not [path for path in store.folder.rglob("*") if path.is_file()]


def test_conditional_differences_come_in_and_say_that_they_draw_nothing_alone(
    models, unets, narrow_files, store, tmp_path
) -> None:
    wide = write(tmp_path / "fg2ble", patched(difference_shapes(unets["sdxl"], 8), "sdxl"))
    taken = take([*narrow_files, wide], models["sdxl"], store, **NARROW)
    assert "wants 8 channels" in taken.notes[1]
    assert load_part(store, kept(taken).files["base"])[0]["conv_in.weight"].shape[1] == 8
    with pytest.raises(Refused, match="wants 8 channels"):
        open_generator(kept(taken), store)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("layer_xl_transparent_attn", "released"),
        ("layer_xl_transparent_conv", "comfyui"),
        ("layer_xl_conditioned", "released"),
        ("ld_diffusers_sdxl_attn", "diffusers"),
        ("layer_sd15_transparent_attn", "released"),
        ("diffusion_pytorch_model", "diffusers"),
    ],
)
def test_every_released_base_comes_back_to_the_bit(models, unets, narrow_files, store, tmp_path, name, form) -> None:
    family = "sd15" if "sd15" in name else "sdxl"
    unet = unets[family]
    shapes = {
        "layer_xl_transparent_attn": patch_shapes(unet, 4, family),
        "layer_xl_transparent_conv": patched(difference_shapes(unet, 4), family),
        "layer_xl_conditioned": patched(difference_shapes(unet, 12), family),
        "ld_diffusers_sdxl_attn": difference_shapes(unet, 4),
        "layer_sd15_transparent_attn": sharing_shapes(unet, 1, 4),
        "diffusion_pytorch_model": {},
    }[name]
    base = write(tmp_path / "base", shapes)
    if name == "diffusion_pytorch_model":
        save_file({key: value.half() for key, value in unet.state_dict().items()}, base)
    checkpoint = kept(take([*narrow_files, base], models[family], store, family, **NARROW))
    preset = find_preset(checkpoint.preset, checkpoint.changes)
    written = write_base(*load_part(store, checkpoint.files["base"]), preset, form)
    assert written.name == name
    assert identical(load_file(base), written.tensors)


@pytest.mark.parametrize(("form", "scale"), [("released", 1.0), ("diffusers", 300.0)])
def test_both_networks_come_back_to_the_bit(models, narrow_files, store, tmp_path, form, scale) -> None:
    for channels in (4, 16):
        preset = narrow(latent_channels=str(channels), offset_scale=str(scale))
        files = {n: write(tmp_path / f"{n}{channels}", network_shapes(preset, n)) for n in ("encoder", "decoder")}
        read = read_networks(recognise_all(list(files.values())), preset, scale)
        facts = {"offset_scale": repr(read.offset_scale)}
        for file in write_networks(read.tensors, facts, preset, FORMS[form]):
            network = file.name.rpartition("_")[2]
            assert file.name.startswith("ld_diffusers_sdxl" if form == "diffusers" else "vae_transparent")
            assert identical(load_file(files[network]), file.tensors)


@pytest.mark.parametrize(("scale", "exact"), [(64.0, True), (100.0, False)])
def test_the_scale_is_folded_into_the_last_layer(narrow_files, scale, exact) -> None:
    """By a power of two to the bit, by any other number to one rounding."""
    preset = narrow()
    read = read_networks(recognise_all(narrow_files), preset, scale)
    encoder, _ = write_networks(read.tensors, {"offset_scale": repr(scale)}, preset, FORMS["released"])
    assert encoder.metadata["offset_scale"] == "1.0"
    for name, value in load_file(narrow_files[0]).items():
        wanted = value.double() * (scale if name.startswith("blocks.16.") else 1)
        assert torch.equal(encoder.tensors[name].double(), wanted) or not exact
        torch.testing.assert_close(encoder.tensors[name].double(), wanted, rtol=2**-11, atol=0)
        assert encoder.tensors[name].dtype == value.dtype


def test_an_adapter_goes_out_in_every_form_and_comes_in_as_the_same(models, unets, tmp_path) -> None:
    preset = narrow(model=str(models["sdxl"]))
    path = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    tensors, facts = read_base(read_header(path), Layout.patches)
    for form in ("released", "comfyui", "kohya", "peft"):
        written = write_base(tensors, facts, preset, form)
        save_file(dict(written.tensors), tmp_path / form, dict(written.metadata) or None)
        header = read_header(tmp_path / form)
        back, told = read_base(header, recognise(header))
        assert told == facts
        assert identical(tensors, back), form
    merged = write_base(tensors, facts, preset, "diffusers")
    assert (merged.what, len(merged.tensors)) == ("differences", 88)


def test_a_whole_unet_goes_out_as_what_was_added_and_in_original_names(models, unets, tmp_path) -> None:
    preset = narrow(model=str(models["sdxl"]))
    start = unets["sdxl"].state_dict()
    trained = {name: value + 0.25 if name.startswith("conv_out") else value for name, value in start.items()}
    added = write_base(trained, {"kind": "weights"}, preset, "released")
    assert added.tensors.keys() == {f"diffusion_model.out.2.{end}::diff::0" for end in ("weight", "bias")}
    assert all(torch.allclose(value, torch.tensor(0.25)) for value in added.tensors.values())
    whole = write_base(trained, {"kind": "weights"}, preset, "comfyui")
    assert torch.equal(whole.tensors["model.diffusion_model.out.2.bias"], trained["conv_out.bias"])
    for kind, form in [("weights", "peft"), ("difference", "kohya"), ("sharing", "diffusers"), ("own", "released")]:
        with pytest.raises(Refused, match=f"a base of kind '{kind}' cannot be written as {form}"):
            write_base(trained, {"kind": kind}, preset, form)


@pytest.mark.slow
def test_networks_of_full_size_go_through_the_doors(models, unets, full_size, store, tmp_path) -> None:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    checkpoint = kept(take([*full_size, attn], models["sdxl"], store, offset_scale="1e9"))
    with pytest.raises(Refused, match=r"beyond the range of torch.float16") as refused:
        give_out(checkpoint, store, "peft", "stored", tmp_path / "out")
    assert "fp32" in refused.value.hint
    written = give_out(checkpoint, store, "peft", "fp32", tmp_path / "out")
    names = {"ld_diffusers_sdxl_vae_transparent_encoder", "ld_diffusers_sdxl_vae_transparent_decoder"}
    assert {Path(file.path).stem for file in written} == names | {"pytorch_lora_weights", "adapter_model"}
    assert all(sha256_of(Path(file.path)) == file.sha256 for file in written)
    listed = {path.name for path in (tmp_path / "out").iterdir()}
    assert listed == {Path(file.path).name for file in written} | {"adapter_config.json"}
    once = [
        Path(file.path) for file in written if not file.path.endswith("adapter_model.safetensors")
    ]  # one LoRA twice
    again = take(once, models["sdxl"], None)
    assert again.notes[0] == "offset scale 300, as the encoder's file says"


def test_what_a_form_cannot_hold_is_refused(models, unets, narrow_files, store, tmp_path) -> None:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    checkpoint = kept(take([*narrow_files, attn], models["sdxl"], store, **NARROW))
    for form, precision, said in [
        ("pickle", "stored", "no format 'pickle'"),
        ("released", "int4", "no format 'released' in precision 'int4'"),
        ("released", "stored", "no other program knows the networks of preset 'sdxl'"),
    ]:
        with pytest.raises(Refused, match=said) as refused:
            give_out(checkpoint, store, form, precision, tmp_path / "out")
        assert refused.value.hint
    assert not (tmp_path / "out").exists()


def test_an_export_for_peft_is_read_by_peft_itself(
    models, unets, narrow_files, store, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.released.exporting._RELEASED", ())  # narrow networks may go out here
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    checkpoint = kept(take([*narrow_files, attn], models["sdxl"], store, **NARROW))
    give_out(checkpoint, store, "peft", "stored", tmp_path / "out")
    unet = UNet2DConditionModel.from_pretrained(models["sdxl"], subfolder="unet")
    read = PeftModel.from_pretrained(unet, tmp_path / "out").state_dict()
    written = load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert written
    for name, value in written.items():
        inner = name.replace("unet.", "base_model.model.", 1).replace(".lora_A.", ".lora_A.default.")
        torch.testing.assert_close(read[inner.replace(".lora_B.", ".lora_B.default.")], value.float())


def test_a_stored_base_is_read_with_the_alpha_it_was_stored_with(models, unets, store, tmp_path) -> None:
    path = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    tensors, _ = read_base(read_header(path), Layout.patches)
    file = save_part(store, "base", tensors, {"kind": "adapter", "rank": "4", "alpha": "2"})
    (tmp_path / "own.safetensors").write_bytes(store.get(file))
    header = read_header(tmp_path / "own.safetensors")
    assert read_base(header, recognise(header))[1]["alpha"] == "2"


def test_a_model_of_another_family_is_told_before_anything_is_stored(models, unets, narrow_files, store, tmp_path):
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    with pytest.raises(Refused, match="not of the family sd15"):
        take([*narrow_files, attn], models["sdxl"], store, "sd15", **NARROW)


def test_numbers_of_eight_bits_are_refused(tmp_path) -> None:
    save_file({"unet.conv_in.weight": torch.zeros(4, 4).to(torch.float8_e4m3fn)}, tmp_path / "small.safetensors")
    with pytest.raises(Refused, match="float8_e4m3fn"):
        read_tensors(tmp_path / "small.safetensors", ["unet.conv_in.weight"])
