"""Run folders: whole states, exact continuation, randomness from counts."""

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
    return {"network": network, "optimiser": AdamW(network.parameters(), lr=0.1, betas=(0.9, 0.99))}


def _step(parts, number):
    data = torch.randn(8, 3, generator=seeded_generator(1, "test", number))
    parts["optimiser"].zero_grad()
    parts["network"](data).square().mean().backward()
    parts["optimiser"].step()


def test_networks_and_optimisers_go_on_bit_for_bit(tmp_path):
    straight = _parts()
    for number in range(6):
        _step(straight, number)

    first = _parts()
    for number in range(3):
        _step(first, number)
    TrainingStateStore(tmp_path, "stage").save(3, *state_dict(first))

    second = _parts()
    state = TrainingStateStore(tmp_path, "stage").load()
    load_state_dict(second, state)
    for number in range(state.images, 6):
        _step(second, number)
    for name, tensor in straight["network"].state_dict().items():
        assert torch.equal(tensor, second["network"].state_dict()[name])


def test_as_many_states_stay_as_are_asked_for(tmp_path):
    run = TrainingStateStore(tmp_path, "stage", keep_states=2)
    for images in (8, 16, 24):
        run.save(images, {"a": torch.ones(1)}, {})
    assert sorted(path.name[-2:] for path in (tmp_path / "stage").iterdir()) == ["16", "24"]
    assert run.load().images == 24


def test_only_whole_states_are_seen_and_older_ones_leave(tmp_path):
    run = TrainingStateStore(tmp_path, "stage")
    assert run.load() is None
    run.save(8, {"a": torch.ones(1)}, {"fact": 1})
    run.save(16, {"a": torch.full((1,), 2.0)}, {"fact": 2})
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["state-000000000016"]
    half = tmp_path / "stage" / ".new-killed"
    half.mkdir()
    (half / "state.json").write_text("{")
    state = TrainingStateStore(tmp_path, "stage").load()
    assert (state.images, state.metadata["fact"], state.tensors["a"].item()) == (16, 2, 2.0)
    assert not half.exists()


def test_saving_the_same_count_again_keeps_the_first(tmp_path):
    run = TrainingStateStore(tmp_path, "stage")
    run.save(8, {"a": torch.ones(1)}, {})
    run.save(8, {"a": torch.ones(1)}, {})
    assert len(list((tmp_path / "stage").iterdir())) == 1


def test_a_state_is_plain_json_and_safetensors(tmp_path):
    parts = _parts()
    _step(parts, 0)
    TrainingStateStore(tmp_path, "stage").save(8, *state_dict(parts))
    folder = tmp_path / "stage" / "state-000000000008"
    shards = ["network-000.safetensors", "optimiser-000.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == [*shards, "state.json"]
    described = json.loads((folder / "state.json").read_text())["metadata"]
    assert described["images"] == 8
    assert described["files"] == {name: compute_sha256(folder / name) for name in shards}


def test_a_part_that_did_not_change_has_the_same_files(tmp_path):
    run, parts = TrainingStateStore(tmp_path, "stage", keep_states=2), _parts()
    _step(parts, 0)
    tensors, metadata = state_dict(parts)
    run.save(8, tensors, metadata)
    run.save(16, tensors | {"optimiser/0/exp_avg": torch.ones(4, 3)}, metadata)
    first, second = (
        json.loads((path / "state.json").read_text())["metadata"]["files"]
        for path in sorted((tmp_path / "stage").iterdir())
    )
    assert first["network-000.safetensors"] == second["network-000.safetensors"]
    assert first["optimiser-000.safetensors"] != second["optimiser-000.safetensors"]


def test_shards_end_at_their_size(tmp_path, monkeypatch):
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
    run = TrainingStateStore(tmp_path, "stage", keep_states=2)
    run.save(8, {"part/a": torch.ones(100)}, {"n": 1})
    run.save(16, {"part/a": torch.ones(100)}, {"n": 2})
    folder = tmp_path / "stage/state-000000000016"
    shard, described = folder / "part-000.safetensors", folder / "state.json"
    if damage == "bit":
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    elif damage == "missing":
        shard.unlink()
    elif damage == "metadata":
        described.write_text(described.read_text().replace('"n":2', '"n":3'))
    else:
        described.write_text(described.read_text()[:20])
    assert run.load().images == 8
    assert "continues from the state before it" in caplog.text
    assert not folder.exists()
    run.save(16, {"part/a": torch.ones(100)}, {"n": 2})
    assert run.load().metadata["n"] == 2


def test_randomness_is_a_function_of_seed_stage_and_images():
    def draw(*key):
        return torch.rand(4, generator=seeded_generator(*key))

    assert torch.equal(draw(1, "a", 2), draw(1, "a", 2))
    for other in [(2, "a", 2), (1, "b", 2), (1, "a", 3)]:
        assert not torch.equal(draw(1, "a", 2), draw(*other))


def test_the_log_can_be_read_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = TrainingStateStore(tmp_path, "stage")
    with run.open_log(0) as log:
        log.add_scalar("loss/a", 1.0, 8)
        log.add_scalar("loss/a", 0.5, 16)
    with run.open_log(9) as log:  # resumed after 8 images
        log.add_scalar("loss/a", 0.25, 16)
    events = EventAccumulator(str(tmp_path / "stage" / "log")).Reload().Scalars("loss/a")
    assert [(event.step, pytest.approx(event.value)) for event in events] == [(8, 1.0), (16, 0.25)]
