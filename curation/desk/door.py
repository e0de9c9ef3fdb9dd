"""The door of desks that are other software: what we show there, and what we find there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from curation.domain import Kind, LayerRole, RejectReason, Said, Verdict


@dataclass(frozen=True)
class Board:
    """The place of a round's candidates there; `number` is the desk's own for it, None until it is made.

    `overlap` is how many people are to answer each posting.
    """

    id: uuid.UUID
    round: int
    part: int
    kind: Kind
    number: int | None
    overlap: int = 1


@dataclass(frozen=True)
class Posting:
    """One candidate as it is put up: its texts, an address for each layer, and a score: the lowest is first."""

    id: uuid.UUID
    candidate: uuid.UUID
    prompt: str
    texts: Mapping[LayerRole, str]
    layers: Mapping[LayerRole, str]
    score: float


@dataclass(frozen=True)
class Answer:
    """What a person said there of a posting; `fault` is a sentence where it cannot be read as a verdict.

    `number` and `at` (by the desk's clock) are the desk's own; `person` is the e-mail address of who said it.
    """

    number: int
    person: str
    at: datetime
    verdict: Verdict | None
    reasons: Sequence[RejectReason] = ()
    layers: Sequence[LayerRole] = ()
    comment: str = ""
    seconds: float | None = None
    fault: str = ""


@dataclass(frozen=True)
class Seen:
    """A posting as it is found there, with all its answers; `posting` is None where it was not put up by us.

    `layers` are the addresses from which it is shown there.
    """

    number: int
    posting: uuid.UUID | None
    at: datetime
    answers: Sequence[Answer] = field(default=())
    layers: Mapping[LayerRole, str] = field(default_factory=dict)


Placed = tuple[int, Mapping[uuid.UUID, int]]
"""The desk's numbers of a board and of postings, by their ids."""


class ReviewDesk(Protocol):
    """A desk of other software. Every method raises Unreachable where it does not answer."""

    address: str

    def put_up(self, board: Board, batch: uuid.UUID, postings: Sequence[Posting]) -> Placed:
        """Show postings on a board, made if need be.

        Whoever was cut off calls again with the same batch: what of it is there already is not put up twice, but is
        shown from now on as it is given here. Raises NotFound where the board is gone.
        """

    def collect(self, board: Board, since: datetime | None) -> tuple[int, Iterator[Seen]]:
        """How many postings a board has, and what changed since a time of the desk's clock; None: all.

        Raises NotFound where the board is gone.
        """

    def take_down(self, board: Board, postings: Mapping[uuid.UUID, Sequence[int]]) -> None:
        """Show postings no longer, by their ids and numbers; one whose number is another's by now is left alone."""

    def answer(self, number: int, person: str, key: uuid.UUID, said: Said) -> None:
        """Say something of a posting in somebody's name, as the oracle does; the same key again changes nothing."""
