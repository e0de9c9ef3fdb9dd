"""The folder of a training run: states that are whole or absent, a TensorBoard log, and sample sheets."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from curation.domain import canonical_json
from curation.objects import sync


@dataclass(frozen=True)
class State:
    """One stage of a run after so many images: every tensor that continues it, and facts as JSON."""

    images: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class RunFolder:
    """A stage's own folder inside the run's. Running the same command again goes on from the last saved state.

    All randomness of a training is drawn from (seed, stage, images seen) by `generator_at`, so that there is no
    generator state to keep, and a resumed run equals a straight one bit for bit on the CPU.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder, self.stage = folder / stage, stage
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, images: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a state to a folder of its own, sync it, give it its name, and only then remove the older ones."""
        older = self._states()
        new = Path(tempfile.mkdtemp(dir=self.folder, prefix=".new-"))
        # Tensors that share memory (tied weights, an optimiser's step) are copied: safetensors keeps each once.
        save_file(
            {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, new / "state.safetensors"
        )
        (new / "facts.json").write_text(canonical_json({**facts, "images": images}))
        for path in (new / "state.safetensors", new / "facts.json", new):
            sync(path)
        target = self.folder / f"state-{images:012d}"
        if target.exists():  # the same images twice: a state that is there is whole
            shutil.rmtree(new)
            return
        new.rename(target)
        sync(self.folder)
        for path in older:
            shutil.rmtree(path)

    def load(self) -> State | None:
        """The last whole state, or None for a run that has none."""
        for half in self.folder.glob(".new-*"):
            shutil.rmtree(half)
        states = self._states()
        if not states:
            return None
        facts = json.loads((states[-1] / "facts.json").read_text())
        return State(int(facts["images"]), load_file(states[-1] / "state.safetensors"), facts)

    def log(self, seen: int) -> SummaryWriter:
        """A TensorBoard log by images seen; what was written after that count by an interrupted run is dropped."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own, at import
            return SummaryWriter(str(self.folder / "log"), purge_step=seen, flush_secs=10)

    def write_sheet(self, images: int, png: bytes) -> Path:
        """A sample sheet as PNG, named by the images seen; written whole."""
        target = self.folder / f"sheet-{images:012d}.png"
        half = target.with_suffix(".half")
        half.write_bytes(png)
        half.replace(target)
        return target

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("state-*"))


def generator_at(seed: int, stage: str, images: int) -> torch.Generator:
    """The random numbers of a stage at a count of images: equal for equal arguments, unrelated otherwise."""
    digest = hashlib.sha256(canonical_json([seed, stage, images]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def pack(parts: Mapping[str, nn.Module | Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Networks and optimisers as named tensors, and the optimisers' numbers as JSON."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            tensors |= {f"{name}/{key}": value for key, value in part.state_dict().items()}
            continue
        state = part.state_dict()
        for index, slots in state["state"].items():
            tensors |= {f"{name}/{index}/{slot}": value for slot, value in slots.items()}
        facts[name] = state["param_groups"]
    return tensors, {"groups": facts}


def unpack(parts: Mapping[str, nn.Module | Optimizer], state: State) -> None:
    """The inverse of `pack`, into the same networks and optimisers."""
    for name, part in parts.items():
        mine = {key.removeprefix(f"{name}/"): v for key, v in state.tensors.items() if key.startswith(f"{name}/")}
        if isinstance(part, nn.Module):
            part.load_state_dict(mine)
            continue
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in mine.items():
            index, slot = key.split("/")
            slots.setdefault(int(index), {})[slot] = value
        part.load_state_dict({"state": slots, "param_groups": state.facts["groups"][name]})
