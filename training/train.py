"""Entry point of training: from a training request to a checkpoint with metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from curation.domain import (
    Checkpoint,
    GenerationRequest,
    LayerRole,
    Progress,
    Prompt,
    Sample,
    Split,
    TrainingRequest,
)
from curation.errors import Refused
from curation.ports import RGBA, ObjectStore, ProgressCallback
from training.checkpoint import LORA_PREFIX, load_checkpoint
from training.code_version import code_version
from training.data.order import order_hash
from training.data.splits import open_split
from training.denoiser.train import train_base
from training.evaluation.heldout import evaluate, has_heldout
from training.generate import load_generator
from training.launch import choose_launch, join, launch
from training.layers.train import train_layers
from training.preference.missed_words import find_missed_words
from training.preference.train import (
    DecisionTraining,
    train_base_from_decisions,
    train_layers_from_decisions,
)
from training.presets.preset import Preset
from training.presets.presets import find_requested_preset
from training.pretrained.families import find_family
from training.pretrained.loading import check_model_paths
from training.recipes import (
    DECISION_STAGES,
    RECIPES,
    choose_stages,
    number_reports,
    reported_stages,
)
from training.safetensors_io import load_part, part_metadata, save_part
from training.sample_grid import render_grid
from training.transparency.autoencoder import Autoencoder, fit_autoencoder, open_autoencoder
from training.transparency.networks import Transparency, open_transparency
from training.transparency.padding import over_gray
from training.transparency.train import reconstruction_rows, train_transparency

__all__ = ["RECIPES", "check_request", "code_version", "join", "train"]

GRID_COLUMNS = 8
# Images to fit the PCA on: enough for 192 components. Ids are hashes, so the first are random.
FIT_IMAGES = 4_096


def train(
    request: TrainingRequest, store: ObjectStore, folder: Path, report: ProgressCallback
) -> Checkpoint:
    """Train a recipe's parts from a snapshot, evaluate them, and store the checkpoint.

    Training resumes exactly from the state in `folder` after any interruption; on the CPU with the
    preset's threads the result is bit-identical to an uninterrupted run. With a parent every part
    starts from the parent's, and the backbone is inherited unchanged, so that latents stay
    comparable between rounds. A snapshot without held-out samples gives a checkpoint without
    metrics. If the settings or the preset name several processes or machines, they are started
    here; the result differs by rounding only.

    Args:
        request: The training request.
        store: The store of snapshots, images and weights.
        folder: The folder of the run's state.
        report: The progress callback; an exception from it stops the training.

    Returns:
        The checkpoint, whose files are in the store.

    Raises:
        NotFound: The preset, a model or a file does not exist.
        Corrupt: A file's content does not match its sha256.
        Refused: The request cannot be trained.
        Diverged: The loss is not finite (training.engine.metrics_buffer).
    """
    preset = check_request(request)
    chosen = choose_launch(preset)
    if (chosen.processes > 1 or chosen.machines > 1) and not dist.is_initialized():
        return launch(request, store, folder, report, chosen)
    if preset.threads:
        torch.set_num_threads(preset.threads)
    # User LoRAs are for generation alone: training continues from the weights without them.
    inherited = request.parent.files if request.parent else {}
    files = {part: file for part, file in inherited.items() if not part.startswith(LORA_PREFIX)}
    # Reports carry the number of their stage, which depends on the stages that will run.
    heldout = has_heldout(store, request.snapshot)
    stages = choose_stages(request, preset, store)
    report = number_reports(report, reported_stages(stages, preset, files, heldout=heldout))
    context = _StageContext(request, preset, store, folder, report, code_version())
    # Train the parts in order; each later part builds on the files of the earlier ones.
    files["backbone"] = files.get("backbone") or _fit_autoencoder(context)
    for stage in stages:
        files[DECISION_STAGES.get(stage, stage)] = _TRAINERS[stage](context, files)
    checkpoint = Checkpoint(
        files=files,
        recipe=request.recipe,
        preset=preset.name,
        snapshot=request.snapshot,
        parent=request.parent.id if request.parent else None,
        seed=request.seed,
        code_version=context.code_version,
        changes=request.changes,
    )
    # Evaluation and sample grid are the first process's work.
    if dist.is_initialized() and dist.get_rank() > 0:
        return checkpoint
    metrics = evaluate(checkpoint, request.snapshot, store, report) if heldout else {}
    sheet = store.put(
        _sheet(
            checkpoint, request.snapshot, store, Split.heldout if heldout else Split.train, report
        )
    )
    return replace(checkpoint, evaluation=metrics, sample_grid=sheet)


@dataclass(frozen=True)
class _StageContext:
    """The arguments that every stage of a training shares."""

    request: TrainingRequest
    preset: Preset
    store: ObjectStore
    folder: Path
    report: ProgressCallback
    code_version: str

    def save(
        self, part: str, tensors: dict[str, Tensor], stage: str | None = None, **metadata: object
    ) -> str:
        """Store a part with its metadata and return the sha256; its stage is named as the part."""
        stage = stage or part
        if stage in _TRAINERS:  # the others see no sequence of samples
            metadata["order"] = order_hash(stage, self.request, self.preset)
        return save_part(
            self.store,
            part,
            tensors,
            part_metadata(part, self.request, self.code_version, **metadata),
        )


def check_request(request: TrainingRequest) -> Preset:
    """Return the preset of a training request after checking that it can be trained.

    Raises:
        NotFound: The preset or a model folder does not exist.
        Refused: The recipe, the preset and the parent do not fit together.
    """
    preset = find_requested_preset(request)
    if request.recipe not in RECIPES:
        raise Refused(f"no recipe {request.recipe!r}", f"choose one of {', '.join(RECIPES)}")
    if (
        {*RECIPES[request.recipe]} - {"transparency"}
        and preset.family
        and find_family(preset.family).denoiser is None
    ):
        hint = "use the recipe 'transparency'; sd15, sd21 and sdxl support training a base"
        raise Refused(f"preset {preset.name!r} supports latent transparency only", hint)
    # Fail on missing paths now rather than hours into the training.
    check_model_paths(preset)
    parent = request.parent
    # Weights of another preset have other shapes.
    if parent and parent.preset != preset.name:
        hint = f"train with --preset {parent.preset}, or without a parent"
        raise Refused(f"the parent has preset {parent.preset!r}, not {preset.name!r}", hint)
    # A recipe that starts in the middle needs the earlier parts from the parent.
    for recipe, needed, hint in (
        ("base", ("transparency",), "whole"),
        ("layers", ("transparency", "base"), "pairs"),
        ("kto", ("transparency", "base"), "whole-kto"),
        ("dpo", ("transparency", "base"), "whole"),
        ("layers-kto", ("transparency", "base", "layers"), "pairs-kto"),
        ("layers-dpo", ("transparency", "base", "layers"), "pairs"),
    ):
        for part in needed:
            if request.recipe == recipe and (parent is None or part not in parent.files):
                raise Refused(
                    f"the recipe {recipe!r} needs the part {part!r} of a parent checkpoint",
                    f"use the recipe {hint!r}",
                )
    return preset


def _fit_autoencoder(context: _StageContext) -> str:
    """Fit or load the frozen autoencoder and store it."""
    context.report(Progress("backbone", 0, 1))
    if context.preset.model is None:
        # Without a pretrained model, fit a PCA to images of the train split.
        size, roles = (
            context.preset.image_size,
            context.preset.trained_roles(context.preset.base_opaque),
        )
        dataset = open_split(
            context.store, context.request.snapshot, Split.train, size, in_memory=False, roles=roles
        )
        fitted = range(min(FIT_IMAGES, len(dataset)))
        rgba_B4HW = torch.stack([dataset.read_or_replace(index)[1] for index in fitted])
        autoencoder = fit_autoencoder(context.preset, over_gray(rgba_B4HW[:, :3], rgba_B4HW[:, 3:]))
    else:
        autoencoder = fit_autoencoder(context.preset, torch.empty(0))
    file = context.save("backbone", autoencoder.state_dict(), **autoencoder.metadata())
    context.report(Progress("backbone", 1, 1))
    return file


def _train_transparency(context: _StageContext, files: dict[str, str]) -> str:
    """Train latent transparency and store it."""
    start = load_part(context.store, files["transparency"])[0] if "transparency" in files else None
    tensors = train_transparency(
        context.request,
        context.preset,
        context.store,
        context.folder,
        context.report,
        _backbone(context, files),
        start,
    )
    return context.save("transparency", tensors, offset_scale=context.preset.offset_scale)


def _train_base(context: _StageContext, files: dict[str, str]) -> str:
    """Train the base and store it."""
    start = load_part(context.store, files["base"]) if "base" in files else None
    request = context.request
    missed = find_missed_words(context.store, request.snapshot, request.parent, context.preset)
    tensors, metadata = train_base(
        context.request,
        context.preset,
        context.store,
        context.folder,
        context.report,
        _backbone(context, files),
        _transparency(context, files),
        start,
        missed.weight if missed else None,
    )
    return context.save("base", tensors, **metadata)


def _train_layers(context: _StageContext, files: dict[str, str]) -> str:
    """Train the layer adapters and store them."""
    base = load_part(context.store, files["base"])
    start = load_part(context.store, files["layers"]) if "layers" in files else None
    tensors, metadata = train_layers(
        context.request,
        context.preset,
        context.store,
        context.folder,
        context.report,
        _backbone(context, files),
        _transparency(context, files),
        base,
        start,
    )
    return context.save("layers", tensors, **metadata, base=files["base"])


def _train_base_from(stage: str, context: _StageContext, files: dict[str, str]) -> str:
    """Train the base further from decisions and store it."""
    tensors, metadata = train_base_from_decisions(
        _decision_training(stage, context, files), load_part(context.store, files["base"])
    )
    return context.save("base", tensors, stage, **metadata, reference=files["base"])


def _train_layers_from(stage: str, context: _StageContext, files: dict[str, str]) -> str:
    """Train the layer adapters further from decisions and store them."""
    base, layers = (load_part(context.store, files[part]) for part in ("base", "layers"))
    tensors, metadata = train_layers_from_decisions(
        _decision_training(stage, context, files), base, layers
    )
    named = {"base": files["base"], "reference": files["layers"]}
    return context.save("layers", tensors, stage, **metadata, **named)


def _decision_training(
    stage: str, context: _StageContext, files: dict[str, str]
) -> DecisionTraining:
    return DecisionTraining(
        stage,
        context.request,
        context.preset,
        context.store,
        context.folder,
        context.report,
        _backbone(context, files),
        _transparency(context, files),
    )


_TRAINERS: dict[str, Callable[[_StageContext, dict[str, str]], str]] = {
    "transparency": _train_transparency,
    "base": _train_base,
    "layers": _train_layers,
    "kto": partial(_train_base_from, "kto"),
    "dpo": partial(_train_base_from, "dpo"),
    "layers-kto": partial(_train_layers_from, "layers-kto"),
    "layers-dpo": partial(_train_layers_from, "layers-dpo"),
}


def _backbone(context: _StageContext, files: dict[str, str]) -> Autoencoder:
    return open_autoencoder(*load_part(context.store, files["backbone"]))


def _transparency(context: _StageContext, files: dict[str, str]) -> Transparency:
    part = load_part(context.store, files["transparency"])
    return open_transparency(context.preset, *part)


def _sheet(
    checkpoint: Checkpoint,
    snapshot: str,
    store: ObjectStore,
    split: Split,
    report: ProgressCallback,
) -> bytes:
    """Render the sample grid: images of a split, their reconstructions, and generated images.

    With a base there are two rows of its captions at fixed seeds, with layers three rows of pairs.
    """
    report(Progress("sheet", 0, 1))
    parts = load_checkpoint(checkpoint, store)
    dataset = open_split(store, snapshot, split, parts.preset.image_size, in_memory=False)
    shown = range(min(GRID_COLUMNS, len(dataset)))
    captions = [dataset.captions[index] for index in shown]
    rows = reconstruction_rows(parts.autoencoder, parts.transparency, dataset.load_batch(shown))
    # Single layers from the captions, at two seeds.
    if parts.base is not None:
        rows += [_generate(checkpoint, store, captions, seed) for seed in (0, 1)]
    row_captions = [captions] * len(rows)
    # Pairs, a row for each role.
    prompts = [
        _prompt(sample) for sample in dataset.samples if LayerRole.background in sample.layers
    ][:GRID_COLUMNS]
    if parts.layers is not None and prompts:
        generated = load_generator(checkpoint, store).generate(
            [GenerationRequest(prompt, 0) for prompt in prompts]
        )
        rows += [[layers[role] for layers in generated] for role in LayerRole]
        texts = [
            (prompt.foreground or prompt.text, prompt.background or prompt.text, prompt.text)
            for prompt in prompts
        ]
        row_captions += [list(row) for row in zip(*texts, strict=True)]
    report(Progress("sheet", 1, 1))
    return render_grid(rows, row_captions)


def _generate(
    checkpoint: Checkpoint, store: ObjectStore, captions: list[str], seed: int
) -> list[RGBA]:
    """Generate one foreground per caption at a fixed seed."""
    requests = [GenerationRequest(Prompt(caption), seed) for caption in captions]
    return [
        layers[LayerRole.foreground]
        for layers in load_generator(checkpoint, store).generate(requests)
    ]


def _prompt(sample: Sample) -> Prompt:
    """Return a pair's own texts as a prompt; a layer without a text gets the whole image's."""
    texts = [sample.caption_for(role) for role in (LayerRole.foreground, LayerRole.background)]
    return Prompt(sample.caption_for(), *texts)
