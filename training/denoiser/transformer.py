"""A small diffusion transformer (DiT) for latents of a few hundred pixels, where a convolutional UNet learns slowly."""

from __future__ import annotations

from collections.abc import Callable

from diffusers.models.embeddings import TimestepEmbedding, Timesteps, get_2d_sincos_pos_embed
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, scaled_dot_product_attention, silu

from training.presets.preset import Preset

HEAD = 32  # numbers per attention head

Attend = Callable[[Tensor], Tensor]
"""Attention among the tokens of each row: B x N x D to the same."""


def look_alone(attend: Attend, tokens_BND: Tensor) -> Tensor:
    """Every row of the batch is a picture of its own; see `_Layer.look`."""
    return attend(tokens_BND)


class DiffusionTransformer(nn.Module):
    """DiT with adaLN-Zero (Peebles and Xie, 2023, section 3.2); time and the prompt's mean state set every layer.

    A fresh one predicts 0. Tokens are squares of `dit_patch` latent pixels, each with a place of its own, sines at
    first and learnt from there; in every layer a token first takes in its neighbours, without which outlines fray
    from one token to the next (LOG.md).
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        width, self.patch = preset.dit_width, preset.dit_patch
        channels = preset.latent_channels * self.patch**2
        side = preset.image_size // preset.stride // self.patch
        self.into = nn.Linear(channels, width)
        self.places = nn.Parameter(get_2d_sincos_pos_embed(width, side, output_type="pt").float())
        self.waves = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(width, width)
        self.prompt = nn.Linear(preset.text_width, width)
        self.layers = nn.ModuleList(_Layer(width, side) for _ in range(preset.dit_layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, noisy_BCHW: Tensor, time_B: Tensor, states_BLD: Tensor, mask_BL: Tensor
    ) -> Tensor:
        """A prediction of the shape of `noisy`."""
        mask_BL1 = mask_BL[..., None].to(states_BLD.dtype)
        mean_BD = (states_BLD.masked_fill(~mask_BL[..., None], 0) * mask_BL1).sum(1) / mask_BL1.sum(
            1
        )
        setting_BD = silu(self.time(self.waves(time_B)) + self.prompt(mean_BD))
        folded_BCHW = pixel_unshuffle(noisy_BCHW, self.patch)
        tokens_BND = self.into(folded_BCHW.flatten(2).transpose(1, 2)) + self.places
        for layer in self.layers:
            tokens_BND = layer(tokens_BND, setting_BD)
        out_BCN = self.out(self.norm(tokens_BND)).transpose(1, 2)
        return pixel_shuffle(out_BCN.reshape(folded_BCHW.shape), self.patch)


class _Layer(nn.Module):
    """Attention and a perceptron, each shifted, scaled and gated by the setting; the gates start at zero.

    Before them a depthwise convolution over the eight neighbours of each token, added to it, which also starts at zero
    (the conditional positions of Chu et al., 2021, arXiv 2102.10882).
    """

    look: Callable[[Attend, Tensor], Tensor]
    """Calls attention with the tokens that are to see each other in one row (training.layers joins layers here)."""

    def __init__(self, width: int, side: int) -> None:
        """side: tokens in a row of the picture, and rows."""
        super().__init__()
        self.look, self.side = look_alone, side
        self.near = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.heads = max(1, width // HEAD)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.setting = nn.Linear(width, 6 * width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        for parameter in (*self.setting.parameters(), *self.near.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, tokens_BND: Tensor, setting_BD: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_p, scale_p, gate_p = self.setting(setting_BD)[
            :, None
        ].chunk(6, dim=-1)
        tokens_BND = tokens_BND + self._meet(tokens_BND)
        normal_BND = self.norm(tokens_BND) * (1 + scale_a) + shift_a
        tokens_BND = tokens_BND + gate_a * self.look(self._attend, normal_BND)
        changed_BND: Tensor = tokens_BND + gate_p * self.perceptron(
            self.norm(tokens_BND) * (1 + scale_p) + shift_p
        )
        return changed_BND

    def _meet(self, tokens_BND: Tensor) -> Tensor:
        """What a token takes in of its neighbours in the picture."""
        batch, _, width = tokens_BND.shape
        near_BDhw: Tensor = self.near(tokens_BND.mT.reshape(batch, width, self.side, -1))
        return near_BDhw.flatten(2).mT

    def _attend(self, tokens_BND: Tensor) -> Tensor:
        batch, count, width = tokens_BND.shape
        split = self.queries_keys_values(tokens_BND).view(
            batch, count, 3, self.heads, width // self.heads
        )
        attended = scaled_dot_product_attention(*split.permute(2, 0, 3, 1, 4))
        joined: Tensor = self.joined(attended.transpose(1, 2).reshape(batch, count, width))
        return joined
