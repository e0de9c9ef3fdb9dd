"""The frozen reference of preference training: a second network, or the same with other weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from training.denoiser.denoiser import Denoiser
from training.engine.distributed import PRECISIONS
from training.presets.preset import Preset

WHOLLY_TRAINED = frozenset({"own", "weights"})
"""Kinds of denoisers of which all weights are trained."""

Network = TypeVar("Network", bound=nn.Module)


class Reference(Generic[Network]):
    """A network as it was before the training, without gradients.

    Where all weights are trained it is a network of its own. Where adapters are trained it is the
    trained network, into which the first adapters are put for the time of a prediction: that takes
    the memory of the adapters alone. It is not a module, so that it is neither trained nor saved.
    """

    def __init__(self, network: Network, trained: Sequence[nn.Parameter] = ()) -> None:
        """Freeze a reference.

        Args:
            network: The reference, frozen; or the network to train, if `trained` are its adapters.
            trained: The parameters to train, on their device, whose present values are kept.
        """
        self._network = network
        self._trained = list(trained)
        self._kept = [parameter.detach().clone() for parameter in trained]

    @property
    def own_modules(self) -> tuple[nn.Module, ...]:
        """The network, if it is not the trained one."""
        return () if self._trained else (self._network,)

    @contextmanager
    def applied(self) -> Iterator[Network]:
        """Yield the network with the reference's weights, in a context without gradients.

        Use it before the prediction that is differentiated: the backward pass reads the weights.
        """
        with torch.no_grad():
            self._exchange()
            try:
                yield self._network
            finally:
                self._exchange()

    def _exchange(self) -> None:
        """Exchange the storages of the kept and the present weights; nothing is copied."""
        for number, parameter in enumerate(self._trained):
            present: Tensor = parameter.data
            parameter.data = self._kept[number]
            self._kept[number] = present


def freeze_reference(preset: Preset, denoiser: Denoiser) -> Reference[Denoiser]:
    """Return a denoiser as it is now, as the reference of its own training.

    Of a denoiser that trains few weights over frozen ones, it is the same network with these
    weights as they are now. FSDP gathers weights when a module is called, so that they cannot be
    exchanged before; there, and where all weights are trained, it is a frozen copy that shares the
    text encoders. A copy of a pretrained UNet is kept in the compute precision.

    Args:
        preset: The preset.
        denoiser: The denoiser to train, on its device.
    """
    if denoiser.metadata()["kind"] not in WHOLLY_TRAINED and not preset.fsdp:
        return Reference(denoiser, denoiser.trainable_parameters())
    # What the memo names is shared and not copied.
    shared = [getattr(denoiser, name, None) for name in ("pipeline", "texts")]
    copied = copy.deepcopy(denoiser, {id(each): each for each in shared if each is not None})
    dtype = PRECISIONS[preset.precision]
    if dtype and preset.family and not preset.fsdp:  # FSDP needs one dtype
        for parameter in copied.trainable_parameters():
            parameter.data = parameter.data.to(dtype)
    return Reference(copied.eval().requires_grad_(False))
