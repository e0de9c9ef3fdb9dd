"""Coverage: smallest shares of words and attributes, and the nearest shares of prompts to them.

Shares are raised by scaling: the prompts with an arm below its floor are scaled up to the floor,
the others down, in turn for all arms, until no arm is below. Each step is the projection on one
constraint with the smallest relative entropy (I. Csiszar, 1975), so that among prompts with the
same arms the wanted proportions stay.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curation.errors import Refused
from curation.input_files import read_input

Array = NDArray[np.float64]

MAX_FILE: Final = 1 << 20
"""Largest size of a file of targets."""
MAX_TARGETS: Final = 1_000
MAX_CYCLES: Final = 500
TOLERANCE: Final = 1e-4
"""Largest relative distance of a share from its floor."""
_MIXED_IN: Final = 0.01
"""Share of the natural distribution that is mixed in, so that every prompt can be scaled."""


def read_targets(path: Path) -> dict[str, float]:
    """Read coverage targets from a file.

    Args:
        path: JSON, an object of numbers by word or attribute; or CSV, a word and a number a line.

    Returns:
        The smallest share (below 1) or number of candidates of each word or attribute.

    Raises:
        Refused: The file is not of this form.
    """
    text = read_input(path, MAX_FILE).decode("utf-8", "replace")
    targets: dict[str, float] = {}
    try:
        if text.lstrip().startswith("{"):
            rows = list(json.loads(text).items())
        else:
            rows = [row for row in csv.reader(text.splitlines()) if row]
        for name, value in rows:
            targets[str(name).strip()] = float(value)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(
            f"{path} has no coverage targets", 'give JSON like {"red": 0.1} or lines like red,0.1'
        ) from error
    if len(targets) > MAX_TARGETS:
        raise Refused(f"{path} has {len(targets)} targets", f"give at most {MAX_TARGETS}")
    return targets


def raise_to_floors(
    wanted: Array, natural: Array, members: Sequence[NDArray[np.intp]], floors: Sequence[float]
) -> Array:
    """Return the shares nearest to the wanted ones in which every group has its floor.

    Args:
        wanted: The wanted share of each prompt.
        natural: The natural share of each prompt.
        members: The prompts of each group.
        floors: The smallest share of each group; zero or less for none.

    Returns:
        The shares; where the floors contradict each other, some groups are below theirs.
    """
    shares = (1 - _MIXED_IN) * wanted + _MIXED_IN * natural
    shares = shares / shares.sum()
    groups = [
        (own, floor) for own, floor in zip(members, floors, strict=True) if floor > 0 and len(own)
    ]
    for _ in range(MAX_CYCLES):
        raised = False
        for own, floor in groups:
            share = shares[own].sum()
            if share >= floor * (1 - TOLERANCE) or share <= 0 or share >= 1:
                continue
            target = min(floor, 1.0)
            inside = shares[own] * (target / share)
            shares = shares * ((1 - target) / (1 - share))
            shares[own] = inside
            raised = True
        if not raised:
            break
    return np.asarray(shares / shares.sum())


def draw_counts(shares: Array, order: ArrayLike, count: int, start: float) -> NDArray[np.intp]:
    """Draw how many candidates each prompt gets, by systematic sampling.

    Each prompt gets the integer below or above `count` times its share, with exactly this mean; so
    does each run of neighbors in the order.

    Args:
        shares: The share of each prompt; they add up to 1.
        order: The prompts in the order of sampling, with similar ones beside each other.
        count: The number of candidates.
        start: A random number in [0, 1).
    """
    ordered = np.asarray(order, np.intp)
    edges = np.concatenate([[0.0], np.cumsum(shares[ordered]) * count])
    edges[-1] = count
    # A prompt gets the points start + 0, 1, 2 ... between its edges.
    points = np.ceil(edges - start).astype(np.intp)
    counts = np.zeros(len(shares), np.intp)
    counts[ordered] = np.diff(points)
    return counts
