"""The worker's generator for pretrained models: a checkpoint's parts in the public pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from curation.domain import DrawRequest, LayerRole
from curation.errors import NotFound, Refused
from curation.images.codec import decode_layer
from curation.ports import PLAIN, DrawOptions, Layers, ObjectStore
from training.checkpoint import LoadedCheckpoint
from training.denoiser.stable_diffusion import overrule
from training.draw_batches import as_layers, asks_for_layers, batches, generator_of
from training.pipelines.image_to_image import TransparentImageToImagePipeline
from training.pipelines.loading import merge
from training.pipelines.loras import apply_styles, describe_styles
from training.pipelines.pair_sampling import PairSampler
from training.pipelines.sizes import SDXL_SIDE, nearest_size, scaled_size
from training.pipelines.text_to_image import TransparentPipeline
from training.pipelines.upscale import TransparentUpscalePipeline
from training.presets.preset import Preset
from training.pretrained.families import check_family, find_family
from training.pretrained.loading import load_pipeline
from training.transparency.autoencoder import KLAutoencoder

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""Schedulers of diffusers by the names that people know; without one a model's own draws."""


class PipelineGenerator:
    """A checkpoint over a pretrained model, that draws single layers and, where it has the weights, pairs.

    As with a generator of our own, a request's noise comes from its seed alone and batches are filled up; on a GPU its
    last bits may depend on the machine. There the denoiser runs in the preset's precision, on the CPU in float32.
    """

    def __init__(
        self, parts: LoadedCheckpoint, store: ObjectStore, device: torch.device | str = "cpu"
    ) -> None:
        """Raises NotFound, Refused for the model, or where the base does not fit it."""
        self.preset, self.store, self.at_once = parts.preset, store, parts.preset.draw_batch
        self.pipe, self.styles = open_pipeline(parts, device), parts.styles
        self.scheduler = self.pipe.pipeline.scheduler
        self.pairs = PairSampler(self.pipe, parts, store)

    def draw(
        self, requests: Sequence[DrawRequest], options: DrawOptions = PLAIN
    ) -> Sequence[Layers]:
        """Layers of every request, in order: uint8, colour 0 where alpha is 0.

        One foreground, or foreground, background and blended where the prompt has a text for one of its layers or
        where layers are given. Raises NotFound; Refused where the checkpoint cannot.
        """
        drawn: dict[int, Layers] = {}
        for draw, wanted in ((self._draw_singles, False), (self._draw_pairs, True)):
            places = [
                place
                for place, one in enumerate(requests)
                if asks_for_layers(one.prompt, options) == wanted
            ]
            made: list[Layers] = []
            for batch, filled in batches(
                [requests[place] for place in places], self.preset.draw_batch
            ):
                made += draw(filled, options)[: len(batch)]
            drawn |= dict(zip(places, made, strict=True))
        return [drawn[place] for place in range(len(requests))]

    def describe(self, options: DrawOptions) -> Mapping[str, str]:
        """Model, sampler, steps, guidance and size, and what it begins from or fits. Raises NotFound, Refused."""
        steps, guidance = self._numbers(options)
        model = Path(str(self.preset.model))
        own = type(self.scheduler).__name__.removesuffix("Scheduler")
        told = {
            **describe_styles(self.styles),
            "model": model.name
            if model.is_dir()
            else str(model),  # no picture tells of somebody's folders
            "sampler": options.sampler or own,
            "steps": str(steps),
            "guidance": str(guidance),
        }
        if options.given:
            told |= self.pairs.describe(options)
        elif options.image is None:
            told["size"] = "x".join(map(str, self._size(options)))
        else:
            told |= {"image": options.image, "strength": str(options.strength)}
        return told if options.upscale == 1 else told | {"upscale": str(options.upscale)}

    def _draw_singles(
        self, requests: Sequence[DrawRequest], options: DrawOptions
    ) -> Sequence[Layers]:
        with self.pairs.alone():
            rgba_B4HW = self._draw(requests, options)
        return [{LayerRole.foreground: layer} for layer in as_layers(rgba_B4HW)]

    def _draw_pairs(
        self, requests: Sequence[DrawRequest], options: DrawOptions
    ) -> Sequence[Layers]:
        steps, guidance = self._numbers(options)
        schedulers = self._scheduler(options.sampler), self._scheduler(options.sampler or "euler_a")
        arguments = {"num_inference_steps": steps, "guidance_scale": guidance}
        return self.pairs.draw(requests, options, self._size(options), schedulers, arguments)

    def _draw(self, requests: Sequence[DrawRequest], options: DrawOptions) -> Tensor:
        """Straight RGBA in [0, 1]."""
        steps, guidance = self._numbers(options)
        self.pipe.pipeline.scheduler = self._scheduler(options.sampler)
        arguments: dict[str, Any] = {
            "prompt": [request.prompt.text for request in requests],
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "output_type": "pt",
        }
        if options.negative is not None:
            arguments["negative_prompt"] = [options.negative] * len(requests)

        def generators() -> list[torch.Generator]:
            return [generator_of(request.seed) for request in requests]

        if options.image is None:
            width, height = self._size(options)
            images = self.pipe(**arguments, width=width, height=height, generator=generators())[0]
        else:
            image = decode_layer(self.store.get(options.image))
            given = {**arguments, "image": [image] * len(requests), "strength": options.strength}
            images = _sibling(TransparentImageToImagePipeline, self.pipe)(
                **given, generator=generators()
            )[0]
        if options.upscale != 1:
            larger = _sibling(TransparentUpscalePipeline, self.pipe)
            images = larger(
                **arguments, image=images, upscale=options.upscale, generator=generators()
            )[0]
        assert isinstance(images, Tensor)  # noqa: S101 - output_type "pt"
        return images

    def _numbers(self, options: DrawOptions) -> tuple[int, float]:
        guidance = self.preset.guidance if options.guidance is None else options.guidance
        return options.steps or self.preset.draw_steps, guidance

    def _size(self, options: DrawOptions) -> tuple[int, int]:
        side, aspect = self.preset.image_size, options.aspect
        if options.size or aspect is None:
            return options.size or (side, side)
        trained = find_family(str(self.preset.family)).sizes and side == SDXL_SIDE
        return nearest_size(aspect) if trained else scaled_size(aspect, side)

    def _scheduler(self, sampler: str | None) -> Any:
        if sampler is None:
            return self.scheduler
        if sampler not in SAMPLERS:
            raise NotFound(f"no sampler {sampler!r}", f"choose one of {', '.join(SAMPLERS)}")
        kind, options = SAMPLERS[sampler]
        return getattr(diffusers, kind).from_config(self.scheduler.config, **options)


def open_pipeline(
    parts: LoadedCheckpoint, device: torch.device | str = "cpu"
) -> TransparentPipeline:
    """A checkpoint of a pretrained family as a pipeline: its model, with what it has learnt put in. Raises as above.

    Where it also draws layers to each other the model stays plain, and is taught for each drawing (`PairSampler`).
    """
    preset, backbone = parts.preset, parts.backbone
    family = find_family(str(preset.family))
    learnt = parts.base is not None or parts.modes
    if (
        family.denoiser is None
        or preset.model is None
        or not learnt
        or not isinstance(backbone, KLAutoencoder)
    ):
        raise Refused(
            f"a checkpoint of the preset {preset.name!r} cannot draw",
            "it has latent transparency alone",
        )
    check_family(preset.model, family)
    pipeline = load_pipeline(
        preset.model,
        family.pipeline,
        preset.variant,
        dtype=precision_on(preset, device),
        vae=backbone.autoencoder,
    )
    if parts.base is not None and not parts.modes:
        merge(pipeline.unet, *parts.base)
    apply_styles(pipeline, parts.styles)
    pipeline.scheduler = _taught(pipeline.scheduler, overrule(pipeline.scheduler.config, preset))
    pipeline.set_progress_bar_config(disable=True)
    return TransparentPipeline(pipeline, backbone, parts.transparency).to(device)


def _taught(scheduler: Any, config: Mapping[str, Any]) -> Any:
    """The model's scheduler with the noise of its training; DDIM where its kind knows no zero terminal SNR (PNDM)."""
    zero, kind = "rescale_betas_zero_snr", type(scheduler)
    if config.get(zero) and zero not in inspect.signature(kind).parameters:
        kind = diffusers.DDIMScheduler
    return kind.from_config(config)


def precision_on(preset: Preset, device: torch.device | str) -> torch.dtype:
    """What a preset computes in there: its precision on a GPU, float32 elsewhere."""
    on_gpu = torch.device(device).type == "cuda"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
        preset.precision if on_gpu else "", torch.float32
    )


def _sibling(
    kind: type[TransparentImageToImagePipeline], pipe: TransparentPipeline
) -> TransparentImageToImagePipeline:
    """A pipeline of another mode, of the same parts."""
    return kind.from_pipe(pipe)
