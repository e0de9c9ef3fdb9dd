"""Devices, processes, precision and memory limits of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from curation.errors import LayerloopError, NotFound, Refused
from training.presets.preset import Preset, stage_column

PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Autocast dtypes by precision; weights, gradients and EMA weights are float32 in all of them."""


class DistributedContext:
    """The devices and processes of one training.

    Processes are set up by accelerate from the environment of torchrun or `accelerate launch`;
    without one there is a single process. The images of a global batch are divided among processes
    in order, so that the sequence of images does not depend on their number.

    Raises:
        NotFound: The preset's precision does not exist.
        Refused: Settings of the preset exclude each other.
    """

    def __init__(self, preset: Preset) -> None:
        if preset.precision not in PRECISIONS:
            raise NotFound(
                f"no precision {preset.precision!r}", f"choose one of {', '.join(PRECISIONS)}"
            )
        # Combinations that FSDP2 does not support.
        if preset.fsdp and preset.precision == "fp16":
            raise Refused("fsdp=true does not support fp16", "use --set precision=bf16")
        if preset.fsdp and preset.channels_last:
            raise Refused("fsdp=true does not support channels_last", "leave out channels_last")
        if preset.fsdp and preset.ema_on_cpu and torch.cuda.is_available():
            raise Refused("fsdp=true keeps the EMA weights with its shards", "leave out ema_on_cpu")
        self.preset = preset
        # A discriminator has no gradients in the steps before adversarial training begins.
        handlers = [
            DistributedDataParallelKwargs(find_unused_parameters=preset.discriminator_weight > 0)
        ]
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=handlers)
        self.device = self.accelerator.device
        self.world_size, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.is_main_process = self.accelerator.is_main_process
        self.scaler = GradScaler(self.device.type, enabled=preset.precision == "fp16")
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")

    def wrap(
        self, module: nn.Module, core_modules: Sequence[nn.Module], frozen: Sequence[nn.Module] = ()
    ) -> nn.Module:
        """Prepare networks for training: move them to the device, compile, and shard or replicate.

        Args:
            module: The module whose forward the trainer calls.
            core_modules: Submodules that do most of the work: compiled, checkpointed and sharded
                by block.
            frozen: Modules inside or outside `module` that are not trained; every process holds
                them unsharded.

        Returns:
            The module to call: `module` itself, or its DistributedDataParallel wrapper.
        """
        for network in (module, *frozen):
            network.to(self.device)
        for network in core_modules:
            if self.preset.channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if self.preset.gradient_checkpointing:
                enable_checkpointing(network)
            if self.preset.torch_compile:
                compile_blocks(network)
        if self.world_size == 1:
            return module
        # Data parallel: a full copy in every process.
        if not self.preset.fsdp:
            copied: nn.Module = self.accelerator.prepare_model(module)
            return copied
        # FSDP2, called directly: accelerate's integration requires GPUs, so that it could not be
        # tested on CPU. Blocks are sharded first, then the root with all remaining parameters.
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        kept_whole = {parameter for network in frozen for parameter in network.parameters()}
        for block in (block for network in core_modules for block in fsdp_units(network)):
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh, ignored_params=kept_whole)
        return module

    def global_batch_size(self, batch_size: int) -> int:
        """Return the global batch size: batch x accumulation x the preset's processes.

        It does not depend on the processes that train, which may be fewer or more: a run goes on
        with the same steps on any number of them.
        """
        return batch_size * self.preset.accumulation * self.preset.processes

    def local_shards(self, count: int, batch_size: int) -> list[tuple[range, float]]:
        """Return this process's micro-batches of a global batch, each with its loss weight.

        All processes have the same number of micro-batches, since gradient reduction is collective:
        where no image is left for a process, its micro-batch is the first image with weight 0.

        Args:
            count: Images in the global batch.
            batch_size: Largest number of images in a micro-batch of one process.

        Returns:
            Positions within the global batch, and the share of the global batch, in [0, 1].
        """
        shares = []
        # With more processes than micro-batches the micro-batches are smaller.
        size = min(batch_size, -(-count // self.world_size))
        for start in range(0, count, size * self.world_size):
            local = range(
                min(count, start + self.rank * size), min(count, start + (self.rank + 1) * size)
            )
            shares.append((local or range(1), len(local) / count))
        return shares

    def autocast(self) -> AbstractContextManager[Any]:
        """Return an autocast context of the preset's precision."""
        dtype = PRECISIONS[self.preset.precision]
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def grad_sync(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Return a context that reduces gradients over processes in the last micro-batch only."""
        if self.world_size == 1:
            return nullcontext()
        if self.preset.fsdp:
            model.set_requires_gradient_sync(last)  # type: ignore[operator]
            return nullcontext()
        return nullcontext() if last else self.accelerator.no_sync(model)

    @contextmanager
    def unsharded(self, model: nn.Module) -> Iterator[None]:
        """Gather all shards, so that submodules can be called directly; collective.

        FSDP gathers parameters in the root's forward only, but sampling calls submodules.
        """
        sharded: Any = model if self.world_size > 1 and self.preset.fsdp else None
        if sharded is not None:
            sharded.unshard()
        yield
        if sharded is not None:
            sharded.reshard()

    def backward(self, loss: Tensor, weight: float) -> None:
        """Backpropagate one micro-batch, weighted by its share of the global batch.

        DDP and FSDP average gradients over processes, hence the factor `world_size`.
        """
        torch.autograd.backward(self.scaler.scale(loss * (weight * self.world_size)))

    def optimizer_step(self, optimizers: Mapping[str, Optimizer]) -> Tensor:
        """Step every optimizer that has gradients, clipped to its group's `clip`.

        Returns:
            The gradient norm of the first optimizer before clipping.
        """
        norms = []
        for optimizer in optimizers.values():
            (group,) = optimizer.param_groups
            # For example a discriminator before adversarial training begins.
            if all(parameter.grad is None for parameter in group["params"]):
                continue
            self.scaler.unscale_(optimizer)
            if group["clip"]:
                norms.append(clip_grad_norm_(group["params"], group["clip"]))
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return full_tensor(norms[0]).detach()

    def all_reduce(self, metrics: Tensor) -> Tensor:
        """Sum each metric over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(metrics)
        return metrics

    def on_several_machines(self) -> bool:
        """Return whether the processes are on more than one machine; collective."""
        # All machines count their processes from 0.
        last = torch.tensor(self.accelerator.local_process_index, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(last, dist.ReduceOp.MAX)
        return bool(int(last) + 1 < self.world_size)

    def barrier(self) -> None:
        """Wait until all processes reach this point."""
        self.accelerator.wait_for_everyone()

    def broadcast_object(self, value: Any) -> Any:
        """Return the first process's value in all processes; collective."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the first process's CPU tensors in all processes, one at a time; collective."""
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        received = {}
        for name, (shape, dtype) in self.broadcast_object(shapes).items():
            source = tensors[name] if self.is_main_process else torch.empty(shape, dtype=dtype)
            on_device = source.to(self.device)
            dist.broadcast(on_device, src=0)
            received[name] = on_device.cpu()
        return received


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; collective over its processes. Return other tensors unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def load_full_tensor(tensor: Tensor, values: Tensor) -> None:
    """Copy a full tensor into a tensor or this process's shard of it: inverts `full_tensor`."""
    if isinstance(tensor, DTensor):
        values = distribute_tensor(values.to(tensor.device), tensor.device_mesh, tensor.placements)
    tensor.copy_(values)


def fsdp_units(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks of networks: the members of their outermost ModuleLists."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if block is not None)
        else:
            yield from fsdp_units(child)


def enable_checkpointing(networks: nn.Module) -> None:
    """Turn on gradient checkpointing (Chen et al., 2016) in the blocks of diffusers networks."""
    for module in networks.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True  # type: ignore[assignment]
            checkpointed: Any = partial(checkpoint, use_reentrant=False)
            module._gradient_checkpointing_func = checkpointed  # noqa: SLF001


def compile_blocks(network: nn.Module) -> None:
    """Compile a network; of a diffusers network its repeated block, which is compiled only once."""
    repeated: Any = getattr(network, "_repeated_blocks", None)
    if repeated and any(type(module).__name__ in repeated for module in network.modules()):
        network.compile_repeated_blocks()  # type: ignore[operator]
    else:
        network.compile()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device or the host is out of memory."""
    message = str(error)
    phrases = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in message for phrase in phrases)
    )


def oom_hint(error: BaseException, preset: Preset, stage: str) -> LayerloopError:
    """Return an error whose hint lists settings that reduce memory, cheapest first.

    Args:
        error: The out-of-memory error.
        preset: The preset of the training.
        stage: Name of the stage that ran out of memory.
    """
    # Half the micro-batch with twice the accumulation is the same training.
    batch = stage_column(stage, "batch")
    images = int(getattr(preset, batch))
    half_batch = (
        f"{batch}={max(1, images // 2)} --set accumulation={preset.accumulation * 2}"
        if images > 1
        else ""
    )
    # The remaining settings change the training, so they are suggested only where not set yet.
    settings = [
        half_batch and f"{half_batch} (the same training in smaller micro-batches)",
        "" if preset.precision != "fp32" else "precision=bf16",
        "" if preset.gradient_checkpointing else "gradient_checkpointing=true",
        "" if preset.ema_on_cpu else "ema_on_cpu=true",
        "" if preset.optimizer in {"adamw8bit", "adafactor"} else "optimizer=adamw8bit",
        "adapter_rank=64" if stage == "base" and preset.family and not preset.adapter_rank else "",
    ]
    message = (str(error).strip().splitlines() or ["no details"])[0][:200]
    hint = "; or ".join(f"--set {setting}" for setting in settings if setting)
    return Refused(f"out of memory in stage {stage!r}: {message}", hint)
