"""Prompts as tensors: a hashing tokenizer without a vocabulary, and a small trained encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.presets.preset import Preset
from training.presets.tokenization import split_words

PAD, START = 0, 1
"""Tokens that no word hashes to; every prompt, also the empty one, begins with START."""


def tokenize(texts: Sequence[str], vocabulary: int, length: int) -> Tensor:
    """Hash words to token ids, B x `length` int64: equal on every machine, and no word is unknown.

    Words are those of training.presets.tokenization. A word's id is the first 64 bits of its
    BLAKE2b, modulo the vocabulary. Two words may share an id: among 4,094 ids, 100 words collide in
    about one pair.

    Args:
        texts: The prompts.
        vocabulary: Number of token ids, including PAD and START.
        length: Length of all rows; longer prompts are truncated.
    """
    tokens_BL = torch.full((len(texts), length), PAD)
    for row, text in enumerate(texts):
        ids = [START, *(_token_id(word, vocabulary) for word in split_words(text))][:length]
        tokens_BL[row, : len(ids)] = torch.tensor(ids)
    return tokens_BL


def _token_id(word: str, vocabulary: int) -> int:
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return START + 1 + int.from_bytes(digest, "little") % (vocabulary - START - 1)


class TextEncoder(nn.Module):
    """Encodes tokens for cross-attention: embeddings, positions and pre-norm transformer layers."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.vocabulary, self.length = preset.text_vocabulary, preset.text_length
        width = preset.text_width
        self.words = nn.Embedding(self.vocabulary, width, padding_idx=PAD)
        self.places = nn.Parameter(0.02 * torch.randn(self.length, width))
        layer = nn.TransformerEncoderLayer(
            width,
            nhead=max(1, width // 64),
            dim_feedforward=2 * width,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, preset.text_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return states, B x L x text_width, and mask, B x L (True at words)."""
        # Padding is masked in the encoder here and in the denoiser's cross-attention later.
        tokens_BL = tokenize(texts, self.vocabulary, self.length).to(self.places.device)
        mask_BL = tokens_BL != PAD
        states_BLD = self.layers(self.words(tokens_BL) + self.places, src_key_padding_mask=~mask_BL)
        return states_BLD, mask_BL
