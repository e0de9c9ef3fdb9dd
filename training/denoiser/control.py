"""Control images in attention sharing: an encoder whose features are added in every attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CONTROL_CHANNELS = 256
"""Number of channels of the control features at every level."""

_FIRST = (
    (32, 1),
    (32, 1),
    (64, 2),
    (64, 1),
    (128, 2),
    (128, 1),
    (CONTROL_CHANNELS, 2),
    (CONTROL_CHANNELS, 1),
)
_FURTHER = ((CONTROL_CHANNELS, 2), (CONTROL_CHANNELS, 1))


class ConditionsEncoder(nn.Module):
    """Encodes a control image, B x 3 x H x W in [-1, 1], on four levels.

    Levels are B x 256 at H/8, H/16, H/32 and H/64. State-dict names are those of the released file
    (its public loader: AdditionalAttentionCondsEncoder).
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks_0 = _block(3, _FIRST)
        self.blocks_1, self.blocks_2, self.blocks_3 = (
            _block(CONTROL_CHANNELS, _FURTHER) for _ in range(3)
        )

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """Return the levels, largest first; sizes round up as in the UNet's downsamplers."""
        levels = [self.blocks_0(image_B3HW)]
        for block in (self.blocks_1, self.blocks_2, self.blocks_3):
            levels.append(block(levels[-1]))
        return levels


def control_projections(width: int, frames: int) -> nn.ModuleList:
    """Build the projections of control features to an attention's width, one per layer."""
    return nn.ModuleList(
        nn.Sequential(
            nn.Conv2d(CONTROL_CHANNELS, CONTROL_CHANNELS, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(CONTROL_CHANNELS, width, 1),
        )
        for _ in range(frames)
    )


def control_states(convolutions: nn.ModuleList, level_P256HW: Tensor) -> Tensor:
    """Project control features to attention states, (images * frames) x (h * w) x width.

    Layers of an image are consecutive.
    """
    level = level_P256HW.to(next(convolutions.parameters()))
    # P x F x D x h x w
    by_frame = torch.stack([convolution(level) for convolution in convolutions], dim=1)
    return by_frame.flatten(0, 1).flatten(2).transpose(1, 2)


def _block(channels: int, rows: Sequence[tuple[int, int]]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, stride in rows:
        layers += [nn.Conv2d(channels, width, 3, padding=1, stride=stride), nn.SiLU()]
        channels = width
    return nn.Sequential(*layers)
