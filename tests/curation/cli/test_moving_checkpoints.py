"""Commands move a checkpoint to another home, and a user's LoRA generates single images and rounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from curation.cli.loras import parse_loras
from curation.domain import Checkpoint
from curation.errors import Refused
from curation.settings import Settings
from tests.curation.cli.test_cli import call, here
from tests.training.interop.test_transparency_weights import NARROW, narrow
from tests.training.pretrained import write_sdxl
from tests.training.released_files import (
    SDXL_CHANNELS,
    TINY_SDXL,
    fill,
    network_shapes,
    patch_shapes,
    peft_shapes,
    write,
)

__all__ = ["here"]  # the fixture


@pytest.fixture
def imported(here: Settings, tmp_path: Path) -> str:
    """Return the id of an imported checkpoint that can generate."""
    model = write_sdxl(tmp_path / "model", SDXL_CHANNELS, **TINY_SDXL)
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    files = [
        str(write(tmp_path / f"{n}.any", network_shapes(narrow(), n)))
        for n in ("encoder", "decoder")
    ]
    files.append(str(write(tmp_path / "attn", patch_shapes(unet, 4, "sdxl"))))
    lora = {name: value.float() * 20 for name, value in fill(peft_shapes(unet, 2), 9).items()}
    save_file(lora, tmp_path / "style.safetensors")
    numbers = {"image_size": "64", "draw_steps": "1", "draw_batch": "1", "decoder_views": "1"}
    pairs = {**NARROW, **numbers, "model": str(model)}
    overrides = [word for name, value in pairs.items() for word in ("--set", f"{name}={value}")]
    return call("checkpoint", "import", *files, *overrides).strip()


def test_a_checkpoint_of_another_home_keeps_its_id_and_lineage(
    imported: str, tmp_path: Path
) -> None:
    call(
        "checkpoint",
        "export",
        imported[:12],
        "--format",
        "layerloop",
        "--out",
        str(tmp_path / "box"),
    )
    assert call("checkpoint", "import", str(tmp_path / "box")).strip() == imported
    # The same weights, with a snapshot and a parent that only another home has.
    card = json.loads((tmp_path / "box" / "checkpoint.json").read_text())
    fields = {name: card[name] for name in card if name not in {"format", "id"}}
    fields["sample_grid"] = fields.pop("sheet")
    foreign = replace(Checkpoint(**fields), snapshot="a" * 64, parent="b" * 64)
    output = card | {"id": foreign.id, "snapshot": foreign.snapshot, "parent": foreign.parent}
    (tmp_path / "box" / "checkpoint.json").write_text(json.dumps(output))
    assert call("checkpoint", "import", str(tmp_path / "box")).strip() == foreign.id
    rows = {row["id"]: row for row in json.loads(call("checkpoint", "list", "--json"))}
    assert (rows[foreign.id]["snapshot_id"], rows[foreign.id]["parent_id"]) == ("a" * 64, "b" * 64)
    call("checkpoint", "promote", foreign.id[:12])


def test_a_lora_generates_images_and_rounds(imported: str, tmp_path: Path) -> None:
    lora = f"{tmp_path / 'style.safetensors'}:0.5"
    out = [tmp_path / "plain.png", tmp_path / "styled.png"]
    call("generate", "a fox", "--checkpoint", imported[:12], "--out", str(out[0]))
    [drawn] = json.loads(
        call(
            "generate",
            "a fox",
            "--checkpoint",
            imported[:12],
            "--out",
            str(out[1]),
            "--lora",
            lora,
            "--json",
        )
    )
    assert out[0].read_bytes() != out[1].read_bytes()
    assert drawn["lora"].startswith("style.safetensors ")
    (tmp_path / "prompts.txt").write_text("a fox\n")
    arguments = (
        "--quota",
        "1",
        "--checkpoint",
        imported[:12],
        "--prompts",
        str(tmp_path / "prompts.txt"),
    )
    call("round", "open", *arguments, "--lora", lora)
    [opened] = json.loads(call("round", "list", "--json"))
    assert opened["checkpoint_id"] == drawn["checkpoint"] != imported
    rows = {row["id"]: row for row in json.loads(call("checkpoint", "list", "--json"))}
    assert rows[opened["checkpoint_id"]]["parent_id"] == imported
    assert "style-1" in rows[opened["checkpoint_id"]]["files"]


def test_weights_of_styles_are_numbers() -> None:
    assert [
        (str(lora.path), lora.weight) for lora in parse_loras(["a.safetensors", "b:0.5", "c:d:-1"])
    ] == [
        ("a.safetensors", 1.0),
        ("b", 0.5),
        ("c:d", -1.0),
    ]
    for wrong in ("a:", "a:b", "a:nan", "a:inf"):
        with pytest.raises(Refused, match="no valid weight after the colon"):
            parse_loras([wrong])
