"""Metrics of the full evaluation, added up over samples and backgrounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from curation.images.codec import BACKGROUNDS
from curation.ports import RGBA, EvaluationOptions
from training.evaluation.round_trip import RoundTrip, fastest_device, round_trip_metrics
from training.metrics.clip_score import ClipScore, load_clip_score
from training.metrics.compositing import (
    composite,
    composite_jpeg,
    composite_metrics,
    published_metrics,
)
from training.metrics.inception import Inception, frechet_distance, load_inception
from training.metrics.matting import matting_errors
from training.metrics.perceptual import LPIPS, load_lpips
from training.sample_grid import to_uint8_images

GRID_IMAGES = 8


Blend = Callable[[Tensor, tuple[int, int, int]], Tensor]


class MetricNetworks:
    """The metric networks whose weights were given, on the fastest device."""

    def __init__(self, options: EvaluationOptions) -> None:
        device = fastest_device()
        self.perceptual: LPIPS | None = None
        self.inception: Inception | None = None
        self.agreement: ClipScore | None = None
        if options.perceptual:
            self.perceptual = load_lpips(options.perceptual).to(device)
        if options.inception:
            self.inception = load_inception(options.inception).to(device)
        if options.clip:
            self.agreement = load_clip_score(options.clip, device)


class MetricAccumulator:
    """Accumulates metrics over batches."""

    def __init__(self, networks: MetricNetworks, options: EvaluationOptions) -> None:
        self.networks = networks
        self.forms: dict[str, Blend] = (
            {"": composite, "_jpeg": composite_jpeg} if options.published else {"": composite}
        )
        self.images = 0
        self.shown: tuple[list[RGBA], list[RGBA]] = ([], [])
        self.rows: dict[str, list[Tensor]] = defaultdict(list)
        self.over: dict[str, dict[str, list[Tensor]]] = {
            name: defaultdict(list) for name in BACKGROUNDS
        }
        self.features: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = defaultdict(list)

    @torch.no_grad()
    def update(self, round_trip: RoundTrip) -> None:
        """Add a batch."""
        truth_B4HW, again_B4HW = round_trip.truth_B4HW, round_trip.reconstructed_B4HW
        self.images += len(truth_B4HW)
        # The first images are shown in the comparison grid.
        for shown, batch in zip(self.shown, (truth_B4HW, again_B4HW), strict=True):
            shown.extend(to_uint8_images(batch)[: GRID_IMAGES - len(shown)])
        # Metrics that do not depend on a background.
        metrics = round_trip_metrics(round_trip) | _measure_offset(round_trip)
        for name, value_B in (
            metrics | _measure_mattes(truth_B4HW[:, 3], again_B4HW[:, 3])
        ).items():
            self.rows[name].append(value_B.cpu())
        # Metrics of composites over each background, lossless and published.
        for name, by_background in composite_metrics(truth_B4HW, again_B4HW).items():
            for background, value_B in by_background.items():
                self.over[background][name].append(value_B.cpu())
        for background, color in BACKGROUNDS.items():
            for form, over in self.forms.items():
                self._add_blends(background, form, over(truth_B4HW, color), over(again_B4HW, color))

    def _add_blends(
        self, background: str, form: str, truth_B3HW: Tensor, again_B3HW: Tensor
    ) -> None:
        metrics = published_metrics(truth_B3HW, again_B3HW) if form else {}
        if self.networks.perceptual:
            metrics[f"lpips{form}"] = self.networks.perceptual(truth_B3HW, again_B3HW)
        for name, value_B in metrics.items():
            self.over[background][name].append(value_B.cpu())
        if self.networks.inception:
            pair = (
                self.networks.inception(truth_B3HW).cpu(),
                self.networks.inception(again_B3HW).cpu(),
            )
            self.features[background, f"rfid{form}"].append(pair)

    def compute(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Return all metrics, and the table of those by background."""
        table = {
            background: {name: float(torch.cat(values).mean()) for name, values in rows.items()}
            for background, rows in self.over.items()
        }
        # rFID is a distance of sets, and undefined for a single image.
        if self.images > 1:
            for (background, name), pairs in self.features.items():
                truth_ND, again_ND = (torch.cat(side) for side in zip(*pairs, strict=True))
                table[background][name] = frechet_distance(truth_ND, again_ND)
        # Mean over images, and for metrics by background the mean over backgrounds.
        metrics = {name: float(torch.cat(values).mean()) for name, values in self.rows.items()}
        for name in next(iter(table.values())):
            metrics[name] = sum(row[name] for row in table.values()) / len(table)
        return metrics | {"psnr_worst": min(row["psnr"] for row in table.values())}, table


def _measure_offset(round_trip: RoundTrip) -> dict[str, Tensor]:
    """Compute the size of the latent offset relative to the posterior, and its share of energy."""
    offset_BCHW = round_trip.adjusted_BCHW - round_trip.plain_BCHW
    size_BN = (offset_BCHW / round_trip.std_BCHW).abs().flatten(1)
    energy_B, total_B = (
        part.square().flatten(1).sum(1) for part in (offset_BCHW, round_trip.adjusted_BCHW)
    )
    return {
        "offset_mean": size_BN.mean(1),
        "offset_max": size_BN.amax(1),
        "offset_energy": energy_B / total_B,
    }


def _measure_mattes(truth_BHW: Tensor, again_BHW: Tensor) -> dict[str, Tensor]:
    pairs = zip(truth_BHW.cpu().numpy(), again_BHW.cpu().numpy(), strict=True)
    rows = [matting_errors(*pair) for pair in pairs]
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
