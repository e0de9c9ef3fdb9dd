"""Modes of released weights: the layers they are given and the layers they generate."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from curation.domain import LayerRole
from curation.errors import Refused
from training.external_weights import WeightsHeader
from training.interop.formats import Shapes, WeightFormat, sharing_frames
from training.safetensors_io import layerloop_metadata

FOREGROUND, BACKGROUND, BLENDED = LayerRole.foreground, LayerRole.background, LayerRole.blended


@dataclass(frozen=True)
class Mode:
    """A mode of layer generation: given layers, in concatenation order, to generated ones.

    `drawn` is in batch order.
    """

    name: str  # as in the names of the released files; also the part of a checkpoint
    given: tuple[LayerRole, ...]
    drawn: tuple[LayerRole, ...]
    # True: attention sharing (SD 1.5). False: extra input channels beside the noisy latent (SDXL).
    attention_sharing: bool

    def __str__(self) -> str:
        """Describe the mode."""
        given = f"given {' and '.join(self.given)} " if self.given else ""
        return f"{self.name}: {given}generates {', '.join(self.drawn)}"


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("joint", (), (FOREGROUND, BACKGROUND, BLENDED), attention_sharing=True),
        Mode("fg2bg", (FOREGROUND,), (BACKGROUND, BLENDED), attention_sharing=True),
        Mode("bg2fg", (BACKGROUND,), (FOREGROUND, BLENDED), attention_sharing=True),
        Mode("fg2ble", (FOREGROUND,), (BLENDED,), attention_sharing=False),
        Mode("bg2ble", (BACKGROUND,), (BLENDED,), attention_sharing=False),
        Mode("fgble2bg", (FOREGROUND, BLENDED), (BACKGROUND,), attention_sharing=False),
        Mode("bgble2fg", (BACKGROUND, BLENDED), (FOREGROUND,), attention_sharing=False),
    )
}
"""The seven modes of layerdiffusion-v1 that generate several layers."""

SINGLE = Mode("base", (), (FOREGROUND,), attention_sharing=False)
"""Single foregrounds: the mode of a checkpoint's base."""


@dataclass(frozen=True)
class ModeMatch:
    """A file's mode, None for single foregrounds; `doubt` notes an ambiguous content."""

    mode: Mode | None
    doubt: str = ""

    @property
    def part(self) -> str:
        """The part of a checkpoint that the file becomes."""
        return self.mode.name if self.mode else SINGLE.name


def find_mode(header: WeightsHeader, weight_format: WeightFormat) -> ModeMatch:
    """Find the mode of a base.

    Frames, input channels and control layers decide most cases. fg2ble and bg2ble have the same
    names and shapes, and so do fg2bg and bg2fg: for them the file's own metadata decides, or else
    its name.

    Raises:
        Refused: The mode is ambiguous, or no released file has such frames and channels.
    """
    fitting = _fitting(header, weight_format)
    if not fitting:
        return ModeMatch(None)
    # Files written by Layerloop record their mode.
    recorded = layerloop_metadata(header.metadata).get("mode")
    if recorded in fitting:
        return ModeMatch(MODES[recorded])
    if len(fitting) == 1:
        return ModeMatch(MODES[fitting[0]])
    # Otherwise the file name decides, with a note.
    named = [name for name in fitting if name in header.path.name]
    alike = " and ".join(fitting)
    if len(named) == 1:
        return ModeMatch(
            MODES[named[0]],
            f"{header.path.name} is taken for {named[0]} by its name; {alike} have the same "
            "tensors",
        )
    # The released SDXL differences of the two modes cover different layers.
    has_attention = any(".transformer_blocks." in name for name in header.shapes)
    expected = "bgble2fg" if has_attention else "fgble2bg"
    if expected in fitting and weight_format in {WeightFormat.differences, WeightFormat.offsets}:
        return ModeMatch(
            MODES[expected],
            f"{header.path.name} is taken for {expected}, as released, by its tensors",
        )
    raise Refused(
        f"{header.path} may be {alike}: its content does not decide",
        "put one of the two mode names into the file name",
    )


def plan_modes(available: Collection[str], given: Collection[LayerRole]) -> list[Mode]:
    """Find the shortest sequence of modes that generates a whole pair around the given layers.

    Each mode is given all layers that exist so far, so that no layer is generated without regard to
    another.

    Args:
        available: The parts of a checkpoint.
        given: The roles of the given layers.

    Raises:
        Refused: The available modes cannot generate the pair.
    """
    known = [mode for mode in (*MODES.values(), SINGLE) if mode.name in available]
    # Breadth-first search over the sets of layers that exist.
    paths: list[tuple[frozenset[LayerRole], list[Mode]]] = [(frozenset(given), [])]
    # A mode applies if it is given exactly the layers that exist, and adds only new ones.
    for roles, path in paths:
        if len(roles) == len(LayerRole) and path:
            return path
        paths += [
            (roles | set(m.drawn), [*path, m])
            for m in known
            if set(m.given) == roles and not roles & set(m.drawn)
        ]
    around = f" around {' and '.join(sorted(given))}" if given else ""
    raise Refused(
        f"this checkpoint cannot generate a pair{around}; its modes: "
        f"{', '.join(sorted(available)) or 'none'}",
        "import layer_sd15_joint, _fg2bg or _bg2fg, or layer_xl_fg2ble with _fgble2bg, "
        "or layer_xl_bg2ble with _bgble2fg",
    )


def _fitting(header: WeightsHeader, layout: WeightFormat) -> list[str]:
    """Return the names of the modes that a file's frames and channels allow."""
    # Attention sharing: the number of frames, and whether there are control layers.
    if layout is WeightFormat.sharing:
        frames, controlled = sharing_frames(header.shapes)
        found = [
            m.name
            for m in MODES.values()
            if m.attention_sharing and (len(m.drawn), bool(m.given)) == (frames, controlled)
        ]
        if not found and (frames, controlled) != (1, False):
            control = ", with a given layer" if controlled else ""
            hint = "supported: one layer, three layers, and two layers with a given one"
            raise Refused(f"{header.path} is attention sharing of {frames} layers{control}", hint)
        return found
    # SDXL: each given layer adds four input channels to the first convolution.
    layers = _channels(header.shapes) // 4
    found = [
        m.name
        for m in MODES.values()
        if not m.attention_sharing and len(m.given) == layers - 1 and layers > 1
    ]
    if layers > 1 and not found:
        raise Refused(
            f"{header.path} has {4 * layers} input channels",
            "supported: 4, 8 and 12, for none, one or two given layers",
        )
    return found


def _channels(shapes: Shapes) -> int:
    """Return the input channels of the first convolution; 4 if the file does not change it."""
    by_name: Mapping[str, tuple[int, ...]] = {
        name.partition("::")[0].removeprefix("diffusion_model.").removeprefix("unet."): shape
        for name, shape in shapes.items()
        if "::lora::" not in name
    }
    first = by_name.get("conv_in.weight") or by_name.get("input_blocks.0.0.weight") or (0, 4)
    return first[1]
