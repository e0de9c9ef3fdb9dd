"""Differences between Label Studio and this instance: report them and repair those that a rule covers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.errors import NotFound
from curation.labeling import annotations as answers
from curation.labeling import projects, tasks
from curation.labeling.port import Project, RemoteTask
from curation.labeling.sync import LabelingSync, is_restored


@dataclass(frozen=True)
class Difference:
    """One thing that differs: its kind, what it concerns, a sentence, and whether `mend` can do something about it."""

    kind: str
    round: int
    candidate: uuid.UUID | None
    number: int | None  # the desk's own for the posting
    told: str
    mendable: bool = True


def compare(exchange: LabelingSync, number: int | None = None) -> list[Difference]:
    """Read both sides whole, of a round or of all, and tell what differs; nothing is changed. Raises Unreachable."""
    found: list[Difference] = []
    with exchange.database.transaction() as tx:
        standing = projects.made_boards(tx, exchange.desk.address, number)
        open_ = {board.id for board in projects.open_boards(tx, exchange.desk.address, number)}
    for board in standing:
        try:
            reading = exchange.desk.collect(board, None, repair=False)
            seen = list(reading.seen)
        except NotFound:
            if board.id in open_:
                told = f"board {board.number} of round {board.round} is there no longer"
                found.append(Difference("board", board.round, None, board.number, told))
            continue
        if reading.trouble:
            mendable = not board.trouble  # what was refused before, people have to make possible
            found.append(
                Difference("board", board.round, None, board.number, reading.trouble, mendable)
            )
        with exchange.database.transaction(one_view=True) as tx:
            found += _differences(tx, exchange, board, seen, restored=is_restored(board, reading))
    found += _elsewhere(exchange, number)
    with exchange.database.transaction() as tx:
        for round_, count in tasks.count_not_up(tx, number).items():
            told = f"{count} candidates of round {round_} wait and are not there"
            found.append(Difference("waiting", round_, None, None, told))
    return found


def mend(exchange: LabelingSync, number: int | None = None) -> None:
    """Make both sides equal, as far as rules go: a decision that was made stands, whatever the desk has forgotten.

    What people must look at (refused answers, what others put there) is left as it is. Raises Unreachable.
    """
    differences = compare(exchange, number)
    _take_in_elsewhere(exchange, number)
    exchange.collect(number, everything=True)
    with exchange.database.transaction() as tx:
        standing = projects.made_boards(tx, exchange.desk.address, number)
    going = {one.candidate: one.number for one in differences if one.kind == "forgotten"}
    for board in standing:
        with exchange.database.transaction() as tx:
            rows = tx.execute(_POSTINGS, {"board": board.id}).all()
        down = {
            row.id: [row.number] for row in rows if going.get(row.candidate_id, -1) == row.number
        }
        if down:
            exchange.desk.take_down(board, down)
            with exchange.database.transaction() as tx:
                tasks.note_down(tx, down)
    for touched in sorted({one.round for one in differences} | {board.round for board in standing}):
        exchange.put_up(touched)


def _elsewhere(exchange: LabelingSync, number: int | None) -> Iterator[Difference]:
    """Projects that are no board of this instance and hold postings of it, with answers that are not known here."""
    for other in exchange.desk.elsewhere(_known(exchange)):
        seen = list(other.seen)
        with exchange.database.transaction() as tx:
            rounds = {row.id: row.round_id for row in tx.execute(_ROUNDS, {"ids": _ids(seen)})}
            if not rounds or (number is not None and number not in rounds.values()):
                continue
            unheard = sum(_is_unheard(tx, one) for one in seen if one.posting in rounds)
        told = f"project {other.number} ({other.title}) holds {len(rounds)} of our tasks and is none of our boards"
        of = min(rounds.values())
        if unheard:
            told = f"{told}; {unheard} of them say something that is not known here"
        yield Difference("elsewhere", of, None, other.number, told, mendable=bool(unheard))


def _take_in_elsewhere(exchange: LabelingSync, number: int | None) -> None:
    """Bring home what was said at projects that are no board of this instance; they are left as they are."""
    for other in exchange.desk.elsewhere(_known(exchange)):
        seen = [one for one in other.seen if one.posting is not None and one.answers]
        with exchange.database.transaction() as tx:
            rounds = {row.id: row.round_id for row in tx.execute(_ROUNDS, {"ids": _ids(seen)})}
        for one in seen:
            if one.posting in rounds and number in {None, rounds[one.posting]}:
                with exchange.database.transaction() as tx:
                    answers.take_in(tx, one)


def _known(exchange: LabelingSync) -> list[tuple[int, datetime | None]]:
    with exchange.database.transaction() as tx:
        standing = projects.made_boards(tx, exchange.desk.address)
    return [(board.number, board.made_at) for board in standing if board.number is not None]


def _ids(seen: Sequence[RemoteTask]) -> list[uuid.UUID]:
    return [one.posting for one in seen if one.posting is not None]


def _is_unheard(tx: Transaction, seen: RemoteTask) -> bool:
    rows = tx.execute(_ANSWERS_TO, {"posting": seen.posting}).all()
    return any(answers.is_news(answers.match(rows, answer), answer) for answer in seen.answers)


def _differences(
    tx: Transaction,
    exchange: LabelingSync,
    board: Project,
    seen: Sequence[RemoteTask],
    *,
    restored: bool,
) -> Iterator[Difference]:
    every = {row.id: row for row in tx.execute(_POSTINGS, {"board": board.id})}
    rows = {id_: row for id_, row in every.items() if row.state != "down"}
    known: dict[uuid.UUID, list[sa.Row[Any]]] = {}
    for answer in tx.execute(_ANSWERS, {"board": board.id}):
        known.setdefault(answer.posting_id, []).append(answer)
    there: dict[uuid.UUID, RemoteTask] = {}
    for one in sorted(seen, key=lambda each: each.number):
        row = rows.get(one.posting) if one.posting else None
        if row is None and one.posting in every:
            gone = every[one.posting]
            yield _of(
                board, gone, "returned", f"{one.number} had been taken down and is there again"
            )
            yield from _unheard(board, gone, one, known.get(gone.id, ()), restored=True)
        elif row is None:
            told = f"{one.number} was not put up by this instance"
            yield Difference("foreign", board.round, None, one.number, told, mendable=False)
        elif row.id in there or row.number not in {None, one.number}:
            yield _of(board, row, "copy", f"it is there twice, as {row.number} and {one.number}")
        else:
            there[row.id] = one
            if exchange.is_stale(one):
                yield _of(
                    board,
                    row,
                    "stale",
                    "it is shown there from an address where this instance is no longer",
                )
            yield from _unheard(board, row, one, known.get(row.id, ()), restored=restored)
    unwanted = tasks.unwanted(tx, board)
    for row in rows.values():
        if row.id not in there and row.number is not None:
            yield _of(
                board,
                row,
                "missing",
                "it is there no longer; decisions stand, and what waits is put up again",
            )
        elif row.id in unwanted:
            yield _of(board, row, "open", f"it is {row.candidate_state} here and still shown there")
    for answer in (one for several in known.values() for one in several if not one.gone):
        row = every[answer.posting_id]
        if answer.refused:
            told = f"{answer.person} said {answer.said['verdict']}, refused: {answer.refused}"
            yield _of(board, row, "refused", told, mendable=False)
        elif answer.decision_id is None:
            yield _of(
                board,
                row,
                "pending",
                "its answer waits until nobody looks at it here",
                mendable=False,
            )


def _unheard(
    board: Project,
    row: sa.Row[Any],
    seen: RemoteTask,
    known: Sequence[sa.Row[Any]],
    *,
    restored: bool,
) -> Iterator[Difference]:
    """Answers that are there and unknown here, and the other way round."""
    found = set()
    for answer in seen.answers:
        mine = answers.match(known, answer)
        if mine is not None:
            found.add(mine.id)
        if answers.is_news(mine, answer):
            yield _of(
                board,
                row,
                "unheard",
                f"{answer.person} said {answer.verdict or 'something else'} there",
            )
        elif (
            mine is not None
            and row.state != "down"
            and (mine.gone or mine.said != answers.said_of(answer))
        ):
            yield _of(
                board,
                row,
                "forgotten",
                f"the desk shows what {mine.author} has changed or deleted since",
            )
    for mine in known:
        if mine.id in found or mine.gone or mine.decision_id is None or row.state == "down":
            continue
        if not answers.is_of(mine, row, seen):
            continue
        older = row.seen_at is not None and seen.at <= row.seen_at
        if (
            restored
            or older
            or mine.forgotten
            or any(one.number == mine.number for one in seen.answers)
        ):
            told = f"the desk has forgotten what {mine.person} said, as after a restored backup; the decision stands"
            yield _of(board, row, "forgotten", told)
        else:
            yield _of(board, row, "unheard", f"{mine.person} took an answer back there")


def _of(
    board: Project, row: sa.Row[Any], kind: str, told: str, *, mendable: bool = True
) -> Difference:
    told = f"candidate {row.candidate_id}: {told}"
    return Difference(kind, board.round, row.candidate_id, row.number, told, mendable)


_POSTINGS = sa.text("""
    select p.id, p.candidate_id, p.number, p.seen_at, p.state, c.state as candidate_state
    from desk_postings p join candidates c on c.id = p.candidate_id
    where p.board_id = :board order by p.number""")

_ANSWERS = sa.text("""
    select a.* from desk_answers a join desk_postings p on p.id = a.posting_id
    where p.board_id = :board order by a.said_at, a.number""")

_ANSWERS_TO = sa.text("select * from desk_answers where posting_id = :posting")

_ROUNDS = sa.text("""
    select p.id, b.round_id from desk_postings p join desk_boards b on b.id = p.board_id
    where p.id = any(:ids)""").bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
