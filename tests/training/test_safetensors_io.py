"""Weights as safetensors: equal bytes for equal weights, their metadata, and no pickle is read."""

import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from curation.domain import TrainingRequest
from curation.errors import Refused
from training.safetensors_io import load_part, part_metadata, save_part

REQUEST = TrainingRequest("whole", "micro", "ab" * 32, None, None, 7)


def test_weights_and_metadata_round_trip(store):
    tensors = {"b": torch.randn(3, 4).T, "a": torch.arange(3)}
    file = save_part(
        store,
        "transparency",
        tensors,
        part_metadata("transparency", REQUEST, "1.2", offset_scale=2.5),
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


def test_tensors_that_share_memory_are_stored_separately(store):
    whole = torch.arange(6.0).view(2, 3)
    tensors = {"whole": whole, "tied": whole, "row": whole[1], "column": whole[:, 1]}
    loaded, _ = load_part(store, save_part(store, "x", tensors, part_metadata("x", REQUEST, "1")))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_equal_weights_have_equal_bytes_in_every_process(store):
    """Safetensors itself writes several metadata keys in an order that differs by process."""
    program = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from curation.domain import TrainingRequest\n"
        "from curation.object_store import FolderStore\n"
        "from training.safetensors_io import part_metadata, save_part\n"
        "request = TrainingRequest('whole', 'micro', 'ab' * 32, None, None, 7)\n"
        "print(save_part(FolderStore(Path(sys.argv[1])), 'x', {'a': torch.arange(3)}, part_metadata('x', request, '1')))\n"
    )
    command = [sys.executable, "-c", program, str(store.folder)]
    other_process = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert other_process == save_part(
        store, "x", {"a": torch.arange(3)}, part_metadata("x", REQUEST, "1")
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
def test_other_files_are_refused(store, data):
    with pytest.raises(Refused):
        load_part(store, store.put(data))
