"""Metric logging: always to TensorBoard, and to an experiment tracker if the preset names one."""

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
    """Logs the metrics of a stage by images seen, to TensorBoard and a tracker where given."""

    def __init__(self, writer: SummaryWriter | None = None, tracker: Any = None) -> None:
        self.writer, self.tracker = writer, tracker

    def log(self, images_seen: int, metrics: Mapping[str, float]) -> None:
        """Log training metrics; in TensorBoard losses are under "loss/", other metrics are not."""
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(
                    name if name in {"gradient", "rate"} else f"loss/{name}", value, images_seen
                )
        if self.tracker is not None:
            self.tracker.log(dict(metrics), step=images_seen)

    def log_sample_grid(
        self, images_seen: int, png: bytes, heldout_metrics: Mapping[str, float]
    ) -> None:
        """Log a sample grid as an image named "sheet", and held-out metrics under "heldout/"."""
        image = Image.open(io.BytesIO(png)).convert("RGB")
        if self.writer is not None:
            self.writer.add_image("sheet", np.asarray(image), images_seen, dataformats="HWC")
            for name, value in heldout_metrics.items():
                self.writer.add_scalar(f"heldout/{name}", value, images_seen)
        if self.tracker is not None:
            self.tracker.log(
                {f"heldout/{name}": value for name, value in heldout_metrics.items()},
                step=images_seen,
            )
            self.tracker.log_images({"sheet": [image]}, step=images_seen)

    def close(self) -> None:
        """Flush and close both logs."""
        if self.writer is not None:
            self.writer.close()
        if self.tracker is not None:
            self.tracker.finish()


def open_tracker(preset: Preset, request: TrainingRequest, stage: str, folder: Path) -> Any:
    """Open the tracker that the preset names, through accelerate; None if it names none.

    A resumed run continues under the same id. Accounts and uploads are configured by the tracker's
    own settings (WANDB_MODE=offline; trackio is local by default).

    Args:
        preset: The preset of the training.
        request: The training request; its id names the run.
        stage: Name of the stage.
        folder: Where wandb keeps its files.

    Raises:
        NotFound: The tracker is not supported.
        Refused: The tracker is not installed.
    """
    if preset.tracker is None:
        return None
    if preset.tracker not in TRACKERS:
        raise NotFound(f"no tracker {preset.tracker!r}", f"choose one of {', '.join(TRACKERS)}")
    if find_spec(preset.tracker) is None:
        hint = f"pip install {preset.tracker}, or leave out tracker: TensorBoard is always written"
        raise Refused(f"the tracker {preset.tracker} is not installed", hint)
    from accelerate.tracking import TrackioTracker, WandBTracker

    # One run per stage, resumable by its name.
    name = f"{request.id}-{stage}"
    tracker: Any
    if preset.tracker == "wandb":
        tracker = WandBTracker(PROJECT, name=name, id=name, resume="allow", dir=str(folder))
    else:
        tracker = TrackioTracker(PROJECT, name=name, resume="allow")
    tracker.start()
    # Trackers take plain values only.
    settings = {
        **asdict(preset),
        "recipe": request.recipe,
        "snapshot": request.snapshot,
        "seed": request.seed,
    }
    plain = {
        key: value if isinstance(value, str | int | float) else str(value)
        for key, value in settings.items()
    }
    tracker.store_init_configuration(plain)
    return tracker
