"""Entry point of training: a training request in, a checkpoint with metrics and a sample grid out."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

import curation
from curation.domain import (
    Checkpoint,
    DrawRequest,
    LayerRole,
    Progress,
    Prompt,
    Sample,
    Split,
    TrainingRequest,
)
from curation.errors import Refused
from curation.ports import RGBA, ObjectStore, Report
from training.checkpoint import STYLE, open_parts
from training.data.dataset import load_split
from training.denoiser.train import train_base
from training.evaluation.heldout import evaluate, has_heldout
from training.generate import open_generator
from training.launch import launch
from training.layers.train import train_layers
from training.presets.preset import Preset
from training.presets.presets import find_preset
from training.pretrained.families import find_family
from training.pretrained.loading import check_sources
from training.safetensors_io import describe, load_part, save_part
from training.sample_grid import draw_sheet
from training.transparency.autoencoder import Autoencoder, fit_backbone, open_backbone
from training.transparency.networks import open_transparency
from training.transparency.padding import on_grey
from training.transparency.train import reconstruction_rows, train_transparency

RECIPES: dict[str, tuple[str, ...]] = {
    "transparency": ("transparency",),
    "base": ("base",),
    "layers": ("layers",),
    "whole": ("transparency", "base"),  # the recipe of a round
    "pairs": ("transparency", "base", "layers"),  # the recipe of a round of pairs
}
"""Which parts a recipe trains, in order; all others are the parent's."""

SHEET_COLUMNS = 8
FITTED_PICTURES = (
    4_096  # enough for 192 directions; ids are hashes, so the first are a random choice
)


def train(order: TrainingRequest, store: ObjectStore, folder: Path, report: Report) -> Checkpoint:
    """Train what the recipe names from a snapshot, evaluate it on the held-out split, and store it all.

    Resumes exactly from what `folder` holds: run it again after any interruption; on the CPU and with the preset's
    threads it ends with the bits of a straight run. With a parent every part starts from the parent's, and the
    backbone is inherited as it is, so that latents stay comparable between rounds. A snapshot without held-out samples
    gives a checkpoint without figures. Where the preset has several processes they are started here. Raises NotFound,
    Corrupt, Refused, and Diverged (training.engine.metrics_buffer).
    """
    preset = check_order(order)
    if preset.processes > 1 and not dist.is_initialized():
        return launch(order, store, folder, report, preset.processes)
    if preset.threads:
        torch.set_num_threads(preset.threads)
    # A style only draws: what is trained from a styled checkpoint is the weights below it.
    inherited = order.parent.files if order.parent else {}
    files = {part: file for part, file in inherited.items() if not part.startswith(STYLE)}
    heldout = has_heldout(store, order.snapshot)
    report = _numbered(report, _stages(order, preset, files, heldout=heldout))
    bench = _Bench(order, preset, store, folder, report, code_version())
    files["backbone"] = files.get("backbone") or _fit(bench)
    for part in RECIPES[order.recipe]:
        files[part] = _TRAINERS[part](bench, files)
    checkpoint = Checkpoint(
        files=files,
        recipe=order.recipe,
        preset=preset.name,
        snapshot=order.snapshot,
        parent=order.parent.id if order.parent else None,
        seed=order.seed,
        code_version=bench.code_version,
        changes=order.changes,
    )
    if dist.is_initialized() and dist.get_rank() > 0:  # the first process does the rest
        return checkpoint
    figures = evaluate(checkpoint, order.snapshot, store, report) if heldout else {}
    sheet = store.put(
        _sheet(checkpoint, order.snapshot, store, Split.heldout if heldout else Split.train, report)
    )
    return replace(checkpoint, evaluation=figures, sheet=sheet)


def _stages(
    order: TrainingRequest, preset: Preset, files: Mapping[str, str], *, heldout: bool
) -> list[str]:
    """Return the stages that this training will report, in order."""
    stages = [] if files.get("backbone") else ["backbone"]
    for part in RECIPES[order.recipe]:
        if part in {"base", "layers"}:
            stages += ["latents", "texts"] if preset.family else ["latents"]
        stages.append(part)
    return [*stages, *(["evaluate"] if heldout else []), "sheet"]


def _numbered(report: Report, stages: Sequence[str]) -> Report:
    """Return a report that numbers what it is told by the stages to come; one that is not among them is the last's."""
    at = 0

    def numbered(progress: Progress) -> None:
        nonlocal at
        at = next(
            (later for later in range(at, len(stages)) if stages[later] == progress.stage), at
        )
        report(replace(progress, stage_number=at + 1, stage_count=len(stages)))

    return numbered


@dataclass(frozen=True)
class _Bench:
    """What every stage of one training is given."""

    order: TrainingRequest
    preset: Preset
    store: ObjectStore
    folder: Path
    report: Report
    code_version: str

    def keep(self, part: str, tensors: dict[str, Tensor], **facts: object) -> str:
        return save_part(
            self.store, part, tensors, describe(part, self.order, self.code_version, **facts)
        )


def check_order(order: TrainingRequest) -> Preset:
    """Return the preset of an order that can be trained. Raises NotFound; Refused, saying what is wrong with it."""
    preset = find_preset(order.preset, order.changes)
    if order.recipe not in RECIPES:
        raise Refused(f"no recipe {order.recipe!r}", f"choose one of {', '.join(RECIPES)}")
    if (
        {"base", "layers"} & {*RECIPES[order.recipe]}
        and preset.family
        and find_family(preset.family).denoiser is None
    ):
        hint = "use the recipe 'transparency'; a base is trained for sd15, sd21 and sdxl"
        raise Refused(f"preset {preset.name!r} trains latent transparency alone", hint)
    check_sources(preset)
    parent = order.parent
    if parent and parent.preset != preset.name:
        hint = f"train with --preset {parent.preset}, or without a parent"
        raise Refused(f"the parent has preset {parent.preset!r}, the order {preset.name!r}", hint)
    for recipe, needed, hint in (
        ("base", ("transparency",), "whole"),
        ("layers", ("transparency", "base"), "pairs"),
    ):
        for part in needed:
            if order.recipe == recipe and (parent is None or part not in parent.files):
                raise Refused(
                    f"{recipe} is trained on the part {part!r}, and there is none yet",
                    f"use the recipe {hint!r}",
                )
    return preset


def _fit(bench: _Bench) -> str:
    bench.report(Progress("backbone", 0, 1))
    if bench.preset.model is None:
        size, roles = bench.preset.image_size, bench.preset.roles_learnt(bench.preset.base_opaque)
        pictures = load_split(
            bench.store, bench.order.snapshot, Split.train, size, in_memory=False, roles=roles
        )
        fitted = range(min(FITTED_PICTURES, len(pictures)))
        rgba_B4HW = torch.stack([pictures.read(place)[1] for place in fitted])
        backbone = fit_backbone(bench.preset, on_grey(rgba_B4HW[:, :3], rgba_B4HW[:, 3:]))
    else:
        backbone = fit_backbone(bench.preset, torch.empty(0))
    file = bench.keep("backbone", backbone.state_dict(), **backbone.facts())
    bench.report(Progress("backbone", 1, 1))
    return file


def _train_transparency(bench: _Bench, files: dict[str, str]) -> str:
    start = load_part(bench.store, files["transparency"])[0] if "transparency" in files else None
    tensors = train_transparency(
        bench.order,
        bench.preset,
        bench.store,
        bench.folder,
        bench.report,
        _backbone(bench, files),
        start,
    )
    return bench.keep("transparency", tensors, offset_scale=bench.preset.offset_scale)


def _train_base(bench: _Bench, files: dict[str, str]) -> str:
    start = load_part(bench.store, files["base"]) if "base" in files else None
    transparency = open_transparency(bench.preset, *load_part(bench.store, files["transparency"]))
    backbone = _backbone(bench, files)
    order, preset, store, folder, report = (
        bench.order,
        bench.preset,
        bench.store,
        bench.folder,
        bench.report,
    )
    tensors, facts = train_base(order, preset, store, folder, report, backbone, transparency, start)
    return bench.keep("base", tensors, **facts)


def _train_layers(bench: _Bench, files: dict[str, str]) -> str:
    base = load_part(bench.store, files["base"])
    start = load_part(bench.store, files["layers"]) if "layers" in files else None
    transparency = open_transparency(bench.preset, *load_part(bench.store, files["transparency"]))
    backbone = _backbone(bench, files)
    order, preset, store, folder, report = (
        bench.order,
        bench.preset,
        bench.store,
        bench.folder,
        bench.report,
    )
    tensors, facts = train_layers(
        order, preset, store, folder, report, backbone, transparency, base, start
    )
    return bench.keep("layers", tensors, **facts, base=files["base"])


_TRAINERS: dict[str, Callable[[_Bench, dict[str, str]], str]] = {
    "transparency": _train_transparency,
    "base": _train_base,
    "layers": _train_layers,
}


def _backbone(bench: _Bench, files: dict[str, str]) -> Autoencoder:
    return open_backbone(*load_part(bench.store, files["backbone"]))


def _sheet(
    checkpoint: Checkpoint, snapshot: str, store: ObjectStore, split: Split, report: Report
) -> bytes:
    """Pictures of a split, what comes back of them, and, with a base, what their captions draw at fixed seeds.

    With layers there are three rows more: pairs, drawn together.
    """
    report(Progress("sheet", 0, 1))
    parts = open_parts(checkpoint, store)
    pictures = load_split(store, snapshot, split, parts.preset.image_size, in_memory=False)
    shown = range(min(SHEET_COLUMNS, len(pictures)))
    captions = [pictures.captions[place] for place in shown]
    rows = reconstruction_rows(parts.backbone, parts.transparency, pictures.take(shown))
    if parts.base is not None:
        rows += [_drawn(checkpoint, store, captions, seed) for seed in (0, 1)]
    told = [captions] * len(rows)
    prompts = [
        _prompt(sample) for sample in pictures.samples if LayerRole.background in sample.layers
    ][:SHEET_COLUMNS]
    if parts.layers is not None and prompts:
        drawn = open_generator(checkpoint, store).draw(
            [DrawRequest(prompt, 0) for prompt in prompts]
        )
        rows += [[layers[role] for layers in drawn] for role in LayerRole]
        texts = [
            (prompt.foreground or prompt.text, prompt.background or prompt.text, prompt.text)
            for prompt in prompts
        ]
        told += [list(row) for row in zip(*texts, strict=True)]
    report(Progress("sheet", 1, 1))
    return draw_sheet(rows, told)


def _drawn(
    checkpoint: Checkpoint, store: ObjectStore, captions: list[str], seed: int
) -> list[RGBA]:
    requests = [DrawRequest(Prompt(caption), seed) for caption in captions]
    return [
        layers[LayerRole.foreground] for layers in open_generator(checkpoint, store).draw(requests)
    ]


def _prompt(sample: Sample) -> Prompt:
    """A pair's own texts; the whole one stands for a layer that has none."""
    texts = [sample.text_of(role) for role in (LayerRole.foreground, LayerRole.background)]
    return Prompt(sample.text_of(), *texts)


def code_version() -> str:
    """The package's version, with the commit where it runs from a checkout of its own."""
    root = Path(curation.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return curation.__version__
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return curation.__version__
    return f"{curation.__version__}+{described}"
