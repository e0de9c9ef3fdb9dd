"""Subject segmentation by a transformers model, in place of GrabCut."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from curation.errors import Refused
from training.pretrained.loading import load_model, revision_of


def open_segmenter(model: str) -> Segmenter:
    """Load a segmentation model with one label, two labels, or a label "background".

    Args:
        model: A hub id or a folder.

    Raises:
        NotFound: The model does not exist.
        Refused: It has no background label, or needs code beside its weights, which is never run
            (such as BiRefNet as its authors publish it).
    """
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    load_processor: Any = AutoImageProcessor.from_pretrained  # untyped in transformers

    try:
        network = load_model(AutoModelForSemanticSegmentation, model)
        processor = load_processor(model, backend="pil")
    except Refused as error:
        if "custom code" in error.message or "remote_code" in error.message:
            hint = "use an architecture of transformers itself; code beside weights is never run"
            raise Refused(f"{model} needs custom code", hint) from error
        raise
    except (OSError, ValueError, ImportError) as error:
        hint = "the processor's configuration belongs beside the weights; download the whole model"
        raise Refused(
            f"{model} has weights but no processor: {str(error).splitlines()[0][:200]}", hint
        ) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Segmenter(network.to(device).eval(), processor, f"{model}@{revision_of(model, network)}")


class Segmenter:
    """A segmentation model that finds the subject of an image."""

    def __init__(self, network: Any, processor: Any, source: str) -> None:
        """Find the label of the background. Raises Refused if there is none."""
        self.network, self.processor, self.source = network, processor, source
        names = {int(label): str(name).lower() for label, name in network.config.id2label.items()}
        labels = [label for label, name in names.items() if name in {"background", "bg"}]
        if not labels and len(names) > 2:
            raise Refused(
                f"{source} has {len(names)} labels and none for the background",
                "use a model with a label 'background'",
            )
        self.background = labels[0] if labels else 0
        self.single = len(names) == 1

    @torch.inference_mode()
    def find_subject(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return the mask of the likely subject: H x W of an H x W x 3 image."""
        inputs = self.processor(images=Image.fromarray(image), return_tensors="pt").to(
            self.network.device
        )
        logits_BLHW = self.network(**inputs).logits.float()
        # Logits are resized before the softmax, which keeps the outline smooth.
        resized_BLHW = torch.nn.functional.interpolate(
            logits_BLHW, image.shape[:2], mode="bilinear"
        )
        probability_HW = (
            resized_BLHW[0, 0].sigmoid()
            if self.single
            else 1 - resized_BLHW[0].softmax(0)[self.background]
        )
        found: NDArray[np.bool_] = (probability_HW > 0.5).cpu().numpy()
        return found
