"""Weights that a UNet has for a while: applied, run with given layers, and removed exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from curation.errors import Refused
from training.denoiser.attention_sharing import Sharing, build_sharing
from training.interop.adapters import merged, pairs

_FIRST = "conv_in.weight"


class ConditionedConvolution(nn.Conv2d):
    """A UNet's first convolution with given layers' latents beside the noisy one (Rombach et al., 2022, section 3.3).

    Its UNet goes on taking latents of its own channels, so that diffusers' pipelines make noise of the right shape.
    """

    condition_PCHW: Tensor | None = None  # scaled; P pictures

    def forward(self, noisy_BCHW: Tensor) -> Tensor:
        """B counts the pictures once, or twice with guidance: unprompted first, as diffusers has them."""
        if self.condition_PCHW is None:
            raise Refused(
                "these weights draw a layer beside given ones, and none was given",
                "give the known layers",
            )
        times = len(noisy_BCHW) // len(self.condition_PCHW)
        beside_BCHW = self.condition_PCHW.repeat(times, 1, 1, 1).to(noisy_BCHW)
        return super().forward(torch.cat([noisy_BCHW, beside_BCHW], dim=1))


class SwappableWeights:
    """A stored base beside the UNet of its model, which stays as it is outside `taught`.

    Held are the changed tensors alone, in the UNet's type and where it was when the lesson was made; putting them in
    exchanges them with the UNet's own, so that nothing is computed twice and nothing is rounded on the way back.
    A user's own LoRAs may be loaded before or after; those that are fused into the weights, before.
    """

    def __init__(self, unet: Any, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """tensors, facts: of any kind that `finetuned_weights.teach` knows. Raises Refused where they misfit."""
        self.unet, self.within = unet, False
        self.sharing: Sharing | None = None
        self.first: ConditionedConvolution | None = None
        self.facts = {name: value for name, value in facts.items() if name not in {"rank", "alpha"}}
        self._names: list[str] = []
        self._values: list[tuple[nn.Parameter, Tensor]] = []
        self._modules: list[
            tuple[Any, str, Any]
        ] = []  # owner, name, what stands there in place of what does now
        if facts["kind"] == "sharing":
            self.sharing = build_sharing(unet, tensors)
            owners = {name: unet.get_submodule(name) for name in self.sharing.processors}
            self._modules += [
                (owners[name], "processor", one) for name, one in self.sharing.processors.items()
            ]
            return
        if facts["kind"] == "adapter":
            scale = float(facts["alpha"]) / float(facts["rank"])
            tensors = {
                f"{module}.weight": merged(down, up, scale)
                for module, (down, up) in pairs(tensors).items()
            }
        self._hold(tensors, added=facts["kind"] != "weights")

    @contextmanager
    def taught(self, condition: Tensor | None = None, stop_at: float = 1.0) -> Iterator[None]:
        """Within, the UNet knows the lesson; not in the last steps, those of times below (1 - stop_at) of all.

        condition: of the given layers, a row a picture: their latents, scaled and joined, or for attention sharing the
        picture over grey in [-1, 1].
        """
        self._exchange()
        hook = self.unet.register_forward_pre_hook(self._stopping(stop_at), with_kwargs=True)
        try:
            self._lead(condition)
            yield
        finally:
            hook.remove()
            if self.within:
                self._exchange()
            self._lead(None)

    def stored(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors and facts of which the same lesson can be made for the same UNet; call it outside `taught`."""
        if self.sharing is not None:
            return self.sharing.stored(self.unet), self.facts
        tensors = {name: value for name, (_, value) in zip(self._names, self._values, strict=True)}
        if self.first is not None:
            tensors[_FIRST] = self.first.weight
        return tensors, self.facts | {"kind": "weights"}

    @contextmanager
    def following(self) -> Iterator[None]:
        """Within, what changes the UNet's weights, as fusing a LoRA does, changes those of the lesson alike."""
        before = [own.detach().clone() for own, _ in self._values]
        yield
        for place, ((own, value), old) in enumerate(zip(self._values, before, strict=True)):
            added = own.detach().float() - old.float()
            if added.any():
                self._values[place] = own, (value.float() + added.to(value.device)).to(value.dtype)

    def _lead(self, condition: Tensor | None) -> None:
        if self.first is not None:
            self.first.condition_PCHW = condition
        elif self.sharing is not None:
            self.sharing.lead(self.unet, condition)

    def _stopping(self, stop_at: float) -> Any:
        def look(unet: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            del unet
            if stop_at == 1 or not self.within:
                return  # a look at the time would make a GPU wait
            time = named.get("timestep", given[1] if len(given) > 1 else None)
            if float(torch.as_tensor(time).flatten()[0]) < (1 - stop_at) * TIMES:
                self._exchange()

        return look

    def _hold(self, tensors: Mapping[str, Tensor], *, added: bool) -> None:
        # PEFT moves the weights of a layer that has a user's adapter.
        own = {
            name.replace(".base_layer.", "."): value for name, value in self.unet.named_parameters()
        }
        for name, value in tensors.items():
            old = own.get(name)
            wider = name == _FIRST and old is not None and value.shape[1] > old.shape[1]
            if old is None or (old.shape != value.shape and not wider):
                raise Refused(
                    f"{name} of {tuple(value.shape)} is no tensor of this UNet",
                    "is it for another family?",
                )
            start = old.detach().float()
            taught = value.to(old.device, torch.float32)
            if wider:
                start = torch.cat(
                    [
                        start,
                        start.new_zeros(len(start), value.shape[1] - old.shape[1], *old.shape[2:]),
                    ],
                    1,
                )
            taught = (start + taught if added else taught).to(old.dtype)
            if wider:
                self._widen(taught)
            else:
                self._names.append(name)
                self._values.append((old, taught))

    def _widen(self, weight: Tensor) -> None:
        """The bias is the UNet's own, whatever it is at the time."""
        old = self.unet.conv_in
        self.first = ConditionedConvolution(
            weight.shape[1], len(weight), old.kernel_size, padding=old.padding
        )
        self.first.weight = nn.Parameter(weight, requires_grad=False)
        self.first.bias = old.bias
        self._modules.append((self.unet, "conv_in", self.first))

    @torch.no_grad()
    def _exchange(self) -> None:
        """What is held for what is in the UNet; twice is nothing."""
        if any(own.device.type == "meta" for own, _ in self._values):
            hint = "offload whole models (enable_model_cpu_offload), not layer by layer"
            raise Refused("the weights of this UNet are elsewhere while it does not run", hint)
        for place, (own, value) in enumerate(self._values):
            self._values[place] = own, own.data
            own.data = value.to(own.device, own.dtype)
        for place, (owner, name, held) in enumerate(self._modules):
            now = getattr(owner, name)
            self._modules[place] = owner, name, now
            if isinstance(held, nn.Module):
                some = next(self.unet.parameters())
                held.to(some.device, some.dtype)
            owner.set_processor(held) if name == "processor" else setattr(owner, name, held)
        self.within = not self.within


TIMES = 1000
"""Noise levels that Stable Diffusion is trained on; a step's time counts down from it."""
