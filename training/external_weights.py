"""Weight files of other programs, read safely: safetensors only, header first, no NaN."""

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
    'pickles run code when they are read, so none is; convert it where you trust it: python -c "import torch, '
    "safetensors.torch as s; s.save_file(torch.load('IN', weights_only=True), 'OUT.safetensors')\""
)
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip or a pickled torch file", _CONVERT),
    (b"\x80", "a pickle", _CONVERT),
    (b"GGUF", "a GGUF file", "its numbers are quantised; download the safetensors file"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "run 'git lfs pull', or download it",
    ),
    (b"<", "a web page", "the download went wrong: fetch the file itself"),
    (b"\x89PNG", "a picture", "give the weights"),
    (
        b"{",
        "a JSON file",
        "give the safetensors file beside it, or the *.safetensors.index.json of a file in parts",
    ),
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_INDEX = ".safetensors.index.json"
_MOST_INDEX = 64 << 20  # bytes


@dataclass(frozen=True)
class Header:
    """What a safetensors file says before any tensor is read; several where it was written in parts (shards)."""

    path: Path  # as it was given
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    files: tuple[Path, ...] = ()  # that hold the tensors; without any it is `path`
    prefix: str = ""  # which the names in the file have before those in `shapes`

    @property
    def parameters(self) -> int:
        """How many numbers the file holds."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def within(self, prefix: str) -> Self:
        """The tensors whose names begin with `prefix`, named without it."""
        shapes = {
            name.removeprefix(prefix): shape
            for name, shape in self.shapes.items()
            if name.startswith(prefix)
        }
        return replace(self, shapes=shapes, prefix=self.prefix + prefix)


def read_header(path: Path) -> Header:
    """Names and shapes of a file's tensors; nothing else is read.

    path: a file, one of several parts that were written with an index, or that index. Raises NotFound; Refused for
    another kind of file, and where parts do not belong together.
    """
    files, promised = _parts(path)
    shapes: dict[str, tuple[int, ...]] = {}
    metadata: dict[str, str] = {}
    for part in files:
        with _open(part) as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if name in shapes:
                    raise Refused(
                        f"{part} holds {name!r} again, as another part does",
                        "the parts are of two files",
                    )
                shapes[name] = tuple(int(size) for size in file.get_slice(name).get_shape())
            metadata |= {str(name): str(value) for name, value in (file.metadata() or {}).items()}
    if not shapes:
        raise Refused(f"{path} holds no tensors", "the file is empty; download it again")
    if missing := sorted(promised - shapes.keys()):
        named = f"{len(missing)} tensors that its index names are in none of its parts, {missing[0]!r} for one"
        raise Refused(f"{path}: {named}", "download all parts again")
    return Header(path, shapes, metadata, files)


def read_tensors(source: Path | Header, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors as the file has them, whatever their type. Raises NotFound; Refused where one is NaN or infinite."""
    header = source if isinstance(source, Header) else Header(source, {}, {}, _parts(source)[0])
    tensors: dict[str, Tensor] = {}
    wanted = list(names)
    for path in header.files or (header.path,):
        with _open(path) as file:
            here = set(file.keys())
            for name in wanted:
                if (inside := header.prefix + name) in here or len(header.files) < 2:
                    tensors[name] = _sound(path, inside, file.get_tensor(inside))
    return {name: tensors[name] for name in wanted}


def read_number(source: Path | Header, name: str) -> float:
    """A tensor that is one number, whole or not, such as a LoRA's alpha. Raises NotFound; Refused for any other."""
    header = source if isinstance(source, Header) else Header(source, {}, {}, _parts(source)[0])
    inside = header.prefix + name
    for path in header.files or (header.path,):
        with _open(path) as file:
            if inside not in set(file.keys()):
                continue
            tensor: Tensor = file.get_tensor(inside)
        if tensor.numel() != 1 or not torch.isfinite(tensor).all():
            raise Refused(
                f"{path}: {name!r} is not one finite number",
                "the file is broken; download it again",
            )
        return float(tensor)
    raise NotFound(f"{header.path} has no tensor {name!r}")


def _sound(path: Path, name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or tensor.element_size() < 2:  # fp8 knows no arithmetic
        raise Refused(f"{path}: {name!r} is of type {tensor.dtype}", "quantised files are not read")
    if not torch.isfinite(tensor).all():
        raise Refused(
            f"{path}: {name!r} is not finite (NaN or infinity)",
            "the file is broken; download it again",
        )
    return tensor


def _parts(path: Path) -> tuple[tuple[Path, ...], set[str]]:
    """The files that hold a file's tensors, and the names that an index promises. Raises NotFound, Refused."""
    shard = _SHARD.fullmatch(path.name)
    if shard and not path.name.endswith(_INDEX):
        index = path.with_name(f"{shard['stem']}{_INDEX}")
        if index.is_file():
            return _parts(index)
        count = int(shard["count"])
        named = [
            f"{shard['stem']}-{number:05}-of-{shard['count']}.safetensors"
            for number in range(1, count + 1)
        ]
        return _all_there(path, named), set()
    if not path.name.endswith(_INDEX) or not path.is_file():
        return (path,), set()
    try:
        index = json.loads(path.read_bytes()[:_MOST_INDEX])
        tensors = {str(name): str(file) for name, file in index["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(
            f"{path} is no index of weights in parts: {error}", "download it again"
        ) from error
    names = sorted(set(tensors.values()))
    if not names or any(Path(name).name != name or name in {"", ".", ".."} for name in names):
        raise Refused(
            f"{path} names files outside its folder", "an index names the parts beside it"
        )
    return _all_there(path, names), set(tensors)


def _all_there(path: Path, names: list[str]) -> tuple[Path, ...]:
    missing = [name for name in names if not path.with_name(name).is_file()]
    if missing:
        said = (
            f"{len(missing)} of {len(names)} parts of {path} are missing: {', '.join(missing[:3])}"
        )
        raise NotFound(said, "put all parts into one folder")
    return tuple(path.with_name(name) for name in names)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The reader of safetensors itself, which checks the header's length (at most 100 MB) and every offset."""
    if path.is_dir():
        inside = sorted(one.name for one in path.glob("*.safetensors*"))
        hint = (
            f"give the files in it, such as {path / inside[0]}"
            if inside
            else "there are no safetensors in it"
        )
        raise NotFound(f"there is no file {path}: it is a folder", hint)
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(32)
    try:
        with safe_open(path, framework="pt") as opened:
            yield opened
    except SafetensorError as error:
        for magic, what, hint in _FOREIGN:
            if (
                start.startswith(magic) and start[8:9] != b"{"
            ):  # a header begins there, whatever its length's bytes are
                raise Refused(f"{path} is {what}, not safetensors", hint) from error
        hint = "the download was cut short, or it is another kind of file"
        raise Refused(f"{path} is no whole safetensors file: {error}", hint) from error
