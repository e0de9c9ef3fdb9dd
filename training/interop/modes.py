"""What released weights draw, and which layers they have to be given: told by content as far as content tells it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from curation.domain import LayerRole
from curation.errors import Refused
from training.external_weights import Header
from training.interop.formats import Shapes, WeightFormat, frames_of
from training.safetensors_io import facts_in

FOREGROUND, BACKGROUND, BLENDED = LayerRole.foreground, LayerRole.background, LayerRole.blended


@dataclass(frozen=True)
class Mode:
    """What weights turn into what: `given` layers, in the order they are joined, into `drawn` ones, in batch order."""

    name: str  # as the released files are called; also the part of a checkpoint
    given: tuple[LayerRole, ...]
    drawn: tuple[LayerRole, ...]
    shared: bool  # by attention sharing (SD 1.5), or by channels beside the noisy latent (SDXL)

    def __str__(self) -> str:
        """In words."""
        given = f"given {' and '.join(self.given)} " if self.given else ""
        return f"{self.name}: {given}draws {', '.join(self.drawn)}"


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("joint", (), (FOREGROUND, BACKGROUND, BLENDED), shared=True),
        Mode("fg2bg", (FOREGROUND,), (BACKGROUND, BLENDED), shared=True),
        Mode("bg2fg", (BACKGROUND,), (FOREGROUND, BLENDED), shared=True),
        Mode("fg2ble", (FOREGROUND,), (BLENDED,), shared=False),
        Mode("bg2ble", (BACKGROUND,), (BLENDED,), shared=False),
        Mode("fgble2bg", (FOREGROUND, BLENDED), (BACKGROUND,), shared=False),
        Mode("bgble2fg", (BACKGROUND, BLENDED), (FOREGROUND,), shared=False),
    )
}
"""The seven modes of layerdiffusion-v1 beside the drawing of a foreground alone."""

SINGLE = Mode("base", (), (FOREGROUND,), shared=False)
"""A foreground alone: what a checkpoint's base draws."""


@dataclass(frozen=True)
class Found:
    """A file's mode, None where it draws a foreground alone; `doubt` is a sentence where its content left a choice."""

    mode: Mode | None
    doubt: str = ""

    @property
    def part(self) -> str:
        """The part of a checkpoint that the file becomes."""
        return self.mode.name if self.mode else SINGLE.name


def find_mode(header: Header, layout: WeightFormat) -> Found:
    """What a base draws.

    Frames, channels and control tell most. fg2ble and bg2ble have the same names and shapes, and so have fg2bg and
    bg2fg: what the file says of itself, as ours do, or else its own name decides. Raises Refused where nothing does,
    and for frames and channels that no released file has.
    """
    fitting = _fitting(header, layout)
    if not fitting:
        return Found(None)
    told = facts_in(header.metadata).get("mode")
    if told in fitting:
        return Found(MODES[told])
    if len(fitting) == 1:
        return Found(MODES[fitting[0]])
    named = [name for name in fitting if name in header.path.name]
    alike = " and ".join(fitting)
    if len(named) == 1:
        return Found(
            MODES[named[0]],
            f"{header.path.name} is taken for {named[0]} by its name; {alike} look alike",
        )
    attends = any(".transformer_blocks." in name for name in header.shapes)
    own = "bgble2fg" if attends else "fgble2bg"
    if own in fitting and layout in {WeightFormat.differences, WeightFormat.offsets}:
        return Found(
            MODES[own],
            f"{header.path.name} is taken for {own}, as released, by the tensors it holds",
        )
    raise Refused(
        f"{header.path} may be {alike}: nothing in it tells",
        "let the file's name hold one of the two words",
    )


def plan(available: Collection[str], given: Collection[LayerRole]) -> list[Mode]:
    """The modes that, one after another, draw a whole pair around the layers given; the shortest such way.

    available: parts of a checkpoint. Each mode sees all layers there are, so that none is drawn beside another unseen.
    Raises Refused where they cannot.
    """
    known = [mode for mode in (*MODES.values(), SINGLE) if mode.name in available]
    ways: list[tuple[frozenset[LayerRole], list[Mode]]] = [(frozenset(given), [])]
    for have, way in ways:
        if len(have) == len(LayerRole) and way:
            return way
        ways += [
            (have | set(m.drawn), [*way, m])
            for m in known
            if set(m.given) == have and not have & set(m.drawn)
        ]
    around = f" around {' and '.join(sorted(given))}" if given else ""
    raise Refused(
        f"this checkpoint draws no pair{around}; it has {', '.join(sorted(available)) or 'nothing that draws'}",
        "import layer_sd15_joint, _fg2bg or _bg2fg, or layer_xl_fg2ble with _fgble2bg, _bg2ble with _bgble2fg",
    )


def _fitting(header: Header, layout: WeightFormat) -> list[str]:
    """Names of the modes that a file's frames and channels allow."""
    if layout is WeightFormat.sharing:
        frames, controlled = frames_of(header.shapes)
        found = [
            m.name
            for m in MODES.values()
            if m.shared and (len(m.drawn), bool(m.given)) == (frames, controlled)
        ]
        if not found and (frames, controlled) != (1, False):
            led = ", led by a known one" if controlled else ""
            hint = "known are one, three together, and two led by a known layer"
            raise Refused(
                f"{header.path} is attention sharing that draws {frames} layers together{led}", hint
            )
        return found
    layers = _channels(header.shapes) // 4
    found = [
        m.name for m in MODES.values() if not m.shared and len(m.given) == layers - 1 and layers > 1
    ]
    if layers > 1 and not found:
        raise Refused(
            f"{header.path} wants {4 * layers} channels",
            "known are 4, 8 and 12: one or two layers given",
        )
    return found


def _channels(shapes: Shapes) -> int:
    """Of the first convolution, in whichever names; 4 where the file leaves it alone."""
    own: Mapping[str, tuple[int, ...]] = {
        name.partition("::")[0].removeprefix("diffusion_model.").removeprefix("unet."): shape
        for name, shape in shapes.items()
        if "::lora::" not in name
    }
    first = own.get("conv_in.weight") or own.get("input_blocks.0.0.weight") or (0, 4)
    return first[1]
