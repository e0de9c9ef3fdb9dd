"""The estimate of memory counts the reference: a second network, or adapters alone."""

import pytest

from curation.domain import TrainingRequest
from tests.training.pretrained import write_sdxl
from training.memory_estimate import STAGES, _trained, estimate
from training.presets.presets import find_preset
from training.recipes import DECISION_STAGES, RECIPES

SMALL = {"image_size": "64", "precision": "fp32", "base_batch": "4", "preference_batch": "4"}


def weights_of(name, changes):
    """Return the bytes of weights of base and kto, and those of the average of trained weights."""
    preset = find_preset(name, changes)
    base, kto = (_trained(preset, stage, on_gpu=False) for stage in ("base", "kto"))
    return base["weights"], kto["weights"], base["average"]


def test_a_wholly_trained_base_is_there_twice():
    base, kto, trained = weights_of("micro", {})
    assert kto - base == pytest.approx(trained, rel=0.01)


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "LoRA"])
def test_of_sdxl_the_trained_weights_are_there_twice(tmp_path, rank):
    changes = {**SMALL, "model": str(write_sdxl(tmp_path / "model")), "adapter_rank": str(rank)}
    base, kto, trained = weights_of("sdxl", changes)
    assert kto - base == pytest.approx(trained, rel=0.02)


def test_every_recipe_has_an_estimate_with_its_stages():
    assert STAGES.keys() == RECIPES.keys()
    for recipe, stages in RECIPES.items():
        assert [stage for stage in STAGES[recipe] if stage not in {"latents", "sheets"}] == [
            *stages
        ]


@pytest.mark.parametrize("stage", DECISION_STAGES)
def test_stages_that_learn_from_decisions_are_estimated(stage):
    request = TrainingRequest(stage, "micro", "0" * 64, None, None, 0)
    held = {one.stage: one for one in estimate(request, 10)}
    assert {"latents", stage, "sheets"} == set(held)
