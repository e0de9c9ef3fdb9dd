"""The folder of a training run: complete saved states, the TensorBoard log and sample grids."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from curation.domain import canonical_json
from curation.errors import Corrupt, Refused
from curation.object_store import fsync_path, write_file_atomically
from training.engine.distributed import DistributedContext, full_tensor, load_full_tensor
from training.engine.state_files import TrainingState, read_state, write_state

log = logging.getLogger("layerloop.training")

StatePart = nn.Module | Optimizer | GradScaler | Mapping[str, Tensor]
"""A part of the training state: a network, an optimizer, fp16's gradient scaler, EMA weights."""


GROUP = "group-"
"""Prefix of the keys of tensors in an optimizer's parameter groups."""


class TrainingStateStore:
    """The folder of a stage, with its saved states. Running a command again resumes from the last.

    All randomness of a training derives from (seed, stage, images seen) by `seeded_generator`, so
    there is no RNG state to save, and a resumed run is bit-identical to an uninterrupted one on the
    CPU.
    """

    def __init__(self, folder: Path, stage: str, keep_states: int = 1) -> None:
        """Open the folder of a stage, and create it if it is missing.

        Args:
            folder: The folder of the run.
            stage: Name of the stage.
            keep_states: Number of saved states to keep.
        """
        self.folder, self.stage, self.keep_states = folder / stage, stage, keep_states
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(
        self, images_seen: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
    ) -> None:
        """Save a state durably and atomically, then remove all but the newest ones.

        Args:
            images_seen: Images seen, which name the state.
            tensors: The tensors to save, on any device.
            metadata: JSON-serializable metadata.
        """
        # Write and sync a temporary folder; the rename publishes it.
        new = Path(tempfile.mkdtemp(dir=self.folder, prefix=".new-"))
        write_state(new, TrainingState(images_seen, dict(tensors), dict(metadata)))
        target = self._path(images_seen)
        if target.exists():  # saved before; an existing state is complete
            shutil.rmtree(new)
            return
        new.rename(target)
        fsync_path(self.folder)
        # Old states go only once the new one is durable.
        for path in self._states()[: -self.keep_states]:
            shutil.rmtree(path)

    def load(self) -> TrainingState | None:
        """Return the last saved state that is not damaged, or None if there is none.

        Damaged states are removed, with a warning in the log.
        """
        for incomplete in self.folder.glob(".new-*"):
            shutil.rmtree(incomplete, ignore_errors=True)  # other processes remove it too
        for path in reversed(self._states()):
            try:
                return read_state(path)
            except Corrupt as error:
                log.warning("%s; the training continues from the state before it", error)
                shutil.rmtree(path)
        return None

    def load_in_all(self, distributed: DistributedContext) -> TrainingState | None:
        """Return the same state in all processes: the last one of the first process.

        On several machines the first process sends the state; on one machine all read its files.

        Args:
            distributed: The processes of the training.
        """
        state = self.load() if distributed.is_main_process else None
        if distributed.world_size == 1:
            return state
        found: tuple[int, dict[str, Any]] | None = distributed.broadcast_object(
            (state.images, state.metadata) if state else None
        )
        if found is None:
            return None
        images, metadata = found
        if distributed.on_several_machines():
            tensors = distributed.broadcast_tensors(state.tensors if state else {})
            return TrainingState(images, tensors, metadata)
        return state or read_state(self._path(images), verify=False)

    def open_log(self, images_seen: int) -> SummaryWriter:
        """Open the TensorBoard log, purged of entries after `images_seen` by a killed run."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own, at import
            return SummaryWriter(str(self.folder / "log"), purge_step=images_seen, flush_secs=10)

    def write_sample_grid(self, images_seen: int, png: bytes) -> Path:
        """Write a sample grid as PNG atomically, named by the images seen."""
        target = self.folder / f"sheet-{images_seen:012d}.png"
        write_file_atomically(target, png)
        return target

    def _path(self, images_seen: int) -> Path:
        return self.folder / f"state-{images_seen:012d}"

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("state-*"))


def seeded_generator(seed: int, stage: str, images: int) -> torch.Generator:
    """Return the random number generator of a step.

    Args:
        seed: Seed of the training.
        stage: Name of the stage.
        images: Images seen before the step.
    """
    digest = hashlib.sha256(canonical_json([seed, stage, images]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def state_dict(parts: Mapping[str, StatePart]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Collect the state of all parts as CPU tensors and JSON metadata; collective over processes.

    Networks contribute trainable parameters and buffers, but no frozen weights.

    Returns:
        Tensors named `<part>/<key>`, and metadata by part: of optimizers the parameter groups and
        the non-tensor values of their state, of gradient scalers their state.
    """
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    for name, part in parts.items():
        if isinstance(part, Optimizer):
            # Tensors go to the safetensors file, everything else to JSON.
            state = part.state_dict()
            groups, group_tensors = _split_groups(state["param_groups"])
            metadata[name] = {"groups": groups, "numbers": {}}
            tensors |= {f"{name}/{key}": value for key, value in group_tensors.items()}
            for index, slots in state["state"].items():
                slot_tensors = {
                    slot: value for slot, value in slots.items() if isinstance(value, Tensor)
                }
                tensors |= {
                    f"{name}/{index}/{slot}": full_tensor(value).cpu()
                    for slot, value in slot_tensors.items()
                }
                if plain := {
                    slot: value for slot, value in slots.items() if slot not in slot_tensors
                }:
                    metadata[name]["numbers"][str(index)] = plain
        elif isinstance(part, GradScaler):
            metadata[name] = part.state_dict()
        else:
            tensors |= {
                f"{name}/{key}": full_tensor(value.detach()).cpu()
                for key, value in _saved_tensors(part).items()
            }
    return tensors, metadata


def load_state_dict(parts: Mapping[str, StatePart], state: TrainingState) -> None:
    """Load a state into the same networks and optimizers: the inverse of `pack`.

    Raises:
        Refused: A network has other tensors than the saved state.
    """
    for name, part in parts.items():
        saved = {
            key.removeprefix(f"{name}/"): v
            for key, v in state.tensors.items()
            if key.startswith(f"{name}/")
        }
        if isinstance(part, Optimizer):
            _load_optimizer(part, saved, state.metadata[name])
        elif isinstance(part, GradScaler):
            if part.is_enabled():
                part.load_state_dict(state.metadata[name])
        else:
            tensors = _saved_tensors(part)
            if tensors.keys() != saved.keys():
                hint = "another version began this run; remove its folder to start again"
                raise Refused(f"the saved state has other tensors for {name!r}", hint)
            for key, tensor in tensors.items():
                load_full_tensor(tensor, saved[key])


def _split_groups(
    groups: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Split parameter groups into JSON values and tensors; Prodigy keeps tensors in groups."""
    tensors = {
        f"{GROUP}{index}/{key}": value.detach().cpu()
        for index, group in enumerate(groups)
        for key, value in group.items()
        if isinstance(value, Tensor)
    }
    plain = [
        {key: value for key, value in group.items() if not isinstance(value, Tensor)}
        for group in groups
    ]
    return plain, tensors


def _saved_tensors(part: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not isinstance(part, nn.Module):
        return part
    frozen = {
        name for name, p in part.named_parameters(remove_duplicate=False) if not p.requires_grad
    }
    return {name: tensor for name, tensor in part.state_dict().items() if name not in frozen}


def _load_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Load an optimizer's state with the device, memory format and sharding of its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Any]] = {
        int(index): dict(plain) for index, plain in metadata["numbers"].items()
    }
    groups = [dict(group) for group in metadata["groups"]]
    for key, value in tensors.items():
        index, slot = key.split("/")
        if index.startswith(GROUP):
            groups[int(index.removeprefix(GROUP))][slot] = value.clone().to(parameters[0].device)
            continue
        # Moments take the layout of their parameter; scalars and factored moments stay as saved.
        parameter, loaded = parameters[int(index)], value
        if value.shape == parameter.shape and value.is_floating_point():
            loaded = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
            load_full_tensor(loaded, value)
        slots.setdefault(int(index), {})[slot] = loaded
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
