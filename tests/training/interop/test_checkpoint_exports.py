"""Export of whole checkpoints: what each format holds, and Layerloop's own format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from curation.domain import Checkpoint, GenerationRequest, LayerRole, Prompt
from curation.errors import NotFound, Refused
from curation.object_store import FolderStore
from curation.ports import LoraFile
from tests.training.interop.test_import_export import checkpoint_of, ignore_progress, import_files
from tests.training.interop.test_transparency_weights import NARROW
from tests.training.released_files import fill, identical, patch_shapes, peft_shapes, write
from training.external_weights import read_header
from training.generate import load_generator
from training.interop.export_checkpoint import export_checkpoint, safe_cast
from training.interop.formats import WeightFormat, recognize
from training.interop.import_checkpoint import import_checkpoint
from training.pipelines.loras import add_loras
from training.safetensors_io import load_part, save_part

ROLES = ("foreground", "background")


@pytest.fixture
def checkpoint(models, unets, narrow_files, store, tmp_path) -> Checkpoint:
    attn = write(tmp_path / "attn", patch_shapes(unets["sdxl"], 4, "sdxl"))
    return checkpoint_of(import_files([*narrow_files, attn], models["sdxl"], store, **NARROW))


@pytest.fixture
def layered(checkpoint, unets, store) -> Checkpoint:
    """Return the checkpoint with layer adapters, whose alpha is twice the rank."""
    tensors = {
        f"{role}.{name}": value
        for seed, role in enumerate(ROLES)
        for name, value in fill(peft_shapes(unets["sdxl"], 2), seed).items()
    }
    metadata = {
        "kind": "layers",
        "roles": ",".join(ROLES),
        "join_text": "False",
        "rank": "2",
        "alpha": "4",
    }
    return replace(
        checkpoint,
        files={**checkpoint.files, "layers": save_part(store, "layers", tensors, metadata)},
    )


@pytest.fixture
def any_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "training.interop.export_checkpoint._RELEASED", ()
    )  # allow the export of narrow networks


@pytest.mark.parametrize("form", ["peft", "kohya", "diffusers"])
def test_layer_adapters_are_exported_as_one_lora_per_role(
    layered, store, tmp_path, any_networks, form
) -> None:
    found = export_checkpoint(layered, store, form, "stored", tmp_path / "out")
    tensors, _ = load_part(store, layered.files["layers"])
    for role in ROLES:
        [file] = [one for one in found if one.what == f"LoRA of the {role}"]
        assert recognize(read_header(Path(file.path))) is WeightFormat.lora
        own = {
            n.removeprefix(f"{role}."): value
            for n, value in tensors.items()
            if n.startswith(f"{role}.")
        }
        if form != "kohya":
            assert identical(load_file(file.path), own), "bit for bit"
        from diffusers import StableDiffusionXLPipeline

        _, alphas, numbers = StableDiffusionXLPipeline.lora_state_dict(
            str(tmp_path / "out"), weight_name=Path(file.path).name, return_lora_metadata=True
        )
        output = {float(value) for value in (alphas or {}).values()} or {numbers["unet.lora_alpha"]}
        assert output == {4.0}
    code = (tmp_path / "out" / "draw_layers.py").read_text()
    compile(code, "draw_layers.py", "exec")
    assert all(Path(one.path).name in code for one in found if one.part == "layers")
    assert {one.part for one in found if not one.path} == {"backbone"}


def test_parts_that_a_format_does_not_support_are_named(
    layered, store, tmp_path, any_networks
) -> None:
    found = export_checkpoint(layered, store, "released", "stored", tmp_path / "out")
    left = {file.part: file.what for file in found if not file.path}
    assert left.keys() == {"backbone", "layers"}
    assert left["layers"].startswith("not written: role adapters cannot be written as released")


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_draw_layers_runs_in_plain_diffusers(
    layered, store, tmp_path, any_networks, monkeypatch
) -> None:
    export_checkpoint(layered, store, "peft", "stored", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setattr("sys.argv", ["draw_layers.py", "a fox", "a forest"])
    code = (
        (tmp_path / "out" / "draw_layers.py")
        .read_text()
        .replace("pipe(prompt,", "pipe(prompt, num_inference_steps=1,")
    )
    exec(compile(code, "draw_layers.py", "exec"), {"__name__": "__main__"})
    assert all((tmp_path / "out" / f"{role}.png").is_file() for role in ROLES)


def generate(checkpoint: Checkpoint, store: FolderStore) -> np.ndarray:
    [layers] = load_generator(checkpoint, store).generate(
        [GenerationRequest(Prompt("a glass bottle"), 7)]
    )
    return layers[LayerRole.foreground]


def test_layerloops_format_moves_a_checkpoint_to_another_home(checkpoint, store, tmp_path) -> None:
    found = export_checkpoint(checkpoint, store, "layerloop", "stored", tmp_path / "out")
    assert {file.part for file in found} == checkpoint.files.keys()
    other_store = FolderStore(tmp_path / "other")
    for source in (tmp_path / "out", tmp_path / "out" / "checkpoint.json"):
        checked = import_checkpoint([source], "sdxl", {}, None, ignore_progress)
        assert checked.checkpoint is None
        assert not [path for path in other_store.folder.rglob("*") if path.is_file()]
    result = import_checkpoint([tmp_path / "out"], "sdxl", {}, other_store, ignore_progress)
    assert result.checkpoint == checkpoint
    assert checkpoint_of(result).id == checkpoint.id
    assert all(other_store.get(sha) == store.get(sha) for sha in checkpoint.files.values())
    assert np.array_equal(generate(checkpoint_of(result), other_store), generate(checkpoint, store))
    with pytest.raises(Refused, match="is imported unchanged"):
        import_checkpoint(
            [tmp_path / "out"], "sdxl", {"draw_steps": "3"}, other_store, ignore_progress
        )
    with pytest.raises(Refused, match="keeps the stored dtypes"):
        export_checkpoint(checkpoint, store, "layerloop", "fp16", tmp_path / "out")


def test_a_changed_or_broken_export_is_refused(checkpoint, store, tmp_path) -> None:
    folder = tmp_path / "out"
    export_checkpoint(checkpoint, store, "layerloop", "stored", folder)
    card = json.loads((folder / "checkpoint.json").read_text())
    for change, message in (
        ({"seed": 5}, "was changed"),
        ({"format": "layerloop checkpoint 9"}, "upgrade|has format"),
        ({"files": {"../evil": "0" * 64}}, "invalid part names"),
        ({"snapshot": "no digest"}, "is incomplete"),
    ):
        (folder / "checkpoint.json").write_text(json.dumps(card | change))
        with pytest.raises(Refused, match=message):
            import_checkpoint([folder], "sdxl", {}, store, ignore_progress)
    (folder / "checkpoint.json").write_text(json.dumps(card))
    part = folder / "transparency.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Refused, match="does not match checkpoint"):
        import_checkpoint([folder], "sdxl", {}, store, ignore_progress)
    part.unlink()
    with pytest.raises(NotFound, match="transparency"):
        import_checkpoint([folder], "sdxl", {}, store, ignore_progress)


def style(unet, path: Path, seed: int = 9) -> Path:
    save_file(
        {name: value.float() * 20 for name, value in fill(peft_shapes(unet, 2), seed).items()}, path
    )
    return path


def test_a_users_lora_is_used_and_described(checkpoint, unets, store, tmp_path) -> None:
    file = style(unets["sdxl"], tmp_path / "style.safetensors")
    styled = add_loras(checkpoint, store, [LoraFile(file, 0.5)])
    assert (styled.parent, styled.preset) == (checkpoint.id, checkpoint.preset)
    assert styled.id != checkpoint.id
    assert styled.id == add_loras(checkpoint, store, [LoraFile(file, 0.5)]).id, "twice is once"
    assert styled.id != add_loras(checkpoint, store, [LoraFile(file, 0.6)]).id
    generator = load_generator(styled, store)
    from curation.ports import DEFAULT_OPTIONS

    assert generator.describe(DEFAULT_OPTIONS)["lora"].startswith("style.safetensors ")
    assert generator.describe(DEFAULT_OPTIONS)["lora"].endswith(":0.5")
    assert not np.array_equal(generate(styled, store), generate(checkpoint, store))
    assert np.array_equal(generate(styled, store), generate(styled, store))
    nought = add_loras(checkpoint, store, [LoraFile(file, 0.0)])
    assert np.abs(generate(nought, store).astype(int) - generate(checkpoint, store)).max() <= 1


def test_other_files_than_style_loras_are_refused(checkpoint, unets, store, tmp_path) -> None:
    attn = write(tmp_path / "patches.safetensors", patch_shapes(unets["sdxl"], 4, "sdxl"))
    with pytest.raises(Refused, match="not a style LoRA"):
        add_loras(checkpoint, store, [LoraFile(attn)])
    other = style(unets["sd15"], tmp_path / "other.safetensors")
    with pytest.raises(Refused, match="not for"):
        add_loras(checkpoint, store, [LoraFile(other)])
    with pytest.raises(NotFound, match="there is no file"):
        add_loras(checkpoint, store, [LoraFile(tmp_path / "absent")])
    with pytest.raises(Refused, match="a built-in denoiser"):
        add_loras(replace(checkpoint, preset="tiny", changes={}), store, [LoraFile(other)])


def test_the_hint_for_a_lora_of_sd15_names_kohya(unets) -> None:
    from training.interop.export_base import write_base
    from training.presets.presets import SD15

    tensors = fill(peft_shapes(unets["sd15"], 2))
    for form in ("released", "comfyui"):
        with pytest.raises(Refused, match="attention sharing") as refused:
            write_base(tensors, {"kind": "adapter", "rank": "2", "alpha": "2"}, SD15, form)
        assert "kohya" in refused.value.hint


def test_values_too_small_for_half_precision_stay_float32() -> None:
    weights = torch.tensor([1e-3, 2e-8, -3e-9])
    assert safe_cast(weights, torch.float16).dtype == torch.float32
    assert safe_cast(torch.tensor([0.5, 0.0]), torch.float16).dtype == torch.float16


def test_a_single_file_model_is_refused_before_anything_is_read(
    narrow_files, store, tmp_path
) -> None:
    model = tmp_path / "sdxl.safetensors"
    save_file(
        {
            "conditioner.embedders.1.model.x": torch.zeros(2),
            "model.diffusion_model.out.2.bias": torch.zeros(4),
        },
        model,
    )
    with pytest.raises(Refused, match="single file") as refused:
        import_files([tmp_path / "not-read"], model, store)
    assert "StableDiffusionXLPipeline" in refused.value.hint
    assert "save_pretrained" in refused.value.hint
    (tmp_path / "model.ckpt").write_bytes(b"\x80")
    with pytest.raises(Refused, match="neither a diffusers folder nor a safetensors file"):
        import_files(narrow_files, tmp_path / "model.ckpt", store)
