"""The sharded tensor cache: exact entries, complete shards after a kill, and shared work."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.errors import Corrupt
from training.data.tensor_cache import ShardedTensorCache, cache_key, compute_missing

WRITER = """
import sys
from pathlib import Path
import torch
from training.data.tensor_cache import ShardedTensorCache, cache_key
shards = ShardedTensorCache(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(10_000):
    keys = [cache_key(number, row) for row in range(4)]
    shards.put(keys, {"value": torch.full((4, 1000), float(number))})
"""


@given(
    st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool]),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 6),
    st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_entries_round_trip_bit_for_bit(tmp_path_factory, dtype, sizes, rows, in_memory):
    folder = None if in_memory else tmp_path_factory.mktemp("shards")
    values = (torch.randn(rows, *sizes) * 9).to(dtype)
    keys = [cache_key(row) for row in range(rows)]
    written = ShardedTensorCache(folder)
    written.put(keys, {"a": values, "b": values.flip(0)})
    for shards in (written, written if in_memory else ShardedTensorCache(folder)):
        found = shards.get([*reversed(keys), keys[0]])
        assert torch.equal(found["a"], torch.cat([values.flip(0), values[:1]]))
        assert torch.equal(found["b"], torch.cat([values, values.flip(0)[:1]]))
        assert all(key in shards for key in keys)
        assert cache_key("another") not in shards


def test_keys_depend_on_each_part_and_not_on_their_concatenation():
    assert cache_key("ab", "c") != cache_key("a", "bc")
    assert cache_key("a", 1) == cache_key("a", "1")
    assert len(cache_key()) == 32


def test_entries_of_another_process_are_found_after_a_refresh(tmp_path):
    first, other = ShardedTensorCache(tmp_path), ShardedTensorCache(tmp_path)
    first.put([cache_key(1)], {"value": torch.ones(1, 3)})
    assert cache_key(1) not in other
    other.refresh()
    assert other.get([cache_key(1)])["value"].tolist() == [[1, 1, 1]]


def test_storing_the_same_entries_twice_leaves_one_file(tmp_path):
    for _ in range(2):
        ShardedTensorCache(tmp_path).put([cache_key(1)], {"value": torch.ones(1, 3)})
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert len(ShardedTensorCache(tmp_path)) == 1


@pytest.mark.parametrize("delay", [0.02, 0.07, 0.15])
def test_a_killed_writer_leaves_complete_shards(tmp_path, delay):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"ready\n"
    while not list(tmp_path.glob("*.safetensors")):
        time.sleep(0.01)
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    shards = ShardedTensorCache(tmp_path)
    assert len(shards) % 4 == 0
    for number in range(len(shards) // 4):
        found = shards.get([cache_key(number, row) for row in range(4)])
        assert found["value"].eq(number).all()


def test_an_old_draft_of_a_dead_writer_is_removed(tmp_path):
    old, fresh = tmp_path / ".draft-old", tmp_path / ".draft-fresh"
    old.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(old, (0, 0))
    ShardedTensorCache(tmp_path)
    assert (old.exists(), fresh.exists()) == (False, True)


@pytest.mark.parametrize("length", [0, 5, 40, -1])
def test_a_truncated_file_is_removed_and_its_entries_are_missing(tmp_path, length):
    ShardedTensorCache(tmp_path).put([cache_key(1)], {"value": torch.ones(1, 3)})
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:length])
    shards = ShardedTensorCache(tmp_path)
    assert cache_key(1) not in shards
    shards.put([cache_key(1)], {"value": torch.ones(1, 3)})
    assert cache_key(1) in ShardedTensorCache(tmp_path)


def test_a_flipped_bit_raises_corrupt(tmp_path):
    ShardedTensorCache(tmp_path).put([cache_key(1), cache_key(2)], {"value": torch.zeros(2, 64)})
    (file,) = tmp_path.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    data[header + json.loads(data[8:header])["value"]["data_offsets"][1] - 1] ^= (
        1  # the end of the second entry
    )
    file.write_bytes(data)
    shards = ShardedTensorCache(tmp_path)
    assert shards.get([cache_key(1)])["value"].eq(0).all()
    with pytest.raises(Corrupt, match="checksum mismatch in"):
        shards.get([cache_key(2)])


def test_a_claim_excludes_other_processes_until_its_holder_dies(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from training.data.tensor_cache import ShardedTensorCache, cache_key\n"
        "with ShardedTensorCache(Path(sys.argv[1])).claim(cache_key(1), wait=True) as claimed:\n"
        "    print(claimed, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"True\n"
    shards = ShardedTensorCache(tmp_path)
    with shards.claim(cache_key(1), wait=False) as claimed:
        assert not claimed
    with shards.claim(cache_key(2), wait=False) as claimed:
        assert claimed
    holder.kill()
    holder.communicate()
    with shards.claim(cache_key(1), wait=True) as claimed:
        assert claimed


def test_a_read_maps_a_file_and_does_not_load_it(tmp_path):
    shards = ShardedTensorCache(tmp_path)
    shards.put([cache_key(row) for row in range(64)], {"value": torch.randn(64, 1 << 18)})  # 64 MiB
    fresh = ShardedTensorCache(tmp_path)

    def resident() -> int:
        return psutil.Process().memory_info().rss

    before = resident()
    fresh.get([cache_key(7)])
    assert resident() - before < 16 << 20


FILLER = """
import sys, time
from pathlib import Path
import torch
import training.data.tensor_cache
from training.data.tensor_cache import ShardedTensorCache, cache_key, compute_missing
training.data.tensor_cache.ENTRIES_PER_SHARD = 3
shards, made = ShardedTensorCache(Path(sys.argv[1])), Path(sys.argv[2])
keys = [cache_key(number) for number in range(24)]
def make(indices):
    time.sleep(0.02 * len(indices))
    with made.open("a") as file:
        file.write("x" * len(indices))
    shards.put([keys[index] for index in indices], {"value": torch.tensor(indices).float()[:, None] + len(indices) / 10})
print("ready", flush=True)
for _ in compute_missing(shards, keys, [number % 2 for number in range(24)], make):
    pass
print(shards.get(keys)["value"].flatten().tolist(), flush=True)
"""


def start_filler(folder: Path, made: Path) -> subprocess.Popen:
    # Unbuffered, so that reading the first line consumes no later output.
    command = [sys.executable, "-c", FILLER, str(folder), str(made)]
    filler = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
    assert filler.stdout.readline() == b"ready\n"
    return filler


def test_several_processes_share_the_work(tmp_path):
    made = [tmp_path / f"made-{number}" for number in range(3)]
    fillers = [start_filler(tmp_path / "shards", file) for file in made]
    values = {filler.communicate(timeout=60)[0] for filler in fillers}
    assert [filler.returncode for filler in fillers] == [0, 0, 0]
    assert len(values) == 1
    assert (
        sum(file.stat().st_size for file in made if file.exists()) == 24
    )  # no entry was computed twice


@pytest.mark.parametrize("seed", range(3))
def test_killed_work_resumes_with_the_same_batches(tmp_path, seed):
    filler = start_filler(tmp_path / "shards", tmp_path / "first")
    time.sleep(random.Random(seed).random() * 0.5)
    filler.kill()
    filler.communicate()
    second = start_filler(tmp_path / "shards", tmp_path / "second").communicate(timeout=60)[0]
    assert json.loads(second) == pytest.approx([number + 0.3 for number in range(24)])


def test_existing_entries_are_not_computed_again(tmp_path):
    shards, made = ShardedTensorCache(tmp_path), []
    keys = [cache_key(number) for number in range(5)]

    def make(indices):
        made.extend(indices)
        shards.put([keys[index] for index in indices], {"value": torch.ones(len(indices), 1)})

    for wanted in ([0, 3], [0, 1, 2, 3, 4, 0], [4, 4]):
        for _ in compute_missing(
            shards, [keys[index] for index in wanted], [None] * len(wanted), make
        ):
            pass
        assert sorted(made) == sorted(set(made))
    assert len(shards) == 5
