"""Images of any size: mirror padding to a multiple, and overlapping tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

OVERLAP = 256
"""What neighbouring tiles share, in pixels. At its inner edge, beyond which it saw nothing, a tile drops a quarter.

That is more than the light encoder's output can see, 31 pixels, and its tiles are therefore exact.
"""


def mirror_to(tensor_BCHW: Tensor, height: int, width: int) -> Tensor:
    """The tensor grown at its bottom and right to height x width by mirroring, edge included, as often as it takes.

    A latent and its image grown in the same proportion stay aligned. What fits already is returned as it is.
    """
    if tensor_BCHW.shape[-2:] == (height, width):
        return tensor_BCHW
    rows, columns = (
        _mirrored(old, new)
        for old, new in zip(tensor_BCHW.shape[-2:], (height, width), strict=True)
    )
    return tensor_BCHW[..., rows.to(tensor_BCHW.device)[:, None], columns.to(tensor_BCHW.device)]


def _mirrored(old: int, new: int) -> Tensor:
    place = torch.arange(new) % (2 * old)
    return torch.minimum(place, 2 * old - 1 - place)


def whole(length: int, unit: int) -> int:
    """The least multiple of `unit` that holds `length`."""
    return -(-length // unit) * unit


def in_tiles(
    network: nn.Module, pictures: Sequence[Tensor], *, side: int, unit: int, overlap: int = OVERLAP
) -> Tensor:
    """What `network` gives of `pictures`, a tile at a time where they have more pixels than a square of `side`.

    pictures: B x ? x H/s x W/s of the same H x W, each with a whole stride s of its own, the largest with 1; H and W
    are multiples of `unit`, and tiles begin at such multiples, so that strided layers fall on the same pixels. The
    network gives a tensor, of a stride of its own, or several of one stride, which are joined by their channels. With
    `side` 0 there are no tiles.

    Neighbours share `overlap` pixels or more (at most half a tile): a quarter at either end is dropped by the tile
    that ends there, and over the rest they fade into each other. Exact where an output looks no further than that
    quarter. Group normalisation looks at everything: its statistics are those of the whole picture made small
    (`_whole_statistics`), the same in every tile, so that there is no seam. test_tiles.py states what is left.
    """
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (-2, -1))
    if not side or height * width <= side * side:
        return _joined(network(*pictures))
    side = max(unit, side // unit * unit)
    shared = min(overlap, side // 2) // unit * unit
    blended_BCHW = total_HW = None
    with _whole_statistics(
        network, [_shrunk(picture, height, width, side, unit) for picture in pictures]
    ):
        for top, bottom in _cuts(height, side, shared, unit):
            for left, right in _cuts(width, side, shared, unit):
                box = (top, bottom, left, right)
                part_BCHW = _joined(
                    network(*(_cut(one, box, height // one.shape[-2]) for one in pictures))
                )
                stride = (bottom - top) // part_BCHW.shape[-2]
                fades = (
                    _fade(top, bottom, height, stride, shared),
                    _fade(left, right, width, stride, shared),
                )
                weight_HW = torch.outer(*fades).to(part_BCHW)
                if blended_BCHW is None or total_HW is None:
                    blended_BCHW = part_BCHW.new_zeros(
                        *part_BCHW.shape[:2], height // stride, width // stride
                    )
                    total_HW = blended_BCHW.new_zeros(blended_BCHW.shape[-2:])
                _cut(blended_BCHW, box, stride).add_(part_BCHW * weight_HW)
                _cut(total_HW, box, stride).add_(weight_HW)
    assert blended_BCHW is not None and total_HW is not None  # noqa: S101, PT018 - narrows; there is always a tile
    return blended_BCHW / total_HW


@contextmanager
def _whole_statistics(network: nn.Module, small: Sequence[Tensor]) -> Iterator[None]:
    """Inside, every group normalisation has the mean and deviation that it has on the whole picture made small.

    Tiles that each normalised by themselves would differ in brightness: measured on a trained decoder, by 0.2 to 0.6
    of the range at worst, where with common statistics neighbours agree within 0.01.
    """
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def normalise(norm: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        groups = inputs[0].float().reshape(len(inputs[0]), norm.num_groups, -1)
        if norm not in found:
            found[norm] = groups.mean(2, keepdim=True), groups.var(2, keepdim=True, unbiased=False)
            return output
        mean, variance = found[norm]
        shape = (1, -1, *[1] * (output.dim() - 2))
        normal = ((groups - mean) * (variance + norm.eps).rsqrt()).view(output.shape)
        shared: Tensor = normal * norm.weight.view(shape) + norm.bias.view(shape)
        return shared.to(output)

    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    hooks = [norm.register_forward_hook(normalise) for norm in norms]
    try:
        if norms:
            network(*small)
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _shrunk(picture_BCHW: Tensor, height: int, width: int, side: int, unit: int) -> Tensor:
    """The whole picture in about as many pixels as a tile has, height and width still multiples of `unit`."""
    stride = height // picture_BCHW.shape[-2]
    ratio = side / (height * width) ** 0.5
    size = [max(unit, int(length * ratio) // unit * unit) // stride for length in (height, width)]
    return interpolate(picture_BCHW, size, mode="nearest-exact")


def _joined(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return torch.cat(output, dim=1) if isinstance(output, tuple) else output


def _cuts(length: int, side: int, shared: int, unit: int) -> list[tuple[int, int]]:
    """Spans of `side` over `length`, evenly spaced, neighbours sharing `shared` or more, all multiples of `unit`."""
    if length <= side:
        return [(0, length)]
    gaps = -(-(length - side) // (side - shared))
    starts = [gap * (length - side) // unit // gaps * unit for gap in range(gaps + 1)]
    return [(start, start + side) for start in starts]


def _cut(tensor: Tensor, box: tuple[int, int, int, int], stride: int) -> Tensor:
    top, bottom, left, right = (edge // stride for edge in box)
    return tensor[..., top:bottom, left:right]


def _fade(start: int, stop: int, length: int, stride: int, shared: int) -> Tensor:
    """A tile's weight along one axis, at every output pixel: 1, fading to 0 a quarter of `shared` before its ends."""
    place = torch.arange(start // stride, stop // stride) * stride + stride / 2
    depth = torch.full_like(place, float("inf"))
    if start > 0:
        depth = torch.minimum(depth, place - start)
    if stop < length:
        depth = torch.minimum(depth, stop - place)
    return ((depth - shared / 4) / max(shared / 2, stride)).clamp(0, 1)
