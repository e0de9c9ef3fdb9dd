"""A denoiser that draws the layers of a picture together: frozen as it was, with joint attention and adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from curation.errors import Refused
from training.denoiser.denoiser import Conditions, Denoiser
from training.layers.adapters import LayerAdapters, choose_modules, modules_in
from training.layers.attention import Stack, join_attention
from training.presets.preset import Preset


class LayeredDenoiser(nn.Module):
    """A base and the part of a checkpoint that is called "layers".

    Between drawings the base can be called by itself, and is then what it was. Only the adapters learn.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        roles: Sequence[str],
        rank: int,
        modules: Sequence[str],
        *,
        join_text: bool,
    ) -> None:
        """Takes the denoiser over for good: its attentions get other processors, its modules hooks. Raises Refused."""
        super().__init__()
        if denoiser.facts()["kind"] == "sharing":
            raise Refused(
                "a base with attention sharing has an exchange of layers of its own",
                "train a base of another kind",
            )
        self.denoiser = denoiser.requires_grad_(False)
        self.stack, self.join_text = Stack(), join_text
        self.adapters = LayerAdapters(denoiser, roles, rank, modules)
        self.adapters.adapt(denoiser, self.stack)
        join_attention(denoiser, self.stack, join_text=join_text)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that have adapters."""
        return tuple(self.adapters.roles)

    def predict(
        self,
        noisy_BCHW: Tensor,
        time_B: Tensor,
        conditions: Conditions,
        roles: Sequence[str],
        *,
        joined: bool = True,
    ) -> Tensor:
        """What the denoiser predicts of the layers of pictures: rows "(p l)", those of a picture next to each other.

        roles: of a picture's layers, in their order; any number, and one may come more than once. joined: without it
        the layers do not see each other, as if each were drawn alone with its adapter. Raises Refused.
        """
        unknown = sorted(set(roles) - set(self.roles))
        if unknown:
            raise Refused(
                f"there are no adapters of the role '{unknown[0]}'",
                f"there are {', '.join(self.roles)}",
            )
        self.stack.lay(roles, len(noisy_BCHW), joined=joined)
        try:
            return self.denoiser.predict(noisy_BCHW, time_B, conditions)
        finally:
            if not torch.is_grad_enabled():  # else checkpointed blocks ask again on the way back
                self.stack.lay((), 0, joined=False)

    def learnt(self) -> dict[str, Tensor]:
        """The adapters' tensors, by the names under which a checkpoint keeps them."""
        return self.adapters.learnt()

    def facts(self) -> dict[str, str]:
        """What a file of the learnt tensors needs to be opened again."""
        rank, alpha = self.adapters.rank, self.adapters.rank * self.adapters.scale
        told = {"kind": "layers", "roles": ",".join(self.roles), "join_text": str(self.join_text)}
        return told | {"rank": str(rank), "alpha": str(alpha)}


def new_layers(preset: Preset, denoiser: Denoiser) -> LayeredDenoiser:
    """Fresh adapters of the preset's roles, which change nothing yet, on a denoiser."""
    modules = choose_modules(denoiser, preset.layer_modules)
    return LayeredDenoiser(
        denoiser, preset.layer_roles, preset.layer_rank, modules, join_text=preset.join_text
    )


def open_layers(
    denoiser: Denoiser, tensors: Mapping[str, Tensor], facts: Mapping[str, str]
) -> LayeredDenoiser:
    """A stored part "layers" on its base. Raises Refused where they do not fit together."""
    rank, roles = int(facts["rank"]), facts["roles"].split(",")
    layered = LayeredDenoiser(
        denoiser, roles, rank, modules_in(tensors), join_text=facts["join_text"] == "True"
    )
    layered.adapters.scale = float(facts["alpha"]) / rank
    try:
        layered.adapters.load_learnt(tensors)
    except RuntimeError as error:
        raise Refused(
            f"the stored layer adapters do not fit their base: {error}",
            "are they of another preset or model?",
        ) from error
    return layered
