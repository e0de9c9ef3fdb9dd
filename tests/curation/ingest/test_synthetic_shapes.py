"""Synthetic shapes: deterministic pixels, exact alpha, and a prompt check that rejects noise."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.images.codec import decode_layer
from curation.synthetic.dataset import PromptAgreement, check_prompt, draw_seed_set, sample_prompts
from curation.synthetic.shapes import (
    COLORS,
    FAMILIES,
    SHAPES,
    SUBJECTS,
    Subject,
    draw_subject,
)

SOLID_RED = Subject("circle", "red")


def read(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def test_the_seed_set_is_deterministic(tmp_path):
    draw_seed_set(tmp_path / "a", 12, seed=3)
    draw_seed_set(tmp_path / "b", 12, seed=3)
    draw_seed_set(tmp_path / "c", 12, seed=4)
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert (tmp_path / "a/metadata.jsonl").read_bytes() == (
        tmp_path / "b/metadata.jsonl"
    ).read_bytes()
    assert read(tmp_path / "a") != read(tmp_path / "c")


def test_a_larger_seed_set_starts_with_the_smaller_one(tmp_path):
    draw_seed_set(tmp_path / "short", 5)
    draw_seed_set(tmp_path / "long", 9)
    assert read(tmp_path / "short").items() <= read(tmp_path / "long").items()


def test_running_again_keeps_correct_files_and_replaces_others(tmp_path):
    draw_seed_set(tmp_path, 4)
    before = read(tmp_path)
    kept = tmp_path / "images/00000.webp"
    written = kept.stat().st_mtime_ns
    (tmp_path / "images/00001.webp").write_bytes(b"half a fi")
    (tmp_path / "images/00002.webp").unlink()
    (tmp_path / "metadata.jsonl").unlink()
    draw_seed_set(tmp_path, 4)
    assert read(tmp_path) == before
    assert kept.stat().st_mtime_ns == written
    assert not list(tmp_path.rglob(".new-*"))


def test_the_metadata_names_every_file_with_caption_licence_and_source(tmp_path):
    draw_seed_set(tmp_path, 6)
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [f"images/{k:05d}.webp" for k in range(6)]
    for row in rows:
        assert row["text"] in SUBJECTS
        assert (row["licence"], row["source"]) == ("CC0-1.0", "Layerloop procedural seed")
        rgba = decode_layer((tmp_path / row["file_name"]).read_bytes())
        assert rgba.shape == (128, 128, 4)
        agreement = check_prompt(rgba, row["text"])
        assert agreement is not None
        assert agreement.color


def test_the_alpha_of_a_circle_is_its_area():
    """Coverage is exact, so the sum of alpha is pi r^2 to a small part of a pixel's width of rim."""
    rng = np.random.default_rng(1)
    rgba = draw_subject(SOLID_RED, rng, 256)
    rng = np.random.default_rng(1)
    rng.uniform(-0.08, 0.08, 2)
    radius = rng.uniform(0.52, 0.68) * 128
    assert rgba[..., 3].sum() / 255 == pytest.approx(np.pi * radius**2, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_touches_the_border(shape):
    for k in range(30):
        subject = next(s for s in SUBJECTS.values() if s.shape == shape)
        rgba = draw_subject(subject, np.random.default_rng([8, k]), 128)
        alpha = rgba[..., 3]
        assert not alpha[[0, -1]].any()
        assert not alpha[:, [0, -1]].any()
        assert alpha.max() > 20
        assert not rgba[alpha == 0].any()  # nothing is hidden under alpha 0


def test_materials_have_the_alpha_of_their_kind():
    def alphas(shape):
        subject = next(s for s in SUBJECTS.values() if s.shape == shape)
        drawn = np.stack(
            [draw_subject(subject, np.random.default_rng([2, k]))[..., 3] for k in range(10)]
        )
        return drawn[drawn > 0] / 255

    assert np.mean(alphas("circle") == 1) > 0.8
    assert np.median(alphas("glass ball")) < 0.6
    assert alphas("glass ball").max() > 0.9
    assert alphas("smoke").max() < 1
    assert np.mean(alphas("smoke")) < 0.5
    assert np.mean(alphas("glow")) < 0.4
    assert alphas("glow").max() > 0.8
    strokes = draw_subject(Subject("strokes", "red"), np.random.default_rng(0))[..., 3]
    assert cv2.erode(strokes, np.ones((5, 5))).max() == 0  # nowhere five pixels wide


def test_prompts_have_the_proportions_of_the_seed():
    texts = sample_prompts(4_000, seed=1)
    assert texts == sample_prompts(4_000, seed=1)
    assert texts[:100] == sample_prompts(100, seed=1)
    assert texts != sample_prompts(4_000, seed=2)
    family_of = {shape: name for name, (_, metrics, _) in FAMILIES.items() for shape in metrics}
    counts = Counter(family_of[SUBJECTS[text].shape] for text in texts)
    for name, (share, _, _) in FAMILIES.items():
        assert counts[name] / 4_000 == pytest.approx(share, abs=0.03)
    assert {SUBJECTS[text].color for text in texts} == set(COLORS)


def test_captions_are_english():
    assert {
        "a red circle",
        "an orange star",
        "a blue glass ball",
        "grey smoke",
        "an orange glow",
    } <= SUBJECTS.keys()
    assert {"thin green strokes", "the letter A in purple"} <= SUBJECTS.keys()
    assert sum(share for share, _, _ in FAMILIES.values()) == pytest.approx(1)


def test_fresh_images_match_their_prompts():
    """At least 97 of 100 unseen images of every shape are recognized with their colors, at two sizes."""
    for shape in SHAPES:
        subjects = [s for s in SUBJECTS.values() if s.shape == shape]
        seen = []
        for k in range(60):
            subject = subjects[k % len(subjects)]
            rgba = draw_subject(
                subject, np.random.default_rng([77, k, len(shape)]), 64 if k % 2 else 128
            )
            seen.append(check_prompt(rgba, subject.text))
        assert np.mean([agreement.shape for agreement in seen]) >= 0.97, shape
        assert np.mean([agreement.color for agreement in seen]) >= 0.97, shape


@settings(deadline=None)  # the first picture pays for the examples
@given(st.sampled_from(sorted(SUBJECTS)), st.sampled_from(sorted(SUBJECTS)), st.integers(0, 2**31))
def test_an_image_of_one_subject_does_not_match_another(drawn, asked, seed):
    rgba = draw_subject(SUBJECTS[drawn], np.random.default_rng(seed), 64)
    agreement = check_prompt(rgba, asked)
    if SUBJECTS[drawn].color != SUBJECTS[asked].color:
        assert not agreement.color
    # Smoke is shapeless and strokes may stand like letters; all others are never taken for each other.
    loose = {"smoke", "strokes"} & {SUBJECTS[drawn].shape, SUBJECTS[asked].shape}
    if SUBJECTS[drawn].shape != SUBJECTS[asked].shape and not loose:
        assert not agreement.shape


def noises():
    rng = np.random.default_rng(5)
    for k in range(40):
        grain = [0, 1, 2, 4][k % 4]
        field = rng.normal(size=(64, 64, 4))
        if grain:
            field = cv2.GaussianBlur(field, (0, 0), grain)
            field /= field.std()
        rgba = np.clip(field * 90 + 127, 0, 255).astype(np.uint8)
        if k % 3 == 0:
            rgba[..., 3] = np.where(rgba[..., 3] > 127, 255, 0)
        if k % 2:
            rgba[..., 3] = np.pad(rgba[10:-10, 10:-10, 3], 10)
        yield rgba


def test_noise_matches_no_prompt():
    """None of forty noise images (fine, coarse, hard, soft, framed or not) matches a shape and a color."""
    for rgba in noises():
        for text in SUBJECTS:
            agreement = check_prompt(rgba, text)
            assert not (agreement.shape and agreement.color), text
            if SUBJECTS[text].shape not in {"smoke", "strokes"}:
                assert not agreement.shape, text


@pytest.mark.parametrize("alpha", [0, 1, 255])
def test_a_uniform_layer_matches_no_prompt(alpha):
    """A filled canvas is no square: a figure has a border of nothing."""
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[...] = (215, 35, 40, alpha)
    for shape in SHAPES:
        asked = next(s for s in SUBJECTS.values() if s.shape == shape)
        assert not check_prompt(rgba, asked.text).shape


def test_stripes_whose_mean_is_a_color_are_not_that_color():
    rgba = draw_subject(Subject("square", "grey"), np.random.default_rng(0), 64)
    rgba[..., :3] = np.where(np.arange(64)[:, None, None] % 2, 255, 5)
    assert not check_prompt(rgba, "grey smoke").color


def test_a_blurred_and_noisy_star_is_still_a_star():
    rng = np.random.default_rng(9)
    rgba = draw_subject(Subject("star", "yellow"), rng, 64)
    rgba[..., 3] = cv2.GaussianBlur(rgba[..., 3], (0, 0), 1.5)
    shown = rgba[..., 3] > 0
    rgba[..., :3] = np.where(
        shown[..., None], np.clip(rng.normal((250, 225, 50), 25, (64, 64, 3)), 0, 255), 0
    )
    assert check_prompt(rgba, "a yellow star") == PromptAgreement(color=True, shape=True)
    assert check_prompt(rgba, "a yellow heart") == PromptAgreement(color=True, shape=False)
    assert check_prompt(rgba, "a blue star") == PromptAgreement(color=False, shape=True)


def test_texts_outside_the_grammar_are_not_checked():
    rgba = draw_subject(SOLID_RED, np.random.default_rng(0))
    for text in ("", "a cat", "a grey circle", "a red circle and a dog", "red circle"):
        assert check_prompt(rgba, text) is None
    assert check_prompt(rgba, "  a red   circle ") == PromptAgreement(color=True, shape=True)
