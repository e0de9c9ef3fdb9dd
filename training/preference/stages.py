"""The training stages of base and layer adapters on decisions, by Diffusion-KTO or -DPO."""

from __future__ import annotations

from training.denoiser.stage import DenoiserStage
from training.layers.stage import LayersStage
from training.preference.objective import DPOObjective, KTOObjective


class KTOStage(KTOObjective, DenoiserStage):
    """Trains the base by Diffusion-KTO on single accepts and rejects."""


class DPOStage(DPOObjective, DenoiserStage):
    """Trains the base by Diffusion-DPO on pairs of an accept and a reject."""


class LayersKTOStage(KTOObjective, LayersStage):
    """Trains layer adapters by Diffusion-KTO on accepted and rejected layer sets."""


class LayersDPOStage(DPOObjective, LayersStage):
    """Trains layer adapters by Diffusion-DPO on pairs of layer sets."""
