"""Captions by tiny random image-text-to-text models, loaded as large ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from curation.errors import NotFound, Refused
from training.captioning import load_captioner

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:", "what", "is", "this"]
WORDS += [f"word{number}" for number in range(50)]
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def write_llava(folder: Path, *, template: str | None = TEMPLATE) -> Path:
    """Write a tiny LLaVA: CLIP's vision encoder, a projector and a Llama; return its folder."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    text = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=1.0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    words = Tokenizer(
        WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return write_llava(tmp_path_factory.mktemp("llava"))


def test_captions_of_images_of_any_size_are_repeatable(llava):
    captioner = load_captioner(str(llava))
    images = _images(5)
    expected_text = captioner.caption(images, "what is this", 6)
    assert len(expected_text) == 5
    assert all(0 < len(text.split()) <= 6 for text in expected_text)
    assert len(set(expected_text)) > 1  # captions differ by image
    assert not any("<" in text or "what is this" in text for text in expected_text)
    assert load_captioner(str(llava)).caption(images, "what is this", 6) == expected_text
    assert captioner.caption([], "what is this", 6) == []


def test_captions_do_not_depend_on_the_batch(llava):
    captioner = load_captioner(str(llava))
    images = _images(4)
    together = captioner.caption(images, "what is this", 5)
    assert together == [captioner.caption([image], "what is this", 5)[0] for image in images]


def test_a_caption_equals_that_of_transformers(llava):
    """Compare with greedy generation by the network itself."""
    captioner = load_captioner(str(llava))
    processor, network = (
        captioner.processor,
        LlavaForConditionalGeneration.from_pretrained(llava).eval(),
    )
    image = _images(1)[0]
    inputs = processor(
        text="USER: <image> what is this ASSISTANT:", images=image, return_tensors="pt"
    )
    assert int((inputs["input_ids"] == 4).sum()) == 4  # a token for each patch of the image
    ids = inputs["input_ids"]
    for _ in range(4):
        logits = network(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        if int(ids[0, -1]) == 2:
            break
    wanted = processor.tokenizer.decode(
        ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert captioner.caption([image], "what is this", 4) == [wanted] != [""]


def test_a_model_without_a_chat_template_gets_the_plain_prompt(tmp_path):
    captioner = load_captioner(str(write_llava(tmp_path / "plain", template=None)))
    assert captioner._question("what is this") == "<image>\nwhat is this\n"
    assert captioner.caption(_images(1), "what is this", 3)


def test_the_source_names_the_weights(llava, tmp_path):
    source = load_captioner(str(llava)).source
    assert source.startswith(f"{llava}@")
    assert len(source.rsplit("@", 1)[1]) == 12
    copy = write_llava(tmp_path / "again")
    assert load_captioner(str(copy)).source.rsplit("@", 1)[1] == source.rsplit("@", 1)[1]
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert load_captioner(str(copy)).source.rsplit("@", 1)[1] != source.rsplit("@", 1)[1]


def test_models_that_cannot_be_loaded_are_refused(llava, tmp_path):
    with pytest.raises(NotFound, match="no folder"):
        load_captioner(str(tmp_path / "nowhere"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (bare / name).write_bytes((llava / name).read_bytes())
    with pytest.raises(Refused, match="no processor"):
        load_captioner(str(bare))


def _images(count):
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (9 + 3 * number, 20, 3), dtype=np.uint8) for number in range(count)
    ]
