"""The machine that a training runs on: its devices and processes, the precision of its sums, the end of its memory."""

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
from training.presets.preset import Preset

PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""The types that a training may compute in; weights, their gradients and their averages are float32 in all."""


class DistributedContext:
    """The devices and processes of one training.

    Processes come through accelerate, from the environment that torchrun or `accelerate launch` gives; without one
    there is a single process. A step's images are dealt out among them in order, so that what a training sees does
    not depend on their number. Raises NotFound for a precision of another name, Refused for what cannot be together.
    """

    def __init__(self, preset: Preset) -> None:
        if preset.precision not in PRECISIONS:
            raise NotFound(
                f"no precision {preset.precision!r}", f"choose one of {', '.join(PRECISIONS)}"
            )
        if preset.sharded and preset.precision == "fp16":
            raise Refused("sharded weights are not trained in fp16", "use --set precision=bf16")
        if preset.sharded and preset.channels_last:
            raise Refused(
                "sharded weights are not laid out channels last", "leave out channels_last"
            )
        if preset.sharded and preset.average_apart and torch.cuda.is_available():
            raise Refused(
                "the average of sharded weights stays with its shards", "leave out average_apart"
            )
        self.preset = preset
        # A discriminator has no gradients before it begins.
        handlers = [
            DistributedDataParallelKwargs(find_unused_parameters=preset.discriminator_weight > 0)
        ]
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=handlers)
        self.device = self.accelerator.device
        self.processes, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.first = self.accelerator.is_main_process
        self.scaler = GradScaler(self.device.type, enabled=preset.precision == "fp16")
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")

    def place(
        self, networks: nn.Module, cores: Sequence[nn.Module], frozen: Sequence[nn.Module] = ()
    ) -> nn.Module:
        """The networks on the device, as the loop calls them: compiled, sharded, or copied to every process.

        cores: those within that do most of the work; frozen: networks beside or within that never learn: moved, and
        held whole by every process.
        """
        for network in (networks, *frozen):
            network.to(self.device)
        for network in cores:
            if self.preset.channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if self.preset.gradient_checkpointing:
                enable_checkpointing(network)
            if self.preset.compiled:
                compile_blocks(network)
        if self.processes == 1:
            return networks
        if not self.preset.sharded:
            copied: nn.Module = self.accelerator.prepare_model(networks)
            return copied
        # torch's own FSDP2 and not accelerate's, which is for GPUs alone and so could not be tested everywhere.
        mesh = init_device_mesh(self.device.type, (self.processes,))
        whole_here = {parameter for network in frozen for parameter in network.parameters()}
        for block in (block for network in cores for block in blocks(network)):
            fully_shard(block, mesh=mesh)
        fully_shard(networks, mesh=mesh, ignored_params=whole_here)
        return networks

    def step_images(self, batch: int) -> int:
        """The images of one optimiser step: batch x accumulation x processes."""
        return batch * self.preset.accumulation * int(self.processes)

    def shares(self, count: int, batch: int) -> list[tuple[range, float]]:
        """The batches of a step of `count` images that are this process's, each with its share of the whole.

        All processes have equally many, since they wait for each other: where none is left, the first image counts 0.
        """
        shares = []
        for start in range(0, count, batch * self.processes):
            mine = range(
                min(count, start + self.rank * batch), min(count, start + (self.rank + 1) * batch)
            )
            shares.append((mine or range(1), len(mine) / count))
        return shares

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the preset, for what is computed inside."""
        dtype = PRECISIONS[self.preset.precision]
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def gathering(self, placed: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """The processes add up their gradients after a step's last batch only."""
        if self.processes == 1:
            return nullcontext()
        if self.preset.sharded:
            placed.set_requires_gradient_sync(last)  # type: ignore[operator]
            return nullcontext()
        return nullcontext() if last else self.accelerator.no_sync(placed)

    @contextmanager
    def together(self, placed: nn.Module) -> Iterator[None]:
        """For so long sharded networks can be called piece by piece, as a drawing does; all processes must."""
        sharded: Any = placed if self.processes > 1 and self.preset.sharded else None
        if sharded is not None:
            sharded.unshard()
        yield
        if sharded is not None:
            sharded.reshard()

    def descend(self, loss: Tensor, share: float) -> None:
        """Add the gradients of a batch that is so large a share of its step; processes average theirs."""
        torch.autograd.backward(self.scaler.scale(loss * (share * self.processes)))

    def step(self, optimisers: Mapping[str, Optimizer]) -> Tensor:
        """One step of every optimiser that has gradients, cut to their `clip`; the first one's norm before the cut."""
        norms = []
        for optimiser in optimisers.values():
            (group,) = optimiser.param_groups
            if all(parameter.grad is None for parameter in group["params"]):
                continue
            self.scaler.unscale_(optimiser)
            if group["clip"]:
                norms.append(clip_grad_norm_(group["params"], group["clip"]))
            self.scaler.step(optimiser)
            optimiser.zero_grad(set_to_none=True)
        self.scaler.update()
        return whole(norms[0]).detach()

    def add_up(self, figures: Tensor) -> Tensor:
        """The sum over the processes of each figure."""
        if self.processes > 1:
            dist.all_reduce(figures)
        return figures

    def wait(self) -> None:
        """Until every process is here."""
        self.accelerator.wait_for_everyone()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is sharded over processes in one piece; every process must ask. Others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(tensor: Tensor, values: Tensor) -> None:
    """The inverse of `whole`: values in one piece into a tensor, or into this process's shard of it."""
    if isinstance(tensor, DTensor):
        values = distribute_tensor(values.to(tensor.device), tensor.device_mesh, tensor.placements)
    tensor.copy_(values)


def blocks(networks: nn.Module) -> Iterator[nn.Module]:
    """The blocks that networks are built of: the members of their outermost lists of modules."""
    for child in networks.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if block is not None)
        else:
            yield from blocks(child)


def enable_checkpointing(networks: nn.Module) -> None:
    """Blocks of diffusers keep their inputs alone for the way back, and compute the rest again (Chen et al., 2016)."""
    for module in networks.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True  # type: ignore[assignment]
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment] # noqa: SLF001


def compile_blocks(network: nn.Module) -> None:
    """Through torch.compile; of a network of diffusers the block that it repeats, which is compiled once for all."""
    repeated: Any = getattr(network, "_repeated_blocks", None)
    if repeated and any(type(module).__name__ in repeated for module in network.modules()):
        network.compile_repeated_blocks()  # type: ignore[operator]
    else:
        network.compile()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the processor's own memory, has no more."""
    says = str(error)
    ends = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(end in says for end in ends)
    )


def explain_memory(error: BaseException, preset: Preset, stage: str) -> LayerloopError:
    """What to change, dearest last, where memory ended in a stage; its last saved state stands."""
    batch = f"{stage}_batch"
    images = int(getattr(preset, batch))
    halves = (
        f"{batch}={max(1, images // 2)} --set accumulation={preset.accumulation * 2}"
        if images > 1
        else ""
    )
    cells = [
        halves and f"{halves} (the same training, half at a time)",
        "" if preset.precision != "fp32" else "precision=bf16",
        "" if preset.gradient_checkpointing else "gradient_checkpointing=true",
        "" if preset.average_apart else "average_apart=true",
        "" if preset.optimiser in {"adamw8bit", "adafactor"} else "optimiser=adamw8bit",
        "adapter_rank=64" if stage == "base" and preset.family and not preset.adapter_rank else "",
    ]
    said = (str(error).strip().splitlines() or ["it is full"])[0][:200]
    hint = "; or ".join(f"--set {cell}" for cell in cells if cell)
    return Refused(f"the memory does not suffice for the stage {stage!r}: {said}", hint)
