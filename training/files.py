"""Weight files of others, opened safely: only safetensors, header first, tensors one by one, and no NaN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from curation.errors import NotFound, Refused

_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip or a pickled torch file", "pickles run code when they are read, so none is: convert it"),
    (b"\x80", "a pickle", "pickles run code when they are read, so none is: convert it"),
    (b"GGUF", "a GGUF file", "download the safetensors file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run 'git lfs pull', or download it"),
    (b"<", "a web page", "the download went wrong: fetch the file itself"),
    (b"\x89PNG", "a picture", "give the weights"),
)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says before any tensor is read."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    @property
    def parameters(self) -> int:
        """How many numbers the file holds."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())


def read_header(path: Path) -> Header:
    """Names and shapes of a file's tensors; nothing else is read. Raises NotFound; Refused for another kind of file."""
    with _open(path) as file:
        shapes = {name: tuple(int(size) for size in file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        metadata = {str(name): str(value) for name, value in (file.metadata() or {}).items()}
    if not shapes:
        raise Refused(f"{path} holds no tensors")
    return Header(path, shapes, metadata)


def read_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors as the file has them, whatever their type. Raises NotFound; Refused where one is NaN or infinite."""
    tensors: dict[str, Tensor] = {}
    with _open(path) as file:
        for name in names:
            tensor: Tensor = file.get_tensor(name)
            if not tensor.is_floating_point() or tensor.element_size() < 2:  # fp8 knows no arithmetic
                raise Refused(f"{path}: {name!r} is of type {tensor.dtype}", "quantised files are not read")
            if not torch.isfinite(tensor).all():
                raise Refused(
                    f"{path}: {name!r} is not finite (NaN or infinity)", "the file is broken; download it again"
                )
            tensors[name] = tensor
    return tensors


def read_number(path: Path, name: str) -> float:
    """A tensor that is one number, whole or not, such as a LoRA's alpha. Raises NotFound; Refused for any other."""
    with _open(path) as file:
        tensor: Tensor = file.get_tensor(name)
    if tensor.numel() != 1 or not torch.isfinite(tensor).all():
        raise Refused(f"{path}: {name!r} is not one finite number", "the file is broken; download it again")
    return float(tensor)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The reader of safetensors itself, which checks the header's length (at most 100 MB) and every offset."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(32)
    try:
        with safe_open(path, framework="pt") as opened:
            yield opened
    except SafetensorError as error:
        for magic, what, hint in _FOREIGN:
            if start.startswith(magic) and start[8:9] != b"{":  # a header begins there, whatever its length's bytes are
                raise Refused(f"{path} is {what}, not safetensors", hint) from error
        hint = "the download was cut short, or it is another kind of file"
        raise Refused(f"{path} is no whole safetensors file: {error}", hint) from error
