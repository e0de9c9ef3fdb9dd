"""Synthetic pairs: deterministic, exact blends, and agreement signals that detect layers of other pairs."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from curation.domain import LayerRole, Prompt
from curation.images.codec import decode_layer
from curation.images.pairs import blended_error, leakage
from curation.synthetic.backgrounds import (
    GROUNDS,
    MAX_LINE,
    MIN_LINE,
    PAIR_SUBJECTS,
    draw_pair,
    join_texts,
    make_light,
    sample_scene,
)  # fmt: skip
from curation.synthetic.pair_dataset import (
    check_pair,
    draw_pair_seed_set,
    find_ground_line,
    sample_pair_prompts,
)

FRONT, BACK, WHOLE = LayerRole.foreground, LayerRole.background, LayerRole.blended


def scenes(count: int, start: int = 0):
    for k in range(start, start + count):
        rng = np.random.default_rng([9, k])
        scene = sample_scene(rng)
        yield scene, draw_pair(scene, rng), rng


def shrunk(layer: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA)


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_seed_set_is_deterministic_and_resumes(tmp_path):
    draw_pair_seed_set(tmp_path / "a", 3, 2, seed=4)
    draw_pair_seed_set(tmp_path / "b", 5, 3, seed=4)
    draw_pair_seed_set(tmp_path / "c", 3, 2, seed=5)
    first = files(tmp_path / "a")
    longer = files(tmp_path / "b")
    images = {path: data for path, data in first.items() if path.suffix == ".webp"}
    assert len(images) == 3 * 3 + 2
    assert images.items() <= longer.items()
    assert first != files(tmp_path / "c")
    (tmp_path / "a/pairs/00001-blended.webp").write_bytes(b"half a fi")
    draw_pair_seed_set(tmp_path / "a", 3, 2, seed=4)
    assert files(tmp_path / "a") == first


def test_the_metadata_lists_layers_texts_and_single_images(tmp_path):
    draw_pair_seed_set(tmp_path, 4, 2)
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    pairs, singles = rows[:4], rows[4:]
    for row in pairs:
        f, b, c = (decode_layer((tmp_path / row[role]).read_bytes()) for role in LayerRole)
        assert blended_error(f, b, c) == 0
        assert (b[..., 3] == 255).all()
        prompt = join_texts(row["text_foreground"], row["text_background"])
        assert prompt.text == row["text"]
        assert check_pair(f, b, prompt) is not None
    assert [row["file_name"] for row in singles] == ["images/00000.webp", "images/00001.webp"]


def test_texts_are_english_and_name_neither_line_nor_light():
    texts = {prompt.text for prompt in sample_pair_prompts(400, 0)}
    assert (
        join_texts("a red star", "grass under a blue sky").text
        == "a red star on grass under a blue sky"
    )
    assert join_texts("the letter A in red", "a striped green wall").text == (
        "the letter A in red in front of a striped green wall"
    )
    assert (
        sample_pair_prompts(50, 1) == sample_pair_prompts(80, 1)[:50] != sample_pair_prompts(50, 2)
    )
    assert not any(
        word in text.split() for text in texts for word in ("warm", "cold", "dim", "dark", "light")
    )
    assert {prompt.background for prompt in sample_pair_prompts(400, 0)} == set(GROUNDS)
    assert {prompt.foreground for prompt in sample_pair_prompts(400, 0)} <= set(PAIR_SUBJECTS)


def test_subjects_stand_on_the_ground_line_inside_the_image():
    leaks = []
    for scene, layers, _ in scenes(60):
        front, back = layers[FRONT], layers[BACK]
        rows = np.flatnonzero((front[..., 3] > 127).any(axis=1))
        assert MIN_LINE <= scene.line <= MAX_LINE
        assert rows[-1] + 1 == round(scene.line * 128)
        assert not front[[0, -1], :, 3].any()
        assert not front[:, [0, -1], 3].any()
        assert not front[front[..., 3] == 0].any()
        assert find_ground_line(back) == pytest.approx(scene.line, abs=0.02)
        leaks.append(leakage(front, back))
    assert (
        max(leaks) < 0.6
    )  # a flat foot lies exactly on the line: the strongest edge that they share
    assert np.median(leaks) < 0.05


def test_both_layers_share_one_light():
    scene, _, _ = next(scenes(1))
    days, dims = (
        draw_pair(replace(scene, light=light), np.random.default_rng(1))
        for light in (make_light(1, 0), make_light(0.5, 0))
    )
    for role in (FRONT, BACK):
        assert np.abs(days[role][..., :3] * 0.5 - dims[role][..., :3]).max() <= 0.5
    assert make_light(1, 1)[2] < make_light(1, 1)[0]
    assert make_light(1, -1)[0] < make_light(1, -1)[2]


@pytest.mark.parametrize("size", [128, 64, 32])
def test_pairs_agree_with_their_texts_and_layers_of_others_do_not(size):
    """The background of a stranger has the same text, another line and another light: no single layer shows it."""
    own, strange = [], []
    for scene, layers, rng in scenes(80):
        other = sample_scene(rng)
        apart = draw_pair(replace(scene, line=other.line, light=other.light), rng)[BACK]
        front = shrunk(layers[FRONT], size)
        own.append(check_pair(front, shrunk(layers[BACK], size), scene.prompt))
        strange.append(check_pair(front, shrunk(apart, size), scene.prompt))
    for name in ("color", "shape", "ground"):
        assert np.mean([getattr(one, name) for one in own]) > 0.97
        assert np.mean([getattr(one, name) for one in strange]) > 0.97
    assert (
        np.quantile([one.light_gap for one in own], 0.95)
        < 16
        < np.median([one.light_gap for one in strange])
    )
    assert np.quantile([one.foot_gap for one in own], 0.95) < 0.04
    assert 4 * np.mean([one.foot_gap for one in own]) < np.mean([one.foot_gap for one in strange])


def test_wrong_texts_are_detected():
    drawn = list(scenes(60))
    for number, (scene, layers, _) in enumerate(drawn):
        other = drawn[(number + 1) % len(drawn)][0]
        agreement = check_pair(
            layers[FRONT], layers[BACK], join_texts(other.subject.text, other.ground.text)
        )
        if scene.subject.color != other.subject.color:
            assert not agreement.color, (scene.prompt, other.prompt)
        if scene.subject.shape != other.subject.shape:
            assert not agreement.shape, (scene.prompt, other.prompt)
    wrong = [
        check_pair(layers[FRONT], layers[BACK], join_texts(scene.subject.text, text)).ground
        for scene, layers, _ in drawn[:20]
        for text in GROUNDS
        if text != scene.ground.text
    ]
    assert np.mean(wrong) < 0.02


def test_noise_and_empty_layers_match_no_text():
    rng = np.random.default_rng(0)
    prompt = join_texts("a red circle", "grass under a blue sky")
    for _ in range(10):
        noise = rng.integers(0, 256, (2, 64, 64, 4), dtype=np.uint8)
        agreement = check_pair(noise[0], noise[1], prompt)
        assert not agreement.shape
        assert not agreement.ground
    nothing = np.zeros((64, 64, 4), np.uint8)
    agreement = check_pair(nothing, nothing, prompt)
    assert (
        agreement.color,
        agreement.shape,
        agreement.ground,
        agreement.light_gap,
        agreement.foot_gap,
    ) == (
        False,
        False,
        False,
        None,
        None,
    )


def test_texts_outside_the_grammar_are_not_checked():
    _, layers, _ = next(scenes(1))
    for prompt in (
        Prompt("a red circle"),
        Prompt("x", "a red circle", "a cave"),
        Prompt("x", "a cat", "grass under a blue sky"),
        Prompt("x", "a black circle", "grass under a blue sky"),
    ):
        assert check_pair(layers[FRONT], layers[BACK], prompt) is None
