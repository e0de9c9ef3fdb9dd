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
from training.denoiser.cache import PRECISIONS, ConditionsCache, fill_batch
from training.denoiser.denoiser import Conditions, Denoiser
from training.denoiser.finetuned_weights import add_adapter
from training.denoiser.stable_diffusion import StableDiffusion
from training.denoiser.stage import SHEET, DenoiserStage
from training.engine.batch import Rows
from training.engine.distributed import PRECISIONS as COMPUTED_IN
from training.engine.distributed import blocks, enable_checkpointing
from training.engine.memory_tracker import (
    StepMemory,
    bring_from_meta,
    measure_optimiser,
    measure_step,
    measure_use,
)
from training.engine.trainer import TrainingStage
from training.layers.model import new_layers
from training.layers.stage import LayersStage
from training.presets.preset import Preset
from training.presets.presets import find_preset
from training.pretrained.architectures import build_part
from training.pretrained.families import find_family
from training.pretrained.loading import check_sources
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
TRAINED = {"transparency", "base", "layers"}
CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 141)  # GiB of the GPUs there are
CONTEXT, SCATTERED = (
    0.7,
    0.05,
)  # GiB that the driver takes for itself, and the share that an allocator cannot fill
GIB = 2**30


@dataclass(frozen=True)
class Networks:
    """Those of a stage, on the device "meta": they cost nothing, and are built there faster than under a meter."""

    backbone: Autoencoder
    transparency: Transparency
    denoiser: Denoiser | None

    def bring(self) -> Networks:
        """The same ones, where the meter around it counts their tensors."""
        for network in (self.backbone, self.transparency, self.denoiser):
            bring_from_meta(network)
        return self


def estimate(order: TrainingRequest, pictures: int) -> list[StageMemory]:
    """The peak of each stage (the door LAYERLOOP_ESTIMATOR): the recipe's own step, taken without numbers.

    Weights, gradients, optimiser, average and activations of one process; on a GPU for pretrained families and where
    there is one. Pictures are square, the largest shape. Not counted are what the driver and Python take, and the
    workspaces of convolutions. Raises NotFound, Refused.
    """
    preset = find_preset(order.preset, order.changes)
    if order.recipe not in STAGES:
        raise Refused(f"no recipe {order.recipe!r}", f"choose one of {', '.join(STAGES)}")
    if (
        "latents" in STAGES[order.recipe]
        and preset.family
        and find_family(preset.family).denoiser is None
    ):
        raise Refused(
            f"for the family {preset.family} no base is trained", "use the recipe 'transparency'"
        )
    check_sources(preset)
    on_gpu = preset.family is not None or torch.cuda.is_available()
    told: list[StageMemory] = []
    lasting: Mapping[str, int] = {}
    for stage in STAGES[order.recipe]:
        if stage in TRAINED:
            held = _trained(preset, stage, on_gpu=on_gpu)
            lasting = {name: held[name] for name in ("weights", "optimiser", "average")}
        else:
            held = _used(preset, stage, lasting)
        if not on_gpu and preset.in_memory:
            held["pictures"] = pictures * _picture_bytes(preset, stage)
        advice = _advise(held, preset, stage, on_gpu=on_gpu)
        told.append(StageMemory(stage, "gpu" if on_gpu else "processor", held, advice))
    return told


def _trained(preset: Preset, stage: str, *, on_gpu: bool) -> dict[str, int]:
    """One optimiser step in the middle of a training, at its fullest moment: on the way back, or in the step itself."""
    make = {"transparency": _make_transparency, "base": _make_base, "layers": _make_layers}[stage]
    networks = _build(preset, stage)
    seen: dict[str, Any] = {}

    def build() -> tuple[nn.Module, Callable[[], Tensor]]:
        recipe, rows = make(preset, networks.bring())
        for network in recipe.cores():
            if preset.gradient_checkpointing:
                enable_checkpointing(network)
        recipe.train()
        learnt = [parameter for parameter in recipe.parameters() if parameter.requires_grad]
        kept = [
            parameter for parameter in recipe.averaged().parameters() if parameter.requires_grad
        ]
        seen.update(learnt=learnt, averaged=sum(p.nbytes for p in kept) if recipe.pace.decay else 0)
        seen.update(
            blocks=[
                sum(p.nbytes for p in b.parameters())
                for core in recipe.cores()
                for b in blocks(core)
            ]
        )
        return recipe, lambda: recipe(rows, recipe.pace.images)[0]

    step = measure_step(build, preset.precision, on_gpu=on_gpu)
    state, moment = measure_optimiser(preset.optimiser, seen["learnt"], on_gpu=on_gpu)
    average = 0 if preset.average_apart and on_gpu else seen["averaged"]
    return _fullest(preset, step, state, moment, average, max(seen["blocks"], default=0))


def _fullest(
    preset: Preset, step: StepMemory, state: int, moment: int, average: int, block: int
) -> dict[str, int]:
    """The larger of the two moments, with what processes share out or hold for each other."""
    gradients, activations = step.gradients, step.activations
    if preset.accumulation > 1:  # the gradients of the batches before are there from the beginning
        gradients, activations = step.learning, step.beside
    if gradients + activations < step.learning + moment:
        gradients, activations = step.learning, moment
    weights = step.weights
    if preset.processes > 1 and preset.sharded:
        weights += step.learning // preset.processes - step.learning + 2 * block
        gradients, state, average = (
            each // preset.processes for each in (gradients, state, average)
        )
    elif preset.processes > 1:
        gradients += step.learning  # the buckets in which gradients travel
    return {
        "weights": weights,
        "gradients": gradients,
        "optimiser": state,
        "average": average,
        "activations": activations,
    }


def _used(preset: Preset, stage: str, lasting: Mapping[str, int]) -> dict[str, int]:
    """Encoding pictures before a base is trained, or decoding a sheet while all that is trained stays where it is."""
    networks, use = _build(preset, "transparency"), _encode if stage == "latents" else _decode
    step = measure_use(lambda: use(preset, networks.bring()))
    held = dict(lasting) if stage == "sheets" else {"weights": step.weights}
    return {**held, "activations": step.activations}


def _make_transparency(preset: Preset, networks: Networks) -> tuple[TrainingStage, Rows]:
    """The recipe of latent transparency and a batch for it."""
    count, side = preset.transparency_batch, preset.image_size
    recipe = TransparencyStage(preset, networks.transparency, cast("Any", None), networks.backbone)
    rows = {"rgba": torch.zeros(count, 4, side, side), "padded": torch.zeros(count, 3, side, side)}
    return recipe, {**rows, "keep": torch.ones(count)}


def _make_base(preset: Preset, networks: Networks) -> tuple[TrainingStage, Rows]:
    """The recipe of the base and a batch for it."""
    nothing, denoiser = cast("Any", None), networks.denoiser
    assert denoiser is not None  # noqa: S101 - narrows the type
    texts = (
        ConditionsCache.open(None, {"precision": preset.cache_precision}) if preset.family else None
    )
    recipe = DenoiserStage(
        preset, denoiser, nothing, nothing, texts, networks.backbone, networks.transparency
    )
    count, side = preset.base_batch, preset.image_size // preset.stride
    latent_BCHW = torch.zeros(count, preset.latent_channels, side, side)
    rows = {
        "latent": latent_BCHW,
        "noise": latent_BCHW.clone(),
        "time": torch.zeros(count, dtype=torch.int64),
    }
    if not isinstance(denoiser, StableDiffusion):
        return recipe, {**rows, "texts": [""] * count}
    return recipe, {**rows, "conditions": _conditions(denoiser, count)}


def _make_layers(preset: Preset, networks: Networks) -> tuple[TrainingStage, Rows]:
    """The recipe of layers and a batch of pairs for it, in all their roles."""
    nothing, denoiser = cast("Any", None), networks.denoiser
    assert denoiser is not None  # noqa: S101 - narrows the type
    texts = (
        ConditionsCache.open(None, {"precision": preset.cache_precision}) if preset.family else None
    )
    layered = new_layers(preset, denoiser)
    recipe = LayersStage(
        preset, layered, nothing, nothing, texts, networks.backbone, networks.transparency
    )
    count, roles, side = preset.layers_batch, preset.layer_roles, preset.image_size // preset.stride
    latent_PLCHW = torch.zeros(count, len(roles), preset.latent_channels, side, side)
    rows = {
        "latent": latent_PLCHW,
        "noise": latent_PLCHW.clone(),
        "time": torch.zeros(count, dtype=torch.int64),
    }
    told = {"known": torch.zeros(count, len(roles), dtype=torch.bool), "roles": [roles] * count}
    if not isinstance(denoiser, StableDiffusion):
        return recipe, {**rows, **told, "texts": [[""] * len(roles)] * count}
    flat = _conditions(denoiser, count * len(roles))
    told["conditions"] = flat.map(
        lambda _, tensor: tensor.view(count, len(roles), *tensor.shape[1:])
    )
    return recipe, {**rows, **told}


def _conditions(denoiser: StableDiffusion, count: int) -> Conditions:
    """What a pretrained denoiser is told of so many rows."""
    config = denoiser.unet.config
    states_BLD = torch.zeros(count, 77, config["cross_attention_dim"])
    if not denoiser.family.sizes:
        return Conditions(states_BLD)
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return Conditions(
        states_BLD, pooled_BP=torch.zeros(count, pooled), sizes_B6=torch.zeros(count, 6)
    )


def _encode(preset: Preset, networks: Networks) -> Callable[[], object]:
    """The encoding of one batch of a cache."""
    side = preset.image_size
    rgba_B4HW = torch.zeros(fill_batch((side, side)), 4, side, side)
    encoder = networks.transparency.encoder
    return lambda: adjusted_posterior(
        networks.backbone, encoder, rgba_B4HW[:, 3:], rgba_B4HW[:, :3]
    )


def _decode(preset: Preset, networks: Networks) -> Callable[[], object]:
    """The decoding of the pictures of a sheet."""
    side = preset.image_size // preset.stride
    latent_BCHW = torch.zeros(min(SHEET, preset.draw_batch), preset.latent_channels, side, side)
    return lambda: decode_rgba(networks.backbone, networks.transparency.decoder, latent_BCHW)


def _build(preset: Preset, stage: str) -> Networks:
    """The networks of a stage; the transparency learns only where no denoiser does, and under layers no base does."""
    base = stage in {"base", "layers"}
    with torch.device("meta"):
        backbone: Autoencoder = LinearAutoencoder(preset.stride, preset.latent_channels)
        if preset.model is not None:
            backbone = KLAutoencoder(build_part(preset, "vae"))
        transparency = Transparency(preset).requires_grad_(not base)
        denoiser = (
            (_Outline(preset) if preset.family else BuiltinDenoiser(preset)) if base else None
        )
        if denoiser is not None and stage == "layers":
            half = COMPUTED_IN[preset.precision] if preset.family and not preset.sharded else None
            denoiser.requires_grad_(False).to(half)  # as training.layers.train
    return Networks(backbone.requires_grad_(False), transparency, denoiser)


class _Outline(StableDiffusion):
    """Stable Diffusion by its sizes alone: nothing is loaded."""

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
        """Any levels: they cost next to nothing."""
        scheduler: Any = DDIMScheduler
        return scheduler()


def _picture_bytes(preset: Preset, stage: str) -> int:
    """What one picture in memory takes: its pixels, and for a denoiser its latent's mean and deviation, by layer."""
    pixels = 4 * preset.image_size**2
    latent = preset.latent_channels * (preset.image_size // preset.stride) ** 2
    layer = pixels + (
        0 if stage == "transparency" else 2 * latent * PRECISIONS[preset.cache_precision].itemsize
    )
    return layer * (len(preset.layer_roles) if stage == "layers" else 1)


def _advise(held: Mapping[str, int], preset: Preset, stage: str, *, on_gpu: bool) -> str:
    """Where it fits, and what would help most."""
    peak = sum(held.values())
    if not on_gpu:
        return f"needs {peak / GIB:.2f} GiB of memory beside Python and its libraries"
    needed = peak * (1 + SCATTERED) / GIB + CONTEXT
    fitting = next((card for card in CARDS if needed <= card), None)
    said = (
        f"fits a {fitting} GiB card"
        if fitting
        else f"needs {needed:.0f} GiB, more than one card has"
    )
    relief = _relief(held, preset, stage) if stage in TRAINED and fitting != CARDS[0] else ""
    return f"{said}; less with {relief}" if relief else said


def _relief(held: Mapping[str, int], preset: Preset, stage: str) -> str:
    """The change that saves most, where one saves a twentieth at least."""
    batch = int(getattr(preset, f"{stage}_batch"))
    halves = f"--set {stage}_batch={batch // 2} --set accumulation={preset.accumulation * 2}"
    changes: Sequence[tuple[str, int, bool]] = (
        (
            "--set gradient_checkpointing=true",
            held["activations"] * 2 // 3,
            not preset.gradient_checkpointing,
        ),
        (halves, held["activations"] // 2, batch > 1),
        ("--set precision=bf16", held["activations"] // 3, preset.precision == "fp32"),
        ("--set average_apart=true", held["average"], True),
        (
            "--set optimiser=adamw8bit",
            held["optimiser"] * 3 // 4,
            preset.optimiser in {"adamw", "adamw_fused"},
        ),
    )
    possible = [
        (saved, what)
        for what, saved, open_ in changes
        if open_ and saved > sum(held.values()) // 20
    ]
    return max(possible)[1] if possible else ""
