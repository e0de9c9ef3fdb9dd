"""Full evaluation of a checkpoint: all metrics, by background too, a comparison sheet, and published figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curation.domain import Checkpoint, DrawRequest, LayerRole, Progress, Prompt, Sample, Split
from curation.errors import Refused
from curation.images.codec import BACKGROUNDS, decode_layer
from curation.ports import RGBA, EvaluationOptions, EvaluationResult, ObjectStore, Report
from training.checkpoint import LoadedCheckpoint, open_parts
from training.data.dataset import LayerDataset, load_split
from training.evaluation.comparison import draw_comparison
from training.evaluation.heldout import (
    HIGHER_IS_BETTER,
    RoundTrip,
    background_psnr,
    batches,
    fastest_device,
    layers_mse,
    measure_return,
    move,
    noise_mse,
    send_through,
)
from training.evaluation.pairs import (
    DRAWN,
    PairFigures,
    compare_pairs,
    draws_pairs,
    heldout_pairs,
    open_ways,
)
from training.generate import open_generator
from training.metrics.clip_score import TextAgreement, open_agreement
from training.metrics.compositing import blend, blend_jpeg, measure_blends, measure_published
from training.metrics.inception import Inception, frechet_distance, open_inception
from training.metrics.matting import measure_matte
from training.metrics.perceptual import Perceptual, open_perceptual
from training.metrics.reference_results import PUBLISHED
from training.sample_grid import pixels

SHOWN = 8
LEAST = 32
"""Pixels of a side: what is smaller in its own size is left out, since the perceptual network cannot see it."""

CLEAR, OPAQUE = 0.02, 0.98
"""Drawn alpha that nowhere exceeds the first is an empty picture, that nowhere falls below the second no layer."""

Blend = Callable[[Tensor, tuple[int, int, int]], Tensor]


def measure(
    checkpoint: Checkpoint,
    snapshot: str,
    store: ObjectStore,
    wanted: EvaluationOptions,
    report: Report,
) -> EvaluationResult:
    """The figures of `training.evaluation.heldout.evaluate`, and beside them on the same pictures:

    alpha_grad, alpha_conn and unknown_sad, _mse, _grad, _conn: see `training.metrics.matting`.
    psnr_worst (dB): the mean PSNR over the background where it is least.
    lpips, rfid: `training.metrics.perceptual` and `inception`, mean over the nine backgrounds; with weights only.
    psnr_jpeg, ssim_jpeg, lpips_jpeg, rfid_jpeg: the published form of the four, through JPEG; where it is wanted.
    offset_mean, offset_max: |x_eps| / x_std over a picture's latent; offset_energy: sum x_eps^2 / sum x_a^2.
    drawn_empty, drawn_opaque: the share of drawings with nothing visible, and with nothing transparent;
    drawn_coverage_gap: |mean alpha of the drawings - mean alpha of the samples whose captions they have|.
    pair_text_foreground, _background, _blended: `training.metrics.clip_score` of a layer over grey with its own text.
    All are means over pictures, rfid aside. Of a checkpoint that draws pairs there is a table of pairs too, with
    intervals: `training.evaluation.pairs`. Raises NotFound, Corrupt, Refused.
    """
    networks = _Networks(wanted)
    parts = open_parts(checkpoint, store)
    size = parts.preset.image_size
    pictures = load_split(store, snapshot, Split.heldout, size, in_memory=False)
    if wanted.limit:
        pictures = LayerDataset(store, pictures.samples[: wanted.limit], size, in_memory=False)
    move(parts, fastest_device())
    others = noise_mse(parts, pictures) | layers_mse(parts, store, snapshot)
    both = heldout_pairs(store, snapshot)[: wanted.limit or None]
    others |= background_psnr(parts, store, both, wanted.views)
    tally = _Tally(networks, wanted)
    for rgba_B4HW, inside_B1HW in (
        _own_sizes(pictures, report)
        if wanted.original
        else batches(pictures, range(len(pictures)), report)
    ):
        tally.add(send_through(parts, rgba_B4HW, wanted.views, inside_B1HW))
    if not tally.pictures:
        raise Refused(
            f"no held-out picture has sides of {LEAST} pixels or more", "measure without --original"
        )
    figures, backgrounds = tally.sum_up()
    figures |= others | _measure_drawings(checkpoint, parts, store, pictures, wanted.draws, report)
    pairs = _measure_pairs(checkpoint, parts, store, both, wanted.draws, networks.agreement, report)
    figures |= pairs.figures if pairs else {}
    return EvaluationResult(
        figures={name: figures[name] for name in HIGHER_IS_BETTER if name in figures},
        backgrounds=backgrounds,
        published=PUBLISHED if wanted.published else {},
        pictures=tally.pictures,
        notes=_notes(wanted, parts, len(pictures) - tally.pictures, tally.pictures)
        + _notes_on_pairs(wanted, parts, pairs),
        sheet=draw_comparison(*tally.shown),
        standard=not wanted.limit
        and not wanted.original
        and wanted.views in {None, parts.preset.decoder_views}
        and (pairs is None or wanted.draws == DRAWN),
        pairs=pairs.table if pairs else {},
        pairs_sheet=pairs.sheet if pairs else b"",
    )


class _Networks:
    """The networks that measure, on the fastest device, where their weights were given."""

    def __init__(self, wanted: EvaluationOptions) -> None:
        device = fastest_device()
        self.perceptual: Perceptual | None = None
        self.inception: Inception | None = None
        self.agreement: TextAgreement | None = None
        if wanted.perceptual:
            self.perceptual = open_perceptual(wanted.perceptual).to(device)
        if wanted.inception:
            self.inception = open_inception(wanted.inception).to(device)
        if wanted.clip:
            self.agreement = open_agreement(wanted.clip, device)


class _Tally:
    """The figures of the pictures so far."""

    def __init__(self, networks: _Networks, wanted: EvaluationOptions) -> None:
        self.networks = networks
        self.forms: dict[str, Blend] = (
            {"": blend, "_jpeg": blend_jpeg} if wanted.published else {"": blend}
        )
        self.pictures = 0
        self.shown: tuple[list[RGBA], list[RGBA]] = ([], [])
        self.rows: dict[str, list[Tensor]] = defaultdict(list)
        self.over: dict[str, dict[str, list[Tensor]]] = {
            name: defaultdict(list) for name in BACKGROUNDS
        }
        self.features: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = defaultdict(list)

    @torch.no_grad()
    def add(self, returned: RoundTrip) -> None:
        truth_B4HW, again_B4HW = returned.truth_B4HW, returned.again_B4HW
        self.pictures += len(truth_B4HW)
        for kept, batch in zip(self.shown, (truth_B4HW, again_B4HW), strict=True):
            kept.extend(pixels(batch)[: SHOWN - len(kept)])
        figures = measure_return(returned) | _measure_offset(returned)
        for name, value_B in (
            figures | _measure_mattes(truth_B4HW[:, 3], again_B4HW[:, 3])
        ).items():
            self.rows[name].append(value_B.cpu())
        for name, by_background in measure_blends(truth_B4HW, again_B4HW).items():
            for background, value_B in by_background.items():
                self.over[background][name].append(value_B.cpu())
        for background, colour in BACKGROUNDS.items():
            for form, over in self.forms.items():
                self._add_blends(
                    background, form, over(truth_B4HW, colour), over(again_B4HW, colour)
                )

    def _add_blends(
        self, background: str, form: str, truth_B3HW: Tensor, again_B3HW: Tensor
    ) -> None:
        figures = measure_published(truth_B3HW, again_B3HW) if form else {}
        if self.networks.perceptual:
            figures[f"lpips{form}"] = self.networks.perceptual(truth_B3HW, again_B3HW)
        for name, value_B in figures.items():
            self.over[background][name].append(value_B.cpu())
        if self.networks.inception:
            pair = (
                self.networks.inception(truth_B3HW).cpu(),
                self.networks.inception(again_B3HW).cpu(),
            )
            self.features[background, f"rfid{form}"].append(pair)

    def sum_up(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """All figures, and the table of those by background."""
        table = {
            background: {name: float(torch.cat(values).mean()) for name, values in rows.items()}
            for background, rows in self.over.items()
        }
        if self.pictures > 1:
            for (background, name), pairs in self.features.items():
                truth_ND, again_ND = (torch.cat(side) for side in zip(*pairs, strict=True))
                table[background][name] = frechet_distance(truth_ND, again_ND)
        figures = {name: float(torch.cat(values).mean()) for name, values in self.rows.items()}
        for name in next(iter(table.values())):
            figures[name] = sum(row[name] for row in table.values()) / len(table)
        return figures | {"psnr_worst": min(row["psnr"] for row in table.values())}, table


def _own_sizes(pictures: LayerDataset, report: Report) -> Iterator[tuple[Tensor, None]]:
    """Yield each image alone in its own size, 1 x 4 x H x W, which has no margins."""
    device = fastest_device()
    for place, sample in enumerate(pictures.samples):
        report(Progress("evaluate", place, len(pictures)))
        rgba = decode_layer(pictures.store.get(sample.layers[LayerRole.foreground]))
        if min(rgba.shape[:2]) >= LEAST:
            yield (
                torch.from_numpy(rgba.copy()).to(device).permute(2, 0, 1)[None].float() / 255,
                None,
            )
    report(Progress("evaluate", len(pictures), len(pictures)))


def _measure_offset(returned: RoundTrip) -> dict[str, Tensor]:
    offset_BCHW = returned.adjusted_BCHW - returned.plain_BCHW
    size_BN = (offset_BCHW / returned.std_BCHW).abs().flatten(1)
    energy_B, all_B = (
        part.square().flatten(1).sum(1) for part in (offset_BCHW, returned.adjusted_BCHW)
    )
    return {
        "offset_mean": size_BN.mean(1),
        "offset_max": size_BN.amax(1),
        "offset_energy": energy_B / all_B,
    }


def _measure_mattes(truth_BHW: Tensor, again_BHW: Tensor) -> dict[str, Tensor]:
    pairs = zip(truth_BHW.cpu().numpy(), again_BHW.cpu().numpy(), strict=True)
    rows = [measure_matte(*pair) for pair in pairs]
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def _measure_drawings(
    checkpoint: Checkpoint,
    parts: LoadedCheckpoint,
    store: ObjectStore,
    pictures: LayerDataset,
    count: int,
    report: Report,
) -> dict[str, float]:
    if parts.base is None or not count:
        return {}
    generator, captions = open_generator(checkpoint, store), pictures.captions
    places = [number % len(captions) for number in range(count)]
    drawn: list[NDArray[np.float64]] = []
    for start in range(0, count, parts.preset.draw_batch):
        report(Progress("draw", start, count))
        some = list(enumerate(places))[start : start + parts.preset.draw_batch]
        layers = generator.draw(
            [DrawRequest(Prompt(captions[place]), seed) for seed, place in some]
        )
        drawn += [layer[LayerRole.foreground][..., 3] / 255 for layer in layers]
    report(Progress("draw", count, count))
    wanted = float(np.mean([float(pictures[place][3].mean()) for place in places]))
    return {
        "drawn_empty": float(np.mean([alpha.max() < CLEAR for alpha in drawn])),
        "drawn_opaque": float(np.mean([alpha.min() > OPAQUE for alpha in drawn])),
        "drawn_coverage_gap": abs(float(np.mean([alpha.mean() for alpha in drawn])) - wanted),
    }


def _measure_pairs(
    checkpoint: Checkpoint,
    parts: LoadedCheckpoint,
    store: ObjectStore,
    samples: Sequence[Sample],
    count: int,
    agreement: TextAgreement | None,
    report: Report,
) -> PairFigures | None:
    if not count or not samples or not draws_pairs(parts):
        return None
    ways = open_ways(checkpoint, store)
    return compare_pairs(ways, samples, count, parts.preset.image_size, store, report, agreement)


def _notes(
    wanted: EvaluationOptions, parts: LoadedCheckpoint, left_out: int, pictures: int
) -> list[str]:
    """What was not measured, and why; what is to be known of what was."""
    few = f"rfid of {pictures} pictures: compare it with that of equally many alone, until there are some thousands"
    other = "published figures are of other pictures: they place yours, they are not beaten by them"
    said = {
        f"{left_out} pictures with a side under {LEAST} pixels were left out": left_out > 0,
        "no lpips: it needs weights (--perceptual)": wanted.perceptual is None,
        "no rfid: it needs weights (--inception)": wanted.inception is None,
        "no rfid: it needs two pictures": wanted.inception is not None and pictures < 2,
        few: wanted.inception is not None and 2 <= pictures < 2048,
        "no published form: ask for it (--published)": not wanted.published,
        other: wanted.published,
        "no noise_mse and no drawings: the checkpoint has no base": parts.base is None,
    }
    return [sentence for sentence, holds in said.items() if holds]


def _notes_on_pairs(
    wanted: EvaluationOptions, parts: LoadedCheckpoint, pairs: PairFigures | None
) -> list[str]:
    if not draws_pairs(parts):
        return []
    if pairs is None:
        return [
            "no pairs were drawn: it takes --draws, and held-out samples with a foreground and a background"
        ]
    said = {
        "intervals of pairs hold 95 %: Student's t over the texts, each with the mean of its own drawings; light_r: "
        "bootstrap over the texts": True,
        "no text agreement: it needs a CLIP (--clip)": wanted.clip is None,
        "no pairs drawn apart: nothing in this checkpoint could be left out for it": "joint"
        not in pairs.table["error"],
    }
    return [sentence for sentence, holds in said.items() if holds]
