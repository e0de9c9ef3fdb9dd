"""Selection policies: the rules of a round by which people are shown some of its candidates, read and checked."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from curation.errors import Refused

FIRST: Final = 300
"""So many candidates at least are random ones, where the share allows it: what a first acceptance head is taught by."""


@dataclass(frozen=True)
class Random:
    """Each candidate is shown with probability `share`."""

    share: float = 1.0


@dataclass(frozen=True)
class Mixed:
    """A `share` of the candidates is shown: the likely ones, those of which the head is unsure, and some at random.

    `likely`, `uncertain` and `random` are the slices' shares of what is shown. No prompt and no cluster gets more than
    `per_prompt` and `per_cluster` times its fair share of the likely slice. Review may stop at `wanted` accepts, or
    when what is left promises fewer than `least` accepts an hour (0: never). `reject_budget` and `accept_budget` are
    the shares of errors that the machine may make (0: it decides nothing), `audit` of its verdicts people see as well.
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
        """The probability of each candidate to be in the random slice, the same for a whole round."""
        return min(self.share, max(self.random * self.share, FIRST / max(quota, 1)))


@dataclass(frozen=True)
class Paper:
    """The paper's own selector: LAION's aesthetic score above `aesthetic`, the best by CLIP first; `random` besides.

    The score is of the layer over mid-grey (training.embedding), since the background alone moves it by half a point.
    """

    aesthetic: float = 5.5
    random: float = 0.05


Policy = Random | Mixed | Paper

KINDS: Final[Mapping[str, type[Policy]]] = {"random": Random, "mixed": Mixed, "paper": Paper}

AESTHETIC, CLIP_SCORE = "aesthetic", "clip_score"
"""The signals that the paper's selector reads; an embedder that has the weights measures them."""

_ABOVE_ONE = {"per_prompt", "per_cluster", "wanted", "least", "aesthetic"}
_MAY_BE_ZERO = {"wanted", "least", "reject_budget", "accept_budget", "uncertain", "audit"}


def read_policy(row: Mapping[str, Any]) -> Policy:
    """A policy from plain data, `kind` beside its numbers; what is left out is as by default. Raises Refused."""
    kind = KINDS.get(str(row.get("kind")))
    if kind is None:
        raise Refused(
            f"unknown selection policy {dict(row)}", "its kind is one of " + ", ".join(KINDS)
        )
    given = {name: value for name, value in row.items() if name != "kind"}
    known = {one.name: one.type for one in fields(kind)}
    for name, value in given.items():
        if name not in known:
            raise Refused(f"a {row['kind']} policy has no {name!r}", "it has " + ", ".join(known))
        _check_number(name, value)
    policy = kind(**given)
    if isinstance(policy, Mixed) and not math.isclose(
        policy.likely + policy.uncertain + policy.random, 1, abs_tol=1e-6
    ):
        raise Refused(
            "the slices of a mixed policy do not add up to 1",
            "such as likely 0.7, uncertain 0.15, random 0.15",
        )
    return policy


def write_policy(policy: Policy) -> dict[str, Any]:
    """The inverse of `read_policy`, with every number said."""
    kind = next(name for name, one in KINDS.items() if isinstance(policy, one))
    return {"kind": kind} | asdict(policy)


def check_measures(policy: Mapping[str, Any], measures: Collection[str]) -> None:
    """Raise Refused for a policy whose signals nobody measures here."""
    if isinstance(read_policy(policy), Paper) and not {AESTHETIC, CLIP_SCORE} <= set(measures):
        raise Refused(
            "the paper's selector needs an aesthetic score, and its weights are not at hand",
            "LAYERLOOP_EMBEDDER=training.embedding:open_embedder with LAYERLOOP_EMBEDDER_MODEL (CLIP ViT-L/14) and "
            "LAYERLOOP_AESTHETIC (LAION's linear head as safetensors)",
        )


def _check_number(name: str, value: Any) -> None:
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if fine and name == "wanted":
        fine = value == int(value)
    most = math.inf if name in _ABOVE_ONE else 1.0
    if not fine or value < 0 or value > most or (value == 0 and name not in _MAY_BE_ZERO):
        raise Refused(
            f"{name} of a selection policy is {value!r}", f"a number up to {most:g}, and above 0"
        )
