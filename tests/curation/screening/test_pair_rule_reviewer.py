"""The rule reviewer on pairs: sound pairs pass, and every fault is named with its layer."""

from __future__ import annotations

import uuid
from dataclasses import replace

import numpy as np
import pytest

from curation.datasets.manifest import Manifest, Part
from curation.domain import (
    Kind,
    LayerRole,
    RejectReason,
    ReviewItem,
    ReviewItemLayer,
    Sample,
    Split,
    Verdict,
)
from curation.errors import Refused
from curation.images.codec import encode_layer
from curation.images.pairs import composite
from curation.screening.pairs.rule_reviewer import (
    PairRuleReviewer,
    fit_pair_rule_reviewer,
    review_item,
)
from curation.synthetic.backgrounds import draw_pair, join_texts, sample_scene
from tests.support.factories import scenes

FRONT, BACK, WHOLE = LayerRole.foreground, LayerRole.background, LayerRole.blended


@pytest.fixture(scope="module")
def rule_reviewer() -> PairRuleReviewer:
    return PairRuleReviewer.fit((pair, prompt) for prompt, pair in scenes(120))


def faults(rule_reviewer, pair, prompt) -> set:
    verdict = rule_reviewer.decide(pair, prompt)
    assert (verdict.verdict is Verdict.reject) == bool(verdict.reasons)
    return set(zip(verdict.reasons, verdict.layers, strict=True))


def test_sound_pairs_pass_including_unseen_ones(rule_reviewer):
    for start in (0, 5_000):
        passed = [
            rule_reviewer.decide(pair, prompt).verdict is Verdict.accept
            for prompt, pair in scenes(60, start=start)
        ]
        assert np.mean(passed) >= 0.9


def test_layers_of_different_pairs_are_rejected(rule_reviewer):
    """Backgrounds have the right text but another line and light, as layers generated apart would have."""
    rejected = []
    for index in range(60):
        rng = np.random.default_rng([3, index])
        scene, other = sample_scene(rng), sample_scene(rng)
        pair = draw_pair(scene, rng, 64)
        apart = draw_pair(replace(scene, line=other.line, light=other.light), rng, 64)[BACK]
        made = {FRONT: pair[FRONT], BACK: apart, WHOLE: composite(pair[FRONT], apart)}
        found_faults = faults(rule_reviewer, made, scene.prompt)
        rejected.append(bool(found_faults))
        assert found_faults <= {(RejectReason.clash, WHOLE)} or len(found_faults) == 1
    assert np.mean(rejected) >= 0.7


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda f, b: (f, composite(f, b)), (RejectReason.residue, BACK)),
        (lambda f, b: (f, np.dstack([b[..., :3], b[..., 3] // 2])), (RejectReason.holes, BACK)),
        (
            lambda f, b: (np.dstack([f[..., :3], np.maximum(f[..., 3], 30)]), b),
            (RejectReason.residue, FRONT),
        ),
        (lambda f, b: (np.roll(f, 32, axis=1), b), (RejectReason.cropped, FRONT)),
        (lambda f, b: (np.roll(f, -12, axis=0), b), (RejectReason.clash, WHOLE)),
        (lambda f, b: (f, b[::-1]), (RejectReason.prompt_miss, BACK)),
    ],
)
def test_each_fault_names_its_layer(rule_reviewer, spoil, fault):
    found = []
    for prompt, pair in scenes(12, start=200):
        f, b = spoil(pair[FRONT], pair[BACK])
        f, b = np.ascontiguousarray(f), np.ascontiguousarray(b)
        found.append(
            fault in faults(rule_reviewer, {FRONT: f, BACK: b, WHOLE: composite(f, b)}, prompt)
        )
    assert np.mean(found) > 0.8


def test_wrong_texts_miss_their_layer(rule_reviewer):
    (first, pair), (second, _) = scenes(2, start=300)
    wrong = join_texts(str(first.foreground), str(second.background))
    assert (RejectReason.prompt_miss, BACK) in faults(rule_reviewer, pair, wrong)
    assert (RejectReason.prompt_miss, FRONT) not in faults(rule_reviewer, pair, wrong)


def test_a_blended_image_of_another_pair_is_rejected(rule_reviewer):
    prompt, pair = scenes(1, start=400)[0]
    assert (RejectReason.clash, WHOLE) in faults(
        rule_reviewer, pair | {WHOLE: pair[WHOLE][::-1]}, prompt
    )


def snapshot_of(store, drawn) -> str:
    made = []
    for prompt, pair in drawn:
        shas = {role: store.put(encode_layer(layer)) for role, layer in pair.items()}
        texts = {FRONT: str(prompt.foreground), BACK: str(prompt.background)}
        rest = ("CC0-1.0", "test", Split.train, 0, "0" * 64, shas)
        made.append(Sample(uuid.uuid4().hex, Kind.pair, prompt.text, *rest, texts=texts))
    data = "".join(one.line() + "\n" for one in sorted(made, key=lambda one: one.id)).encode()
    return store.put(Manifest((Part("", store.put(data), len(made)),), {}).bytes())


def test_the_reviewer_is_fitted_to_a_snapshot_and_decides_review_items(store):
    drawn = scenes(25)
    fitted = fit_pair_rule_reviewer(store, snapshot_of(store, drawn))
    assert fitted.backgrounds.shape == (25, 448)
    prompt, pair = drawn[0]
    layers = {
        role: ReviewItemLayer(store.put(encode_layer(layer)), 64, 64)
        for role, layer in pair.items()
    }
    texts = {FRONT: prompt.foreground, BACK: prompt.background}
    item = ReviewItem(uuid.uuid4(), 1, Kind.pair, prompt.text, (), layers, {}, texts)
    assert review_item(fitted, store, item).verdict is Verdict.accept
    partial = replace(item, layers={FRONT: layers[FRONT]})
    assert review_item(fitted, store, partial).layers == (BACK,)
    gone = replace(item, layers=layers | {BACK: ReviewItemLayer("0" * 64, 64, 64)})
    assert review_item(fitted, store, gone).reasons == (RejectReason.other,)
    with pytest.raises(Refused, match="needs at least"):
        fit_pair_rule_reviewer(store, snapshot_of(store, drawn[:5]))
