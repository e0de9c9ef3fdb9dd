"""Drift: where a desk of other software and this house differ, told in sentences, and mended where a rule says how."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from curation.database import Transaction
from curation.desk import boards, postings
from curation.desk.answers import said_of
from curation.desk.door import Board, Seen
from curation.desk.exchange import Exchange
from curation.errors import NotFound


@dataclass(frozen=True)
class Difference:
    """One thing that differs: its kind, what it concerns, a sentence, and whether `mend` can do something about it."""

    kind: str
    round: int
    candidate: uuid.UUID | None
    number: int | None  # the desk's own for the posting
    told: str
    mendable: bool = True


def compare(exchange: Exchange, number: int | None = None) -> list[Difference]:
    """Read both sides whole, of a round or of all, and tell what differs; nothing is changed. Raises Unreachable."""
    found: list[Difference] = []
    with exchange.database.transaction() as tx:
        standing = boards.open_boards(tx, exchange.desk.address, number)
    for board in standing:
        try:
            seen = list(exchange.desk.collect(board, None)[1])
        except NotFound:
            told = f"board {board.number} of round {board.round} is there no longer"
            found.append(Difference("board", board.round, None, board.number, told))
            continue
        with exchange.database.transaction(one_view=True) as tx:
            found += _differences(tx, exchange, board, seen)
    with exchange.database.transaction() as tx:
        for round_, count in postings.count_not_up(tx, number).items():
            told = f"{count} candidates of round {round_} wait and are not there"
            found.append(Difference("waiting", round_, None, None, told))
    return found


def mend(exchange: Exchange, number: int | None = None) -> None:
    """Make both sides equal, as far as rules go: a decision that was made stands, whatever the desk has forgotten.

    What people must look at (refused answers, what others put there) is left as it is. Raises Unreachable.
    """
    differences = compare(exchange, number)
    exchange.collect(number, everything=True)
    with exchange.database.transaction() as tx:
        standing = boards.open_boards(tx, exchange.desk.address, number)
    going = {one.candidate: one.number for one in differences if one.kind == "forgotten"}
    for board in standing:
        with exchange.database.transaction() as tx:
            rows = tx.execute(_POSTINGS, {"board": board.id}).all()
        down = {row.id: [row.number] for row in rows if going.get(row.candidate_id, -1) == row.number}
        if down:
            exchange.desk.take_down(board, down)
            with exchange.database.transaction() as tx:
                postings.note_down(tx, down)
    for touched in sorted({one.round for one in differences} | {board.round for board in standing}):
        exchange.put_up(touched)


def _differences(tx: Transaction, exchange: Exchange, board: Board, seen: Sequence[Seen]) -> Iterator[Difference]:
    rows = {row.id: row for row in tx.execute(_POSTINGS, {"board": board.id})}
    known: dict[uuid.UUID, list[sa.Row[Any]]] = {}
    for answer in tx.execute(_ANSWERS, {"board": board.id}):
        known.setdefault(answer.posting_id, []).append(answer)
    there: dict[uuid.UUID, Seen] = {}
    for one in sorted(seen, key=lambda each: each.number):
        row = rows.get(one.posting) if one.posting else None
        if row is None:
            told = f"{one.number} was not put up by this house, or has been taken down"
            yield Difference("foreign", board.round, None, one.number, told, mendable=False)
        elif row.id in there or row.number not in {None, one.number}:
            yield _of(board, row, "copy", f"it is there twice, as {row.number} and {one.number}")
        else:
            there[row.id] = one
            if row.state == "up" and exchange.is_stale(one):
                yield _of(board, row, "stale", "it is shown there from an address where this house is no longer")
            yield from _unheard(board, row, one, {answer.number: answer for answer in known.get(row.id, ())})
    unwanted = postings.unwanted(tx, board)
    for row in rows.values():
        if row.id not in there and row.number is not None:
            yield _of(board, row, "missing", "it is there no longer; decisions stand, and what waits is put up again")
        elif row.id in unwanted:
            yield _of(board, row, "open", f"it is {row.candidate_state} here and still shown there")
    for answer in (one for several in known.values() for one in several if not one.gone):
        row = rows[answer.posting_id]
        if answer.refused:
            told = f"{answer.person} said {answer.said['verdict']}, refused: {answer.refused}"
            yield _of(board, row, "refused", told, mendable=False)
        elif answer.decision_id is None:
            yield _of(board, row, "pending", "its answer waits until nobody looks at it here", mendable=False)


def _unheard(board: Board, row: sa.Row[Any], seen: Seen, known: Mapping[int, sa.Row[Any]]) -> Iterator[Difference]:
    """Answers that are there and unknown here, and the other way round."""
    for answer in seen.answers:
        mine = known.get(answer.number)
        if mine is None or mine.gone or mine.said != said_of(answer):
            yield _of(board, row, "unheard", f"{answer.person} said {answer.verdict or 'something else'} there")
    lost = set(known) - {answer.number for answer in seen.answers}
    for mine in (known[number] for number in sorted(lost)):
        if mine.gone or mine.decision_id is None:
            continue
        if row.seen_at is not None and seen.at <= row.seen_at:
            told = f"the desk has forgotten what {mine.person} said, as after a restored backup; the decision stands"
            yield _of(board, row, "forgotten", told)
        else:
            yield _of(board, row, "unheard", f"{mine.person} took an answer back there")


def _of(board: Board, row: sa.Row[Any], kind: str, told: str, *, mendable: bool = True) -> Difference:
    told = f"candidate {row.candidate_id}: {told}"
    return Difference(kind, board.round, row.candidate_id, row.number, told, mendable)


_POSTINGS = sa.text("""
    select p.id, p.candidate_id, p.number, p.seen_at, p.state, c.state as candidate_state
    from desk_postings p join candidates c on c.id = p.candidate_id
    where p.board_id = :board and p.state <> 'down' order by p.number""")

_ANSWERS = sa.text("""
    select a.* from desk_answers a join desk_postings p on p.id = a.posting_id
    where p.board_id = :board and p.state <> 'down' order by a.said_at, a.number""")
