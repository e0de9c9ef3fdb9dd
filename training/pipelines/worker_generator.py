"""The worker's generator for pretrained models: a checkpoint's parts in the public pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from curation.domain import GenerationRequest, LayerRole
from curation.errors import NotFound, Refused
from curation.images.codec import decode_layer
from curation.ports import DEFAULT_OPTIONS, GenerationOptions, Layers, ObjectStore
from training.checkpoint import LoadedCheckpoint
from training.denoiser.stable_diffusion import override_scheduler_config
from training.draw_batches import (
    is_pair_request,
    noise_settings,
    padded_batches,
    seeded_generator,
    to_layers,
)
from training.generation_environment import describe_environment
from training.pipelines.image_to_image import TransparentImageToImagePipeline
from training.pipelines.loading import merge_weights
from training.pipelines.loras import apply_loras, describe_loras
from training.pipelines.noise import latent_shape, noise_rows
from training.pipelines.pair_sampling import PairSampler
from training.pipelines.sizes import SDXL_SIZE, nearest_size, scaled_size
from training.pipelines.text_to_image import TransparentPipeline
from training.pipelines.upscale import TransparentUpscalePipeline
from training.presets.preset import Preset
from training.pretrained.families import check_family, find_family
from training.pretrained.loading import load_pipeline
from training.transparency.autoencoder import KLAutoencoder

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""diffusers' schedulers by their common names; by default the model's own is used."""


class PipelineGenerator:
    """Generates single layers and, with the weights for it, pairs by a pretrained model.

    As with the built-in generator, a request's noise depends on its seed alone and batches are
    padded; on a GPU the last bits may depend on the machine. The denoiser runs in the preset's
    precision on a GPU and in float32 on the CPU.
    """

    def __init__(
        self, parts: LoadedCheckpoint, store: ObjectStore, device: torch.device | str = "cpu"
    ) -> None:
        """Load the model and merge the checkpoint's weights into it. Raises NotFound, Refused."""
        self.preset, self.store, self.batch_size = parts.preset, store, parts.preset.draw_batch
        self.pipe, self.loras = open_pipeline(parts, device), parts.loras
        self.scheduler = self.pipe.pipeline.scheduler
        self.pairs = PairSampler(self.pipe, parts, store)

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        """Generate the layers of every request, in order: uint8, color 0 where alpha is 0.

        A prompt with texts for its layers, or given layers, makes a pair: foreground, background
        and blended image. Other prompts make a single foreground.

        Args:
            requests: The requests, each with a prompt and a seed.
            options: The sampling options, for all requests.

        Raises:
            NotFound: A file or the sampler does not exist.
            Refused: The checkpoint or the options do not support it.
        """
        generated: dict[int, Layers] = {}
        # Single layers and pairs run in batches of their own.
        for generate, as_pair in ((self._draw_singles, False), (self._draw_pairs, True)):
            indices = [
                index
                for index, request in enumerate(requests)
                if is_pair_request(request.prompt, options) == as_pair
            ]
            results: list[Layers] = []
            for batch, filled in padded_batches(
                [requests[index] for index in indices], self.preset.draw_batch
            ):
                results += generate(filled, options)[: len(batch)]
            generated |= dict(zip(indices, results, strict=True))
        return [generated[index] for index in range(len(requests))]

    def describe(self, options: GenerationOptions) -> Mapping[str, str]:
        """Describe model, sampler, steps, guidance, size and inputs. Raises NotFound, Refused."""
        steps, guidance = self._steps_and_guidance(options)
        model = Path(str(self.preset.model))
        default_sampler = type(self.scheduler).__name__.removesuffix("Scheduler")
        described = {
            **describe_loras(self.loras),
            # Do not record the path of a local folder.
            "model": model.name if model.is_dir() else str(model),
            "sampler": options.sampler or default_sampler,
            "steps": str(steps),
            "guidance": str(guidance),
        }
        if options.given:
            described |= self.pairs.describe(options)
        elif options.image is None:
            described["size"] = "x".join(map(str, self._size(options)))
        else:
            described |= {"image": options.image, "strength": str(options.strength)}
        return described if options.upscale == 1 else described | {"upscale": str(options.upscale)}

    def environment(self, options: GenerationOptions, *, pair: bool = False) -> Mapping[str, str]:
        """Return noise, precision, batch, device and versions. Raises Refused as `generate`."""
        unet = self.pipe.pipeline.unet
        settings = describe_environment(unet.dtype, unet.device, self.batch_size)
        if options.image is not None:
            return settings  # the noise has the size of the image
        shape = latent_shape(self.pipe, self._size(options)[::-1])
        layers = self.pairs.first_layers(options) if pair else 0
        settings |= self.pairs.describe(options) if pair else {}
        return noise_settings((layers, *shape) if layers else shape, unet.dtype) | settings

    def _draw_singles(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions
    ) -> Sequence[Layers]:
        """Generate single foregrounds."""
        with self.pairs.alone():
            rgba_B4HW = self._draw(requests, options)
        return [{LayerRole.foreground: layer} for layer in to_layers(rgba_B4HW)]

    def _draw_pairs(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions
    ) -> Sequence[Layers]:
        """Generate pairs."""
        steps, guidance = self._steps_and_guidance(options)
        schedulers = self._scheduler(options.sampler), self._scheduler(options.sampler or "euler_a")
        arguments = {"num_inference_steps": steps, "guidance_scale": guidance}
        return self.pairs.sample(requests, options, self._size(options), schedulers, arguments)

    def _draw(self, requests: Sequence[GenerationRequest], options: GenerationOptions) -> Tensor:
        """Generate straight RGBA in [0, 1]."""
        steps, guidance = self._steps_and_guidance(options)
        self.pipe.pipeline.scheduler = self._scheduler(options.sampler)
        arguments: dict[str, Any] = {
            "prompt": [request.prompt.text for request in requests],
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "output_type": "pt",
        }
        if options.negative is not None:
            arguments["negative_prompt"] = [options.negative] * len(requests)

        # Each pipeline call needs fresh generators, since it advances their state.
        def generators() -> list[torch.Generator]:
            return [seeded_generator(request.seed) for request in requests]

        # Start from noise, or from the given image.
        if options.image is None:
            width, height = self._size(options)
            seeded = generators()
            noise_BCHW = noise_rows(self.pipe, seeded, (height, width))
            images = self.pipe(
                **arguments, width=width, height=height, generator=seeded, latents=noise_BCHW
            )[0]
        else:
            image = decode_layer(self.store.get(options.image))
            given = {**arguments, "image": [image] * len(requests), "strength": options.strength}
            images = _sibling(TransparentImageToImagePipeline, self.pipe)(
                **given, generator=generators()
            )[0]
        # Redraw at the larger size, from the same seeds.
        if options.upscale != 1:
            larger = _sibling(TransparentUpscalePipeline, self.pipe)
            images = larger(
                **arguments, image=images, upscale=options.upscale, generator=generators()
            )[0]
        assert isinstance(images, Tensor)  # noqa: S101 - output_type "pt"
        return images

    def _steps_and_guidance(self, options: GenerationOptions) -> tuple[int, float]:
        """Return steps and guidance of the options, or the preset's."""
        guidance = self.preset.guidance if options.guidance is None else options.guidance
        return options.steps or self.preset.draw_steps, guidance

    def _size(self, options: GenerationOptions) -> tuple[int, int]:
        """Return width and height of the options, or by the aspect ratio."""
        side, aspect = self.preset.image_size, options.aspect
        if options.size or aspect is None:
            return options.size or (side, side)
        use_buckets = find_family(str(self.preset.family)).sizes and side == SDXL_SIZE
        return nearest_size(aspect) if use_buckets else scaled_size(aspect, side)

    def _scheduler(self, sampler: str | None) -> Any:
        """Return a new scheduler by its common name, or the model's own. Raises NotFound."""
        if sampler is None:
            return self.scheduler
        if sampler not in SCHEDULERS:
            raise NotFound(f"no sampler {sampler!r}", f"choose one of {', '.join(SCHEDULERS)}")
        kind, options = SCHEDULERS[sampler]
        return getattr(diffusers, kind).from_config(self.scheduler.config, **options)


def open_pipeline(
    parts: LoadedCheckpoint, device: torch.device | str = "cpu"
) -> TransparentPipeline:
    """Open a checkpoint of a pretrained family as a pipeline with its weights merged in.

    If the checkpoint has layer modes, the model stays unchanged and weights are swapped in for each
    generation (`PairSampler`).

    Args:
        parts: The checkpoint.
        device: The device.

    Raises:
        NotFound: The model does not exist.
        Refused: The checkpoint cannot generate, or its base does not fit the model.
    """
    preset, autoencoder = parts.preset, parts.autoencoder
    family = find_family(str(preset.family))
    has_weights = parts.base is not None or parts.modes
    if (
        family.denoiser is None
        or preset.model is None
        or not has_weights
        or not isinstance(autoencoder, KLAutoencoder)
    ):
        raise Refused(
            f"a checkpoint of the preset {preset.name!r} cannot generate",
            "it has latent transparency only",
        )
    # Load the pretrained model with the checkpoint's autoencoder.
    check_family(preset.model, family)
    pipeline = load_pipeline(
        preset.model,
        family.pipeline,
        preset.variant,
        dtype=compute_dtype(preset, device),
        vae=autoencoder.autoencoder,
    )
    # Merge the base, then the user LoRAs, which build on it.
    if parts.base is not None and not parts.modes:
        merge_weights(pipeline.unet, *parts.base)
    apply_loras(pipeline, parts.loras)
    pipeline.scheduler = _configured_scheduler(
        pipeline.scheduler, override_scheduler_config(pipeline.scheduler.config, preset)
    )
    pipeline.set_progress_bar_config(disable=True)
    return TransparentPipeline(pipeline, autoencoder, parts.transparency).to(device)


def _configured_scheduler(scheduler: Any, config: Mapping[str, Any]) -> Any:
    """Return the model's scheduler with the training's noise schedule.

    A class without zero terminal SNR, such as PNDM, is replaced by DDIM.
    """
    zero, kind = "rescale_betas_zero_snr", type(scheduler)
    if config.get(zero) and zero not in inspect.signature(kind).parameters:
        kind = diffusers.DDIMScheduler
    return kind.from_config(config)


def compute_dtype(preset: Preset, device: torch.device | str) -> torch.dtype:
    """Return the compute dtype: the preset's precision on a GPU, float32 elsewhere."""
    on_gpu = torch.device(device).type == "cuda"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
        preset.precision if on_gpu else "", torch.float32
    )


def _sibling(
    kind: type[TransparentImageToImagePipeline], pipe: TransparentPipeline
) -> TransparentImageToImagePipeline:
    """Make a pipeline of another class from the same components."""
    return kind.from_pipe(pipe)
