"""Text generation with a language model of transformers."""

from __future__ import annotations

from typing import Any

import torch

from curation.errors import Refused
from training.pretrained.loading import load_model, revision_of

SAMPLING = {"do_sample": True, "temperature": 1.0, "top_p": 0.95, "num_beams": 1}
"""Sampling settings for varied answers, since the same prompt is repeated with many seeds."""


def load_language_model(model: str) -> LanguageModel:
    """Load a language model from a hub id or a folder, onto the GPU if there is one.

    Args:
        model: A hub id or a folder of a transformers causal language model with its tokenizer.

    Raises:
        NotFound: The model does not exist.
        Refused: The model has no tokenizer, or is no such model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    load_tokenizer: Any = AutoTokenizer.from_pretrained  # untyped in transformers

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    network = load_model(AutoModelForCausalLM, model, dtype=dtype)
    try:
        tokenizer = load_tokenizer(model)
    except (OSError, ValueError, ImportError) as error:
        hint = "the tokenizer belongs beside the weights; download the whole model"
        raise Refused(
            f"{model} has weights but no tokenizer: {str(error).splitlines()[0][:200]}", hint
        ) from error
    return LanguageModel(
        network.to(device).eval(), tokenizer, f"{model}@{revision_of(model, network)}"
    )


class LanguageModel:
    """A text generator that gives the same answer to the same prompt and seed on one machine."""

    def __init__(self, network: Any, tokenizer: Any, source: str) -> None:
        self.network, self.tokenizer, self.source = network, tokenizer, source

    @torch.inference_mode()
    def generate(self, prompt: str, max_tokens: int, seed: int) -> str:
        """Sample an answer with the options of SAMPLING.

        Args:
            prompt: The prompt.
            max_tokens: The maximum number of new tokens.
            seed: The seed of the sampling.
        """
        # A chat template brings its own special tokens.
        inputs = self.tokenizer(
            self._formatted(prompt), return_tensors="pt", add_special_tokens=not self._is_chat
        )
        ids = inputs["input_ids"].to(self.network.device)
        # Sample from the seed without disturbing the process's random state.
        devices = [self.network.device] if self.network.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            answer = self.network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
                **SAMPLING,
            )
        text: str = self.tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)
        return text.strip()

    @property
    def _is_chat(self) -> bool:
        """Whether the tokenizer has a chat template, which then adds the special tokens."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def _formatted(self, question: str) -> str:
        """Format the prompt with the chat template, or as a line of plain text."""
        if not self._is_chat:
            return f"{question}\n"
        messages = [{"role": "user", "content": question}]
        text: str = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return text
