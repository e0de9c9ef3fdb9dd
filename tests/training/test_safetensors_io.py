"""Stored weights: equal bytes for equal weights, metadata that explains them, and nothing pickled read."""

import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from curation.domain import TrainingRequest
from curation.errors import Refused
from training.safetensors_io import load_part, part_metadata, save_part

ORDER = TrainingRequest("whole", "micro", "ab" * 32, None, None, 7)


def test_weights_come_back_with_how_they_came_to_be(store):
    tensors = {"b": torch.randn(3, 4).T, "a": torch.arange(3)}
    file = save_part(
        store,
        "transparency",
        tensors,
        part_metadata("transparency", ORDER, "1.2", offset_scale=2.5),
    )
    loaded, metadata = load_part(store, file)
    assert torch.equal(loaded["b"], tensors["b"])
    assert torch.equal(loaded["a"], tensors["a"])
    assert metadata == {
        "format": "layerloop weights 1",
        "part": "transparency",
        "recipe": "whole",
        "preset": "micro",
        "snapshot": "ab" * 32,
        "parent": "",
        "seed": "7",
        "code_version": "1.2",
        "changes": "{}",
        "offset_scale": "2.5",
    }


def test_tensors_that_share_their_memory_are_stored_apart(store):
    whole = torch.arange(6.0).view(2, 3)
    tensors = {"whole": whole, "tied": whole, "row": whole[1], "column": whole[:, 1]}
    loaded, _ = load_part(store, save_part(store, "x", tensors, part_metadata("x", ORDER, "1")))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_equal_weights_have_equal_bytes_in_every_process(store):
    """With several metadata keys safetensors writes them in an order that changes from process to process."""
    program = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from curation.domain import TrainingRequest\n"
        "from curation.object_store import FolderStore\n"
        "from training.safetensors_io import part_metadata, save_part\n"
        "order = TrainingRequest('whole', 'micro', 'ab' * 32, None, None, 7)\n"
        "print(save_part(FolderStore(Path(sys.argv[1])), 'x', {'a': torch.arange(3)}, part_metadata('x', order, '1')))\n"
    )
    command = [sys.executable, "-c", program, str(store.folder)]
    elsewhere = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert elsewhere == save_part(
        store, "x", {"a": torch.arange(3)}, part_metadata("x", ORDER, "1")
    )


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"weight": [1.0]}),
        b"",
        b"\xff" * 64,
        save({"a": torch.zeros(1)}),
        save({"a": torch.zeros(1)}, {"layerloop": '{"format": "layerloop weights 99"}'}),
        save({"a": torch.zeros(1)}, {"layerloop": "[1]"}),
        save({"a": torch.zeros(9)}, {"layerloop": '{"format": "layerloop weights 1"}'})[:-5],
    ],
    ids=["pickle", "empty", "noise", "no metadata", "later format", "odd metadata", "cut short"],
)
def test_anything_else_is_refused(store, data):
    with pytest.raises(Refused):
        load_part(store, store.put(data))
