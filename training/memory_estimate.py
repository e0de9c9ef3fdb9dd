"""Memory estimate of a training, stage by stage, before anything is downloaded or loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from curation.domain import TrainingRequest
from curation.errors import Refused
from curation.ports import StageMemory
from training.denoiser.builtin import BuiltinDenoiser
from training.denoiser.cache import PRECISIONS, TextEmbeddingCache, encoding_batch_size
from training.denoiser.denoiser import Conditions, Denoiser
from training.denoiser.finetuned_weights import add_adapter
from training.denoiser.stable_diffusion import StableDiffusion
from training.denoiser.stage import GRID_CAPTIONS, DenoiserStage
from training.engine.batch import Batch
from training.engine.distributed import PRECISIONS as COMPUTED_IN
from training.engine.distributed import enable_checkpointing, fsdp_units
from training.engine.memory_tracker import (
    StepMemory,
    estimate_inference,
    estimate_optimizer,
    estimate_step,
    materialize,
)
from training.engine.trainer import TrainingStage
from training.layers.model import new_layered_denoiser
from training.layers.stage import LayersStage
from training.presets.preset import Preset
from training.presets.presets import find_requested_preset
from training.pretrained.architectures import build_part
from training.pretrained.families import find_family
from training.pretrained.loading import check_model_paths
from training.transparency.autoencoder import Autoencoder, KLAutoencoder, LinearAutoencoder
from training.transparency.codec import adjusted_posterior, decode_rgba
from training.transparency.networks import Transparency
from training.transparency.train import TransparencyStage

STAGES: dict[str, tuple[str, ...]] = {
    "transparency": ("transparency",),
    "base": ("latents", "base", "sheets"),
    "layers": ("latents", "layers", "sheets"),
    "whole": ("transparency", "latents", "base", "sheets"),
    "pairs": ("transparency", "latents", "base", "layers", "sheets"),
}
TRAINED_STAGES = {"transparency", "base", "layers"}
GPU_SIZES_GIB = (8, 12, 16, 24, 32, 40, 48, 80, 141)  # GiB of common GPUs
CUDA_CONTEXT_GIB = 0.7  # GiB of the CUDA context
FRAGMENTATION = 0.05  # share of memory lost to fragmentation
GIB = 2**30


@dataclass(frozen=True)
class StageNetworks:
    """The networks of a stage on the "meta" device, where they are cheap to build."""

    autoencoder: Autoencoder
    transparency: Transparency
    denoiser: Denoiser | None

    def bring(self) -> StageNetworks:
        """Materialize the networks under the memory tracker and return them."""
        for network in (self.autoencoder, self.transparency, self.denoiser):
            materialize(network)
        return self


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
        if stage in TRAINED_STAGES:
            held = _trained(preset, stage, on_gpu=on_gpu)
            trained = {name: held[name] for name in ("weights", "optimiser", "average")}
        else:
            held = _used(preset, stage, trained)
        # On the CPU the images kept in memory share it with the training.
        if not on_gpu and preset.in_memory:
            held["pictures"] = image_count * _image_bytes(preset, stage)
        advice = _advise(held, preset, stage, on_gpu=on_gpu)
        estimates.append(StageMemory(stage, "gpu" if on_gpu else "processor", held, advice))
    return estimates


def _trained(preset: Preset, stage: str, *, on_gpu: bool) -> dict[str, int]:
    """Measure one optimizer step in the middle of a training at its peak.

    The peak is in the backward pass, or in the optimizer step.
    """
    make = {"transparency": _make_transparency, "base": _make_base, "layers": _make_layers}[stage]
    networks = _build(preset, stage)
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
        gradients, activations = step.learning, step.beside
    # Take the optimizer step instead if it peaks above the backward pass.
    if gradients + activations < step.learning + moment:
        gradients, activations = step.learning, moment
    weights = step.weights
    # FSDP shards all of it, but gathers the weights of two blocks at a time.
    if preset.processes > 1 and preset.fsdp:
        weights += step.learning // preset.processes - step.learning + 2 * block
        gradients, state, average = (
            size // preset.processes for size in (gradients, state, average)
        )
    # DDP copies the gradients into communication buckets.
    elif preset.processes > 1:
        gradients += step.learning  # the gradient buckets of DDP
    return {
        "weights": weights,
        "gradients": gradients,
        "optimiser": state,
        "average": average,
        "activations": activations,
    }


def _used(preset: Preset, stage: str, lasting: Mapping[str, int]) -> dict[str, int]:
    """Measure a stage without training: encoding images to latents, or decoding a sample grid.

    A sample grid is decoded while the trained networks stay allocated.
    """
    networks, use = _build(preset, "transparency"), _encode if stage == "latents" else _decode
    step = estimate_inference(lambda: use(preset, networks.bring()))
    held = dict(lasting) if stage == "sheets" else {"weights": step.weights}
    return {**held, "activations": step.activations}


def _make_transparency(preset: Preset, networks: StageNetworks) -> tuple[TrainingStage, Batch]:
    """Return the stage of latent transparency and a batch for it."""
    count, side = preset.transparency_batch, preset.image_size
    training_stage = TransparencyStage(
        preset, networks.transparency, cast("Any", None), networks.autoencoder
    )
    batch = {"rgba": torch.zeros(count, 4, side, side), "padded": torch.zeros(count, 3, side, side)}
    return training_stage, {**batch, "keep": torch.ones(count)}


def _make_base(preset: Preset, networks: StageNetworks) -> tuple[TrainingStage, Batch]:
    """Return the stage of the base and a batch for it."""
    nothing, denoiser = cast("Any", None), networks.denoiser
    assert denoiser is not None  # noqa: S101 - narrows the type
    texts = (
        TextEmbeddingCache.open(None, {"precision": preset.cache_precision})
        if preset.family
        else None
    )
    training_stage = DenoiserStage(
        preset, denoiser, nothing, nothing, texts, networks.autoencoder, networks.transparency
    )
    count, side = preset.base_batch, preset.image_size // preset.stride
    latent_BCHW = torch.zeros(count, preset.latent_channels, side, side)
    batch = {
        "latent": latent_BCHW,
        "noise": latent_BCHW.clone(),
        "time": torch.zeros(count, dtype=torch.int64),
    }
    if not isinstance(denoiser, StableDiffusion):
        return training_stage, {**batch, "texts": [""] * count}
    return training_stage, {**batch, "conditions": _conditions(denoiser, count)}


def _make_layers(preset: Preset, networks: StageNetworks) -> tuple[TrainingStage, Batch]:
    """Return the stage of layers and a batch of pairs for it, with all roles."""
    nothing, denoiser = cast("Any", None), networks.denoiser
    assert denoiser is not None  # noqa: S101 - narrows the type
    texts = (
        TextEmbeddingCache.open(None, {"precision": preset.cache_precision})
        if preset.family
        else None
    )
    layered = new_layered_denoiser(preset, denoiser)
    training_stage = LayersStage(
        preset, layered, nothing, nothing, texts, networks.autoencoder, networks.transparency
    )
    count, roles, side = preset.layers_batch, preset.layer_roles, preset.image_size // preset.stride
    latent_PLCHW = torch.zeros(count, len(roles), preset.latent_channels, side, side)
    # A batch of pairs: latents and noise of every role.
    batch = {
        "latent": latent_PLCHW,
        "noise": latent_PLCHW.clone(),
        "time": torch.zeros(count, dtype=torch.int64),
    }
    conditioning = {
        "known": torch.zeros(count, len(roles), dtype=torch.bool),
        "roles": [roles] * count,
    }
    if not isinstance(denoiser, StableDiffusion):
        return training_stage, {**batch, **conditioning, "texts": [[""] * len(roles)] * count}
    # Text states for every layer of every pair.
    flat = _conditions(denoiser, count * len(roles))
    conditioning["conditions"] = flat.map(
        lambda _, tensor: tensor.view(count, len(roles), *tensor.shape[1:])
    )
    return training_stage, {**batch, **conditioning}


def _conditions(denoiser: StableDiffusion, count: int) -> Conditions:
    """Return empty conditioning for `count` rows, shaped as the text encoders' output."""
    config = denoiser.unet.config
    states_BLD = torch.zeros(count, 77, config["cross_attention_dim"])  # CLIP's context length
    if not denoiser.family.sizes:
        return Conditions(states_BLD)
    # SDXL also takes pooled text states and six embedded sizes (original, crop, target).
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return Conditions(
        states_BLD, pooled_BP=torch.zeros(count, pooled), sizes_B6=torch.zeros(count, 6)
    )


def _encode(preset: Preset, networks: StageNetworks) -> Callable[[], object]:
    """Return the encoding of one batch of the latent cache."""
    side = preset.image_size
    rgba_B4HW = torch.zeros(encoding_batch_size((side, side)), 4, side, side)
    encoder = networks.transparency.encoder
    return lambda: adjusted_posterior(
        networks.autoencoder, encoder, rgba_B4HW[:, 3:], rgba_B4HW[:, :3]
    )


def _decode(preset: Preset, networks: StageNetworks) -> Callable[[], object]:
    """Return the decoding of the images of a sample grid."""
    side = preset.image_size // preset.stride
    latent_BCHW = torch.zeros(
        min(GRID_CAPTIONS, preset.draw_batch), preset.latent_channels, side, side
    )
    return lambda: decode_rgba(networks.autoencoder, networks.transparency.decoder, latent_BCHW)


def _build(preset: Preset, stage: str) -> StageNetworks:
    """Build the networks of a stage.

    Latent transparency is trainable only without a denoiser, and the base only without layers.
    """
    base = stage in {"base", "layers"}
    with torch.device("meta"):
        autoencoder: Autoencoder = LinearAutoencoder(preset.stride, preset.latent_channels)
        if preset.model is not None:
            autoencoder = KLAutoencoder(build_part(preset, "vae"))
        transparency = Transparency(preset).requires_grad_(not base)
        denoiser = (
            (_UnloadedStableDiffusion(preset) if preset.family else BuiltinDenoiser(preset))
            if base
            else None
        )
        # Layer adapters train on a frozen base, kept in the compute precision.
        if denoiser is not None and stage == "layers":
            half = COMPUTED_IN[preset.precision] if preset.family and not preset.fsdp else None
            denoiser.requires_grad_(False).to(half)  # as training.layers.train does
    return StageNetworks(autoencoder.requires_grad_(False), transparency, denoiser)


class _UnloadedStableDiffusion(StableDiffusion):
    """Stable Diffusion built from its configuration alone, without loading weights."""

    def __init__(self, preset: Preset) -> None:
        nn.Module.__init__(self)
        self.preset, self.family = preset, find_family(preset.family or "")
        self.unet = cast("Any", build_part(preset, "unet"))
        if preset.adapter_rank:
            add_adapter(self.unet, preset.adapter_rank, preset.adapter_rank)
        self.texts = nn.ModuleList(build_part(preset, name) for name in self.family.text_encoders)
        self.scaling, self.shift = 1.0, 0.0
        self.kind, self.adapter = ("adapter" if preset.adapter_rank else "weights"), {}
        self.settle()

    def schedule(self) -> Any:
        """Return any scheduler: the noise levels take next to no memory."""
        scheduler: Any = DDIMScheduler
        return scheduler()


def _image_bytes(preset: Preset, stage: str) -> int:
    """Return the bytes of one image kept in memory: pixels, and the mean and std of its latent."""
    pixels = 4 * preset.image_size**2
    latent = preset.latent_channels * (preset.image_size // preset.stride) ** 2
    layer = pixels + (
        0 if stage == "transparency" else 2 * latent * PRECISIONS[preset.cache_precision].itemsize
    )
    return layer * (len(preset.layer_roles) if stage == "layers" else 1)


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
    saving = (
        _relief(held, preset, stage)
        if stage in TRAINED_STAGES and fitting != GPU_SIZES_GIB[0]
        else ""
    )
    return f"{fit}; less with {saving}" if saving else fit


def _relief(held: Mapping[str, int], preset: Preset, stage: str) -> str:
    """Return the setting that saves most, if it saves at least a twentieth of the peak."""
    batch = int(getattr(preset, f"{stage}_batch"))
    halves = f"--set {stage}_batch={batch // 2} --set accumulation={preset.accumulation * 2}"
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
            held["optimiser"] * 3 // 4,
            preset.optimizer in {"adamw", "adamw_fused"},
        ),
    )
    possible = [
        (saved, change)
        for change, saved, applies in changes
        if applies and saved > sum(held.values()) // 20
    ]
    return max(possible)[1] if possible else ""
