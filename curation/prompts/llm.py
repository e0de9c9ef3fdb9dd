"""Asking a language model for triples, until there are enough: what it repeats or breaks is counted and left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from curation.domain import Progress, Prompt
from curation.errors import Refused
from curation.ports import Report, TextGenerator
from curation.prompts.grammar import speak
from curation.prompts.pair_files import write_line
from curation.prompts.parse import Refusal, read_answer

AT_ONCE = 20
"""Triples that are asked for in one go: later ones of a long answer repeat the earlier ones."""
TOKENS = AT_ONCE * 120
PATIENCE = 8
"""Askings in a row that may bring nothing new."""
EXAMPLES = 3
SHOWN = 5
"""Refused lines that are remembered as they were."""


@dataclass
class Tally:
    """What asking came to: askings, triples kept, and refused lines by their reason, with the first few in full."""

    asked: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lines: list[Refusal] = field(default_factory=list)

    def refuse(self, reason: str, line: str) -> None:
        """Count a line that is left out."""
        self.refused[reason] += 1
        if len(self.lines) < SHOWN:
            self.lines.append((reason, line))


def ask(
    writer: TextGenerator,
    known: Sequence[Prompt],
    count: int,
    seed: int,
    keep: Callable[[list[Prompt]], None],
    report: Report,
) -> Tally:
    """Ask until `count` triples are known, handing the new ones of each answer to `keep`.

    An asking is told apart by seed, by how many triples there are and by how often it was asked in vain, so that one
    that goes on from a file asks what one that was never stopped would have asked. Raises Refused after PATIENCE
    askings in a row without anything new, and what the writer raises; what was kept stays.
    """
    tally, seen, vain = Tally(), {_same(prompt) for prompt in known}, 0
    while len(seen) < count:
        report(Progress("triples", len(seen), count))
        question, number = compose(seed, len(seen), vain)
        answer = read_answer(writer.write(question, TOKENS, number))
        tally.asked += 1
        new: list[Prompt] = []
        for reason, line in answer.refused:
            tally.refuse(reason, line)
        for prompt in answer.prompts:
            if _same(prompt) in seen:
                tally.refuse("a repetition", prompt.text[:80])
            elif len(seen) < count:
                seen.add(_same(prompt))
                new.append(prompt)
        vain = 0 if new else vain + 1
        tally.kept += len(new)
        if new:
            keep(new)
        if vain == PATIENCE:
            told = ", ".join(f"{reason} {times}" for reason, times in tally.refused.most_common())
            raise Refused(
                f"{writer.source} gave nothing new in {PATIENCE} askings; refused: {told or 'nothing'}",
                "what was kept stays; take a larger model, another --seed, or fill up with --maker grammar",
            )
    report(Progress("triples", count, count))
    return tally


def compose(seed: int, known: int, vain: int) -> tuple[str, int]:
    """What the model is asked, and the number that its randomness begins from.

    The examples are of the grammar, others each time: they show the form, and lead to other subjects.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed}:{known}:{vain}".encode()).digest()[:4], "big")
    examples = "".join(write_line(prompt) for prompt in islice(speak(number), EXAMPLES))
    return QUESTION.format(count=AT_ONCE, examples=examples), number


QUESTION = """\
Write {count} ideas for pictures that consist of a foreground and a background. Each idea is one line of JSON with \
exactly three texts:
"foreground": one subject alone, with what it looks like, and no place;
"background": the place with nothing in it, without the subject;
"text": the subject in that place, as one sentence.
For example:
{examples}
Use other subjects and places than these, and everyday words. Let subjects stand where they can really be. \
Answer with the {count} lines of JSON and nothing else.
"""


def _same(prompt: Prompt) -> tuple[str, ...]:
    """Triples that differ in capitals and full stops alone are one."""
    return tuple(
        str(text).lower().strip(" .")
        for text in (prompt.text, prompt.foreground, prompt.background)
    )
