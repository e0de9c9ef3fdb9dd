"""The public Python API: snapshots as datasets, pipelines for transparent images, and generation.

    import layerloop

    dataset = layerloop.open_snapshot("latest").dataset("train", size=512)
    image = layerloop.generate("a glass bottle", seed=7)[0]["foreground"]

Every name is imported on first use, so that `import layerloop` is fast and needs neither PyTorch
nor a database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation.datasets.decision_records import DecisionRecord as DecisionRecord
    from layerloop.decisions import Decisions as Decisions
    from layerloop.decisions import PreferencePair as PreferencePair
    from layerloop.generation import generate
    from layerloop.snapshot import Snapshot, open_snapshot
    from training.data.dataset import LayerDataset as LayerDataset
    from training.data.decision_dataset import DecisionBatch as DecisionBatch
    from training.data.decision_dataset import DecisionDataset as DecisionDataset
    from training.data.loader import LayerBatch as LayerBatch
    from training.data.loader import LayerLoader as LayerLoader
    from training.draw_batches import starting_noise
    from training.pipelines import (
        BackgroundToBlendedPipeline,
        BackgroundToForegroundPipeline,
        ForegroundToBackgroundPipeline,
        ForegroundToBlendedPipeline,
        LayersTogetherPipeline,
        TransparentImageToImagePipeline,
        TransparentPipeline,
        TransparentUpscalePipeline,
        load_transparency,
    )

    __version__: str

__all__ = [
    "BackgroundToBlendedPipeline",
    "BackgroundToForegroundPipeline",
    "DecisionBatch",
    "DecisionDataset",
    "DecisionRecord",
    "Decisions",
    "ForegroundToBackgroundPipeline",
    "ForegroundToBlendedPipeline",
    "LayerBatch",
    "LayerDataset",
    "LayerLoader",
    "LayersTogetherPipeline",
    "PreferencePair",
    "Snapshot",
    "TransparentImageToImagePipeline",
    "TransparentPipeline",
    "TransparentUpscalePipeline",
    "__version__",
    "generate",
    "load_transparency",
    "open_snapshot",
    "starting_noise",
]

# Where each name is defined; names that are not here are exported by training.pipelines.
_DEFINED_IN = {
    "DecisionBatch": "training.data.decision_dataset:DecisionBatch",
    "DecisionDataset": "training.data.decision_dataset:DecisionDataset",
    "DecisionRecord": "curation.datasets.decision_records:DecisionRecord",
    "Decisions": "layerloop.decisions:Decisions",
    "LayerBatch": "training.data.loader:LayerBatch",
    "LayerDataset": "training.data.dataset:LayerDataset",
    "LayerLoader": "training.data.loader:LayerLoader",
    "PreferencePair": "layerloop.decisions:PreferencePair",
    "Snapshot": "layerloop.snapshot:Snapshot",
    "generate": "layerloop.generation:generate",
    "open_snapshot": "layerloop.snapshot:open_snapshot",
    "starting_noise": "training.draw_batches:starting_noise",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Submodules that need PyTorch or a database are imported here, by the first access to a name.
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("layerloop")
    else:
        module, _, attribute = _DEFINED_IN.get(name, f"training.pipelines:{name}").partition(":")
        value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value  # the next access finds it without __getattr__
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
