"""Small base models and released network files for the tests of import and export."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.training.pretrained import write_sd15, write_sdxl
    from tests.training.released_files import SD15_CHANNELS, SDXL_CHANNELS, TINY_SD15, TINY_SDXL

    folder = tmp_path_factory.mktemp("models")
    return {
        "sdxl": write_sdxl(folder / "sdxl", SDXL_CHANNELS, **TINY_SDXL),
        "sd15": write_sd15(folder / "sd15", SD15_CHANNELS, **TINY_SD15),
    }


@pytest.fixture(scope="module")
def unets(models: dict[str, Path]):
    from diffusers import UNet2DConditionModel

    return {
        name: UNet2DConditionModel.from_pretrained(path, subfolder="unet")
        for name, path in models.items()
    }


@pytest.fixture
def narrow_files(tmp_path: Path) -> list[Path]:
    from tests.training.interop.test_transparency_weights import narrow
    from tests.training.released_files import network_shapes, write

    return [
        write(tmp_path / f"{network}.any", network_shapes(narrow(), network))
        for network in ("encoder", "decoder")
    ]
