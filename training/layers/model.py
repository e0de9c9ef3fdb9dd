"""A frozen denoiser that generates an image's layers together, by joint attention and adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from curation.errors import Refused
from training.denoiser.denoiser import Conditions, Denoiser
from training.layers.adapters import LayerAdapters, find_modules, modules_in
from training.layers.attention import LayerLayout, join_attention
from training.presets.preset import Preset


class LayeredDenoiser(nn.Module):
    """A base with the part "layers" of a checkpoint; only the adapters are trained.

    Between calls of `predict` the base works as it did before.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        roles: Sequence[str],
        rank: int,
        modules: Sequence[str],
        *,
        joint_text_attention: bool,
    ) -> None:
        """Take over a denoiser: its attention processors are replaced, its modules get hooks.

        Args:
            denoiser: The base.
            roles: Roles that get adapters.
            rank: Rank of the adapters.
            modules: Paths of the adapted modules.
            joint_text_attention: Whether cross-attention sees the texts of all layers.

        Raises:
            Refused: The base has attention sharing, or lacks a module.
        """
        super().__init__()
        if denoiser.metadata()["kind"] == "sharing":
            raise Refused(
                "a base with attention sharing already has attention across layers",
                "train a base of another kind",
            )
        self.denoiser = denoiser.requires_grad_(False)
        self.layout, self.joint_text_attention = LayerLayout(), joint_text_attention
        self.adapters = LayerAdapters(denoiser, roles, rank, modules)
        self.adapters.install(denoiser, self.layout)
        join_attention(denoiser, self.layout, joint_text_attention=joint_text_attention)

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
        """Predict noise or v of layers; the rows are "(p l)", layers of an image are consecutive.

        Args:
            noisy_BCHW: Noisy latents of all layers.
            time_B: Their timesteps.
            conditions: Their conditioning.
            roles: Roles of an image's layers in order; any number, and a role may be repeated.
            joined: Whether layers attend to each other; else each is generated on its own.

        Raises:
            Refused: A role has no adapters, or the rows are not a multiple of the layers.
        """
        unknown = sorted(set(roles) - set(self.roles))
        if unknown:
            raise Refused(
                f"no adapters of the role '{unknown[0]}'",
                f"the roles are {', '.join(self.roles)}",
            )
        self.layout.set_layout(roles, len(noisy_BCHW), joined=joined)
        try:
            return self.denoiser.predict(noisy_BCHW, time_B, conditions)
        finally:
            if not torch.is_grad_enabled():  # checkpointed blocks need the stack in the backward
                self.layout.set_layout((), 0, joined=False)

    def finetuned_state_dict(self) -> dict[str, Tensor]:
        """Return the adapters' tensors under their names in a checkpoint."""
        return self.adapters.finetuned_state_dict()

    def metadata(self) -> dict[str, str]:
        """Return the metadata that is needed to load the tensors."""
        rank, alpha = self.adapters.rank, self.adapters.rank * self.adapters.scale
        metadata = {
            "kind": "layers",
            "roles": ",".join(self.roles),
            "join_text": str(self.joint_text_attention),
        }
        return metadata | {"rank": str(rank), "alpha": str(alpha)}


def new_layered_denoiser(preset: Preset, denoiser: Denoiser) -> LayeredDenoiser:
    """Create adapters without effect for the preset's roles, on a denoiser."""
    modules = find_modules(denoiser, preset.layer_modules)
    return LayeredDenoiser(
        denoiser,
        preset.layer_roles,
        preset.layer_rank,
        modules,
        joint_text_attention=preset.joint_text_attention,
    )


def load_layered_denoiser(
    denoiser: Denoiser, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> LayeredDenoiser:
    """Load a stored part "layers" onto its base.

    Args:
        denoiser: The base.
        tensors: The stored adapters.
        metadata: Their metadata.

    Raises:
        Refused: They do not fit the base.
    """
    rank, roles = int(metadata["rank"]), metadata["roles"].split(",")
    layered = LayeredDenoiser(
        denoiser,
        roles,
        rank,
        modules_in(tensors),
        joint_text_attention=metadata["join_text"] == "True",
    )
    layered.adapters.scale = float(metadata["alpha"]) / rank
    try:
        layered.adapters.load_finetuned(tensors)
    except RuntimeError as error:
        raise Refused(
            f"the stored layer adapters do not fit their base: {error}",
            "they may belong to another preset or model",
        ) from error
    return layered
