"""The files of one pair in, three clean layers that belong together or one plain refusal out."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from curation import pairs
from curation.domain import LayerRole
from curation.images.decoding import decode
from curation.images.headers import BadFile, read_header
from curation.intake.examination import (
    FINDINGS,
    LIMITS,
    Beside,
    Intake,
    Limits,
    Loaded,
    Outcome,
    check_header,
    check_size,
    examine,
    refuse,
)  # fmt: skip
from curation.layers import decode_layer, encode_layer, visible_hash, without_hidden_colour
from curation.ports import RGBA
from curation.screening.fingerprints import fingerprint
from curation.screening.pair_signals import measure_pair
from curation.screening.refusals import PAIR_RULES, judge

OPAQUE: Final = 0.98 * 255
INEXACT: Final = 0.5
"""Levels (root mean square) from which a given blended image is said not to be exactly its layers' blend."""


def examine_pair(
    foreground: bytes, background: bytes, blended: bytes | None, name: str, limits: Limits = LIMITS
) -> Intake:
    """Judge the foreground as any single layer, the others as opaque pictures of its size, then all as a pair.

    The answer's `layer` is the blended image, by which pairs are told apart; foreground and background lie `beside`.
    Without a blended file it is made by curation.pairs.composite. Never raises for what is in the files; meant for a
    process of its own, as examine is.
    """
    front = examine(foreground, f"{name} (foreground)", limits)
    if front.layer is None:
        return replace(front, name=name, sentence=f"foreground: {front.sentence}")
    try:
        straight = decode_layer(front.layer)
        back = _read_opaque(background, "background", limits)
        whole = None if blended is None else _read_opaque(blended, "blended", limits)
        kept, found = _blend(straight, back, whole)
    except BadFile as bad:
        return refuse(name, bad)
    except MemoryError:
        return Intake(name, Outcome.reject, ("out_of_memory",), "decoding it needs more memory than a worker has")
    codes = sorted({*front.codes, *found}, key=lambda code: -list(Outcome).index(FINDINGS[code][0]))
    beside = {LayerRole.foreground: Beside(front.layer, front.visible)}
    beside[LayerRole.background] = Beside(encode_layer(back), visible_hash(back))
    return Intake(
        name,
        FINDINGS[codes[0]][0] if codes else Outcome.accept,
        tuple(codes),
        "; ".join(FINDINGS[code][1] for code in codes),
        encode_layer(kept),
        kept.shape[1],
        kept.shape[0],
        visible_hash(kept),
        fingerprint(kept),
        beside,
    )


def _read_opaque(data: bytes, role: str, limits: Limits) -> RGBA:
    """A background or blended image: any picture that nothing can be seen through, made fully opaque."""
    try:
        header = read_header(check_size(data, limits), "")
        check_header(header, "", limits, alpha=False)
        rgba, _ = decode(header)
    except BadFile as bad:
        raise BadFile(bad.code, f"{role}: {bad.sentence}") from bad
    if rgba[..., 3].min() < OPAQUE:
        raise BadFile(f"{role}_not_opaque", f"the {role} can be seen through")
    solid = np.full((*rgba.shape[:2], 1), 255, np.uint8)
    return without_hidden_colour(np.concatenate([rgba[..., :3], solid], axis=2))


def _blend(foreground: RGBA, background: RGBA, blended: RGBA | None) -> tuple[RGBA, list[str]]:
    """The blended image, made where none is given, and what is to be said of the pair.

    The rules are those for drawn pairs. Raises BadFile with the code of the first that is broken.
    """
    if blended is None:
        blended = pairs.composite(foreground, background) if foreground.shape == background.shape else background
    layers = dict(zip(LayerRole, (foreground, background, blended), strict=True))
    signals = measure_pair(layers)
    broken = judge(signals, PAIR_RULES)
    if broken is not None:
        raise BadFile(broken.rule, broken.sentence)
    return blended, ["blend_inexact"] if (signals["blended_error"] or 0) > INEXACT else []


def examine_any(loaded: Loaded) -> Intake:
    """Judge an item, a pair or not; this is the function that confined processes run. Never raises."""
    item = loaded.item
    if item.known is not None:
        return item.known
    try:
        if len(loaded.parts) == 1:
            return examine(loaded.parts[0], item.name, loaded.limits)
        front, back, *whole = loaded.parts
        return examine_pair(front, back, whole[0] if whole else None, item.name, loaded.limits)
    except Exception as error:  # a mistake of ours, or a decoder that raises what no decoder should
        return refuse(item.name, BadFile("decoder_failed", f"its decoder failed: {type(error).__name__}"))
