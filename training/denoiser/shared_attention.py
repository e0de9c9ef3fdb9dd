"""The attention processor that shares attention across layers, with low-rank adapters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from curation.errors import Refused
from training.denoiser.control import control_projections, control_states


class SharedAttention(nn.Module):
    """A diffusers attention processor that generates `frames` layers of an image in one batch.

    Every layer has its own low-rank adapters on queries, keys, values and output. Then each
    position attends to the same position of the other layers: x = h + o, and the output is
    x + O(attend(Q(y), K(y), V(y))) with y = I(norm(x)). The transformer block adds its residual
    itself. Layers of an image are consecutive in the batch. With `controlled`, the features of a
    control image are added to h first. State-dict names are those of the released file (its public
    loader: AttentionSharingUnit).
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        heads: int,
        frames: int,
        rank: int,
        *,
        controlled: bool = False,
    ) -> None:
        """Create the processor of one attention.

        Args:
            width: Channels of the attention's states.
            context_width: Channels of the states it attends to.
            heads: Number of attention heads.
            frames: Number of layers that are generated together.
            rank: Rank of the adapters.
            controlled: Whether a control image is used.
        """
        super().__init__()
        self.heads, self.frames = heads, frames
        self.to_q_lora, self.to_out_lora = (_adapters(width, width, frames, rank) for _ in range(2))
        self.to_k_lora, self.to_v_lora = (
            _adapters(context_width, width, frames, rank) for _ in range(2)
        )
        self.temporal_i = nn.Linear(width, width)
        self.temporal_n = nn.LayerNorm(width, eps=1e-6)
        self.temporal_q, self.temporal_k, self.temporal_v, self.temporal_o = (
            nn.Linear(width, width) for _ in range(4)
        )
        self.control_convs = control_projections(width, frames) if controlled else None
        self._control_BLD: Tensor | None = None

    @torch.no_grad()
    def set_control(self, level_P256HW: Tensor | None) -> None:
        """Set the control features, one level of `ConditionsEncoder`; None removes them."""
        self._control_BLD = None
        if self.control_convs is not None and level_P256HW is not None:
            self._control_BLD = control_states(self.control_convs, level_P256HW)

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute the change of B x L x D states with B = frames * images.

        The argument names are those of diffusers. With guidance the images are repeated in the
        batch, and so are the control features. Raises Refused if a controlled processor has none.
        """
        del temb
        control_BLD = self._control(hidden_states)
        if control_BLD is not None:
            hidden_states = hidden_states + control_BLD
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        # Expand the mask to B x heads x 1 x L for scaled_dot_product_attention.
        if attention_mask is not None:
            masks: Tensor = attn.prepare_attention_mask(
                attention_mask, context.shape[1], len(context)
            )
            attention_mask = masks.reshape(len(context), -1, *masks.shape[1:])
        # The block's own attention with adapters, then the attention across layers.
        query_BLD = self._adapted(attn.to_q, self.to_q_lora, hidden_states)
        key_BLD = self._adapted(attn.to_k, self.to_k_lora, context)
        value_BLD = self._adapted(attn.to_v, self.to_v_lora, context)
        attended_BLD = attend(query_BLD, key_BLD, value_BLD, self.heads, attention_mask)
        own_BLD: Tensor = attn.to_out[1](
            self._adapted(attn.to_out[0], self.to_out_lora, attended_BLD)
        )
        # The block's residual lacks the control features, so they are part of the change.
        change_BLD = own_BLD + self._across(hidden_states + own_BLD)
        return change_BLD if control_BLD is None else change_BLD + control_BLD

    def _control(self, states_BLD: Tensor) -> Tensor | None:
        if self.control_convs is None:
            return None
        if self._control_BLD is None:
            raise Refused(
                "this attention sharing needs a control layer, and none was given",
                "give the known layer",
            )
        return self._control_BLD.repeat(len(states_BLD) // len(self._control_BLD), 1, 1).to(
            states_BLD
        )

    def _adapted(self, layer: nn.Module, adapters: nn.ModuleList, states_BLD: Tensor) -> Tensor:
        """Apply W + up @ down, with each layer's own adapter."""
        base: Tensor = layer(states_BLD)
        added = [
            adapter(states_BLD[frame :: self.frames]) for frame, adapter in enumerate(adapters)
        ]
        return base + torch.stack(added, dim=1).flatten(0, 1)

    def _across(self, states_BLD: Tensor) -> Tensor:
        """Attend from each position to the same position of the other layers."""
        y_BLD = self.temporal_i(self.temporal_n(states_BLD))
        # Attention over a single layer is its value, for any query and key.
        if self.frames == 1:
            alone_BLD: Tensor = self.temporal_o(self.temporal_v(y_BLD))
            return alone_BLD
        # One sequence per position, whose elements are the layers.
        _, length, width = y_BLD.shape
        positions = (
            y_BLD.reshape(-1, self.frames, length, width)
            .transpose(1, 2)
            .reshape(-1, self.frames, width)
        )
        attended = attend(
            self.temporal_q(positions),
            self.temporal_k(positions),
            self.temporal_v(positions),
            self.heads,
        )
        by_image: Tensor = self.temporal_o(attended).reshape(-1, length, self.frames, width)
        return by_image.transpose(1, 2).reshape(y_BLD.shape)


def attend(
    query_BLD: Tensor, key_BMD: Tensor, value_BMD: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Compute multi-head attention, B x L x D; `mask` is added to the attention logits."""
    query, key, value = (
        x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query_BLD, key_BMD, value_BMD)
    )
    return (
        scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
    )


def _adapters(inward: int, outward: int, frames: int, rank: int) -> nn.ModuleList:
    return nn.ModuleList(_Adapter(inward, outward, rank) for _ in range(frames))


class _Adapter(nn.Module):
    def __init__(self, inward: int, outward: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(inward, rank, bias=False)
        self.up = nn.Linear(rank, outward, bias=False)

    def forward(self, states_BLD: Tensor) -> Tensor:
        added: Tensor = self.up(self.down(states_BLD))
        return added
