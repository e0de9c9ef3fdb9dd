"""Ranges of preset columns: accepted values build networks, others are refused with a hint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.domain import TrainingRequest
from curation.errors import LayerloopError, NotFound, Refused
from curation.object_store import FolderStore
from training.denoiser.builtin import BuiltinDenoiser
from training.memory_estimate import estimate
from training.presets.preset import Preset
from training.presets.presets import find_preset
from training.train import train
from training.transparency.autoencoder import LinearAutoencoder
from training.transparency.networks import Transparency


@pytest.mark.parametrize(
    "change",
    [
        "base_lr=-1", "base_lr=0", "base_lr=inf", "base_lr=nan", "transparency_lr=2", "caption_dropout=2",
        "caption_dropout=-0.1", "ema_decay=1.5", "ema_decay=1", "guidance=nan", "guidance=-1", "snr_gamma=-5",
        "snr_gamma=inf", "precision=fp8", "precision=", "image_size=65", "image_size=0", "image_size=-64",
        "processes=0", "processes=-1", "decoder_views=3", "tracker=tensorboard", "optimizer=sgd", "family=flux",
        "encoder_widths=1,0,3", "decoder_widths=", "unet_channels=3", "text_vocabulary=2", "offset_scale=0",
        "offset_scale=nan", "cooldown=1.1", "offset_dropout=2", "erosion=-1", "layer_rank=0", "threads=-1",
    ],
)  # fmt: skip
def test_a_value_outside_of_its_range_is_refused_with_the_range(change: str) -> None:
    column, _, value = change.partition("=")
    with pytest.raises(LayerloopError, match=column) as refused:
        find_preset("tiny", {column: value})
    assert refused.value.hint


def test_min_snr_is_refused_with_zero_terminal_snr() -> None:
    with pytest.raises(LayerloopError, match="zero terminal SNR"):
        find_preset("tiny", {"snr_gamma": "5"})
    assert find_preset("tiny", {"snr_gamma": "5", "zero_terminal_snr": "false"}).snr_gamma == 5


@pytest.mark.parametrize("column", ["model", "inpainter", "perceptual"])
def test_a_missing_path_is_refused_before_memory_is_estimated(column: str, tmp_path: Path) -> None:
    changes = {column: str(tmp_path / "nothing")}
    request = TrainingRequest("transparency", "sd15", "0" * 64, None, None, 0, 0, changes)
    with pytest.raises(NotFound, match=f"there is no .*{tmp_path.name}"):
        estimate(request, 1)


def test_a_folder_without_a_model_is_refused_before_memory_is_estimated(tmp_path: Path) -> None:
    request = TrainingRequest(
        "transparency", "sd15", "0" * 64, None, None, 0, 0, {"model": str(tmp_path)}
    )
    with pytest.raises(Refused, match="model"):
        estimate(request, 1)


def test_more_processes_than_cores_are_refused_where_the_training_starts(tmp_path: Path) -> None:
    request = TrainingRequest("whole", "micro", "0" * 64, None, None, 0, 0, {"processes": "9999"})
    with pytest.raises(Refused, match="9999 processes") as refused:
        train(request, FolderStore(tmp_path / "objects"), tmp_path / "run", lambda _: None)
    assert "--set processes=" in refused.value.hint


_SIZES = st.integers(-1, 9) | st.sampled_from([12, 16, 24, 32, 48, 60, 64, 96, 100, 128])
_LISTS = st.lists(st.sampled_from([0, 4, 8, 12, 16, 32, 40]), min_size=1, max_size=4).map(
    lambda widths: ",".join(map(str, widths))
)
_CHANGES = st.dictionaries(
    st.sampled_from(["image_size", "stride", "latent_channels", "fold", "decoder_groups", "text_width", "text_layers",
                     "text_length", "dit_width", "dit_patch", "unet_layers", "unet_head_width"]), _SIZES.map(str),
    max_size=3,
)  # fmt: skip
_WIDTHS = st.dictionaries(
    st.sampled_from(["encoder_widths", "decoder_widths", "unet_channels"]), _LISTS, max_size=2
)


@settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(_CHANGES, _WIDTHS, st.sampled_from(["transformer", "unet"]))
def test_an_accepted_row_builds_its_networks(
    sizes: dict[str, str], widths: dict[str, str], denoiser: str
) -> None:
    try:
        row = find_preset("micro", {**sizes, **widths, "denoiser": denoiser})
    except LayerloopError as refused:
        row, hint = None, refused.hint
    if row is None:
        assert hint
    else:
        _step(row)


def _step(row: Preset) -> None:
    """Encode, decode and denoise two images on the meta device."""
    side = row.image_size
    with torch.device("meta"):
        alpha_B1HW, padded_B3HW = torch.zeros(2, 1, side, side), torch.zeros(2, 3, side, side)
        LinearAutoencoder(row.stride, row.latent_channels)
        networks = Transparency(row)
        offset_BCHW = networks.encoder(alpha_B1HW, padded_B3HW)
        assert offset_BCHW.shape[-1] * row.stride == side
        decoded_B1HW, _ = networks.decoder(padded_B3HW, offset_BCHW)
        assert decoded_B1HW.shape == alpha_B1HW.shape
        denoiser = BuiltinDenoiser(row)
        latent_BCHW = torch.zeros(2, row.latent_channels, side // row.stride, side // row.stride)
        states_BLD = torch.zeros(2, row.text_length, row.text_width)
        mask_BL = torch.ones(2, row.text_length, dtype=torch.bool)
        predicted_BCHW = denoiser.network(latent_BCHW, torch.zeros(2), states_BLD, mask_BL)
    assert predicted_BCHW.shape == latent_BCHW.shape
