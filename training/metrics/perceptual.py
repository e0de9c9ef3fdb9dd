"""LPIPS (Zhang et al., 2018): a perceptual distance by features of AlexNet or VGG.

Other libraries (lpips, piq, torchmetrics) use torchvision and pickled weights. Here the user
provides the weights as safetensors: the state dict of `lpips.LPIPS(net="alex")`, which the
benchmark uses, or "vgg".
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from curation.errors import Refused
from training.external_weights import read_header, read_tensors

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation for images in [-1, 1], version 0.1."""

Convolution = tuple[int, int, int, int]  # width, kernel, stride, padding

BACKBONES: dict[str, tuple[tuple[int, tuple[Convolution, ...]], ...]] = {
    "alex": (
        (0, ((64, 11, 4, 2),)),
        (3, ((192, 5, 1, 2),)),
        (3, ((384, 3, 1, 1),)),
        (0, ((256, 3, 1, 1),)),
        (0, ((256, 3, 1, 1),)),
    ),
    "vgg": (
        (0, ((64, 3, 1, 1),) * 2),
        (2, ((128, 3, 1, 1),) * 2),
        (2, ((256, 3, 1, 1),) * 3),
        (2, ((512, 3, 1, 1),) * 3),
        (2, ((512, 3, 1, 1),) * 3),
    ),
}
"""Five slices: the max pooling before each (0 for none), then its convolutions with ReLU."""


class LPIPS(nn.Module):
    """LPIPS on one of BACKBONES, with the names of its state dict; initial weights are random."""

    def __init__(self, network: str = "alex") -> None:
        super().__init__()
        self.net, channels, first = nn.Module(), 3, 0
        for index, (pool, convolutions) in enumerate(BACKBONES[network]):
            layers: list[nn.Module] = [nn.MaxPool2d(pool, 2)] if pool else []
            for width, kernel, stride, padding in convolutions:
                layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()]
                channels = width
            # Layers are numbered through the whole network, as in the state dict.
            named_layers = {str(first + offset): layer for offset, layer in enumerate(layers)}
            first += len(layers)
            self.net.add_module(f"slice{index + 1}", nn.Sequential())
            for name, layer in named_layers.items():
                self.net.get_submodule(f"slice{index + 1}").add_module(name, layer)
            # A weighted sum of channels is the slice's distance.
            head = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{index}", nn.ModuleDict({"model": head}))

    def forward(self, x_B3HW: Tensor, y_B3HW: Tensor) -> Tensor:
        """Compute the distance of images in [0, 1] of at least 32 x 32 pixels, shape B; 0 if equal.

        The sum over slices of the mean over pixels of w . (f / |f| - g / |g|)^2 (Zhang et al.,
        2018, equation 1).
        """
        shift_131, scale_131 = (
            x_B3HW.new_tensor(values).view(3, 1, 1) for values in (SHIFT, SCALE)
        )
        feature = (torch.cat([x_B3HW, y_B3HW]) * 2 - 1 - shift_131) / scale_131
        distance_B = x_B3HW.new_zeros(len(x_B3HW))
        # Both images go through the network as one batch.
        for index in range(5):
            feature = self.net.get_submodule(f"slice{index + 1}")(feature)
            unit = feature / (feature.square().sum(1, keepdim=True).sqrt() + 1e-10)
            first, second = unit.chunk(2)
            head = self.get_submodule(f"lin{index}.model")
            distance_B = distance_B + head((first - second) ** 2).mean((1, 2, 3))
        return distance_B


def load_lpips(path: Path) -> LPIPS:
    """Load LPIPS from a safetensors file, frozen. Raises NotFound, Refused."""
    shapes = read_header(path).shapes
    # The backbone follows from the size of its first kernel.
    backbone = {11: "alex", 3: "vgg"}.get(shapes.get("net.slice1.0.weight", (0,))[-1])
    hint = "convert it as described in docs/guides/training.md, 'Metrics of a checkpoint'"
    if backbone is None:
        raise Refused(f"{path} is not LPIPS on AlexNet or VGG", hint)
    with torch.device("meta"):
        network = LPIPS(backbone)
    expected = network.state_dict()
    missing = sorted(
        name for name, tensor in expected.items() if shapes.get(name) != tuple(tensor.shape)
    )
    if missing:
        raise Refused(f"{path} lacks tensors of LPIPS on {backbone}, such as {missing[0]!r}", hint)
    network.load_state_dict(read_tensors(path, expected), assign=True)
    return network.float().eval().requires_grad_(False)
