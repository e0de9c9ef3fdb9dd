"""Safe reading of weight files of other programs: safetensors only, header first, no NaN."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from curation.errors import NotFound, Refused

_CONVERT = (
    "pickles can run code when they are loaded and are never read; convert it if you trust it: "
    'python -c "import torch, safetensors.torch as s; '
    "s.save_file(torch.load('IN', weights_only=True), 'OUT.safetensors')\""
)
_OTHER_FORMATS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip or a pickled torch file", _CONVERT),
    (b"\x80", "a pickle", _CONVERT),
    (b"GGUF", "a GGUF file", "its weights are quantized; download the safetensors file"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "run 'git lfs pull', or download it",
    ),
    (b"<", "a web page", "the download failed: fetch the file itself"),
    (b"\x89PNG", "an image", "give the file of weights"),
    (
        b"{",
        "a JSON file",
        "give the safetensors file beside it, or the *.safetensors.index.json of a sharded file",
    ),
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_INDEX = ".safetensors.index.json"
_MAX_INDEX_BYTES = 64 << 20


@dataclass(frozen=True)
class WeightsHeader:
    """The header of a safetensors file, or the joint headers of its shards."""

    path: Path  # as given by the caller
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    files: tuple[Path, ...] = ()  # the files that hold the tensors; `path` if empty
    prefix: str = ""  # stripped from the names in the file to get the names in `shapes`

    @property
    def parameters(self) -> int:
        """The number of parameters in the file."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def within(self, prefix: str) -> Self:
        """Return the tensors whose names begin with `prefix`, named without it."""
        shapes = {
            name.removeprefix(prefix): shape
            for name, shape in self.shapes.items()
            if name.startswith(prefix)
        }
        return replace(self, shapes=shapes, prefix=self.prefix + prefix)


def read_header(path: Path) -> WeightsHeader:
    """Read the names and shapes of a file's tensors, and nothing else.

    Args:
        path: A safetensors file, one of several shards, or the index of the shards.

    Raises:
        NotFound: A file does not exist.
        Refused: The file is of another kind, or its shards do not belong together.
    """
    files, indexed = _shards(path)
    shapes: dict[str, tuple[int, ...]] = {}
    metadata: dict[str, str] = {}
    # Collect the shapes of all shards, which must not overlap.
    for shard in files:
        with _open(shard) as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if name in shapes:
                    raise Refused(
                        f"{shard} repeats the tensor {name!r} of another shard",
                        "the shards belong to two different files",
                    )
                shapes[name] = tuple(int(size) for size in file.get_slice(name).get_shape())
            metadata |= {str(name): str(value) for name, value in (file.metadata() or {}).items()}
    if not shapes:
        raise Refused(f"{path} holds no tensors", "the file is empty; download it again")
    # An index promises every tensor; one that no shard has means a missing or wrong shard.
    if missing := sorted(indexed - shapes.keys()):
        absent = f"{len(missing)} tensors of its index are in none of its shards"
        raise Refused(f"{path}: {absent}, such as {missing[0]!r}", "download all shards again")
    return WeightsHeader(path, shapes, metadata, files)


def read_tensors(source: Path | WeightsHeader, names: Iterable[str]) -> dict[str, Tensor]:
    """Read tensors in the dtypes of the file.

    Args:
        source: A file, or a header of `read_header`, which may be of several shards.
        names: The tensors to read, named as in the header's `shapes`.

    Raises:
        NotFound: A file does not exist.
        Refused: A tensor is quantized or has NaN or infinite values.
    """
    header = (
        source
        if isinstance(source, WeightsHeader)
        else WeightsHeader(source, {}, {}, _shards(source)[0])
    )
    tensors: dict[str, Tensor] = {}
    requested = list(names)
    for path in header.files or (header.path,):
        with _open(path) as file:
            available = set(file.keys())
            for name in requested:
                if (key := header.prefix + name) in available or len(header.files) < 2:
                    tensors[name] = _check_tensor(path, key, file.get_tensor(key))
    return {name: tensors[name] for name in requested}


def read_number(source: Path | WeightsHeader, name: str) -> float:
    """Read a tensor with a single number, such as a LoRA's alpha.

    Raises:
        NotFound: The file or the tensor does not exist.
        Refused: The tensor is not one finite number.
    """
    header = (
        source
        if isinstance(source, WeightsHeader)
        else WeightsHeader(source, {}, {}, _shards(source)[0])
    )
    key = header.prefix + name
    for path in header.files or (header.path,):
        with _open(path) as file:
            if key not in set(file.keys()):
                continue
            tensor: Tensor = file.get_tensor(key)
        if tensor.numel() != 1 or not torch.isfinite(tensor).all():
            raise Refused(
                f"{path}: {name!r} is not one finite number",
                "the file is broken; download it again",
            )
        return float(tensor)
    raise NotFound(f"{header.path} has no tensor {name!r}")


def _check_tensor(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return the tensor. Raises Refused if it is quantized or not finite."""
    if not tensor.is_floating_point() or tensor.element_size() < 2:  # fp8 has no arithmetic
        raise Refused(
            f"{path}: {name!r} has dtype {tensor.dtype}", "quantized files are not supported"
        )
    if not torch.isfinite(tensor).all():
        raise Refused(
            f"{path}: {name!r} is not finite (NaN or infinity)",
            "the file is broken; download it again",
        )
    return tensor


def _shards(path: Path) -> tuple[tuple[Path, ...], set[str]]:
    """Return the files that hold a file's tensors, and the tensor names of its index.

    Raises NotFound, Refused.
    """
    # A shard leads to its index, or to its siblings by number where there is no index.
    shard = _SHARD.fullmatch(path.name)
    if shard and not path.name.endswith(_INDEX):
        index = path.with_name(f"{shard['stem']}{_INDEX}")
        if index.is_file():
            return _shards(index)
        count = int(shard["count"])
        siblings = [
            f"{shard['stem']}-{number:05}-of-{shard['count']}.safetensors"
            for number in range(1, count + 1)
        ]
        return _require_files(path, siblings), set()
    if not path.name.endswith(_INDEX) or not path.is_file():
        return (path,), set()
    try:
        # The index comes from outside: bound its size, and accept file names only.
        index = json.loads(path.read_bytes()[:_MAX_INDEX_BYTES])
        tensors = {str(name): str(file) for name, file in index["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(
            f"{path} is not a valid index of shards: {error}", "download it again"
        ) from error
    names = sorted(set(tensors.values()))
    if not names or any(Path(name).name != name or name in {"", ".", ".."} for name in names):
        raise Refused(
            f"{path} names files outside its folder",
            "an index may name only the shards beside it",
        )
    return _require_files(path, names), set(tensors)


def _require_files(path: Path, names: list[str]) -> tuple[Path, ...]:
    """Return the paths of files beside `path`. Raises NotFound if any is missing."""
    missing = [name for name in names if not path.with_name(name).is_file()]
    if missing:
        listed = ", ".join(missing[:3])
        message = f"{len(missing)} of {len(names)} shards of {path} are missing: {listed}"
        raise NotFound(message, "put all shards into one folder")
    return tuple(path.with_name(name) for name in names)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a file with safetensors, which checks the header's length (100 MB) and every offset."""
    if path.is_dir():
        found = sorted(file.name for file in path.glob("*.safetensors*"))
        hint = (
            f"give the files in it, such as {path / found[0]}"
            if found
            else "it has no safetensors files"
        )
        raise NotFound(f"there is no file {path}: it is a folder", hint)
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(32)
    try:
        with safe_open(path, framework="pt") as weights:
            yield weights
    except SafetensorError as error:
        # Name the kind of file by its magic bytes. A safetensors header begins with "{" at byte 8,
        # after a length whose bytes may look like any magic.
        for magic, kind, hint in _OTHER_FORMATS:
            if start.startswith(magic) and start[8:9] != b"{":
                raise Refused(f"{path} is {kind}, not safetensors", hint) from error
        hint = "the download was cut short, or the file is of another kind"
        raise Refused(f"{path} is not a complete safetensors file: {error}", hint) from error
