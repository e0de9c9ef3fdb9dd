"""Joint attention: the tokens of all layers of an image attend to each other (section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from curation.errors import Refused
from training.denoiser.transformer import Attend, DiffusionTransformer

_ATTENTION = re.compile(r"(^|\.)attn[12]$")


class LayerLayout:
    """The layout of a batch: row b is the layer `roles[b % L]` of image b // L for L roles.

    All hooks and processors in a network share one layout, which the caller sets before each
    forward pass. Without roles every row is a separate image and the network is unchanged. The
    layout remains until it is set again, since gradient checkpointing repeats forward passes.
    """

    def __init__(self) -> None:
        self.roles: tuple[str, ...] = ()
        self.rows = 0
        self.joined = True

    def set_layout(self, roles: Sequence[str], rows: int, *, joined: bool) -> None:
        """Set the layout of the next forward pass.

        Args:
            roles: Roles of an image's layers; empty for separate images.
            rows: Rows of the batch.
            joined: Whether the layers of an image attend to each other.

        Raises:
            Refused: The rows are not a multiple of the layers.
        """
        if roles and rows % len(roles):
            raise Refused(f"{rows} rows are not a multiple of {len(roles)} layers")
        self.roles, self.rows, self.joined = tuple(roles), rows, joined

    @property
    def is_joint(self) -> bool:
        """Whether rows attend to each other."""
        return self.joined and len(self.roles) > 1

    def join(self, states_BND: Tensor) -> Tensor:
        """Concatenate the tokens of an image's layers: "(p l) n d -> p (l n) d", without a copy.

        Projections to queries, keys and values act on each token, so joining their input joins all
        three.
        """
        return states_BND.reshape(self.rows // len(self.roles), -1, states_BND.shape[-1])

    def split(self, states_PMD: Tensor) -> Tensor:
        """Invert `join`."""
        return states_PMD.reshape(self.rows, -1, states_PMD.shape[-1])

    def attend(self, attend: Attend, tokens_BND: Tensor) -> Tensor:
        """Call a transformer layer's attention on joined rows (see `_Layer.attention_wrapper`)."""
        return self.split(attend(self.join(tokens_BND))) if self.is_joint else attend(tokens_BND)


class JointAttention:
    """A diffusers attention processor that joins the layers of an image for the one it wraps.

    The wrapped processor, by default scaled_dot_product_attention, then attends to all layers. In
    cross-attention each layer attends to the texts of all layers only with `joint_text_attention`.
    """

    def __init__(
        self, layout: LayerLayout, processor: Callable[..., Tensor], *, joint_text_attention: bool
    ) -> None:
        """Wrap a processor.

        Args:
            layout: The layout of the next forward pass.
            processor: The wrapped processor.
            joint_text_attention: Whether cross-attention sees the texts of all layers.
        """
        self.layout, self.processor, self.joint_text_attention = (
            layout,
            processor,
            joint_text_attention,
        )

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Return changed states, B x N x D; diffusers names the arguments.

        Args:
            attn: The attention module.
            hidden_states: States of the image's tokens.
            encoder_hidden_states: States of the text; None in self-attention.
            attention_mask: A bias, B x 1 x keys.
            temb: Timestep embedding, passed through.
        """
        layout = self.layout
        if not layout.is_joint or (
            encoder_hidden_states is not None and not self.joint_text_attention
        ):
            return self.processor(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        # Keys, and so text and mask, are joined like the queries.
        text, mask = encoder_hidden_states, attention_mask
        if text is not None:
            text = layout.join(text)
        if mask is not None:
            mask = layout.join(mask.transpose(1, 2)).transpose(1, 2)
        return layout.split(self.processor(attn, layout.join(hidden_states), text, mask, temb))


def join_attention(network: nn.Module, layout: LayerLayout, *, joint_text_attention: bool) -> None:
    """Join the layers that `layout` describes in every attention of a network, in place.

    Args:
        network: Our transformer, which has no cross-attention, or a diffusers UNet.
        layout: The layout of the next forward pass.
        joint_text_attention: Whether cross-attention sees the texts of all layers.
    """
    for name, module in network.named_modules():
        if isinstance(module, DiffusionTransformer):
            for layer in module.layers:
                # Typed as Module, not as a layer of the transformer.
                setattr(layer, "attention_wrapper", layout.attend)  # noqa: B010
        elif _ATTENTION.search(name):
            attention: Any = module
            attention.set_processor(
                JointAttention(
                    layout, attention.processor, joint_text_attention=joint_text_attention
                )
            )
