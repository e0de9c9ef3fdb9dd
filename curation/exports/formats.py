"""The formats of pulls by name, and the entry point that pulls a snapshot in one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curation.datasets.manifest import read_manifest, snapshot_objects
from curation.domain import LayerRole, Split
from curation.errors import Refused
from curation.exports.cards import description_files
from curation.exports.decisions import (
    DecisionForm,
    DecisionsRequest,
    check_decisions,
    plan_decision_rows,
    plan_files,
    select_decisions,
)
from curation.exports.layouts.hugging_face import ImageFolderLayout
from curation.exports.layouts.layered import DiffSynthLayout, MusubiLayout
from curation.exports.layouts.plain import LabelStudioLayout, PlainLayout
from curation.exports.layouts.trainer_folders import (
    TrainerFolders,
    ai_toolkit_config,
    kohya_config,
    onetrainer_config,
    simpletuner_config,
)
from curation.exports.plan import Layout, PlannedFile, PullOptions, require, with_credentials
from curation.exports.pull import (
    PullResult,
    check_folder,
    keep_manifest,
    write_file,
    write_files,
)
from curation.exports.pull_shards import write_shards
from curation.exports.record import PullRecord
from curation.exports.rendering import Alpha, Treatment
from curation.exports.selection import Selectable, SelectedSample, Selection, select_samples
from curation.exports.shards import (
    ParquetFormat,
    ShardFormat,
    ShardRow,
    WebDatasetFormat,
    plan_rows,
    sample_table,
)
from curation.images.content_credentials import ContentSigner
from curation.object_store import ObjectReader
from curation.ports import ProgressCallback

WHOLE = (LayerRole.blended, LayerRole.background, LayerRole.foreground)


@dataclass(frozen=True)
class Format:
    """A format by its name, with the defaults that its reader needs.

    Attributes:
        name: The name on the command line.
        reader: The programs that read it.
        layout: The layout of files; None for shards.
        alpha: The default treatment of alpha.
        alphas: The treatments of alpha that the reader supports.
        splits: The splits that are pulled by default.
        pairs_only: Whether it holds only samples that have all three layers.
        empty_layers: Whether a row may lack one of the wanted layers.
        takes_decisions: Whether it can hold decided candidates.
    """

    name: str
    reader: str
    layout: Layout | None = None
    alpha: Alpha = Alpha.keep
    alphas: tuple[Alpha, ...] = tuple(Alpha)
    splits: tuple[Split, ...] = (Split.train, Split.heldout)
    pairs_only: bool = False
    empty_layers: bool = True
    takes_decisions: bool = False


_TRAIN = (Split.train,)
_FLAT = Alpha.composite

FORMATS: dict[str, Format] = {
    pull_format.name: pull_format
    for pull_format in (
        Format(
            "imagefolder", "datasets (imagefolder), diffusers' scripts", ImageFolderLayout(),
            empty_layers=False, takes_decisions=True,
        ),
        Format(
            "parquet", "datasets (parquet), the Hub's viewer, pandas", takes_decisions=True
        ),
        Format("webdataset", "webdataset, datasets (webdataset)", empty_layers=False),
        Format("png", "anything", PlainLayout()),
        Format(
            "label-studio", "Label Studio", LabelStudioLayout(),
            alphas=(Alpha.keep, Alpha.composite),
        ),
        Format("kohya", "kohya's sd-scripts", TrainerFolders(kohya_config), _FLAT, splits=_TRAIN),
        Format(
            "onetrainer", "OneTrainer", TrainerFolders(onetrainer_config, "-masklabel"), _FLAT,
            (Alpha.composite, Alpha.mask), _TRAIN,
        ),
        Format(
            "ai-toolkit", "ai-toolkit", TrainerFolders(ai_toolkit_config), _FLAT, splits=_TRAIN
        ),
        Format(
            "simpletuner", "SimpleTuner", TrainerFolders(simpletuner_config), _FLAT,
            (Alpha.composite, Alpha.mask), _TRAIN,
        ),
        Format(
            "musubi", "musubi-tuner (layered)", MusubiLayout(), alphas=(Alpha.keep,),
            splits=_TRAIN, pairs_only=True,
        ),
        Format(
            "diffsynth", "DiffSynth-Studio (layered)", DiffSynthLayout(), alphas=(Alpha.keep,),
            splits=_TRAIN, pairs_only=True,
        ),
    )
}  # fmt: skip
"""The formats, in the order in which they are listed."""


@dataclass(frozen=True)
class PullRequest:
    """A request for a pull: samples, format and options; None takes the format's default.

    Attributes:
        format: The format.
        selection: Splits, conditions and weights.
        treatment: Alpha, background and file type.
        roles: The layers of each sample, the first one represents it.
        shard_bytes: Size from which a shard is closed.
        workers: Number of threads.
        decisions: Which decided candidates to pull in place of samples; None for samples.
        signer: Adds Content Credentials to files with generated images; not to shards.
    """

    format: Format
    selection: Selection
    treatment: Treatment
    roles: tuple[LayerRole, ...] = (LayerRole.foreground,)
    shard_bytes: int = 256 << 20
    workers: int = 8
    decisions: DecisionsRequest | None = None
    signer: ContentSigner | None = None

    def takes(self, sample: Selectable) -> bool:
        """Return whether a sample or candidate has the layers that the format needs."""
        if self.format.pairs_only:
            return all(role in sample.layers for role in LayerRole)
        # Readers of several columns of images mistake an empty one, or refuse it.
        enough = any if self.format.empty_layers else all
        return enough(role in sample.layers for role in self.roles)

    def check(self) -> None:
        """Raise Refused unless the format can hold the requested content."""
        alphas = ", ".join(self.format.alphas)
        require(
            self.treatment.alpha in self.format.alphas,
            self.format.name,
            f"--alpha {self.treatment.alpha}",
            f"its reader supports --alpha {alphas}",
        )
        if self.decisions:
            able = [one.name for one in FORMATS.values() if one.takes_decisions]
            wish = f"--decisions {self.decisions.form}"
            hint = f"take --format {' or '.join(able)}"
            require(self.format.takes_decisions, self.format.name, wish, hint)
            is_mask = self.treatment.alpha is Alpha.mask
            require(not is_mask, self.format.name, f"{wish} with --alpha mask", "keep or composite")
            several = self.decisions.form is DecisionForm.pairs and len(self.roles) > 1
            require(
                not several, self.format.name, f"{wish} with several layers", "name one --layer"
            )


@dataclass(frozen=True)
class PullPlan:
    """All that a pull will write."""

    selected: list[SelectedSample]
    files: list[PlannedFile]
    rows: list[ShardRow]


def make_plan(
    source: ObjectReader,
    snapshot: str,
    request: PullRequest,
    folder: Path,
) -> PullPlan:
    """Plan a pull from the manifest, without reading any layer.

    Args:
        source: Store of the snapshot.
        snapshot: Full id of the snapshot.
        request: The samples to pull, and their format.
        folder: The folder to write.

    Raises:
        NotFound: The snapshot is not in the store.
        Corrupt: A part of the snapshot cannot be read.
        Refused: Nothing is selected, or the format cannot hold the requested content.
    """
    request.check()
    if request.decisions:
        return _plan_decisions(source, snapshot, request, request.decisions, folder)
    selected = [
        item
        for item in select_samples(source, snapshot, request.selection)
        if request.takes(item.sample)
    ]
    if not selected:
        raise Refused(
            f"no sample of snapshot {snapshot[:12]} is selected",
            "'layerloop snapshot show' counts its samples; check --split, --where and --format",
        )
    options = PullOptions(request.treatment, request.roles, folder.resolve(), request.shard_bytes)
    layout = request.format.layout
    files = list(layout.files(selected, options)) if layout else []
    if request.signer is not None:
        files = with_credentials(files, selected, request.signer)
    rows = [] if layout else plan_rows(selected, options)
    return PullPlan(selected, files, rows)


def _plan_decisions(
    source: ObjectReader,
    snapshot: str,
    request: PullRequest,
    decisions: DecisionsRequest,
    folder: Path,
) -> PullPlan:
    """Plan a pull of decided candidates. Raises as `make_plan`."""
    has_any = read_manifest(source, snapshot).decisions is not None
    found = select_decisions(source, snapshot, request.selection, decisions)
    selected = [one for one in found if request.takes(one.sample)]
    check_decisions(snapshot, selected, decisions, has_any=has_any)
    options = PullOptions(request.treatment, request.roles, folder.resolve(), request.shard_bytes)
    if request.format.layout:
        return PullPlan(selected, list(plan_files(selected, options, decisions)), [])
    return PullPlan(selected, [], plan_decision_rows(selected, options, decisions))


def pull_snapshot(
    source: ObjectReader,
    snapshot: str,
    request: PullRequest,
    folder: Path,
    report: ProgressCallback = lambda _: None,
    *,
    info: Mapping[str, Any] | None = None,
) -> PullResult:
    """Pull a snapshot into a folder; an interrupted pull resumes, a later one fetches the rest.

    Args:
        source: Store of the snapshot.
        snapshot: Full id of the snapshot.
        request: The samples to pull, and their format.
        folder: The folder: new, empty, or with an earlier pull in the same format.
        report: Receives the progress.
        info: Metadata of the snapshot in the instance, for the card.

    Returns:
        Counts of files and bytes.

    Raises:
        NotFound: The snapshot, a part or a layer is not in the store.
        Corrupt: An object is damaged.
        Refused: Nothing is selected, or the folder holds something else.
    """
    plan = make_plan(source, snapshot, request, folder)
    record = PullRecord(folder)
    description = describe(snapshot, request)
    check_folder(record, description)
    record.open()
    try:
        keep_manifest(source, record, snapshot)
        if request.format.layout:
            result = write_files(source, record, plan.files, report, request.workers)
        else:
            result = write_shards(
                source, record, plan.rows, _shard_format(request, folder), report,
                workers=request.workers, shard_bytes=request.shard_bytes,
                image_type=request.treatment.image_type,
            )  # fmt: skip
        manifest = read_manifest(source, snapshot)
        files = list(record.files.values())
        for file in description_files(manifest, plan.selected, description, info or {}, files):
            record.add(write_file(folder, file, file.text))
    except BaseException:
        record.stop()
        raise
    record.close(description | {"samples": len(plan.selected)})
    record.forget_manifests(keep=[snapshot, *snapshot_objects(source, snapshot)])
    return replace(result, samples=len(plan.selected))


def describe(snapshot: str, request: PullRequest) -> dict[str, Any]:
    """Return snapshot and options as JSON, as the record of a pull keeps them."""
    decisions = {"decisions": request.decisions.record()} if request.decisions else {}
    return decisions | {
        "snapshot": snapshot,
        "layout": request.format.name,
        "layers": [str(role) for role in request.roles],
        "selection": request.selection.record(),
        "treatment": request.treatment.record(),
    }


def _shard_format(request: PullRequest, folder: Path) -> ShardFormat:
    if request.format.name == "parquet":
        options = PullOptions(request.treatment, request.roles, folder)
        return ParquetFormat(
            request.decisions.columns(options) if request.decisions else sample_table(options)
        )
    return WebDatasetFormat()
