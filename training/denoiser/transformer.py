"""A small diffusion transformer (DiT) for small latents, where a UNet trains slowly."""

from __future__ import annotations

from collections.abc import Callable

from diffusers.models.embeddings import TimestepEmbedding, Timesteps, get_2d_sincos_pos_embed
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, scaled_dot_product_attention, silu

from training.presets.preset import Preset

HEAD_CHANNELS = 32  # channels per attention head

Attend = Callable[[Tensor], Tensor]
"""Self-attention within each row: B x N x D to the same shape."""


def attend_separately(attend: Attend, tokens_BND: Tensor) -> Tensor:
    """Attend within each row: every row is a separate image (see `_Layer.attention_wrapper`)."""
    return attend(tokens_BND)


class DiffusionTransformer(nn.Module):
    """DiT with adaLN-Zero (Peebles and Xie, 2023, section 3.2).

    Timestep and mean text embedding modulate every layer; an untrained network predicts 0. Tokens
    are squares of `dit_patch` latent pixels with trained position embeddings that start as
    sinusoids. In every layer a depthwise convolution mixes neighboring tokens first; without it
    outlines do not join between tokens (docs/experiments/base.md).
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
        """Return a prediction of the shape of `noisy`."""
        # The modulation vector: timestep embedding plus the mean of the text embeddings.
        mask_BL1 = mask_BL[..., None].to(states_BLD.dtype)
        unmasked_BLD = states_BLD.masked_fill(~mask_BL[..., None], 0) * mask_BL1
        mean_BD = unmasked_BLD.sum(1) / mask_BL1.sum(1)
        modulation_BD = silu(self.time(self.waves(time_B)) + self.prompt(mean_BD))
        # Patches to tokens, through all layers, and back.
        folded_BCHW = pixel_unshuffle(noisy_BCHW, self.patch)
        tokens_BND = self.into(folded_BCHW.flatten(2).transpose(1, 2)) + self.places
        for layer in self.layers:
            tokens_BND = layer(tokens_BND, modulation_BD)
        out_BCN = self.out(self.norm(tokens_BND)).transpose(1, 2)
        return pixel_shuffle(out_BCN.reshape(folded_BCHW.shape), self.patch)


class _Layer(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the modulation; gates start at zero.

    Before them a depthwise 3 x 3 convolution over neighboring tokens is added, which also starts at
    zero (conditional position encoding, Chu et al., 2021, arXiv 2102.10882).
    """

    attention_wrapper: Callable[[Attend, Tensor], Tensor]
    """Calls attention on rows of tokens; training.layers replaces it to join layers in a row."""

    def __init__(self, width: int, side: int) -> None:
        """Create a layer of `width` channels for side x side tokens."""
        super().__init__()
        self.attention_wrapper, self.side = attend_separately, side
        self.near = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.heads = max(1, width // HEAD_CHANNELS)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.setting = nn.Linear(width, 6 * width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        for parameter in (*self.setting.parameters(), *self.near.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, tokens_BND: Tensor, modulation_BD: Tensor) -> Tensor:
        modulation = self.setting(modulation_BD)[:, None].chunk(6, dim=-1)
        shift_a, scale_a, gate_a, shift_p, scale_p, gate_p = modulation
        tokens_BND = tokens_BND + self._mix_neighbors(tokens_BND)
        # Attention, then MLP, each on modulated normalized tokens.
        normal_BND = self.norm(tokens_BND) * (1 + scale_a) + shift_a
        tokens_BND = tokens_BND + gate_a * self.attention_wrapper(self._attend, normal_BND)
        normal_BND = self.norm(tokens_BND) * (1 + scale_p) + shift_p
        out_BND: Tensor = tokens_BND + gate_p * self.perceptron(normal_BND)
        return out_BND

    def _mix_neighbors(self, tokens_BND: Tensor) -> Tensor:
        """Convolve the tokens as an image of `side` columns."""
        batch, _, width = tokens_BND.shape
        mixed_BDhw: Tensor = self.near(tokens_BND.mT.reshape(batch, width, self.side, -1))
        return mixed_BDhw.flatten(2).mT

    def _attend(self, tokens_BND: Tensor) -> Tensor:
        batch, count, width = tokens_BND.shape
        split = self.queries_keys_values(tokens_BND).view(
            batch, count, 3, self.heads, width // self.heads
        )
        attended = scaled_dot_product_attention(*split.permute(2, 0, 3, 1, 4))
        joined: Tensor = self.joined(attended.transpose(1, 2).reshape(batch, count, width))
        return joined
