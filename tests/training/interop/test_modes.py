"""Modes of released weights, recognized by their content, and the modes that generate a pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curation.domain import LayerRole
from curation.errors import Refused
from tests.training.pretrained import make_unet
from tests.training.released_files import (
    REAL_SD15,
    REAL_SDXL,
    SDXL_CHANNELS,
    TINY_SDXL,
    difference_shapes,
    patch_shapes,
    patched,
    real_unet,
    sharing_shapes,
    tiny_sd15,
)
from training.external_weights import WeightsHeader
from training.interop.formats import WeightFormat, recognize
from training.interop.modes import MODES, find_mode, plan_modes

FOREGROUND, BACKGROUND, BLENDED = LayerRole


def file(
    shapes: dict[str, tuple[int, ...]], name: str = "weights.safetensors", **metadata: str
) -> WeightsHeader:
    return WeightsHeader(
        Path(name), shapes, {"layerloop": json.dumps(metadata)} if metadata else {}
    )


def mode_of(header: WeightsHeader) -> str:
    return find_mode(header, recognize(header)).part


def test_the_modes_of_released_files_are_recognized() -> None:
    sdxl, sd15 = real_unet(REAL_SDXL), real_unet(REAL_SD15)
    narrow = {
        n: tuple(v.shape)
        for n, v in sdxl.state_dict().items()
        if ".to_" not in n and "embedding" not in n
    }
    wide = narrow | {"conv_in.weight": (320, 12, 3, 3)}
    two_inputs, three_inputs = difference_shapes(sdxl, 8), difference_shapes(sdxl, 12)
    controlled = sharing_shapes(sd15, 2, 256, controlled=True)
    released = {
        "layer_xl_transparent_attn": (patch_shapes(sdxl, 256, "sdxl"), "base"),
        "layer_xl_transparent_conv": (patched(narrow, "sdxl"), "base"),
        "layer_xl_fg2ble": (patched(two_inputs, "sdxl"), "fg2ble"),
        "layer_xl_bg2ble": (patched(two_inputs, "sdxl"), "bg2ble"),
        "layer_xl_fgble2bg": (patched(three_inputs, "sdxl"), "fgble2bg"),
        "layer_xl_bgble2fg": (patched(wide, "sdxl"), "bgble2fg"),
        "diffuser_layer_xl_bg2ble": (two_inputs, "bg2ble"),
        "layer_sd15_transparent_attn": (sharing_shapes(sd15, 1, 256), "base"),
        "layer_sd15_joint": (sharing_shapes(sd15, 3, 256), "joint"),
        "layer_sd15_fg2bg": (controlled, "fg2bg"),
        "layer_sd15_bg2fg": (controlled, "bg2fg"),
    }
    for name, (shapes, part) in released.items():
        assert mode_of(file(shapes, f"{name}.safetensors")) == part, name
    for name in ("layer_xl_fgble2bg", "layer_xl_bgble2fg", "layer_sd15_joint"):
        shapes, part = released[name]
        assert mode_of(file(shapes)) == part, "the mode does not depend on the name of the file"


def test_files_with_the_same_tensors_are_distinguished_by_metadata_or_name() -> None:
    unet = make_unet(SDXL_CHANNELS, cross_attention_dim=32, **TINY_SDXL)
    shapes = patched(difference_shapes(unet, 8), "sdxl")
    assert find_mode(
        file(shapes, "my_fg2ble.safetensors"), WeightFormat.differences
    ).doubt.endswith("fg2ble and bg2ble have the same tensors")
    assert mode_of(file(shapes, "my_fg2ble", mode="bg2ble")) == "bg2ble", (
        "its metadata take precedence over its name"
    )
    for name in ("weights", "fg2ble_or_bg2ble"):
        with pytest.raises(
            Refused, match="may be fg2ble and bg2ble: its content does not decide"
        ) as refused:
            mode_of(file(shapes, name))
        assert "name" in refused.value.hint
    whole = {n: tuple(v.shape) for n, v in unet.state_dict().items()} | {
        "conv_in.weight": (16, 12, 3, 3)
    }
    assert recognize(file(whole)) is WeightFormat.unet
    with pytest.raises(Refused, match="may be fgble2bg and bgble2fg"):
        mode_of(file(whole))


def test_unknown_frames_and_channels_are_refused() -> None:
    unet = tiny_sd15()
    for frames, controlled, message in [
        (2, False, "of 2 layers$"),
        (3, True, "of 3 layers, with a given layer"),
    ]:
        with pytest.raises(Refused, match=message):
            mode_of(file(sharing_shapes(unet, frames, 4, controlled=controlled)))
    with pytest.raises(Refused, match="has 16 input channels"):
        mode_of(file({"conv_in.weight": (16, 16, 3, 3)}))


XL = ("base", "fg2ble", "bg2ble", "fgble2bg", "bgble2fg")


@pytest.mark.parametrize(
    ("available", "given", "expected"),
    [
        (("base", "joint"), (), ["joint"]),
        (XL, (), ["base", "fg2ble", "fgble2bg"]),
        (("base", "fg2bg"), (), ["base", "fg2bg"]),
        (XL, (FOREGROUND,), ["fg2ble", "fgble2bg"]),
        (XL, (BACKGROUND,), ["bg2ble", "bgble2fg"]),
        (XL, (FOREGROUND, BLENDED), ["fgble2bg"]),
        (XL, (BACKGROUND, BLENDED), ["bgble2fg"]),
        (("fg2bg", "bg2fg"), (BACKGROUND,), ["bg2fg"]),
    ],
)
def test_a_pair_takes_the_fewest_modes(available, given, expected) -> None:
    assert [mode.name for mode in plan_modes(available, given)] == expected


@pytest.mark.parametrize(
    ("available", "given", "message"),
    [
        (("base",), (), "cannot generate a pair; its modes: base"),
        (("joint",), (FOREGROUND,), "cannot generate a pair around foreground; its modes: joint"),
        (("base", "fg2ble"), (FOREGROUND,), "around foreground"),
        (XL, (BLENDED,), "around blended"),
        (XL, (FOREGROUND, BACKGROUND), "around background and foreground"),
    ],
)
def test_a_pair_that_no_mode_generates_is_refused_with_a_hint(available, given, message) -> None:
    with pytest.raises(Refused, match=message) as refused:
        plan_modes(available, given)
    assert "import layer_sd15_joint" in refused.value.hint


def test_a_mode_describes_itself() -> None:
    assert str(MODES["fgble2bg"]) == "fgble2bg: given foreground and blended generates background"
    assert str(MODES["joint"]) == "joint: generates foreground, background, blended"
