"""The flipped bit of damaged bytes whose hash is known, found by trying bits, likely ones first.

One trial costs the hash of all that follows, so that the order of trials decides: first a line that
cannot be as it was written, then texts by what is common in them, then all bits.
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from curation.exports.blocks import block_hashes, block_size
from curation.exports.parallel import in_parallel

STEP = 4_096
"""Distance in bytes of the places from which a hash is continued."""
BATCH = 256
"""Trials of a thread at once."""

GRAM = 4
"""Length of the sequences of bytes whose frequency tells what is likely in a text."""

_TEXT = re.compile(
    rb'"(?:caption|captioner|caption_source|licence|licence_text|source|round|foreground|background'
    rb'|blended)":"?((?:[^"\\]|\\.)*)'
)


@dataclass(frozen=True)
class Flip:
    """A flipped bit.

    Attributes:
        place: Number of the byte.
        bit: Number of the bit, 0 to 7.
        repaired: The bytes as they were.
    """

    place: int
    bit: int
    repaired: bytes

    def __str__(self) -> str:
        return f"bit {self.bit} of byte {self.place} is flipped"

    def lines(self) -> list[bytes]:
        """Return the line as it was, or both neighbors of a newline."""
        start = self.repaired.rfind(b"\n", 0, self.place) + 1
        end = self.repaired.find(b"\n", self.place)
        if end == self.place:
            end = self.repaired.find(b"\n", self.place + 1)
        return self.repaired[start : end if end >= 0 else None].split(b"\n")


def find_flip(
    data: bytes, sha256: str, likely: Iterable[tuple[int, int]] = (), workers: int = 2
) -> Flip | None:
    """Return the single bit that explains the hash of damaged bytes, or None.

    Args:
        data: The damaged bytes.
        sha256: The hash that they should have.
        likely: Bytes and bits to try before all others.
        workers: Number of threads.
    """
    wanted = bytes.fromhex(sha256)
    begun = [hashlib.sha256()]
    for start in range(0, len(data), STEP):
        begun.append(begun[-1].copy())
        begun[-1].update(data[start : start + STEP])
    view = memoryview(data)

    def attempt(trials: list[tuple[int, int]]) -> tuple[int, int] | None:
        for place, bit in trials:
            trial = begun[place // STEP].copy()
            trial.update(view[place // STEP * STEP : place])
            trial.update(bytes([data[place] ^ (1 << bit)]))
            trial.update(view[place + 1 :])
            if trial.digest() == wanted:
                return place, bit
        return None

    every = ((place, bit) for place in range(len(data)) for bit in range(8))
    found = in_parallel(attempt, _batches(chain(likely, every)), workers)
    place, bit = next((one for one in found if one), (-1, 0))
    if place < 0:
        return None
    flipped = bytes([data[place] ^ (1 << bit)])
    return Flip(place, bit, data[:place] + flipped + data[place + 1 :])


def line_trials(data: bytes, is_sound: Callable[[bytes], bool]) -> Iterator[tuple[int, int]]:
    """Yield trials for a text of lines: lines that are not sound with their ends, then texts.

    Args:
        data: The damaged text.
        is_sound: Function that tells of a line whether it can be as it was written.
    """
    place = 0
    for line in data.split(b"\n"):
        end = place + len(line)
        if line and not is_sound(line):
            yield from _bits(range(max(0, place - 1), min(len(data), end + 1)))
        place = end + 1
    yield from _text_trials(data)


def _text_trials(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the bits of texts, first those whose flip turns rare sequences into common ones."""
    counts: Counter[bytes] = Counter()
    spans = [match.span(1) for match in _TEXT.finditer(data)]
    for start, end in spans:
        for at in range(start - GRAM + 1, end):
            counts[data[at : at + GRAM]] += 1
    logs = {gram: math.log1p(count) for gram, count in counts.items()}
    # The sequences around a flipped bit are mostly found nowhere else.
    yield from _by_gain(data, spans, logs, are_rare=True)
    yield from _by_gain(data, spans, logs, are_rare=False)


def _by_gain(
    data: bytes, spans: Sequence[tuple[int, int]], logs: Mapping[bytes, float], *, are_rare: bool
) -> Iterator[tuple[int, int]]:
    """Yield the bits of rare or of other sequences by how common they become."""
    gains, places = array("f"), array("q")
    for start, end in spans:
        for place in range(start, end):
            around = data[place - GRAM + 1 : place + GRAM]
            present = sum(logs.get(around[at : at + GRAM], 0.0) for at in range(GRAM))
            if (present <= GRAM * math.log1p(2)) != are_rare:
                continue
            for bit in range(8):
                before = around[GRAM - 1] ^ (1 << bit)
                # The line is sound, so that no quote and no control character was in a text.
                if before < ord(" ") or before == ord('"'):
                    continue
                trial = around[: GRAM - 1] + bytes([before]) + around[GRAM:]
                former = sum(logs.get(trial[at : at + GRAM], 0.0) for at in range(GRAM))
                gains.append(former - present)
                places.append(place * 8 + bit)
    for number in np.argsort(-np.frombuffer(gains, np.float32), kind="stable") if gains else ():
        yield divmod(places[number], 8)


def _bits(places: Iterable[int]) -> Iterator[tuple[int, int]]:
    return ((place, bit) for place in places for bit in range(8))


def _batches(trials: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    trials = iter(trials)
    while batch := list(islice(trials, BATCH)):
        yield batch


def find_flip_in_blocks(data: bytes, sha256: str, blocks: str) -> Flip | None:
    """Return the single bit that explains the hash of damaged bytes, given hashes of blocks.

    Args:
        data: The damaged bytes.
        sha256: The hash that they should have.
        blocks: What `block_hashes` returned for the undamaged bytes.
    """
    size, stated = block_size(len(data)), block_hashes(data)
    wrong = [at for at in range(0, len(stated), 8) if stated[at : at + 8] != blocks[at : at + 8]]
    if len(wrong) != 1 or len(stated) != len(blocks):
        return None
    start = wrong[0] // 8 * size
    block = data[start : start + size]
    for place in range(len(block)):
        before = hashlib.sha256(block[:place])
        for bit in range(8):
            flipped = bytes([block[place] ^ (1 << bit)])
            trial = before.copy()
            trial.update(flipped + block[place + 1 :])
            if trial.hexdigest()[:8] == blocks[wrong[0] : wrong[0] + 8]:
                at = start + place
                repaired = data[:at] + flipped + data[at + 1 :]
                if hashlib.sha256(repaired).hexdigest() == sha256:
                    return Flip(at, bit, repaired)
    return None
