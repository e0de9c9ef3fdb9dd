"""Joint attention: the tokens of all layers of a picture see each other (paper, section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from curation.errors import Refused
from training.denoiser.transformer import Attend, DiffusionTransformer

_ATTENTION = re.compile(r"(^|\.)attn[12]$")


class Stack:
    """What the rows of a batch are: row b is the layer `roles[b % L]` of picture b // L, and L the count of roles.

    One stack is shared by everything that was put into a network: whoever calls the network says here before what it
    is called with, and nothing else need be told. Without roles every row is a picture of its own, and nothing changes.
    It stays as it is until the next call, since checkpointed blocks ask again on the way back.
    """

    def __init__(self) -> None:
        self.roles: tuple[str, ...] = ()
        self.rows = 0
        self.joined = True

    def lay(self, roles: Sequence[str], rows: int, *, joined: bool) -> None:
        """What comes next. Raises Refused where the rows are no whole pictures."""
        if roles and rows % len(roles):
            raise Refused(f"{rows} rows are no whole pictures of {len(roles)} layers")
        self.roles, self.rows, self.joined = tuple(roles), rows, joined

    @property
    def joins(self) -> bool:
        """Whether rows are to see each other."""
        return self.joined and len(self.roles) > 1

    def join(self, states_BND: Tensor) -> Tensor:
        """One row for each picture, with the tokens of all its layers: "(p l) n d -> p (l n) d", without a copy.

        Queries, keys and values are made of each token by itself, so joining tokens before them is joining the three.
        """
        return states_BND.reshape(self.rows // len(self.roles), -1, states_BND.shape[-1])

    def part(self, states_PMD: Tensor) -> Tensor:
        """The inverse of `join`."""
        return states_PMD.reshape(self.rows, -1, states_PMD.shape[-1])

    def look(self, attend: Attend, tokens_BND: Tensor) -> Tensor:
        """What a layer of the transformer calls its attention through (training.denoiser.transformer)."""
        return self.part(attend(self.join(tokens_BND))) if self.joins else attend(tokens_BND)


class JointAttention:
    """An attention processor of diffusers: the layers of a picture attend to each other, through the one it replaces.

    So whatever attends there, scaled_dot_product_attention in diffusers' own, attends to all layers at once. Where an
    attention looks at text, its layers look at the texts of all only if `join_text`.
    """

    def __init__(self, stack: Stack, alone: Callable[..., Tensor], *, join_text: bool) -> None:
        self.stack, self.alone, self.join_text = stack, alone, join_text

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """B x N x D states, changed; diffusers names the arguments. attention_mask: a bias, B x 1 x keys."""
        stack = self.stack
        if not stack.joins or (encoder_hidden_states is not None and not self.join_text):
            return self.alone(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        text, mask = encoder_hidden_states, attention_mask
        if text is not None:
            text = stack.join(text)
        if mask is not None:
            mask = stack.join(mask.transpose(1, 2)).transpose(1, 2)
        return stack.part(self.alone(attn, stack.join(hidden_states), text, mask, temb))


def join_attention(network: nn.Module, stack: Stack, *, join_text: bool) -> None:
    """Let the layers that `stack` tells of see each other in every attention of a network, in place.

    Networks are our transformer, which has no attention to text, and UNets of diffusers.
    """
    for name, module in network.named_modules():
        if isinstance(module, DiffusionTransformer):
            for layer in module.layers:
                setattr(layer, "look", stack.look)  # noqa: B010 - for types it is a module, whose attributes are these
        elif _ATTENTION.search(name):
            attention: Any = module
            attention.set_processor(JointAttention(stack, attention.processor, join_text=join_text))
