"""Import of other programs' files as a checkpoint: networks, base and autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from curation import __version__
from curation.domain import Checkpoint, Progress, canonical_json
from curation.errors import Refused
from curation.object_store import compute_sha256
from curation.ports import ImportResult, ObjectStore, ProgressCallback, WeightsFile
from training.external_weights import WeightsHeader
from training.interop import own_format
from training.interop.adapters import PartTensors
from training.interop.denoiser_weights import check_base, read_base
from training.interop.formats import WeightFormat
from training.interop.modes import ModeMatch, find_mode
from training.interop.transparency_weights import TransparencyWeights, read_networks, recognize_each
from training.presets.preset import Preset
from training.presets.presets import find_preset
from training.pretrained.families import check_family, find_family
from training.pretrained.loading import check_model
from training.safetensors_io import save_part
from training.transparency.autoencoder import Autoencoder, fit_autoencoder

RECIPE = "imported"

_Base = tuple[WeightFormat, WeightsHeader, ModeMatch]

_SCALES = {
    "given": "offset scale {scale:g}, as given",
    "file": "offset scale {scale:g}, as stated in the encoder's file",
    "assumed": (
        "offset scale {scale:g} is assumed, since the encoder's file does not state it: correct "
        "for layerdiffusion-v1; the encoder of LayerDiffuse_Diffusers (ld_diffusers_*) needs "
        "--offset-scale 300 and cannot be told apart by its content"
    ),
    "flux": (
        "offset scale {scale:g}, that of the Flux port of LayerDiffuse, the only one whose "
        "encoder has 16 channels"
    ),
    "preset": (
        "no encoder was given: images are encoded without an offset; generation does not need it"
    ),
}


def import_checkpoint(
    files: Sequence[Path],
    preset: str,
    changes: Mapping[str, str],
    store: ObjectStore | None,
    report: ProgressCallback,
) -> ImportResult:
    """Import released files as one checkpoint (the port LAYERLOOP_IMPORTER).

    Nothing is stored before all files have been checked.

    Args:
        files: A decoder, optionally an encoder, and optionally bases, which may be of different
            layer modes; recognized by content. Or a checkpoint in Layerloop's own format.
        preset: The name of the preset.
        changes: Overrides of the preset's columns; "offset_scale" among them is the encoder's.
        store: The store to write to, or None to only check the files.
        report: The progress callback.

    Returns:
        The checkpoint (None without a store), the files found, and notes for the user.

    Raises:
        NotFound: A file, the preset or a model does not exist.
        Refused: A file is not supported, or the files do not fit together.
    """
    # A checkpoint that Layerloop exported is imported unchanged.
    folder = own_format.find_own(files)
    if folder is not None:
        return _import_own(folder, changes, store)
    row = find_preset(preset, changes)
    if row.model is None:
        raise Refused(
            f"preset {preset!r} has no pretrained model to import weights for",
            "use sd15, sd21 or sdxl",
        )
    check_model(row.model)
    # Recognize the files, then read and check all of them before anything is stored.
    bases, headers = _sort(recognize_each(files))
    report(Progress("reading", 0, len(files)))
    given = row.offset_scale if "offset_scale" in changes else None
    networks = read_networks(headers, row, given)
    read = {part: read_base(header, layout) for part, (layout, header, _) in bases.items()}
    if read:
        check_family(row.model, find_family(str(row.family)))
    for base in read.values():
        check_base(*base, row)
    # Describe each file for the user.
    found = [_describe(header, layout.part, str(layout)) for layout, header in headers.items()]
    for part, (layout, header, mode) in bases.items():
        found.append(
            _describe(header, part, f"{layout}, {mode.mode}" if mode.mode else str(layout))
        )
    report(Progress("reading", len(files), len(files)))
    notes = [_SCALES[networks.scale_from].format(scale=networks.offset_scale), *_remarks(bases)]
    if store is None:
        return ImportResult(None, found, notes)
    all_changes = _changes(changes, row, networks)
    return ImportResult(_store(store, found, row, all_changes, networks, read), found, notes)


def _import_own(
    folder: Path, changes: Mapping[str, str], store: ObjectStore | None
) -> ImportResult:
    """Import a checkpoint of another installation. Raises NotFound, Refused."""
    if changes:
        hint = "import it as it is, then 'layerloop checkpoint derive' it"
        raise Refused("a checkpoint in Layerloop's own format is imported unchanged", hint)
    checkpoint, found = own_format.read_own(folder, store)
    row = find_preset(checkpoint.preset, checkpoint.changes)
    # A path of the exporting machine may not exist here.
    notes = [f"checkpoint {checkpoint.id[:12]} as it was exported"]
    if row.model is not None and Path(row.model).is_absolute() and not Path(row.model).is_dir():
        notes.append(
            f"its model {row.model} does not exist here: layerloop checkpoint derive "
            f"{checkpoint.id[:12]} --set model=..."
        )
    return ImportResult(None if store is None else checkpoint, found, notes)


def _sort(
    files: Sequence[tuple[WeightFormat, WeightsHeader]],
) -> tuple[dict[str, _Base], dict[WeightFormat, WeightsHeader]]:
    """Separate bases, by the part each becomes, from networks. Raises Refused for duplicates."""
    bases: dict[str, _Base] = {}
    networks: dict[WeightFormat, WeightsHeader] = {}
    for layout, header in files:
        if layout.part != "base":
            if layout in networks:
                raise Refused(
                    f"{networks[layout].path} and {header.path} are both: {layout}",
                    "give one of them",
                )
            networks[layout] = header
            continue
        mode = find_mode(header, layout)
        # An export for PEFT has its base in two files with equal tensors: accept both.
        if mode.part in bases and not _same_base(bases[mode.part], (layout, header, mode)):
            kind = str(mode.mode) if mode.mode else "single foregrounds"
            both = f"{bases[mode.part][1].path} and {header.path}"
            raise Refused(
                f"{both} are bases of one kind ({kind})",
                "a checkpoint has one of each kind: give one of them",
            )
        bases.setdefault(mode.part, (layout, header, mode))
    return bases, networks


def _same_base(first: _Base, second: _Base) -> bool:
    """Return whether two files hold the same base under different names."""
    (tensors, facts), (second_tensors, second_facts) = (
        read_base(header, layout) for layout, header, _ in (first, second)
    )
    if facts != second_facts or tensors.keys() != second_tensors.keys():
        return False
    return all(torch.equal(tensors[name], second_tensors[name]) for name in tensors)


def _describe(header: WeightsHeader, part: str, what: str) -> WeightsFile:
    return WeightsFile(
        path=str(header.path),
        sha256=_digest(header),
        what=what,
        part=part,
        tensors=len(header.shapes),
        numbers=header.parameters,
    )


def _digest(header: WeightsHeader) -> str:
    """Return the sha256 of a file, or of the concatenated digests of its shards."""
    each = [compute_sha256(path) for path in header.files or (header.path,)]
    return each[0] if len(each) == 1 else compute_sha256("".join(each).encode())


def _remarks(bases: Mapping[str, _Base]) -> list[str]:
    """Return notes on the limits of the imported bases."""
    if not bases:
        return ["no base was given: this checkpoint can decode but not generate"]
    doubts = [mode.doubt for _, _, mode in bases.values() if mode.doubt]
    from_text = {"base", "joint"} & bases.keys()
    return (
        doubts
        if from_text
        else [*doubts, "this checkpoint generates only around given layers, not from text alone"]
    )


def _changes(
    changes: Mapping[str, str], preset: Preset, networks: TransparencyWeights
) -> dict[str, str]:
    """Add the offset scale to the preset's overrides, so that derived checkpoints inherit it."""
    differs = networks.offset_scale != preset.offset_scale
    return dict(changes) | ({"offset_scale": repr(networks.offset_scale)} if differs else {})


def _store(
    store: ObjectStore,
    found: Sequence[WeightsFile],
    preset: Preset,
    changes: Mapping[str, str],
    networks: TransparencyWeights,
    bases: Mapping[str, PartTensors],
) -> Checkpoint:
    """Store all parts with their sources and return the checkpoint."""
    # The autoencoder is that of the model; every part records its sources.
    autoencoder = _backbone(preset)
    facts = {"recipe": RECIPE, "preset": preset.name, "changes": canonical_json(dict(changes))}

    def keep(part: str, tensors: Mapping[str, Tensor], extra: Mapping[str, str]) -> str:
        sources = [
            asdict(file) | {"path": Path(file.path).name} for file in found if file.part == part
        ]
        return save_part(
            store, part, tensors, {**facts, "sources": canonical_json(sources), **extra}
        )

    parts = {
        "backbone": keep(
            "backbone",
            autoencoder.state_dict(),
            {**autoencoder.metadata(), "model": str(preset.model)},
        ),
        "transparency": keep(
            "transparency", networks.tensors, {"offset_scale": repr(networks.offset_scale)}
        ),
    }
    # Bases and layer modes are stored under the name of their part.
    for part, (tensors, metadata) in bases.items():
        parts[part] = keep(part, tensors, {**metadata, "model": str(preset.model)})
    return Checkpoint(parts, RECIPE, preset.name, None, None, 0, __version__, changes=changes)


def _backbone(preset: Preset) -> Autoencoder:
    """Load the model's autoencoder. Raises Refused if its channels differ from the preset's."""
    autoencoder = fit_autoencoder(preset, torch.empty(0))
    if autoencoder.latent_channels != preset.latent_channels:
        raise Refused(
            f"{preset.model} has {autoencoder.latent_channels} latent channels, preset "
            f"{preset.name!r} has {preset.latent_channels}",
            "choose the preset of its family, or --set latent_channels=...",
        )
    return autoencoder
