"""An external test set: evaluated in place, with the same metrics as in a snapshot."""

import numpy as np
import pytest
from PIL import Image

from curation.datasets.manifest import read_samples
from curation.domain import Split, TrainingRequest
from curation.errors import NotFound, Refused
from curation.images.codec import decode_layer
from curation.ingest.evaluation_set import read_evaluation_set
from curation.object_store import FolderStore, OverlayStore
from training.evaluation.heldout import evaluate
from training.train import train


@pytest.fixture
def folder(store, snapshot, tmp_path):
    """Return the held-out images as PNG files, one of them twice, and two unusable files."""
    folder = tmp_path / "external"
    folder.mkdir()
    for sample in read_samples(store, snapshot):
        if sample.split is Split.heldout:
            (rgba,) = (decode_layer(store.get(image)) for image in sample.layers.values())
            Image.fromarray(rgba).save(folder / f"{sample.id[-4:]}.png")
            Image.fromarray(rgba).save(folder / "copy.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "opaque.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


def test_a_folder_has_the_metrics_of_the_same_images_in_a_snapshot(
    store, snapshot, folder, tmp_path
):
    request = TrainingRequest("transparency", "micro", snapshot, None, None, 1, 32, {})
    checkpoint = train(request, store, tmp_path / "run", lambda _: None)
    own_store = FolderStore(tmp_path / "own")
    before = {path.name for path in store.folder.rglob("*")}
    external = read_evaluation_set(folder, own_store)
    assert external.images == 6
    assert sorted(name for name, _ in external.refused) == ["broken.png", "opaque.png"]
    inside = evaluate(checkpoint, snapshot, store, lambda _: None)
    outside = evaluate(
        checkpoint, external.snapshot, OverlayStore(own_store, store), lambda _: None
    )
    assert outside == pytest.approx(inside, abs=1e-4)
    assert {path.name for path in store.folder.rglob("*")} == before  # nothing was imported


def test_a_folder_without_images_is_refused_with_the_first_reason(folder, tmp_path):
    for path in folder.glob("*.png"):
        if path.name != "opaque.png":
            path.unlink()
    with pytest.raises(Refused, match=r"opaque\.png"):
        read_evaluation_set(folder, FolderStore(tmp_path / "own"))
    with pytest.raises(NotFound):
        read_evaluation_set(tmp_path / "nowhere", FolderStore(tmp_path / "own"))
