"""Perceptual fingerprints of layers for near-duplicate detection, including alpha.

A fingerprint has 192 bits, three 64-bit DCT hashes (of the layer on white, on black, and of its
alpha), and an 8 x 8 table of colors and alpha. A DCT hash sees shapes but not colors; without the
table a red and a green apple would be equal. Measured on 1,395 real layers of the seed set: copies
scaled to 96 % and 50 %, as lossy WebP of quality 75, and 5 % brighter are found in 99.5 to 100 % of
cases; 3 files (0.2 %) are near duplicates of another file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.images.layer_masks import downscale
from curation.ports import RGBA

BANDS = 12
HASH_BYTES = 24
TONE_SIDE = 8
FINGERPRINT_BYTES = HASH_BYTES + TONE_SIDE * TONE_SIDE * 4

MAX_BITS = BANDS - 1
MAX_TONE_MEAN = 1.0
MAX_TONE = 6
"""Limits of near duplicates: differing bits of 192, mean and maximum difference of tones."""


def fingerprint(rgba: RGBA) -> bytes:
    """Compute the 280-byte fingerprint of a layer.

    Args:
        rgba: H x W x 4 uint8, straight alpha.

    Returns:
        24 bytes of hash bits, then 8 x 8 tones (L*, a*, b* on gray, and alpha).
    """
    # Premultiplied, so that colors under alpha 0 have no effect.
    small = downscale(rgba, 256).astype(np.float32)
    alpha = small[..., 3:]
    premultiplied = np.concatenate([small[..., :3] * (alpha / 255), alpha], axis=2)
    square = np.asarray(
        cv2.resize(premultiplied, (32, 32), interpolation=cv2.INTER_AREA), np.float32
    )

    # Luminance on black; adding the complement of alpha gives luminance on white.
    luminance = square[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    transparency = 255 - square[..., 3]
    bits = np.concatenate(
        [_dct_bits(plane) for plane in (luminance + transparency, luminance, square[..., 3])]
    )
    return np.packbits(bits).tobytes() + _tones(square).tobytes()


def index_keys(fingerprint: bytes) -> list[int]:
    """Return twelve 16-bit values of a fingerprint, the keys of its row in the index."""
    # Each value interleaves bits of all three hashes, so that none depends on alpha alone.
    interleaved = (
        np.unpackbits(np.frombuffer(fingerprint[:HASH_BYTES], np.uint8))
        .reshape(3, 64)
        .T.reshape(BANDS, 16)
    )
    return [int(value) for value in interleaved @ (1 << np.arange(15, -1, -1))]


def are_near_duplicates(first: bytes, second: bytes) -> bool:
    """Return whether two fingerprints are of near-duplicate images."""
    return find_nearest(first, {"": second}) is not None


def find_nearest(fingerprint: bytes, others: Mapping[str, bytes]) -> tuple[str, int] | None:
    """Find the nearest near duplicate of a layer.

    Args:
        fingerprint: The fingerprint of the layer.
        others: The fingerprints of other layers by name.

    Returns:
        The name and the number of differing bits; None if there is no near duplicate.
    """
    if not others:
        return None
    table = np.frombuffer(b"".join([fingerprint, *others.values()]), np.uint8).reshape(
        -1, FINGERPRINT_BYTES
    )
    bits = count_bits(fingerprint[:HASH_BYTES], [other[:HASH_BYTES] for other in others.values()])
    # A near duplicate is near in bits and in tones; the one with the fewest differing bits counts.
    tones = np.abs(table[1:, HASH_BYTES:].astype(np.int16) - table[0, HASH_BYTES:].astype(np.int16))
    is_near = (
        (bits <= MAX_BITS) & (tones.mean(axis=1) <= MAX_TONE_MEAN) & (tones.max(axis=1) <= MAX_TONE)
    )
    if not is_near.any():
        return None
    best = int(np.argmin(np.where(is_near, bits, 999)))
    return list(others)[best], int(bits[best])


def count_bits(hash_bits: bytes, others: Sequence[bytes]) -> NDArray[np.int32]:
    """Count the bits in which a 24-byte hash differs from each of some others.

    Args:
        hash_bits: A hash, the first 24 bytes of a fingerprint.
        others: N other hashes.

    Returns:
        N counts, 0 to 192.
    """
    table = np.frombuffer(b"".join([hash_bits, *others]), np.uint8).reshape(-1, HASH_BYTES)
    differing: NDArray[np.int32] = np.bitwise_count(table[1:] ^ table[0]).sum(
        axis=1, dtype=np.int32
    )
    return differing


def _dct_bits(plane: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return 64 bits of a 32 x 32 plane: the low frequencies above a twentieth of their RMS.

    The usual threshold, the median, is 0 for symmetric shapes and turns rounding noise into bits:
    at 96 % scale, 1 % of seed images then lost 26 bits or more, with this threshold 3 (measured).
    """
    low = cv2.dct(np.ascontiguousarray(plane))[:8, :8].ravel()
    low[0] = 0
    bits: NDArray[np.bool_] = low > 0.05 * np.sqrt(np.mean(low**2)) + 1e-3
    return bits


def _tones(square: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return 8 x 8 x 4 tones: L*a*b* of the layer on gray, and alpha in 0..100."""
    cells = cv2.resize(square, (TONE_SIDE, TONE_SIDE), interpolation=cv2.INTER_AREA)
    alpha = cells[..., 3:]
    on_gray = (cells[..., :3] + (255 - alpha) * 0.5) / 255
    lab = cv2.cvtColor(np.clip(on_gray, 0, 1), cv2.COLOR_RGB2Lab) + np.array(
        [0, 128, 128], np.float32
    )
    return np.clip(np.rint(np.dstack([lab, alpha / 2.55])), 0, 255).astype(np.uint8)
