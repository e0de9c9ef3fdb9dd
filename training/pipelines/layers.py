"""Layers that fit each other: drawn together, or to layers that are given, by the weights of one mode."""

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
from training.external_weights import read_header, read_tensors
from training.interop.denoiser_weights import read_base_file
from training.interop.modes import MODES, SINGLE, Mode
from training.pipelines.delegation import DelegatingPipeline, bind_arguments
from training.pipelines.images import (
    Images,
    Picture,
    as_latents,
    check_output,
    fit,
    present,
    to_rgba,
)
from training.pipelines.loading import Files
from training.pipelines.saving import LAYERS, find_saved, save_layers
from training.pipelines.text_to_image import TransparentPipeline
from training.pipelines.weight_swap import SwappableWeights
from training.safetensors_io import facts_in
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import Transparency
from training.transparency.padding import on_grey
from training.transparency.tiling import mirror_to, whole

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class LayersOutput(BaseOutput):
    """What a call returns: a picture's layers stand at the same place of each list; None is neither given nor drawn.

    With output_type "latent" the drawn layers are latents as the denoiser knows them, scaled as diffusers' are.
    """

    foreground: Images | None = None
    """RGBA, through the alpha decoder; as it was given where it was."""
    background: Images | None = None
    """RGBA as well, opaque."""
    blended: Images | None = None
    latents: Mapping[LayerRole, Tensor] | None = None
    """Of the drawn layers, unscaled, B x C x h x w each."""


class LayersPipeline(DelegatingPipeline):
    """What the pipelines of all modes are: a `TransparentPipeline`, and what its UNet is taught while it draws.

    `pipe` draws foregrounds alone, as ever; `pipeline` is the diffusers pipeline below it, whose attributes and methods
    are this one's too. Made by `from_pretrained`, or of a pipeline and a lesson for its UNet.
    """

    modes: ClassVar[Sequence[str]] = (*MODES, SINGLE.name)
    """What the weights of such a pipeline may be."""

    _own: ClassVar[frozenset[str]] = frozenset({"pipe", "lesson", "mode"})

    def __init__(self, pipe: TransparentPipeline, lesson: SwappableWeights, mode: Mode) -> None:
        """Raises Refused for weights of another mode."""
        if mode.name not in self.modes:
            raise Refused(
                f"these weights are {mode}", f"{type(self).__name__} takes {', '.join(self.modes)}"
            )
        self.pipe, self.lesson, self.mode = pipe, lesson, mode

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        transparency: Any = None,
        layers: Files | None = None,
        adapter: Files | None = None,
        **options: Any,
    ) -> Self:
        """A pipeline from files.

        layers: the weights of the mode, such as layer_sd15_joint or layer_xl_fg2ble; without them those that
        `save_pretrained` wrote into the folder. All else as for `TransparentPipeline.from_pretrained`; an `adapter` is
        in the UNet whatever is drawn: none is needed, and one for transparency would be wrong. Where a blended picture
        is given, the scheduler becomes Euler's ancestral one (see `draw`). Raises NotFound, Refused.
        """
        path = _one_path(layers) if layers is not None else find_saved(model, LAYERS)
        pipe = TransparentPipeline.from_pretrained(model, transparency, adapter, **options)
        tensors, facts = _read_lesson(path)
        mode = MODES.get(facts.get("mode", ""), SINGLE)
        if (
            prefers_euler(mode) and layers is not None
        ):  # a saved scheduler is the one that was chosen
            kind: Any = EulerAncestralDiscreteScheduler
            pipe.scheduler = kind.from_config(pipe.scheduler.config)
        return cls(pipe, SwappableWeights(pipe.pipeline.unet, tensors, facts), mode)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """As `TransparentPipeline.save_pretrained`, with the weights of the mode beside the plain UNet."""
        self.pipe.save_pretrained(folder, **options)
        save_layers(*self.lesson.stored(), Path(folder))

    @property
    def transparency(self) -> Transparency:
        """The two networks of latent transparency."""
        return self.pipe.transparency

    @property
    def backbone(self) -> Autoencoder:
        """The frozen autoencoder that decodes."""
        return self.pipe.backbone

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline below."""
        return self.pipe.pipeline

    def fuse_lora(self, *args: Any, **kwargs: Any) -> Any:
        """Fuse loaded LoRAs into the UNet, as it is and as it is taught."""
        with self.lesson.following():
            return self.pipeline.fuse_lora(*args, **kwargs)

    def unfuse_lora(self, *args: Any, **kwargs: Any) -> Any:
        """Take fused LoRAs out of both again."""
        with self.lesson.following():
            return self.pipeline.unfuse_lora(*args, **kwargs)

    def _assign(self, name: str, value: Any) -> None:
        if name == "unet":
            hint = f"make a {type(self).__name__} of a pipeline that has it"
            raise AttributeError(
                f"the weights of {self.mode.name} are held for the present unet; {hint}"
            )
        setattr(self.pipe, name, value)

    def _follow(self, device: torch.device) -> None:
        self.pipe.backbone.to(device)
        self.pipe.transparency.to(device)

    @torch.no_grad()
    def draw(
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
        """Unscaled latents of the layers that the mode draws, B x C x h x w each.

        texts: for every drawn layer, one for all pictures or one a picture; None where `prompt_embeds` are
        given. given: straight RGBA in [0, 1] of
        `size` (H and W; by default the model's), one picture for all or one for each. generator: one a picture, which
        then is drawn as if alone, or one for all. prompt_embeds and its kin, and latents, the first noise: one for each
        layer of each picture, in the order of `mode.drawn`, picture after picture. stop_at: after
        this share of the noise levels the UNet goes on without what it was taught; by default 1, and 0.5 for fgble2bg,
        as its authors advise where the background need not be the given picture's to the pixel.

        DPM++ samplers leave artefacts where a blended picture is given (sd-forge-layerdiffuse, README): a warning says
        so. Raises Refused; TypeError for an argument that the diffusers pipeline does not know.
        """
        stop_at = _stop_at(self.mode, stop_at)
        arguments = bind_arguments(self.pipeline, (), arguments)
        if prefers_euler(self.mode) and "DPM" in type(self.pipeline.scheduler).__name__:
            warnings.warn(
                f"DPM++ leaves artefacts with {self.mode.name}: take Euler a or UniPC", stacklevel=3
            )
        drawn, frames = self.mode.drawn, len(self.mode.drawn)
        embedded = [arguments[name] for name in _EMBEDDED if arguments.get(name) is not None]
        counted = [*(texts[role] for role in drawn), negative_prompt, *given.values()]
        counted += [one[::frames] for one in embedded]
        count = _count(counted) * num_images_per_prompt
        arguments |= _spread(arguments, count, frames)
        arguments["prompt"] = _prompts([texts[role] for role in drawn], count)
        if negative_prompt is not None:
            arguments["negative_prompt"] = [
                n for n in _rows(negative_prompt, count) for _ in range(frames)
            ]
        if isinstance(generator, Sequence):
            generator = [one for one in _rows(list(generator), count) for _ in range(frames)]
        stride = self.pipe.backbone.stride
        if size is not None:
            arguments |= {"height": whole(size[0], stride), "width": whole(size[1], stride)}
        with self.lesson.taught(self._condition(given, count), stop_at):
            normal_BCHW = self.pipeline(
                generator=generator, output_type="latent", return_dict=False, **arguments
            )[0]
        latents = self.pipe.restore(normal_BCHW)
        return {role: latents[place::frames] for place, role in enumerate(drawn)}

    def decode(
        self, latents: Mapping[LayerRole, Tensor], size: tuple[int, int], views: int | None = None
    ) -> dict[LayerRole, Tensor]:
        """Straight RGBA in [0, 1] of drawn layers, cropped to H and W: foregrounds by the alpha decoder."""
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
        given: Mapping[LayerRole, Picture | Sequence[Picture] | Tensor | None],
        *,
        height: int | None = None,
        width: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        views: int | None = None,
        **arguments: Any,
    ) -> LayersOutput | tuple[Images | None, ...]:
        """A call of any mode: pictures in, pictures out."""
        check_output(output_type)
        if arguments.get("prompt_embeds") is None and any(
            texts[role] is None for role in self.mode.drawn
        ):
            raise Refused("there is no prompt", "give prompt= or prompt_embeds=")
        pictures = {role: self._pixels(one) for role, one in given.items() if one is not None}
        self._check(pictures)
        size = _size(pictures, height, width)
        fitted = {role: fit(one, *size) for role, one in pictures.items()} if size else {}
        latents = self.draw(texts, fitted, size, **arguments)
        shown: Mapping[Any, Images] = {
            role: self.pipe.normalise(one) for role, one in latents.items()
        }
        if output_type != "latent":
            if size is None:
                stride = self.pipe.backbone.stride
                rows, columns = next(iter(latents.values())).shape[-2:]
                size = rows * stride, columns * stride
            layers = fitted | self.decode(latents, size, views)
            shown = {role: present(rgba, output_type) for role, rgba in layers.items()}
        out = LayersOutput(**shown, latents=latents)
        return out if return_dict else (out.foreground, out.background, out.blended)

    def _pixels(self, given: Picture | Sequence[Picture] | Tensor) -> Tensor:
        if as_latents(given, self.pipe.backbone.latent_channels) is not None:
            hint = "give what output_type='pt', 'np' or 'pil' returns"
            raise Refused("a given layer is a picture, not latents", hint)
        return to_rgba(given)

    def _check(self, given: Mapping[LayerRole, Tensor]) -> None:
        if set(given) != set(self.mode.given):
            wanted = " and ".join(self.mode.given) or "no layer"
            raise Refused(
                f"{self.mode.name} is given {wanted}, not {' and '.join(given) or 'none'}",
                f"{self.mode}",
            )

    def _condition(self, given: Mapping[LayerRole, Tensor], count: int) -> Tensor | None:
        """The given layers as the UNet sees them, a row a picture."""
        if not self.mode.given:
            return None
        stride, seen = self.pipe.backbone.stride, []
        for role in self.mode.given:
            rgba_B4HW = given[role]
            size = tuple(whole(length, stride) for length in rgba_B4HW.shape[-2:])
            image_B3HW = mirror_to(on_grey(rgba_B4HW[:, :3], rgba_B4HW[:, 3:]), *size)
            seen.append(image_B3HW if self.mode.shared else _encode(self.pipe, image_B3HW))
        condition = torch.cat([one.expand(max(map(len, seen)), -1, -1, -1) for one in seen], dim=1)
        return condition.repeat_interleave(count // len(condition), dim=0)


def prefers_euler(mode: Mode) -> bool:
    """Whether DPM++ is known to leave artefacts: fgble2bg and bgble2fg."""
    return not mode.shared and LayerRole.blended in mode.given


def decode_opaque(pipe: TransparentPipeline, latent_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Unscaled latents by the frozen autoencoder alone, each by itself, cropped: RGBA in [0, 1] whose alpha is 1."""
    backbone, tile = pipe.backbone, pipe.transparency.decoder.tile
    parts = [
        backbone.decode(one.float().to(backbone.device), tile=tile)
        for one in torch.split(latent_BCHW, 1)
    ]
    colour_B3HW = (torch.cat(parts) / 2 + 0.5).clamp(0, 1)[..., : size[0], : size[1]]
    return torch.cat([colour_B3HW, torch.ones_like(colour_B3HW[:, :1])], dim=1)


def _encode(pipe: TransparentPipeline, image_B3HW: Tensor) -> Tensor:
    """Plain latents as the denoiser knows them, each by itself; nothing is sampled."""
    backbone, tile = pipe.backbone, pipe.transparency.encoder.tile
    parts = [
        backbone.encode(one.to(backbone.device), tile=tile)[0] for one in torch.split(image_B3HW, 1)
    ]
    return pipe.normalise(torch.cat(parts))


def _stop_at(mode: Mode, given: float | None) -> float:
    share = given if given is not None else 0.5 if mode.name == "fgble2bg" else 1.0
    if not 0 < share <= 1:
        raise Refused(
            f"a drawing cannot stop at {share}", "choose a share above 0, up to 1 for never"
        )
    return share


def _count(rows: Sequence[Any]) -> int:
    """How many pictures: of rows that are single or as long as each other. Raises Refused."""
    lengths = {len(row) for row in rows if row is not None and not isinstance(row, str)} - {1}
    if len(lengths) > 1:
        raise Refused(
            f"there are {' and '.join(map(str, sorted(lengths)))} texts and pictures",
            "give as many of each",
        )
    return lengths.pop() if lengths else 1


_EMBEDDED = (
    *(
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ),
)
"""Texts that are encoded already, a row each."""


def _spread(arguments: Mapping[str, Any], count: int, frames: int) -> dict[str, Tensor]:
    """Encoded texts for every layer of every picture, and whether there is a first noise for each. Raises Refused."""
    latents = arguments.get("latents")
    if latents is not None and len(latents) != count * frames:
        hint = f"give {count * frames}: {frames} a picture, picture after picture"
        raise Refused(
            f"there are {len(latents)} latents to begin from for {count} pictures of {frames} layers",
            hint,
        )
    spread = {}
    for name in _EMBEDDED:
        rows = arguments.get(name)
        if rows is not None:
            if len(rows) % frames or count % (len(rows) // frames):
                hint = (
                    f"give one for each of the {frames} layers of a picture, picture after picture"
                )
                raise Refused(f"there are {len(rows)} {name} for {count} pictures", hint)
            by_picture = rows.unflatten(0, (-1, frames)).repeat_interleave(
                count * frames // len(rows), dim=0
            )
            spread[name] = by_picture.flatten(0, 1)
    return spread


def _prompts(texts: Sequence[str | Sequence[str] | None], count: int) -> list[str] | None:
    """A text for every layer of every picture, picture after picture; None where they are encoded already."""
    written = [_rows(text, count) for text in texts if text is not None]
    return [text for row in zip(*written, strict=True) for text in row] or None


def _read_lesson(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights of a mode, as released or as `save_pretrained` wrote them. Raises Refused."""
    header = read_header(path)
    facts = facts_in(header.metadata)
    if facts.get("part") == LAYERS and "kind" in facts and facts["kind"] in {"weights", "sharing"}:
        return read_tensors(header, header.shapes), facts
    return read_base_file(path)


def _rows(given: str | Sequence[Any], count: int) -> list[Any]:
    """One for each picture: repeated in place where there are fewer."""
    rows = [given] if isinstance(given, str) else list(given)
    if count % len(rows):
        raise Refused(f"there are {len(rows)} for {count} pictures", "give one, or one a picture")
    return [row for row in rows for _ in range(count // len(rows))]


def _size(
    pictures: Mapping[LayerRole, Tensor], height: int | None, width: int | None
) -> tuple[int, int] | None:
    """H and W to draw at: as asked, else as the given layers have them, else the model's own (None)."""
    sizes = {tuple(one.shape[-2:]) for one in pictures.values()}
    if height and width:
        return height, width
    if height or width:
        raise Refused(
            "a size has both height and width", "give both, or none for that of the given pictures"
        )
    if len(sizes) > 1:
        raise Refused(
            "the given layers differ in size", "give height and width: they are fitted to them"
        )
    return next(iter(sizes), None)  # type: ignore[return-value]


def _one_path(files: Files) -> Path:
    if not isinstance(files, str | Path):
        raise Refused(
            "a pipeline draws by the weights of one mode",
            "give one file, and make a pipeline of each",
        )
    return Path(files)
