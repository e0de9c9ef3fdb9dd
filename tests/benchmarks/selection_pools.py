"""Pools of candidates with known verdicts: simulated, or images with added defects that the rule reviewer decided.

The acceptance model. A candidate has five signals and sixteen numbers of an embedding, standard normal; it belongs to
one of 400 prompts with a difficulty of its own (normal, 0.5) and to one of eight styles that its embedding shows. Its
log odds are 1.2 (s1 - s2^2 + 0.5 s3) + 0.6 (e1 - e2) + style + prompt + bias, with a steepness that sets how well the
best of all heads could tell (AUC), and a bias that sets the share that people accept. Signals 4 and 5 and the other
numbers tell nothing. People say accept with that probability, each candidate once and for all. Seeds are printed.

The replay uses verdicts of the rule reviewer: candidates are synthetic shapes, or a folder's images, with added defects
(tests/support/defect_candidates.py), measured by the instance's signals and embedder; the rule reviewer is fitted to sound ones. It is told twice:
as the instance measures, and without what the signals say of the prompt's colour and shape, since part of the rule reviewer's own
rule is made of the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curation.domain import LayerRole, Prompt, Verdict
from curation.images.codec import decode_layer
from curation.images.layer_masks import downscale
from curation.ports import RGBA
from curation.screening.embedding import BUILTIN_EMBEDDER
from curation.screening.rule_reviewer import RuleReviewer
from curation.screening.rules import apply_rules
from curation.screening.signals import compute_signals
from curation.synthetic.dataset import check_prompt
from curation.synthetic.shapes import draw_subject, sample_subject
from tests.support.defect_candidates import draw_candidate, plant_some

STYLES, PROMPTS = 8, 400


@dataclass(frozen=True)
class Pool:
    """N candidates as they were measured, and what the reviewer would say of each."""

    signals: Sequence[Mapping[str, float | None]]
    vectors: np.ndarray
    texts: Sequence[str]
    accepted: np.ndarray
    best: float | None = None  # AUC of the truth itself
    truth: np.ndarray | None = None  # the probability of each to be accepted

    @property
    def share(self) -> float:
        return float(self.accepted.mean())


def simulate(count: int, share: float, auc: float, seed: int) -> Pool:
    """Return the acceptance model above, with steepness and bias found by bisection."""
    rng = np.random.default_rng(seed)
    signals = rng.standard_normal((count, 5))
    style = rng.integers(STYLES, size=count)
    prompt = rng.integers(PROMPTS, size=count)
    indices, effects = 1.5 * rng.standard_normal((STYLES, 16)), 0.8 * rng.standard_normal(STYLES)
    noise = rng.standard_normal((count, 16))
    known = 1.2 * (signals[:, 0] - signals[:, 1] ** 2 + 0.5 * signals[:, 2]) + 0.6 * (
        noise[:, 0] - noise[:, 1]
    )
    odds = known + effects[style] + 0.5 * rng.standard_normal(PROMPTS)[prompt]
    odds = (odds - odds.mean()) / odds.std()
    coin = rng.random(count)

    def probability(steep: float) -> np.ndarray:
        bias = _bisect(
            lambda one: float((1 / (1 + np.exp(-(steep * odds + one)))).mean()), share, -40, 10
        )
        return 1 / (1 + np.exp(-(steep * odds + bias)))

    truth = probability(_bisect(lambda one: auc_of(odds, coin < probability(one)), auc, 0.1, 20))
    accepted = coin < truth
    return Pool(
        signals=[{f"s{i + 1}": float(value) for i, value in enumerate(row)} for row in signals],
        vectors=(noise + indices[style]).astype(np.float32),
        texts=[f"prompt {one}" for one in prompt],
        accepted=accepted,
        best=auc_of(odds, accepted),
        truth=truth,
    )


def replay_figures(count: int) -> Pool:
    """Return synthetic shapes at 64 pixels, nearly all with added defects, as the rule reviewer decides them."""
    sound = (_subject(np.random.default_rng([1, index])) for index in range(400))
    return _judge(
        RuleReviewer.fit(sound), (draw_candidate(7, index, 0.02) for index in range(count))
    )


def blind(pool: Pool) -> Pool:
    """Return the same pool without the signals of agreement with the prompt."""
    kept = [
        {name: value for name, value in one.items() if not name.startswith("shows_")}
        for one in pool.signals
    ]
    return replace(pool, signals=kept)


def replay_folder(folder: Path, count: int) -> Pool:
    """Yield the images of a seed folder, at most 96 pixels long, each several times with other defects."""
    lines = [
        json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()
    ]
    images = [
        (
            downscale(np.asarray(decode_layer((folder / row["file_name"]).read_bytes())), 96),
            row["text"],
        )
        for row in lines
    ]
    rng = np.random.default_rng(11)

    def drawn() -> Iterator[tuple[RGBA, str]]:
        for _ in range(count):
            rgba, text = images[rng.integers(len(images))]
            yield (rgba if rng.random() < 0.08 else plant_some(rgba, rng)), text

    return _judge(RuleReviewer.fit(images), drawn())


def _judge(rule_reviewer: RuleReviewer, drawn: Iterator[tuple[RGBA, str]]) -> Pool:
    kept = []
    for rgba, text in drawn:
        signals = compute_signals(rgba)
        if apply_rules(signals) is None:
            shown = check_prompt(rgba, text)
            if shown is not None:
                signals |= {"shows_colour": float(shown.color), "shows_shape": float(shown.shape)}
            seen = BUILTIN_EMBEDDER.embed([{LayerRole.foreground: rgba}], [Prompt(text)])[0].vector
            kept.append(
                (signals, seen, text, rule_reviewer.decide(rgba, text).verdict is Verdict.accept)
            )
    signals, vectors, texts, accepted = zip(*kept, strict=True)
    return Pool(signals, np.stack(vectors), texts, np.array(accepted))


def _subject(rng: np.random.Generator) -> tuple[RGBA, str]:
    subject = sample_subject(rng)
    return draw_subject(subject, rng, 64), subject.text


def auc_of(scores: np.ndarray, accepted: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(scores)) + 1.0
    good = int(accepted.sum())
    return float((ranks[accepted].sum() - good * (good + 1) / 2) / (good * (len(scores) - good)))


def _bisect(rising: Any, wanted: float, low: float, high: float) -> float:
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2
