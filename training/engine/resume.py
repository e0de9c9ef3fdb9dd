"""The folder of a training run: states that are whole or absent, a TensorBoard log, and sample sheets."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from curation.domain import canonical_json
from curation.errors import Refused
from curation.object_store import sync, write_file
from training.engine.distributed import fill, whole
from training.safetensors_io import apart

Part = nn.Module | Optimizer | GradScaler | Mapping[str, Tensor]
"""What a saved state is made of: networks, optimisers, the scale of fp16's gradients, and averages."""


GROUP = "group-"
"""Begins the keys of tensors that an optimiser keeps in its groups, beside those of its parameters."""


@dataclass(frozen=True)
class TrainingState:
    """One stage of a run after so many images: every tensor that continues it, and facts as JSON."""

    images: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class TrainingStateStore:
    """A stage's own folder inside the run's. Running the same command again goes on from the last saved state.

    All randomness of a training is drawn from (seed, stage, images seen) by `generator_at`, so that there is no
    generator state to keep, and a resumed run equals a straight one bit for bit on the CPU.
    """

    def __init__(self, folder: Path, stage: str, keep_states: int = 1) -> None:
        self.folder, self.stage, self.keep_states = folder / stage, stage, keep_states
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, images: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a state to a folder of its own, sync it, give it its name, and only then remove all but the newest."""
        new = Path(tempfile.mkdtemp(dir=self.folder, prefix=".new-"))
        save_file(
            apart({name: tensor.detach().cpu() for name, tensor in tensors.items()}),
            new / "state.safetensors",
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
        for path in self._states()[: -self.keep_states]:
            shutil.rmtree(path)

    def load(self) -> TrainingState | None:
        """The last whole state, or None for a run that has none."""
        for half in self.folder.glob(".new-*"):
            shutil.rmtree(half, ignore_errors=True)  # other processes of the run do the same
        states = self._states()
        if not states:
            return None
        facts = json.loads((states[-1] / "facts.json").read_text())
        return TrainingState(
            int(facts["images"]), load_file(states[-1] / "state.safetensors"), facts
        )

    def log(self, seen: int) -> SummaryWriter:
        """A TensorBoard log by images seen; what was written after that count by an interrupted run is dropped."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own, at import
            return SummaryWriter(str(self.folder / "log"), purge_step=seen, flush_secs=10)

    def write_sheet(self, images: int, png: bytes) -> Path:
        """A sample sheet as PNG, named by the images seen; written whole."""
        target = self.folder / f"sheet-{images:012d}.png"
        write_file(target, png)
        return target

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("state-*"))


def generator_at(seed: int, stage: str, images: int) -> torch.Generator:
    """The random numbers of a stage at a count of images: equal for equal arguments, unrelated otherwise."""
    digest = hashlib.sha256(canonical_json([seed, stage, images]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def pack(parts: Mapping[str, Part]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What continues a training, as named tensors and as numbers for JSON; every process must ask.

    Of networks what learns and what is counted (buffers) is kept; frozen weights are not. Tensors are on the CPU.
    """
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for name, part in parts.items():
        if isinstance(part, Optimizer):
            state = part.state_dict()
            groups, held = _split_groups(state["param_groups"])
            facts[name] = {"groups": groups, "numbers": {}}
            tensors |= {f"{name}/{key}": value for key, value in held.items()}
            for index, slots in state["state"].items():
                found = {slot: value for slot, value in slots.items() if isinstance(value, Tensor)}
                tensors |= {
                    f"{name}/{index}/{slot}": whole(value).cpu() for slot, value in found.items()
                }
                if more := {slot: value for slot, value in slots.items() if slot not in found}:
                    facts[name]["numbers"][str(index)] = more
        elif isinstance(part, GradScaler):
            facts[name] = part.state_dict()
        else:
            tensors |= {
                f"{name}/{key}": whole(value.detach()).cpu() for key, value in _kept(part).items()
            }
    return tensors, facts


def unpack(parts: Mapping[str, Part], state: TrainingState) -> None:
    """The inverse of `pack`, into the same networks and optimisers. Raises Refused where they are others."""
    for name, part in parts.items():
        mine = {
            key.removeprefix(f"{name}/"): v
            for key, v in state.tensors.items()
            if key.startswith(f"{name}/")
        }
        if isinstance(part, Optimizer):
            _restore(part, mine, state.facts[name])
        elif isinstance(part, GradScaler):
            if part.is_enabled():
                part.load_state_dict(state.facts[name])
        else:
            own = _kept(part)
            if own.keys() != mine.keys():
                hint = "it was begun by another version; remove the run's folder to begin anew"
                raise Refused(f"the saved state of the run does not hold the same {name}", hint)
            for key, tensor in own.items():
                fill(tensor, mine[key])


def _split_groups(
    groups: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Split the groups of an optimiser into what JSON holds and tensors by their keys: Prodigy keeps some there."""
    held = {
        f"{GROUP}{number}/{key}": value.detach().cpu()
        for number, group in enumerate(groups)
        for key, value in group.items()
        if isinstance(value, Tensor)
    }
    plain = [
        {key: value for key, value in group.items() if not isinstance(value, Tensor)}
        for group in groups
    ]
    return plain, held


def _kept(part: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not isinstance(part, nn.Module):
        return part
    frozen = {
        name for name, p in part.named_parameters(remove_duplicate=False) if not p.requires_grad
    }
    return {name: tensor for name, tensor in part.state_dict().items() if name not in frozen}


def _restore(optimiser: Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Slots as they lie beside their parameters: on their device, in their order in memory, and in their shards."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Any]] = {
        int(index): dict(more) for index, more in facts["numbers"].items()
    }
    groups = [dict(group) for group in facts["groups"]]
    for key, value in tensors.items():
        index, slot = key.split("/")
        if index.startswith(GROUP):
            groups[int(index.removeprefix(GROUP))][slot] = value.clone().to(parameters[0].device)
            continue
        beside, placed = parameters[int(index)], value
        if value.shape == beside.shape and value.is_floating_point():
            placed = torch.empty_like(beside, dtype=value.dtype, requires_grad=False)
            fill(placed, value)
        slots.setdefault(int(index), {})[slot] = placed
    optimiser.load_state_dict({"state": slots, "param_groups": groups})
