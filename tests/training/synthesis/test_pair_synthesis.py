"""Pair synthesis by inpainting: three consistent layers, the same in every run."""

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

FG, BG, BLENDED = LayerRole.foreground, LayerRole.background, LayerRole.blended
PAIR = Prompt("a cat in a garden", "a cat", "an empty garden")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return str(write_sd15(folder / "sd15")), str(write_inpainter(folder / "painter"))


@pytest.fixture
def checkpoint(store, models):
    model, inpainter = models
    return make_checkpoint(store, model, "sd15", inpainter=inpainter, erosion="64")


class SquareGenerator:
    """Generates a solid square in a translucent ring, in a color that depends on the text."""

    batch_size = 3

    def __init__(self):
        self.received = []

    def generate(self, requests, options):
        self.received += [(request.prompt.text, request.seed) for request in requests]
        assert not options.given
        return [{FG: self.draw_square(request.prompt.text)} for request in requests]

    def describe(self, options):
        return {"sampler": "none"}

    def draw_square(self, text):
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
    return InpaintingPairGenerator(SquareGenerator(), inpainter, preset, store)


def generate(synthesis, *prompts, **options):
    return synthesis.generate(
        [GenerationRequest(prompt, 5) for prompt in prompts], GenerationOptions(**options)
    )


def test_a_pair_is_foreground_background_and_blended(synthesis):
    [layers] = generate(synthesis, PAIR)
    assert set(layers) == {FG, BG, BLENDED}
    assert synthesis.generator.received == [("a cat", 5)]
    assert all((layer.shape, layer.dtype) == ((64, 64, 4), np.uint8) for layer in layers.values())
    assert all((layers[role][..., 3] == 255).all() for role in (BG, BLENDED))


def test_opaque_foreground_pixels_are_unchanged_in_the_blended_image(synthesis):
    [layers] = generate(synthesis, PAIR)
    solid, soft = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    soft[20:44, 20:44] = True
    solid[24:40, 24:40] = True
    foreground, blended = layers[FG][..., :3].astype(int), layers[BLENDED][..., :3].astype(int)
    assert np.array_equal(blended[solid], foreground[solid])
    translucent = soft & ~solid  # half of the painted image, half of the foreground
    assert np.all(np.abs(blended[translucent] - foreground[translucent] * 128 / 255) <= 127.5)
    assert np.all(blended[translucent] >= np.floor(foreground[translucent] * 128 / 255))
    assert not np.array_equal(
        blended[~soft], np.full_like(blended[~soft], 128)
    )  # painted, no longer gray


def test_the_background_equals_the_blended_image_outside_the_painted_area(synthesis):
    [layers] = generate(synthesis, PAIR)
    painted = mask_behind(layers[FG], 64)
    assert painted[16:48, 16:48].all()
    assert painted.sum() == 32 * 32
    assert np.array_equal(layers[BG][~painted], layers[BLENDED][~painted])
    assert np.mean(layers[BG][painted][:, :3] != layers[BLENDED][painted][:, :3]) > 0.9


def test_blended_is_the_foreground_over_the_background_outside_the_margin(synthesis):
    [layers] = generate(synthesis, PAIR)
    painted = mask_behind(layers[FG], 64)
    composited = composite_over(layers[FG], layers[BG])
    assert np.array_equal(composited[~painted], layers[BLENDED][..., :3][~painted])
    solid = layers[FG][..., 3] == 255
    assert np.array_equal(composited[solid], layers[BLENDED][..., :3][solid])


def test_each_text_affects_its_own_step(synthesis):
    [layers] = generate(synthesis, PAIR)
    [other] = generate(synthesis, Prompt("a cat in a kitchen", "a cat", "an empty garden"))
    assert np.array_equal(layers[FG], other[FG])
    assert not np.array_equal(layers[BLENDED], other[BLENDED])
    [other] = generate(synthesis, Prompt("a cat in a garden", "a cat", "a bare wall"))
    assert np.array_equal(layers[BLENDED], other[BLENDED])
    assert not np.array_equal(layers[BG], other[BG])


def test_single_prompts_go_to_the_generator_and_keep_their_order(synthesis):
    generated = generate(
        synthesis, Prompt("one"), PAIR, Prompt("another one"), Prompt("whole", None, "empty")
    )
    assert [set(layers) for layers in generated] == [
        {FG},
        {FG, BG, BLENDED},
        {FG},
        {FG, BG, BLENDED},
    ]
    assert [text for text, _ in synthesis.generator.received] == [
        "one",
        "a cat",
        "another one",
        "whole",
    ]
    assert np.array_equal(generated[2][FG], SquareGenerator().draw_square("another one"))
    assert synthesis.generate([]) == []
    assert synthesis.batch_size == 3


def test_a_pair_does_not_depend_on_its_batch(synthesis):
    [alone] = generate(synthesis, PAIR)
    together = generate(synthesis, Prompt("x", "a dog", "y"), PAIR, PAIR)
    for role in (FG, BG, BLENDED):
        assert np.array_equal(together[1][role], alone[role])
        assert np.array_equal(together[2][role], alone[role])
    [other] = synthesis.generate([GenerationRequest(PAIR, 6)])
    assert not np.array_equal(other[BLENDED], alone[BLENDED])


def test_given_layers_are_used_unchanged(synthesis, store):
    rng = np.random.default_rng(0)
    background = np.dstack(
        [rng.integers(0, 256, (64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)]
    )
    foreground = SquareGenerator().draw_square("given")
    foreground[0, 0] = (7, 8, 9, 0)  # colors under alpha 0 stay too
    names = {FG: store.put(encode_layer(foreground)), BG: store.put(encode_layer(background))}
    [layers] = generate(synthesis, PAIR, given=names)
    assert synthesis.generator.received == []
    assert np.array_equal(layers[FG], foreground)
    assert np.array_equal(layers[BG], background)
    assert np.array_equal(layers[BLENDED][..., :3], composite_over(foreground, background))
    [layers] = generate(synthesis, PAIR, given={BG: names[BG]})
    assert np.array_equal(layers[BLENDED][..., :3], composite_over(layers[FG], background))
    [layers] = generate(synthesis, PAIR, given={BLENDED: names[BG]})
    assert np.array_equal(layers[BLENDED], background)
    assert np.array_equal(
        layers[BG][~mask_behind(layers[FG], 64)], background[~mask_behind(layers[FG], 64)]
    )
    small = store.put(encode_layer(background[:32]))
    with pytest.raises(Refused, match="differ in size"):
        generate(synthesis, PAIR, given={BG: small})


def test_the_description_names_inpainter_and_masks(synthesis):
    description = synthesis.describe(GenerationOptions())
    assert description["sampler"] == "none"
    assert (description["inpainter"], description["inpainter_sampler"]) == ("painter", "DDIM")
    assert (description["painted_around"], description["painted_behind"]) == (
        "alpha < 0.98",
        "alpha > 0.02, grown by 64 of 1024 pixels",
    )


def test_a_checkpoint_that_names_an_inpainter_generates_pairs(checkpoint, store):
    generator = load_generator(checkpoint, store)
    [layers] = generator.generate([GenerationRequest(PAIR, 1)])
    [single] = generator.generate([GenerationRequest(Prompt("a cat"), 1)])
    assert set(layers) == {FG, BG, BLENDED}
    assert np.array_equal(layers[FG], single[FG])
    [again] = load_generator(checkpoint, store).generate([GenerationRequest(PAIR, 1)])
    assert all(np.array_equal(layers[role], again[role]) for role in layers)
    [other] = generator.generate(
        [GenerationRequest(PAIR, 1)], GenerationOptions(steps=3, guidance=1.5, negative="ugly")
    )
    assert not np.array_equal(other[BLENDED], layers[BLENDED])
    assert generator.describe(GenerationOptions())["inpainter"] == "painter"


def test_a_round_of_pairs_is_generated_and_all_layers_are_stored(here, database, models):
    model, inpainter = models
    with open_context(here) as app:
        plain = make_checkpoint(app.store, model, "sd15")
        with database.transaction() as tx:
            register_checkpoint(tx, plain, "test")
        derived_id = call(
            "checkpoint", "derive", plain.id[:12], "--set", f"inpainter={inpainter}"
        ).strip()
        with database.transaction() as tx:
            promote_checkpoint(tx, derived_id, "test")
            derived = find_checkpoint(tx, derived_id)
            round_id = open_round(
                tx, checkpoint=derived_id, prompt_list=[PAIR], quota=2, kind=Kind.pair, actor="test"
            )
        assert (derived.files, derived.parent, derived.changes["inpainter"]) == (
            plain.files,
            plain.id,
            inpainter,
        )
        app.database.send = None
        jobs.generate(app, round_id)
        with database.transaction() as tx:
            rows = tx.execute(
                sa.select(
                    candidates.c.id,
                    candidates.c.state,
                    candidate_layers.c.role,
                    candidate_layers.c.sha256,
                )
                .join(candidate_layers, candidate_layers.c.candidate_id == candidates.c.id)
                .where(candidates.c.round_id == round_id)
            ).all()
        assert {row.state for row in rows} == {"generated"}
        assert sorted(row.role for row in rows) == sorted([FG, BG, BLENDED] * 2)
        assert all(decode_layer(app.store.get(row.sha256)).shape == (64, 64, 4) for row in rows)


def test_overrides_that_do_not_fit_are_refused_before_registration(
    here, database, models, tmp_path
):
    with open_context(here) as app:
        plain = make_checkpoint(app.store, models[0], "sd15")
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
