"""Selection policies: a round's rules for which candidates people see, parsed and validated."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from curation.errors import Refused

MIN_RANDOM_SLICE: Final = 300
"""The minimum size of the random slice, if the share allows it: the first training rows."""


@dataclass(frozen=True)
class RandomPolicy:
    """Show each candidate with probability `share`."""

    share: float = 1.0


@dataclass(frozen=True)
class MixedPolicy:
    """Show a `share` of the candidates: likely, uncertain and random ones.

    `likely`, `uncertain` and `random` are the slices' shares of the shown candidates. No prompt and
    no cluster gets more than `per_prompt` and `per_cluster` times its fair share of the likely
    slice. Review may stop at `wanted` accepts, or when the rest is predicted to yield fewer than
    `least` accepts an hour (0: never). `reject_budget` and `accept_budget` are the error rates
    allowed to the auto-reviewer (0: no automatic decisions), `audit` the share of its verdicts that
    people see as well.
    """

    share: float = 0.25
    likely: float = 0.70
    uncertain: float = 0.15
    random: float = 0.15
    per_prompt: float = 1.5
    per_cluster: float = 1.5
    wanted: int = 0
    least: float = 0.0
    reject_budget: float = 0.0
    accept_budget: float = 0.0
    audit: float = 0.05

    def random_share(self, quota: int) -> float:
        """Return the probability that a candidate is in the random slice, constant for a round."""
        return min(self.share, max(self.random * self.share, MIN_RANDOM_SLICE / max(quota, 1)))


@dataclass(frozen=True)
class PaperPolicy:
    """The paper's selector: LAION's aesthetic score above `aesthetic`, ordered by CLIP score.

    A share `random` is shown besides. The score is of the layer over mid-gray (training.embedding),
    since the background alone changes it by half a point.
    """

    aesthetic: float = 5.5
    random: float = 0.05


Policy = RandomPolicy | MixedPolicy | PaperPolicy

POLICY_CLASSES: Final[Mapping[str, type[Policy]]] = {
    "random": RandomPolicy,
    "mixed": MixedPolicy,
    "paper": PaperPolicy,
}

AESTHETIC, CLIP_SCORE = "aesthetic", "clip_score"
"""The signals of the paper's selector; an embedder with CLIP weights computes them."""

_ABOVE_ONE = {"per_prompt", "per_cluster", "wanted", "least", "aesthetic"}
_MAY_BE_ZERO = {"wanted", "least", "reject_budget", "accept_budget", "uncertain", "audit"}


def parse_policy(row: Mapping[str, Any]) -> Policy:
    """Parse and validate a policy from plain data.

    Args:
        row: `kind` with the policy's numbers; missing ones take their defaults.

    Raises:
        Refused: The kind or a name is unknown, or a number is out of range.
    """
    kind = POLICY_CLASSES.get(str(row.get("kind")))
    if kind is None:
        raise Refused(
            f"unknown selection policy {dict(row)}",
            "kind must be one of " + ", ".join(POLICY_CLASSES),
        )
    # Reject unknown fields and numbers out of range before the policy is constructed.
    given = {name: value for name, value in row.items() if name != "kind"}
    known = {field.name: field.type for field in fields(kind)}
    for name, value in given.items():
        if name not in known:
            raise Refused(
                f"a {row['kind']} policy has no field {name!r}",
                "its fields are " + ", ".join(known),
            )
        _check_number(name, value)
    policy = kind(**given)
    # Slices are shares of what is shown.
    if isinstance(policy, MixedPolicy) and not math.isclose(
        policy.likely + policy.uncertain + policy.random, 1, abs_tol=1e-6
    ):
        raise Refused(
            "the slices of a mixed policy do not add up to 1",
            "for example likely 0.7, uncertain 0.15, random 0.15",
        )
    return policy


def policy_to_dict(policy: Policy) -> dict[str, Any]:
    """Return the inverse of `parse_policy`, with all fields."""
    kind = next(name for name, class_ in POLICY_CLASSES.items() if isinstance(policy, class_))
    return {"kind": kind} | asdict(policy)


def check_policy_signals(policy: Mapping[str, Any], measures: Collection[str]) -> None:
    """Raise Refused for a policy whose signals no embedder computes.

    Args:
        policy: The policy as plain data.
        measures: The signals that the configured embedder computes.
    """
    if isinstance(parse_policy(policy), PaperPolicy) and not {AESTHETIC, CLIP_SCORE} <= set(
        measures
    ):
        raise Refused(
            "the paper's selector needs an aesthetic score, but its weights are not configured",
            "set LAYERLOOP_EMBEDDER=training.embedding:open_embedder, LAYERLOOP_EMBEDDER_MODEL "
            "(CLIP ViT-L/14) and LAYERLOOP_AESTHETIC (LAION's linear head as safetensors)",
        )


def _check_number(name: str, value: Any) -> None:
    # bool is a subclass of int; NaN and infinity are numbers too.
    valid = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if valid and name == "wanted":
        valid = value == int(value)
    maximum = math.inf if name in _ABOVE_ONE else 1.0
    if not valid or value < 0 or value > maximum or (value == 0 and name not in _MAY_BE_ZERO):
        raise Refused(
            f"invalid {name} of a selection policy: {value!r}",
            f"give a number above 0, up to {maximum:g}",
        )
