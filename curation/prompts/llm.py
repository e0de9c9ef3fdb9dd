"""Generation of pair prompts by a language model; repeated and invalid lines are counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from curation.domain import Progress, Prompt
from curation.errors import Refused
from curation.ports import ProgressCallback, TextGenerator
from curation.prompts.grammar import generate
from curation.prompts.pair_files import write_line
from curation.prompts.parse import Rejection, parse_completion

PROMPTS_PER_REQUEST = 20
"""Prompts per request; in longer completions, later lines repeat earlier ones."""
MAX_TOKENS = PROMPTS_PER_REQUEST * 120
"""Token limit of a completion."""
MAX_FUTILE_REQUESTS = 8
"""Consecutive requests without a new prompt after which generation stops."""
EXAMPLES = 3
"""Example prompts per request."""
MAX_REJECTED_EXAMPLES = 5
"""Rejected lines that are kept as examples."""


@dataclass
class GenerationStats:
    """Result of a generation.

    Attributes:
        asked: Number of requests.
        kept: Number of new prompts.
        refused: Number of rejected lines by reason.
        lines: The first rejected lines.
    """

    asked: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lines: list[Rejection] = field(default_factory=list)

    def refuse(self, reason: str, line: str) -> None:
        """Count a rejected line."""
        self.refused[reason] += 1
        if len(self.lines) < MAX_REJECTED_EXAMPLES:
            self.lines.append((reason, line))


def generate_prompts(
    generator: TextGenerator,
    known: Sequence[Prompt],
    count: int,
    seed: int,
    on_new_prompts: Callable[[list[Prompt]], None],
    report: ProgressCallback,
) -> GenerationStats:
    """Query a language model until `count` pair prompts are known.

    A request depends only on the seed, the number of known prompts and the number of futile
    requests before it, so a resumed generation sends the same requests as an uninterrupted one.

    Args:
        generator: The language model.
        known: Prompts of an earlier run.
        count: Number of prompts to reach.
        seed: Seed of the requests.
        on_new_prompts: Receives the new prompts of each completion.
        report: Receives the progress.

    Returns:
        The counts of this run.

    Raises:
        Refused: MAX_FUTILE_REQUESTS consecutive requests gave no new prompt. Errors of the model
            are raised as well; prompts that were passed to `on_new_prompts` stay valid.
    """
    tally = GenerationStats()
    seen = {_normalized(prompt) for prompt in known}
    futile = 0
    while len(seen) < count:
        report(Progress("pair prompts", len(seen), count))
        request, request_seed = compose_request(seed, len(seen), futile)
        answer = parse_completion(generator.generate(request, MAX_TOKENS, request_seed))
        tally.asked += 1
        # Keep the new prompts; count repeated and invalid lines.
        new: list[Prompt] = []
        for reason, line in answer.refused:
            tally.refuse(reason, line)
        for prompt in answer.prompts:
            if _normalized(prompt) in seen:
                tally.refuse("a repetition", prompt.text[:80])
            elif len(seen) < count:
                seen.add(_normalized(prompt))
                new.append(prompt)
        # Save the new prompts before the next request, so that an interruption loses none.
        futile = 0 if new else futile + 1
        tally.kept += len(new)
        if new:
            on_new_prompts(new)
        if futile == MAX_FUTILE_REQUESTS:
            counts = ", ".join(f"{reason} {times}" for reason, times in tally.refused.most_common())
            raise Refused(
                f"{generator.source} returned nothing new in {MAX_FUTILE_REQUESTS} requests; "
                f"rejected lines: {counts or 'none'}",
                "the prompts so far are saved; use a larger model, another --seed, "
                "or add the rest with --maker grammar",
            )
    report(Progress("pair prompts", count, count))
    return tally


def compose_request(seed: int, known: int, futile: int) -> tuple[str, int]:
    """Compose one request.

    Its examples come from the grammar and differ each time: they show the format and lead the model
    to other subjects.

    Args:
        seed: Seed of the generation.
        known: Number of known prompts.
        futile: Number of consecutive futile requests before.

    Returns:
        The text of the request, and the seed for sampling the completion.
    """
    digest = hashlib.sha256(f"{seed}:{known}:{futile}".encode()).digest()
    request_seed = int.from_bytes(digest[:4], "big")
    examples = "".join(write_line(prompt) for prompt in islice(generate(request_seed), EXAMPLES))
    return REQUEST_TEMPLATE.format(count=PROMPTS_PER_REQUEST, examples=examples), request_seed


REQUEST_TEMPLATE = """\
Write {count} ideas for pictures that consist of a foreground and a background. \
Each idea is one line of JSON with exactly three texts:
"foreground": one subject alone, with what it looks like, and no place;
"background": the place with nothing in it, without the subject;
"text": the subject in that place, as one sentence.
For example:
{examples}
Use other subjects and places than these, and everyday words. \
Let subjects stand where they can really be. \
Answer with the {count} lines of JSON and nothing else.
"""


def _normalized(prompt: Prompt) -> tuple[str, ...]:
    """Return the texts without case and final periods, to find repetitions."""
    return tuple(
        str(text).lower().strip(" .")
        for text in (prompt.text, prompt.foreground, prompt.background)
    )
