"""Preference training in two processes equals that in one, at the same global batch."""

import pytest

from curation.domain import TrainingRequest
from tests.training.test_launch import ROUNDING, relative_distance
from training.safetensors_io import load_part
from training.train import train

CHANGES = {
    "transparency_batch": "8", "base_batch": "8", "preference_batch": "8", "base_lr": "1e-4",
    "preference_lr": "1e-4", "transparency_lr": "1e-4",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP2"])
def test_two_processes_train_to_the_same_weights_as_one(store, decided, tmp_path, sharded):
    """The reference point is a mean over the global batch, and so the same in both."""

    def weights(folder, recipe, parent, **changes):
        order = TrainingRequest(recipe, "micro", decided, None, parent, 1, 64, CHANGES | changes)
        made = train(order, store, tmp_path / folder / "run", lambda _: None)
        return made, load_part(store, made.files["base"])[0]

    parent, _ = weights("parent", "whole", None, accumulation="2")
    _, alone = weights("one", "kto", parent, accumulation="2")
    _, together = weights("two", "kto", parent, processes="2", fsdp=str(sharded).lower())
    assert alone.keys() == together.keys()
    assert relative_distance(alone, together) < ROUNDING
