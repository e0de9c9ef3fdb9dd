"""The machine: how a step is dealt out, what is sharded, and when memory has ended."""

from dataclasses import replace

import pytest
import torch

from training.denoiser.transformer import DiffusionTransformer
from training.engine.distributed import DistributedContext, fsdp_units, is_out_of_memory, oom_hint
from training.presets.presets import MICRO, SDXL
from training.transparency.networks import Transparency


def _machine(processes=1, rank=0, **changes):
    machine = DistributedContext(replace(MICRO, **changes))
    machine.world_size, machine.rank = processes, rank
    return machine


@pytest.mark.parametrize("count", [1, 3, 8, 11, 12])
@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (1, 3), (2, 2), (3, 1)])
def test_a_step_is_dealt_out_once_and_everybody_has_equally_many_batches(
    count, processes, accumulation
):
    batch = -(-12 // (processes * accumulation))
    dealt = [_machine(processes, rank).local_shards(count, batch) for rank in range(processes)]
    assert len({len(shares) for shares in dealt}) == 1
    counted = [row for shares in dealt for part, share in shares if share for row in part]
    assert sorted(counted) == list(range(count))
    assert sum(share for shares in dealt for _, share in shares) == pytest.approx(1)
    assert all(len(part) >= 1 for shares in dealt for part, _ in shares)


def test_a_step_has_all_its_images():
    """The same on any number of processes: the preset says how many images a step has."""
    for processes in (1, 2, 3, 5):
        machine = _machine(processes, accumulation=4)
        assert machine.global_batch_size(8) == 32
        assert len(machine.local_shards(32, 8)) == -(
            -32 // (processes * min(8, -(-32 // processes)))
        )
    machine.preset = replace(machine.preset, processes=3)
    assert machine.global_batch_size(8) == 96


def test_blocks_are_the_members_of_the_outermost_lists():
    assert len(list(fsdp_units(DiffusionTransformer(MICRO)))) == MICRO.dit_layers
    found = {type(block).__name__ for block in fsdp_units(Transparency(MICRO).decoder)}
    assert {"DownBlock2D", "UpBlock2D"} <= found


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
            ),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_is_told_from_other_ends(error, is_memory):
    assert is_out_of_memory(error) is is_memory


def test_what_is_done_already_is_not_advised():
    done = replace(SDXL, base_batch=1, adapter_rank=64, optimizer="adamw8bit", ema_on_cpu=True)
    hint = oom_hint(MemoryError(), done, "base").hint
    assert hint == ""
    full = oom_hint(MemoryError(), replace(SDXL, adapter_rank=0, precision="fp32"), "base").hint
    for cell in (
        "base_batch=8 --set accumulation=2",
        "precision=bf16",
        "adapter_rank=64",
        "ema_on_cpu=true",
    ):
        assert f"--set {cell}" in full
