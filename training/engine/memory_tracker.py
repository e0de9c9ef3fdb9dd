"""How much memory a step of a training needs, found by taking that step with tensors that have sizes and no numbers."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from training.engine.distributed import PRECISIONS
from training.engine.optimizers import build_optimiser

BLOCK = 256  # numbers that share one scale in bitsandbytes' 8-bit states
SMALL = 4_096  # tensors of fewer numbers keep 32-bit states there


class FakeMemoryTracker(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Makes tensors that have sizes alone, and counts their bytes: each storage once, from its making to its end."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.now = self.peak = self.gradients = 0
        self.at_peak = 0  # gradients at the peak
        self.beside = 0  # the most that lived beside gradients
        self._living: dict[int, int] = {}
        self._within = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation itself; what it gives is counted, not what it is taken apart into here and nowhere else."""
        within, self._within = self._within, True
        try:
            out = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._within = within
        if not within and func.namespace != "prim":  # which are questions about a tensor
            tree_map_only(Tensor, self._count, out)
        return out

    def restart(self) -> None:
        """Forget the peak up to here."""
        self.peak, self.at_peak, self.beside = self.now, self.gradients, self.now - self.gradients

    def note_gradient(self, parameter: Tensor) -> None:
        """A hook of parameters: their gradient has come to stay."""
        if parameter.grad is not None:
            self.gradients += parameter.grad.nbytes

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001 - what tells one storage from another
        if key in self._living:
            return
        self._living[key] = storage.nbytes()
        self.now += storage.nbytes()
        weakref.finalize(storage, self._release, key)
        self.beside = max(self.beside, self.now - self.gradients)
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, self.gradients

    def _release(self, key: int) -> None:
        self.now -= self._living.pop(key)


@dataclass(frozen=True)
class StepMemory:
    """Bytes in a step: what lives throughout, what lives for the step, and how much of a step's peak is gradients."""

    weights: int
    learning: int  # those of them that learn
    gradients: int  # at the moment of the peak
    activations: int  # all else at that moment
    beside: int  # the most of all else at any moment


@contextmanager
def metering() -> Iterator[FakeMemoryTracker]:
    """Tensors made inside have sizes alone; their bytes are counted."""
    with warnings.catch_warnings(), FakeMemoryTracker() as meter:
        warnings.filterwarnings(
            "ignore", "Accessing the data pointer of FakeTensor"
        )  # copying modules looks at it
        yield meter


def measure_step(
    build: Callable[[], tuple[nn.Module, Callable[[], Tensor]]], precision: str, *, on_gpu: bool
) -> StepMemory:
    """The memory of forward and backward of what `build` makes: networks, and a function that gives their loss."""
    with metering() as meter:
        networks, loss = build()
        weights = meter.now
        learning = [parameter for parameter in networks.parameters() if parameter.requires_grad]
        for parameter in learning:
            parameter.register_post_accumulate_grad_hook(meter.note_gradient)  # type: ignore[no-untyped-call]
        meter.restart()
        for norm in (
            m for m in networks.modules() if on_gpu and isinstance(m, nn.GroupNorm | nn.LayerNorm)
        ):
            norm.register_forward_pre_hook(_widen)
        dtype = PRECISIONS[precision]
        with torch.autocast("cpu", dtype) if dtype else nullcontext():
            total = loss()
        torch.autograd.backward(total)
        taken = sum(parameter.nbytes for parameter in learning)
        return StepMemory(
            weights,
            taken,
            meter.at_peak,
            meter.peak - meter.at_peak - weights,
            meter.beside - weights,
        )


def measure_use(build: Callable[[], Callable[[], object]]) -> StepMemory:
    """The memory of using networks without learning."""
    with metering() as meter, torch.no_grad():
        use = build()
        weights = meter.now
        meter.restart()
        use()
        return StepMemory(weights, 0, 0, meter.peak - weights, meter.peak - weights)


def measure_optimiser(name: str, parameters: Iterable[Tensor], *, on_gpu: bool) -> tuple[int, int]:
    """Bytes that an optimiser keeps for these parameters, and bytes that its step needs for a moment.

    One step of AdamW for each different shape: what is kept for equal shapes is equal. The steps of the others look at
    numbers, which there are none of, so that what they keep is told by their rule.
    """
    shapes = Counter(tuple(parameter.shape) for parameter in parameters)
    numbers = {shape: torch.Size(shape).numel() for shape in shapes}
    if rule := _RULES.get(name):
        return sum(rule(shape) * count for shape, count in shapes.items()), 2 * 4 * max(
            numbers.values(), default=0
        )
    state, moment = 0, 0
    for shape, count in shapes.items():
        with metering() as meter:
            parameter = nn.Parameter(torch.empty(shape))
            parameter.grad = torch.empty(shape)
            before = meter.now
            optimiser = build_optimiser(name, [parameter], 1e-3)
            optimiser.step()
            kept = meter.now - before  # while it lives
            state += kept * count
            moment = max(moment, meter.peak - before - kept)
    if (
        name == "adamw" and on_gpu
    ):  # there it works on all tensors at once, and divides by roots of all of them
        moment = sum(4 * numbers[shape] * count for shape, count in shapes.items())
    return state, moment


def _adamw_8bit(shape: tuple[int, ...]) -> int:
    """Two moments of a byte, and a scale for each block of them; four bytes where there are few (bitsandbytes)."""
    numbers = torch.Size(shape).numel()
    return 2 * (numbers + 4 * -(-numbers // BLOCK)) if numbers >= SMALL else 8 * numbers


def _adafactor(shape: tuple[int, ...]) -> int:
    """Second moments of rows and columns, or of all where there are none of both (torch.optim)."""
    numbers = torch.Size(shape).numel()
    return 4 * (numbers // shape[-1] + numbers // shape[-2]) if len(shape) > 1 else 4 * numbers


_RULES: dict[str, Callable[[tuple[int, ...]], int]] = {
    "adamw8bit": _adamw_8bit,
    "adafactor": _adafactor,
}


def bring_from_meta(network: nn.Module | None) -> None:
    """Give a network of the device "meta" tensors that the meter around it counts in place of its own."""
    for module in network.modules() if network else ():
        for name, tensor in [
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ]:
            learns = isinstance(tensor, nn.Parameter)
            here = torch.empty(tensor.shape, dtype=tensor.dtype)
            setattr(
                module,
                name,
                nn.Parameter(here, requires_grad=tensor.requires_grad) if learns else here,
            )


def _widen(norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """A GPU's autocast computes norms in float32; that of the CPU, where tensors without numbers are, does not."""
    del norm
    return (inputs[0].float(), *inputs[1:]) if torch.is_autocast_enabled("cpu") else None
