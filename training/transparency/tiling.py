"""Images of any size: mirror padding to a multiple, and overlapping tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

OVERLAP = 256
"""Overlap of adjacent tiles in pixels; a tile drops a quarter of it at its inner edges.

The light encoder's receptive field is smaller, 31 pixels, so its tiles are exact.
"""


def mirror_pad(tensor_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Pad a tensor at the bottom and right to height x width by mirroring, repeatedly if needed.

    The edge is included in the mirroring, so that a latent and its image that are padded in
    proportion stay aligned. A tensor that already has the size is returned unchanged.
    """
    if tensor_BCHW.shape[-2:] == (height, width):
        return tensor_BCHW
    rows, columns = (
        _mirrored_indices(old, new)
        for old, new in zip(tensor_BCHW.shape[-2:], (height, width), strict=True)
    )
    return tensor_BCHW[..., rows.to(tensor_BCHW.device)[:, None], columns.to(tensor_BCHW.device)]


def _mirrored_indices(old: int, new: int) -> Tensor:
    """Return the source index of every output index."""
    phase = torch.arange(new) % (2 * old)
    return torch.minimum(phase, 2 * old - 1 - phase)


def round_up(length: int, unit: int) -> int:
    """Round a length up to a multiple of `unit`."""
    return -(-length // unit) * unit


def run_tiled(
    network: nn.Module,
    inputs: Sequence[Tensor],
    *,
    tile_size: int,
    unit: int,
    overlap: int = OVERLAP,
) -> Tensor:
    """Run a network on images, in tiles if they have more than tile_size x tile_size pixels.

    Adjacent tiles overlap by `overlap` pixels or more (at most half a tile): each drops a quarter
    at the inner edge, and over the rest they are cross-faded. The result is exact if no output
    depends on pixels beyond that quarter. Group normalization depends on all pixels: its statistics
    are computed on the whole image at reduced size (`_shared_statistics`) and shared by all tiles,
    so that there is no seam. test_tiling.py measures the remaining difference.

    Args:
        network: Returns a tensor, of any stride, or several of one stride, which are concatenated
            by channel.
        inputs: B x ? x H/s x W/s inputs of the same H x W, each with its own integer stride s,
            the largest with 1; H and W are multiples of `unit`.
        tile_size: The size of a tile in pixels; 0 turns tiling off.
        unit: Tiles begin at multiples of it, so that strided layers are aligned.
        overlap: The overlap in pixels.
    """
    height, width = (max(image.shape[axis] for image in inputs) for axis in (-2, -1))
    if not tile_size or height * width <= tile_size * tile_size:
        return _concatenate(network(*inputs))
    tile_size = max(unit, tile_size // unit * unit)
    # Accumulate the weighted outputs and the weights over all tiles, then divide.
    shared = min(overlap, tile_size // 2) // unit * unit
    blended_BCHW = total_HW = None
    with _shared_statistics(
        network, [_downscale(image, height, width, tile_size, unit) for image in inputs]
    ):
        for top, bottom in _tile_spans(height, tile_size, shared, unit):
            for left, right in _tile_spans(width, tile_size, shared, unit):
                box = (top, bottom, left, right)
                part_BCHW = _concatenate(
                    network(
                        *(_tile_view(image, box, height // image.shape[-2]) for image in inputs)
                    )
                )
                # The network's output may have another stride than its inputs.
                stride = (bottom - top) // part_BCHW.shape[-2]
                axis_weights = (
                    _tile_weights(top, bottom, height, stride, shared),
                    _tile_weights(left, right, width, stride, shared),
                )
                weight_HW = torch.outer(*axis_weights).to(part_BCHW)
                if blended_BCHW is None or total_HW is None:
                    blended_BCHW = part_BCHW.new_zeros(
                        *part_BCHW.shape[:2], height // stride, width // stride
                    )
                    total_HW = blended_BCHW.new_zeros(blended_BCHW.shape[-2:])
                _tile_view(blended_BCHW, box, stride).add_(part_BCHW * weight_HW)
                _tile_view(total_HW, box, stride).add_(weight_HW)
    assert blended_BCHW is not None and total_HW is not None  # noqa: S101, PT018 - narrows the type
    return blended_BCHW / total_HW


@contextmanager
def _shared_statistics(network: nn.Module, small: Sequence[Tensor]) -> Iterator[None]:
    """Give every group normalization the statistics of the whole image at reduced size.

    Tiles normalized separately would differ in brightness: measured on a trained decoder, by 0.2 to
    0.6 of the range at worst, whereas with common statistics neighbors agree within 0.01.
    """
    statistics: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def normalize(norm: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        groups = inputs[0].float().reshape(len(inputs[0]), norm.num_groups, -1)
        # The first pass records the statistics, later ones apply them.
        if norm not in statistics:
            statistics[norm] = (
                groups.mean(2, keepdim=True),
                groups.var(2, keepdim=True, unbiased=False),
            )
            return output
        mean, variance = statistics[norm]
        shape = (1, -1, *[1] * (output.dim() - 2))
        normalized = ((groups - mean) * (variance + norm.eps).rsqrt()).view(output.shape)
        shared: Tensor = normalized * norm.weight.view(shape) + norm.bias.view(shape)
        return shared.to(output)

    # Hooks on all normalizations; one pass over the small image fills the statistics.
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    hooks = [norm.register_forward_hook(normalize) for norm in norms]
    try:
        if norms:
            network(*small)
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _downscale(image_BCHW: Tensor, height: int, width: int, side: int, unit: int) -> Tensor:
    """Downscale the whole image to about the pixels of a tile, keeping multiples of `unit`."""
    stride = height // image_BCHW.shape[-2]
    ratio = side / (height * width) ** 0.5
    size = [max(unit, int(length * ratio) // unit * unit) // stride for length in (height, width)]
    return interpolate(image_BCHW, size, mode="nearest-exact")


def _concatenate(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Concatenate outputs by channel."""
    return torch.cat(output, dim=1) if isinstance(output, tuple) else output


def _tile_spans(length: int, side: int, shared: int, unit: int) -> list[tuple[int, int]]:
    """Return evenly spaced spans of `side` over `length`, at multiples of `unit`.

    Adjacent spans overlap by `shared` or more.
    """
    if length <= side:
        return [(0, length)]
    gaps = -(-(length - side) // (side - shared))
    starts = [gap * (length - side) // unit // gaps * unit for gap in range(gaps + 1)]
    return [(start, start + side) for start in starts]


def _tile_view(tensor: Tensor, box: tuple[int, int, int, int], stride: int) -> Tensor:
    """Return the view of a tile of a tensor with the given stride."""
    top, bottom, left, right = (edge // stride for edge in box)
    return tensor[..., top:bottom, left:right]


def _tile_weights(start: int, stop: int, length: int, stride: int, shared: int) -> Tensor:
    """Return a tile's weight at every output pixel along one axis.

    It is 1, and fades to 0 at a quarter of `shared` before the tile's inner ends.
    """
    position = torch.arange(start // stride, stop // stride) * stride + stride / 2
    # Only inner ends fade; the image border keeps its full weight.
    distance = torch.full_like(position, float("inf"))
    if start > 0:
        distance = torch.minimum(distance, position - start)
    if stop < length:
        distance = torch.minimum(distance, stop - position)
    return ((distance - shared / 4) / max(shared / 2, stride)).clamp(0, 1)
