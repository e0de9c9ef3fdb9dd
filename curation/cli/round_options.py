"""Options of the commands for rounds, and parsing of a round's policy."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from curation.cli.output import MAX_ID
from curation.domain import ConsensusRule

Overlap = Annotated[
    int,
    typer.Option(help="Number of people who independently review each candidate.", min=1, max=15),
]
HowDecided = Annotated[
    ConsensusRule | None,
    typer.Option("--rule", help="How several verdicts are combined; 'single' with overlap 1."),
]
Certainty = Annotated[
    float | None,
    typer.Option(
        help="Minimum share or probability of a verdict; below it an adjudicator decides.",
        min=0,
        max=1,
    ),
]
RuleReviewerVotes = Annotated[
    bool,
    typer.Option(
        "--rule-reviewer-votes",
        help="With overlap, count the rule reviewer as one vote; otherwise it decides alone.",
    ),
]
Number = Annotated[
    int, typer.Argument(help="The round's number, as 'round list' shows it.", max=MAX_ID)
]


class Policy(StrEnum):
    """The policies that choose which candidates people review."""

    random = "random"
    mixed = "mixed"
    paper = "paper"


class RoundReviewer(StrEnum):
    """The reviewers of a round."""

    person = "person"
    rules = "rules"


class GuardChoice(StrEnum):
    """What a loop does when a round lost diversity."""

    stop = "stop"
    mix = "mix"
    off = "off"


GUARD_OPTION = typer.Option(
    help="When a round lost diversity: 'mix' raises the share of seeds in the next training, "
    "'stop' pauses the loop."
)


def read_rules(kind: str, share: float | None, given: Sequence[str]) -> dict[str, Any]:
    """Parse a policy from its options, without checking the values.

    Args:
        kind: The name of the policy.
        share: The share of candidates that people review, None for the policy's default.
        given: Parameters as NAME=VALUE words.

    Returns:
        The policy as it is stored with a round.

    Raises:
        Refused: A word is not NAME=VALUE with a number.
    """
    from curation.errors import Refused

    rules: dict[str, Any] = {"kind": kind} | ({} if share is None else {"share": share})
    for word in given:
        name, _, value = word.partition("=")
        try:
            rules[name.strip()] = int(value) if value.strip().isdigit() else float(value)
        except ValueError as error:
            raise Refused(
                f"{word!r} is not a policy parameter", "for example --set random=0.2"
            ) from error
    return rules
