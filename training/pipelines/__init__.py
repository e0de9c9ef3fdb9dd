"""Diffusers pipelines that generate transparent images and layers, usable without Layerloop."""

from training.pipelines.image_to_image import TransparentImageToImagePipeline
from training.pipelines.layers import LayersOutput
from training.pipelines.loading import load_transparency
from training.pipelines.pairs import (
    BackgroundToBlendedPipeline,
    BackgroundToForegroundPipeline,
    ForegroundToBackgroundPipeline,
    ForegroundToBlendedPipeline,
    LayersTogetherPipeline,
)
from training.pipelines.sizes import SDXL_SIZES, nearest_size
from training.pipelines.text_to_image import TransparentOutput, TransparentPipeline
from training.pipelines.upscale import TransparentUpscalePipeline

__all__ = [
    "SDXL_SIZES",
    "BackgroundToBlendedPipeline",
    "BackgroundToForegroundPipeline",
    "ForegroundToBackgroundPipeline",
    "ForegroundToBlendedPipeline",
    "LayersOutput",
    "LayersTogetherPipeline",
    "TransparentImageToImagePipeline",
    "TransparentOutput",
    "TransparentPipeline",
    "TransparentUpscalePipeline",
    "load_transparency",
    "nearest_size",
]
