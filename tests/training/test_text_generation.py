"""Text generation with transformers: a tiny Llama that was trained on one pair prompt."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from curation.errors import NotFound, Refused
from curation.prompts.llm import compose_request
from curation.prompts.pair_files import read_pair_prompts
from curation.prompts.parse import parse_completion
from tests.curation.cli.test_cli import call
from training.text_generation import load_language_model

ANSWER = '{ "text": "a cat in a garden", "foreground": "a cat", "background": "an empty garden" }'
WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "USER:",
    "ASSISTANT:",
    "picture",
    *dict.fromkeys(ANSWER.split()),
]
TEMPLATE = (
    "{% for m in messages %}{{ 'USER: ' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def write_llama(folder, *, learns=True, template=TEMPLATE):
    """Write a tiny Llama that generates ANSWER after "ASSISTANT:"; return its folder."""
    torch.manual_seed(0)
    words = Tokenizer(
        WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    if learns:
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        requested = [
            "a picture",
            compose_request(0, 0, 0)[0],
        ]  # the second is the first request of the command
        for step in range(160):
            question, answers = (
                tokenizer(text, add_special_tokens=False)["input_ids"]
                for text in (f"USER: {requested[step % 2]} ASSISTANT:", f"{ANSWER} </s>")
            )
            ids, labels = (
                torch.tensor([[*question, *answers]]),
                torch.tensor([[-100] * len(question) + answers]),
            )
            loss = network(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert float(loss.detach()) < 0.05
    network.eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def test_a_model_answers_by_its_chat_template(llama):
    writer = load_language_model(str(llama))
    assert writer.generate("a picture", 60, 0) == ANSWER
    assert len(parse_completion(writer.generate("a picture", 60, 0)).prompts) == 1
    assert len(writer.generate("a picture", 4, 0).split()) == 4
    assert writer.source.startswith(f"{llama}@")
    assert len(writer.source.rsplit("@", 1)[1]) == 12


def test_a_seed_determines_the_answer_and_does_not_change_global_randomness(tmp_path):
    writer = load_language_model(str(write_llama(tmp_path / "random", learns=False)))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    answers = [writer.generate("a picture", 12, seed) for seed in (0, 0, 1)]
    assert answers[0] == answers[1] != answers[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_a_template_continues_the_prompt(tmp_path):
    writer = load_language_model(str(write_llama(tmp_path / "plain", template=None)))
    assert writer._formatted("a picture") == "a picture\n"
    assert writer.generate("USER: a picture ASSISTANT:", 60, 0) == ANSWER


def test_models_that_cannot_be_loaded_are_refused(llama, tmp_path):
    with pytest.raises(NotFound, match="no folder"):
        load_language_model(str(tmp_path / "nowhere"))
    shutil.copytree(llama, tmp_path / "bare", ignore=shutil.ignore_patterns("token*"))
    with pytest.raises(Refused, match="no tokenizer"):
        load_language_model(str(tmp_path / "bare"))


def test_the_command_uses_the_model(llama, tmp_path):
    out = tmp_path / "prompts.jsonl"
    making = [
        "prompts",
        "generate",
        "--maker",
        "model",
        "--model",
        str(llama),
        "--out",
        str(out),
        "--count",
        "1",
    ]
    output = json.loads(call(*making, "--json"))
    assert (output["made"], [one.text for one in read_pair_prompts(out)]) == (
        1,
        ["a cat in a garden"],
    )
