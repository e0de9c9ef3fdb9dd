"""Estimates the memory of a training step by running it on fake tensors, which have no data."""

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
from training.engine.optimizers import build_optimizer

BLOCK = 256  # numbers that share one scale in bitsandbytes' 8-bit states
MIN_8BIT_SIZE = 4_096  # tensors of fewer numbers keep 32-bit states there


class FakeMemoryTracker(FakeTensorMode):  # type: ignore[no-untyped-call]
    """A fake tensor mode that counts bytes: each storage from its allocation to its release."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.now = self.peak = self.gradients = 0
        self.gradients_at_peak = 0  # gradients at the peak
        self.peak_without_gradients = 0  # peak of everything but gradients
        self._living: dict[int, int] = {}
        self._within = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its outputs, but not those of its decomposition."""
        within, self._within = self._within, True
        try:
            out = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._within = within
        if not within and func.namespace != "prim":  # prim operations only query a tensor
            tree_map_only(Tensor, self._count, out)
        return out

    def restart(self) -> None:
        """Reset the peaks to the current values."""
        self.peak, self.gradients_at_peak, self.peak_without_gradients = (
            self.now,
            self.gradients,
            self.now - self.gradients,
        )

    def count_gradient(self, parameter: Tensor) -> None:
        """Count the gradient of a parameter; a post-accumulate-grad hook."""
        if parameter.grad is not None:
            self.gradients += parameter.grad.nbytes

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001 - the identity of a storage
        if key in self._living:  # a view, or an in-place result
            return
        self._living[key] = storage.nbytes()
        self.now += storage.nbytes()
        weakref.finalize(storage, self._release, key)
        self.peak_without_gradients = max(self.peak_without_gradients, self.now - self.gradients)
        if self.now > self.peak:
            self.peak, self.gradients_at_peak = self.now, self.gradients

    def _release(self, key: int) -> None:
        self.now -= self._living.pop(key)


@dataclass(frozen=True)
class StepMemory:
    """Memory of a step in bytes: weights, and the parts of its peak."""

    weights: int
    trainable: int  # trainable weights
    gradients: int  # gradients at the peak
    activations: int  # everything but weights and gradients at the peak
    peak_activations: int  # the largest value of everything but weights and gradients at any time


@contextmanager
def track_memory() -> Iterator[FakeMemoryTracker]:
    """Make all tensors created inside fake, and count their bytes."""
    with warnings.catch_warnings(), FakeMemoryTracker() as tracker:
        # Copying modules accesses data pointers.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield tracker


def estimate_step(
    build: Callable[[], tuple[nn.Module, Callable[[], Tensor]]], precision: str, *, on_gpu: bool
) -> StepMemory:
    """Measure the memory of a forward and backward pass.

    Args:
        build: Makes the networks and a function that computes their loss.
        precision: The autocast precision, a key of PRECISIONS.
        on_gpu: Whether to count norms in float32, as autocast computes them on a GPU.
    """
    # Weights first, so that everything later counts as gradients or activations.
    with track_memory() as tracker:
        networks, loss = build()
        weights = tracker.now
        trainable_parameters = [
            parameter for parameter in networks.parameters() if parameter.requires_grad
        ]
        for parameter in trainable_parameters:
            hook = tracker.count_gradient
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        tracker.restart()
        for norm in (
            m for m in networks.modules() if on_gpu and isinstance(m, nn.GroupNorm | nn.LayerNorm)
        ):
            norm.register_forward_pre_hook(_widen)
        # Forward and backward, as the trainer runs them.
        dtype = PRECISIONS[precision]
        with torch.autocast("cpu", dtype) if dtype else nullcontext():
            total = loss()
        torch.autograd.backward(total)
        trainable_bytes = sum(parameter.nbytes for parameter in trainable_parameters)
        return StepMemory(
            weights,
            trainable_bytes,
            tracker.gradients_at_peak,
            tracker.peak - tracker.gradients_at_peak - weights,
            tracker.peak_without_gradients - weights,
        )


def estimate_inference(build: Callable[[], Callable[[], object]]) -> StepMemory:
    """Measure the memory of inference; `build` loads the networks and returns a function to run."""
    with track_memory() as tracker, torch.no_grad():
        run = build()
        weights = tracker.now
        tracker.restart()
        run()
        return StepMemory(weights, 0, 0, tracker.peak - weights, tracker.peak - weights)


def estimate_optimizer(name: str, parameters: Iterable[Tensor], *, on_gpu: bool) -> tuple[int, int]:
    """Measure the bytes of an optimizer's state, and the temporary bytes of its step.

    AdamW takes one step per distinct shape, since equal shapes have equal states. The steps of the
    other optimizers depend on data, so their state is computed by a formula.

    Args:
        name: The optimizer, as in `build_optimizer`.
        parameters: The parameters that it updates.
        on_gpu: Whether AdamW uses its multi-tensor implementation, as it does on a GPU.

    Returns:
        Bytes of state, and bytes that a step needs temporarily.
    """
    shapes = Counter(tuple(parameter.shape) for parameter in parameters)
    numbers = {shape: torch.Size(shape).numel() for shape in shapes}
    # Formula, if there is one; a step then needs about two float32 copies of the largest tensor.
    if rule := _RULES.get(name):
        return sum(rule(shape) * count for shape, count in shapes.items()), 2 * 4 * max(
            numbers.values(), default=0
        )
    # Otherwise measure a step per distinct shape.
    state, temporary_bytes = 0, 0
    for shape, count in shapes.items():
        with track_memory() as tracker:
            parameter = nn.Parameter(torch.empty(shape))
            parameter.grad = torch.empty(shape)
            before = tracker.now
            optimizer = build_optimizer(name, [parameter], 1e-3)
            optimizer.step()
            state_bytes = tracker.now - before  # read before the optimizer is released
            state += state_bytes * count
            temporary_bytes = max(temporary_bytes, tracker.peak - before - state_bytes)
    # The multi-tensor implementation holds the denominators of all tensors at once.
    if name == "adamw" and on_gpu:
        temporary_bytes = sum(4 * numbers[shape] * count for shape, count in shapes.items())
    return state, temporary_bytes


def _adamw_8bit(shape: tuple[int, ...]) -> int:
    """Compute bitsandbytes' state: two 8-bit moments and a scale per block; 32-bit if small."""
    numbers = torch.Size(shape).numel()
    return 2 * (numbers + 4 * -(-numbers // BLOCK)) if numbers >= MIN_8BIT_SIZE else 8 * numbers


def _adafactor(shape: tuple[int, ...]) -> int:
    """Compute Adafactor's state: row and column moments; full ones for vectors (torch.optim)."""
    numbers = torch.Size(shape).numel()
    return 4 * (numbers // shape[-1] + numbers // shape[-2]) if len(shape) > 1 else 4 * numbers


_RULES: dict[str, Callable[[tuple[int, ...]], int]] = {
    "adamw8bit": _adamw_8bit,
    "adafactor": _adafactor,
}


def materialize(network: nn.Module | None) -> None:
    """Replace a network's meta tensors by fake ones, which the active tracker counts."""
    for module in network.modules() if network else ():
        for name, tensor in [
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ]:
            trainable = isinstance(tensor, nn.Parameter)
            fake = torch.empty(tensor.shape, dtype=tensor.dtype)
            if trainable:
                fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
            setattr(module, name, fake)


def _widen(norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Cast a norm's input to float32, as autocast does on CUDA but not on the CPU."""
    del norm
    return (inputs[0].float(), *inputs[1:]) if torch.is_autocast_enabled("cpu") else None
