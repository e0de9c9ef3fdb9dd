"""Loading of pretrained models by hub id or folder: safetensors only, with helpful errors."""

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
    """Raise Refused for a model that is a single file, with a hint on how to convert it."""
    path = Path(model).expanduser() if model else None
    if path is None or not path.is_file():
        return
    if path.suffix not in {".safetensors", ".sft"}:
        hint = "a pickle can run code when it is loaded; get a diffusers folder with safetensors"
        raise Refused(f"{model} is neither a diffusers folder nor a safetensors file", hint)
    folder = path.with_suffix("")
    # Name the pipeline class in the hint, so that the command works as it is.
    hint = (
        f'convert it to a folder: python -c "from diffusers import {_kind_of(path)} as P; '
        f"P.from_single_file('{path}').save_pretrained('{folder}')\"; then give {folder}"
    )
    raise Refused(f"{model} is a single file, and models must be diffusers folders", hint)


def _kind_of(path: Path) -> str:
    """Return the pipeline class of a single-file model, SDXL or not, by its tensor names."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            large = any(name.startswith("conditioner.embedders.1.") for name in names)
    except (SafetensorError, OSError) as error:
        raise Refused(
            f"{path} is not a complete safetensors file: {error}", "download it again"
        ) from error
    return "StableDiffusionXLPipeline" if large else "StableDiffusionPipeline"


def load_index(model: str) -> Mapping[str, Any]:
    """Return a pipeline's components and their classes (model_index.json).

    Raises:
        NotFound: The model does not exist.
        Refused: The model cannot be read.
    """
    from diffusers import DiffusionPipeline

    return load_config(DiffusionPipeline, model)


def check_model_paths(preset: Preset) -> None:
    """Check that the paths of a preset's models and weights exist, before anything is read.

    A hub id passes: whether it can be downloaded is known only when it is loaded.

    Raises:
        NotFound: A column names a path that does not exist.
        Refused: A folder has no readable model_index.json.
    """
    for model in filter(None, (preset.model, preset.inpainter)):
        check_model(model)
        if Path(model).is_dir():
            load_index(model)
        elif _is_path(model) and not Path(model).exists():
            raise NotFound(
                f"there is no folder {model}",
                "give a folder written by save_pretrained, or a hub id",
            )
    if preset.perceptual and not Path(preset.perceptual).is_file():
        raise NotFound(
            f"there is no file {preset.perceptual}",
            "docs/guides/training.md describes how to save LPIPS weights",
        )


def _is_path(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or Path(model).exists()


def load_config(kind: Any, model: str, subfolder: str | None = None) -> Mapping[str, Any]:
    """Return the configuration of a model or of one of its components.

    Args:
        kind: A diffusers or transformers class.
        model: A hub id or a folder.
        subfolder: The subfolder of the component.

    Raises:
        NotFound: The model does not exist.
        Refused: The model cannot be read.
    """
    config: Mapping[str, Any] = _load(kind.load_config, model, subfolder=subfolder)
    return config


def load_pipeline(model: str, kind: str, variant: str | None = None, **parts: Any) -> Any:
    """Load a diffusers pipeline without its autoencoder and safety checkers.

    Args:
        model: A hub id, or a folder written by save_pretrained.
        kind: The diffusers class.
        variant: The variant of the files, such as "fp16".
        parts: Components and options to pass, such as vae or dtype.

    Raises:
        NotFound: The model does not exist.
        Refused: The model cannot be read.
    """
    import diffusers

    index = load_index(model)
    excluded = {name: None for name in _UNUSED if name in index}
    if "requires_safety_checker" in index:
        excluded["requires_safety_checker"] = False  # type: ignore[assignment]
    return _load(
        getattr(diffusers, kind).from_pretrained,
        model,
        variant=variant,
        use_safetensors=True,
        **(excluded | parts),
    )


def load_model(
    kind: Any, model: str, subfolder: str | None = None, variant: str | None = None, **options: Any
) -> Any:
    """Load one network of a model.

    Args:
        kind: A diffusers or transformers class.
        model: A hub id or a folder.
        subfolder: The subfolder of the network.
        variant: The variant of the files, such as "fp16".
        options: Further arguments of `from_pretrained`.

    Raises:
        NotFound: The model does not exist.
        Refused: The model cannot be read.
    """
    return _load(
        kind.from_pretrained,
        model,
        subfolder=subfolder,
        variant=variant,
        use_safetensors=True,
        **options,
    )


def revision_of(model: str, network: Any) -> str:
    """Return a model's revision: the hub's commit, or a hash of the folder's files; 12 digits."""
    if not Path(model).is_dir():
        return str(getattr(network.config, "_commit_hash", None) or "unknown")[:12]
    digest = hashlib.sha256()
    for path in sorted([*Path(model).glob("*.json"), *Path(model).glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _load(load: Any, model: str, **options: Any) -> Any:
    """Call a loading function and convert its errors."""
    check_model(model)
    given = {name: value for name, value in options.items() if value is not None or name in _UNUSED}
    try:
        return load(model, **given)
    except (OSError, ValueError, SafetensorError) as error:
        raise _explain(model, options.get("variant"), error) from error


def _explain(model: str, variant: str | None, error: Exception) -> NotFound | Refused:
    """Convert an exception of diffusers or transformers to an error with a hint."""
    folder = Path(model)
    first_line = (
        str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    )
    # A folder: pickled weights, a wrong variant, or missing files.
    if folder.is_dir():
        pickles = sorted(
            path.name for pattern in ("*.bin", "*.ckpt", "*.pt") for path in folder.rglob(pattern)
        )
        if pickles and not list(folder.rglob("*.safetensors")):
            hint = "save it as safetensors; pickled weights can run code and are never loaded"
            return Refused(f"{model} has only pickled weights ({pickles[0]})", hint)
        return Refused(
            f"{model} is not a complete diffusers model: {first_line}", _variants(folder, variant)
        )
    if _is_path(model):
        return NotFound(
            f"there is no folder {model}", "give a folder written by save_pretrained, or a hub id"
        )
    hint = (
        "download it once ('hf download NAME'), or --set model=FOLDER; "
        "HF_HOME is the folder of downloads"
    )
    return NotFound(f"the model {model!r} cannot be downloaded: {first_line}", hint)


def _variants(folder: Path, variant: str | None) -> str:
    """Return a hint for a folder that lacks the requested variant."""
    if variant:
        return f"try it without the variant {variant!r} (--set variant=none)"
    names = [path.name.split(".") for path in folder.rglob("*.safetensors")]
    found = sorted({parts[1] for parts in names if len(parts) == 3 and "-of-" not in parts[1]})
    return (
        f"its files are of a variant: --set variant={found[0]}"
        if found
        else "give a folder written by save_pretrained"
    )
