"""What the bits of a generated image depend on besides the request: precision, device, versions."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from training.code_version import code_version

_PACKAGES = ("torch", "diffusers", "transformers")


def describe_environment(
    dtype: torch.dtype, device: torch.device | str, batch_size: int
) -> dict[str, str]:
    """Describe where images are generated, as far as their last bits may depend on it.

    Args:
        dtype: The dtype of the denoiser.
        device: Where it runs.
        batch_size: Number of images in a batch; smaller batches are padded to it.

    Returns:
        precision, batch, device, device_name, threads (on the CPU), matmul (the precision of
        float32 products), and the versions of torch, diffusers, transformers and layerloop.
    """
    kind = torch.device(device).type
    found = {
        "precision": str(dtype).removeprefix("torch."),
        "batch": str(batch_size),
        "device": kind,
        "device_name": _device_name(torch.device(device)),
        "matmul": torch.get_float32_matmul_precision(),
    }
    if kind == "cpu":
        found["threads"] = str(torch.get_num_threads())
    versions = {name: _version(name) for name in _PACKAGES}
    return found | versions | {"layerloop": code_version()}


def _device_name(device: torch.device) -> str:
    """Return the model of a GPU; of a CPU the architecture and the instructions in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
