"""Pretrained models by their hub name or folder: safetensors only, and a missing file told with what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from curation.errors import NotFound, Refused
from training.presets.preset import Preset

_UNUSED = ("vae", "safety_checker", "feature_extractor", "image_encoder")


def check_model(model: str | None) -> None:
    """Refuse a model that is one file, at once and with the command that makes a folder of it. Raises Refused."""
    path = Path(model).expanduser() if model else None
    if path is None or not path.is_file():
        return
    if path.suffix not in {".safetensors", ".sft"}:
        hint = "its pickle could run code when it is read; get the model as safetensors, in a folder of diffusers"
        raise Refused(
            f"{model} is a file of another kind than safetensors, not a folder of diffusers", hint
        )
    folder = path.with_suffix("")
    hint = (
        f'make a folder of it once: python -c "from diffusers import {_kind_of(path)} as P; '
        f"P.from_single_file('{path}').save_pretrained('{folder}')\"; then give {folder}"
    )
    raise Refused(f"{model} is a single file, and models are read from folders of diffusers", hint)


def _kind_of(path: Path) -> str:
    """The pipeline class of a single-file model, by its tensors' names; SD 1.5's and 2.1's where it is not SDXL."""
    try:
        with safe_open(path, framework="pt") as file:
            large = any(name.startswith("conditioner.embedders.1.") for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Refused(
            f"{path} is no whole safetensors file: {error}", "download it again"
        ) from error
    return "StableDiffusionXLPipeline" if large else "StableDiffusionPipeline"


def load_index(model: str) -> Mapping[str, Any]:
    """The names and classes of a pipeline's parts (model_index.json). Raises NotFound, Refused."""
    from diffusers import DiffusionPipeline

    return load_config(DiffusionPipeline, model)


def check_sources(preset: Preset) -> None:
    """Refuse a preset whose models or weights are paths to nothing, before anything else is read.

    A hub id passes: whether it can be fetched is known when it is loaded.

    Raises:
        NotFound: A column names a path, and nothing is there.
        Refused: A folder holds no model_index.json that can be read.
    """
    for model in filter(None, (preset.model, preset.inpainter)):
        check_model(model)
        if Path(model).is_dir():
            load_index(model)
        elif _is_path(model) and not Path(model).exists():
            raise NotFound(
                f"there is no folder {model}",
                "give a folder as save_pretrained writes it, or a hub id",
            )
    if preset.perceptual and not Path(preset.perceptual).is_file():
        raise NotFound(
            f"there is no file {preset.perceptual}",
            "the README says how weights of LPIPS are written",
        )


def _is_path(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or Path(model).exists()


def load_config(kind: Any, model: str, subfolder: str | None = None) -> Mapping[str, Any]:
    """The configuration of a model or of one of its parts. Raises NotFound, Refused."""
    config: Mapping[str, Any] = _told(kind.load_config, model, subfolder=subfolder)
    return config


def load_pipeline(model: str, kind: str, variant: str | None = None, **parts: Any) -> Any:
    """A pipeline of the diffusers class `kind` without its autoencoder and its checkers, unless `parts` brings them.

    model: a hub id, or a folder as save_pretrained writes it. Raises NotFound, Refused.
    """
    import diffusers

    index = load_index(model)
    without = {name: None for name in _UNUSED if name in index}
    if "requires_safety_checker" in index:
        without["requires_safety_checker"] = False  # type: ignore[assignment]
    return _told(
        getattr(diffusers, kind).from_pretrained,
        model,
        variant=variant,
        use_safetensors=True,
        **(without | parts),
    )


def load_model(
    kind: Any, model: str, subfolder: str | None = None, variant: str | None = None, **options: Any
) -> Any:
    """One network of a model, of a diffusers or transformers class. Raises NotFound, Refused."""
    return _told(
        kind.from_pretrained,
        model,
        subfolder=subfolder,
        variant=variant,
        use_safetensors=True,
        **options,
    )


def revision_of(model: str, network: Any) -> str:
    """The commit that a hub fetched, or the first 12 digits of the sha256 of a folder's configuration and weights."""
    if not Path(model).is_dir():
        return str(getattr(network.config, "_commit_hash", None) or "unknown")[:12]
    digest = hashlib.sha256()
    for path in sorted([*Path(model).glob("*.json"), *Path(model).glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _told(load: Any, model: str, **options: Any) -> Any:
    """What `load` gives; its errors in our words."""
    check_model(model)
    given = {name: value for name, value in options.items() if value is not None or name in _UNUSED}
    try:
        return load(model, **given)
    except (OSError, ValueError, SafetensorError) as error:
        raise _explain(model, options.get("variant"), error) from error


def _explain(model: str, variant: str | None, error: Exception) -> NotFound | Refused:
    folder = Path(model)
    said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    if folder.is_dir():
        pickles = sorted(
            path.name for pattern in ("*.bin", "*.ckpt", "*.pt") for path in folder.rglob(pattern)
        )
        if pickles and not list(folder.rglob("*.safetensors")):
            hint = "save it again as safetensors; pickled weights run code when they are read, so none is"
            return Refused(f"{model} holds pickled weights only ({pickles[0]})", hint)
        return Refused(
            f"{model} is no whole model of diffusers: {said}", _variants(folder, variant)
        )
    if _is_path(model):
        return NotFound(
            f"there is no folder {model}", "give a folder as save_pretrained writes it, or a hub id"
        )
    hint = "download it once ('hf download NAME'), or --set model=FOLDER; HF_HOME says where downloads are kept"
    return NotFound(f"the model {model!r} cannot be fetched: {said}", hint)


def _variants(folder: Path, variant: str | None) -> str:
    """What to do where a folder's files are not those that were asked for."""
    if variant:
        return f"its plain files may be there: without the variant {variant!r} (--set variant=none)"
    names = [path.name.split(".") for path in folder.rglob("*.safetensors")]
    found = sorted({parts[1] for parts in names if len(parts) == 3 and "-of-" not in parts[1]})
    return (
        f"its files are of a variant: --set variant={found[0]}"
        if found
        else "give a folder of save_pretrained"
    )
