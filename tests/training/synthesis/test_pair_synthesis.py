"""Pairs step by step behind the worker's door: three layers that belong together, the same each time."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from curation import jobs
from curation.checkpoints.registry import find_checkpoint, promote_checkpoint, register_checkpoint
from curation.db.tables import candidate_layers, candidates
from curation.domain import GenerationRequest, Kind, LayerRole, Prompt
from curation.errors import NotFound, Refused
from curation.images.codec import composite_over, decode_layer, encode_layer
from curation.ports import GenerationOptions
from curation.rounds.lifecycle import open_round
from curation.runtime.context import open_context
from tests.curation.cli.test_cli import call, here
from tests.training.pipelines.test_worker_generator import make_checkpoint
from tests.training.pretrained import write_sd15
from tests.training.synthesis.test_inpainting import write_inpainter
from training.generate import load_generator
from training.presets.presets import find_preset
from training.synthesis.generator import InpaintingPairGenerator
from training.synthesis.inpainting import open_inpainter
from training.synthesis.masks import mask_behind

__all__ = ["here"]  # the fixture

F, B, W = LayerRole.foreground, LayerRole.background, LayerRole.blended
PAIR = Prompt("a cat in a garden", "a cat", "an empty garden")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return str(write_sd15(folder / "sd15")), str(write_inpainter(folder / "painter"))


@pytest.fixture
def checkpoint(store, models):
    model, inpainter = models
    return make_checkpoint(store, model, "sd15", inpainter=inpainter, erosion="64")


class Cutter:
    """A generator of planted foregrounds: a solid square with a soft ring around it, in a colour of its text."""

    batch_size = 3

    def __init__(self):
        self.asked = []

    def generate(self, requests, options):
        self.asked += [(request.prompt.text, request.seed) for request in requests]
        assert not options.given
        return [{F: self.planted(request.prompt.text)} for request in requests]

    def describe(self, options):
        return {"sampler": "none"}

    def planted(self, text):
        rgba = np.zeros((64, 64, 4), np.uint8)
        rgba[20:44, 20:44] = (len(text) * 9, 40, 200, 128)
        rgba[24:40, 24:40, 3] = 255
        return rgba


@pytest.fixture(scope="module")
def inpainter(models):
    return open_inpainter(models[1], None)


@pytest.fixture
def synthesis(store, inpainter):
    preset = find_preset(
        "sd15", {"draw_steps": "2", "erosion": "64", "inpainter": "x"}
    )  # 4 pixels of 64
    return InpaintingPairGenerator(Cutter(), inpainter, preset, store)


def draw(synthesis, *prompts, **options):
    return synthesis.generate(
        [GenerationRequest(prompt, 5) for prompt in prompts], GenerationOptions(**options)
    )


def test_a_pair_is_foreground_background_and_blended(synthesis):
    [layers] = draw(synthesis, PAIR)
    assert set(layers) == {F, B, W}
    assert synthesis.generator.asked == [("a cat", 5)]
    assert all((layer.shape, layer.dtype) == ((64, 64, 4), np.uint8) for layer in layers.values())
    assert all((layers[role][..., 3] == 255).all() for role in (B, W))


def test_the_foreground_stands_in_the_blended_image_to_the_level(synthesis):
    [layers] = draw(synthesis, PAIR)
    solid, soft = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    soft[20:44, 20:44] = True
    solid[24:40, 24:40] = True
    foreground, blended = layers[F][..., :3].astype(int), layers[W][..., :3].astype(int)
    assert np.array_equal(blended[solid], foreground[solid])
    half = soft & ~solid  # half of what was painted, half of the foreground
    assert np.all(np.abs(blended[half] - foreground[half] * 128 / 255) <= 127.5)
    assert np.all(blended[half] >= np.floor(foreground[half] * 128 / 255))
    assert not np.array_equal(
        blended[~soft], np.full_like(blended[~soft], 128)
    )  # painted, no longer grey


def test_the_background_is_the_blended_image_away_from_the_subject_and_new_behind_it(synthesis):
    [layers] = draw(synthesis, PAIR)
    hole = mask_behind(layers[F], 64)
    assert hole[16:48, 16:48].all()
    assert hole.sum() == 32 * 32
    assert np.array_equal(layers[B][~hole], layers[W][~hole])
    assert np.mean(layers[B][hole][:, :3] != layers[W][hole][:, :3]) > 0.9


def test_blended_is_the_foreground_over_the_background_away_from_the_margin(synthesis):
    [layers] = draw(synthesis, PAIR)
    hole = mask_behind(layers[F], 64)
    again = composite_over(layers[F], layers[B])
    assert np.array_equal(again[~hole], layers[W][..., :3][~hole])
    solid = layers[F][..., 3] == 255
    assert np.array_equal(again[solid], layers[W][..., :3][solid])


def test_every_text_has_its_step(synthesis):
    [layers] = draw(synthesis, PAIR)
    [other] = draw(synthesis, Prompt("a cat in a kitchen", "a cat", "an empty garden"))
    assert np.array_equal(layers[F], other[F])
    assert not np.array_equal(layers[W], other[W])
    [other] = draw(synthesis, Prompt("a cat in a garden", "a cat", "a bare wall"))
    assert np.array_equal(layers[W], other[W])
    assert not np.array_equal(layers[B], other[B])


def test_single_prompts_are_the_generators_own_and_keep_their_places(synthesis):
    drawn = draw(
        synthesis, Prompt("one"), PAIR, Prompt("another one"), Prompt("whole", None, "empty")
    )
    assert [set(layers) for layers in drawn] == [{F}, {F, B, W}, {F}, {F, B, W}]
    assert [text for text, _ in synthesis.generator.asked] == [
        "one",
        "a cat",
        "another one",
        "whole",
    ]
    assert np.array_equal(drawn[2][F], Cutter().planted("another one"))
    assert synthesis.generate([]) == []
    assert synthesis.batch_size == 3


def test_a_pair_does_not_depend_on_its_company(synthesis):
    [alone] = draw(synthesis, PAIR)
    together = draw(synthesis, Prompt("x", "a dog", "y"), PAIR, PAIR)
    for role in (F, B, W):
        assert np.array_equal(together[1][role], alone[role])
        assert np.array_equal(together[2][role], alone[role])
    [other] = synthesis.generate([GenerationRequest(PAIR, 6)])
    assert not np.array_equal(other[W], alone[W])


def test_given_layers_are_taken_as_they_are(synthesis, store):
    rng = np.random.default_rng(0)
    below = np.dstack(
        [rng.integers(0, 256, (64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)]
    )
    cut = Cutter().planted("given")
    cut[0, 0] = (7, 8, 9, 0)  # hidden colours stay too
    names = {F: store.put(encode_layer(cut)), B: store.put(encode_layer(below))}
    [layers] = draw(synthesis, PAIR, given=names)
    assert synthesis.generator.asked == []
    assert np.array_equal(layers[F], cut)
    assert np.array_equal(layers[B], below)
    assert np.array_equal(layers[W][..., :3], composite_over(cut, below))
    [layers] = draw(synthesis, PAIR, given={B: names[B]})
    assert np.array_equal(layers[W][..., :3], composite_over(layers[F], below))
    [layers] = draw(synthesis, PAIR, given={W: names[B]})
    assert np.array_equal(layers[W], below)
    assert np.array_equal(
        layers[B][~mask_behind(layers[F], 64)], below[~mask_behind(layers[F], 64)]
    )
    small = store.put(encode_layer(below[:32]))
    with pytest.raises(Refused, match="differ in size"):
        draw(synthesis, PAIR, given={B: small})


def test_it_tells_how_pairs_are_made(synthesis):
    output = synthesis.describe(GenerationOptions())
    assert output["sampler"] == "none"
    assert (output["inpainter"], output["inpainter_sampler"]) == ("painter", "DDIM")
    assert (output["painted_around"], output["painted_behind"]) == (
        "alpha < 0.98",
        "alpha > 0.02, grown by 64 of 1024 pixels",
    )


def test_a_checkpoint_that_names_an_inpainter_draws_pairs(checkpoint, store):
    generator = load_generator(checkpoint, store)
    [layers] = generator.generate([GenerationRequest(PAIR, 1)])
    [single] = generator.generate([GenerationRequest(Prompt("a cat"), 1)])
    assert set(layers) == {F, B, W}
    assert np.array_equal(layers[F], single[F])
    [again] = load_generator(checkpoint, store).generate([GenerationRequest(PAIR, 1)])
    assert all(np.array_equal(layers[role], again[role]) for role in layers)
    [other] = generator.generate(
        [GenerationRequest(PAIR, 1)], GenerationOptions(steps=3, guidance=1.5, negative="ugly")
    )
    assert not np.array_equal(other[W], layers[W])
    assert generator.describe(GenerationOptions())["inpainter"] == "painter"


def test_a_round_of_pairs_is_drawn_and_every_step_is_kept(here, database, models):
    model, inpainter = models
    with open_context(here) as opened:
        plain = make_checkpoint(opened.store, model, "sd15")
        with database.transaction() as tx:
            register_checkpoint(tx, plain, "test")
        varied = call(
            "checkpoint", "derive", plain.id[:12], "--set", f"inpainter={inpainter}"
        ).strip()
        with database.transaction() as tx:
            promote_checkpoint(tx, varied, "test")
            kept = find_checkpoint(tx, varied)
            number = open_round(
                tx, checkpoint=varied, prompt_list=[PAIR], quota=2, kind=Kind.pair, actor="test"
            )
        assert (kept.files, kept.parent, kept.changes["inpainter"]) == (
            plain.files,
            plain.id,
            inpainter,
        )
        opened.database.send = None
        jobs.generate(opened, number)
        with database.transaction() as tx:
            rows = tx.execute(
                sa.select(
                    candidates.c.id,
                    candidates.c.state,
                    candidate_layers.c.role,
                    candidate_layers.c.sha256,
                )
                .join(candidate_layers, candidate_layers.c.candidate_id == candidates.c.id)
                .where(candidates.c.round_id == number)
            ).all()
        assert {row.state for row in rows} == {"generated"}
        assert sorted(row.role for row in rows) == sorted([F, B, W] * 2)
        assert all(decode_layer(opened.store.get(row.sha256)).shape == (64, 64, 4) for row in rows)


def test_overrides_that_do_not_fit_are_refused_before_registration(
    here, database, models, tmp_path
):
    with open_context(here) as opened:
        plain = make_checkpoint(opened.store, models[0], "sd15")
        with database.transaction() as tx:
            register_checkpoint(tx, plain, "test")
    for change, error, message in (
        (f"inpainter={tmp_path}/nowhere", NotFound, "no folder"),
        ("erosion=-1", Refused, "invalid erosion -1"),
        ("inpaint=x", NotFound, "no column 'inpaint'"),
        ("optimiser=adamw", NotFound, "no column 'optimiser'"),
        ("draw_steps=2", Refused, "no preset value would change"),
    ):
        with pytest.raises(error, match=message):
            call("checkpoint", "derive", plain.id, "--set", change)
