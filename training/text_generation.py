"""Text generation with a language model of transformers."""

from __future__ import annotations

from typing import Any

import torch

from curation.errors import Refused
from training.pretrained.loading import load_model, revision_of

VARIETY = {"do_sample": True, "temperature": 1.0, "top_p": 0.95, "num_beams": 1}
"""How the next word is chosen: many likely ones, since the same question is asked again and again."""


def open_writer(model: str) -> LanguageModel:
    """A writer by a hub name or a folder, on the accelerator where there is one. Raises NotFound, Refused."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    load_tokenizer: Any = AutoTokenizer.from_pretrained  # transformers leaves it untyped

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    network = load_model(AutoModelForCausalLM, model, dtype=dtype)
    try:
        tokenizer = load_tokenizer(model)
    except (OSError, ValueError, ImportError) as error:
        hint = "its tokenizer lies beside its weights; fetch the whole model"
        raise Refused(
            f"{model} has weights but no tokenizer: {str(error).splitlines()[0][:200]}", hint
        ) from error
    return LanguageModel(
        network.to(device).eval(), tokenizer, f"{model}@{revision_of(model, network)}"
    )


class LanguageModel:
    """A Writer; the same question with the same seed gets the same answer on one machine."""

    def __init__(self, network: Any, tokenizer: Any, source: str) -> None:
        self.network, self.tokenizer, self.source = network, tokenizer, source

    @torch.inference_mode()
    def write(self, question: str, tokens: int, seed: int) -> str:
        """The model's answer, sampled (VARIETY)."""
        asked = self.tokenizer(
            self._spoken(question), return_tensors="pt", add_special_tokens=not self._talks
        )
        ids = asked["input_ids"].to(self.network.device)
        devices = [self.network.device] if self.network.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            answer = self.network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
                **VARIETY,
            )
        text: str = self.tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)
        return text.strip()

    @property
    def _talks(self) -> bool:
        """Whether the model was trained to be talked to; its template then brings the marks of beginning and end."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def _spoken(self, question: str) -> str:
        if not self._talks:
            return f"{question}\n"
        said = [{"role": "user", "content": question}]
        spoken: str = self.tokenizer.apply_chat_template(
            said, add_generation_prompt=True, tokenize=False
        )
        return spoken
