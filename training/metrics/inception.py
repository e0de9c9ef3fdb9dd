"""The Inception network of the Frechet inception distance (FID), and the distance of two sets.

Other libraries get the network from torchvision or from a pickled download. Here the user provides
the weights as safetensors: the state dict of pytorch-fid's pt_inception-2015-12-05, which are
TensorFlow's weights of 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from curation.errors import Refused
from training.external_weights import read_header, read_tensors

INPUT_SIZE, FEATURES = 299, 2048

STEM = (
    "Conv2d_1a_3x3:32:3x3/2 Conv2d_2a_3x3:32:3x3/1v Conv2d_2b_3x3:64:3x3 max/2 "
    "Conv2d_3b_1x1:80:1x1 Conv2d_4a_3x3:192:3x3/1v max/2"
)
"""Steps from left to right: name:width:kernel, with "/2" for stride 2 and "/1v" for stride 1, both
without padding. "avg" and "max" pool 3 x 3; "a|b" concatenates two steps on the same input.
"""


def _small(pool: int) -> tuple[str, ...]:
    return (
        "branch1x1:64:1x1",
        "branch5x5_1:48:1x1 branch5x5_2:64:5x5",
        "branch3x3dbl_1:64:1x1 branch3x3dbl_2:96:3x3 branch3x3dbl_3:96:3x3",
        f"avg branch_pool:{pool}:1x1",
    )


def _long(width: int) -> tuple[str, ...]:
    single = f"branch7x7_1:{width}:1x1 branch7x7_2:{width}:1x7 branch7x7_3:192:7x1"
    double = f"branch7x7dbl_1:{width}:1x1 branch7x7dbl_2:{width}:7x1 branch7x7dbl_3:{width}:1x7"
    return (
        "branch1x1:192:1x1",
        single,
        f"{double} branch7x7dbl_4:{width}:7x1 branch7x7dbl_5:192:1x7",
        "avg branch_pool:192:1x1",
    )


def _wide(pool: str) -> tuple[str, ...]:
    return (
        "branch1x1:320:1x1",
        "branch3x3_1:384:1x1 branch3x3_2a:384:1x3|branch3x3_2b:384:3x1",
        (
            "branch3x3dbl_1:448:1x1 branch3x3dbl_2:384:3x3 "
            "branch3x3dbl_3a:384:1x3|branch3x3dbl_3b:384:3x1"
        ),
        f"{pool} branch_pool:192:1x1",
    )


BLOCKS: dict[str, tuple[str, ...]] = {
    "Mixed_5b": _small(32),
    "Mixed_5c": _small(64),
    "Mixed_5d": _small(64),
    "Mixed_6a": (
        "branch3x3:384:3x3/2",
        "branch3x3dbl_1:64:1x1 branch3x3dbl_2:96:3x3 branch3x3dbl_3:96:3x3/2",
        "max/2",
    ),
    "Mixed_6b": _long(128),
    "Mixed_6c": _long(160),
    "Mixed_6d": _long(160),
    "Mixed_6e": _long(192),
    "Mixed_7a": (
        "branch3x3_1:192:1x1 branch3x3_2:320:3x3/2",
        "branch7x7x3_1:192:1x1 branch7x7x3_2:192:1x7 branch7x7x3_3:192:7x1 branch7x7x3_4:192:3x3/2",
        "max/2",
    ),
    "Mixed_7b": _wide("avg"),
    "Mixed_7c": _wide("max"),  # the 2015 network pools by max here, and FID depends on it
}
"""Szegedy et al. (2015), figures 5 to 7: the branches of each block, which are concatenated."""


class _Convolution(nn.Module):
    def __init__(self, channels: int, width: int, kernel: str, stride_code: str) -> None:
        super().__init__()
        rows, columns = (int(size) for size in kernel.split("x"))
        padding = (0, 0) if stride_code else (rows // 2, columns // 2)
        stride = 2 if stride_code == "2" else 1
        self.conv = nn.Conv2d(
            channels, width, (rows, columns), stride=stride, padding=padding, bias=False
        )
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, feature: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(feature)))


class _Block(nn.Module):
    """Concatenated branches of steps: `channels` are those of the input, `width` of the output."""

    def __init__(self, channels: int, branches: Sequence[str]) -> None:
        super().__init__()
        self.branches = [branch.split() for branch in branches]
        self.width = 0
        # Add the convolutions of each branch, and sum the channels of the branches' outputs.
        for branch in self.branches:
            branch_width = channels
            for step in branch:
                if ":" in step:
                    branch_width = sum(
                        self._add(branch_width, *part.split(":")) for part in step.split("|")
                    )
            self.width += branch_width

    def _add(self, channels: int, name: str, width: str, shape: str) -> int:
        kernel, _, stride_code = shape.partition("/")
        self.add_module(name, _Convolution(channels, int(width), kernel, stride_code))
        return int(width)

    def forward(self, feature: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            output = feature
            for step in branch:
                output = self._step(step, output)
            outputs.append(output)
        return torch.cat(outputs, dim=1)

    def _step(self, step: str, feature: Tensor) -> Tensor:
        match step:
            case "avg":  # without padding in the mean, as in TensorFlow
                return avg_pool2d(feature, 3, stride=1, padding=1, count_include_pad=False)
            case "max":
                return max_pool2d(feature, 3, stride=1, padding=1)
            case "max/2":
                return max_pool2d(feature, 3, stride=2)
        return torch.cat(
            [self.get_submodule(part.split(":")[0])(feature) for part in step.split("|")], dim=1
        )


class Inception(_Block):
    """The network up to its last pooling, with the names of the state dict."""

    def __init__(self) -> None:
        super().__init__(3, (STEM,))
        channels = 192
        for name, branches in BLOCKS.items():
            block = _Block(channels, branches)
            self.add_module(name, block)
            channels = block.width

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Compute features of images in [0, 1] of any size, B x 2048.

        Images are resized to 299 x 299 as in clean-fid (Parmar et al., 2022), bicubic with
        antialiasing, and normalized to (v - 128) / 128 for v in 0..255.
        """
        resized = interpolate(
            image_B3HW * 255,
            (INPUT_SIZE, INPUT_SIZE),
            mode="bicubic",
            antialias=True,
            align_corners=False,
        )
        feature = super().forward((resized.clamp(0, 255) - 128) / 128)
        for name in BLOCKS:
            feature = self.get_submodule(name)(feature)
        return feature.mean((2, 3))


def load_inception(path: Path) -> Inception:
    """Load the network from a safetensors file, frozen. Raises NotFound, Refused."""
    shapes = read_header(path).shapes
    with torch.device("meta"):
        network = Inception()
    # Compare names and shapes before reading any tensor.
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if "num_batches" not in name
    }
    missing = sorted(name for name, shape in expected.items() if shapes.get(name) != shape)
    if missing:
        hint = "convert it as described in docs/guides/training.md, 'Metrics of a checkpoint'"
        raise Refused(f"{path} is not the 2015 Inception network: it lacks {missing[0]!r}", hint)
    network.load_state_dict(read_tensors(path, expected), strict=False, assign=True)
    for name, count in network.named_buffers():
        if count.is_meta:  # BatchNorm's counter of training batches is not used here
            network.get_submodule(name.rpartition(".")[0]).register_buffer(
                name.rpartition(".")[2], torch.zeros(())
            )
    return network.float().eval().requires_grad_(False)


def frechet_distance(truth_ND: Tensor, reconstructed_ND: Tensor) -> float:
    """Compute the Frechet distance of Gaussians fitted to two sets of features.

    Heusel et al. (2017): |m - m'|^2 + tr S + tr S' - 2 tr (S S')^(1/2). With S = X^T X the last
    trace is the sum of the singular values of X X'^T, which for the size of a held-out split is
    about sixty times faster than the eigenvalues of S S' in torchmetrics. With fewer images than
    features the distance depends on the number of images.

    Args:
        truth_ND: Features of the first set, of two or more images.
        reconstructed_ND: Features of the second set.
    """
    sets = [features_ND.cpu().double() for features_ND in (truth_ND, reconstructed_ND)]
    means = [features_ND.mean(0) for features_ND in sets]
    truth, generated = (
        _covariance_root(features - mean) for features, mean in zip(sets, means, strict=True)
    )
    joint = torch.linalg.svdvals(truth @ generated.T).sum()
    return max(
        0.0,
        float(
            (means[0] - means[1]).square().sum()
            + truth.square().sum()
            + generated.square().sum()
            - 2 * joint
        ),
    )


def _covariance_root(centered_ND: Tensor) -> Tensor:
    """Return X with X^T X the covariance, with as few rows as possible."""
    count, features = centered_ND.shape
    rows = torch.linalg.qr(centered_ND, mode="r").R if count > features else centered_ND
    return rows / math.sqrt(count - 1)
