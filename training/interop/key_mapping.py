"""Key mapping of Stable Diffusion UNets between original ("ldm") and diffusers names, by rule."""

from __future__ import annotations

import re

from curation.errors import Refused

LAYERS = 2
"""Residual blocks per level of the encoder in every Stable Diffusion; the decoder has one more."""

UP_ATTENDS: dict[str, tuple[bool, ...]] = {
    "sd15": (False, True, True, True),
    "sd21": (False, True, True, True),
    "sdxl": (True, True, False),
}
"""The decoder levels with attention, which shifts the index of the upsampler in original names."""

_HEADS = {
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}
_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_MIDDLE = {
    "middle_block.0": "resnets.0",
    "middle_block.1": "attentions.0",
    "middle_block.2": "resnets.1",
}

_WORDS = (
    *(
        "down_blocks",
        "up_blocks",
        "mid_block",
        "transformer_blocks",
        "conv_in",
        "conv_out",
        "conv_norm_out",
    ),
    *(
        "conv_shortcut",
        "time_emb_proj",
        "time_embedding",
        "add_embedding",
        "linear_1",
        "linear_2",
        "proj_in",
    ),
    *(
        "proj_out",
        "to_q",
        "to_k",
        "to_v",
        "to_out",
        "input_blocks",
        "output_blocks",
        "middle_block",
        "in_layers",
    ),
    *("out_layers", "emb_layers", "skip_connection", "time_embed", "label_emb"),
)
_PIECE = re.compile(
    "|".join(rf"{word}(?=_|$)" for word in sorted(_WORDS, key=len, reverse=True)) + "|[^_]+"
)


def to_diffusers(ldm: str) -> str:
    """Return the diffusers name of a UNet tensor or module from its original name.

    An original name is such as input_blocks.4.1.proj_in.weight. The mapping equals that of
    diffusers.loaders.single_file_utils, name by name.

    Raises:
        Refused: The name is not of a Stable Diffusion UNet.
    """
    # Input, output and embedding layers map one to one.
    for head, name in _HEADS.items():
        if _has_prefix(head, ldm):
            return name + ldm[len(head) :]
    # The middle block has a fixed order.
    for head, name in _MIDDLE.items():
        if _has_prefix(head, ldm):
            return f"mid_block.{name}{_map_inner(ldm[len(head) :], _RESIDUAL)}"
    # The other blocks are numbered through all levels: LAYERS residual blocks and a sampler each.
    match re.split(r"\.", ldm, maxsplit=3):
        case ["input_blocks", block, slot, rest] if block.isdigit() and slot in {"0", "1"}:
            level, layer = divmod(int(block) - 1, LAYERS + 1)
            if _has_prefix("op", rest):
                return f"down_blocks.{level}.downsamplers.0.conv{rest[2:]}"
            return f"down_blocks.{level}.{_block_name(slot, layer, rest)}"
        case ["output_blocks", block, slot, rest] if block.isdigit() and slot in {"0", "1", "2"}:
            level, layer = divmod(int(block), LAYERS + 1)
            if _has_prefix("conv", rest) and slot != "0":
                return f"up_blocks.{level}.upsamplers.0.{rest}"
            return f"up_blocks.{level}.{_block_name(slot, layer, rest)}"
    raise Refused(
        f"{ldm[:120]!r} is not a tensor of a Stable Diffusion UNet",
        "is it for another architecture?",
    )


def to_ldm(name: str, family: str) -> str:
    """Return the original name from diffusers' name: the inverse of `to_diffusers`.

    Args:
        name: The diffusers name of a UNet tensor or module.
        family: The model family (training.pretrained.families), which decides the numbering.

    Raises:
        Refused: The family has no original names, or the name is not of a Stable Diffusion UNet.
    """
    if family not in UP_ATTENDS:
        raise Refused(
            f"the family {family!r} has no original names",
            f"known: {', '.join(UP_ATTENDS)}",
        )
    # Input, output and embedding layers map one to one.
    for ldm, head in _HEADS.items():
        if _has_prefix(head, name):
            return ldm + name[len(head) :]
    # The middle block has a fixed order.
    for ldm, head in _MIDDLE.items():
        if _has_prefix(f"mid_block.{head}", name):
            return ldm + _map_inner(name.removeprefix(f"mid_block.{head}"), _inverse_table(head))
    # The other blocks are numbered through all levels. An upsampler comes after the attention, if
    # its level has any.
    match re.split(r"\.", name, maxsplit=4):
        case ["down_blocks", level, "downsamplers", "0", rest] if level.isdigit() and _has_prefix(
            "conv", rest
        ):
            return f"input_blocks.{(int(level) + 1) * (LAYERS + 1)}.0.op{rest[4:]}"
        case ["up_blocks", level, "upsamplers", "0", rest] if level.isdigit():
            slot = 2 if UP_ATTENDS[family][int(level)] else 1
            return f"output_blocks.{int(level) * (LAYERS + 1) + LAYERS}.{slot}.{rest}"
        case [
            ("down_blocks" | "up_blocks") as side,
            level,
            ("resnets" | "attentions") as row,
            layer,
            rest,
        ]:
            block = int(level) * (LAYERS + 1) + int(layer) + (side == "down_blocks")
            ldm = "input_blocks" if side == "down_blocks" else "output_blocks"
            inner = _map_inner("." + rest, _inverse_table(row))
            return f"{ldm}.{block}.{int(row == 'attentions')}{inner}"
    raise Refused(
        f"{name[:120]!r} is not a tensor of a Stable Diffusion UNet",
        "is it a file for another architecture?",
    )


def to_flat(name: str) -> str:
    """Return a module's name in kohya's LoRA files, such as down_blocks_1_attentions_0_proj_in."""
    return name.replace(".", "_")


def from_flat(flat: str) -> str:
    """Return the dotted name from kohya's, for original and diffusers names."""
    # Known words with underscores are matched first, so that they are not split.
    return ".".join(_PIECE.findall(flat))


def is_ldm(name: str) -> bool:
    """Return whether a UNet tensor has an original name rather than a diffusers name."""
    return name.startswith(
        ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", "label_emb.")
    )


def _block_name(slot: str, layer: int, rest: str) -> str:
    """Return the diffusers name of a layer in a block."""
    return (
        f"resnets.{layer}{_map_inner('.' + rest, _RESIDUAL)}"
        if slot == "0"
        else f"attentions.{layer}.{rest}"
    )


def _map_inner(rest: str, table: dict[str, str]) -> str:
    """Map a block's inner name, with its leading dot, by a table.

    Attention layers have the same inner names in both schemes.
    """
    for before, after in table.items():
        if _has_prefix(before, rest[1:]):
            return f".{after}{rest[1 + len(before) :]}"
    return rest


def _inverse_table(row: str) -> dict[str, str]:
    return (
        {after: before for before, after in _RESIDUAL.items()} if row.startswith("resnets") else {}
    )


def _has_prefix(head: str, name: str) -> bool:
    return name == head or name.startswith(f"{head}.")
