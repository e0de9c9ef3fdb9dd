"""Generation of layers that fit each other, together or around given layers, by mode weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import EulerAncestralDiscreteScheduler
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from curation.domain import LayerRole
from curation.errors import Refused
from training.interop.modes import MODES, SINGLE, Mode
from training.pipelines.delegation import DelegatingPipeline, bind_arguments
from training.pipelines.images import (
    ImageInput,
    ImageOutput,
    as_latents,
    check_output,
    resize_to_cover,
    to_output_type,
    to_rgba,
)
from training.pipelines.layer_inputs import (
    ENCODED_TEXTS,
    checked_stop_at,
    common_size,
    count_images,
    prompts_by_layer,
    read_mode_weights,
    repeat_embeddings,
    repeat_items,
    single_path,
)
from training.pipelines.loading import Files
from training.pipelines.saving import LAYERS, save_layers, saved_part
from training.pipelines.text_to_image import TransparentPipeline, decode_opaque
from training.pipelines.weight_swap import SwappableWeights
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray
from training.transparency.tiling import mirror_pad, round_up

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class LayersOutput(BaseOutput):
    """Output of the layer pipelines; a role that is neither given nor generated is None.

    The layers of an image have the same index in each list. With `output_type="latent"` the
    generated layers are scaled latents, as in diffusers.
    """

    foreground: ImageOutput | None = None
    """RGBA from the alpha decoder, or the given foreground."""
    background: ImageOutput | None = None
    """Opaque RGBA."""
    blended: ImageOutput | None = None
    """Opaque RGBA."""
    latents: Mapping[LayerRole, Tensor] | None = None
    """Unscaled latents of the generated layers, B x C x h x w each."""


class LayersPipeline(DelegatingPipeline):
    """Base class of the layer pipelines: a TransparentPipeline with weights that are swapped in.

    `pipe` generates single foregrounds as usual. `pipeline` is the underlying diffusers pipeline,
    whose attributes and methods are available here too. Make it with `from_pretrained`, or from a
    pipeline and weights for its UNet.
    """

    modes: ClassVar[Sequence[str]] = (*MODES, SINGLE.name)
    """The modes that the pipeline accepts."""

    _own: ClassVar[frozenset[str]] = frozenset({"pipe", "weights", "mode"})

    def __init__(self, pipe: TransparentPipeline, weights: SwappableWeights, mode: Mode) -> None:
        """Make the pipeline.

        Args:
            pipe (`TransparentPipeline`):
                The pipeline of single foregrounds.
            weights (`SwappableWeights`):
                The weights of the mode, for the UNet of `pipe`.
            mode (`Mode`):
                The mode of the weights.

        Raises:
            Refused: The class does not accept the mode.
        """
        if mode.name not in self.modes:
            raise Refused(
                f"these weights are {mode}", f"{type(self).__name__} takes {', '.join(self.modes)}"
            )
        self.pipe, self.weights, self.mode = pipe, weights, mode

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        transparency: Any = None,
        layers: Files | None = None,
        adapter: Files | None = None,
        **options: Any,
    ) -> Self:
        """Load a pipeline from files.

        Args:
            model (`str`):
                A hub id or a folder.
            transparency (`Transparency`, `str`, `Path` or a sequence of paths, *optional*):
                The networks of latent transparency; by default those that `save_pretrained` wrote.
            layers (`str` or `Path`, *optional*):
                The weights of the mode, such as layer_sd15_joint or layer_xl_fg2ble; by default
                those that `save_pretrained` wrote.
            adapter (`str`, `Path` or a sequence of paths, *optional*):
                Weights that stay in the UNet. None is needed, and one for transparency would be
                wrong.
            options (`Any`):
                All other arguments of `TransparentPipeline.from_pretrained`.

        Returns:
            The pipeline. If its mode is given a blended image, its scheduler is Euler ancestral
            (see
            `draw`).

        Raises:
            NotFound: A file or the model does not exist.
            Refused: The weights are of another mode or do not fit the model.
        """
        path = single_path(layers) if layers is not None else saved_part(model, LAYERS)
        pipe = TransparentPipeline.from_pretrained(model, transparency, adapter, **options)
        tensors, metadata = read_mode_weights(path)
        mode = MODES.get(metadata.get("mode", ""), SINGLE)
        # A scheduler saved with the pipeline is the user's choice and stays.
        if prefers_euler(mode) and layers is not None:
            kind: Any = EulerAncestralDiscreteScheduler
            pipe.scheduler = kind.from_config(pipe.scheduler.config)
        return cls(pipe, SwappableWeights(pipe.pipeline.unet, tensors, metadata), mode)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Save the pipeline as `TransparentPipeline` does, and the weights of the mode.

        Args:
            folder (`str` or `Path`):
                The output folder; created if needed.
            options (`Any`):
                The options of `DiffusionPipeline.save_pretrained`.
        """
        self.pipe.save_pretrained(folder, **options)
        save_layers(*self.weights.stored(), Path(folder))

    @property
    def transparency(self) -> Transparency:
        """The two networks of latent transparency."""
        return self.pipe.transparency

    @property
    def autoencoder(self) -> Autoencoder:
        """The frozen autoencoder."""
        return self.pipe.autoencoder

    @property
    def pipeline(self) -> Any:
        """The underlying diffusers pipeline."""
        return self.pipe.pipeline

    def fuse_lora(self, *args: Any, **kwargs: Any) -> Any:
        """Fuse loaded LoRAs into the UNet's own weights and into those of the mode."""
        with self.weights.tracking_changes():
            return self.pipeline.fuse_lora(*args, **kwargs)

    def unfuse_lora(self, *args: Any, **kwargs: Any) -> Any:
        """Remove fused LoRAs from both again."""
        with self.weights.tracking_changes():
            return self.pipeline.unfuse_lora(*args, **kwargs)

    def _assign(self, name: str, value: Any) -> None:
        if name == "unet":
            hint = f"make a new {type(self).__name__} from a pipeline with that unet"
            raise AttributeError(
                f"the weights of {self.mode.name} belong to the current unet; {hint}"
            )
        setattr(self.pipe, name, value)

    def _follow(self, device: torch.device) -> None:
        self.pipe.autoencoder.to(device)
        self.pipe.transparency.to(device)

    @torch.no_grad()
    def generate_latents(
        self,
        texts: Mapping[LayerRole, str | Sequence[str] | None],
        given: Mapping[LayerRole, Tensor],
        size: tuple[int, int] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        generator: Generators = None,
        num_images_per_prompt: int = 1,
        stop_at: float | None = None,
        **arguments: Any,
    ) -> dict[LayerRole, Tensor]:
        """Generate the unscaled latents of the mode's layers.

        DPM++ samplers leave artifacts where a blended image is given (sd-forge-layerdiffuse,
        README); a warning is issued.

        Args:
            texts (`Mapping[LayerRole, str | Sequence[str] | None]`):
                The prompt of each generated layer, one for all images or one per image; None if
                `prompt_embeds` are passed.
            given (`Mapping[LayerRole, torch.Tensor]`):
                The given layers as straight RGBA in [0, 1], B x 4 x H x W, one for all images or
                one per image.
            size (`tuple[int, int]`, *optional*):
                Height and width in pixels; by default the model's.
            negative_prompt (`str` or `Sequence[str]`, *optional*):
                One for all images or one per image.
            generator (`torch.Generator` or a sequence of them, *optional*):
                One for all images, or one per image, whose result then does not depend on the
                others.
            num_images_per_prompt (`int`, *optional*, defaults to 1):
                Results per prompt.
            stop_at (`float`, *optional*):
                The share of the noise levels, in (0, 1], after which the UNet continues with its
                own weights. By default 1, and 0.5 for fgble2bg, as its authors advise where the
                background need not match the given image exactly.
            arguments (`Any`):
                All other arguments of the diffusers pipeline. `prompt_embeds` and similar, and
                `latents` (the initial noise), have one row per layer of each image: in the order of
                `mode.generated`, image after image.

        Returns:
            `dict[LayerRole, torch.Tensor]`: The latents of the generated layers, B x C x h x w
            each.

        Raises:
            Refused: Counts, sizes or `stop_at` are invalid.
            TypeError: The diffusers pipeline does not have the argument.
        """
        stop_at = checked_stop_at(self.mode, stop_at)
        arguments = bind_arguments(self.pipeline, (), arguments)
        if prefers_euler(self.mode) and "DPM" in type(self.pipeline.scheduler).__name__:
            warnings.warn(
                f"DPM++ leaves artifacts with {self.mode.name}; use Euler ancestral or UniPC",
                stacklevel=3,
            )
        # Count the images. The batch has a row for each layer of each image, image after image.
        generated, frames = self.mode.generated, len(self.mode.generated)
        embedded = [arguments[name] for name in ENCODED_TEXTS if arguments.get(name) is not None]
        counted = [*(texts[role] for role in generated), negative_prompt, *given.values()]
        counted += [item[::frames] for item in embedded]
        count = count_images(counted) * num_images_per_prompt
        # Expand everything that is given per image to the rows of the batch.
        arguments |= repeat_embeddings(arguments, count, frames)
        arguments["prompt"] = prompts_by_layer([texts[role] for role in generated], count)
        if negative_prompt is not None:
            arguments["negative_prompt"] = [
                text for text in repeat_items(negative_prompt, count) for _ in range(frames)
            ]
        if isinstance(generator, Sequence):
            by_image = repeat_items(list(generator), count)
            generator = [item for item in by_image for _ in range(frames)]
        stride = self.pipe.autoencoder.stride
        if size is not None:
            arguments |= {"height": round_up(size[0], stride), "width": round_up(size[1], stride)}
        # The weights of the mode are in the UNet only while it generates.
        with self.weights.applied(self._condition(given, count), stop_at):
            scaled_BCHW = self.pipeline(
                generator=generator, output_type="latent", return_dict=False, **arguments
            )[0]
        latents = self.pipe.unscale_latents(scaled_BCHW)
        return {role: latents[index::frames] for index, role in enumerate(generated)}

    def decode(
        self, latents: Mapping[LayerRole, Tensor], size: tuple[int, int], views: int | None = None
    ) -> dict[LayerRole, Tensor]:
        """Decode generated layers: foregrounds by the alpha decoder, the others as opaque images.

        Args:
            latents (`Mapping[LayerRole, torch.Tensor]`):
                Unscaled latents, B x C x h x w each.
            size (`tuple[int, int]`):
                Height and width to crop to.
            views (`int`, *optional*):
                Passes of the alpha decoder, 1 or 8.

        Returns:
            `dict[LayerRole, torch.Tensor]`: Straight RGBA in [0, 1], B x 4 x H x W each.
        """
        return {
            role: (
                self.pipe.decode(latent_BCHW, size, "pt", views).images  # type: ignore[misc]
                if role is LayerRole.foreground
                else decode_opaque(self.pipe, latent_BCHW, size)
            )
            for role, latent_BCHW in latents.items()
        }

    @torch.no_grad()
    def _call(
        self,
        texts: Mapping[LayerRole, str | Sequence[str] | None],
        given: Mapping[LayerRole, ImageInput | Sequence[ImageInput] | Tensor | None],
        *,
        height: int | None = None,
        width: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        views: int | None = None,
        **arguments: Any,
    ) -> LayersOutput | tuple[ImageOutput | None, ...]:
        """Generate from images to images, in any mode."""
        check_output(output_type)
        if arguments.get("prompt_embeds") is None and any(
            texts[role] is None for role in self.mode.generated
        ):
            raise Refused("there is no prompt", "pass prompt= or prompt_embeds=")
        # Given layers are resized to the output size before they condition the UNet.
        images = {role: self._pixels(item) for role, item in given.items() if item is not None}
        self._check(images)
        size = common_size(images, height, width)
        fitted = (
            {role: resize_to_cover(item, *size) for role, item in images.items()} if size else {}
        )
        latents = self.generate_latents(texts, fitted, size, **arguments)
        shown: Mapping[Any, ImageOutput] = {
            role: self.pipe.normalize(item) for role, item in latents.items()
        }
        if output_type != "latent":
            # Without a size the model chose its own: compute it from the latents.
            if size is None:
                stride = self.pipe.autoencoder.stride
                rows, columns = next(iter(latents.values())).shape[-2:]
                size = rows * stride, columns * stride
            layers = fitted | self.decode(latents, size, views)
            shown = {role: to_output_type(rgba, output_type) for role, rgba in layers.items()}
        out = LayersOutput(**shown, latents=latents)
        return out if return_dict else (out.foreground, out.background, out.blended)

    def _pixels(self, given: ImageInput | Sequence[ImageInput] | Tensor) -> Tensor:
        """Convert a given layer to RGBA. Raises Refused for latents."""
        if as_latents(given, self.pipe.autoencoder.latent_channels) is not None:
            hint = "pass an image, such as an output of output_type='pt', 'np' or 'pil'"
            raise Refused("a given layer must be an image, not latents", hint)
        return to_rgba(given)

    def _check(self, given: Mapping[LayerRole, Tensor]) -> None:
        """Check that exactly the mode's layers are given. Raises Refused."""
        if set(given) != set(self.mode.given):
            needed = " and ".join(self.mode.given) or "no layer"
            raise Refused(
                f"{self.mode.name} needs {needed}, not {' and '.join(given) or 'none'}",
                f"{self.mode}",
            )

    def _condition(self, given: Mapping[LayerRole, Tensor], count: int) -> Tensor | None:
        """Return the given layers as input of the UNet, one row per image."""
        if not self.mode.given:
            return None
        stride, inputs = self.pipe.autoencoder.stride, []
        for role in self.mode.given:
            rgba_B4HW = given[role]
            size = tuple(round_up(length, stride) for length in rgba_B4HW.shape[-2:])
            # Attention sharing takes pixels over gray, the other modes latents.
            image_B3HW = mirror_pad(over_gray(rgba_B4HW[:, :3], rgba_B4HW[:, 3:]), *size)
            inputs.append(
                image_B3HW if self.mode.attention_sharing else _encode(self.pipe, image_B3HW)
            )
        condition = torch.cat(
            [rows.expand(max(map(len, inputs)), -1, -1, -1) for rows in inputs], dim=1
        )
        return condition.repeat_interleave(count // len(condition), dim=0)


def prefers_euler(mode: Mode) -> bool:
    """Return whether DPM++ is known to leave artifacts in a mode: fgble2bg and bgble2fg."""
    return not mode.attention_sharing and LayerRole.blended in mode.given


def _encode(pipe: TransparentPipeline, image_B3HW: Tensor) -> Tensor:
    """Encode images to scaled plain latents, one at a time, without sampling the posterior."""
    autoencoder, tile = pipe.autoencoder, pipe.transparency.encoder.tile
    parts = [
        autoencoder.encode(image.to(autoencoder.device), tile=tile)[0]
        for image in torch.split(image_B3HW, 1)
    ]
    return pipe.normalize(torch.cat(parts))
