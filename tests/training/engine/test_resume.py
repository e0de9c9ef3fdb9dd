"""Training states: complete, resumed exactly; randomness that depends on the image count."""

import json

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from curation.object_store import compute_sha256
from training.engine.resume import TrainingStateStore, load_state_dict, seeded_generator, state_dict


def _parts():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    return {"network": network, "optimizer": AdamW(network.parameters(), lr=0.1, betas=(0.9, 0.99))}


def _step(parts, number):
    data = torch.randn(8, 3, generator=seeded_generator(1, "test", number))
    parts["optimizer"].zero_grad()
    parts["network"](data).square().mean().backward()
    parts["optimizer"].step()


def test_networks_and_optimizers_resume_bit_for_bit(tmp_path):
    uninterrupted = _parts()
    for number in range(6):
        _step(uninterrupted, number)

    first = _parts()
    for number in range(3):
        _step(first, number)
    TrainingStateStore(tmp_path, "stage").save(3, *state_dict(first))

    second = _parts()
    state = TrainingStateStore(tmp_path, "stage").load()
    load_state_dict(second, state)
    for number in range(state.images, 6):
        _step(second, number)
    for name, tensor in uninterrupted["network"].state_dict().items():
        assert torch.equal(tensor, second["network"].state_dict()[name])


def test_only_the_newest_states_are_kept(tmp_path):
    store = TrainingStateStore(tmp_path, "stage", keep_states=2)
    for images in (8, 16, 24):
        store.save(images, {"a": torch.ones(1)}, {})
    assert sorted(path.name[-2:] for path in (tmp_path / "stage").iterdir()) == ["16", "24"]
    assert store.load().images == 24


def test_partial_states_are_ignored_and_older_ones_are_removed(tmp_path):
    store = TrainingStateStore(tmp_path, "stage")
    assert store.load() is None
    store.save(8, {"a": torch.ones(1)}, {"value": 1})
    store.save(16, {"a": torch.full((1,), 2.0)}, {"value": 2})
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["state-000000000016"]
    half = tmp_path / "stage" / ".new-killed"
    half.mkdir()
    (half / "state.json").write_text("{")
    state = TrainingStateStore(tmp_path, "stage").load()
    assert (state.images, state.metadata["value"], state.tensors["a"].item()) == (16, 2, 2.0)
    assert not half.exists()


def test_saving_the_same_count_again_keeps_the_first(tmp_path):
    store = TrainingStateStore(tmp_path, "stage")
    store.save(8, {"a": torch.ones(1)}, {})
    store.save(8, {"a": torch.ones(1)}, {})
    assert len(list((tmp_path / "stage").iterdir())) == 1


def test_a_state_is_plain_json_and_safetensors(tmp_path):
    parts = _parts()
    _step(parts, 0)
    TrainingStateStore(tmp_path, "stage").save(8, *state_dict(parts))
    folder = tmp_path / "stage" / "state-000000000008"
    shards = ["network-000.safetensors", "optimizer-000.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == [*shards, "state.json"]
    state_file = json.loads((folder / "state.json").read_text())["metadata"]
    assert state_file["images"] == 8
    assert state_file["files"] == {name: compute_sha256(folder / name) for name in shards}


def test_a_part_that_did_not_change_has_the_same_files(tmp_path):
    store, parts = TrainingStateStore(tmp_path, "stage", keep_states=2), _parts()
    _step(parts, 0)
    tensors, metadata = state_dict(parts)
    store.save(8, tensors, metadata)
    store.save(16, tensors | {"optimizer/0/exp_avg": torch.ones(4, 3)}, metadata)
    first, second = (
        json.loads((path / "state.json").read_text())["metadata"]["files"]
        for path in sorted((tmp_path / "stage").iterdir())
    )
    assert first["network-000.safetensors"] == second["network-000.safetensors"]
    assert first["optimizer-000.safetensors"] != second["optimizer-000.safetensors"]


def test_shards_have_a_maximum_size(tmp_path, monkeypatch):
    monkeypatch.setattr("training.engine.state_files.SHARD_BYTES", 64)
    tensors = {f"a/{number}": torch.full((8,), number) for number in range(5)}
    TrainingStateStore(tmp_path, "stage").save(8, tensors | {"b/0": torch.ones(40)}, {})
    names = {path.name for path in (tmp_path / "stage/state-000000000008").iterdir()}
    assert names == {"state.json", "b-000.safetensors"} | {
        f"a-{number:03d}.safetensors" for number in range(5)
    }
    loaded = TrainingStateStore(tmp_path, "stage").load()
    assert torch.equal(loaded.tensors["a/3"], tensors["a/3"])


@pytest.mark.parametrize("damage", ["bit", "missing", "metadata", "cut"])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, caplog, damage):
    store = TrainingStateStore(tmp_path, "stage", keep_states=2)
    store.save(8, {"part/a": torch.ones(100)}, {"n": 1})
    store.save(16, {"part/a": torch.ones(100)}, {"n": 2})
    folder = tmp_path / "stage/state-000000000016"
    shard, state_file = folder / "part-000.safetensors", folder / "state.json"
    if damage == "bit":
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    elif damage == "missing":
        shard.unlink()
    elif damage == "metadata":
        state_file.write_text(state_file.read_text().replace('"n":2', '"n":3'))
    else:
        state_file.write_text(state_file.read_text()[:20])
    assert store.load().images == 8
    assert "continues from the state before it" in caplog.text
    assert not folder.exists()
    store.save(16, {"part/a": torch.ones(100)}, {"n": 2})
    assert store.load().metadata["n"] == 2


def test_randomness_is_a_function_of_seed_stage_and_images():
    def draw(*key):
        return torch.rand(4, generator=seeded_generator(*key))

    assert torch.equal(draw(1, "a", 2), draw(1, "a", 2))
    for other in [(2, "a", 2), (1, "b", 2), (1, "a", 3)]:
        assert not torch.equal(draw(1, "a", 2), draw(*other))


def test_a_resumed_log_replaces_later_steps(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store = TrainingStateStore(tmp_path, "stage")
    with store.open_log(0) as log:
        log.add_scalar("loss/a", 1.0, 8)
        log.add_scalar("loss/a", 0.5, 16)
    with store.open_log(9) as log:  # resumed after 8 images
        log.add_scalar("loss/a", 0.25, 16)
    events = EventAccumulator(str(tmp_path / "stage" / "log")).Reload().Scalars("loss/a")
    assert [(event.step, pytest.approx(event.value)) for event in events] == [(8, 1.0), (16, 0.25)]
