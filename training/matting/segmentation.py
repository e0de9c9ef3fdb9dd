"""A segmentation model of transformers that finds the subject, in place of GrabCut."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from curation.errors import Refused
from training.pretrained.loading import load_model, revision_of


def open_segmenter(model: str) -> Segmenter:
    """A segmenter by a hub name or a folder: of two labels, of one, or with a label "background".

    Raises NotFound; Refused for a model without any, and for one whose code lies beside its weights, since nothing from
    outside is run (BiRefNet as its authors publish it).
    """
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    load_processor: Any = AutoImageProcessor.from_pretrained  # transformers leaves it untyped

    try:
        network = load_model(AutoModelForSemanticSegmentation, model)
        processor = load_processor(model, backend="pil")
    except Refused as error:
        if "custom code" in error.message or "remote_code" in error.message:
            hint = "give a model of transformers' own architectures; code that comes with weights is not run"
            raise Refused(f"{model} brings its own code", hint) from error
        raise
    except (OSError, ValueError, ImportError) as error:
        hint = "its processor's configuration lies beside its weights; fetch the whole model"
        raise Refused(
            f"{model} has weights but no processor: {str(error).splitlines()[0][:200]}", hint
        ) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Segmenter(network.to(device).eval(), processor, f"{model}@{revision_of(model, network)}")


class Segmenter:
    """Where a picture shows its subject."""

    def __init__(self, network: Any, processor: Any, source: str) -> None:
        """Raises Refused where no label is the background's."""
        self.network, self.processor, self.source = network, processor, source
        names = {int(place): str(name).lower() for place, name in network.config.id2label.items()}
        found = [place for place, name in names.items() if name in {"background", "bg"}]
        if not found and len(names) > 2:
            raise Refused(
                f"{source} has {len(names)} labels and none for the background", "give one that has"
            )
        self.background = found[0] if found else 0
        self.single = len(names) == 1

    @torch.inference_mode()
    def find_subject(self, picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Where what is not background is likelier than not: H x W of an H x W x 3 picture."""
        inputs = self.processor(images=Image.fromarray(picture), return_tensors="pt").to(
            self.network.device
        )
        logits_BLHW = self.network(**inputs).logits.float()
        whole_BLHW = torch.nn.functional.interpolate(
            logits_BLHW, picture.shape[:2], mode="bilinear"
        )
        likely_HW = (
            whole_BLHW[0, 0].sigmoid()
            if self.single
            else 1 - whole_BLHW[0].softmax(0)[self.background]
        )
        found: NDArray[np.bool_] = (likely_HW > 0.5).cpu().numpy()
        return found
