"""Prompts as tensors: equal token ids on every machine, and at least one state per prompt."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.denoiser.text import PAD, START, TextEncoder, tokenize
from training.presets.presets import PRESETS

MICRO = PRESETS["micro"]


def test_the_buckets_are_the_same_on_every_machine():
    """Golden: with another hash the embeddings of a checkpoint would be useless."""
    assert tokenize(["a red circle"], 4096, 6).tolist() == [[1, 186, 1447, 675, 0, 0]]


def test_case_punctuation_and_composition_have_no_effect():
    one = tokenize(["A  Red, circle!"], 4096, 8)
    assert torch.equal(one, tokenize(["a red circle"], 4096, 8))
    assert torch.equal(tokenize(["cafe\u0301"], 4096, 8), tokenize(["caf\u00e9"], 4096, 8))
    assert not torch.equal(tokenize(["cafe"], 4096, 8), tokenize(["caf\u00e9"], 4096, 8))


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=4), st.integers(8, 5000), st.integers(1, 20))
def test_any_text_becomes_buckets(texts, vocabulary, length):
    tokens = tokenize(texts, vocabulary, length)
    assert tokens.shape == (len(texts), length)
    assert (tokens[:, 0] == START).all()
    assert ((tokens >= 0) & (tokens < vocabulary)).all()
    assert (tokens[:, 1:] != START).all()
    for row in tokens:  # padding stands at the end only
        words = int((row != PAD).sum())
        assert (row[:words] != PAD).all()
        assert (row[words:] == PAD).all()


def test_long_prompts_are_truncated():
    assert torch.equal(tokenize(["one two three four"], 512, 3), tokenize(["one two"], 512, 3))


def test_the_grammar_of_the_procedural_seed_has_no_collisions():
    from curation.synthetic.shapes import SUBJECTS

    words = sorted({word.lower() for text in SUBJECTS for word in text.split()})
    buckets = tokenize(words, PRESETS["tiny"].text_vocabulary, 2)[:, 1]
    assert len(set(buckets.tolist())) == len(words)


def test_states_depend_on_words_and_order_and_not_on_the_batch():
    torch.manual_seed(0)
    encoder = TextEncoder(MICRO).eval()
    states, mask = encoder(
        ["red on blue", "blue on red", "", "a much longer prompt with many more words"]
    )
    assert states.shape == (4, MICRO.text_length, MICRO.text_width)
    assert mask.sum(1).tolist() == [4, 4, 1, 9]
    assert states.isfinite().all()
    assert not torch.allclose(states[0, :4], states[1, :4])
    alone, _ = encoder(["red on blue"])
    torch.testing.assert_close(alone[0, :4], states[0, :4])


def test_the_encoder_can_be_trained():
    encoder = TextEncoder(MICRO)
    states, mask = encoder(["a red circle"])
    states[mask].square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert encoder.words.weight.grad[PAD].eq(0).all()


@pytest.mark.parametrize("name", ["micro", "tiny"])
def test_every_word_of_a_short_prompt_fits(name):
    preset = PRESETS[name]
    assert (
        tokenize(["the letter A in purple"], preset.text_vocabulary, preset.text_length)
        .ne(PAD)
        .sum()
        == 6
    )
