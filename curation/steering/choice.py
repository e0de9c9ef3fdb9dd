"""Choice of a round's prompts: a share at random, the others by earlier decisions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curation.db.engine import Transaction
from curation.domain import Kind, Prompt
from curation.errors import Refused
from curation.rounds.requests import ChoiceSource, PromptChoice
from curation.steering.coverage import TOLERANCE, draw_counts, raise_to_floors
from curation.steering.evidence import Evidence, discounted
from curation.steering.features import arms_of, is_attribute, matching_arms
from curation.steering.outcomes import MAX_ARMS, MIN_PROMPTS, RoundOutcomes, read_outcomes
from curation.steering.settings import SteeringSettings, steering_to_dict
from curation.steering.thompson import PromptArms, steered_shares

Array = NDArray[np.float64]

POOL_SIZE: Final = 10_000
"""Number of captions of seeds among which prompts are steered."""
MAX_LISTED: Final = 60
"""Largest number of arms, and of prompts, that are stored with a round."""
MAX_REDRAWS: Final = 100
"""Number of draws among which the one with the best coverage is taken."""
_REASONS: Final = 3


@dataclass(frozen=True)
class SteeredPrompts:
    """The prompts of a round, one for each candidate.

    Attributes:
        prompts: The prompts, those chosen at random first.
        choices: How each was chosen; empty if prompts are not steered.
        report: What was steered and why, as JSON data; None if prompts are not steered.
    """

    prompts: Sequence[Prompt]
    choices: Sequence[PromptChoice]
    report: dict[str, Any] | None


@dataclass(frozen=True)
class Pool:
    """The distinct prompts among which a round chooses.

    Attributes:
        prompts: The prompts, in the order in which they are chosen at random.
        places: The index of the prompt at each place of the pool.
        shares: The natural share of each: how often it occurs in the pool.
        members: The prompts of each arm, as indices.
    """

    prompts: Sequence[Prompt]
    places: NDArray[np.intp]
    shares: Array
    members: Mapping[str, NDArray[np.intp]]


def steer_prompts(
    tx: Transaction,
    pool: Sequence[Prompt],
    count: int,
    seed: int,
    kind: Kind,
    settings: SteeringSettings,
) -> SteeredPrompts:
    """Choose the prompts of a round from a pool; equal arguments give an equal choice.

    Args:
        tx: The transaction.
        pool: Prompts in random order; one that occurs several times is as much more frequent.
        count: The number of candidates.
        seed: The RNG seed.
        kind: Single layers or pairs; only decisions about the same kind are used.
        settings: How to steer.

    Raises:
        Refused: A coverage target names nothing in the pool, or the targets cannot hold together.
    """
    return choose(pool, count, seed, settings, read_outcomes(tx, kind))


def choose(
    pool: Sequence[Prompt],
    count: int,
    seed: int,
    settings: SteeringSettings,
    outcomes: Mapping[int, RoundOutcomes],
) -> SteeredPrompts:
    """Choose prompts from outcomes of rounds, which are given the newest first.

    Without any decision all prompts are chosen at random.

    Args:
        pool: Prompts in random order.
        count: The number of candidates.
        seed: The RNG seed.
        settings: How to steer.
        outcomes: The outcomes of closed rounds by id.

    Raises:
        Refused: A coverage target names nothing in the pool, or the targets cannot hold together.
    """
    if not pool:
        # A round without prompts is refused when it is opened.
        return SteeredPrompts([], (), None)
    known = make_pool(pool)
    evidence = discounted((one.arms for one in outcomes.values()), settings.half_life)
    of_prompts = discounted((one.prompts for one in outcomes.values()), settings.half_life)
    total = discounted(({"": one.total} for one in outcomes.values()), settings.half_life)
    random_share = settings.random_share if outcomes else 1.0
    number_at_random = min(count, max(1, round(random_share * count)))
    random_share = number_at_random / count
    floors = _floors(known, settings, count)
    wanted = known.shares
    if outcomes:
        wanted = _wanted_shares(known, evidence, of_prompts, total[""], settings, seed)
    steered = wanted
    left = count - number_at_random
    # What the candidates at random lack of the floors, the steered ones have to give.
    # Prompts at random are those of the pool in its order, again from its start at its end.
    places = (number_at_random - np.arange(len(pool)) + len(pool) - 1) // len(pool)
    drawn = np.zeros(len(known.prompts), np.intp)
    np.add.at(drawn, known.places, places)
    lacking = _lacking(known, floors, drawn, settings, count)
    if left:
        members = [known.members[arm] for arm in floors]
        needed = [lacking[arm] / left for arm in floors]
        steered = raise_to_floors(wanted, known.shares, members, needed)
        _check_targets(known, settings, lacking, steered, left)
    counts = _draw(known, steered, left, seed, lacking)
    propensity = random_share * known.shares + (1 - random_share) * steered
    listed = _list_choices(known, drawn, counts, propensity)
    report = {
        "settings": steering_to_dict(settings),
        "random": number_at_random,
        "steered": count - number_at_random,
        "pool": {"prompts": len(pool), "distinct": len(known.prompts)},
        "rounds": list(outcomes),
        "decisions": sum(one.total.decisions for one in outcomes.values()),
        "automatic": sum(one.total.automatic for one in outcomes.values()),
        "acceptance": _acceptance(total.get("", Evidence())),
        "arms": _describe_arms(known, evidence, counts + drawn, floors, settings),
        "prompts": _describe_prompts(known, of_prompts, counts + drawn),
    }
    return SteeredPrompts([one for one, _ in listed], [choice for _, choice in listed], report)


def make_pool(pool: Sequence[Prompt]) -> Pool:
    """Return the distinct prompts of a pool with their shares and arms.

    Words in fewer than MIN_PROMPTS distinct prompts are no arms.
    """
    indices: dict[Prompt, int] = {}
    places = np.array([indices.setdefault(prompt, len(indices)) for prompt in pool], np.intp)
    prompts = list(indices)
    shares = np.bincount(places) / len(pool)
    members: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        for arm in arms_of(prompt):
            members.setdefault(arm, []).append(index)
    shared = {
        arm: np.array(own, np.intp)
        for arm, own in members.items()
        if is_attribute(arm) or len(own) >= MIN_PROMPTS
    }
    # The most frequent arms, in an order that does not depend on hashing.
    ordered = sorted(shared, key=lambda arm: (-float(shares[shared[arm]].sum()), arm))
    return Pool(prompts, places, shares, {arm: shared[arm] for arm in ordered[:MAX_ARMS]})


def _wanted_shares(
    pool: Pool,
    evidence: Mapping[str, Evidence],
    of_prompts: Mapping[str, Evidence],
    total: Evidence,
    settings: SteeringSettings,
    seed: int,
) -> Array:
    """Return the shares of Thompson sampling, without regard to coverage."""
    arms: list[list[int]] = [[] for _ in pool.prompts]
    for index, own in enumerate(pool.members.values()):
        for prompt in own:
            arms[prompt].append(index)
    own_evidence = [
        of_prompts.get(prompt.id.hex, Evidence()) if of_prompts else Evidence()
        for prompt in pool.prompts
    ]
    return steered_shares(
        PromptArms(
            arms,
            pool.shares,
            np.array([one.accepts for one in own_evidence]),
            np.array([one.rejects for one in own_evidence]),
        ),
        [evidence.get(arm, Evidence()) for arm in pool.members],
        total,
        goal=settings.goal,
        concentration=settings.concentration,
        seed=seed,
    )


def _floors(pool: Pool, settings: SteeringSettings, count: int) -> dict[str, float]:
    """Return the smallest share of each arm: of its natural share, or of a target."""
    floors = {
        arm: settings.floor * float(pool.shares[own].sum()) for arm, own in pool.members.items()
    }
    for name, value in settings.targets.items():
        arms = matching_arms(name, pool.members)
        if not arms:
            raise Refused(
                f"the coverage target {name!r} is in none of the prompts",
                f"name words of at least {MIN_PROMPTS} prompts, or attributes",
            )
        share = value if value < 1 else value / count
        for arm in arms:
            # A name of several slots is spread over them by their natural shares.
            part = share * floors[arm] / sum(floors[one] for one in arms) if floors[arm] else share
            floors[arm] = max(floors[arm], part)
    return floors


def _lacking(
    pool: Pool,
    floors: Mapping[str, float],
    drawn: NDArray[np.intp],
    settings: SteeringSettings,
    count: int,
) -> dict[str, float]:
    """Return how many steered candidates each arm needs; a target is rounded up, others down."""
    targeted = {arm for name in settings.targets for arm in matching_arms(name, pool.members)}
    return {
        arm: (math.ceil if arm in targeted else math.floor)(round(floor * count, 6))
        - float(drawn[pool.members[arm]].sum())
        for arm, floor in floors.items()
    }


def _check_targets(
    pool: Pool,
    settings: SteeringSettings,
    lacking: Mapping[str, float],
    steered: Array,
    left: int,
) -> None:
    """Raise Refused if a target of the settings cannot hold."""
    for name in settings.targets:
        for arm in matching_arms(name, pool.members):
            possible = left * float(steered[pool.members[arm]].sum())
            if possible < lacking[arm] * (1 - 10 * TOLERANCE) - 0.1:
                raise Refused(
                    f"the coverage target of {name!r} cannot hold: it lacks "
                    f"{lacking[arm] - possible:.0f} candidates",
                    "lower the targets or the random share",
                )


def _draw(
    pool: Pool, steered: Array, count: int, seed: int, lacking: Mapping[str, float]
) -> NDArray[np.intp]:
    """Draw how many steered candidates each prompt gets: the first draw in which no arm lacks any.

    Such rejective sampling (J. Hajek, 1964) changes the probabilities of prompts little, since
    their means have the floors already.
    """
    own: list[list[str]] = [[] for _ in pool.prompts]
    for arm, members in pool.members.items():
        for index in members.tolist():
            own[index].append(arm)
    # Prompts with the same arms are neighbors, so that each arm gets nearly its share.
    ranks = {arms: rank for rank, arms in enumerate(sorted({tuple(arms) for arms in own}))}
    ranked = np.array([ranks[tuple(arms)] for arms in own])
    rng = np.random.default_rng([seed, 1])
    best, least = np.zeros(len(own), np.intp), math.inf
    for _ in range(MAX_REDRAWS if count else 0):
        order = np.lexsort((rng.random(len(own)), ranked))
        counts = draw_counts(steered, order, count, float(rng.random()))
        missing = sum(
            max(0.0, needed - counts[pool.members[arm]].sum()) for arm, needed in lacking.items()
        )
        if missing < least:
            best, least = counts, missing
        if not missing:
            break
    return best


def _list_choices(
    pool: Pool, drawn: NDArray[np.intp], counts: NDArray[np.intp], propensity: Array
) -> list[tuple[Prompt, PromptChoice]]:
    """Return a prompt and its choice for each candidate."""
    listed: list[tuple[Prompt, PromptChoice]] = []
    for source, times in ((ChoiceSource.random, drawn), (ChoiceSource.steered, counts)):
        for index, prompt in enumerate(pool.prompts):
            choice = PromptChoice(
                source, float(pool.shares[index]), min(1.0, float(propensity[index]))
            )
            listed += [(prompt, choice)] * int(times[index])
    return listed


def _describe_arms(
    pool: Pool,
    evidence: Mapping[str, Evidence],
    number: NDArray[np.intp],
    floors: Mapping[str, float],
    settings: SteeringSettings,
) -> list[dict[str, Any]]:
    """Return the arms whose share changes most."""
    targeted = {arm for name in settings.targets for arm in matching_arms(name, pool.members)}
    rows: list[dict[str, Any]] = [
        {
            "arm": arm,
            "before": round(float(pool.shares[own].sum()), 6),
            "now": round(float(number[own].sum() / number.sum()), 6),
            "candidates": int(number[own].sum()),
            "floor": round(floors[arm], 6),
            "target": arm in targeted,
        }
        | _outcome(evidence.get(arm, Evidence()))
        for arm, own in pool.members.items()
    ]
    rows.sort(key=lambda row: (not row["target"], -abs(row["now"] - row["before"]), row["arm"]))
    return rows[:MAX_LISTED]


def _describe_prompts(
    pool: Pool, evidence: Mapping[str, Evidence], number: NDArray[np.intp]
) -> list[dict[str, Any]]:
    """Return the prompts with decisions of their own whose share changes most, by id."""
    ids = [prompt.id.hex for prompt in pool.prompts] if evidence else []
    rows: list[dict[str, Any]] = [
        {
            "prompt": id_,
            "before": round(float(pool.shares[index]), 6),
            "now": round(float(number[index] / number.sum()), 6),
        }
        | _outcome(evidence[id_])
        for index, id_ in enumerate(ids)
        if id_ in evidence
    ]
    rows.sort(key=lambda row: (-abs(row["now"] - row["before"]), row["prompt"]))
    return rows[:MAX_LISTED]


def _outcome(evidence: Evidence) -> dict[str, Any]:
    """Return what decisions say about an arm or a prompt."""
    reasons = sorted(evidence.reasons.items(), key=lambda item: (-item[1], item[0]))
    return {
        "decisions": evidence.decisions,
        "automatic": evidence.automatic,
        "acceptance": _acceptance(evidence),
        "reasons": [{"reason": reason, "count": n} for reason, n in reasons[:_REASONS]],
    }


def _acceptance(evidence: Evidence) -> dict[str, float] | None:
    found = evidence.acceptance()
    if found is None:
        return None
    return {name: round(value, 6) for name, value in found._asdict().items()} | {
        "n": round(evidence.size, 3)
    }
