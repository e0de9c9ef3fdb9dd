"""The distributed context: shares of a global batch, FSDP units, out-of-memory errors."""

from dataclasses import replace

import pytest
import torch

from training.denoiser.transformer import DiffusionTransformer
from training.engine.distributed import DistributedContext, fsdp_units, is_out_of_memory, oom_hint
from training.presets.presets import MICRO, SDXL
from training.transparency.networks import Transparency


def _context(processes=1, rank=0, **changes):
    context = DistributedContext(replace(MICRO, **changes))
    context.world_size, context.rank = processes, rank
    return context


@pytest.mark.parametrize("count", [1, 3, 8, 11, 12])
@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (1, 3), (2, 2), (3, 1)])
def test_shards_cover_a_global_batch_once_in_equally_many_micro_batches(
    count, processes, accumulation
):
    batch = -(-12 // (processes * accumulation))
    per_process = [
        _context(processes, rank).local_shards(count, batch) for rank in range(processes)
    ]
    assert len({len(shares) for shares in per_process}) == 1
    counted = [row for shares in per_process for part, share in shares if share for row in part]
    assert sorted(counted) == list(range(count))
    assert sum(share for shares in per_process for _, share in shares) == pytest.approx(1)
    assert all(len(part) >= 1 for shares in per_process for part, _ in shares)


def test_the_global_batch_size_does_not_depend_on_the_processes():
    """The preset alone determines the images of a step, on any number of processes."""
    for processes in (1, 2, 3, 5):
        context = _context(processes, accumulation=4)
        assert context.global_batch_size(8) == 32
        assert len(context.local_shards(32, 8)) == -(
            -32 // (processes * min(8, -(-32 // processes)))
        )
    context.preset = replace(context.preset, processes=3)
    assert context.global_batch_size(8) == 96


def test_fsdp_units_are_the_members_of_the_outermost_module_lists():
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
def test_out_of_memory_is_distinguished_from_other_errors(error, is_memory):
    assert is_out_of_memory(error) is is_memory


def test_the_hint_omits_settings_already_in_use():
    preset = replace(SDXL, base_batch=1, adapter_rank=64, optimizer="adamw8bit", ema_on_cpu=True)
    hint = oom_hint(MemoryError(), preset, "base").hint
    assert hint == ""
    full = oom_hint(MemoryError(), replace(SDXL, adapter_rank=0, precision="fp32"), "base").hint
    for override in (
        "base_batch=8 --set accumulation=2",
        "precision=bf16",
        "adapter_rank=64",
        "ema_on_cpu=true",
    ):
        assert f"--set {override}" in full
