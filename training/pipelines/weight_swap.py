"""Weights that are swapped into a UNet for a while and removed exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from curation.errors import Refused
from training.denoiser.attention_sharing import AttentionSharing, build_attention_sharing
from training.interop.adapters import lora_delta, matrices_by_module

_FIRST = "conv_in.weight"


class ConditionedConvolution(nn.Conv2d):
    """A UNet's first convolution that also takes the latents of given layers as input channels.

    See Rombach et al., 2022, section 3.3. The UNet still takes latents of its own channels, so that
    diffusers' pipelines make noise of the right shape.
    """

    condition_PCHW: Tensor | None = None  # scaled latents of the given layers, P images

    def forward(self, noisy_BCHW: Tensor) -> Tensor:
        """Convolve the noisy latents together with the condition.

        Args:
            noisy_BCHW: The noisy latents. B is the number of images, or twice that with guidance,
                with the unconditional half first, as in diffusers.
        """
        if self.condition_PCHW is None:
            raise Refused(
                "these weights need given layers, and none was given",
                "pass the given layers",
            )
        repeats = len(noisy_BCHW) // len(self.condition_PCHW)
        given_BCHW = self.condition_PCHW.repeat(repeats, 1, 1, 1).to(noisy_BCHW)
        return super().forward(torch.cat([noisy_BCHW, given_BCHW], dim=1))


class SwappableWeights:
    """A stored base that is swapped into the UNet of its model within `applied`.

    Only the changed tensors are stored, in the UNet's dtype and on its device at construction.
    Swapping exchanges them with the UNet's own, so that nothing is computed twice and nothing is
    rounded on the way back. User LoRAs may be loaded before or after; LoRAs fused into the weights,
    before.
    """

    def __init__(
        self, unet: Any, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> None:
        """Prepare the weights for a UNet.

        Args:
            unet: The UNet.
            tensors: Tensors of any kind that `finetuned_weights.load_finetuned` supports.
            metadata: Their metadata, with "kind".

        Raises:
            Refused: The tensors do not fit the UNet.
        """
        self.unet, self.within = unet, False
        self.sharing: AttentionSharing | None = None
        self.first: ConditionedConvolution | None = None
        self.metadata = {
            name: value for name, value in metadata.items() if name not in {"rank", "alpha"}
        }
        self._names: list[str] = []
        self._values: list[tuple[nn.Parameter, Tensor]] = []
        # Modules to swap: their owner, their attribute name, and the module that is not in use.
        self._modules: list[tuple[Any, str, Any]] = []
        # Attention sharing replaces attention processors, not weights.
        if metadata["kind"] == "sharing":
            self.sharing = build_attention_sharing(unet, tensors)
            owners = {name: unet.get_submodule(name) for name in self.sharing.processors}
            self._modules += [
                (owners[name], "processor", processor)
                for name, processor in self.sharing.processors.items()
            ]
            return
        # An adapter is multiplied out to differences, which are added to the weights.
        if metadata["kind"] == "adapter":
            scale = float(metadata["alpha"]) / float(metadata["rank"])
            tensors = {
                f"{module}.weight": lora_delta(down, up, scale)
                for module, (down, up) in matrices_by_module(tensors).items()
            }
        self._prepare(tensors, added=metadata["kind"] != "weights")

    @contextmanager
    def applied(self, condition: Tensor | None = None, stop_at: float = 1.0) -> Iterator[None]:
        """Apply the weights within the context, optionally not in the last denoising steps.

        Args:
            condition: The given layers, one row per image: their scaled latents concatenated by
                channel, or for attention sharing the image over gray in [-1, 1].
            stop_at: The share of the noise levels with the weights; at times below (1 - stop_at) of
                all levels the UNet runs with its own weights.
        """
        # Swap in, run, and swap out unless the hook has already done so.
        self._swap()
        hook = self.unet.register_forward_pre_hook(self._stop_hook(stop_at), with_kwargs=True)
        try:
            self._set_condition(condition)
            yield
        finally:
            hook.remove()
            if self.within:
                self._swap()
            self._set_condition(None)

    def stored(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors and metadata of these weights; call it outside `taught`."""
        if self.sharing is not None:
            return self.sharing.stored(self.unet), self.metadata
        tensors = {name: value for name, (_, value) in zip(self._names, self._values, strict=True)}
        if self.first is not None:
            tensors[_FIRST] = self.first.weight
        return tensors, self.metadata | {"kind": "weights"}

    @contextmanager
    def tracking_changes(self) -> Iterator[None]:
        """Apply changes of the UNet's weights, such as fused LoRAs, to these weights too."""
        # The difference before and after is the fused weight.
        before = [parameter.detach().clone() for parameter, _ in self._values]
        yield
        for index, ((parameter, value), old) in enumerate(zip(self._values, before, strict=True)):
            change = parameter.detach().float() - old.float()
            if change.any():
                self._values[index] = (
                    parameter,
                    (value.float() + change.to(value.device)).to(value.dtype),
                )

    def _set_condition(self, condition: Tensor | None) -> None:
        """Set or clear the condition of the given layers."""
        if self.first is not None:
            self.first.condition_PCHW = condition
        elif self.sharing is not None:
            self.sharing.set_control(self.unet, condition)

    def _stop_hook(self, stop_at: float) -> Any:
        """Return a forward pre-hook that removes the weights in the last steps."""

        def hook(unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del unet
            if stop_at == 1 or not self.within:
                return  # reading the time would synchronize with the GPU
            time = kwargs.get("timestep", args[1] if len(args) > 1 else None)
            if float(torch.as_tensor(time).flatten()[0]) < (1 - stop_at) * TRAIN_TIMESTEPS:
                self._swap()

        return hook

    def _prepare(self, tensors: Mapping[str, Tensor], *, added: bool) -> None:
        """Compute the UNet's tensors with these weights applied. Raises Refused for a misfit."""
        # PEFT renames the weights of a layer that has a user's adapter.
        originals = {
            name.replace(".base_layer.", "."): value for name, value in self.unet.named_parameters()
        }
        for name, value in tensors.items():
            old = originals.get(name)
            is_wider = name == _FIRST and old is not None and value.shape[1] > old.shape[1]
            if old is None or (old.shape != value.shape and not is_wider):
                raise Refused(
                    f"{name} with shape {tuple(value.shape)} is not a tensor of this UNet",
                    "is it for another family?",
                )
            # Add in float32 and round once to the UNet's dtype.
            start = old.detach().float()
            target = value.to(old.device, torch.float32)
            # New input channels start from zeros, as in the training of the weights.
            if is_wider:
                start = torch.cat(
                    [
                        start,
                        start.new_zeros(len(start), value.shape[1] - old.shape[1], *old.shape[2:]),
                    ],
                    1,
                )
            target = (start + target if added else target).to(old.dtype)
            if is_wider:
                self._widen(target)
            else:
                self._names.append(name)
                self._values.append((old, target))

    def _widen(self, weight: Tensor) -> None:
        """Make the convolution with extra input channels; it shares its bias with the UNet's."""
        old = self.unet.conv_in
        self.first = ConditionedConvolution(
            weight.shape[1], len(weight), old.kernel_size, padding=old.padding
        )
        self.first.weight = nn.Parameter(weight, requires_grad=False)
        self.first.bias = old.bias
        self._modules.append((self.unet, "conv_in", self.first))

    @torch.no_grad()
    def _swap(self) -> None:
        """Swap the stored tensors and modules with the UNet's; swapping twice restores them."""
        if any(parameter.device.type == "meta" for parameter, _ in self._values):
            hint = "use enable_model_cpu_offload, not sequential offloading"
            raise Refused("the weights of this UNet are offloaded layer by layer", hint)
        # Exchange the data: the parameter objects stay, so that references to them stay valid.
        for index, (parameter, value) in enumerate(self._values):
            self._values[index] = parameter, parameter.data
            parameter.data = value.to(parameter.device, parameter.dtype)
        # Modules are exchanged whole, moved to the UNet's device and dtype.
        for index, (owner, name, stored) in enumerate(self._modules):
            current = getattr(owner, name)
            self._modules[index] = owner, name, current
            if isinstance(stored, nn.Module):
                parameter = next(self.unet.parameters())
                stored.to(parameter.device, parameter.dtype)
            owner.set_processor(stored) if name == "processor" else setattr(owner, name, stored)
        self.within = not self.within


TRAIN_TIMESTEPS = 1000
"""The number of noise levels of Stable Diffusion's training; a step's time counts down from it."""
