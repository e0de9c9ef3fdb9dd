"""Where the figures of a run are written: TensorBoard always, and a tracker of experiments where one is named."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from curation.domain import TrainingRequest
from curation.errors import NotFound, Refused
from training.presets.preset import Preset

TRACKERS = ("wandb", "trackio")
PROJECT = "layerloop"


class MetricLogger:
    """The figures of a stage by images seen, to TensorBoard and to a tracker; each where there is one."""

    def __init__(self, board: SummaryWriter | None = None, tracker: Any = None) -> None:
        self.board, self.tracker = board, tracker

    def write(self, seen: int, figures: Mapping[str, float]) -> None:
        """In TensorBoard losses stand under "loss/", the gradient's norm and the rate under their own names."""
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(
                    name if name in {"gradient", "rate"} else f"loss/{name}", value, seen
                )
        if self.tracker is not None:
            self.tracker.log(dict(figures), step=seen)

    def write_sheet(self, seen: int, png: bytes, heldout: Mapping[str, float]) -> None:
        """Write a sample sheet as an image named "sheet", and metrics of held-out images under "heldout/"."""
        image = Image.open(io.BytesIO(png)).convert("RGB")
        if self.board is not None:
            self.board.add_image("sheet", np.asarray(image), seen, dataformats="HWC")
            for name, value in heldout.items():
                self.board.add_scalar(f"heldout/{name}", value, seen)
        if self.tracker is not None:
            self.tracker.log(
                {f"heldout/{name}": value for name, value in heldout.items()}, step=seen
            )
            self.tracker.log_images({"sheet": [image]}, step=seen)

    def close(self) -> None:
        """Write out what is held back."""
        if self.board is not None:
            self.board.close()
        if self.tracker is not None:
            self.tracker.finish()


def open_tracker(preset: Preset, order: TrainingRequest, stage: str, folder: Path) -> Any:
    """The tracker that the preset names, by accelerate's own; None where it names none.

    A run that is taken up again goes on under its id. Accounts and whether anything leaves the machine are the
    tracker's own settings (WANDB_MODE=offline; trackio keeps everything at home). Raises NotFound for another name,
    Refused where it is not installed.
    """
    if preset.tracker is None:
        return None
    if preset.tracker not in TRACKERS:
        raise NotFound(f"no tracker {preset.tracker!r}", f"choose one of {', '.join(TRACKERS)}")
    if find_spec(preset.tracker) is None:
        hint = f"pip install {preset.tracker}, or leave the tracker out: TensorBoard's log is always written"
        raise Refused(f"the tracker {preset.tracker} is not installed", hint)
    from accelerate.tracking import TrackioTracker, WandBTracker

    name = f"{order.id}-{stage}"
    tracker: Any
    if preset.tracker == "wandb":
        tracker = WandBTracker(PROJECT, name=name, id=name, resume="allow", dir=str(folder))
    else:
        tracker = TrackioTracker(PROJECT, name=name, resume="allow")
    tracker.start()
    settings = {
        **asdict(preset),
        "recipe": order.recipe,
        "snapshot": order.snapshot,
        "seed": order.seed,
    }
    plain = {
        key: value if isinstance(value, str | int | float) else str(value)
        for key, value in settings.items()
    }
    tracker.store_init_configuration(plain)
    return tracker
