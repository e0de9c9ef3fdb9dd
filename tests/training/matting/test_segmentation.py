"""Segmentation by models of transformers in place of GrabCut, on tiny models."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from curation.errors import NotFound, Refused
from training.matting.segmentation import open_segmenter


def write_segformer(folder, names):
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[3, 3], strides=[2, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16,
        id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)},
    )  # fmt: skip
    SegformerForSemanticSegmentation(config).eval().save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "names", [["background", "subject"], ["sky", "cat", "Background"], ["subject"], ["off", "on"]]
)
def test_the_subject_is_everything_but_the_background(tmp_path, names):
    segmenter = open_segmenter(str(write_segformer(tmp_path / "model", names)))
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    found = segmenter.find_subject(image)
    assert (found.shape, found.dtype) == ((40, 56), bool)
    assert np.array_equal(found, segmenter.find_subject(image))
    with torch.no_grad():
        inputs = segmenter.processor(images=cv2.resize(image, (32, 32)), return_tensors="pt")
        assert segmenter.network(**inputs).logits.shape[1] == len(names)
    for bias, everywhere in (
        (50.0, True),
        (-50.0, False),
    ):  # the subject is everywhere, or nowhere
        with torch.no_grad():
            head = segmenter.network.decode_head.classifier
            head.weight.zero_()
            head.bias.copy_(torch.full((len(names),), bias))
            if len(names) > 1:
                head.bias[segmenter.background] = -bias
        assert segmenter.find_subject(image).all() == everywhere
        assert segmenter.find_subject(image).any() == everywhere
    assert segmenter.source.startswith(f"{tmp_path}/model@")


def test_unusable_models_are_refused(tmp_path):
    with pytest.raises(Refused, match="3 labels and none for the background"):
        open_segmenter(str(write_segformer(tmp_path / "many", ["wall", "cat", "tree"])))
    with pytest.raises(NotFound, match="no folder"):
        open_segmenter(str(tmp_path / "nowhere"))
    custom = write_segformer(tmp_path / "custom", ["background", "subject"])
    config = json.loads((custom / "config.json").read_text())
    config |= {"model_type": "SegformerForImageSegmentation", "architectures": ["BiRefNet"]}
    config["auto_map"] = {
        "AutoConfig": "code.Config",
        "AutoModelForSemanticSegmentation": "code.Net",
    }
    (custom / "config.json").write_text(json.dumps(config))
    (custom / "code.py").write_text("raise SystemExit('custom code was run')\n")
    with pytest.raises(Refused, match="needs custom code"):
        open_segmenter(str(custom))
    bare = write_segformer(tmp_path / "bare", ["background", "subject"])
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(Refused, match="no processor"):
        open_segmenter(str(bare))
