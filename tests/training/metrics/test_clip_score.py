"""CLIP score of a tiny random CLIP, loaded as a large one."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoProcessor, CLIPModel

from curation.errors import NotFound, Refused
from tests.support.clip_models import write_clip
from tests.training.pretrained import write_vae
from training.metrics import clip_score
from training.metrics.clip_score import load_clip_score

CPU = torch.device("cpu")
TEXTS = ["a red star", "sand", "the letter t over a field of grass", "water, " * 60]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def images(count):
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (9 + 3 * number, 20, 3), dtype=np.uint8) for number in range(count)
    ]


def test_the_score_is_the_cosine_of_both_embeddings(clip):
    network, processor = (
        CLIPModel.from_pretrained(clip).eval(),
        AutoProcessor.from_pretrained(clip, backend="pil"),
    )
    wanted = []
    for image, text in zip(images(4), TEXTS, strict=True):
        inputs = processor(text=[text], images=[Image.fromarray(image)], return_tensors="pt")
        with torch.no_grad():
            seen = network.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
            message = network.get_text_features(input_ids=inputs["input_ids"][:, :77]).pooler_output
        wanted.append(100 * max(0.0, float((normalize(seen) * normalize(message)).sum())))
    scores = load_clip_score(str(clip), CPU)(images(4), TEXTS)
    assert scores[:3] == pytest.approx(wanted[:3], abs=1e-3)
    assert all(0 <= score <= 100 for score in scores)
    assert len({round(score, 3) for score in scores}) > 1  # scores differ by image


def test_the_score_does_not_depend_on_the_batch(clip, monkeypatch):
    agree = load_clip_score(str(clip), CPU)
    together = agree(images(4), TEXTS)
    monkeypatch.setattr(clip_score, "BATCH", 1)
    assert agree(images(4), TEXTS) == pytest.approx(together, abs=1e-3)
    assert agree([], []) == []


def test_the_source_names_the_weights(clip):
    source = load_clip_score(str(clip), CPU).source
    assert source.startswith(f"{clip}@")
    assert len(source.rsplit("@", 1)[1]) == 12


def test_other_models_than_clip_are_refused(clip, tmp_path):
    with pytest.raises(NotFound, match="no folder"):
        load_clip_score(str(tmp_path / "nowhere"), CPU)
    with pytest.raises(Refused):
        load_clip_score(str(write_vae(tmp_path / "vae")), CPU)
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(Refused, match="type 'bert', not CLIP"):
        load_clip_score(str(other), CPU)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((clip / name).read_bytes())
    with pytest.raises(Refused, match="no processor"):
        load_clip_score(str(bare), CPU)
