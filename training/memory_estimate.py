"""Memory estimate of a training, stage by stage, before anything is downloaded or loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from curation.domain import TrainingRequest
from curation.errors import Refused
from curation.ports import StageMemory
from training.denoiser.cache import PRECISIONS
from training.engine.distributed import enable_checkpointing, fsdp_units
from training.engine.memory_tracker import (
    StepMemory,
    estimate_inference,
    estimate_optimizer,
    estimate_step,
)
from training.presets.preset import Preset, stage_column
from training.presets.presets import find_requested_preset
from training.pretrained.families import find_family
from training.pretrained.loading import check_model_paths
from training.stage_networks import (
    build_networks,
    decoding_step,
    encoding_step,
    make_base,
    make_dpo,
    make_kto,
    make_layers,
    make_layers_dpo,
    make_layers_kto,
    make_transparency,
)

STAGES: dict[str, tuple[str, ...]] = {
    "transparency": ("transparency",),
    "base": ("latents", "base", "sheets"),
    "layers": ("latents", "layers", "sheets"),
    "whole": ("transparency", "latents", "base", "sheets"),
    "pairs": ("transparency", "latents", "base", "layers", "sheets"),
    "kto": ("latents", "kto", "sheets"),
    "dpo": ("latents", "dpo", "sheets"),
    "layers-kto": ("latents", "layers-kto", "sheets"),
    "layers-dpo": ("latents", "layers-dpo", "sheets"),
    "whole-kto": ("transparency", "latents", "base", "kto", "sheets"),
    "pairs-kto": ("transparency", "latents", "base", "layers", "layers-kto", "sheets"),
}
MAKERS = {
    "transparency": make_transparency,
    "base": make_base,
    "layers": make_layers,
    "kto": make_kto,
    "dpo": make_dpo,
    "layers-kto": make_layers_kto,
    "layers-dpo": make_layers_dpo,
}
"""Makers of the networks and a batch of each stage that trains."""
GPU_SIZES_GIB = (8, 12, 16, 24, 32, 40, 48, 80, 141)  # GiB of common GPUs
CUDA_CONTEXT_GIB = 0.7  # GiB of the CUDA context
FRAGMENTATION = 0.05  # share of memory lost to fragmentation
GIB = 2**30


def estimate(request: TrainingRequest, image_count: int) -> list[StageMemory]:
    """Estimate the peak memory of each stage of a recipe (the port LAYERLOOP_ESTIMATOR).

    Each stage's own training step runs on fake tensors. Counted are weights, gradients, optimizer
    state, weight average and activations of one process, with square images, the largest shape. Not
    counted are the driver, Python, and convolution workspaces. The device is a GPU for pretrained
    families and where there is one.

    Args:
        request: The training request.
        image_count: The number of images in the split, which matter if they are kept in memory.

    Raises:
        NotFound: The preset or a model folder does not exist.
        Refused: The recipe is unknown or not available for the preset.
    """
    preset = find_requested_preset(request)
    if request.recipe not in STAGES:
        raise Refused(f"no recipe {request.recipe!r}", f"choose one of {', '.join(STAGES)}")
    if (
        "latents" in STAGES[request.recipe]
        and preset.family
        and find_family(preset.family).denoiser is None
    ):
        raise Refused(
            f"the family {preset.family} does not support training a base",
            "use the recipe 'transparency'",
        )
    check_model_paths(preset)
    on_gpu = preset.family is not None or torch.cuda.is_available()
    estimates: list[StageMemory] = []
    trained: Mapping[str, int] = {}
    # Weights, optimizer and average stay allocated while the sample grids of a stage are decoded.
    for stage in STAGES[request.recipe]:
        if stage in MAKERS:
            held = _trained(preset, stage, on_gpu=on_gpu)
            trained = {name: held[name] for name in ("weights", "optimizer", "average")}
        else:
            held = _used(preset, stage, trained)
        # On the CPU the images kept in memory share it with the training.
        if not on_gpu and preset.in_memory:
            held["images"] = image_count * _image_bytes(preset, stage)
        advice = _advise(held, preset, stage, on_gpu=on_gpu)
        estimates.append(StageMemory(stage, "gpu" if on_gpu else "processor", held, advice))
    return estimates


def _trained(preset: Preset, stage: str, *, on_gpu: bool) -> dict[str, int]:
    """Measure one optimizer step in the middle of a training at its peak.

    The peak is in the backward pass, or in the optimizer step.
    """
    make = MAKERS[stage]
    networks = build_networks(preset, stage)
    sizes: dict[str, Any] = {}

    def build() -> tuple[nn.Module, Callable[[], Tensor]]:
        # Build the stage under the tracker, so that its weights are counted as in a real run.
        recipe, rows = make(preset, networks.bring())
        for network in recipe.core_modules():
            if preset.gradient_checkpointing:
                enable_checkpointing(network)
        recipe.train()
        trainable = [parameter for parameter in recipe.parameters() if parameter.requires_grad]
        averaged = [
            parameter for parameter in recipe.ema_module().parameters() if parameter.requires_grad
        ]
        sizes.update(
            trainable=trainable,
            averaged=sum(p.nbytes for p in averaged) if recipe.schedule.ema_decay else 0,
        )
        sizes.update(
            blocks=[
                sum(p.nbytes for p in b.parameters())
                for core in recipe.core_modules()
                for b in fsdp_units(core)
            ]
        )
        return recipe, lambda: recipe(rows, recipe.schedule.images)[0]

    step = estimate_step(build, preset.precision, on_gpu=on_gpu)
    # Measure the optimizer apart: its state is allocated in the first step.
    state, moment = estimate_optimizer(preset.optimizer, sizes["trainable"], on_gpu=on_gpu)
    average = 0 if preset.ema_on_cpu and on_gpu else sizes["averaged"]
    return _fullest(preset, step, state, moment, average, max(sizes["blocks"], default=0))


def _fullest(
    preset: Preset, step: StepMemory, state: int, moment: int, average: int, block: int
) -> dict[str, int]:
    """Return the larger of the two peaks, with the overhead or savings of several processes."""
    gradients, activations = step.gradients, step.activations
    # With accumulation the gradients of earlier micro-batches are allocated from the beginning.
    if preset.accumulation > 1:
        gradients, activations = step.trainable, step.peak_activations
    # Take the optimizer step instead if it peaks above the backward pass.
    if gradients + activations < step.trainable + moment:
        gradients, activations = step.trainable, moment
    weights = step.weights
    # FSDP shards all of it, but gathers the weights of two blocks at a time.
    if preset.processes > 1 and preset.fsdp:
        weights += step.trainable // preset.processes - step.trainable + 2 * block
        gradients, state, average = (
            size // preset.processes for size in (gradients, state, average)
        )
    # DDP copies the gradients into communication buckets.
    elif preset.processes > 1:
        gradients += step.trainable  # the gradient buckets of DDP
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": state,
        "average": average,
        "activations": activations,
    }


def _used(preset: Preset, stage: str, lasting: Mapping[str, int]) -> dict[str, int]:
    """Measure a stage without training: encoding images to latents, or decoding a sample grid.

    A sample grid is decoded while the trained networks stay allocated.
    """
    networks = build_networks(preset, "transparency")
    step_of = encoding_step if stage == "latents" else decoding_step
    step = estimate_inference(lambda: step_of(preset, networks.bring()))
    held = dict(lasting) if stage == "sheets" else {"weights": step.weights}
    return {**held, "activations": step.activations}


def _image_bytes(preset: Preset, stage: str) -> int:
    """Return the bytes of one image kept in memory: pixels, and the mean and std of its latent."""
    pixels = 4 * preset.image_size**2
    latent = preset.latent_channels * (preset.image_size // preset.stride) ** 2
    layer = pixels + (
        0 if stage == "transparency" else 2 * latent * PRECISIONS[preset.cache_precision].itemsize
    )
    return layer * (len(preset.layer_roles) if stage.startswith("layers") else 1)


def _advise(held: Mapping[str, int], preset: Preset, stage: str, *, on_gpu: bool) -> str:
    """Say which GPU the stage fits, and which setting would save most."""
    peak = sum(held.values())
    if not on_gpu:
        return f"needs {peak / GIB:.2f} GiB of memory in addition to Python and its libraries"
    # Compare with common GPUs, after the context and fragmentation.
    needed = peak * (1 + FRAGMENTATION) / GIB + CUDA_CONTEXT_GIB
    fitting = next((card for card in GPU_SIZES_GIB if needed <= card), None)
    fit = (
        f"fits a {fitting} GiB GPU" if fitting else f"needs {needed:.0f} GiB, more than one GPU has"
    )
    saving = _relief(held, preset, stage) if stage in MAKERS and fitting != GPU_SIZES_GIB[0] else ""
    return f"{fit}; less with {saving}" if saving else fit


def _relief(held: Mapping[str, int], preset: Preset, stage: str) -> str:
    """Return the setting that saves most, if it saves at least a twentieth of the peak."""
    column = stage_column(stage, "batch")
    batch = int(getattr(preset, column))
    halves = f"--set {column}={batch // 2} --set accumulation={preset.accumulation * 2}"
    # Each change with a rough estimate of the bytes it saves, and whether it applies.
    changes: Sequence[tuple[str, int, bool]] = (
        (
            "--set gradient_checkpointing=true",
            held["activations"] * 2 // 3,
            not preset.gradient_checkpointing,
        ),
        (halves, held["activations"] // 2, batch > 1),
        ("--set precision=bf16", held["activations"] // 3, preset.precision == "fp32"),
        ("--set ema_on_cpu=true", held["average"], True),
        (
            "--set optimizer=adamw8bit",
            held["optimizer"] * 3 // 4,
            preset.optimizer in {"adamw", "adamw_fused"},
        ),
    )
    possible = [
        (saved, change)
        for change, saved, applies in changes
        if applies and saved > sum(held.values()) // 20
    ]
    return max(possible)[1] if possible else ""
