"""The files of one pair in, three clean layers that belong together or one plain refusal out."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from curation.domain import LayerRole
from curation.image_limits import LIMITS, Limits
from curation.images import pairs
from curation.images.decoding import decode
from curation.images.headers import BadFile
from curation.images.recognition import read_header
from curation.ingest.inspection import (
    FINDINGS,
    Intake,
    Judged,
    Outcome,
    check_header,
    check_size,
    finish,
    judge_file,
)  # fmt: skip
from curation.ports import RGBA
from curation.screening.pairs.signals import measure_pair
from curation.screening.rules import PAIR_RULES, judge

OPAQUE: Final = 0.98 * 255
INEXACT: Final = 0.5
"""Levels (root mean square) from which a given blended image is said not to be exactly its layers' blend."""


def examine_pair(
    foreground: bytes, background: bytes, blended: bytes | None, name: str, limits: Limits = LIMITS
) -> Intake:
    """Judge the files of a pair, as judge_pair does, and encode its layers. Never raises for what is in the files.

    The answer's `layer` is the blended image, by which pairs are told apart; foreground and background lie `beside`.
    """
    return finish(name, judge_pair(foreground, background, blended, name, limits))


def judge_pair(
    foreground: bytes, background: bytes, blended: bytes | None, name: str, limits: Limits = LIMITS
) -> Judged:
    """Judge the foreground as any single layer, the others as opaque pictures of its size, then all as a pair.

    Without a blended file it is made by curation.images.pairs.composite.
    """
    front = judge_file(foreground, f"{name} (foreground)", limits)
    if not front.layers:
        return replace(front, sentence=f"foreground: {front.sentence}")
    try:
        straight = front.layers[LayerRole.foreground]
        back, flagged = _read_opaque(background, "background", limits)
        whole = None
        if blended is not None:
            whole, more = _read_opaque(blended, "blended", limits)
            flagged += more
        kept, found = _blend(straight, back, whole)
    except BadFile as bad:
        return Judged(Outcome.reject, (bad.code,), bad.sentence)
    except MemoryError:
        return Judged(
            Outcome.reject, ("out_of_memory",), "decoding it needs more memory than a worker has"
        )
    codes = sorted(
        {*front.codes, *found, *flagged}, key=lambda code: -list(Outcome).index(FINDINGS[code][0])
    )
    layers = {LayerRole.foreground: straight, LayerRole.background: back, LayerRole.blended: kept}
    outcome = FINDINGS[codes[0]][0] if codes else Outcome.accept
    return Judged(outcome, tuple(codes), "; ".join(FINDINGS[code][1] for code in codes), layers)


def _read_opaque(data: bytes, role: str, limits: Limits) -> tuple[RGBA, list[str]]:
    """Return a background or blended image made fully opaque, and what is to be said of its source.

    Any image that nothing can be seen through is taken, a JPEG too.
    """
    try:
        header = read_header(check_size(data, limits), "")
        check_header(header, "", limits, alpha=False)
        rgba, found = decode(header)
    except BadFile as bad:
        raise BadFile(bad.code, f"{role}: {bad.sentence}") from bad
    if rgba[..., 3].min() < OPAQUE:
        raise BadFile(f"{role}_not_opaque", f"the {role} can be seen through")
    solid = np.full((*rgba.shape[:2], 1), 255, np.uint8)
    flagged = [code for code in found if code != "greyscale"]  # of a background that is no flaw
    return np.concatenate([rgba[..., :3], solid], axis=2), flagged


def _blend(foreground: RGBA, background: RGBA, blended: RGBA | None) -> tuple[RGBA, list[str]]:
    """The blended image, made where none is given, and what is to be said of the pair.

    The rules are those for drawn pairs. Raises BadFile with the code of the first that is broken.
    """
    if blended is None:
        blended = (
            pairs.composite(foreground, background)
            if foreground.shape == background.shape
            else background
        )
    layers = dict(zip(LayerRole, (foreground, background, blended), strict=True))
    signals = measure_pair(layers)
    broken = judge(signals, PAIR_RULES)
    if broken is not None:
        raise BadFile(broken.rule, broken.sentence)
    return blended, ["blend_inexact"] if (signals["blended_error"] or 0) > INEXACT else []
